"""Terms that keep a field well-behaved while a prior shapes it. They take what a renderer gives: tensors, not models.

Rays of R pixels and their P samples: `opacity`, `z_variance` [...] per ray; `weights` [P] and directions per sample. None of them
looks at a tensor's values, so none waits for a GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

OPACITY_SMOOTHING = 0.01
OPACITY_MARGIN = 1e-3  # keeps the entropy's logarithms finite
SURE = 0.5  # opacity above which a ray is said to hit something


def orient(weights: Tensor, normals: Tensor, directions: Tensor, opacity: Tensor) -> Tensor:
    """Normals of what is seen that face away from the viewer (Verbin et al. 2022, Ref-NeRF, equation 11), per ray that hits anything.

    weights [P], of the samples, which get no gradient; normals, directions (of the rays) [P,3], unit; opacity [...] of all rays.
    """
    facing_away = (normals * directions).sum(-1).clamp_min(0).square()
    return (weights.detach() * facing_away).sum() / (opacity > 0).sum().clamp_min(1)


def sparsity(opacity: Tensor) -> Tensor:
    """Mean of a smooth absolute value of the opacity: little of the picture is to be covered."""
    return (opacity.square() + OPACITY_SMOOTHING).sqrt().mean()


def opaque(opacity: Tensor) -> Tensor:
    """Mean binary entropy of the opacity, with its gradient: rays are to hit or to miss."""
    clamped = opacity.clamp(OPACITY_MARGIN, 1 - OPACITY_MARGIN)
    return (torch.special.entr(clamped) + torch.special.entr(1 - clamped)).mean()


def z_variance(variance: Tensor, opacity: Tensor) -> Tensor:
    """Mean variance of the depth along rays that hit something: surfaces are to be thin (Zhu et al. 2023, HiFA, arXiv 2305.18766)."""
    hit = (opacity > SURE).to(variance.dtype)
    return (variance * hit).sum() / hit.sum().clamp_min(1)


def eikonal(sdf_gradient: Tensor, counts: Tensor | None = None) -> Tensor:
    """How far gradients [...,3] of a signed distance are from length 1, squared (Gropp et al. 2020, arXiv 2002.10099, equation 2).

    counts [...], bool: which of them count in the mean; without, all. Those of rays that miss a field's box should not.
    """
    miss = (torch.linalg.vector_norm(sdf_gradient, dim=-1) - 1).square()
    if counts is None:
        return miss.mean()
    return torch.where(counts, miss, 0).sum() / counts.sum().clamp_min(1)
