"""What networks do to tokens between two products, each in one pass over memory, as compiled ops and as plain PyTorch.

All tensors are contiguous and of one type: float32, float16 or bfloat16. On a GPU, rows must be multiples of 16 bytes. Sums and
statistics are in float32. Differentiable. Every function raises ValueError for tensors that do not fit together.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from microdreamer.kernels import extension
from microdreamer.kernels.extension import Gradient, gradient_by_twin


def add_bias(x: Tensor, bias: Tensor, residual: Tensor | None = None) -> Tensor:
    """x [N,P,C] + bias [C] (+ residual [N,P,C])."""
    if not extension.use_compiled(x.device):
        return add_bias_reference(x, bias, residual)
    return torch.ops.microdreamer.add_bias(x, bias, residual)


def gated_gelu(x: Tensor, beside: Tensor | None = None) -> Tensor:
    """[N,P,2C] -> [N,P,C]: the first half of the channels times the GELU of the second (Shazeer 2020, arXiv 2002.05202, GEGLU).

    With `beside` [N,P,B] -> [N,P,C+B+8]: then `beside`, a one and seven zeros, for a matrix with a column for each of them to multiply:
    two linear maps and a bias as one product.
    """
    if not extension.use_compiled(x.device):
        return gated_gelu_reference(x, beside)
    return torch.ops.microdreamer.gated_gelu(x, beside)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Layer normalisation of x [N,P,C] with weight and bias [C] (Ba et al. 2016, arXiv 1607.06450).

    On a GPU a row is at most 5120 bytes.
    """
    if not extension.use_compiled(x.device):
        return layer_norm_reference(x, weight, bias, eps)
    return torch.ops.microdreamer.layer_norm(x, weight, bias, eps)


def add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """x + residual [N,P,C] (+ offset [N,C] of the sample, whose rows may be parts of longer ones), and the `layer_norm` of that."""
    if not extension.use_compiled(x.device):
        return add_layer_norm_reference(x, residual, offset, weight, bias, eps)
    return torch.ops.microdreamer.add_layer_norm(x, residual, offset, weight, bias, eps)


# ---- Plain-PyTorch twins, with the arguments in the ops' order ----


def add_bias_reference(x: Tensor, bias: Tensor, residual: Tensor | None = None) -> Tensor:
    return x + bias if residual is None else x + bias + residual


def gated_gelu_reference(x: Tensor, beside: Tensor | None = None) -> Tensor:
    value, gate = x.chunk(2, dim=-1)
    gated = value * F.gelu(gate)
    return gated if beside is None else torch.cat([gated, beside, F.pad(torch.ones_like(beside[..., :1]), (0, 7))], dim=-1)


def layer_norm_reference(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def add_layer_norm_reference(
    x: Tensor, residual: Tensor, offset: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    total = x + residual if offset is None else x + residual + offset[:, None]
    return total, layer_norm_reference(total, weight, bias, eps)


# ---- The ops: shapes for torch.compile, and autograd ----


def _fake_gated_gelu(x, beside=None):
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 2 + (0 if beside is None else beside.shape[-1] + 8)))


def _fake_add_layer_norm(x, *_):
    return torch.empty_like(x), torch.empty_like(x)


def _sum_backward(ctx, v_out):
    """Of a sum: the same for all of its terms."""
    needed = (*ctx.needs_input_grad, False)[:3]
    found = v_out if needed[0] else None, v_out.sum(dim=(0, 1)) if needed[1] else None, v_out if needed[2] else None
    return found[: len(ctx.needs_input_grad)]


extension.register("add_bias", fake=lambda x, *_: torch.empty_like(x), gradient=Gradient(_sum_backward))
extension.register("gated_gelu", fake=_fake_gated_gelu, gradient=gradient_by_twin(gated_gelu_reference))
extension.register("layer_norm", fake=lambda x, *_: torch.empty_like(x), gradient=gradient_by_twin(layer_norm_reference))
extension.register("add_layer_norm", fake=_fake_add_layer_norm, gradient=gradient_by_twin(add_layer_norm_reference))
