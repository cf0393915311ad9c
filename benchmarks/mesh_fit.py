"""One step of stage 2: 8 views of a textured mesh, loss, backward pass and Adam.

python -m benchmarks.mesh_fit

Before anything is timed the ops that a step is made of are compared with their plain-PyTorch twins on small scenes. Times are of single
steps (benchmarks/timing.py) after 3 that are not counted. The floor of the ops themselves is told by benchmarks/mesh_raster.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from benchmarks.mesh_raster import bumpy_sphere
from benchmarks.mesh_raster import check as check_raster
from benchmarks.rows import Bench, Row
from benchmarks.texture import check as check_texture
from benchmarks.timing import time_calls, write_json
from cam_utils import turntable
from microdreamer.core.machine import best_device, describe, provenance
from microdreamer.kernels import extension
from microdreamer.meshes.mesh import Mesh
from microdreamer.meshes.model import MeshModel
from microdreamer.meshes.texture_fit import Target, fit_surface

LEARNING_RATES = {"texture": 0.0, "texture and vertices": 1e-5}  # of the vertices, by what is fitted
MOST_STEPS = 10_000
TEXEL_PASSES = 6  # value and two moments of Adam, read and written


def steps_of(faces: int, views: int, size: int, texels: int, device: str) -> dict[str, Callable[[], object]]:
    """Steps by what they fit: each call is the next one."""
    vertices, triangles, uvs = (tensor.numpy() for tensor in bumpy_sphere(faces))
    texture = torch.rand(texels, texels, 3, generator=torch.Generator().manual_seed(0)).numpy()
    mesh = Mesh(0.7 * vertices, triangles, uvs=uvs % 1, uv_faces=triangles, texture=texture)
    cameras = turntable(views, width=size, height=size, device=device)
    model = MeshModel(mesh, device)
    with torch.no_grad():
        seen = model.render(cameras)
    target = Target(cameras, seen.image.flip(3).contiguous(), alpha=seen.alpha)
    fits = {what: fit_surface(model, [target], MOST_STEPS, texture_lr=0.02, geom_lr=rate) for what, rate in LEARNING_RATES.items()}
    return {what: partial(next, steps) for what, steps in fits.items()}


def headline(bench: Bench, faces: int, views: int, size: int, texels: int) -> Iterator[Row]:
    """A step for the texture alone, and one for vertices too. Ops are held to their twins on small scenes."""
    check_raster(bench.device)
    check_texture(bench.device)
    least = 4 * (4 * views * size**2 + TEXEL_PASSES * 3 * texels**2)  # the target's colour and alpha, read once
    for what, step in steps_of(faces, views, size, texels, bench.device).items():
        yield bench.row(f"mesh fit step of {what}, about {faces} faces, {views} x {size}^2", step, bytes=least)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default=best_device().type)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--size", type=int, default=512, help="pixels a side of a view")
    parser.add_argument("--faces", type=int, default=50_000, help="about how many")
    parser.add_argument("--texture", type=int, default=1024, help="texels a side")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    if not extension.available(options.device):
        raise SystemExit(f"no compiled {options.device} kernels; {extension.BUILD_HINT}")
    check_raster(options.device)
    check_texture(options.device)
    steps = steps_of(options.faces, options.views, options.size, options.texture, options.device)
    found = provenance(options.device)
    print(describe(found))
    views = f"{options.views} views of {options.size}x{options.size}"
    print(f"{views}, about {options.faces} faces, texture of {options.texture}x{options.texture}; {options.repeats} steps")
    rows = []
    for name, step in steps.items():
        timing = time_calls(step, options.device, options.repeats)
        rows.append({"fits": name, **timing.as_row()})
        print(f"{name:24} {timing.median:8.3f} ms ({timing.p10:.3f} to {timing.p90:.3f})")
    write_json(options.out, found | {"rows": rows})


if __name__ == "__main__":
    main()
