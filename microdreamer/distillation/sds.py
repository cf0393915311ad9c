"""Score distillation: a prior's opinion of noised renders as a gradient of the renders.

SDS (Poole et al. 2022, DreamFusion, arXiv 2209.14988, equation 3) follows the difference between the noise that the guided prior sees and
the noise that was added. x0-SDS (Shi et al. 2023, MVDream, arXiv 2308.16512, section 3.4) goes to the clean picture that the guided prior
sees. Strong guidance exaggerates its contrast, so that is scaled back toward the conditional one's (Lin et al. 2023, arXiv 2305.08891).

Notation as in `guidance.schedule`: x are latents [V,...] of renders, alpha the cumulative one of level t.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cam_utils import Cameras
from microdreamer.guidance.base import CONDITIONAL, Prior, classifier_free

STD_FLOOR = 1e-8  # added to both deviations before they are divided

# w(t) of the alpha of level t.
WEIGHTINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "sds": lambda alpha: 1 - alpha,
    "uniform": torch.ones_like,
    "fantasia3d": lambda alpha: alpha.sqrt() * (1 - alpha),
}


class Loss(NamedTuple):
    """A scalar to differentiate, and tensors to look at now and then: reading one waits for a GPU."""

    loss: Tensor
    metrics: dict[str, Tensor]


def add_noise(x: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    return alpha.sqrt() * x + (1 - alpha).sqrt() * noise


def predict_x0(noisy: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    return (noisy - (1 - alpha).sqrt() * noise) / alpha.sqrt()


def toward(x: Tensor, target: Tensor) -> Tensor:
    """0.5 |x - target|^2 / V, whose gradient is (x - target) / V; none flows into the target."""
    return 0.5 * (x - target.detach()).square().sum() / len(x)


def along(x: Tensor, gradient: Tensor, grad_clip: float | None = None) -> tuple[Tensor, Tensor]:
    """A loss whose gradient in x is `gradient` / V, with its values clamped to +-grad_clip, and the length of what was clamped.

    Its value is 0.5 |gradient|^2 / V, which tells no more of progress than the gradient's length.
    """
    gradient = torch.nan_to_num(gradient.detach())
    if grad_clip is not None:
        gradient = gradient.clamp(-grad_clip, grad_clip)
    # Not toward(x, x - gradient): that difference would round away what is small beside x.
    value = 0.5 * gradient.square().sum() / len(x)
    return _WithGradient.apply(x, gradient / len(x), value), gradient.norm()


class _WithGradient(torch.autograd.Function):
    """The given value, with the given gradient in x."""

    @staticmethod
    def forward(ctx, x: Tensor, gradient: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx, v_value: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return v_value * gradient, None, None


def rescale_std(guided: Tensor, conditional: Tensor, views: int, share: float) -> Tensor:
    """Guided clean pictures [V,...], a `share` in [0,1] of the way toward the standard deviation of the conditional ones.

    The deviation is that of a group of `views`, over all of its values together (unbiased). Share 0 changes nothing.
    """
    if share == 0:
        return guided

    def deviation(x: Tensor) -> Tensor:
        return x.unflatten(0, (-1, views)).flatten(1).std(dim=1) + STD_FLOOR

    factor = deviation(conditional) / deviation(guided)
    factor = (share * factor + (1 - share)).repeat_interleave(views)
    return guided * factor.view(-1, *[1] * (guided.ndim - 1))


def sds_loss(
    prior: Prior,
    x: Tensor,
    cameras: Cameras,
    condition: object,
    t: int | Sequence[int],
    noise: Tensor,
    *,
    guidance_scale: float,
    weighting: str = "sds",
    grad_clip: float | None = None,
    told: str | Tensor = CONDITIONAL,
) -> Loss:
    """SDS of the latents x [V,...]: gradient w(t) (guided noise - noise) / V.

    t: level of all views or of each group; weighting: a key of WEIGHTINGS. guidance_scale 1 is no guidance (threestudio's scale is
    less by one, as it counts from the conditional prediction). told: what the conditional branch is told, see `Branch`.
    """
    alpha = prior.view_alphas(t, x)
    null, conditional = prior.predict_branches(add_noise(x.detach(), noise, alpha), t, cameras, condition, told)
    guided = classifier_free(null, conditional, guidance_scale)
    loss, length = along(x, WEIGHTINGS[weighting](alpha) * (guided - noise), grad_clip)
    return Loss(loss, {"grad_norm": length})


def x0_sds_loss(
    prior: Prior,
    x: Tensor,
    cameras: Cameras,
    condition: object,
    t: int | Sequence[int],
    noise: Tensor,
    *,
    guidance_scale: float,
    recon_std_rescale: float = 0.5,
    told: str | Tensor = CONDITIONAL,
) -> Loss:
    """x0-SDS of the latents x [V,...]: half the squared distance to the guided clean latents, per view; see `rescale_std`."""
    alpha = prior.view_alphas(t, x)
    noisy = add_noise(x.detach(), noise, alpha)
    null, conditional = prior.predict_branches(noisy, t, cameras, condition, told)
    target = predict_x0(noisy, classifier_free(null, conditional, guidance_scale), alpha)
    target = rescale_std(target, predict_x0(noisy, conditional, alpha), prior.views, recon_std_rescale)
    target = torch.nan_to_num(target)
    return Loss(toward(x, target), {"grad_norm": (x - target).detach().norm()})
