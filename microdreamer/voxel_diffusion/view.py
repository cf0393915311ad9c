"""Files to look at grids with: an orbit, an isosurface mesh and a sheet of slices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from torch.nn import functional

from microdreamer.core.files import atomic_write
from microdreamer.images.writing import to_bytes, write_sheet
from microdreamer.kernels.marching_cubes import marching_cubes
from microdreamer.meshes.files import write_glb
from microdreamer.meshes.mesh import Mesh
from microdreamer.voxel_diffusion.metrics import THRESHOLD, filled
from microdreamer.voxel_diffusion.render import COLOR, orbit, smooth
from microdreamer.voxel_diffusion.render import slices as slice_pictures

MESH_SIDE = 1.6  # of the grid in the mesh's coordinates, as objects of this project have it
FRAMES, FRAME_MS = 36, 80
SHEET_VIEWS = 8


def isosurface(grid: Tensor) -> Mesh:
    """The closed surface of a grid [n,n,n] of 0..1, centred, axes as the grid's.

    The grid is blurred a little against steps; parts too thin for that keep their own level. Raises ValueError for an empty grid.
    """
    if not bool(filled(grid).any()):
        raise ValueError("the grid is empty, so it has no surface")
    field = smooth(grid[None].float())[0]
    if not bool((field > THRESHOLD).any()):
        field = grid.float()
    size = grid.shape[0]
    vertices, faces = (part.cpu().numpy() for part in marching_cubes(functional.pad(field, [2] * 6) - THRESHOLD))
    vertices = (vertices - 2 + 0.5 - size / 2) * (MESH_SIDE / size)
    return Mesh(vertices, faces, np.broadcast_to(np.array(COLOR, np.float32), vertices.shape))


def write_gif(path: str | Path, frames: Tensor) -> None:
    """Write frames [T,3,H,W] in [0,1] as a GIF that repeats."""
    pictures = [Image.fromarray(frame).quantize(64) for frame in to_bytes(frames)]
    with atomic_write(path) as temporary:
        pictures[0].save(temporary, format="GIF", save_all=True, append_images=pictures[1:], duration=FRAME_MS, loop=0)


def view(grid: Tensor, folder: str | Path, stem: str) -> list[Path]:
    """Write <stem>_orbit.gif, <stem>_orbit.png, <stem>_slices.png and, unless the grid is empty, <stem>.glb; returns their paths."""
    folder = Path(folder)
    frames = orbit(grid, FRAMES)
    paths = [folder / f"{stem}_{name}" for name in ("orbit.gif", "orbit.png", "slices.png")]
    write_gif(paths[0], frames)
    write_sheet(paths[1], frames[:: FRAMES // SHEET_VIEWS][:SHEET_VIEWS], SHEET_VIEWS // 2)
    write_sheet(paths[2], slice_pictures(grid), 4)
    if bool(filled(grid).any()):
        paths.append(folder / f"{stem}.glb")
        write_glb(isosurface(grid), paths[-1])
    return paths
