"""The last part of training: views that the network itself began to denoise, and what is read off them seen from free cameras.

Training shows the network noised true views, sampling its own; and a squared error of four views asks nothing of what lies between them.
So some samples of a batch take the first steps of sampling, from pure noise and without gradient, and the step that learns goes on from
there. Of its answer Gaussians are read off, one a pixel, drawn from cameras that no view has, and compared with pictures of the mesh.
Only the last step carries gradient: the answer to pure noise is best as the mean of all that may be, from which gradients through
later steps would move it; and this way the step is the one call of the network that the other samples need anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from microdreamer.guidance.micro.network import Surfaces
from microdreamer.guidance.micro.pixel_gaussians import draw, gaussians_of
from microdreamer.guidance.micro.prior import END, LOG_SNR_SHIFT, MIN_LOG_SNR
from microdreamer.guidance.schedule import cosine_log_snr, cosine_time
from microdreamer.training.micro_prior.batches import Batch, FreeViews

PARTS = ("free_colours", "free_edges", "free_coverage")  # of the error at free cameras
EDGE_SHARE, COVERAGE_SHARE = 0.5, 0.5  # weights of the last two beside the colours' 1


def sampling_levels(count: int, steps: int, device: torch.device | str) -> Tensor:
    """[steps, count] rising log-SNRs from pure noise to one of sampling's, stratified over `count`; the steps between are even.

    They are even in the cosine schedule's time, as those of sampling are. A single step is that at pure noise.
    """
    first, last = (cosine_time(end, LOG_SNR_SHIFT) for end in (MIN_LOG_SNR, END))
    reached = (torch.arange(count, device=device) + torch.rand(count, device=device)) / count
    time = first + (last - first) * reached * torch.linspace(0, 1, steps, device=device)[:, None]
    return cosine_log_snr(time, LOG_SNR_SHIFT)


def renoised(noisy: Tensor, clean: Tensor, now: Tensor, then: Tensor, fresh: Tensor) -> Tensor:
    """An ancestral step of views [B,V,3,R,R], told clean views, from log-SNR `now` to `then` [B] (`NoiseSchedule.step` with eta 1)."""
    alpha, alpha_then = (torch.sigmoid(level)[:, None, None, None, None] for level in (now, then))
    noise = (noisy - alpha.sqrt() * clean) / (1 - alpha).sqrt()
    variance = (1 - alpha_then) / (1 - alpha) * (1 - alpha / alpha_then).clamp_min(0)
    return alpha_then.sqrt() * clean + (1 - alpha_then - variance).clamp_min(0).sqrt() * noise + variance.sqrt() * fresh


@torch.no_grad()
def begun_views(network: Callable, batch: Batch, count: int, steps: int) -> tuple[Tensor, Tensor]:
    """Noisy views [N,V,3,R,R] of the first N = `count` samples before the last of `steps` steps from pure noise, and their log-SNR [N].

    Call it outside of the autocast block of the step that learns: weights that autocast keeps from here would have no gradient.
    """
    given = [part[:count] for part in (batch.rays, batch.camera, batch.pictures, batch.picture_rays, batch.picture_camera, batch.tokens)]
    levels = sampling_levels(count, steps, batch.views.device).to(batch.views.dtype)
    noisy = torch.randn_like(batch.views[:count])
    for now, then in pairwise(levels):
        clean = network(noisy, now, *given)
        noisy = renoised(noisy, clean.to(noisy.dtype), now, then, torch.randn_like(noisy))
    return noisy, levels[-1]


def free_errors(clean: Tensor, surfaces: Surfaces, free: FreeViews) -> Tensor:
    """[3] mean squared errors of what is read off the first samples, seen from free cameras, weighted as PARTS says.

    clean [B,V,3,R,R] and `surfaces` as the network tells them, B at least the N of `free`. All errors are in units of the views, which
    reach from -1 to 1: colours on white, their differences between neighbouring pixels, coverage.
    """
    count = len(free.pictures)
    scene = surfaces.in_scene()
    told = Surfaces(scene.depth[:count], scene.coverage[:count], scene.albedo[:count])
    gaussians = gaussians_of(clean[:count] * 0.5 + 0.5, told, free.view_cameras, free.intrinsics)
    each = [dict(zip(gaussians, parts, strict=True)) for parts in zip(*(part.unbind() for part in gaussians.values()), strict=True)]
    drawn = [draw(own, cameras, free.intrinsics, clean.shape[-1]) for own, cameras in zip(each, free.cameras, strict=True)]
    image, alpha = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    error = image * 2 - 1 - free.pictures.flatten(0, 1)
    edges = error.diff(dim=-1).square().mean() + error.diff(dim=-2).square().mean()
    coverage = alpha * 2 - 1 - free.coverage.flatten(0, 1)
    return torch.stack([error.square().mean(), EDGE_SHARE * edges, COVERAGE_SHARE * coverage.square().mean()])
