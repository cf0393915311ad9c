"""Photo, or a folder of them, to centred cut-outs: `python process.py photo.jpg` writes photo_rgba.png beside it.

A picture that has alpha keeps it; otherwise the background is removed (see cutout.py). In a folder, files that end in
`_rgba.png` are results of this script and left alone; one picture that fails is reported and the rest go on.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from microdreamer.core.errors import one_line
from microdreamer.core.files import atomic_write
from microdreamer.images.cutout import AUTO, Matting, cut_out, load_matting
from microdreamer.images.reading import SUFFIXES, read_image

__all__ = ["cut_out", "process_file", "recentre"]

VISIBLE = 12  # of 255; fainter alpha does not count as part of the object when it is measured
RESULT_SUFFIX = "_rgba.png"


def recentre(image: Image.Image, size: int = 512, border_ratio: float = 0.2) -> Image.Image:
    """The visible part of an RGBA picture, centred in a transparent square of `size` pixels.

    Its box's longer side becomes round(size * (1 - border_ratio)) pixels. Raises ValueError where nothing is visible.
    """
    visible = np.asarray(image.getchannel("A")) > VISIBLE
    rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    if rows.size == 0:
        raise ValueError(f"expected a picture with something visible in it, got alpha of at most {VISIBLE} of 255 everywhere")
    left, top, right, bottom = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    scale = round(size * (1 - border_ratio)) / max(right - left, bottom - top)
    width, height = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    part = image.crop((left, top, right, bottom)).convert("RGBa")
    if (factor := int(0.25 / scale)) > 1:  # averages first what a longer filter would do slowly
        part = part.reduce(factor)
    scaled = Image.fromarray(_resample(np.asarray(part), width, height))
    canvas = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    canvas.paste(scaled, ((size - width) // 2, (size - height) // 2))
    return canvas


def _resample(premultiplied: np.ndarray, width: int, height: int) -> np.ndarray:
    """Straight RGBA uint8 [height,width,4] from premultiplied [h,w,4], by Lanczos.

    In floats: the filter overshoots at edges in colours and alpha alike, so their ratio is right before either is clipped.
    """
    channels = [Image.fromarray(premultiplied[..., c].astype(np.float32)) for c in range(4)]
    red, green, blue, alpha = (np.asarray(channel.resize((width, height), Image.Resampling.LANCZOS)) for channel in channels)
    colours = np.dstack([red, green, blue]) * (255 / np.maximum(alpha, 0.5))[..., None]
    return np.round(np.clip(np.dstack([colours, alpha]), 0, 255)).astype(np.uint8)


def process_file(
    path: Path, target: Path, model: str | Matting = AUTO, size: int = 512, border_ratio: float = 0.2, recenter: bool = True
) -> None:
    """Write the cut-out of the picture at `path` to `target`, a PNG, whole or not at all.

    Without `recenter` the picture keeps its size and place. Raises FileNotFoundError or ValueError, in one line with the path.
    """
    image = read_image(path)
    try:
        image = cut_out(image, model)
        image = recentre(image, size, border_ratio) if recenter else image
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    with atomic_write(target) as temporary:
        image.save(temporary, format="PNG")


def pictures_in(folder: Path) -> list[Path]:
    """The folder's pictures by name, without results of earlier runs; ValueError when there are none."""
    pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    pictures = [path for path in pictures if not path.name.endswith(RESULT_SUFFIX)]
    if not pictures:
        raise ValueError(f"{folder}: expected a folder with pictures, found none but {RESULT_SUFFIX} files ({', '.join(sorted(SUFFIXES))})")
    return pictures


def target_of(path: Path, out: Path | None) -> Path:
    """foo.jpg -> foo_rgba.png, beside it or in the folder `out`; a foo_rgba.png given by name stays foo_rgba.png."""
    return (out or path.parent) / f"{path.stem.removesuffix('_rgba')}{RESULT_SUFFIX}"


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


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        self.exit(2, f"error: {message} (see --help)\n")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = _Parser(prog="process.py", description=__doc__.splitlines()[0])
    parser.add_argument("input", type=Path, help="a picture, or a folder of pictures")
    parser.add_argument("--out", type=Path, help="folder for the results (default: beside each picture)")
    parser.add_argument("--model", default=AUTO, help="auto, embedded (no download) or a model of rembg such as u2net (default: auto)")
    parser.add_argument("--size", type=int, default=512, help="side of the result in pixels (default: 512)")
    parser.add_argument("--border_ratio", type=float, default=0.2, help="share of the side left free around the object (default: 0.2)")
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 when a picture could not be done."""
    options = parse_arguments(arguments)
    try:
        pictures = pictures_in(options.input) if options.input.is_dir() else [options.input]
        targets = _targets(pictures, options.out)
        matting = _matting(options.model)
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    failed = 0
    for path, target in tqdm(targets.items(), unit="picture", disable=None if len(targets) > 1 else True):
        try:
            process_file(path, target, matting, options.size, options.border_ratio, options.recenter)
            tqdm.write(str(target))
        except (ValueError, OSError) as error:
            failed += 1
            tqdm.write(f"error: {one_line(error)}", file=sys.stderr)
    if failed and len(targets) > 1:
        print(f"{failed} of {len(targets)} pictures failed", file=sys.stderr)
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
