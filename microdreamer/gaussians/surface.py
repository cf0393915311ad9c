"""What renders of a set of Gaussians tell about its surface: points on it, and the colours it shows.

The means of Gaussians lie behind what is seen of them, and their density alone does not say where the seen surface is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import grid_sample

from cam_utils import Cameras, fitting_distance, orbit_cameras, project_for_sampling, unproject
from microdreamer.core import profiler
from microdreamer.kernels import gaussian_field

VIEWS = [(elevation, azimuth + offset) for elevation, offset in ((-30, 0), (30, 30)) for azimuth in range(0, 360, 60)] + [(-85, 0), (85, 0)]
VIEW_SIZE = 256  # px
MIN_ALPHA = 0.9  # of pixels that see the surface and not its edge
DEPTH_TOLERANCE = 0.05  # of the object's radius, by which a vertex may lie behind what is seen and still take its colour
MIN_FACING = 0.2  # cosine between normal and view beyond which a view is too grazing for a vertex
FACING_POWER = 2  # how much frontal views count more
POINTS_AT_ONCE, POINTS_AT_ONCE_ON_GPU = 1 << 15, 1 << 20  # looked up in all views: a processor's cache holds what that takes
BLENDED_AT_ONCE = 1 << 17  # points with COLOR_NEIGHBOURS each
COLOR_NEIGHBOURS = 32  # Gaussians that may colour an unseen vertex


class Gaussians(Protocol):
    """What this module asks of a set of Gaussians; `model.GaussianModel` has it."""

    @property
    def device(self) -> torch.device: ...

    @property
    def means(self) -> Tensor: ...

    @property
    def opacities(self) -> Tensor: ...

    @property
    def base_colors(self) -> Tensor: ...

    @property
    def reach(self) -> float: ...

    def __len__(self) -> int: ...

    def covariances(self) -> Tensor: ...

    def render(self, cameras: Cameras, background: float) -> Any: ...


def views_around(model: Gaussians, size: int = VIEW_SIZE) -> tuple[Cameras, float]:
    """Cameras of `size` pixels a side on all sides from which the whole model is seen, and its radius around the origin."""
    radius = model.reach
    elevation, azimuth = zip(*VIEWS, strict=True)
    return orbit_cameras(elevation, azimuth, fitting_distance(radius), width=size, height=size, device=model.device), radius


@torch.no_grad()
def seen_points(model: Gaussians) -> Tensor:
    """World positions [P,3] of the pixels in which renders from all sides are opaque, at their mean depth."""
    cameras, _ = views_around(model)
    rendering = model.render(cameras, 0.0)
    view, _, row, column = (rendering.alpha > MIN_ALPHA).nonzero().unbind(1)
    depth = (rendering.depth / rendering.alpha.clamp_min(MIN_ALPHA))[view, 0, row, column]
    return unproject(cameras, view, torch.stack([column + 0.5, row + 0.5], dim=1), depth)


@torch.no_grad()
@profiler.function
def surface_colors(model: Gaussians, points: Tensor, normals: Tensor, view_size: int = VIEW_SIZE) -> Tensor:
    """Colours [P,3] in [0,1] at points [P,3] with unit normals [P,3]: what renders of `view_size` pixels from all sides show there.

    Views count by how frontally they see a point; those that are blocked do not. A point that no view sees gets the blend of
    the Gaussians around it.
    """
    return surface_painter(model, view_size)(points, normals)


@torch.no_grad()
def surface_painter(model: Gaussians, view_size: int = VIEW_SIZE) -> Callable[[Tensor, Tensor], Tensor]:
    """`surface_colors` as a function of points and normals, whose views are rendered once."""
    cameras, radius = views_around(model, view_size)
    rendering = model.render(cameras, 0.0)
    layers = torch.cat([rendering.image, rendering.alpha, rendering.depth], dim=1)
    at_once = POINTS_AT_ONCE if model.device.type == "cpu" else POINTS_AT_ONCE_ON_GPU

    @torch.no_grad()
    def painter(points: Tensor, normals: Tensor) -> Tensor:
        points, normals = points.to(model.device), normals.to(model.device)
        colors, total = torch.empty_like(points), torch.empty_like(points[:, 0])
        for start in range(0, len(points), at_once):
            some = slice(start, start + at_once)
            colors[some], total[some] = _seen_colors(cameras, layers, DEPTH_TOLERANCE * radius, points[some], normals[some])
        unseen = (total < MIN_FACING**FACING_POWER / 2).nonzero()[:, 0]
        for some in unseen.split(BLENDED_AT_ONCE):
            colors[some] = blended_colors(model, points[some])
        return colors.clamp_(0, 1)

    return painter


def _seen_colors(cameras: Cameras, layers: Tensor, tolerance: float, points: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
    """Mean colours [P,3] that the views show at the points, and the sum of the views' weights [P].

    Most views do not face a point: those that do are found first, from inner products alone.
    """
    centers = cameras.centers
    towards = centers @ normals.T - (points * normals).sum(1)  # [V,P]: (center - point) . normal
    squared = centers.square().sum(1, keepdim=True) - 2 * (centers @ points.T) + points.square().sum(1)
    facing = towards * squared.clamp_min(1e-24).rsqrt()
    sums, total = torch.zeros_like(points), torch.zeros_like(points[:, 0])
    for view in range(len(cameras)):
        faced = (facing[view] > MIN_FACING).nonzero()[:, 0]
        positions, z = project_for_sampling(cameras[view], points[faced])
        samples = grid_sample(layers[view, None], positions[:, :, None], align_corners=False)[0, ..., 0]  # [5,P]
        alpha, depth = samples[3], samples[4]
        is_seen = (alpha > 0.5) & (z[0] < depth / alpha.clamp_min(0.5) + tolerance)
        weights = torch.where(is_seen, facing[view, faced] ** FACING_POWER, 0)
        total.index_add_(0, faced, weights * alpha)
        sums.index_add_(0, faced, (weights * samples[:3]).T)
    return sums / total.clamp_min(1e-12)[:, None], total


@torch.no_grad()
def blended_colors(model: Gaussians, points: Tensor) -> Tensor:
    """Colours [P,3] in [0,1] at world positions [P,3]: those of the nearest Gaussians, by opacity times weight there.

    Out of reach of them all, the colour of the Gaussian nearest by.
    """
    tree = cKDTree(model.means.cpu().numpy())
    _, neighbours = tree.query(points.cpu().numpy(), k=range(1, min(COLOR_NEIGHBOURS, len(model)) + 1), workers=-1)
    neighbours = torch.from_numpy(neighbours).to(model.device)
    offsets = points[:, None] - model.means[neighbours]
    weights = gaussian_field.gaussian_3d_coeff(offsets.reshape(-1, 3), model.covariances()[neighbours].reshape(-1, 6))
    weights = weights.reshape(neighbours.shape) * model.opacities[neighbours]
    colors = model.base_colors.clamp(0, 1)[neighbours]
    total = weights.sum(1, keepdim=True)
    blended = (weights[..., None] * colors).sum(1) / total.clamp_min(torch.finfo(torch.float32).tiny)
    return torch.where(total > 1e-6, blended, colors[:, 0])
