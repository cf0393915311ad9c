"""Solids on a grid: voids filled, and how deep in a solid, or how far from it, each point lies.

USE_CUDA_EXTRACT chooses between the compiled kernels and the plain versions of this file (see `kernels.extension`).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from microdreamer.kernels import extension

UNREACHED = 4096.0  # the distance to what the grid does not hold, above all others


def fill_voids(inside: Tensor) -> Tensor:
    """inside [X,Y,Z] (bool) and all that is cut off from the grid's border by it, along the axes; the same on every device."""
    return _fill_by_labels(inside) if inside.device.type == "cpu" else _fill_by_sweeps(inside)


def _fill_by_labels(inside: Tensor) -> Tensor:
    labels, count = ndimage.label(~inside.numpy())
    is_void = np.ones(count + 1, bool)
    for axis in range(3):
        for end in (0, -1):
            is_void[labels.take(end, axis)] = False
    is_void[0] = True  # the solid's own label
    return torch.from_numpy(is_void[labels])


def _fill_by_sweeps(inside: Tensor) -> Tensor:
    """Flood what is free from the border, along whole lines at a time, until nothing is added; the host waits after each round."""
    free = ~inside
    reached = torch.zeros_like(free)
    for axis in range(3):
        for end in (0, -1):
            reached.select(axis, end).copy_(free.select(axis, end))
    ways = [(axis, backwards) for axis in range(3) for backwards in (False, True)]
    walls = {way: _last_along(inside, *way) for way in ways}
    count = before = -1
    while count < 0 or count > before:
        for way in ways:
            reached |= free & (_last_along(reached, *way) > walls[way])
        before, count = count, int(reached.sum())
    return ~reached


def _last_along(mask: Tensor, axis: int, backwards: bool) -> Tensor:
    """How many steps along the axis the last point of the mask was passed, itself included; -1 before the first."""
    steps = torch.arange(mask.shape[axis], device=mask.device, dtype=torch.int32)
    mask = mask.movedim(axis, -1)
    mask = mask.flip(-1) if backwards else mask
    last = torch.where(mask, steps, -1).cummax(-1).values
    return (last.flip(-1) if backwards else last).movedim(-1, axis)


def signed_distance(inside: Tensor) -> Tensor:
    """Distances [X,Y,Z] float32, in steps, from the points of `inside` (bool) to the nearest other point, and back, negative, from those.

    Exact (Saito and Toriwaki 1994: axis by axis). Where the grid has no other point, 4096. ValueError for another dtype or a
    side above 1024.
    """
    if extension.use_compiled(inside.device, "USE_CUDA_EXTRACT"):
        squared = torch.ops.microdreamer.signed_squared_distance(inside.contiguous())
        return squared.abs().float().sqrt().copysign(squared.float())
    return signed_distance_reference(inside)


def signed_distance_reference(inside: Tensor) -> Tensor:
    """`signed_distance` by SciPy, on the CPU whatever the device."""
    if inside.dim() != 3 or inside.dtype != torch.bool:
        raise ValueError(f"inside: expected bool [X,Y,Z], got {inside.dtype} {list(inside.shape)}")
    solid = inside.cpu().numpy()
    if solid.all() or not solid.any():
        return torch.where(inside, UNREACHED, -UNREACHED)
    depth = ndimage.distance_transform_edt(solid) - ndimage.distance_transform_edt(~solid)
    return torch.from_numpy(depth).float().to(inside.device)


extension.register("signed_squared_distance", fake=lambda inside: torch.empty_like(inside, dtype=torch.int32))
