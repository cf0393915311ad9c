"""Group normalisation of tokens, with SiLU where wanted, for networks whose channels come last in memory.

PyTorch's own wants channels first on a GPU and copies there and back; this one reads and writes each value where it lies.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import extension
from kernels.twin_gradient import differentiate_by_twin


def group_norm(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float = 1e-5, silu: bool = False, offset: Tensor | None = None
) -> Tensor:
    """x [N,P,C] contiguous, in float32, float16 or bfloat16, like weight and bias [C] -> the same shape and type.

    `offset` [N,C] or [1,C] is added to x first. Every group of C / groups neighbouring channels of a sample gets mean 0 and
    variance 1 over its P pixels (Wu and He 2018, arXiv 1803.08494, equation 1, in float32), then its channels' weights and
    biases, then `silu`. On a GPU, C must be a multiple of 16 bytes and at most 4096. Differentiable. Raises ValueError for
    what does not fit.
    """
    if not extension.use_compiled(x.device):
        return group_norm_reference(x, weight, bias, groups, eps, silu, offset)
    _register()
    return torch.ops.microdreamer.group_norm(x, weight, bias, groups, eps, silu, offset)


def group_norm_reference(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float = 1e-5, silu: bool = False, offset: Tensor | None = None
) -> Tensor:
    """The plain-PyTorch twin of `group_norm`."""
    shifted = x if offset is None else x + offset[:, None]
    out = F.group_norm(shifted.transpose(1, 2), groups, weight, bias, eps)
    return (F.silu(out) if silu else out).transpose(1, 2).contiguous()


@functools.cache
def _register() -> None:
    """Shape inference and gradient of the op, once the extension is loaded."""

    @torch.library.register_fake("microdreamer::group_norm")
    def fake(x, *_):
        return torch.empty_like(x)

    differentiate_by_twin("microdreamer::group_norm", group_norm_reference)
