"""Time of reading planes and voxels, forward and backward, beside plain PyTorch's and the bytes it cannot do without.

    python -m benchmarks.grid_sampling [--device cuda] [--points 262144 4194304] [--cases planes voxels] [--out results.json]

Points come either scattered or as a renderer sends them: along rays, with the three more of a finite difference beside each. The grids
are those of the published networks: three planes of 64x64 and voxels of 128^3, of 32 channels. Before anything is timed, op and plain
PyTorch (F.grid_sample, channels first) are compared on a few points. Times are medians of single calls after a warm-up
(benchmarks/timing.py). The floor counts points, features and grids once, at the speed of copying on this device.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.timing import bytes_per_millisecond, stop_where_they_differ, time_calls, write_json
from microdreamer.core.machine import best_device, describe, provenance
from microdreamer.generators.conv3d import VOXEL_AXES
from microdreamer.generators.triplane_transformer import PLANE_AXES
from microdreamer.kernels import extension
from microdreamer.kernels.grid_sampling import sample_grids

CASES = {  # axes of the grids, and their shape
    "planes": (PLANE_AXES, (1, 3, 64, 64, 32)),
    "voxels": ((VOXEL_AXES,), (1, 1, 128, 128, 128, 32)),
    "small": (PLANE_AXES, (1, 3, 8, 8, 8)),
}
CHECKED_POINTS = 2000
TOLERANCE = 1e-4
STEP = 0.005  # of a finite difference, where a box of 4 a side is taken for one of 2


def scattered(count: int, draw: torch.Generator) -> Tensor:
    return 2 * torch.rand(1, count, 3, generator=draw) - 1


def along_rays(count: int, draw: torch.Generator, samples: int = 193) -> Tensor:
    """Two thirds of a ray's samples near its surface, as importance sampling places them; each with its three neighbours behind it."""
    rays = -(-count // (4 * samples))
    start, end = 2 * torch.rand(2, rays, 1, 3, generator=draw) - 1
    near = 0.5 + 0.03 * torch.randn(rays, samples - samples // 3, 1, generator=draw)
    places = torch.cat([torch.rand(rays, samples // 3, 1, generator=draw), near], 1)
    points = torch.lerp(start, end, places.clamp(0, 1).sort(dim=1).values)
    around = points[:, :, None] + STEP * torch.cat([torch.zeros(1, 3), torch.eye(3)])
    return around.reshape(1, -1, 3)[:, :count].contiguous()


def check(points: Tensor, grids: Tensor, axes: tuple[tuple[int, ...], ...]) -> None:
    """Stop where op and twin disagree."""
    points = points[:, :CHECKED_POINTS].detach().requires_grad_()
    results = []
    for compiled in (True, False):
        features = sample_grids(points, grids, axes, compiled=compiled)
        results.append([features, *torch.autograd.grad(features.square().sum(), [points, grids])])
    stop_where_they_differ(*results, TOLERANCE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default=best_device().type)
    parser.add_argument("--points", type=int, nargs="+", default=[1 << 18, 1 << 22])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["planes", "voxels"])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    device, rows = options.device, []
    if not extension.available(device):
        raise SystemExit(f"no compiled {device} kernels to measure; {extension.BUILD_HINT}")
    header = provenance(device)
    bandwidth = bytes_per_millisecond(device)
    print(f"{describe(header)}\n{options.repeats} calls each; copies {bandwidth / 1e6:.0f} GB/s")
    print(
        "ms: forward, its floor; gradient of the grids, the same with equal bits every time; gradient of the points; then plain PyTorch's"
    )
    print(
        f"{'case':>7} {'points':>8} {'order':>9} {'forward':>9} {'floor':>7} {'grids':>9} {'repeating':>9} {'points':>9} | {'PyTorch':>9}"
    )
    for name in options.cases:
        axes, shape = CASES[name]
        grids = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
        for count in options.points:
            for order, make in (("scattered", scattered), ("rays", along_rays)):
                points = make(count, torch.Generator().manual_seed(1)).to(device)
                check(points, grids, axes)
                timings = {}
                for version, compiled in (("", True), ("plain_", False)):
                    with torch.no_grad():
                        timings[f"{version}forward"] = time_calls(
                            functools.partial(sample_grids, points, grids, axes, compiled=compiled), device, options.repeats
                        )
                    for what, deterministic in (("grids", False), ("grids_deterministic", True), ("points", False)):
                        if deterministic and not compiled:
                            continue  # it has none on CUDA
                        leaf = points.clone().requires_grad_() if what == "points" else points
                        table = grids.detach() if what == "points" else grids
                        features = sample_grids(leaf, table, axes, deterministic=deterministic, compiled=compiled)
                        weight, target = torch.randn_like(features), leaf if what == "points" else table

                        def backward(features=features, weight=weight, target=target):
                            return torch.autograd.grad(features, target, weight, retain_graph=True)

                        timings[version + what] = time_calls(backward, device, options.repeats)
                        del features
                least_bytes = 4 * (count * (3 + len(axes) * shape[-1]) + grids.numel())
                row = {"case": name, "points": count, "order": order, "floor_bytes": least_bytes, "floor_ms": least_bytes / bandwidth}
                rows.append(row | {what: timing.as_row() for what, timing in timings.items()})
                forward, *others = (f"{timing.median:9.3f}" for timing in timings.values())
                ours, plain = " ".join(others[:3]), " ".join(others[3:])
                print(f"{name:>7} {count:8d} {order:>9} {forward} {row['floor_ms']:7.3f} {ours} | {plain}", flush=True)
    write_json(options.out, header | {"copies_gb_s": bandwidth / 1e6, "rows": rows})


if __name__ == "__main__":
    main()
