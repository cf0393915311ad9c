"""Time of the hash grid, forward and backward, beside the bytes it cannot do without.

    python -m benchmarks.hash_grid [--device cuda] [--points 65536 1048576] [--grid geometry converter] [--out results.json]

Points come either scattered (every gather in another cell) or in order along rays (neighbours share coarse cells), as a renderer
sends them. Before anything is timed, encoding and gradients of a few points are compared with the plain-PyTorch twin. CUDA times
come from events over single calls after a warm-up. The floor counts points, encodings and each table once, from memory; the
gathers themselves come from the second cache (see csrc/cuda/hash_grid.cu).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from kernels.hash_grid import HashGridSpec, hash_grid_encode

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
    rays = -(-count // samples)
    start, end = torch.rand(2, rays, 1, 3, generator=draw)
    return torch.lerp(start, end, torch.linspace(0, 1, samples)[:, None]).reshape(-1, 3)[:count].contiguous()


def check(points: Tensor, params: Tensor, spec: HashGridSpec) -> None:
    """Stop where op and twin disagree."""
    points = points[:CHECKED_POINTS].detach().requires_grad_()
    results = []
    for compiled in (True, False):
        encoded = hash_grid_encode(points, params, spec, compiled=compiled)
        results.append([encoded, *torch.autograd.grad(encoded.square().sum(), [points, params])])
    for got, want in zip(*results, strict=True):
        error = float((got - want).detach().norm() / want.detach().norm())
        if not error < TOLERANCE:
            raise SystemExit(f"op and plain PyTorch differ by {error:.1e}: not timed")


def milliseconds(call: Callable[[], object], device: str, repeats: int) -> float:
    durations = []
    for _ in range(repeats + 2):
        if device.startswith("cuda"):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            call()
            end.record()
            end.synchronize()
            durations.append(begin.elapsed_time(end))
        else:
            started = time.perf_counter()
            call()
            durations.append(1e3 * (time.perf_counter() - started))
    return statistics.median(durations[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--points", type=int, nargs="+", default=[1 << 16, 1 << 20])
    parser.add_argument("--grid", nargs="+", choices=GRIDS, default=list(GRIDS))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", help="JSON file to write")
    options = parser.parse_args()
    device, rows = options.device, []
    print("ms: forward; gradient of params, the same with equal bits every time; gradient of points. MB: least bytes of the forward pass")
    print(f"{'grid':>10} {'points':>8} {'order':>9} {'forward':>9} {'params':>9} {'repeating':>9} {'points':>9} {'MB':>7}")
    for name in options.grid:
        spec = GRIDS[name]
        params = torch.randn(spec.num_params, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
        for count in options.points:
            for order, make in (("scattered", scattered), ("rays", along_rays)):
                points = make(count, torch.Generator().manual_seed(1)).to(device)
                check(points, params, spec)
                with torch.no_grad():
                    forward = milliseconds(lambda p=points, t=params, s=spec: hash_grid_encode(p, t, s), device, options.repeats)
                gradients = []
                for wanted, deterministic in (("params", False), ("params", True), ("points", False)):
                    leaf = points.clone().requires_grad_() if wanted == "points" else points
                    table = params if wanted == "params" else params.detach()
                    encoded = hash_grid_encode(leaf, table, spec, deterministic=deterministic)
                    weight, target = torch.randn_like(encoded), table if wanted == "params" else leaf

                    def backward(encoded=encoded, weight=weight, target=target):
                        return torch.autograd.grad(encoded, target, weight, retain_graph=True)

                    gradients.append(milliseconds(backward, device, options.repeats))
                megabytes = 4e-6 * (count * (3 + spec.width) + spec.num_params)
                rows.append({"grid": name, "points": count, "order": order, "forward_ms": forward, "floor_mb": megabytes})
                rows[-1] |= dict(zip(("params_ms", "params_deterministic_ms", "points_ms"), gradients, strict=True))
                times = " ".join(f"{value:9.3f}" for value in (forward, *gradients))
                print(f"{name:>10} {count:8d} {order:>9} {times} {megabytes:7.1f}", flush=True)
    if options.out:
        hardware = torch.cuda.get_device_name() if device.startswith("cuda") else "cpu"
        Path(options.out).write_text(json.dumps({"device": hardware, "torch": torch.__version__, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
