"""Materials of Wavefront OBJ files: colours, pictures and their options.

Kd and Ke are values as pictures hold them (sRGB), as the programs that write these files mean them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from microdreamer.images.colour import srgb_to_linear
from microdreamer.meshes.formats import pictures
from microdreamer.meshes.surface import CLAMP, REPEAT, Material, Texture

# Greys that programs write beside a picture whatever the picture (Blender, 3ds Max, none), and that no viewer is meant to darken it by.
DEFAULT_GREYS = (0.0, 0.588, 0.64, 0.8)
CUTOFF = 0.5  # of map_d
_OPTIONS = {
    **{"-blendu": 1, "-blendv": 1, "-boost": 1, "-bm": 1, "-cc": 1, "-clamp": 1, "-imfchan": 1, "-texres": 1, "-type": 1, "-colorspace": 1},
    **{"-mm": 2, "-s": 3, "-o": 3, "-t": 3},
}
Picture = tuple[np.ndarray, np.ndarray | None]  # pixels and alpha, as of `pictures.decoded`
_NUMBERS = ("-s", "-o", "-t")  # one to three of them


@dataclasses.dataclass
class MapStatement:
    """The value of a `map_Kd` line: u and v are multiplied by `scale`, then moved by `offset`."""

    name: str
    scale: np.ndarray
    offset: np.ndarray
    clamp: bool


@dataclasses.dataclass
class ObjMaterial:
    """A material as an OBJ uses it: what its faces show, and what their texture coordinates are changed by before."""

    shown: Material
    scale: np.ndarray = dataclasses.field(default_factory=lambda: np.ones(2))
    offset: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(2))


def parsed_map(text: str) -> MapStatement:
    """Options and name of `-s 2 2 1 -clamp on a name.png`; options that are unknown are taken for part of the name."""
    words, numbers = text.split(), {"-s": [1.0, 1.0], "-o": [0.0, 0.0]}
    clamp, place = False, 0
    while place < len(words) - 1 and (option := words[place].lower()) in _OPTIONS:
        place += 1
        if option in _NUMBERS:
            found = []
            while len(found) < 3 and place < len(words) - 1 and _is_number(words[place]):
                found.append(float(words[place]))
                place += 1
            if option in numbers:
                numbers[option] = [*found, *numbers[option][len(found) :]][:2]
        else:
            clamp = words[place].lower() == "on" if option == "-clamp" else clamp
            place += _OPTIONS[option]
    name = text
    for word in words[:place]:  # the name as it stands, with its own spaces
        name = name.lstrip()[len(word) :]
    return MapStatement(name.strip(), np.array(numbers["-s"]), np.array(numbers["-o"]), clamp)


def _is_number(word: str) -> bool:
    try:
        return np.isfinite(float(word))
    except ValueError:
        return False


def lines_of(text: str) -> list[str]:
    """The lines of a text. Not all that str.splitlines takes for an end of a line is one: names may hold such signs."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def read_mtl(text: str, folders: list[Path], used: set[str]) -> dict[str, ObjMaterial]:
    """Those materials of a library that are `used`, by the names used; of the others nothing is asked.

    A name that is not there as it stands may be there in letters of another case. Raises ValueError for a picture that is not there
    or cannot be read.
    """
    statements: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    for line in lines_of(text):
        key, _, value = line.strip().replace("\t", " ").partition(" ")
        if key.lower() == "newmtl":
            current = statements.setdefault(value.strip(), {})
        elif key and not key.startswith("#"):
            current[key.lower()] = value.strip()
    known: dict[str, Picture] = {}

    def picture(name: str) -> Picture:
        if name not in known:
            known[name] = _picture(name, folders)
        return known[name]

    in_any_case = {name.casefold(): lines for name, lines in reversed(statements.items())}
    found = {name: statements.get(name, in_any_case.get(name.casefold())) for name in sorted(used)}
    return {name: _material(lines, picture) for name, lines in found.items() if lines is not None}


def _material(lines: dict[str, str], picture: Callable[[str], Picture]) -> ObjMaterial:
    diffuse = _color(lines.get("kd", ""))
    stated = diffuse is not None
    color = np.ones(4)
    color[:3] = srgb_to_linear(diffuse.clip(0, 1)) if stated else 1
    key = next((key for key in ("map_kd", "map_ke", "map_ka") if lines.get(key)), None)
    if key is None:
        light = _color(lines.get("ke", ""))
        emission = np.zeros(3) if light is None else srgb_to_linear(light.clip(0, 1))
        return ObjMaterial(Material(color, emission=emission, stated=stated))
    statement = parsed_map(lines[key])
    pixels, alpha = picture(statement.name)
    cutoff = None
    if lines.get("map_d"):
        mask, mask_alpha = picture(parsed_map(lines["map_d"]).name)
        mask = mask[..., 0] if mask_alpha is None else mask_alpha
        pixels, alpha, cutoff = *_of_one_size(pixels, mask), CUTOFF
    if key != "map_kd" or (stated and np.ptp(diffuse) < 0.004 and np.abs(diffuse[0] - np.array(DEFAULT_GREYS)).min() < 0.004):
        color[:3] = 1
    wrap = (CLAMP, CLAMP) if statement.clamp else (REPEAT, REPEAT)
    return ObjMaterial(Material(color, Texture(pixels, alpha, wrap), cutoff=cutoff), statement.scale, statement.offset)


def _of_one_size(pixels: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [H,W,3] and a mask [h,w] with as many texels as the larger of both has."""
    height, width = max(pixels.shape[:2], mask.shape, key=lambda shape: shape[0] * shape[1])
    sized = (picture if picture.shape[:2] == (height, width) else _resized(picture, width, height) for picture in (pixels, mask))
    return tuple(sized)


def _resized(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


def _color(text: str) -> np.ndarray | None:
    """Three numbers, or one for all three; None for anything else (a spectrum's file, nothing)."""
    words = text.split()[:3]
    if not words or not all(_is_number(word) for word in words):
        return None
    values = [float(word) for word in words]
    return np.array(values if len(values) == 3 else [values[0]] * 3)


def _picture(name: str, folders: list[Path]) -> Picture:
    remedy = "restore it or remove the line that names it (map_Kd) from the material"
    path = pictures.find_file(name, folders)
    if path is None:
        raise ValueError(f"its texture {name[:200]} is not there; {remedy}")
    try:
        return pictures.decoded(path.read_bytes())
    except (ValueError, OSError) as error:
        raise ValueError(f"its texture {name[:200]} is no picture that can be read ({error}); {remedy}") from error
