"""Density grid of a Gaussian set: plain PyTorch, the compiled kernel and, on a GPU, the course's steps to it, on the same input.

    python -m benchmarks.extract_fields [--device cuda] [--resolution 128] [--counts 5000 20000 100000] [--out results.json]

Times are of whole calls (benchmarks/timing.py) after one that is not counted. Before anything is timed the versions' results are
compared; a difference above 1e-4 of a field of order 1 ends the run. The floors are what the call cannot go below: reading the
Gaussians and writing the grid at the memory's speed, and one exponential for each pair whose term is at least 1e-7.
"""

import argparse
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import rows as headline_rows
from benchmarks.timing import (
    Timing,
    bytes_per_millisecond,
    exponentials_per_millisecond,
    stop_where_they_differ,
    time_calls,
    write_json,
)
from microdreamer.core.machine import best_device, describe, provenance
from microdreamer.kernels import FIELD_BLOCKS, FIELD_RELAX_RATIO, course, extension
from microdreamer.kernels.extension import switched
from microdreamer.kernels.gaussian_field import extract_fields, extract_fields_reference

TOLERANCE = 1e-4
NEGLIGIBLE = 1e-7


@dataclass
class Row:
    gaussians: int
    version: str
    timing: Timing
    largest_difference: float  # from the compiled version, divided by max(1, largest value of the field)


def object_like_gaussians(count: int, device: str, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Gaussians as a fit leaves them: on the surface of a torus with a ball, scales lognormal about 0.02, most opacities high or low.

    Returns means [N,3] in [-0.9, 0.9], packed covariances [N,6], opacities [N].
    """
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(count, 4, generator=generator)
    angle, around = 2 * math.pi * uniform[:, 0], 2 * math.pi * uniform[:, 1]
    radius = 0.65 + 0.25 * around.cos()
    torus = torch.stack([radius * angle.cos(), 0.25 * around.sin(), radius * angle.sin()], dim=-1)
    ball = 0.4 * torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    means = torch.where(uniform[:, 2:3] < 0.75, torus, ball) + 0.01 * torch.randn(count, 3, generator=generator)
    scales = 0.02 * (0.5 * torch.randn(count, 3, generator=generator)).exp()
    rotations = torch.linalg.qr(torch.randn(count, 3, 3, generator=generator)).Q
    spread = rotations * scales[:, None]
    covs = (spread @ spread.mT)[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]].contiguous()
    opacities = torch.sigmoid(2 * torch.randn(count, generator=generator))
    return means.clamp(-0.9, 0.9).to(device), covs.to(device), opacities.to(device)


def plain(*arguments) -> Tensor:
    """The plain-PyTorch way throughout, its inner weights included."""
    with switched(USE_CUDA_GAUSS="0"):
        return extract_fields_reference(*arguments)


def floors(covs: Tensor, opacities: Tensor, resolution: int) -> dict[str, float]:
    """Bytes that must move, and exponentials that count: voxels in the ellipsoids outside which opacity * weight < 1e-7."""
    radius2 = 2 * (opacities.double() / NEGLIGIBLE).log().clamp_min(0)
    xx, xy, xz, yy, yz, zz = covs.double().unbind(-1)
    determinant = xx * (yy * zz - yz**2) - xy * (xy * zz - yz * xz) + xz * (xy * yz - yy * xz)
    volumes = 4 / 3 * math.pi * radius2**1.5 * determinant.clamp_min(0).sqrt()
    voxel = (2 / (resolution - 1)) ** 3
    return {"bytes": 4.0 * (10 * len(covs) + resolution**3), "exponentials": float((volumes / voxel).sum())}


def headline(bench: headline_rows.Bench, counts: Sequence[int], resolution: int) -> Iterator[headline_rows.Row]:
    """The compiled version on grids of `resolution`^3 points, held to plain PyTorch on a small one."""
    small = (*object_like_gaussians(300, bench.device), 2 * FIELD_BLOCKS, FIELD_BLOCKS, FIELD_RELAX_RATIO)
    stop_where_they_differ([extract_fields(*small)], [plain(*small)], TOLERANCE)
    for count in counts:
        gaussians = object_like_gaussians(count, bench.device)
        arguments = (*gaussians, resolution, FIELD_BLOCKS, FIELD_RELAX_RATIO)
        work = floors(*gaussians[1:], resolution)
        yield bench.row(f"density field of {count} Gaussians, {resolution}^3 points", lambda a=arguments: extract_fields(*a), **work)


def measure(count: int, resolution: int, device: str, repeats: int, plain_repeats: int) -> tuple[list[Row], dict[str, float]]:
    gaussians = object_like_gaussians(count, device)
    arguments = (*gaussians, resolution, FIELD_BLOCKS, FIELD_RELAX_RATIO)
    versions = {"plain PyTorch": (plain, plain_repeats), "compiled": (extract_fields, repeats)}
    if device == "cuda":
        for step in course.STEPS:
            versions[step.replace("_", " ")] = (functools.partial(course.extract_fields, variant=step), max(3, repeats // 10))
    if plain_repeats == 0:
        del versions["plain PyTorch"]

    field = extract_fields(*arguments)
    largest = max(1.0, float(field.max()))
    differences = {name: float((function(*arguments) - field).abs().max()) / largest for name, (function, _) in versions.items()}
    for name, difference in differences.items():
        if not difference <= TOLERANCE:
            raise SystemExit(f"{name} differs from the compiled version by {difference:.2g} at N={count}; expected at most {TOLERANCE}")

    rows = []
    for name, (function, times) in versions.items():
        timing = time_calls(lambda function=function: function(*arguments), device, times, warm_up=1)  # the plain one takes seconds
        rows.append(Row(count, name, timing, differences[name]))
    return rows, floors(gaussians[1], gaussians[2], resolution)


def device_floor_ms(floor: dict[str, float], device: str, clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    """The floors in milliseconds, at the speeds that this device is measured to reach."""
    result = {"memory": floor["bytes"] / bytes_per_millisecond(device, clock)}
    if speed := exponentials_per_millisecond(device, clock):
        result["exponentials"] = floor["exponentials"] / speed
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default=best_device().type, choices=["cpu", "cuda"])
    parser.add_argument("--resolution", type=int, help="grid points a side (default: 128 on a GPU, 64 on the CPU)")
    parser.add_argument("--counts", type=int, nargs="+", help="numbers of Gaussians (default: 5000 20000 100000; on the CPU 1000 5000)")
    parser.add_argument("--repeats", type=int, help="timed calls of the compiled version (default: 100 on a GPU, 5 on the CPU)")
    parser.add_argument("--plain-repeats", type=int, default=1, help="timed calls of the plain version; 0 leaves it out")
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    resolution = options.resolution or (128 if on_gpu else 64)
    counts = options.counts or ([5_000, 20_000, 100_000] if on_gpu else [1_000, 5_000])
    repeats = options.repeats or (100 if on_gpu else 5)
    if not extension.available(options.device):
        raise SystemExit(f"no compiled {options.device} kernels to measure; {extension.BUILD_HINT}")

    header = provenance(options.device)
    print(describe(header))
    print(f"extract_fields, {resolution}^3, {FIELD_BLOCKS} blocks a side")
    print(f"{'N':>8} {'version':<14} {'median ms':>11} {'least':>11} {'most':>11} {'calls':>6} {'max diff':>9}  floor ms")
    results = []
    for count in counts:
        rows, floor = measure(count, resolution, options.device, repeats, options.plain_repeats)
        floor_ms = device_floor_ms(floor, options.device)
        floor_text = ", ".join(f"{name} {value:.4f}" for name, value in floor_ms.items())
        for row in rows:
            timing = row.timing
            figures = f"{timing.median:11.4f} {timing.least:11.4f} {timing.most:11.4f} {len(timing.durations):6d}"
            floor_shown = floor_text if row.version == "compiled" else ""
            print(f"{row.gaussians:8d} {row.version:<14} {figures} {row.largest_difference:9.1e}  {floor_shown}", flush=True)
            named = {"gaussians": row.gaussians, "version": row.version, "largest_difference": row.largest_difference}
            results.append(named | timing.as_row() | {"floor": floor, "floor_ms": floor_ms})
    write_json(options.out, header | {"resolution": resolution, "num_blocks": FIELD_BLOCKS, "rows": results})


if __name__ == "__main__":
    main()
