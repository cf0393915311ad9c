"""Group normalisation of tokens, with SiLU where wanted, for networks whose channels come last in memory.

PyTorch's own wants channels first on a GPU and copies there and back; this one reads and writes each value where it lies. Tokens are
contiguous [N,P,C] in float32, float16 or bfloat16; on a GPU, C must be a multiple of 16 bytes and at most 4096. Everything is
differentiable and raises ValueError for what does not fit.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from microdreamer.kernels import extension
from microdreamer.kernels.extension import Gradient, gradient_by_twin


def group_norm(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float = 1e-5, silu: bool = False, offset: Tensor | None = None
) -> Tensor:
    """x [N,P,C] with weight and bias [C] of its type -> the same shape and type.

    `offset` [N,C] or [1,C], whose rows may be parts of longer ones, is added to x first. Every group of C / groups neighbouring
    channels of a sample gets mean 0 and variance 1 over its P pixels (Wu and He 2018, arXiv 1803.08494, equation 1, in float32),
    then its channels' weights and biases, then `silu`.
    """
    if not extension.use_compiled(x.device):
        return group_norm_reference(x, weight, bias, groups, eps, silu, offset)
    return torch.ops.microdreamer.group_norm(x, weight, bias, groups, eps, silu, offset)


def group_moments(x: Tensor, groups: int) -> Tensor:
    """[N,S,groups,3] float32: of a group's values in S slices of the pixels the number, the mean and the squared differences' sum."""
    if not extension.use_compiled(x.device):
        return group_moments_reference(x, groups)
    return torch.ops.microdreamer.group_moments(x, groups)


def group_normalise(x: Tensor, moments: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, silu: bool = False) -> Tensor:
    """`group_norm` of x [N,P,C] by the moments of its groups."""
    if not extension.use_compiled(x.device):
        return group_normalise_reference(x, moments, weight, bias, eps, silu)
    return torch.ops.microdreamer.group_normalise(x, moments, weight, bias, eps, silu)


def moment_slices(pixels: int) -> int:
    """Into how many slices `group_moments` cuts this many pixels: as many as keep a GPU busy, and one where nothing was built."""
    return torch.ops.microdreamer.moment_slices(pixels) if extension.load() else 1


# ---- Plain-PyTorch twins ----


def group_norm_reference(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float = 1e-5, silu: bool = False, offset: Tensor | None = None
) -> Tensor:
    shifted = x if offset is None else x + offset[:, None]
    out = F.group_norm(shifted.transpose(1, 2), groups, weight, bias, eps)
    return (F.silu(out) if silu else out).transpose(1, 2).contiguous()


def group_moments_reference(x: Tensor, groups: int) -> Tensor:
    samples, pixels, _ = x.shape
    slices = moment_slices(pixels)
    if groups == 0:
        return x.new_empty((samples, slices, 0, 3), dtype=torch.float32)
    moments = x.new_zeros((samples, slices, groups, 3), dtype=torch.promote_types(x.dtype, torch.float32))
    for index, part in enumerate(x.split(max(-(-pixels // slices), 1), dim=1)):
        values = part.unflatten(2, (groups, -1)).transpose(1, 2).flatten(2).to(moments.dtype)  # [N,groups,values]
        mean = values.mean(2)
        moments[:, index] = torch.stack([torch.full_like(mean, values.shape[2]), mean, (values - mean[..., None]).square().sum(2)], dim=-1)
    return moments


def group_normalise_reference(x: Tensor, moments: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, silu: bool = False) -> Tensor:
    count, mean, spread = moments.unbind(-1)  # [N,S,groups]
    whole = (count * mean).sum(1, keepdim=True) / count.sum(1, keepdim=True)
    variance = (spread + count * (mean - whole).square()).sum(1) / count.sum(1)
    rstd = (variance + eps).rsqrt()
    width = x.shape[2] // moments.shape[2]
    scale = rstd.repeat_interleave(width, dim=1)[:, None] * weight
    out = (x - whole[:, 0].repeat_interleave(width, dim=1)[:, None]) * scale + bias
    return (F.silu(out) if silu else out).to(x.dtype)


# ---- The ops: shapes for torch.compile, and autograd ----


def _fake_moments(x, groups):
    return x.new_empty((x.shape[0], moment_slices(x.shape[1]), groups, 3), dtype=torch.float32)


_by_twin = gradient_by_twin(group_norm_reference)


def _backward(ctx, v_out):
    """By a kernel where only x and its offset want a gradient, as in networks whose weights are not trained; by the twin otherwise."""
    needed = (*ctx.needs_input_grad, False)[:7]
    if needed[1] or needed[2]:
        return _by_twin.backward(ctx, v_out)
    x, weight, bias, *_, offset = (*ctx.saved_tensors, None)[:7]
    v_x = torch.ops.microdreamer.group_norm_bwd(v_out.contiguous(), x, weight, bias, *ctx.rest[3:6], offset)
    v_offset = v_x.sum(dim=1) if needed[6] else None
    if needed[6] and len(offset) < len(x):
        v_offset = v_offset.sum(dim=0, keepdim=True)
    return (v_x if needed[0] else None, *[None] * 5, v_offset)[: len(ctx.needs_input_grad)]


extension.register("group_norm", fake=lambda x, *_: torch.empty_like(x), gradient=Gradient(_backward, _by_twin.save))
extension.register("group_norm_bwd", fake=lambda v_out, x, *_: torch.empty_like(x))
extension.register("group_moments", fake=_fake_moments, gradient=gradient_by_twin(group_moments_reference))
extension.register("group_normalise", fake=lambda x, *_: torch.empty_like(x), gradient=gradient_by_twin(group_normalise_reference))
