"""What a modulated transformer does to its tokens between two products: on the CPU, without gradients, each in one pass over memory.

Elsewhere, and where gradients are wanted, these are the plain-PyTorch twins, which round in more places: in bfloat16 the two agree to
its rounding, in float32 to float32's. Tensors are float32 or bfloat16, as autocast leaves them; N samples, C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from microdreamer.kernels import extension


def modulated_norm(x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None, silu: bool = False) -> Tensor:
    """Layer normalisation of x [N,...,C] without weights, then times 1 + scale [N,C] plus shift [N,C], then SiLU where that is asked.

    (adaLN of Peebles and Xie 2023, arXiv 2212.09748.) The compiled op rounds to what a product under autocast would take.
    """
    if not _compiled(x):
        return modulated_norm_reference(x, scale, shift, silu)
    bfloat16 = x.dtype == torch.bfloat16 or _autocast_to_bfloat16()
    return torch.ops.microdreamer.modulated_norm(_tokens(x), *_floats(scale, shift), silu, bfloat16).view(x.shape)


def gated_add(x: Tensor, h: Tensor, gate: Tensor | None = None) -> Tensor:
    """x + (1 + gate) h of x, h [N,...,C] and gate [N,C]; x + h without a gate. Of the type of x, or of h where that is the wider one."""
    if not _compiled(x) or (x.dtype, h.dtype) == (torch.bfloat16, torch.float32):
        return gated_add_reference(x, h, gate)
    return torch.ops.microdreamer.gated_add(_tokens(x), _tokens(h), *_floats(gate)).view(x.shape)


def squared_relu(x: Tensor) -> Tensor:
    """max(x, 0)^2 (So et al. 2021, arXiv 2109.08668)."""
    if not _compiled(x):
        return squared_relu_reference(x)
    return torch.ops.microdreamer.squared_relu(x.contiguous())


def normed_heads(qkv: Tensor, heads: int, query_scale: Tensor, key_scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [N,P,heads,d] of qkv [N,P,3*heads*d], the first two RMS-normalised with scales [d].

    Those of the compiled op lie in memory as [N,heads,P,d], which is how attention multiplies them. d is a multiple of 8 there.
    """
    parts = qkv.unflatten(-1, (3, heads, -1))
    if not _compiled(qkv) or parts.shape[-1] % 8:
        return normed_heads_reference(parts, query_scale, key_scale)
    made = torch.ops.microdreamer.normed_heads(parts.contiguous(), *_floats(query_scale, key_scale), RMS_EPSILON)
    return tuple(part.transpose(1, 2) for part in made)


RMS_EPSILON = torch.finfo(torch.float32).eps  # what `rms_norm` takes for float32 and narrower types


def _compiled(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.is_grad_enabled() and extension.use_compiled(x.device)


def _autocast_to_bfloat16() -> bool:
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16


def _tokens(x: Tensor) -> Tensor:
    return x.contiguous().view(len(x), -1, x.shape[-1])


def _floats(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(None if tensor is None else tensor.float() for tensor in tensors)


# ---- Plain-PyTorch twins ----


def _of_samples(modulation: Tensor, x: Tensor) -> Tensor:
    return modulation.view(len(x), *[1] * (x.dim() - 2), -1)


def modulated_norm_reference(x: Tensor, scale: Tensor | None, shift: Tensor | None, silu: bool) -> Tensor:
    h = F.layer_norm(x, x.shape[-1:])
    if scale is not None and shift is not None:
        h = h * (1 + _of_samples(scale, x)) + _of_samples(shift, x)
    return F.silu(h) if silu else h


def gated_add_reference(x: Tensor, h: Tensor, gate: Tensor | None) -> Tensor:
    return x + h if gate is None else x + (1 + _of_samples(gate, x)) * h


def squared_relu_reference(x: Tensor) -> Tensor:
    return F.relu(x).square()


def normed_heads_reference(parts: Tensor, query_scale: Tensor, key_scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = parts.unbind(-3)
    width = (parts.shape[-1],)
    return F.rms_norm(query, width, query_scale), F.rms_norm(key, width, key_scale), value


# ---- The ops: shapes for torch.compile ----


def _fake_normed_heads(qkv, *_):
    samples, tokens, _, heads, width = qkv.shape
    return tuple(qkv.new_empty(samples, heads, tokens, width) for _ in range(3))


def _fake_modulated_norm(x, scale, shift, silu, bfloat16):
    return torch.empty_like(x, dtype=torch.bfloat16 if bfloat16 else torch.float32)


extension.register("modulated_norm", fake=_fake_modulated_norm)
extension.register("gated_add", fake=lambda x, *_: torch.empty_like(x))
extension.register("squared_relu", fake=lambda x: torch.empty_like(x))
extension.register("normed_heads", fake=_fake_normed_heads)
