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
        return self.resolutions[level] ** 3 > self.offsets[level + 1] - self.offsets[level]

    @property
    def num_params(self) -> int:
        return self.offsets[-1] * self.features

    @property
    def width(self) -> int:
        """Features of an encoded point."""
        return self.levels * self.features


def hash_grid_encode(
    points: Tensor, params: Tensor, spec: HashGridSpec, *, deterministic: bool | None = None, compiled: bool | None = None
) -> Tensor:
    """Features [N, levels * features] of points [N,3], level by level.

    The grid spans [0,1]^3; points outside are not clipped: their cells wrap around. params [spec.num_params]: entry e of level l
    starts at (offsets[l] + e) * features. Both float32 on one device. A point that is not finite has features that are not numbers.

    Gradients reach points (piecewise trilinear: they jump at cell faces) and params. There is no second derivative: asking for
    one raises RuntimeError (`compiled=False` has it).

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
        return hash_grid_encode_reference(points, params, spec)
    if deterministic is None:
        deterministic = torch.are_deterministic_algorithms_enabled()
    return torch.ops.microdreamer.hash_grid_encode(
        points.contiguous(), params.contiguous(), spec.scales, spec.resolutions, spec.offsets, spec.features, deterministic
    )


class HashGrid(nn.Module):
    """A hash grid with its parameters: points [N,3] in [0,1]^3 -> features [N, spec.width]. Starts even in +-1e-4."""

    def __init__(self, spec: HashGridSpec, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.params = nn.Parameter((2 * torch.rand(spec.num_params, generator=generator) - 1) * INITIAL_RANGE)

    def forward(self, points: Tensor) -> Tensor:
        return hash_grid_encode(points, self.params, self.spec)

    def extra_repr(self) -> str:
        return f"{self.spec}, {self.spec.num_params} parameters"


# ---- The op: shapes for torch.compile, and autograd ----


def _fake_encode(points, params, scales, resolutions, offsets, features, deterministic):
    return points.new_empty((points.shape[0], len(scales) * features))


def _fake_backward(v_encoding, points, params, scales, resolutions, offsets, features, deterministic, for_points, for_params):
    v_points = torch.empty_like(points) if for_points else points.new_empty(0)
    return v_points, torch.empty_like(params) if for_params else params.new_empty(0)


def _save(ctx, inputs, output) -> None:
    points, params, *ctx.settings = inputs
    ctx.save_for_backward(points, params)


def _backward(ctx, v_encoding):
    for_points, for_params = ctx.needs_input_grad[:2]
    v_points, v_params = torch.ops.microdreamer.hash_grid_encode_bwd(
        v_encoding.contiguous(), *ctx.saved_tensors, *ctx.settings, for_points, for_params
    )
    return (v_points if for_points else None, v_params if for_params else None, *[None] * len(ctx.settings))


def _no_second_derivative(ctx, *_):
    raise RuntimeError("hash_grid_encode has no second derivative; pass compiled=False, whose plain PyTorch has it")


extension.register("hash_grid_encode", fake=_fake_encode, gradient=Gradient(_backward, _save))
extension.register("hash_grid_encode_bwd", fake=_fake_backward, gradient=Gradient(_no_second_derivative))


# ---- The plain-PyTorch twin ----


def hash_grid_encode_reference(points: Tensor, params: Tensor, spec: HashGridSpec) -> Tensor:
    """`hash_grid_encode` in plain PyTorch, for any floating dtype: the definition that the op is compared with."""
    table = params.reshape(-1, spec.features)
    parts = []
    for level in range(spec.levels):
        index, shares = _corners(points, spec, level)
        parts.append((shares.prod(-1)[..., None] * table[index]).sum(1))
    return torch.cat(parts, dim=1)


def hash_grid_encode_with_jacobian(points: Tensor, params: Tensor, spec: HashGridSpec) -> tuple[Tensor, Tensor]:
    """Features [N, levels * features] of points [N,3], and how they change along x, y and z: [N, 3, levels * features].

    Plain PyTorch of first derivatives, one look-up for both, differentiable in points and params: what a loss of a field's gradient
    needs, as `hash_grid_encode` has no second derivative. It holds 32 floats a point, level and feature for the backward pass.
    """
    table = params.reshape(-1, spec.features)
    parts = []
    for level, scale in enumerate(spec.scales):
        index, shares = _corners(points, spec, level)
        x, y, z = shares.unbind(-1)  # [N,8]
        slope = torch.where(_corner_bits(points.device).bool(), scale, -scale).to(points.dtype)  # [8,3]
        blends = torch.stack([x * y * z, slope[:, 0] * y * z, slope[:, 1] * x * z, slope[:, 2] * x * y], dim=1)
        with torch.autocast(points.device.type, enabled=False):  # an encoding is as exact as its table, like the op's
            parts.append(blends @ table[index])
    encoded = torch.cat(parts, dim=2)
    return encoded[:, 0], encoded[:, 1:]


def _corner_bits(device: torch.device) -> Tensor:
    """Whether each of a cell's eight corners is the upper one along x, y, z: [8,3], 0 or 1."""
    corners = torch.arange(8, device=device)
    return torch.stack([corners & 1, corners >> 1 & 1, corners >> 2], dim=-1)


def _corners(points: Tensor, spec: HashGridSpec, level: int) -> tuple[Tensor, Tensor]:
    """Of the cells that points lie in: the corners' entries [N,8] in the table of all levels, and their shares [N,8,3] along each axis."""
    scale, resolution = spec.scales[level], spec.resolutions[level]
    first, entries = spec.offsets[level], spec.offsets[level + 1] - spec.offsets[level]
    bits = _corner_bits(points.device)
    # The layout's fused multiply-add: the product of two float32 is exact in float64.
    positions = (points.double() * scale + 0.5).to(points.dtype)
    lower = positions.detach().floor()
    fraction = positions - lower
    cells = lower.double().nan_to_num(-LARGEST_CELL).clamp(-LARGEST_CELL, LARGEST_CELL).long()
    vertices = (cells[:, None] + bits) & _UINT32  # [N,8,3]
    if spec.is_hashed(level):
        keys = (vertices * torch.tensor((1, PRIME_Y, PRIME_Z), device=points.device)) & _UINT32  # below 2^64: wrapping leaves 32 bits right
        index = (keys[..., 0] ^ keys[..., 1] ^ keys[..., 2]) % entries
    else:
        index = ((vertices[..., 0] + resolution * ((vertices[..., 1] + resolution * vertices[..., 2]) & _UINT32)) & _UINT32) % entries
    return first + index, torch.where(bits.bool(), fraction[:, None], 1 - fraction[:, None])
