"""How well the methods of the cut-out find an object whose true mask is known, and how long they take, as a table; and a sheet of them.

    python benchmarks/cutouts.py IMAGES [--sheet docs/cutouts.jpg]

IMAGES holds cut-out objects (*_rgba.png) and with_background/ with photographs and composites (NAME.png beside NAME_mask.png). Each
object is pasted over backgrounds of three kinds with a soft shadow and noise, 448 pixels a side, drawn from a seed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2
import numpy as np
from PIL import Image, ImageOps

from microdreamer.core.files import atomic_write
from microdreamer.images.cutout import EMBEDDED, GRABCUT, Matting, coarse_alpha, cut_out, load_matting
from microdreamer.images.framing import recentre
from microdreamer.images.reading import SUFFIXES, read_image

METHODS = (EMBEDDED, GRABCUT)
SIDE = 448  # pixels of a pasted picture
EDGE = 6  # pixels around the true edge in which the boundary's error is measured
TEXTURES, PHOTOS = ("brick", "grass", "gravel"), ("chelsea", "coffee", "astronaut")
SHEET_TILE = 200


def pasted(objects: Sequence[Path], seed: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(kind of background, RGB [S,S,3] uint8, true alpha [S,S] in [0,1]) of each object over three backgrounds."""
    import skimage.data

    rng = np.random.default_rng(seed)
    for path in objects:
        rgba = recentre(Image.open(path).convert("RGBA"), SIDE, 1 - rng.uniform(0.45, 0.8))
        shift = rng.integers(-SIDE // 12, SIDE // 12 + 1, 2)
        rgba = np.roll(np.asarray(rgba, dtype=np.float32) / 255, shift, (0, 1))
        alpha = rgba[..., 3:]
        for kind in ("even", "texture", "photo"):
            backdrop = _backdrop(kind, rng, skimage.data)
            shadow = cv2.GaussianBlur(np.roll(alpha[..., 0], (SIDE // 30, SIDE // 40), (0, 1)), (0, 0), SIDE / 40)[..., None]
            picture = backdrop * (1 - 0.35 * shadow) * (1 - alpha) + rgba[..., :3] * alpha
            picture += rng.normal(0, 0.01, picture.shape)
            yield kind, np.round(picture.clip(0, 1) * 255).astype(np.uint8), alpha[..., 0]


def _backdrop(kind: str, rng: np.random.Generator, samples: object) -> np.ndarray:
    """RGB [S,S,3] in [0,1]: a wall over a floor, a real texture in a tint, or a part of a photograph."""
    if kind == "even":
        wall, floor = rng.uniform(0.25, 0.95, (2, 1, 1, 3)) * 0.5 + rng.uniform(0.25, 0.95, (2, 1, 1, 1)) * 0.5
        rows = np.arange(SIDE)[:, None, None] / SIDE
        return np.where(rows < rng.uniform(0.5, 0.8), wall, floor * (0.7 + 0.3 * rows)) * np.ones((1, SIDE, 1))
    name = rng.choice(TEXTURES if kind == "texture" else PHOTOS)
    picture = np.asarray(Image.fromarray(getattr(samples, name)()).convert("RGB"), dtype=np.float32) / 255
    side = int(min(picture.shape[:2]) * rng.uniform(0.7, 1))
    top, left = rng.integers(0, picture.shape[0] - side + 1), rng.integers(0, picture.shape[1] - side + 1)
    part = cv2.resize(picture[top : top + side, left : left + side], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return (part * rng.uniform(0.6, 1, 3)).clip(0, 1) if kind == "texture" else part


def composites(folder: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    for mask in sorted(folder.glob("*_mask.png")):
        picture = Image.open(mask.with_name(mask.name.replace("_mask", ""))).convert("RGB")
        yield "composite", np.asarray(picture), np.asarray(Image.open(mask).convert("L"), dtype=np.float32) / 255


def scores(alpha: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Intersection over union of the masks, and the mean error of alpha within `EDGE` pixels of the true edge."""
    found, expected = alpha > 0.5, truth > 0.5
    overlap = (found & expected).sum() / max((found | expected).sum(), 1)
    reach = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * EDGE + 1,) * 2)
    edge = cv2.morphologyEx(expected.astype(np.uint8), cv2.MORPH_GRADIENT, reach) > 0
    return float(overlap), float(np.abs(alpha - truth)[edge].mean())


def measure(cases: Sequence[tuple[str, np.ndarray, np.ndarray]], matting: Matting) -> dict[str, np.ndarray]:
    """Per kind of picture [N,3]: IoU, error at the edge, seconds of the processor."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    matting(cases[0][1])  # loads what is to be loaded
    for kind, picture, truth in cases:
        start = time.process_time()
        alpha = matting(picture)
        found.setdefault(kind, []).append((*scores(alpha, truth), time.process_time() - start))
    return {kind: np.array(rows) for kind, rows in found.items()}


def without_fitted_edge(rgb: np.ndarray) -> np.ndarray:
    """The embedded network's alpha, only scaled up."""
    return cv2.resize(coarse_alpha(rgb), rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def rows(method: str, found: dict[str, np.ndarray]) -> str:
    """Rows of Markdown: for each kind of picture IoU (mean and median), error at the edge, and seconds."""
    lines = []
    for kind, scored in found.items():
        overlap, edge, seconds = scored.T
        numbers = f"{overlap.mean():.3f} ({np.median(overlap):.3f}) | {edge.mean():.3f} | {np.median(seconds):.1f}"
        lines.append(f"| {method} | {kind} ({len(overlap)}) | {numbers} |")
    return "\n".join(lines)


def write_sheet(path: Path, pictures: Sequence[Path]) -> None:
    """A column a picture: the picture, then what each method cuts out, on a chequered ground; a grey tile where one refuses."""
    sheet = Image.new("RGB", (len(pictures) * SHEET_TILE, (1 + len(METHODS)) * SHEET_TILE), "white")
    for column, source in enumerate(pictures):
        picture = read_image(source).convert("RGB")
        tiles = [picture, *(_cut_out_tile(picture, method) for method in METHODS)]
        for row, tile in enumerate(tiles):
            sheet.paste(ImageOps.pad(tile, (SHEET_TILE - 4,) * 2, color="white"), (column * SHEET_TILE + 2, row * SHEET_TILE + 2))
    with atomic_write(path) as temporary:
        sheet.save(temporary, quality=88)


def _cut_out_tile(picture: Image.Image, method: str) -> Image.Image:
    y, x = np.mgrid[: picture.height, : picture.width] // max(1, max(picture.size) // 16)
    ground = Image.fromarray(np.where(((x + y) % 2)[..., None], np.uint8(225), np.uint8(250)) * np.ones(3, np.uint8)).convert("RGBA")
    try:
        ground.alpha_composite(cut_out(picture, method))
    except ValueError:
        return Image.new("RGB", picture.size, "grey")
    return ground.convert("RGB")


def main() -> None:
    parser = argparse.ArgumentParser(description="Cut-outs compared with true masks.")
    parser.add_argument("images", type=Path, help="folder with *_rgba.png and with_background/")
    parser.add_argument("--sheet", type=Path, help="JPEG to write")
    parser.add_argument("--objects", type=int, help="how many of the objects to paste, evenly spaced (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default: 0)")
    options = parser.parse_args()
    backgrounds = options.images / "with_background"
    if options.sheet:
        write_sheet(options.sheet, [path for path in sorted(backgrounds.iterdir()) if path.suffix in SUFFIXES and "_mask" not in path.name])
    objects = sorted(options.images.glob("*_rgba.png"))
    objects = objects[:: max(1, len(objects) // options.objects)] if options.objects else objects
    cases = [*composites(backgrounds), *pasted(objects, options.seed)]
    print("| method | pictures | IoU mean (median) | error at the edge | seconds |\n| --- | --- | --- | --- | --- |")
    for method in METHODS:
        print(rows(method, measure(cases, load_matting(method))), flush=True)
        if method == EMBEDDED:
            print(rows("embedded, edge not fitted", measure(cases, without_fitted_edge)), flush=True)


if __name__ == "__main__":
    main()
