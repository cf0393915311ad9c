"""Asynchronous score distillation (Ma et al. 2024, ScaleDreamer, arXiv 2407.02040).

SDS subtracts the noise that was added; ASD subtracts what the same frozen network predicts at a later, noisier level, so that no second
network has to learn the renders' own score.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cam_utils import Cameras
from microdreamer.distillation.prompts import PerpNeg
from microdreamer.distillation.sds import WEIGHTINGS, Loss, add_noise, along
from microdreamer.guidance.base import CONDITIONAL, NULL, Branch, Prior, classifier_free

LENGTH_FLOOR = 1e-6  # of the squared length that a projection divides by


def shifted_timestep(t: Tensor, plus_ratio: float, min_step: int, u: Tensor | None = None, last: int = 999) -> Tensor:
    """The later level t + D of levels t (integers), on the CPU: D = u plus_ratio (t - min_step), whole steps, up to `last`.

    u in [0,1): one for each t; None for 1. D is kept within the levels before u shortens it.
    """
    shift = (plus_ratio * (t - min_step).float()).clamp(min=0)
    shift = torch.minimum(shift, (last - t).float())
    if u is not None:
        shift = shift * u
    return (t + shift.to(t.dtype)).clamp(1, last)


def perp_neg(null: Tensor, conditional: Tensor, negatives: Sequence[Tensor], weights: Tensor, scale: float) -> Tensor:
    """Guided noise [V,...] away from what `negatives` say beyond the conditional direction (Armandpour et al. 2023, arXiv 2304.04968).

    Only the part of a negative direction that is perpendicular to the conditional one counts, view by view; weights [V,N], not above 0.
    """
    toward = conditional - null
    total, rest = toward, tuple(range(1, toward.ndim))
    length = toward.square().sum(rest, keepdim=True).clamp_min(LENGTH_FLOOR)
    for negative, weight in zip(negatives, weights.unbind(1), strict=True):
        away = negative - null
        away = away - (away * toward).sum(rest, keepdim=True) / length * toward
        total = total + weight.view(-1, *[1] * (toward.ndim - 1)) * away
    return null + scale * total


def asd_loss(
    prior: Prior,
    x: Tensor,
    cameras: Cameras,
    condition: object,
    t: int | Sequence[int],
    t_later: int | Sequence[int],
    noise: Tensor,
    *,
    guidance_scale: float,
    weighting: str = "sds",
    grad_clip: float | None = None,
    told: str | Tensor = CONDITIONAL,
    perp: PerpNeg | None = None,
) -> Loss:
    """ASD of the latents x [V,...]: gradient w(t) (guided noise at t - conditional noise at t_later) / V.

    Both levels, of all views or of each group, share x and the noise; all branches are one network call where the prior can.
    told: what the conditional branches are told, see `Branch`; perp: for a prior that is told by direction, what they are told instead, and
    what the guided one is not to look like (`prompts.perp_neg`).
    """
    alpha = prior.view_alphas(t, x)
    noisy = add_noise(x.detach(), noise, alpha)
    later = add_noise(x.detach(), noise, prior.view_alphas(t_later, x))
    told = told if perp is None else perp.positive
    branches = [Branch(noisy, t, NULL), Branch(noisy, t, told), Branch(later, t_later, told)]
    if perp is not None:
        branches += [Branch(noisy, t, negative) for negative in perp.negatives]
    null, conditional, subtracted, *negatives = prior.predict_each(branches, cameras, condition)
    if perp is None:
        guided = classifier_free(null, conditional, guidance_scale)
    else:
        guided = perp_neg(null, conditional, negatives, perp.weights, guidance_scale)
    loss, length = along(x, WEIGHTINGS[weighting](alpha) * (guided - subtracted), grad_clip)
    return Loss(loss, {"grad_norm": length})
