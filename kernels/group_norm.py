"""Group normalisation of tokens, with SiLU where wanted, for networks whose channels come last in memory.

PyTorch's own wants channels first on a GPU and copies there and back; this one reads and writes each value where it lies.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import extension


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float = 1e-5, silu: bool = False) -> Tensor:
    """x [N,P,C] contiguous, in float32, float16 or bfloat16, like weight and bias [C] -> the same shape and type.

    Every group of C / groups neighbouring channels of a sample gets mean 0 and variance 1 over its P pixels (Wu and He 2018,
    arXiv 1803.08494, equation 1, in float32), then its channels' weights and biases, then `silu`. On a GPU, C must be a
    multiple of 16 bytes and at most 4096. Differentiable. Raises ValueError for what does not fit.
    """
    if not extension.use_compiled(x.device):
        return group_norm_reference(x, weight, bias, groups, eps, silu)
    _register()
    return torch.ops.microdreamer.group_norm(x, weight, bias, groups, eps, silu)


def group_norm_reference(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float = 1e-5, silu: bool = False) -> Tensor:
    """The plain-PyTorch twin of `group_norm`."""
    out = F.group_norm(x.transpose(1, 2), groups, weight, bias, eps)
    return (F.silu(out) if silu else out).transpose(1, 2).contiguous()


@functools.cache
def _register() -> None:
    """Shape inference and gradient of the op, once the extension is loaded."""

    @torch.library.register_fake("microdreamer::group_norm")
    def fake(x, weight, bias, groups, eps, silu):
        return torch.empty_like(x)

    def setup(ctx, inputs, output):
        x, weight, bias, ctx.groups, ctx.eps, ctx.silu = inputs
        ctx.save_for_backward(x, weight, bias)

    def backward(ctx, v_out):
        """By the twin: gradients through a network are wanted once an optimiser step, not once a level."""
        with torch.enable_grad():
            needed = zip(ctx.saved_tensors, ctx.needs_input_grad[:3], strict=True)
            inputs = [tensor.detach().requires_grad_(wanted) for tensor, wanted in needed]
            out = group_norm_reference(*inputs, ctx.groups, ctx.eps, ctx.silu)
        wanted = [tensor for tensor in inputs if tensor.requires_grad]
        found = iter(torch.autograd.grad(out, wanted, v_out))
        return *(next(found) if tensor.requires_grad else None for tensor in inputs), None, None, None

    torch.library.register_autograd("microdreamer::group_norm", backward, setup_context=setup)
