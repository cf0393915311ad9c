"""Volume rendering along rays: samples in the occupied cells of a box, which of them show, and what they add up to.

Max, "Optical models for direct volume rendering" (1995), with an occupancy grid as in Mueller et al., "Instant Neural Graphics
Primitives" (2022). A ray with samples of density s_i over pieces of length l_i passes

    T_i = exp(-sum_{j<i} s_j l_j)   as far as sample i, which has the weight   w_i = T_i (1 - exp(-s_i l_i)).

Samples of all rays stand in one list, ray by ray and front to back. Its length, the capacity, may be fixed: then nothing here waits
for the device, and a step with it can be a CUDA graph. Sizes: N rays, M samples (the capacity), C features, R cells a side.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from microdreamer.kernels import extension
from microdreamer.kernels.extension import Gradient

MAX_OPTICAL_DEPTH = 80.0  # of one sample: exp(-80) is next to the least float32; more would let nothing else through
CHUNK = 2048  # rays that the plain-PyTorch march lays out at a time


class Samples(NamedTuple):
    """Pieces of rays. Behind the last one come as many empty ones (ray 0, start and length 0) as the capacity leaves.

    ray [M] int64; start, length [M] float32: distances along the ray; offsets [N+1] int32: the first sample of each ray, and the
    number of all that are here; total [] int32: how many there would have been with room for all; source [M] int32, of samples that
    were chosen from a list: their places in it; of others empty.
    """

    ray: Tensor
    start: Tensor
    length: Tensor
    offsets: Tensor
    total: Tensor
    source: Tensor | None = None

    @property
    def middle(self) -> Tensor:
        """Distances [M] of the pieces' middles, where a field is evaluated."""
        return self.start + 0.5 * self.length

    def positions(self, origins: Tensor, directions: Tensor) -> Tensor:
        """The middles as points [M,3] of rays with these origins and directions [N,3]; see `sample_points`."""
        return sample_points(self, origins, directions)


class Composite(NamedTuple):
    """features [N,C]: sum of weight * feature; alpha [N]: sum of weights; depth [N]: sum of weight * middle; weights [M]."""

    features: Tensor
    alpha: Tensor
    depth: Tensor
    weights: Tensor


def march_rays(
    origins: Tensor,
    directions: Tensor,
    occupied: Tensor,
    *,
    radius: float,
    step: float,
    capacity: int | None = None,
    jitter: Tensor | None = None,
    near: float = 0.0,
    compiled: bool | None = None,
) -> Samples:
    """Pieces of rays, of length `step`, whose middles lie in occupied cells of the box [-radius, radius]^3. Not differentiable.

    origins, directions [N,3] float32, directions of length 1; occupied [R,R,R] bool, index x, y, z. A ray is cut at distances
    near + (i + jitter) step, i = 0, 1, ..., and at `near` and the box, where the pieces are shorter: in a box that is occupied everywhere
    they cover all of the ray that lies in it. jitter [N] in [0,1) shifts the cuts of each ray; None is 0.

    `capacity` is the length of the result's list; what does not fit is cut off, from the last ray. None takes as many as there are,
    which on a GPU waits for it. Rays that are not finite have no samples.

    `compiled` chooses between the op and `march_rays_reference`; None takes the op where there is one. Both find the same pieces, but
    for one in a hundred million. Raises ValueError for wrong shapes, types or sizes.
    """
    _check_rays(origins, directions, occupied, radius, step, jitter)
    if not extension.use_compiled(origins.device, asked=compiled):
        return march_rays_reference(origins, directions, occupied, radius=radius, step=step, capacity=capacity, jitter=jitter, near=near)
    tensors = (None if tensor is None else tensor.detach().contiguous() for tensor in (origins, directions, occupied, jitter))
    lists = torch.ops.microdreamer.march_rays(*tensors, radius, step, near, most_pieces(radius, step), capacity)
    return Samples(*lists, source=lists[3].new_empty(0))


def keep_visible(
    samples: Samples,
    density: Tensor,
    *,
    min_alpha: float | Tensor,
    min_transmittance: float,
    capacity: int | None = None,
    compiled: bool | None = None,
) -> Samples:
    """The samples whose opacity is at least `min_alpha` and up to which at least `min_transmittance` of the light passes.

    density [M] float32, by the unit of `length`; what is not a number is as nothing, and not kept. `min_alpha` may be a tensor [] on
    the samples' device. `capacity` and `compiled` as in `march_rays`. Not differentiable.
    """
    _check_samples(samples, density)
    if not extension.use_compiled(density.device, asked=compiled):
        return keep_visible_reference(samples, density, min_alpha=min_alpha, min_transmittance=min_transmittance, capacity=capacity)
    if not isinstance(min_alpha, Tensor):
        min_alpha = torch.full((), min_alpha, device=density.device)
    lists = samples.ray, samples.start, samples.length, samples.offsets
    return Samples(
        *torch.ops.microdreamer.keep_visible(*lists, density.detach().contiguous(), min_alpha.detach(), min_transmittance, capacity)
    )


def sample_points(samples: Samples, origins: Tensor, directions: Tensor, *, compiled: bool | None = None) -> Tensor:
    """The middles [M,3] of the samples of rays with these origins and directions [N,3] float32; entries that fill the list up give ray
    0's origin.

    `compiled` as in `march_rays`. Differentiable with respect to the rays in plain PyTorch, which rays that need a gradient take.
    """
    needs_gradient = torch.is_grad_enabled() and (origins.requires_grad or directions.requires_grad)
    if needs_gradient or not extension.use_compiled(origins.device, asked=compiled):
        return sample_points_reference(samples, origins, directions)
    rays = origins.detach().contiguous(), directions.detach().contiguous()
    return torch.ops.microdreamer.sample_points(samples.ray, samples.start, samples.length, *rays)


def take_rows(table: Tensor, source: Tensor, *, compiled: bool | None = None) -> Tensor:
    """The rows [K,C] of `table` [M,C], of any type, that source [K] int32 names, as `Samples.source` does.

    Not differentiable; `compiled` as in `march_rays`. The op raises ValueError for other shapes and types. Rows must be there: the CPU
    raises IndexError for others, a GPU does not look.
    """
    if not extension.use_compiled(table.device, asked=compiled):
        return take_rows_reference(table, source)
    return torch.ops.microdreamer.take_rows(table.detach().contiguous(), source.contiguous())


def composite(density: Tensor, features: Tensor, samples: Samples, *, compiled: bool | None = None) -> Composite:
    """Add up the samples of each ray.

    density [M] (below zero or not a number: none), features [M,C], both float32. Differentiable with respect to both, through all four
    results; there is no second derivative: asking for one raises RuntimeError (`compiled=False` has it). Gradients repeat bit for bit
    on the CPU and on CUDA. `compiled` as in `march_rays`.
    """
    _check_samples(samples, density)
    if features.dim() != 2 or len(features) != len(density):
        raise ValueError(f"features: expected shape [{len(density)},C], got {list(features.shape)}")
    if not extension.use_compiled(density.device, asked=compiled):
        return composite_reference(density, features, samples)
    return Composite(
        *torch.ops.microdreamer.composite_samples(
            density.contiguous(), features.contiguous(), samples.start, samples.length, samples.offsets
        )
    )


def _check_rays(origins: Tensor, directions: Tensor, occupied: Tensor, radius: float, step: float, jitter: Tensor | None) -> None:
    if origins.dim() != 2 or origins.shape[1] != 3 or directions.shape != origins.shape:
        raise ValueError(f"origins, directions: expected shape [N,3] both, got {list(origins.shape)} and {list(directions.shape)}")
    if occupied.dim() != 3 or len(set(occupied.shape)) != 1 or occupied.dtype != torch.bool:
        raise ValueError(f"occupied: expected shape [R,R,R] bool, got {list(occupied.shape)} {occupied.dtype}")
    if jitter is not None and jitter.shape != origins.shape[:1]:
        raise ValueError(f"jitter: expected shape [{len(origins)}], got {list(jitter.shape)}")
    if not (math.isfinite(radius) and radius > 0 and math.isfinite(step) and step > 0):
        raise ValueError(f"radius={radius}, step={step}: expected positive numbers")


def _check_samples(samples: Samples, density: Tensor) -> None:
    if density.shape != samples.start.shape:
        raise ValueError(f"density: expected shape {list(samples.start.shape)} like the samples, got {list(density.shape)}")


def most_pieces(radius: float, step: float) -> int:
    """Pieces that a ray can have in the box: along its diagonal, with both ends cut, and one to spare on each side."""
    return math.ceil(2 * math.sqrt(3) * radius / step) + 4


# ---- The ops: shapes for torch.compile, and autograd ----


def _fake_lists(like: Tensor, rays: int, capacity: int | None):
    length = torch.library.get_ctx().new_dynamic_size() if capacity is None else capacity
    start = like.new_empty(length)
    offsets = like.new_empty(rays + 1, dtype=torch.int32)
    return start.new_empty(length, dtype=torch.int64), start, torch.empty_like(start), offsets, offsets.new_empty(())


def _fake_march(origins, directions, occupied, jitter, radius, step, near, most, capacity):
    return _fake_lists(origins, origins.shape[0], capacity)


def _fake_keep(ray, start, length, offsets, density, min_alpha, min_transmittance, capacity):
    lists = _fake_lists(start, offsets.shape[0] - 1, capacity)
    return *lists, torch.empty_like(lists[0], dtype=torch.int32)


def _fake_points(ray, start, length, origins, directions):
    return start.new_empty(start.shape[0], 3)


def _fake_composite(density, features, start, length, offsets):
    alpha = density.new_empty(offsets.shape[0] - 1)
    return density.new_empty(alpha.shape[0], features.shape[1]), alpha, torch.empty_like(alpha), torch.empty_like(density)


def _fake_composite_backward(
    v_sums, v_alpha, v_depth, v_weights, density, features, start, length, offsets, weights, for_density, for_features
):
    v_density = torch.empty_like(density) if for_density else density.new_empty(0)
    return v_density, torch.empty_like(features) if for_features else features.new_empty(0)


def _save(ctx, inputs, output) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs, output[3])


def _backward(ctx, *v_outputs):
    for_density, for_features = ctx.needs_input_grad[:2]
    v_outputs = (None if v is None else v.contiguous() for v in v_outputs)
    v_density, v_features = torch.ops.microdreamer.composite_samples_bwd(*v_outputs, *ctx.saved_tensors, for_density, for_features)
    return (v_density if for_density else None, v_features if for_features else None, None, None, None)


def _no_second_derivative(ctx, *_):
    raise RuntimeError("composite has no second derivative; pass compiled=False, whose plain PyTorch has it")


extension.register("march_rays", fake=_fake_march)
extension.register("keep_visible", fake=_fake_keep)
extension.register("sample_points", fake=_fake_points)
extension.register("take_rows", fake=lambda table, source: table.new_empty(source.shape[0], table.shape[1]))
extension.register("composite_samples", fake=_fake_composite, gradient=Gradient(_backward, _save))
extension.register("composite_samples_bwd", fake=_fake_composite_backward, gradient=Gradient(_no_second_derivative))


# ---- The plain-PyTorch twins ----


def _fused(factor: Tensor, other: Tensor | float, summand: Tensor | float) -> Tensor:
    """factor * other + summand, rounded once: products of two float32 are exact in float64."""
    return (factor.double() * other + summand).to(factor.dtype)


def march_rays_reference(
    origins: Tensor,
    directions: Tensor,
    occupied: Tensor,
    *,
    radius: float,
    step: float,
    capacity: int | None = None,
    jitter: Tensor | None = None,
    near: float = 0.0,
) -> Samples:
    """`march_rays` in plain PyTorch: the definition that the op is compared with. Waits for the device."""
    if jitter is None:
        jitter = torch.zeros_like(origins[:, 0])
    parts = [
        _march_chunk(
            origins[first : first + CHUNK], directions[first : first + CHUNK], jitter[first : first + CHUNK], occupied, radius, step, near
        )
        for first in range(0, len(origins), CHUNK)
    ]
    none = origins.new_zeros(0)
    counts = torch.cat([part[0] for part in parts] or [none.long()])
    start, length = (torch.cat([part[k] for part in parts] or [none]) for k in (1, 2))
    ray = torch.repeat_interleave(torch.arange(len(origins), device=origins.device), counts)
    return _packed(ray, start, length, counts, capacity)


def _march_chunk(
    origins: Tensor, directions: Tensor, jitter: Tensor, occupied: Tensor, radius: float, step: float, near: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers of pieces [N] of rays, and starts and lengths of all of them in order."""
    dtype, device = origins.dtype, origins.device
    radius_, step_, near_ = (torch.tensor(value, dtype=dtype, device=device) for value in (radius, step, near))
    is_finite = (origins.isfinite() & directions.isfinite()).all(1)
    parallel, inside = directions == 0, origins.abs() <= radius_
    infinity = torch.full_like(origins, math.inf)
    one, other = (-radius_ - origins) / directions, (radius_ - origins) / directions
    enter = torch.where(parallel, torch.where(inside, -infinity, infinity), torch.minimum(one, other)).amax(1).maximum(near_)
    leave = torch.where(parallel, torch.where(inside, infinity, -infinity), torch.maximum(one, other)).amin(1)
    is_hit = is_finite & (enter < leave)
    base = _fused(jitter - 1, step_.double(), near_)  # where piece 0 starts, of which only what lies behind `near` counts
    first = ((torch.where(is_hit, enter, 0) - base) / step_).floor() - 1
    index = first.clamp_min(0)[:, None] + torch.arange(most_pieces(radius, step), device=device)
    start = _fused(index, step_.double(), base[:, None]).maximum(enter[:, None])
    end = _fused(index + 1, step_.double(), base[:, None]).minimum(leave[:, None])
    length = end - start
    middle = _fused(length, 0.5, start)
    resolution = len(occupied)
    scale = torch.tensor(resolution / (2 * radius), dtype=dtype, device=device)
    cells = []
    for axis in range(3):
        position = _fused(middle, directions[:, axis, None].double(), origins[:, axis, None])
        cells.append(((position + radius_) * scale).nan_to_num(0).clamp(0, resolution - 1).long())
    x, y, z = cells
    keep = is_hit[:, None] & (length > 0) & occupied.reshape(-1)[(x * resolution + y) * resolution + z]
    return keep.sum(1), start[keep], length[keep]


def _packed(ray: Tensor, start: Tensor, length: Tensor, counts: Tensor, capacity: int | None) -> Samples:
    """The list of `capacity` samples of these, of which ray n has counts[n]."""
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    total = offsets[-1].int()
    if capacity is not None:
        room = capacity - len(ray)
        ray, start, length = (torch.nn.functional.pad(value[:capacity], (0, max(room, 0))) for value in (ray, start, length))
        offsets = offsets.clamp_max(capacity)
    return Samples(ray, start, length, offsets.int(), total, offsets.new_empty(0, dtype=torch.int32))


def _optical_depth(samples: Samples, density: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which entries are samples, their optical depths and those before them along their rays, [M] each, the latter two float64."""
    is_sample = torch.arange(len(density), device=density.device) < samples.offsets[-1]
    depth = density * samples.length
    depth = torch.where(is_sample & (depth >= 0), depth, 0).clamp_max(MAX_OPTICAL_DEPTH).double()
    sums = torch.nn.functional.pad(depth.cumsum(0), (1, 0))
    return is_sample, depth, torch.where(is_sample, sums[:-1] - sums[samples.offsets[:-1].long()][samples.ray], 0)


@torch.no_grad()
def keep_visible_reference(
    samples: Samples, density: Tensor, *, min_alpha: float | Tensor, min_transmittance: float, capacity: int | None = None
) -> Samples:
    """`keep_visible` in plain PyTorch: the definition that the op is compared with. Waits for the device."""
    is_sample, depth, before = _optical_depth(samples, density)
    keep = is_sample & (-torch.expm1(-depth) >= min_alpha) & (torch.exp(-before) >= min_transmittance) & ~density.isnan()
    counts = torch.zeros_like(samples.offsets[:-1], dtype=torch.long).index_add_(0, samples.ray, keep.long())
    kept = _packed(samples.ray[keep], samples.start[keep], samples.length[keep], counts, capacity)
    source = keep.nonzero()[: len(kept.ray), 0].int()
    return kept._replace(source=torch.nn.functional.pad(source, (0, len(kept.ray) - len(source))))


def sample_points_reference(samples: Samples, origins: Tensor, directions: Tensor) -> Tensor:
    """`sample_points` in plain PyTorch, for any floating dtype: the definition that the op is compared with."""
    return torch.addcmul(origins.index_select(0, samples.ray), directions.index_select(0, samples.ray), samples.middle[:, None])


def take_rows_reference(table: Tensor, source: Tensor) -> Tensor:
    """`take_rows` in plain PyTorch: the definition that the op is compared with."""
    return table.detach().index_select(0, source)


def composite_reference(density: Tensor, features: Tensor, samples: Samples) -> Composite:
    """`composite` in plain PyTorch, for any floating dtype: the definition that the op is compared with."""
    is_sample, depth, before = _optical_depth(samples, density)
    weights = (torch.exp(-before) * -torch.expm1(-depth)).to(density.dtype)
    seen = torch.where(is_sample[:, None], features, 0) * weights[:, None]
    rays = len(samples.offsets) - 1
    columns = torch.cat([seen, weights[:, None], (weights * samples.middle)[:, None]], dim=1)
    sums = columns.new_zeros(rays, columns.shape[1]).index_add(0, samples.ray, columns) if rays else columns.new_zeros(0, columns.shape[1])
    return Composite(sums[:, :-2], sums[:, -2], sums[:, -1], weights)
