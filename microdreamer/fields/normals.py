"""Which way the surface of a field looks: unit vectors against the slope of its density, or along that of a signed distance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

STEP = 0.01  # of finite differences, in the world


def difference_gradient(field: Callable[[Tensor], Tensor], points: Tensor, values: Tensor, radius: float, step: float = STEP) -> Tensor:
    """The gradient [...,P,3] of `field` ([...,P,3] -> [...,P]) at points [...,P,3], where it has `values` [...,P], by forward differences.

    The three neighbours are kept within the box [-radius, radius]^3 and the difference is still divided by `step`, so that a slope
    vanishes where its neighbour would fall outside (threestudio's rule).
    """
    offsets = step * torch.eye(3, dtype=points.dtype, device=points.device)
    neighbours = (points[..., None, :] + offsets).clamp(-radius, radius)
    return (field(neighbours.flatten(-3, -2)).unflatten(-1, (-1, 3)) - values[..., None]) / step


def outward(gradient: Tensor) -> Tensor:
    """Unit normals [...,3] from the gradient of a density, which falls outward; zero where it is flat."""
    return normalize(-gradient, dim=-1)
