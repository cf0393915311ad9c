"""From Gaussians to a mesh: their density on a grid, and the coloured surface that renders of them show.

`gs_renderer` gives these functions on; R is the resolution of a density field.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from microdreamer.core import profiler
from microdreamer.gaussians import MESH_RESOLUTION
from microdreamer.gaussians import surface as gaussian_surface
from microdreamer.kernels import FIELD_BLOCKS, FIELD_RELAX_RATIO, gaussian_field
from microdreamer.kernels.marching_cubes import marching_cubes
from microdreamer.kernels.solid_grid import fill_voids, signed_distance
from microdreamer.meshes import MESH_FACES
from microdreamer.meshes import cleaning as mesh_cleaning
from microdreamer.meshes.mesh import Mesh
from microdreamer.meshes.shown import coloured

if TYPE_CHECKING:
    from microdreamer.gaussians.model import GaussianModel

MIN_FIELD_OPACITY = 0.005  # fainter Gaussians are left out of the density field
FIELD_BOX = 1.8  # the longest side of the means' box after normalisation, in the field's [-1, 1]
MIN_FIELD_BOX = 0.6  # the least it is shrunk to where the surface would be cut by the border
FIELD_REACH = 3.0  # standard deviations of the widest Gaussian that a field without a fixed relax ratio reaches,
MAX_RELAX_RATIO = FIELD_BLOCKS / 2  # from the usual one up to this, half of the grid
CORE_DENSITY = 0.1  # of the surface's density: bounds the region that is worn off to a solid core,
CORE_QUANTILE = 0.85  # to the depth below which this share of the seen points lies outside
BLUR_REACH = 4  # steps, of a Gaussian of one
# Of the densities at seen points. Thin parts are less dense than the rest and are lost below the threshold; much lower, the
# surface of generated objects moves away from the true one (docs/evaluation.md).
SURFACE_QUANTILE = 0.2


class DensityField(NamedTuple):
    """values [R,R,R], index order x, y, z, at linspace(-1, 1, R) on each axis; a world position p is at (p - center) * scale."""

    values: Tensor
    center: Tensor
    scale: Tensor

    def to_world(self, indices: np.ndarray) -> np.ndarray:
        """World positions [P,3] of fractional grid indices [P,3]."""
        normalised = 2 * indices / (len(self.values) - 1) - 1
        return normalised / float(self.scale) + self.center.double().cpu().numpy()

    def at(self, points: Tensor) -> Tensor:
        """Values [P] at world positions [P,3], trilinear; those of the border outside of the grid."""
        positions = ((points - self.center) * self.scale).flip(-1)  # grid_sample takes the fastest axis first
        sampled = nn.functional.grid_sample(self.values[None, None], positions[None, None, None], padding_mode="border", align_corners=True)
        return sampled.reshape(-1)


@torch.no_grad()
@profiler.function
def extract_fields(
    model: GaussianModel,
    resolution: int = MESH_RESOLUTION,
    num_blocks: int = FIELD_BLOCKS,
    relax_ratio: float | None = FIELD_RELAX_RATIO,
    box: float = FIELD_BOX,
) -> DensityField:
    """The density of the Gaussians of opacity above 0.005, on a grid in which the box of their means has a longest side of `box`.

    A point's value is the sum of opacity times Gaussian weight (see `kernels.gaussian_field`, also for `relax_ratio`: None
    takes one with which no Gaussian is cut off closer than 3 standard deviations, as far as possible). USE_CUDA_EXTRACT and
    USE_CUDA_GAUSS choose between compiled kernels and plain PyTorch. Raises ValueError where no Gaussian is left.
    """
    kept = model.opacities > MIN_FIELD_OPACITY
    means = model.means[kept]
    if len(means) == 0:
        raise ValueError(f"no Gaussian of {len(model)} has an opacity above {MIN_FIELD_OPACITY}: there is nothing to extract")
    low, high = means.amin(0), means.amax(0)
    extent = (high - low).amax()
    extent = torch.where(extent > 0, extent, 6 * model.scales[kept].amax())  # a single Gaussian: three standard deviations around it
    center, scale = (low + high) / 2, box / extent
    if relax_ratio is None:
        reach = FIELD_REACH * float(model.scales[kept].amax() * scale)
        relax_ratio = min(max(reach * num_blocks / 2, FIELD_RELAX_RATIO), MAX_RELAX_RATIO)
    values = gaussian_field.extract_fields(
        (means - center) * scale, model.covariances(scale)[kept], model.opacities[kept], resolution, num_blocks, relax_ratio
    )
    return DensityField(values, center, scale)


@torch.no_grad()
@profiler.function
def extract_mesh(
    model: GaussianModel,
    density_threshold: float | None = None,
    resolution: int = MESH_RESOLUTION,
    target_faces: int = MESH_FACES,
    smoothing_steps: int = 3,
    color_vertices: bool = True,
) -> Mesh:
    """The surface where the density passes `density_threshold`: closed, edge-manifold, of at most about `target_faces` faces.

    Without a threshold, the density at which renders see the surface is taken, and a solid core behind it, so that thin spots
    of the shell that fitted Gaussians form do not open to the hollow inside. Marching cubes of a field of `resolution`
    points a side, hollows and small parts dropped, smoothed, simplified to `target_faces` if it has more (see
    `mesh_cleaning.simplify`), and with `color_vertices` coloured a vertex as renders show it. Vertices are in the world of the
    Gaussians. Raises ValueError where the field does not reach the threshold or no part survives.
    """
    field = extract_fields(model, resolution, relax_ratio=None)
    seen = gaussian_surface.seen_points(model) if density_threshold is None else None
    threshold = density_threshold if seen is None else surface_density(field, seen)
    peak = float(field.values.max())
    if not peak > threshold:
        raise ValueError(f"density_thresh={threshold:g}: the density reaches {peak:.4g} at most; choose a lower threshold")
    field = uncut_field(model, field, threshold)
    level = field.values / threshold - 1
    if seen is not None:
        level = torch.maximum(level, solid_core(field, threshold, seen))
    indices, faces = closed_surface(level)
    vertices, faces = mesh_cleaning.keep_outer_parts(field.to_world(indices), faces)
    if len(faces) == 0:
        raise ValueError(f"density_thresh={threshold:g}: no closed surface at that density; choose another")
    vertices = mesh_cleaning.smooth(vertices, faces, smoothing_steps)
    vertices, faces = mesh_cleaning.simplify(vertices, faces, target_faces)
    mesh = Mesh(vertices, faces)
    return coloured(mesh, model) if color_vertices else mesh


@torch.no_grad()
def surface_density(field: DensityField, seen: Tensor) -> float:
    """The density that bounds what renders show: the 0.2 quantile of those at `seen` points [P,3], or half of the highest without any.

    It rises with the number of Gaussians, so that no fixed value fits. Seen points lie a little outside of the surface.
    """
    peak = float(field.values.max())
    if len(seen) == 0:
        return 0.5 * peak
    return min(float(field.at(seen).quantile(SURFACE_QUANTILE)), 0.9 * peak)


def closed_surface(level: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Indices [V,3] float64 and faces [F,3] int64 of where `level` [R,R,R] passes zero: closed manifolds that end at the grid's border."""
    vertices, faces = marching_cubes(nn.functional.pad(level.float(), (1,) * 6, value=-1.0))
    return vertices.cpu().numpy().astype(np.float64) - 1, faces.cpu().numpy().astype(np.int64)


def solid_core(field: DensityField, threshold: float, seen: Tensor) -> Tensor:
    """A function [R,R,R] that is positive inside of a solid just below the surface that `seen` points [P,3] lie on.

    The region above a tenth of `threshold` with its voids filled is closed, but too fat; it is worn off by the depth at which
    seen points lie in it.
    """
    depth = signed_distance(fill_voids(field.values > CORE_DENSITY * threshold))
    depth = blurred(depth)  # distances are whole steps at the solid's surface
    if len(seen) == 0:
        return torch.full_like(depth, -1.0)
    depths = field._replace(values=depth).at(seen)
    return (depth - depths.quantile(CORE_QUANTILE)) / 2


def blurred(values: Tensor) -> Tensor:
    """values [R,R,R], each the mean of those around it by a Gaussian of one step; the border's values go on beyond it."""
    offsets = torch.arange(-BLUR_REACH, BLUR_REACH + 1, device=values.device)
    weights = torch.softmax(-(offsets**2) / 2, dim=0)
    for axis in range(3):
        padding = [0] * 4 + [BLUR_REACH] * 2
        padded = nn.functional.pad(values.movedim(axis, 0)[None, None], padding, mode="replicate")[0, 0]
        total = sum(weight * padded[k : k + len(values)] for k, weight in enumerate(weights))
        values = total.movedim(0, axis)
    return values.contiguous()


def uncut_field(model: GaussianModel, field: DensityField, threshold: float) -> DensityField:
    """`field`, or one on a larger part of the world where the surface would reach past its border (few wide Gaussians)."""
    box = FIELD_BOX
    while box >= MIN_FIELD_BOX:
        border = max(float(side.max()) for axis in range(3) for side in (field.values.select(axis, 0), field.values.select(axis, -1)))
        if border <= threshold:
            break
        box *= 0.8
        field = extract_fields(model, len(field.values), relax_ratio=None, box=box)
    return field
