"""Functions that turn what a network says into a density or a colour, by the names that configs use."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

LARGEST_SLOPE_AT = 15.0  # where the slope of the truncated exponential stops to grow
LARGEST_EXPONENT = 80.0  # e^80 and sums of many of them are still finite in float32
LRM_MARGIN = 0.001  # by which sigmoid_mipnerf exceeds [0,1] at both ends


class TruncatedExp(torch.autograd.Function):
    """exp(x), whose slope is taken no farther than at 15, so that one dense sample does not undo a whole step."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp_max(LARGEST_EXPONENT).exp()

    @staticmethod
    def backward(ctx, v: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return v * x.clamp_max(LARGEST_SLOPE_AT).exp()


# All of them rise everywhere, which normals rely on.
DENSITY_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus": softplus,
    "shifted_softplus": lambda x: softplus(x - 1),
    "exp": torch.exp,
    "trunc_exp": TruncatedExp.apply,
    "shifted_trunc_exp": lambda x: TruncatedExp.apply(x - 1),
}
COLOR_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "sigmoid_mipnerf": lambda x: torch.sigmoid(x) * (1 + 2 * LRM_MARGIN) - LRM_MARGIN,
}


def activation(name: str, among: dict[str, Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    """The function of that name. Raises ValueError that lists the names there are."""
    if name not in among:
        raise ValueError(f"activation {name!r}: expected one of {', '.join(among)}")
    return among[name]
