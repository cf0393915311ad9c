"""What one pass knows of an object's shape, read off what the prior tells of its views: points, and Gaussians that can be drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from cam_utils import Cameras, unproject
from microdreamer.guidance.micro.network import Surfaces

COVERED = 0.5  # least coverage of a pixel that shows a surface
SPREAD = 0.4  # standard deviation of a Gaussian in pixels of the view that it is read off; more fattens outlines, less leaves gaps
STEEPNESS = 2.0  # of opacity over coverage, around COVERED: what is hardly covered adds no fog


def points_of(colours: Tensor, surfaces: Surfaces, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Where covered pixels lie in the world [P,3], and their colours [P,3] in [0,1].

    colours [V,3,R,R], of the views or of their albedo, and `surfaces`, as `MicroPrior.predict_surfaces` tells them of `cameras`.
    """
    size = colours.shape[-1]
    view, row, column = (surfaces.coverage[:, 0] > COVERED).nonzero(as_tuple=True)
    centres = torch.stack([column, row], dim=1) + 0.5
    seen_by = cameras.resized(size, size)
    points = unproject(
        seen_by, view, centres.to(seen_by.intrinsics.dtype), surfaces.depth[view, 0, row, column].to(seen_by.intrinsics.dtype)
    )
    return points, colours[view, :, row, column].clamp(0, 1)


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
