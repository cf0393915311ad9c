"""A labelled sheet that compares what the stages made: three views each of the Gaussians, the coarse mesh and the refined mesh.

python scripts/make_stages_sheet.py --out docs/images/stages.jpg logs/duck logs/drum
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from PIL import Image, ImageDraw

from cam_utils import FOV_Y, RADIUS, orbit_cameras
from microdreamer.core.files import atomic_write
from microdreamer.gaussians.model import GaussianModel
from microdreamer.images.writing import to_bytes
from microdreamer.meshes.files import read_mesh
from microdreamer.meshes.model import MeshModel

AZIMUTHS = (0.0, 100.0, 215.0)
LABEL, GAP = 16, 12  # px above each strip, and between the stages


def strip(stem: Path, size: int, elevation: float) -> Image.Image:
    """Three views of each stage's result side by side, with the name above. `stem` is `outdir/NAME`."""
    cameras = orbit_cameras(elevation, AZIMUTHS, RADIUS, fov_y=FOV_Y, width=size, height=size)
    stages = [GaussianModel.load_ply(f"{stem}_model.ply"), *(MeshModel(read_mesh(f"{stem}_{kind}.glb")) for kind in ("model", "refined"))]
    picture = Image.new("RGB", (len(stages) * (len(AZIMUTHS) * size + GAP), size + LABEL), "white")
    for number, stage in enumerate(stages):
        with torch.no_grad():
            views = stage.render(cameras, torch.ones(3)).image
        picture.paste(Image.fromarray(np.concatenate(list(to_bytes(views)), axis=1)), (number * (len(AZIMUTHS) * size + GAP), LABEL))
    ImageDraw.Draw(picture).text((4, 2), f"{stem.name}: Gaussians | coarse mesh | refined mesh", fill="black")
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stems", nargs="+", type=Path, help="outdir/NAME of runs of both stages")
    parser.add_argument("--out", type=Path, required=True, help="picture to write (.jpg or .png)")
    parser.add_argument("--size", type=int, default=176, help="pixels a view")
    parser.add_argument("--elevation", type=float, default=-10.0, help="of the views; negative looks from above")
    args = parser.parse_args()
    strips = [strip(stem, args.size, args.elevation) for stem in args.stems]
    sheet = Image.new("RGB", (strips[0].width, sum(picture.height for picture in strips)), "white")
    for number, picture in enumerate(strips):
        sheet.paste(picture, (0, number * picture.height))
    with atomic_write(args.out) as temporary:
        sheet.save(temporary, format="JPEG" if args.out.suffix.lower() in (".jpg", ".jpeg") else "PNG", quality=85)


if __name__ == "__main__":
    main()
