"""Whether a result is one that a run would make again: all its files whole, from the same picture, by the same configuration.

Each result's JSON is put in place last, and tells the SHA-256 of every other file, that of the picture, and the configuration.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from microdreamer.core.files import sha256_of, user_path
from microdreamer.core.staging import finish
from microdreamer.pipeline.config import Config

# Keys that change nothing in a result: where it lies, what it is called, whether it is previewed, whether and how a run is measured, and
# the picture's path, whose bytes are compared instead.
PLACES = frozenset({"input", "outdir", "save_path", "resume", "preview", "profiling"})


def same_result(config: Config) -> dict[str, Any]:
    """The keys of a configuration on which the result depends, as they are read back from JSON."""
    return {key: value for key, value in json.loads(json.dumps(dataclasses.asdict(config))).items() if key not in PLACES}


def digest_of(pictures: Sequence[Path]) -> str | list[str] | None:
    """The SHA-256 of an object's picture, or of each of several; None where one is no file, which is told when it is read."""
    paths = list(map(user_path, pictures))
    if not all(path.is_file() for path in paths):
        return None
    digests = [sha256_of(path) for path in paths]
    return digests[0] if len(digests) == 1 else digests


def whole_record(stem: Path, config: Config, pictures: Sequence[Path]) -> dict[str, Any] | None:
    """The record of the result at `stem`, or None where a run of `config` (its prompt resolved) on `pictures` has to make it.

    What a killed run had left to move is moved first. Files are compared by their SHA-256. The version of the program does not count.
    """
    finish(stem)
    try:
        record = json.loads(Path(f"{stem}.json").read_text(encoding="utf-8"))
        if not isinstance(record, dict) or record.get("complete") is not True or record.get("no_mesh"):
            return None
        made_with, files = record["config"], record["files"]
        if {key: value for key, value in made_with.items() if key not in PLACES} != same_result(config):
            return None
        if record["input_sha256"] is None or record["input_sha256"] != digest_of(pictures):
            return None
        if not files or any(sha256_of(stem.with_name(name)) != digest for name, digest in files.items()):
            return None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None
    return record
