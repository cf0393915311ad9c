"""From a field to a textured mesh: the surface where a density passes a threshold, or a signed distance zero, with the field's colours.

The field is asked twice on a grid, coarsely over its whole box and again over the box of what was found there, and vertices are then
moved along the grid's edges to where the field itself passes the threshold, as densities are anything but linear between points.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from microdreamer.core import profiler
from microdreamer.gaussians.extraction import closed_surface
from microdreamer.kernels.marching_cubes import NEAREST
from microdreamer.meshes import cleaning
from microdreamer.meshes.baking import bake_function, in_chunks, unwrapped
from microdreamer.meshes.mesh import Mesh

Field = Callable[[Tensor], Tensor]  # positions [P,3] -> values [P], or colours [P,3]
Progress = Callable[[str, int, int], None]  # what is done, step, of how many

KINDS = ("density", "sdf")
DENSITY_THRESHOLD = 25.0  # per unit of length; threestudio's
LEAST_DENSITY = 1e-5  # counts for the mean that "auto" takes as threshold
COARSE_RESOLUTION = 128  # the first pass is no finer
GROWTH = 0.1  # of the found surface's box, for the second pass
BISECTIONS = 6  # of a grid's edge, before a last straight step
CHUNK = 1 << 18  # points that are asked for at a time


class Box(NamedTuple):
    """A grid of nodes: `shape` (X,Y,Z) of them from corner `low` to corner `high` [3] float64, both included."""

    low: np.ndarray
    high: np.ndarray
    shape: tuple[int, int, int]

    @classmethod
    def between(cls, low: np.ndarray, high: np.ndarray, resolution: int) -> Box:
        """`resolution` nodes along the longest side, and cells as near to cubes as the other sides allow."""
        cell = (high - low).max() / (resolution - 1)
        x, y, z = (max(2, round(side / cell) + 1) for side in high - low)
        return cls(low, high, (x, y, z))

    def to_world(self, indices: np.ndarray) -> np.ndarray:
        """World positions [P,3] of fractional indices [P,3]; those beyond the outer nodes lie on the box."""
        return np.clip(self.low + indices * (self.high - self.low) / (np.array(self.shape) - 1), self.low, self.high)


@torch.no_grad()
@profiler.function
def mesh_from_field(
    field: Field,
    color: Field,
    *,
    kind: str = "density",
    radius: float = 1.0,
    resolution: int = 256,
    threshold: float | str | None = None,
    faces: int = 50_000,
    texture_size: int | None = 1024,
    unwrap: str = "charts",
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Mesh:
    """The surface of `field` in the box [-radius, radius]^3: closed, edge-manifold, of at most about `faces` faces, with a texture.

    field: positions [P,3] on `device` -> [P], a density or, with kind="sdf", a distance that is negative inside; color: positions
    -> sRGB [P,3], cut to [0,1], asked where the texels of a texture of `texture_size` a side lie on the surface (None: of the
    vertices alone). `resolution`: nodes of the grid along the surface's longest side. `threshold`: of the density, 25 by default, or "auto"
    for the mean of what is not empty; of the distance, 0. Of a density's surface, hollows and small parts are dropped. Ends at the box
    where the field goes on. Raises ValueError where there is no surface, for values that are not finite, and for settings out of range.
    """
    vertices, corners = field_surface(
        field, kind=kind, radius=radius, resolution=resolution, threshold=threshold, device=device, progress=progress
    )
    mesh = Mesh(*cleaning.simplify(vertices, corners, faces))
    if texture_size is None:
        colors = in_chunks(color, torch.from_numpy(mesh.vertices).to(device), CHUNK).clamp(0, 1)
        return Mesh(mesh.vertices, mesh.faces, colors.cpu().numpy())
    mesh = unwrapped(mesh, texture_size, unwrap)
    return bake_function(mesh, texture_size, color, device, chunk=CHUNK, progress=_named(progress, "texture"))


@torch.no_grad()
@profiler.function
def field_surface(
    field: Field,
    *,
    kind: str = "density",
    radius: float = 1.0,
    resolution: int = 256,
    threshold: float | str | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [V,3] float64 and faces [F,3] of the surface that `mesh_from_field` simplifies and paints."""
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: expected one of {', '.join(KINDS)}")
    if resolution < 8:
        raise ValueError(f"resolution={resolution}: expected at least 8 nodes a side")
    if isinstance(threshold, str) and (threshold != "auto" or kind != "density"):
        raise ValueError(f"threshold={threshold!r}: expected a number{', or auto' if kind == 'density' else ' for a distance'}")
    corner = np.full(3, float(radius))
    box = Box.between(-corner, corner, min(resolution, COARSE_RESOLUTION))
    values = _on_grid(field, box, device, _named(progress, "coarse grid"))
    if threshold is None:
        threshold = DENSITY_THRESHOLD if kind == "density" else 0.0
    elif threshold == "auto":
        shown = values[values > LEAST_DENSITY]
        if not len(shown):
            raise ValueError(f'threshold="auto": the density is nowhere above {LEAST_DENSITY:g}, there is nothing to extract')
        threshold = float(shown.double().mean())

    def level(values: Tensor) -> Tensor:
        """Positive inside."""
        return values - threshold if kind == "density" else threshold - values

    def found(values: Tensor, box: Box, exact: bool) -> tuple[np.ndarray, np.ndarray]:
        indices, faces = closed_surface(level(values))
        if exact:
            indices = _moved_onto_surface(lambda points: level(field(points)), level(values), box, indices)
        vertices = box.to_world(indices)
        return cleaning.keep_outer_parts(vertices, faces) if kind == "density" else (vertices, faces)

    vertices, _ = found(values, box, exact=False)
    if len(vertices):
        low, high = vertices.min(0), vertices.max(0)
        margin = np.maximum(GROWTH * (high - low), 2 * radius / (box.shape[0] - 1))  # at least a cell of the first pass
        low, high = np.maximum(low - margin, -corner), np.minimum(high + margin, corner)
    else:
        low, high = -corner, corner  # what is thinner than a cell of the first pass
    box = Box.between(low, high, resolution)
    values = _on_grid(field, box, device, _named(progress, "grid"))
    vertices, faces = found(values, box, exact=True)
    if len(faces) == 0:
        reached = f"density reaches {float(values.max()):.4g}" if kind == "density" else f"distance falls to {float(values.min()):.4g}"
        raise ValueError(f"threshold={threshold:g}: the field has no surface there, its {reached}; choose another threshold")
    return vertices, faces


def _named(progress: Progress | None, name: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda step, total: progress(name, step, total)


def _on_grid(field: Field, box: Box, device: torch.device | str, progress: Callable[[int, int], None] | None) -> Tensor:
    """The field's values [X,Y,Z] float32 at the nodes of a box. Raises ValueError for values that are not finite."""
    axes = [
        torch.linspace(low, high, count, dtype=torch.float64, device=device).float()
        for low, high, count in zip(box.low.tolist(), box.high.tolist(), box.shape, strict=True)
    ]
    count, (_, columns, rows) = int(np.prod(box.shape)), box.shape
    values = torch.empty(count, device=device)
    for first in range(0, count, CHUNK):
        number = torch.arange(first, min(first + CHUNK, count), device=device)
        x, y, z = number // (columns * rows), number // rows % columns, number % rows
        values[first : first + CHUNK] = field(torch.stack([axes[0][x], axes[1][y], axes[2][z]], dim=1)).reshape(-1)
        if progress:
            progress(min(first + CHUNK, count), count)
    broken = int((~torch.isfinite(values)).sum())
    if broken:
        raise ValueError(f"field: {broken} of {count} values on the grid are not finite; the field is damaged, take an earlier checkpoint")
    return values.reshape(box.shape)


def _moved_onto_surface(level: Field, values: Tensor, box: Box, indices: np.ndarray) -> np.ndarray:
    """`indices` [V,3] of vertices on edges of the grid, each moved along its edge to where `level` passes zero.

    values [X,Y,Z]: the level at the nodes. Vertices beyond the outer nodes, where the surface is closed, stay.
    """
    lower, upper = np.floor(indices), np.ceil(indices)
    on_edge = ((lower >= 0) & (upper < np.array(box.shape))).all(1) & (upper > lower).any(1)
    ends = torch.from_numpy(np.stack([lower[on_edge], upper[on_edge]])).to(values.device)
    x, y, z = ends.long().unbind(-1)
    at_ends = values[x, y, z].double()  # [2,E]
    size = torch.from_numpy((box.high - box.low) / (np.array(box.shape) - 1)).to(values.device)
    corner = torch.from_numpy(box.low).to(values.device)

    def level_at(share: Tensor) -> Tensor:
        points = torch.lerp(ends[0], ends[1], share[:, None]) * size + corner
        return in_chunks(level, points.float(), CHUNK).reshape(-1).double()

    shares = torch.stack([torch.zeros_like(at_ends[0]), torch.ones_like(at_ends[0])])
    for _ in range(BISECTIONS):
        middle = shares.mean(0)
        at_middle = level_at(middle)
        replaces = torch.stack([(at_middle > 0) == (side > 0) for side in at_ends])  # the end that it lies on the side of
        shares, at_ends = torch.where(replaces, middle, shares), torch.where(replaces, at_middle, at_ends)
    share = shares[0] + (shares[1] - shares[0]) * (at_ends[0] / (at_ends[0] - at_ends[1]))
    share = share.clamp(NEAREST, 1 - NEAREST)
    moved = indices.copy()
    moved[on_edge] = torch.lerp(ends[0], ends[1], share[:, None]).cpu().numpy()
    return moved
