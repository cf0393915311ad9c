"""Differentiable texture look-up with mip-maps: as a compiled op and as plain PyTorch.

The texture sampling of Laine et al., "Modular Primitives for High-Performance Differentiable Rendering" (2020), section 3.3.
A texture's texel (x, y) is centred at uv = ((x + 0.5) / W, (y + 0.5) / H), x along the texture's columns and y along its rows.

Each level of the pyramid halves both sides of the one before, rounded down, until both are 1; a texel is the mean of what it covers
(a box of 2 texels a side; where the side n = 2m + 1 is odd, of 2 + 1/m texels, whose outer parts count by the share that is covered:
Guthe and Heckbert, "Non-power-of-two mipmapping", 2005). A side that is 1 stays 1. So every level has the mean of the texture.

A pixel's footprint is the ellipse to which the Jacobian of uv, in texels, maps a pixel's unit circle. The pixel sees the level log2
(length of the ellipse's longer axis), limited to the levels that exist, interpolated linearly between the two whole levels next to it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from microdreamer.kernels import extension
from microdreamer.kernels.extension import Gradient

FILTERS = ("nearest", "linear", "linear-mipmap-linear")
WRAPS = ("wrap", "clamp")
MAX_SIDE = 1 << 15  # texels; so that the texels of a pyramid are counted in 32 bits


class Mips(NamedTuple):
    """A texture and its coarser levels, as `build_mips` makes them.

    texels [B,T,S]: the levels' texels one level after the other, row by row, finest first; S >= channels, the rest is padding, so
    that a texel can be read at once. levels counts the texture itself.
    """

    texels: Tensor
    height: int
    width: int
    channels: int
    levels: int


def texture(
    tex: Tensor | Mips,
    uv: Tensor,
    uv_da: Tensor | None = None,
    filter: str = "linear",
    wrap: str = "wrap",
    max_level: int | None = None,
    *,
    mask: Tensor | None = None,
    deterministic: bool | None = None,
    compiled: bool | None = None,
) -> Tensor:
    """Colours [B,h,w,C] of a texture at the coordinates of B pictures.

    tex [B,H,W,C] or [1,H,W,C] (one for all pictures), any C, sides up to `MAX_SIDE`; or what `build_mips` made of it, for a texture
    that is sampled more than once. uv [B,h,w,2] = (s, t), 0..1 over the texture. uv_da [B,h,w,4] = (ds/dX, ds/dY, dt/dX, dt/dY) with
    X, Y in pixels; "linear-mipmap-linear" needs it and the other filters do not look at it. All float32 on one device.

    `wrap`: "wrap" repeats the texture, "clamp" continues its border. `max_level` is the coarsest level used (0: the texture
    alone); None is the one of a single texel. With mask [B,h,w] bool, pixels where it is False are 0, take no gradient, and cost
    nothing.

    A pixel whose uv is not finite is 0 and takes no gradient. A footprint that is not finite is seen at the coarsest level.

    Gradients reach tex through all levels, uv, and uv_da where the level lies strictly between the finest and the coarsest;
    "nearest" has none for uv. On the CPU they are the same bits for any number of threads. On CUDA they are summed in any order,
    unless `deterministic` (None: as `torch.use_deterministic_algorithms` says), which adds whole multiples of about 1e-12 of the
    largest incoming gradient; there, a gradient that is not finite makes the whole texture's NaN.

    `compiled` chooses between the op and plain PyTorch (which takes float64 too); None takes the op where there is one. ValueError
    on tensors that do not fit together, naming the tensor.
    """
    if filter not in FILTERS:
        raise ValueError(f"filter: expected one of {', '.join(FILTERS)}, got {filter!r}")
    if wrap not in WRAPS:
        raise ValueError(f"wrap: expected one of {', '.join(WRAPS)}, got {wrap!r}")
    mipmapped = filter == "linear-mipmap-linear"
    if mipmapped and uv_da is None:
        raise ValueError('uv_da: filter "linear-mipmap-linear" needs the derivatives of uv, got None')
    uv_da = uv_da if mipmapped else None
    if isinstance(tex, Mips):
        mips = tex
        levels = _levels(mips.height, mips.width, max_level)
        if mipmapped and max_level is not None and levels > mips.levels:
            raise ValueError(
                f"max_level: the pyramid was built with {mips.levels} levels, expected at most {mips.levels - 1}, got {max_level}"
            )
        levels = min(levels, mips.levels)
    elif mipmapped:
        mips = build_mips(tex, max_level, compiled=compiled)
        levels = mips.levels
    else:
        _check_texture(tex)
        _levels(tex.shape[1], tex.shape[2], max_level)
        mips = Mips(tex.flatten(1, 2), tex.shape[1], tex.shape[2], tex.shape[3], 1)
        levels = 1
    _check_pixels(mips, uv, uv_da, mask)
    if deterministic is None:
        deterministic = torch.are_deterministic_algorithms_enabled()
    if not extension.use_compiled(uv.device, asked=compiled):
        return _sample_reference(mips, uv, uv_da, mask, filter, wrap, levels)
    tensors = [None if tensor is None else tensor.contiguous() for tensor in (mips.texels, uv, uv_da, mask)]
    settings = (mips.height, mips.width, mips.channels, levels, FILTERS.index(filter), wrap == "wrap", deterministic)
    return torch.ops.microdreamer.texture_sample(*tensors, *settings)


def build_mips(tex: Tensor, max_level: int | None = None, *, compiled: bool | None = None) -> Mips:
    """The pyramid of tex [B,H,W,C], for several calls of `texture`: levels 0 to `max_level` (None: to a single texel).

    Differentiable. float32; plain PyTorch (`compiled` False) takes float64 too.
    """
    _check_texture(tex)
    _, height, width, channels = tex.shape
    levels = _levels(height, width, max_level)
    if extension.use_compiled(tex.device, asked=compiled):
        texels = torch.ops.microdreamer.texture_mips(tex.contiguous(), levels)
    else:
        texels = _build_mips_reference(tex, levels)
    return Mips(texels, height, width, channels, levels)


def level_sizes(height: int, width: int, levels: int) -> list[tuple[int, int]]:
    """(height, width) of the first `levels` levels of a pyramid."""
    return [(max(1, height >> level), max(1, width >> level)) for level in range(levels)]


def _levels(height: int, width: int, max_level: int | None) -> int:
    if max_level is not None and max_level < 0:
        raise ValueError(f"max_level: expected 0 or more, or None for all levels, got {max_level}")
    every = max(height, width).bit_length()
    return every if max_level is None else min(every, max_level + 1)


def _texel_floats(channels: int) -> int:
    """Floats that a pyramid gives a texel: whole groups of 4 from 3 channels up."""
    return channels if channels < 3 else (channels + 3) // 4 * 4


def _check_texture(tex: Tensor) -> None:
    if tex.dim() != 4 or min(tex.shape[1:]) < 1 or max(tex.shape[1:3]) > MAX_SIDE:
        raise ValueError(f"tex: expected [B,H,W,C] with sides of 1 to {MAX_SIDE} texels, got {list(tex.shape)}")


def _check_pixels(mips: Mips, uv: Tensor, uv_da: Tensor | None, mask: Tensor | None) -> None:
    if uv.dim() != 4 or uv.shape[-1] != 2:
        raise ValueError(f"uv: expected [B,h,w,2], got {list(uv.shape)}")
    if mips.texels.shape[0] not in (1, uv.shape[0]):
        raise ValueError(f"tex: expected 1 texture or one for each of the {uv.shape[0]} pictures of uv, got {mips.texels.shape[0]}")
    if uv_da is not None and uv_da.shape != (*uv.shape[:3], 4):
        raise ValueError(f"uv_da: expected {[*uv.shape[:3], 4]} like uv, got {list(uv_da.shape)}")
    if mask is not None and (mask.shape != uv.shape[:3] or mask.dtype != torch.bool):
        raise ValueError(f"mask: expected bool {list(uv.shape[:3])} like uv, got {mask.dtype} {list(mask.shape)}")
    for name, tensor in (("tex", mips.texels), ("uv_da", uv_da), ("mask", mask)):
        if tensor is not None and tensor.device != uv.device:
            raise ValueError(f"{name}: expected a tensor on {uv.device} like uv, got {tensor.device}")
        if tensor is not None and tensor is not mask and tensor.dtype != uv.dtype:
            raise ValueError(f"{name}: expected {uv.dtype} like uv, got {tensor.dtype}")


# ---- The ops: shapes for torch.compile, and autograd ----


def _fake_mips(tex, levels):
    batch, height, width, channels = tex.shape
    return tex.new_empty(batch, sum(h * w for h, w in level_sizes(height, width, levels)), _texel_floats(channels))


def _fake_mips_backward(v_texels, height, width, channels, levels):
    return v_texels.new_empty(v_texels.shape[0], height, width, channels)


def _save_mips(ctx, inputs, output) -> None:
    tex, levels = inputs
    ctx.settings = (*tex.shape[1:], levels)


def _mips_backward(ctx, v_texels):
    return torch.ops.microdreamer.texture_mips_bwd(v_texels.contiguous(), *ctx.settings), None


def _fake_sample(texels, uv, uv_da, mask, height, width, channels, *_):
    return uv.new_empty(*uv.shape[:3], channels)


def _fake_sample_backward(v_out, texels, uv, uv_da, mask, height, width, channels, levels, filter, wrap, deterministic, wanted):
    inputs = (texels, uv, uv_da)
    return tuple(torch.empty_like(tensor) if want else uv.new_empty(0) for tensor, want in zip(inputs, wanted, strict=True))


def _save_sample(ctx, inputs, output) -> None:
    tensors, ctx.settings = inputs[:4], inputs[4:]
    ctx.save_for_backward(*tensors)


def _sample_backward(ctx, v_out):
    texels, uv, uv_da, mask = ctx.saved_tensors
    nearest = ctx.settings[4] == FILTERS.index("nearest")
    wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1] and not nearest, ctx.needs_input_grad[2]]
    grads = torch.ops.microdreamer.texture_sample_bwd(v_out.contiguous(), texels, uv, uv_da, mask, *ctx.settings, wanted)
    grads = [grad if want else None for grad, want in zip(grads, wanted, strict=True)]
    return (*grads, None, *[None] * len(ctx.settings))


extension.register("texture_mips", fake=_fake_mips, gradient=Gradient(_mips_backward, _save_mips))
extension.register("texture_mips_bwd", fake=_fake_mips_backward)
extension.register("texture_sample", fake=_fake_sample, gradient=Gradient(_sample_backward, _save_sample))
extension.register("texture_sample_bwd", fake=_fake_sample_backward)


# ---- The plain-PyTorch twin ----


def _build_mips_reference(tex: Tensor, levels: int) -> Tensor:
    batch, _, _, channels = tex.shape
    level, texels = tex, [tex.reshape(batch, -1, channels)]
    for _ in range(1, levels):
        level = _halve(_halve(level, 1), 2)
        texels.append(level.reshape(batch, -1, channels))
    return torch.nn.functional.pad(torch.cat(texels, 1), (0, _texel_floats(channels) - channels))


def _halve(level: Tensor, axis: int) -> Tensor:
    """Box means along `axis`, to half of its length rounded down; a length of 1 stays."""
    length = level.shape[axis]
    half = length // 2
    if length == 1:
        return level
    if length % 2 == 0:
        return level.unflatten(axis, (half, 2)).mean(axis + 1)
    place = torch.arange(half, device=level.device)
    first, second, third = (level.index_select(axis, 2 * place + k) for k in range(3))
    place = place.to(level.dtype).reshape([-1 if axis == k else 1 for k in range(level.dim())])
    return ((half - place) * first + half * second + (place + 1) * third) / length


def _sample_reference(mips: Mips, uv: Tensor, uv_da: Tensor | None, mask: Tensor | None, filter: str, wrap: str, levels: int) -> Tensor:
    seen = uv.isfinite().all(-1)
    if mask is not None:
        seen = seen & mask
    uv = torch.where(seen[..., None], uv, 0.0)
    if filter == "nearest":
        colors = _nearest(mips, uv, wrap)
    elif filter == "linear":
        colors = _bilinear(mips, uv, wrap, torch.zeros_like(uv[..., 0], dtype=torch.int64))
    else:
        level = _footprint_level(uv_da, mips.height, mips.width, levels)
        finer = level.detach().floor().long()
        coarser = (finer + 1).clamp(max=levels - 1)
        fraction = (level - finer)[..., None]
        fine = _bilinear(mips, uv, wrap, finer)
        colors = fine + fraction * (_bilinear(mips, uv, wrap, coarser) - fine)
    return torch.where(seen[..., None], colors, 0.0)


def _footprint_level(uv_da: Tensor, height: int, width: int, levels: int) -> Tensor:
    """log2 of the longer axis of each pixel's footprint in texels, limited to 0 .. levels - 1."""
    texels_da = uv_da * uv_da.new_tensor([width, width, height, height])
    known = _squared_longer_axis(texels_da.detach()) < torch.inf
    squared_axis = _squared_longer_axis(torch.where(known[..., None], texels_da, 0.0))
    between = (squared_axis > 1) & (squared_axis < 4.0 ** (levels - 1))
    level = torch.where(between, squared_axis, 1.0).log2() / 2
    return torch.where(between, level, torch.where(known & (squared_axis <= 1), 0.0, levels - 1.0))


def _squared_longer_axis(texels_da: Tensor) -> Tensor:
    """The larger eigenvalue of J^T J, with J [[ds/dX, ds/dY], [dt/dX, dt/dY]] the Jacobian of uv in texels."""
    sx, sy, tx, ty = texels_da.unbind(-1)
    along_x, along_y, across = sx * sx + tx * tx, sy * sy + ty * ty, sx * sy + tx * ty
    half_difference = (along_x - along_y) / 2
    discriminant = half_difference * half_difference + across * across
    # At 0, for a circle, the square root has no gradient: the mean of the eigenvalues alone carries it.
    root = torch.where(discriminant > 0, discriminant, 1.0).sqrt()
    return (along_x + along_y) / 2 + torch.where(discriminant > 0, root, 0.0)


def _texels(mips: Mips, level: Tensor, row: Tensor, column: Tensor, width: Tensor) -> Tensor:
    """Texels [B,h,w,C] at (row, column) of each pixel's level."""
    sizes = level_sizes(mips.height, mips.width, mips.levels)
    starts = torch.tensor([sum(h * w for h, w in sizes[:k]) for k in range(len(sizes))], device=level.device)
    batch, total, floats = mips.texels.shape
    picture = torch.arange(level.shape[0], device=level.device)[:, None, None] * (total if batch > 1 else 0)
    return mips.texels.reshape(-1, floats)[picture + starts[level] + row * width + column][..., : mips.channels]


def _nearest(mips: Mips, uv: Tensor, wrap: str) -> Tensor:
    column, row = (
        ((value - value.floor() if wrap == "wrap" else value.clamp(0, 1)) * side).long().clamp(max=side - 1)
        for value, side in zip(uv.unbind(-1), (mips.width, mips.height), strict=True)
    )
    return _texels(mips, torch.zeros_like(row), row, column, torch.full_like(row, mips.width))


def _bilinear(mips: Mips, uv: Tensor, wrap: str, level: Tensor) -> Tensor:
    sizes = torch.tensor(level_sizes(mips.height, mips.width, mips.levels), device=uv.device)[level]
    height, width = sizes.unbind(-1)
    rows, down = _neighbors(uv[..., 1], height, wrap)
    columns, right = _neighbors(uv[..., 0], width, wrap)
    top, bottom = (
        torch.lerp(_texels(mips, level, row, columns[0], width), _texels(mips, level, row, columns[1], width), right[..., None])
        for row in rows
    )
    return torch.lerp(top, bottom, down[..., None])


def _neighbors(coordinate: Tensor, side: Tensor, wrap: str) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """The two texels, of `side` along an axis, between whose centres a coordinate lies, and the share of the second."""
    if wrap == "wrap":
        place = (coordinate - coordinate.floor()) * side - 0.5
    else:
        place = (coordinate * side - 0.5).clamp_min(-1.0).minimum(side.to(coordinate.dtype))
    first = place.detach().floor()
    share = place - first
    first = first.long()
    if wrap == "wrap":
        return (torch.where(first < 0, side - 1, first), torch.where(first + 1 >= side, 0, first + 1)), share
    return (first.clamp_min(0).minimum(side - 1), (first + 1).minimum(side - 1)), share
