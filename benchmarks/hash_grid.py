"""Time of the hash grid, forward and backward, beside the bytes it cannot do without.

    python -m benchmarks.hash_grid [--device cuda] [--points 65536 1048576] [--grid geometry converter] [--out results.json]

Points come either scattered (every gather in another cell) or in order along rays (neighbours share coarse cells), in steps of a 300th
of the box, as the renderer of fields sends them. Before anything is timed, encoding and gradients of a few points are compared with
the plain-PyTorch twin. Times are medians of single calls after a warm-up (benchmarks/timing.py); the JSON has their spread, the table
the widest (10th to 90th percentile of a column over its median). The floor counts points, encodings and each table once, at the speed
of copying on this device; the gathers themselves come from the second cache (see csrc/cuda/hash_grid.cu).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.rows import Bench, Row
from benchmarks.timing import bytes_per_millisecond, stop_where_they_differ, time_calls, write_json
from microdreamer.core.machine import best_device, describe, provenance
from microdreamer.kernels import extension
from microdreamer.kernels.hash_grid import HashGridSpec, hash_grid_encode

GRIDS = {
    "geometry": HashGridSpec(16, 2, 19, 16, 1.447269237440378),  # of the text-to-3D fields
    "converter": HashGridSpec(12, 2, 19, 16, 2.0),
    "small": HashGridSpec(6, 2, 15, 16, 1.6),
}
CHECKED_POINTS = 2000
TOLERANCE = 1e-4


def scattered(count: int, draw: torch.Generator) -> Tensor:
    return torch.rand(count, 3, generator=draw)


def along_rays(count: int, draw: torch.Generator, samples: int = 64) -> Tensor:
    """Ray by ray, in steps as long as those of the fields: a 300th of the box."""
    rays = -(-count // samples)
    start, direction = 0.25 + 0.5 * torch.rand(rays, 1, 3, generator=draw), torch.randn(rays, 1, 3, generator=draw)
    distance = torch.arange(samples)[:, None] / 300
    return (start + distance * torch.nn.functional.normalize(direction, dim=-1)).reshape(-1, 3)[:count].contiguous()


def check(points: Tensor, params: Tensor, spec: HashGridSpec) -> None:
    """Stop where op and twin disagree."""
    points = points[:CHECKED_POINTS].detach().requires_grad_()
    results = []
    for compiled in (True, False):
        encoded = hash_grid_encode(points, params, spec, compiled=compiled)
        results.append([encoded, *torch.autograd.grad(encoded.square().sum(), [points, params])])
    stop_where_they_differ(*results, TOLERANCE)


def table_of(spec: HashGridSpec, device: str) -> Tensor:
    return torch.randn(spec.num_params, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()


def calls_of(points: Tensor, params: Tensor, spec: HashGridSpec) -> dict[str, Callable[[], object]]:
    """Forward pass, gradient of the table, the same with equal bits every time, gradient of the points: each alone."""

    def forward() -> Tensor:
        with torch.no_grad():
            return hash_grid_encode(points, params, spec)

    calls: dict[str, Callable[[], object]] = {"forward": forward}
    for what, deterministic in (("params", False), ("params_deterministic", True), ("points", False)):
        of_points = what == "points"
        leaf = points.clone().requires_grad_() if of_points else points
        table = params.detach() if of_points else params
        encoded = hash_grid_encode(leaf, table, spec, deterministic=deterministic)
        weight, target = torch.randn_like(encoded), leaf if of_points else table

        def backward(encoded=encoded, weight=weight, target=target) -> object:
            return torch.autograd.grad(encoded, target, weight, retain_graph=True)

        calls[what] = backward
    return calls


def least_bytes(count: int, spec: HashGridSpec) -> int:
    """Of the forward pass: points, encodings, and the table once, or what of it so many points can touch."""
    touched = min(spec.num_params, count * 8 * spec.width)
    return 4 * (count * (3 + spec.width) + touched)


def headline(bench: Bench, count: int, grid: str) -> Iterator[Row]:
    """Points along rays: forward, and both gradients. A gradient moves what the forward pass moves, in the other direction."""
    spec = GRIDS[grid]
    params, points = table_of(spec, bench.device), along_rays(count, torch.Generator().manual_seed(1)).to(bench.device)
    check(points, params, spec)
    titles = {"forward": "forward", "params": "gradient of the table", "points": "gradient of the points"}
    calls = calls_of(points, params, spec)
    for what, title in titles.items():
        yield bench.row(f"hash grid, {spec.levels} levels, {count} points along rays: {title}", calls[what], bytes=least_bytes(count, spec))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default=best_device().type)
    parser.add_argument("--points", type=int, nargs="+", default=[1 << 16, 1 << 20])
    parser.add_argument("--grid", nargs="+", choices=GRIDS, default=list(GRIDS))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    device, rows = options.device, []
    if not extension.available(device):
        raise SystemExit(f"no compiled {device} kernels to measure; {extension.BUILD_HINT}")
    header = provenance(device)
    bandwidth = bytes_per_millisecond(device)
    print(f"{describe(header)}\n{options.repeats} calls each; copies {bandwidth / 1e6:.0f} GB/s")
    print("ms: forward, its floor; gradient of params, the same with equal bits every time; gradient of points; widest spread")
    titles = f"{'forward':>9} {'floor':>7} {'params':>9} {'repeating':>9} {'points':>9} {'spread':>7}"
    print(f"{'grid':>10} {'points':>8} {'order':>9} {titles}")
    for name in options.grid:
        spec = GRIDS[name]
        params = table_of(spec, device)
        for count in options.points:
            for order, make in (("scattered", scattered), ("rays", along_rays)):
                points = make(count, torch.Generator().manual_seed(1)).to(device)
                check(points, params, spec)
                timings = {what: time_calls(call, device, options.repeats) for what, call in calls_of(points, params, spec).items()}
                least = least_bytes(count, spec)
                row = {"grid": name, "points": count, "order": order, "floor_bytes": least, "floor_ms": least / bandwidth}
                rows.append(row | {what: timing.as_row() for what, timing in timings.items()})
                forward, *gradients = (f"{timing.median:9.3f}" for timing in timings.values())
                spread = max((timing.p90 - timing.p10) / timing.median for timing in timings.values())
                print(
                    f"{name:>10} {count:8d} {order:>9} {forward} {row['floor_ms']:7.3f} {' '.join(gradients)} {spread:7.0%}",
                    flush=True,
                )
    write_json(options.out, header | {"copies_gb_s": bandwidth / 1e6, "rows": rows})


if __name__ == "__main__":
    main()
