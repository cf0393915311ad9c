"""What a capture becomes: a sheet of Gaussians that lie as captures do, and of what `main2.py --from-splats` makes of them.

python main.py --config configs/micro.yaml input=test_data/robot_rgba.png outdir=out save_path=robot
python scripts/make_capture_sheet.py out/robot_model.ply docs/images/capture.png

The capture is made of the given file: a floor is put under the object, both are laid Z-up, made 7 times as large, moved off-centre,
and strewn with floaters, faint Gaussians and huge ones. Rows: the capture as it lies; its mesh with up=y clean=false, which takes
the Gaussians as they are; its mesh as main2.py makes it.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from cam_utils import fitting_distance, turntable  # noqa: E402
from microdreamer.gaussians.captures import extent_of, turn_to_y  # noqa: E402
from microdreamer.gaussians.model import GaussianModel  # noqa: E402
from microdreamer.gaussians.rotation import turned  # noqa: E402
from microdreamer.gaussians.splat_files import read_splats, write_splats  # noqa: E402
from microdreamer.images.writing import write_sheet  # noqa: E402
from microdreamer.meshes.mesh import Mesh  # noqa: E402
from microdreamer.meshes.model import MeshModel  # noqa: E402
from microdreamer.pipeline.library import mesh_from_gaussians  # noqa: E402

VIEWS, SIZE, ELEVATION = 4, 256, -20.0
SCALE, PLACE = 7.0, np.array([60.0, -25.0, 12.0], np.float32)
Parameters = dict[str, np.ndarray]


def of_kind(means: np.ndarray, color: Sequence[float], opacity: float, scale: float, harmonics: int) -> Parameters:
    """Round Gaussians at `means` [N,3], all alike."""
    count = len(means)
    parameters = {
        "means": means,
        "sh_dc": np.tile((np.array(color) - 0.5) / 0.2820948, (count, 1, 1)),
        "sh_rest": np.zeros((count, harmonics, 3)),
        "opacity_logits": np.full(count, np.log(opacity / (1 - opacity))),
        "log_scales": np.full((count, 3), np.log(scale)),
        "quaternions": np.tile([1.0, 0, 0, 0], (count, 1)),
    }
    return {name: values.astype(np.float32) for name, values in parameters.items()}


def capture_of(parameters: Parameters, rng: np.random.Generator) -> Parameters:
    """The object as a capture has it."""
    rest = parameters["sh_rest"].shape[1]
    center, reach = extent_of(parameters)
    lowest = np.quantile(parameters["means"][:, 1], 0.005)
    ground = rng.uniform(-1.3, 1.3, (2500, 3)) * reach + center
    ground[:, 1] = lowest - 0.02 * reach
    far = rng.normal(size=(60, 3)) * 5 * reach
    fog, sky = rng.normal(size=(200, 3)) * 40 * reach, rng.normal(size=(6, 3)) * reach
    parts = [
        parameters,
        of_kind(ground, (0.55, 0.5, 0.4), 0.95, 0.035 * reach, rest),
        of_kind(far, (0.2, 0.6, 0.3), 0.9, 0.05 * reach, rest),
        of_kind(fog, (0.7, 0.7, 0.8), 0.004, 0.3 * reach, rest),
        of_kind(sky, (0.6, 0.7, 0.9), 0.15, 1.5 * reach, rest),
    ]
    scene = {name: np.concatenate([part[name] for part in parts]) for name in parameters}
    lying = turned(scene, turn_to_y("z").T)  # +y of the object becomes +z
    lying["means"] = lying["means"] * np.float32(SCALE) + PLACE
    lying["log_scales"] = lying["log_scales"] + np.float32(np.log(SCALE))
    return lying


def views(model: GaussianModel | MeshModel, reach: float) -> Tensor:
    """Pictures [V,3,S,S] all around what lies within `reach` of the origin."""
    looks = {"elevation": ELEVATION, "radius": fitting_distance(reach), "width": SIZE, "height": SIZE}
    with torch.no_grad():
        return model.render(turntable(VIEWS, **looks), torch.ones(3)).image


def centred(mesh: Mesh) -> Mesh:
    """The mesh around the origin."""
    return dataclasses.replace(mesh, vertices=mesh.vertices - (mesh.vertices.min(0) + mesh.vertices.max(0)) / 2)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gaussians", type=Path, help="a file of the object's Gaussians")
    parser.add_argument("sheet", type=Path, help="the picture to write")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    rng = np.random.default_rng(0)
    capture = capture_of(read_splats(options.gaussians).parameters, rng)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "capture.ply"
        write_splats(path, capture)
        path.write_bytes(path.read_bytes().replace(b"Vertical Axis: y", b"Vertical Axis: ?"))  # captures seldom say
        extent = extent_of(capture)
        middle = capture | {"means": capture["means"] - extent.center.astype(np.float32)}
        rows.append(views(GaussianModel.from_arrays(middle), 1.2 * extent.reach))
        for keys in ({"up": "y", "clean": False}, {}):
            mesh = centred(mesh_from_gaussians(path, keys))
            rows.append(views(MeshModel(mesh), float(np.linalg.norm(mesh.vertices, axis=1).max())))
            print(f"{keys or 'as main2.py does it'}: {len(mesh.faces)} faces", file=sys.stderr)
    write_sheet(options.sheet, torch.cat(rows), columns=VIEWS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
