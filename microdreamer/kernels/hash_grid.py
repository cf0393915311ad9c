"""Multiresolution hash grid: features of points from tables of several resolutions, as a compiled op and as plain PyTorch.

Mueller, Evans, Schied and Keller, "Instant Neural Graphics Primitives with a Multiresolution Hash Encoding" (2022), in the
layout of tiny-cuda-nn's HashGrid, so that its parameters can be taken over. Level l spans the unit cube with

    scale_l = growth^l base_resolution - 1 cells,   resolution_l = ceil(scale_l) + 1 vertices an axis,

and stands at x scale_l + 1/2 in units of cells. Vertex (i, j, k) has the entry i + resolution j + resolution^2 k where that
many fit into a table of 2^log2_table_size (a dense level), and i xor 2654435761 j xor 805459861 k otherwise, both modulo the
number of entries. A point's features are those of the eight corners of its cell, blended linearly.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from microdreamer.kernels import extension
from microdreamer.kernels.extension import Gradient

PRIME_Y, PRIME_Z = 2654435761, 805459861  # of the layout
MAX_LEVELS = 32
FEATURES = (1, 2, 4, 8)
INITIAL_RANGE = 1e-4  # parameters start even in +- this
_UINT32 = 0xFFFFFFFF
LARGEST_CELL = 2147483520.0  # the last float32 below 2^31: where cells of points far outside end


def is_hashed(resolution: int, entries: int) -> bool:
    """Whether a level of so many vertices an axis has too few entries for all of them."""
    return resolution**3 > entries


@dataclasses.dataclass(frozen=True)
class HashGridSpec:
    """A grid of `levels` (1 to 32), each with tables of at most 2^`log2_table_size` entries of `features` (1, 2, 4, 8) floats.

    `base_resolution` and `growth` from level to level fix the resolutions, which are computed in float32 as the layout has them.
    Raises ValueError for a value out of range.
    """

    levels: int = 16
    features: int = 2
    log2_table_size: int = 19
    base_resolution: int = 16
    growth: float = 2.0

    def __post_init__(self) -> None:
        if not 1 <= self.levels <= MAX_LEVELS:
            raise ValueError(f"levels={self.levels}: expected 1 to {MAX_LEVELS}")
        if self.features not in FEATURES:
            raise ValueError(f"features={self.features}: expected one of {', '.join(map(str, FEATURES))}")
        if not 3 <= self.log2_table_size <= 30:
            raise ValueError(f"log2_table_size={self.log2_table_size}: expected 3 to 30")
        if self.base_resolution < 2 or self.growth < 1:
            raise ValueError(f"base_resolution={self.base_resolution}, growth={self.growth}: expected at least 2 and 1")
        if max(self.resolutions) > 2**31 - 1:
            raise ValueError(f"the finest level has {max(self.resolutions)} vertices an axis: expected below 2^31; take a smaller growth")

    @functools.cached_property
    def scales(self) -> tuple[float, ...]:
        """Cells along the unit interval, float32 values."""
        exponents = np.arange(self.levels, dtype=np.float32) * np.log2(np.float32(self.growth))
        return tuple((np.exp2(exponents) * np.float32(self.base_resolution) - np.float32(1)).tolist())

    @functools.cached_property
    def resolutions(self) -> tuple[int, ...]:
        """Vertices an axis."""
        return tuple(int(np.ceil(scale)) + 1 for scale in self.scales)

    @functools.cached_property
    def offsets(self) -> tuple[int, ...]:
        """The first entry of each level, then the number of all entries."""
        entries = [min(-(-(resolution**3) // 8) * 8, 2**self.log2_table_size) for resolution in self.resolutions]
        return (0, *np.cumsum(entries).tolist())

    def is_hashed(self, level: int) -> bool:
        return is_hashed(self.resolutions[level], self.offsets[level + 1] - self.offsets[level])

    @property
    def num_params(self) -> int:
        return self.offsets[-1] * self.features

    @property
    def width(self) -> int:
        """Features of an encoded point."""
        return self.levels * self.features


def hash_grid_encode(
    points: Tensor,
    params: Tensor,
    spec: HashGridSpec,
    *,
    half: bool = False,
    used: Tensor | None = None,
    deterministic: bool | None = None,
    compiled: bool | None = None,
) -> Tensor:
    """Features [N, levels * features] of points [N,3], level by level.

    The grid spans [0,1]^3; points outside are not clipped: their cells wrap around. params [spec.num_params]: entry e of level l
    starts at (offsets[l] + e) * features. Both float32 on one device. A point that is not finite has features that are not numbers.

    Gradients reach points (piecewise trilinear: they jump at cell faces) and params, and can be differentiated once more, in plain
    PyTorch; asking for a third derivative raises RuntimeError (`compiled=False` has it).

    `half` rounds the features to bfloat16, and their gradients may be that too. `used` [] int32: points from there on only fill a list
    up; they are not looked up, and their features are zeros.

    `deterministic` gives the same gradients bit for bit on CUDA, in twice the time; None follows
    `torch.use_deterministic_algorithms`. On the CPU they always repeat. `compiled` chooses between the op and
    `hash_grid_encode_reference`; None takes the op where there is one. Raises ValueError for tensors of wrong shape or type.
    """
    if points.dim() != 2 or points.shape[1] != 3:
        raise ValueError(f"points: expected shape [N,3], got {list(points.shape)}")
    if tuple(params.shape) != (spec.num_params,):
        raise ValueError(f"params: expected shape [{spec.num_params}] for {spec}, got {list(params.shape)}")
    if points.dtype != params.dtype or points.device != params.device:
        raise ValueError(f"params: expected {points.dtype} on {points.device} like points, got {params.dtype} on {params.device}")
    if not extension.use_compiled(points.device, asked=compiled):
        return hash_grid_encode_reference(points, params, spec, half=half, used=used)
    if deterministic is None:
        deterministic = torch.are_deterministic_algorithms_enabled()
    return torch.ops.microdreamer.hash_grid_encode(
        points.contiguous(), params.contiguous(), spec.scales, spec.resolutions, spec.offsets, spec.features, deterministic, half, used
    )


class _Known(torch.autograd.Function):
    """An encoding that is there already, with the gradient of `hash_grid_encode`."""

    @staticmethod
    def forward(
        ctx, encoding: Tensor, points: Tensor, params: Tensor, used: Tensor | None, spec: HashGridSpec, deterministic: bool
    ) -> Tensor:
        ctx.save_for_backward(points, params, used)
        ctx.settings = spec.scales, spec.resolutions, spec.offsets, spec.features, deterministic
        return encoding.view_as(encoding)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, v_encoding):
        points, params, used = ctx.saved_tensors
        _, for_points, for_params, *_ = ctx.needs_input_grad
        v_points, v_params = torch.ops.microdreamer.hash_grid_encode_bwd(
            v_encoding.contiguous(), points, params, *ctx.settings, used, for_points, for_params
        )
        return None, v_points if for_points else None, v_params if for_params else None, None, None, None


def hash_grid_known(encoding: Tensor, points: Tensor, params: Tensor, spec: HashGridSpec, *, used: Tensor | None = None) -> Tensor:
    """`encoding`, as `hash_grid_encode` gave it for these points and params, differentiable once as if it were looked up now.

    Without the op it is looked up again.
    """
    if not extension.use_compiled(points.device) or params.dtype != torch.float32:
        return hash_grid_encode_reference(points, params, spec, half=encoding.dtype == torch.bfloat16, used=used)
    return _Known.apply(encoding, points.contiguous(), params.contiguous(), used, spec, torch.are_deterministic_algorithms_enabled())


def hash_grid_slope(points: Tensor, params: Tensor, v_encoding: Tensor, spec: HashGridSpec, *, compiled: bool | None = None) -> Tensor:
    """How sum(v_encoding * `hash_grid_encode`(points, params)) changes with each point: [N,3], for v_encoding [N, levels * features].

    The chain rule's last link for the gradient of a field, without a graph inside of a graph. Differentiable once more in points,
    params and v_encoding, that is, by second derivatives of the encoding.
    """
    if not extension.use_compiled(points.device, asked=compiled):
        axes = torch.eye(3, dtype=points.dtype, device=points.device)
        return torch.stack([(v_encoding * _encode_along(points, params, spec, axis.expand(points.shape))).sum(-1) for axis in axes], dim=1)
    return torch.ops.microdreamer.hash_grid_encode_bwd(
        v_encoding.contiguous(),
        points.contiguous(),
        params.contiguous(),
        spec.scales,
        spec.resolutions,
        spec.offsets,
        spec.features,
        torch.are_deterministic_algorithms_enabled(),
        None,
        True,
        False,
    )[0]


class HashGrid(nn.Module):
    """A hash grid with its parameters: points [N,3] in [0,1]^3 -> features [N, spec.width]. Starts even in +-1e-4."""

    def __init__(self, spec: HashGridSpec, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.params = nn.Parameter((2 * torch.rand(spec.num_params, generator=generator) - 1) * INITIAL_RANGE)

    def forward(self, points: Tensor, *, half: bool = False, used: Tensor | None = None) -> Tensor:
        return hash_grid_encode(points, self.params, self.spec, half=half, used=used)

    def known(self, encoding: Tensor, points: Tensor, *, used: Tensor | None = None) -> Tensor:
        return hash_grid_known(encoding, points, self.params, self.spec, used=used)

    def slope(self, points: Tensor, v_encoding: Tensor) -> Tensor:
        return hash_grid_slope(points, self.params, v_encoding, self.spec)

    def extra_repr(self) -> str:
        return f"{self.spec}, {self.spec.num_params} parameters"


# ---- The op: shapes for torch.compile, and autograd ----


def _fake_encode(points, params, scales, resolutions, offsets, features, deterministic, half, used):
    return points.new_empty((points.shape[0], len(scales) * features), dtype=torch.bfloat16 if half else None)


def _fake_backward(v_encoding, points, params, scales, resolutions, offsets, features, deterministic, used, for_points, for_params):
    v_points = torch.empty_like(points) if for_points else points.new_empty(0)
    return v_points, torch.empty_like(params) if for_params else params.new_empty(0)


def _save(ctx, inputs, output) -> None:
    points, params, *ctx.settings, _, used = inputs
    ctx.save_for_backward(points, params, used)


def _backward(ctx, v_encoding):
    for_points, for_params = ctx.needs_input_grad[:2]
    points, params, used = ctx.saved_tensors
    v_points, v_params = torch.ops.microdreamer.hash_grid_encode_bwd(
        v_encoding.contiguous(), points, params, *ctx.settings, used, for_points, for_params
    )
    return (v_points if for_points else None, v_params if for_params else None, *[None] * (len(ctx.settings) + 2))


def _differentiate_gradient(ctx, u_points, u_params):
    """The gradient of `hash_grid_encode_bwd`, whose results are linear in v_encoding and in params: that of sum(v_encoding * change),
    where `change` is how the encoding changes along u_points and u_params."""
    if torch.is_grad_enabled():
        raise RuntimeError("hash_grid_encode has no third derivative; pass compiled=False, whose plain PyTorch has it")
    wanted = ctx.needs_input_grad[:3]
    scales, resolutions, offsets, features, _, for_points, for_params = ctx.settings
    layout = _Layout(scales, resolutions, offsets, features)
    *saved, used = ctx.saved_tensors
    with torch.enable_grad():
        tensors = [tensor.detach().requires_grad_(needed) for tensor, needed in zip(saved, wanted, strict=True)]
        v_encoding, points, params = tensors
        change = _encode_along(points, params, layout, u_points) if for_points else torch.zeros_like(v_encoding)
        if for_params:
            change = change + _encode(points, u_params, layout)
        if used is not None:
            change = _only_used(change, used)
        found = iter(torch.autograd.grad((v_encoding * change).sum(), [t for t in tensors if t.requires_grad], allow_unused=True))
    return *(next(found) if needed else None for needed in wanted), *[None] * (len(ctx.settings) + 1)


def _save_for_gradient(ctx, inputs, output) -> None:
    *settings, used, for_points, for_params = inputs[3:]
    ctx.settings = *settings, for_points, for_params
    ctx.save_for_backward(*inputs[:3], used)


extension.register("hash_grid_encode", fake=_fake_encode, gradient=Gradient(_backward, _save))
extension.register("hash_grid_encode_bwd", fake=_fake_backward, gradient=Gradient(_differentiate_gradient, _save_for_gradient))


# ---- The plain-PyTorch twin ----


class _Layout(NamedTuple):
    """What the look-up needs of a HashGridSpec, as the ops are given it."""

    scales: Sequence[float]
    resolutions: Sequence[int]
    offsets: Sequence[int]
    features: int


def hash_grid_encode_reference(
    points: Tensor, params: Tensor, spec: HashGridSpec, *, half: bool = False, used: Tensor | None = None
) -> Tensor:
    """`hash_grid_encode` in plain PyTorch, for any floating dtype: the definition that the op is compared with."""
    encoding = _encode(points, params, spec)
    encoding = encoding if used is None else _only_used(encoding, used)
    return encoding.bfloat16() if half else encoding


def _only_used(rows: Tensor, used: Tensor) -> Tensor:
    """rows [N,...] with zeros from row `used` on."""
    return torch.where((torch.arange(len(rows), device=rows.device) < used)[:, None], rows, 0)


def _encode(points: Tensor, params: Tensor, layout: HashGridSpec | _Layout) -> Tensor:
    parts = []
    for scale, resolution, table in _levels(params, layout):
        corners, x, y, z = _corners(points, table, scale, resolution)
        parts.append(_blend(_blend(_blend(corners, x), y), z))
    return torch.cat(parts, dim=1)


def _encode_along(points: Tensor, params: Tensor, layout: HashGridSpec | _Layout, directions: Tensor) -> Tensor:
    """How the encoding [N, levels * features] changes as points [N,3] move along directions [N,3], within their cells."""
    along_x, along_y, along_z = directions.unbind(1)
    parts = []
    for scale, resolution, table in _levels(params, layout):
        corners, x, y, z = _corners(points, table, scale, resolution)
        change, corners = _times(_difference(corners), along_x), _blend(corners, x)
        change, corners = _blend(change, y) + _times(_difference(corners), along_y), _blend(corners, y)
        parts.append(scale * (_blend(change, z) + _times(_difference(corners), along_z)))
    return torch.cat(parts, dim=1)


def _levels(params: Tensor, layout: HashGridSpec | _Layout) -> Iterator[tuple[float, int, Tensor]]:
    """Scale, resolution and entries [E,F] of each level; split at once, as the gradient of each part alone would be as large as all."""
    tables = params.reshape(-1, layout.features).split([end - start for start, end in itertools.pairwise(layout.offsets)])
    return zip(layout.scales, layout.resolutions, tables, strict=True)


def _corners(points: Tensor, table: Tensor, scale: float, resolution: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The features [N,2,2,2,F] at the corners of the cells that points lie in, index order z, y, x, and where in them x, y, z [N] are."""
    # The layout's fused multiply-add: the product of two float32 is exact in float64.
    positions = (points.double() * scale + 0.5).to(points.dtype)
    lower = positions.detach().floor()
    cells = lower.double().nan_to_num(-LARGEST_CELL).clamp(-LARGEST_CELL, LARGEST_CELL).long()
    vertices = torch.stack([cells, cells + 1], dim=1) & _UINT32  # [N,2,3]
    hashed = is_hashed(resolution, len(table))
    steps = (1, PRIME_Y, PRIME_Z) if hashed else (1, resolution, resolution**2)
    x, y, z = (vertices[..., axis] * step & _UINT32 for axis, step in enumerate(steps))  # products wrap, their low 32 bits are right
    x, y, z = x[:, None, None, :], y[:, None, :, None], z[:, :, None, None]
    index = (x ^ y ^ z if hashed else x + y + z & _UINT32) % len(table)
    corners = table.index_select(0, index.reshape(-1)).reshape(*index.shape, table.shape[1])
    return corners, *(positions - lower).unbind(1)


def _blend(ends: Tensor, share: Tensor) -> Tensor:
    """ends [N,...,2,F] at share [N] of the way from the first to the second: [N,...,F]."""
    return _times(ends[..., 0, :], 1 - share) + _times(ends[..., 1, :], share)


def _difference(ends: Tensor) -> Tensor:
    return ends[..., 1, :] - ends[..., 0, :]


def _times(values: Tensor, factors: Tensor) -> Tensor:
    """values [N,...] by factors [N]."""
    return values * factors.reshape(-1, *[1] * (values.dim() - 1))
