"""Density control: where Gaussians are cloned, split and dropped during the fit, as pure functions on tensors.

Kerbl et al., "3D Gaussian Splatting for Real-Time Radiance Field Rendering" (2023), section 5, with fixed rules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from microdreamer.kernels.gaussian_raster import rotation_matrices

Parameters = dict[str, Tensor]  # raw parameters by name, N rows each

SPLIT_SHRINK = 1.6  # a split Gaussian's two samples are this much smaller


class Selection(NamedTuple):
    """M Gaussians made of N: their parameters, the row each came from [M], and whether it is new [M] (no optimiser history)."""

    parameters: Parameters
    source: Tensor
    is_new: Tensor


def dispensable(parameters: Parameters, min_opacity: float, max_scale: float) -> Tensor:
    """Which Gaussians [N] (bool) are fainter than `min_opacity` or longer than `max_scale` along any axis."""
    too_faint = parameters["opacity_logits"].sigmoid() < min_opacity
    return too_faint | (parameters["log_scales"].exp().amax(1) > max_scale)


def densify_and_prune(
    parameters: Parameters,
    gradients: Tensor,
    *,
    grad_threshold: float,
    split_scale: float,
    min_opacity: float,
    max_scale: float,
    draw_normals: Callable[[int], Tensor],
) -> Selection:
    """Grow where the picture pulls, then drop what does not count.

    gradients [N]: mean norm of the screen-space gradient, in normalised device units. Where it reaches `grad_threshold`, a
    Gaussian whose longest axis is at most `split_scale` is doubled, a longer one is replaced by two samples of itself,
    1.6 times smaller. `draw_normals(count)` gives standard normals [count,3]: those of all first samples, then of all second
    ones. Afterwards Gaussians with opacity below `min_opacity` or an axis above `max_scale` go.

    Order of the result: what was not split, clones, first samples, second samples.
    """
    pulled = gradients.nan_to_num(0) >= grad_threshold
    is_long = parameters["log_scales"].exp().amax(1) > split_scale
    rows = torch.arange(len(gradients), device=gradients.device)
    kept, cloned, split = rows[~(pulled & is_long)], rows[pulled & ~is_long], rows[pulled & is_long].repeat(2)
    source = torch.cat([kept, cloned, split])
    grown = {name: values[source] for name, values in parameters.items()}
    if len(split):
        samples = slice(len(kept) + len(cloned), None)
        scales = parameters["log_scales"][split].exp()
        axes = rotation_matrices(torch.nn.functional.normalize(parameters["quaternions"][split], dim=-1))
        grown["means"][samples] += (axes @ (scales * draw_normals(len(split)))[..., None])[..., 0]
        grown["log_scales"][samples] = (scales / SPLIT_SHRINK).log()
    is_new = torch.arange(len(source), device=rows.device) >= len(kept)
    staying = ~dispensable(grown, min_opacity, max_scale)
    return Selection({name: values[staying] for name, values in grown.items()}, source[staying], is_new[staying])
