"""What one pass knows of an object's shape, read off what the prior tells of its views."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from cam_utils import FOV_Y, RADIUS, Cameras, orbit_cameras, project_for_sampling, unproject
from microdreamer.guidance.base import Prior
from microdreamer.guidance.micro.network import Surfaces
from microdreamer.guidance.names import FULL_NOISE
from microdreamer.guidance.samplers import ddim_sample, normal

COVERED = 0.5  # least coverage of a pixel that shows a surface
WHOLE = 0.95  # coverage from which on a pixel tells of itself; others
EDGE, EDGE_POWER = 5, 16  # ask so many pixels a side around them, of which the most covered ones have the most say
CARVED = 0.2  # coverage below which another view sees nothing there
NEIGHBOURS, STRAY = 6, 2.5  # a point whose so-manyth neighbour is so many times as far as is usual belongs to nothing
HALVINGS = 24  # of the range in which the size of a grid's cells is looked for


def read_off(
    prior: Prior, condition: object, elevation: float, levels: Sequence[int], generator: torch.Generator, temperature: float = FULL_NOISE
) -> tuple[Tensor, Tensor]:
    """Points [P,3] of the object and their colours [P,3] in [0,1], of `prior.views` views around it at one elevation (degrees).

    `levels` fall from that of pure noise; at the last one the prior is asked for surfaces. One level is one pass; more are a sampler's
    steps, whose views are less of a mean. They begin from `temperature` times the noise of the first.
    Raises ValueError for a prior that tells no surfaces.
    """
    size = {"width": prior.resolution, "height": prior.resolution}
    azimuth = 360 / prior.views * torch.arange(prior.views, dtype=torch.float64)
    cameras = orbit_cameras(elevation, azimuth, RADIUS, fov_y=FOV_Y, **size, device=prior.device)
    latents = temperature * normal(prior.latent_shape(prior.views), generator, prior.device)
    if len(levels) > 1:
        latents = ddim_sample(prior, latents, cameras, condition, levels[:-1], 1.0, end=levels[-1])
    colours, surfaces = prior.predict_surfaces(latents, levels[-1], cameras, condition)
    return points_of(colours, surfaces, cameras)


def points_of(colours: Tensor, surfaces: Surfaces, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Where covered pixels lie in the world [P,3], and their colours [P,3] in [0,1]; those at an outline as their neighbours within it.

    colours [V,3,R,R], of the views or of their albedo, and `surfaces`, as `Prior.predict_surfaces` tells them of `cameras`.
    """
    size = colours.shape[-1]
    covered = surfaces.coverage.clamp(0, 1)
    told = torch.cat([colours - (1 - covered), surfaces.depth * covered], dim=1)  # without the white behind, as much as there is of each
    weight = covered**EDGE_POWER
    around, share = (avg_pool2d(layer * weight, EDGE, 1, EDGE // 2) for layer in (told, covered))
    told = torch.where(covered > WHOLE, told / covered.clamp_min(COVERED), around / share.clamp_min(1e-9))
    view, row, column = (covered[:, 0] > COVERED).nonzero(as_tuple=True)
    centres = torch.stack([column, row], dim=1) + 0.5
    seen_by, values = cameras.resized(size, size), told[view, :, row, column]
    points = unproject(seen_by, view, centres.to(seen_by.intrinsics.dtype), values[:, 3].to(seen_by.intrinsics.dtype))
    kept = seen_by_all(points, surfaces.coverage, seen_by)
    return points[kept], values[kept, :3].clamp(0, 1)


def seen_by_all(points: Tensor, coverage: Tensor, cameras: Cameras) -> Tensor:
    """Which of points [P,3] lie where every view [V,1,R,R] sees something, [P] bool: none may stand out beyond an outline."""
    places, _ = project_for_sampling(cameras, points)
    seen = grid_sample(coverage, places[:, :, None].to(coverage.dtype), align_corners=False, padding_mode="border")[:, 0, :, 0]
    return (seen > CARVED).all(dim=0)


def without_strays(points: Tensor, colours: Tensor) -> tuple[Tensor, Tensor]:
    """The points [P,3] with colours [P,3] that have others around them: pixels at an outline lie between what is on its two sides."""
    distances, _ = cKDTree(points.cpu().numpy()).query(points.cpu().numpy(), k=min(NEIGHBOURS + 1, len(points)))
    apart = torch.from_numpy(distances[:, -1]).to(points.device)
    near = apart <= STRAY * apart.median()
    return points[near], colours[near]


def thinned(points: Tensor, colours: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """About `count` of points [P,3] with colours [P,3], evenly spread: the means of those in one cell of a grid.

    All where they are fewer.
    """
    if len(points) <= count:
        return points, colours
    values = torch.cat([points, colours], dim=1).double().cpu()
    places = values[:, :3] - values[:, :3].amin(dim=0)
    extent = float(places.max().clamp_min(1e-9))

    def cells(side: float) -> Tensor:
        index = (places / side).long()
        return (index[:, 0] * 2**40 + index[:, 1] * 2**20 + index[:, 2]).unique(return_inverse=True)[1]

    low, high = extent / 2**19, extent
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if int(cells(middle).max()) >= count else (low, middle)
    owner = cells(high)
    sums = torch.zeros(int(owner.max()) + 1, 6, dtype=values.dtype).index_add_(0, owner, values)
    means = (sums / owner.bincount()[:, None]).to(points)
    return means[:, :3], means[:, 3:]
