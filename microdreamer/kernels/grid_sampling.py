"""Features of points from grids of texels, planes or voxels, whose channels lie together: as a compiled op and as plain PyTorch.

Planes are those of Chan et al., "Efficient Geometry-aware 3D Generative Adversarial Networks" (2022): each is read, bilinearly, at two of
a point's three coordinates; voxels, trilinearly, at all of them. A grid spans [-1,1] along each of its axes. Texel i of n has its
centre at (2 i + 1) / n - 1; texels outside of the grid are zero, so that values fade out over half a texel at its edges.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from microdreamer.kernels import extension
from microdreamer.kernels.extension import Gradient

MAX_GRIDS = 8  # that a point reads
MAX_SIZE = 1 << 20  # texels along an axis, and channels


def sample_grids(
    points: Tensor, grids: Tensor, axes: Sequence[Sequence[int]], *, deterministic: bool | None = None, compiled: bool | None = None
) -> Tensor:
    """Features [B,P,G C] of points [B,P,3], grid after grid, each of the batch from grids of its own.

    grids: planes [B,G,H,W,C] or voxels [B,G,D,H,W,C]; axes: for each of the G grids which coordinates (0, 1, 2) run along its width,
    height and, of voxels, depth. All of one floating type on one device. A point that is not finite has features that are not numbers.

    Gradients reach points (they jump where cells of texels meet) and grids, and can be differentiated once more, in plain PyTorch;
    asking for a third derivative raises RuntimeError (`compiled=False` has those that the PyTorch in place gives its `grid_sample`).

    `deterministic` gives the same gradients bit for bit on CUDA, in more time; None follows `torch.use_deterministic_algorithms`. On
    the CPU they always repeat. `compiled` chooses between the op, which is for float32, and `sample_grids_reference`; None takes the
    op where it can. Raises ValueError for tensors of wrong shape or type.
    """
    dims = grids.dim() - 3
    if points.dim() != 3 or points.shape[-1] != 3:
        raise ValueError(f"points: expected shape [B,P,3], got {list(points.shape)}")
    if dims not in (2, 3) or len(grids) != len(points):
        raise ValueError(f"grids: expected shape [{len(points)},G,H,W,C] or [{len(points)},G,D,H,W,C], got {list(grids.shape)}")
    if points.dtype != grids.dtype or points.device != grids.device:
        raise ValueError(f"grids: expected {points.dtype} on {points.device} like points, got {grids.dtype} on {grids.device}")
    if len(axes) != grids.shape[1] or any(len(of_grid) != dims for of_grid in axes):
        raise ValueError(f"axes: expected {dims} for each of {grids.shape[1]} grids, got {axes}")
    if compiled is None and points.dtype != torch.float32:
        compiled = False
    if not extension.use_compiled(points.device, asked=compiled):
        return sample_grids_reference(points, grids, axes)
    if deterministic is None:
        deterministic = torch.are_deterministic_algorithms_enabled()
    flat = [axis for of_grid in axes for axis in of_grid]
    return torch.ops.microdreamer.sample_grids(points.contiguous(), grids.contiguous(), flat, deterministic)


# ---- The op: shapes for torch.compile, and autograd ----


def _fake_sample(points, grids, axes, deterministic):
    return points.new_empty((*points.shape[:2], grids.shape[1] * grids.shape[-1]))


def _fake_backward(v_features, points, grids, axes, deterministic, for_points, for_grids):
    v_points = torch.empty_like(points) if for_points else points.new_empty(0)
    return v_points, torch.empty_like(grids) if for_grids else grids.new_empty(0)


def _save(ctx, inputs, output) -> None:
    points, grids, *ctx.settings = inputs
    ctx.save_for_backward(points, grids)


def _backward(ctx, v_features):
    for_points, for_grids = ctx.needs_input_grad[:2]
    v_points, v_grids = torch.ops.microdreamer.sample_grids_bwd(
        v_features.contiguous(), *ctx.saved_tensors, *ctx.settings, for_points, for_grids
    )
    return v_points if for_points else None, v_grids if for_grids else None, None, None


def _save_for_gradient(ctx, inputs, output) -> None:
    *tensors, ctx.axes, _, ctx.for_points, ctx.for_grids = inputs
    ctx.save_for_backward(*tensors)


def _differentiate_gradient(ctx, u_points, u_grids):
    """The gradient of `sample_grids_bwd`, by first and second derivatives of the sum over corners."""
    if torch.is_grad_enabled():
        raise RuntimeError("sample_grids has no third derivative; take differences of the second")
    with torch.enable_grad():
        v_features, points, grids = (tensor.detach().requires_grad_() for tensor in ctx.saved_tensors)
        dims = grids.dim() - 3
        axes = [ctx.axes[first : first + dims] for first in range(0, len(ctx.axes), dims)]
        inputs = [tensor for tensor, wanted in ((points, ctx.for_points), (grids, ctx.for_grids)) if wanted]
        along = [tensor for tensor, wanted in ((u_points, ctx.for_points), (u_grids, ctx.for_grids)) if wanted]
        first = torch.autograd.grad(_over_corners(points, grids, axes), inputs, v_features, create_graph=True)
        found = torch.autograd.grad(first, [v_features, points, grids], along, materialize_grads=True)
    return *found, None, None, None, None


extension.register("sample_grids", fake=_fake_sample, gradient=Gradient(_backward, _save))
extension.register("sample_grids_bwd", fake=_fake_backward, gradient=Gradient(_differentiate_gradient, _save_for_gradient))


# ---- The plain-PyTorch twin ----


def sample_grids_reference(points: Tensor, grids: Tensor, axes: Sequence[Sequence[int]]) -> Tensor:
    """`sample_grids` in plain PyTorch, for any floating dtype: the definition that the op is compared with."""
    places = torch.stack([_along(points, of_grid) for of_grid in axes], dim=1)  # [B,G,P,dims]
    places = places.flatten(0, 1).unflatten(1, (-1, *[1] * (places.shape[-1] - 1)))
    features = grid_sample(grids.movedim(-1, 2).flatten(0, 1), places, align_corners=False)  # [B G,C,P,1,...]
    return features.flatten(2).unflatten(0, grids.shape[:2]).permute(0, 3, 1, 2).flatten(2)


def _along(points: Tensor, of_grid: Sequence[int]) -> Tensor:
    """The coordinates [B,P,dims] that run along a grid's width, height and depth."""
    return torch.stack([points[..., axis] for axis in of_grid], dim=-1)


def _over_corners(points: Tensor, grids: Tensor, axes: Sequence[Sequence[int]]) -> Tensor:
    """The same in elementary operations, which have derivatives of every order; not every PyTorch gives its grid_sample a second one."""
    sizes = grids.shape[2:-1][::-1]  # along width, height, depth
    parts = []
    for of_grid, grid in zip(axes, grids.flatten(2, -2).unbind(1), strict=True):  # [B,T,C]
        positions = [((points[..., axis] + 1) * size - 1) / 2 for axis, size in zip(of_grid, sizes, strict=True)]
        lower = [position.detach().floor() for position in positions]
        corners = []
        for corner in itertools.product((0, 1), repeat=len(of_grid)):
            weight, texel, stride = torch.ones_like(points[..., 0]), 0, 1
            for upper, position, low, size in zip(corner, positions, lower, sizes, strict=True):
                place, share = low + upper, position - low
                inside = (place >= 0) & (place < size)
                weight = weight * (share if upper else 1 - share) * inside
                texel = texel + stride * torch.where(inside, place, 0).long()
                stride *= size
            corners.append(weight[..., None] * grid.gather(1, texel[..., None].expand(-1, -1, grid.shape[-1])))
        parts.append(torch.stack(corners).sum(0))
    return torch.cat(parts, dim=-1)
