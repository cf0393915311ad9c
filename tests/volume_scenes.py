"""Rays, cells and samples that the volume ops are tested with."""

from __future__ import annotations

import pytest
import torch
from conftest import DEVICES

from microdreamer.kernels import extension
from microdreamer.kernels.volume import Samples

BOTH = pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "reference"])
EACH = pytest.mark.parametrize("device", DEVICES)


def need_compiled(device):
    if not extension.available(device):
        pytest.skip(f"no compiled {device} kernels")


def rays_at_box(count, device="cpu", seed=0, distance=3.0):
    """Rays from around the box toward places in and near it."""
    draw = torch.Generator().manual_seed(seed)
    origins = distance * torch.nn.functional.normalize(torch.randn(count, 3, generator=draw), dim=1)
    targets = 2.4 * torch.rand(count, 3, generator=draw) - 1.2
    return origins.to(device), torch.nn.functional.normalize(targets - origins, dim=1).to(device)


def box_span(origins, directions, radius=1.0):
    """Where rays enter and leave the box, in float64; equal where they miss it."""
    one, other = ((sign * radius - origins.double()) / directions.double() for sign in (-1, 1))
    enter, leave = torch.minimum(one, other).amax(1).clamp_min(0), torch.maximum(one, other).amin(1)
    return enter, torch.maximum(enter, leave)


def random_cells(resolution, share, device="cpu", seed=0):
    draw = torch.Generator().manual_seed(seed)
    return (torch.rand(resolution, resolution, resolution, generator=draw) < share).to(device)


def per_ray(samples, values):
    return values.new_zeros(len(samples.offsets) - 1).index_add(0, samples.ray, values)


def random_samples(rays=40, device="cpu", dtype=torch.float32, capacity=None, seed=0):
    """Samples of rays of which some have none and some many, with a density and features for each."""
    draw = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 9, (rays,), generator=draw) * torch.randint(0, 12, (rays,), generator=draw)
    total = int(counts.sum())
    length = 0.02 + 0.1 * torch.rand(total, generator=draw)
    ray = torch.arange(rays).repeat_interleave(counts)
    until = length.cumsum(0)
    start = until - length - torch.nn.functional.pad(until, (1, 0))[counts.cumsum(0) - counts][ray] + 0.7
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int()
    size = total if capacity is None else capacity
    pad = size - total
    ray, start, length = (torch.nn.functional.pad(value, (0, max(pad, 0)))[:size] for value in (ray, start, length))
    samples = Samples(
        *(value.to(device) for value in (ray, start, length, offsets.clamp_max(size), torch.tensor(total, dtype=torch.int32)))
    )
    density = (6 * torch.rand(size, generator=draw)).to(device, dtype).requires_grad_()
    features = torch.randn(size, 4, generator=draw).to(device, dtype).requires_grad_()
    return samples, density, features


def outputs(found, names, coefficients):
    return sum((getattr(found, name) * coefficients[name]).sum() for name in names)


def coefficients_for(samples, channels, device, dtype=torch.float32):
    draw = torch.Generator().manual_seed(5)
    rays, size = len(samples.offsets) - 1, len(samples.start)
    shapes = {"features": (rays, channels), "alpha": (rays,), "depth": (rays,), "weights": (size,)}
    return {name: torch.randn(shape, generator=draw).to(device, dtype) for name, shape in shapes.items()}
