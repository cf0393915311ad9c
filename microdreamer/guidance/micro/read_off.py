"""What one pass knows of an object's shape, read off what the prior tells of its views: points, and Gaussians that can be drawn."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import grid_sample

from cam_utils import FOV_Y, RADIUS, Cameras, orbit_cameras, project_for_sampling, unproject
from microdreamer.guidance.base import Prior
from microdreamer.guidance.micro.network import Surfaces
from microdreamer.guidance.samplers import normal

COVERED = 0.5  # least coverage of a pixel that shows a surface
MIXED = 0.75  # coverage down to which a colour is told from the white behind it
CARVED = 0.2  # coverage below which another view sees nothing there
NEIGHBOURS, STRAY = 6, 2.5  # a point whose so-manyth neighbour is so many times as far as is usual belongs to nothing
HALVINGS = 24  # of the range in which the size of a grid's cells is looked for
SPREAD = 0.4  # standard deviation of a Gaussian in pixels of the view that it is read off; more fattens outlines, less leaves gaps
STEEPNESS = 2.0  # of opacity over coverage, around COVERED: what is hardly covered adds no fog


def read_off(prior: Prior, condition: object, elevation: float, levels: Sequence[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points [P,3] of the object and their colours [P,3] in [0,1], of `prior.views` views around it at one elevation (degrees).

    `levels` fall from that of pure noise; at the last one the prior is asked for surfaces. One level is one pass; more are a sampler's
    steps, whose views are less of a mean. Raises ValueError for a prior that tells no surfaces.
    """
    size = {"width": prior.resolution, "height": prior.resolution}
    azimuth = 360 / prior.views * torch.arange(prior.views, dtype=torch.float64)
    cameras = orbit_cameras(elevation, azimuth, RADIUS, fov_y=FOV_Y, **size, device=prior.device)
    latents = normal(prior.latent_shape(prior.views), generator, prior.device)
    for t, t_next in itertools.pairwise(levels):
        noise = prior.predict_noise(latents, t, cameras, condition, 1.0)
        latents = prior.schedule.step(latents, noise, t, t_next)
    colours, surfaces = prior.predict_surfaces(latents, levels[-1], cameras, condition)
    return points_of(colours, surfaces, cameras)


def points_of(colours: Tensor, surfaces: Surfaces, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Where covered pixels lie in the world [P,3], and their colours [P,3] in [0,1], without the white behind those at an outline.

    colours [V,3,R,R], of the views or of their albedo, and `surfaces`, as `Prior.predict_surfaces` tells them of `cameras`.
    """
    size = colours.shape[-1]
    view, row, column = (surfaces.coverage[:, 0] > COVERED).nonzero(as_tuple=True)
    centres = torch.stack([column, row], dim=1) + 0.5
    seen_by = cameras.resized(size, size)
    points = unproject(
        seen_by, view, centres.to(seen_by.intrinsics.dtype), surfaces.depth[view, 0, row, column].to(seen_by.intrinsics.dtype)
    )
    share = surfaces.coverage[view, :, row, column].clamp(MIXED, 1)
    own = ((colours[view, :, row, column] - (1 - share)) / share).clamp(0, 1)
    kept = seen_by_all(points, surfaces.coverage, seen_by)
    return points[kept], own[kept]


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


def gaussians_of(colours: Tensor, surfaces: Surfaces, world_to_camera: Tensor, intrinsics: Tensor) -> dict[str, Tensor]:
    """One round Gaussian for each pixel of B objects' views, P = V R R, differentiably: what `rasterize_gaussians` takes of each object.

    colours [B,V,3,R,R] and `surfaces` [B,V,...,R,R] in units of the scene; world_to_camera [B,V,4,4]; intrinsics [4] of all views.
    Returns means and scales [B,P,3], rotations [B,P,4], opacities [B,P] and colors [B,P,3]. A pixel whose coverage is a quarter or
    less is transparent, one of three quarters or more opaque. No shape depends on values, so that a CUDA graph can hold it.
    """
    depth, size = surfaces.depth[:, :, 0], colours.shape[-1]
    fx, fy, cx, cy = intrinsics.unbind()
    centres = torch.arange(size, device=depth.device, dtype=depth.dtype) + 0.5
    x, y = (centres - cx) / fx * depth, ((centres - cy) / fy)[:, None] * depth
    in_camera = torch.stack([x, y, depth], dim=-1) - world_to_camera[:, :, None, None, :3, 3]
    axes = world_to_camera[:, :, None, None, :3, :3]  # products by hand: a matrix product may round to 10 bits on a GPU
    means = sum(in_camera[..., k, None] * axes[..., k, :] for k in range(3))
    scales = (SPREAD * depth / fx)[..., None].expand_as(means)
    opacities = ((surfaces.coverage[:, :, 0] - COVERED) * STEEPNESS + COVERED).clamp(0, 1)
    rotations = torch.eye(4, device=depth.device, dtype=depth.dtype)[0].expand(*opacities.shape, 4)
    parts = {"means": means, "scales": scales, "rotations": rotations, "opacities": opacities, "colors": colours.movedim(2, -1)}
    return {name: part.flatten(1, 3) for name, part in parts.items()}
