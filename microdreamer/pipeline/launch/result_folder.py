"""Renders of many sentences in one folder: a folder of frames for each, a film beside it, and which sentence is which.

    DIR/prompts.json       folder -> sentence, of all that are to be there
    DIR/record.json        what made them, and where the film's cameras stood
    DIR/a_red_car/000.png  frames, tiles side by side, the picture first
    DIR/a_red_car.mp4      the same as a film

Folders are named as ScaleDreamer's are, whose evaluation reads the sentence back from the name. That alone is ambiguous and loses
punctuation, so that prompts.json has the sentences as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from microdreamer.core.files import atomic_write, clean_name
from microdreamer.images.reading import SUFFIXES

PROMPTS, RECORD = "prompts.json", "record.json"


def published_name(prompt: str) -> str:
    """The folder of a sentence by ScaleDreamer's rule, which gives some sentences the same one and some none that can be made."""
    return prompt.replace(",", "").replace(".", "").replace(" ", "_")


def plain_name(prompt: str) -> str:
    """The published name where that is a file name, else one as near as can be; not of this sentence alone."""
    return clean_name(published_name(prompt)).replace(" ", "_")


def text_of(name: str) -> str:
    """The sentence that ScaleDreamer's evaluation reads from a folder's name: without its commas and full stops."""
    return name.replace("_", " ")


def folder_names(prompts: Iterable[str]) -> dict[str, str]:
    """Folder -> sentence, each sentence once: its plain name, with a number where another has that.

    No two names differ only in case, as some file systems take those for one.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for prompt in dict.fromkeys(prompts):
        plain = name = plain_name(prompt)
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{plain}_{number}"
        taken.add(name.casefold())
        names[name] = prompt
    return names


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all. Raises OSError where it cannot be written."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_prompts(folder: Path) -> dict[str, str] | None:
    """Folder -> sentence as prompts.json says; None without that file. Raises ValueError for one that says something else."""
    names = _read(folder / PROMPTS)
    if names is None:
        return None
    if not names or not all(isinstance(prompt, str) for prompt in names.values()):
        raise ValueError(f'{folder / PROMPTS}: expected {{"folder": "sentence", ...}}; mend it or remove it')
    return names


def read_record(folder: Path) -> dict[str, Any]:
    """What record.json says; nothing without that file. Raises ValueError for one that is damaged."""
    return _read(folder / RECORD) or {}


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON or of UTF-8
        raise ValueError(f"{path}: not JSON ({' '.join(str(error).split())}); mend it or remove it") from None
    if not isinstance(value, Mapping):
        raise ValueError(f"{path}: expected a JSON object, got {type(value).__name__}; mend it or remove it")
    return dict(value)


def frames_of(folder: Path) -> list[Path]:
    """The pictures of a folder in the order of their numbers, 2.png before 10.png."""
    pictures = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    return sorted(pictures, key=lambda path: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)])


def rendered(folder: Path) -> list[Path]:
    """The folders of the sentences whose renders are there, by name. Raises ValueError or OSError where there are none."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; expected one that holds a folder of pictures for each prompt")
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not inner:
        hint = "pass the folder above" if frames_of(folder) else "launch.py --test writes one"
        raise ValueError(f"{folder}: expected a folder of pictures for each prompt, got none; {hint}")
    return inner
