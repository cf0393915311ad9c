"""A prior retouches renders of a finished object: the views that the second stage fits a mesh's texture to.

The second stage of MicroDreamer (arXiv 2404.19525, appendix) and DreamGaussian (Tang et al. 2024, section 3.3), for any prior.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cam_utils import Cameras, orbit_cameras
from microdreamer.core import profiler
from microdreamer.guidance.base import Prior
from microdreamer.guidance.samplers import OnStep, ddim_sample, normal
from microdreamer.guidance.shortcuts import NO_SHORTCUTS, Shortcuts


def check_view_count(prior: Prior, count: int) -> None:
    """Raises ValueError for a number of views that is not a multiple of the prior's."""
    if count % prior.views:
        raise ValueError(f"refine_views={count}: the {prior.name} prior takes a multiple of {prior.views} views")


def circle_of_views(
    prior: Prior, count: int, elevation: float, radius: float, fov_y: float, size: int, generator: torch.Generator
) -> Cameras:
    """`count` cameras evenly around the object at one elevation, turned by a random whole degree, in groups as the prior wants them.

    Raises ValueError for a count that is not a multiple of the prior's views.
    """
    check_view_count(prior, count)
    azimuth = float(torch.randint(0, 360 // count, (), generator=generator)) + 360 / count * torch.arange(count, dtype=torch.float64)
    if prior.azimuth_spacing is not None:
        groups = count // prior.views
        azimuth = azimuth.reshape(prior.views, groups).T.reshape(-1)  # neighbours in the batch stand a quarter turn apart
    return orbit_cameras(elevation, azimuth, radius, fov_y=fov_y, width=size, height=size, device=prior.device)


def retouching_levels(prior: Prior, denoise_steps: int, strength: float) -> list[int]:
    """The levels of a sampler of `denoise_steps` steps that are left after the first `strength` of them, falling.

    Named as in the originals: a strength of 0.8 adds *little* noise. Raises ValueError where none is left.
    """
    falling = prior.schedule.levels(denoise_steps)[::-1]
    levels = falling[int(denoise_steps * strength) :]
    if not levels:
        raise ValueError(f"refine_strength={strength:g}: leaves none of {denoise_steps} denoising steps; lower it")
    return levels


@torch.no_grad()
@profiler.function
def retouched(
    prior: Prior,
    renders: Tensor,
    cameras: Cameras,
    condition: object,
    levels: Sequence[int],
    guidance_scale: float,
    generator: torch.Generator,
    on_step: OnStep | None = None,
    shortcuts: Shortcuts = NO_SHORTCUTS,
) -> Tensor:
    """What the prior makes of `renders` [V,3,S,S] in [0,1] after noise up to `levels[0]`: pictures of the same size.

    The prior sees them at its own resolution R. Where S is larger, what it changed is enlarged and added, so that detail finer
    than it can see stays as it was.
    """
    resolution = prior.resolution
    small = F.interpolate(renders, (resolution, resolution), mode="bilinear", antialias=True)
    latents = prior.encode(small, generator)
    noisy = prior.schedule.add_noise(latents, normal(latents.shape, generator, latents.device), levels[0])
    latents = ddim_sample(prior, noisy, cameras, condition, levels, guidance_scale, 0.0, generator, on_step, shortcuts=shortcuts)
    clean = prior.decode(latents)
    change = F.interpolate(clean.clamp(0, 1) - small, renders.shape[-2:], mode="bicubic")
    return (renders + change).clamp(0, 1)
