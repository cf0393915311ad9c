"""A Gaussian for each pixel of what the prior tells of its views, drawn from anywhere, so that training can compare that with the truth."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from microdreamer.guidance.micro.network import Surfaces
from microdreamer.guidance.micro.read_off import COVERED
from microdreamer.kernels.gaussian_raster import rasterize_gaussians

SPREAD = 0.4  # standard deviation of a Gaussian in pixels of the view that it is read off; more fattens outlines, less leaves gaps
STEEPNESS = 2.0  # of opacity over coverage, around COVERED: what is hardly covered adds no fog
SUPERSAMPLE = 2  # pixels of a drawing for one of the picture along each side: the rasteriser smooths by half a pixel


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


def draw(gaussians: dict[str, Tensor], world_to_camera: Tensor, intrinsics: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Pictures on white [V,3,S,S] and coverage [V,1,S,S] of one object's Gaussians, from cameras [V,4,4], differentiably.

    gaussians as of `gaussians_of`, of one object; intrinsics [4] of all views, for pictures of S = `size` pixels.
    """
    drawn = rasterize_gaussians(
        **gaussians,
        world_to_camera=world_to_camera,
        intrinsics=(SUPERSAMPLE * intrinsics).expand(len(world_to_camera), -1),
        width=SUPERSAMPLE * size,
        height=SUPERSAMPLE * size,
        background=torch.ones_like(intrinsics[:3]),
        compiled=None if intrinsics.dtype == torch.float32 else False,  # the op is of float32 alone
    )
    return F.avg_pool2d(drawn.image, SUPERSAMPLE), F.avg_pool2d(drawn.alpha, SUPERSAMPLE)
