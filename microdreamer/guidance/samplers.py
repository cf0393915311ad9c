"""Deterministic and ancestral sampling with a prior, and the way back up."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cam_utils import Cameras
from microdreamer.core import profiler
from microdreamer.core.transfer import send
from microdreamer.guidance.base import Prior
from microdreamer.guidance.names import FULL_NOISE
from microdreamer.guidance.shortcuts import NO_SHORTCUTS, Shortcuts

OnStep = Callable[[int, int, dict[str, float]], None]  # step (from 1), total, metrics


def normal(shape: Sequence[int], generator: torch.Generator | None, device: torch.device | str) -> Tensor:
    """Standard normal noise, drawn where the generator lives, so that one seed gives the same noise on every device."""
    drawn_on = device if generator is None else generator.device
    return send(torch.randn(tuple(shape), generator=generator, device=drawn_on), device)


@torch.no_grad()
@profiler.function
def ddim_sample(
    prior: Prior,
    latents: Tensor | Sequence[int],
    cameras: Cameras,
    condition: object,
    levels: Sequence[int],
    guidance_scale: float | None,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
    on_step: OnStep | None = None,
    end: int = -1,
    temperature: float = FULL_NOISE,
    shortcuts: Shortcuts = NO_SHORTCUTS,
) -> Tensor:
    """Latents [V,...] at level `end`, the clean sample unless told, from `latents`, which are at `levels[0]` (or are a shape: noise there).

    `levels` falls, and `end` lies below them. DDIM, Song et al. 2021. All noise drawn here is `temperature` times the schedule's: less
    of it draws nearer to what is likeliest, and at 0 nothing is left to chance.
    """
    if any(b >= a for a, b in itertools.pairwise([*levels, end])) or not levels:
        raise ValueError(f"levels {list(levels)} down to {end}: expected at least one, falling")
    if not isinstance(latents, Tensor):
        latents = temperature * normal(latents, generator, cameras.device)
    # Noise for all steps at once: a copy to a GPU between two steps would wait for the first of them.
    fresh = [None] * len(levels)
    if eta > 0:
        drawn_on = latents.device if generator is None else generator.device
        fresh = temperature * torch.stack([normal(latents.shape, generator, drawn_on) for _ in levels]).to(latents.device)
    with prior.sharing_features(shortcuts.feature_interval):
        for index, (t, t_next) in enumerate(itertools.pairwise([*levels, end])):
            noise = prior.predict_noise(latents, t, cameras, condition, shortcuts.scale_at(t, prior.schedule, guidance_scale))
            latents = prior.schedule.step(latents, noise, t, t_next, eta, fresh[index])
            if on_step:
                on_step(index + 1, len(levels), {"level": float(t)})
    return latents


@torch.no_grad()
@profiler.function
def ddim_invert(
    prior: Prior,
    latents: Tensor,
    cameras: Cameras,
    condition: object,
    levels: Sequence[int],
    on_step: OnStep | None = None,
    shortcuts: Shortcuts = NO_SHORTCUTS,
) -> Tensor:
    """`latents` [V,...], which are at `levels[0]`, taken up to `levels[-1]` with the unconditional score (one branch a step).

    `levels` rises; a single level returns the latents as they are.
    """
    if any(b <= a for a, b in itertools.pairwise(levels)) or not levels:
        raise ValueError(f"levels {list(levels)}: expected at least one, rising")
    with prior.sharing_features(shortcuts.feature_interval):
        for index, (t, t_next) in enumerate(itertools.pairwise(levels)):
            latents = prior.schedule.step(latents, prior.predict_noise(latents, t, cameras, condition, None), t, t_next)
            if on_step:
                on_step(index + 1, len(levels) - 1, {"level": float(t)})
    return latents
