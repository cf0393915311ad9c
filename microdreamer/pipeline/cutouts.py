"""Photo, or a folder of them, to centred cut-outs: `python process.py photo.jpg` writes photo_rgba.png beside it.

A picture whose alpha is a cut-out keeps it; otherwise the background is removed (see microdreamer/images/cutout.py). In a folder, files
that end in `_rgba.png` are results of this script and left alone; one picture that fails is reported and the rest go on.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from microdreamer.core.command import Parser, exit_code
from microdreamer.core.errors import one_line, user_errors
from microdreamer.core.files import atomic_write, clean_name, user_path
from microdreamer.images.cutout import AUTO, EMBEDDED, GRABCUT, Matting, load_matting, separated
from microdreamer.images.framing import BORDER_RATIO, SIZE, recentre
from microdreamer.images.reading import SUFFIXES, read_image

RESULT_SUFFIX = "_rgba.png"
MODEL_HELP = f"auto, {EMBEDDED} (the network that ships), {GRABCUT}, or a model of rembg such as u2net (default: auto)"
MAX_STEM = 240  # bytes of a picture's name; longer ones have no room for the suffix


def process_file(
    path: Path,
    target: Path,
    model: str | Matting = AUTO,
    size: int = SIZE,
    border_ratio: float = BORDER_RATIO,
    recenter: bool = True,
) -> str | None:
    """Write the cut-out of the picture at `path` to `target`, a PNG, whole or not at all. Returns what there was to say of it, or None.

    Without `recenter` the picture keeps its size and place. Raises FileNotFoundError or ValueError, in one line with the path.
    """
    said: list[str] = []
    image = read_image(path, said.append)
    try:
        found = separated(image, model)
        result = recentre(found.image, size, border_ratio) if recenter else found.image
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if found.done and image.mode == "RGBA":  # that a photograph lost its background is what it came for
        said.append(found.done)
    with atomic_write(target) as temporary:
        result.save(temporary, format="PNG")
    return f"{path}: {'; '.join(said)}" if said else None


def pictures_in(folder: Path) -> list[Path]:
    """The folder's pictures by name, without results of earlier runs; ValueError when there are none."""
    pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    pictures = [path for path in pictures if not path.name.endswith(RESULT_SUFFIX)]
    if not pictures:
        raise ValueError(f"{folder}: expected a folder with pictures, found none but {RESULT_SUFFIX} files ({', '.join(sorted(SUFFIXES))})")
    return pictures


def target_of(path: Path, out: Path | None) -> Path:
    """foo.jpg -> foo_rgba.png, beside it or in the folder `out`; a foo_rgba.png given by name stays foo_rgba.png."""
    stem = path.stem.removesuffix("_rgba")
    return (out or path.parent) / f"{stem if len(os.fsencode(stem)) <= MAX_STEM else clean_name(stem)}{RESULT_SUFFIX}"


def _targets(pictures: Sequence[Path], out: Path | None) -> dict[Path, Path]:
    """Result of each picture; ValueError where two would be written to one file (foo.jpg and foo.png)."""
    sources: dict[Path, Path] = {}
    for path in pictures:
        if other := sources.get(target := target_of(path, out)):
            raise ValueError(f"{other} and {path.name} would both be written to {target}; rename one")
        sources[target] = path
    return {path: target for target, path in sources.items()}


def _matting(model: str) -> Matting:
    """The named model, loaded now so that a wrong name fails first; "auto" only once a picture without alpha needs it."""
    if model != AUTO:
        return load_matting(model)
    load = functools.cache(load_matting)
    return lambda rgb: load(AUTO)(rgb)


def parse_arguments(arguments: Sequence[str] | None = None, program: str = "process.py") -> argparse.Namespace:
    parser = Parser(prog=program, description="Photo, or a folder of them, to centred cut-outs on a transparent ground.")
    parser.add_argument("input", type=user_path, help="a picture, or a folder of pictures")
    parser.add_argument("--out", type=user_path, help="folder for the results (default: beside each picture)")
    parser.add_argument("--model", default=AUTO, help=MODEL_HELP)
    parser.add_argument("--size", type=int, default=SIZE, help=f"side of the result in pixels (default: {SIZE})")
    parser.add_argument(
        "--border_ratio", type=float, default=BORDER_RATIO, help=f"share of the side left free around the object (default: {BORDER_RATIO})"
    )
    parser.add_argument(
        "--recenter", action=argparse.BooleanOptionalAction, default=True, help="centre and scale the object (default: yes)"
    )
    options = parser.parse_args(arguments)
    if not 1 <= options.size <= 8192:
        parser.error(f"--size: expected 1 to 8192 pixels, got {options.size}")
    if not 0 <= options.border_ratio < 1:
        parser.error(f"--border_ratio: expected a share from 0 to below 1, got {options.border_ratio:g}")
    if options.out and options.out.exists() and not options.out.is_dir():
        parser.error(f"--out: expected a folder, got the file {options.out}")
    return options


def run(options: argparse.Namespace, program: str) -> int:
    """Do all pictures; returns the exit code: 2 when one could not be done."""
    with user_errors():
        pictures = pictures_in(options.input) if options.input.is_dir() else [options.input]
        targets = _targets(pictures, options.out)
        matting = _matting(options.model)
    failed = 0
    for path, target in tqdm(targets.items(), unit="picture", disable=None if len(targets) > 1 else True):
        try:
            said = process_file(path, target, matting, options.size, options.border_ratio, options.recenter)
            if said:
                tqdm.write(said, file=sys.stderr)
            tqdm.write(str(target))
        except (ValueError, OSError) as error:
            failed += 1
            tqdm.write(f"{program}: {one_line(error)}", file=sys.stderr)
    if failed and len(targets) > 1:
        print(f"{program}: {failed} of {len(targets)} pictures failed", file=sys.stderr)
    return 2 if failed else 0


def main(arguments: Sequence[str] | None = None, program: str = "process.py") -> int:
    """See `core.command.exit_code`."""
    return exit_code(program, lambda: run(parse_arguments(arguments, program), program), "scale the pictures down, or lower --size")
