"""A labelled sheet of results: six views of each Gaussian model, several models a row.

python scripts/make_gallery.py --out docs/images/gallery.jpg logs/*_model.ply
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from PIL import Image, ImageDraw

from cam_utils import FOV_Y, turntable
from microdreamer.core.files import atomic_write
from microdreamer.gaussians.model import GaussianModel
from microdreamer.images.writing import to_bytes
from microdreamer.pipeline.results import distance_for

VIEWS = 6
LABEL = 16  # px above each strip


def strip(path: Path, size: int, elevation: float) -> Image.Image:
    """Six views of the model in a PLY file side by side, with the file's name above."""
    model = GaussianModel.load_ply(path)
    cameras = turntable(VIEWS, elevation, distance_for(model.means, FOV_Y), width=size, height=size)
    with torch.no_grad():
        views = model.render(cameras, 1.0).image
    picture = Image.new("RGB", (VIEWS * size, size + LABEL), "white")
    picture.paste(Image.fromarray(np.concatenate(list(to_bytes(views)), axis=1)), (0, LABEL))
    ImageDraw.Draw(picture).text((4, 2), path.name.removesuffix("_model.ply"), fill="black")
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, help="PLY files of Gaussians")
    parser.add_argument("--out", type=Path, required=True, help="picture to write (.jpg or .png)")
    parser.add_argument("--size", type=int, default=128, help="pixels a view")
    parser.add_argument("--columns", type=int, default=2, help="models side by side")
    parser.add_argument("--elevation", type=float, default=-10.0, help="of the views; negative looks from above")
    args = parser.parse_args()
    strips = [strip(path, args.size, args.elevation) for path in args.models]
    width, height = strips[0].size
    rows = -(-len(strips) // args.columns)
    sheet = Image.new("RGB", (width * args.columns, height * rows), "white")
    for number, picture in enumerate(strips):
        sheet.paste(picture, (number // rows * width, number % rows * height))
    with atomic_write(args.out) as temporary:
        sheet.save(temporary, format="JPEG" if args.out.suffix.lower() in (".jpg", ".jpeg") else "PNG", quality=85)


if __name__ == "__main__":
    main()
