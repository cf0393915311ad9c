"""The pictures of one object and their cameras, as words say them: `input=front.png,side.png azimuth=0,90`. Needs no PyTorch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from microdreamer.core.files import user_path
from microdreamer.pipeline.config import Config

MOST_PICTURES = 8
SIDES = {90.0: "right", 180.0: "back", 270.0: "left"}  # azimuths among which those that are not given are looked for
APART = 1.0  # degrees between two cameras that count as different


def split_input(text: str, folder: str | Path = "") -> list[str]:
    """The paths in `input=`: one, or several with commas between. Relative ones are looked for in `folder`.

    A comma that belongs to a file's name is known by that file being there; where nothing is, every comma separates.
    """
    folder = Path(folder)

    def exists(name: str) -> bool:
        return bool(name) and (folder / user_path(name)).exists()

    if "," not in text or exists(text):
        return [text]
    words, found, start = text.split(","), [], 0
    while start < len(words):
        end = next((end for end in range(len(words), start, -1) if exists(",".join(words[start:end]))), start + 1)
        name = ",".join(words[start:end])
        found.append(name if exists(name) else name.strip())
        start = end
    return found


def places_of(config: Config, count: int) -> list[tuple[float, float | None]]:
    """Elevation and azimuth of `count` pictures' cameras, in degrees; None for an azimuth that is not known.

    Raises ValueError in one line where other numbers of them are given than there are pictures, or two cameras are one.
    """
    if count == 0:
        for key in ("elevation", "azimuth"):
            if isinstance(given := getattr(config, key), list):
                raise ValueError(f"{key}={_shown(given)}: expected as many pictures in input=, got none")
        return []
    if count > MOST_PICTURES:
        raise ValueError(f"{count} pictures: expected at most {MOST_PICTURES} of one object")
    columns = []
    for key, missing in (("elevation", 0.0), ("azimuth", None)):
        given = getattr(config, key)
        if isinstance(given, list) and len(given) != count:
            raise ValueError(f"{key}={_shown(given)}: expected {count} numbers, one for each picture, got {len(given)}")
        if key == "azimuth" and given is not None and not isinstance(given, list) and count > 1:
            raise ValueError(f"azimuth={given:g}: expected {count} numbers, one for each picture, got 1")
        if given is None:
            columns.append([0.0] + [missing] * (count - 1))
        else:
            columns.append(given if isinstance(given, list) else [given] * count)
    places = list(zip(*columns, strict=True))
    for (one, (up, turn)), (other, (other_up, other_turn)) in itertools.combinations(enumerate(places, 1), 2):
        if turn is None or other_turn is None:
            continue
        apart = abs((turn - other_turn + 180) % 360 - 180)
        if apart < APART and abs(up - other_up) < APART:
            raise ValueError(f"azimuth={_shown(columns[1])}: pictures {one} and {other} are taken from the same place; leave one out")
    if any(turn is None for _, turn in places) and count > 1 + len(SIDES):
        raise ValueError(f"{count} pictures without azimuths: at most {1 + len(SIDES)} can be told apart; pass azimuth=0,45,...")
    return places


def _shown(numbers: Sequence[float]) -> str:
    return ",".join(f"{number:g}" for number in numbers)
