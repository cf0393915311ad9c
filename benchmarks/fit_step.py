"""One optimiser step of stage 1: render all views and the picture, loss, gradients, density statistics, Adam.

python -m benchmarks.fit_step [--gaussians 5000 21500] [--views 7] [--size 256] [--profile]

Rows: the views one by one, as the original's loop does (with this project's kernels); all views in one call; the same as a CUDA
graph, which is what programs run on a GPU. All start from the same Gaussians and must see the same losses. The floor is the
traffic of pictures and parameters, each read or written once a pass.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.rows import Bench, Row
from benchmarks.timing import Timing, bytes_per_millisecond, time_calls, write_json
from cam_utils import Cameras, orbit_cameras
from microdreamer.core.machine import best_device, describe, provenance
from microdreamer.distillation import sir
from microdreamer.gaussians.model import GaussianModel, Render

CHECKED_STEPS, TOLERANCE = 5, 1e-3  # steps whose losses must agree to this share
PICTURE_LAYERS, PICTURE_PASSES = 5, 4  # colours, alpha and depth; written, read by the loss, its gradient written and read
PARAMETERS, PARAMETER_PASSES = 14, 9  # numbers of a Gaussian without harmonics; value, gradient and two moments, read and written


class ViewByView:
    """Renders one view at a time, as the original's loop does."""

    def __init__(self, model: GaussianModel) -> None:
        self.model = model

    def render(self, cameras: Cameras, background: Tensor) -> Render:
        single = [self.model.render(cameras[view], background) for view in range(len(cameras))]
        self.parts = single
        image, alpha, depth, radii = (torch.cat([getattr(part, name) for part in single]) for name in ("image", "alpha", "depth", "radii"))
        return Render(image, alpha, depth, radii, None)


def steps(kind: str, count: int, views: int, size: int, device: torch.device) -> Callable[[], Tensor]:
    """A function that does one step of `kind` on Gaussians of its own and returns the loss."""
    generator = torch.Generator().manual_seed(0)
    model = GaussianModel.initial_ball(count, generator=generator, device=device)
    optimizer = model.make_optimizer()
    azimuths = [360 / (views - 1) * view for view in range(views - 1)]
    cameras = orbit_cameras(10.0, azimuths, width=size, height=size, device=device)
    camera = orbit_cameras(0.0, 0.0, width=size, height=size, device=device)
    background = torch.ones(3, device=device)
    targets = torch.rand(views - 1, 3, size, size, generator=generator).to(device)
    reference = sir.Reference(camera, targets[:1].clone(), torch.ones(1, 1, size, size, device=device))

    def learn(rendering: Render) -> None:
        if rendering.means2d is None:
            for part in representation.parts:
                model.record_statistics(part)
        else:
            model.record_statistics(rendering)
        optimizer.step()
        optimizer.zero_grad()

    representation = ViewByView(model) if kind == "view by view" else model
    fitter = sir.Fitter(representation, reference, background, learn)
    fitter.graphs = kind.endswith("CUDA graph")
    return lambda: fitter.step(cameras, targets)


def check(kinds: list[str], build: Callable[[str], Callable[[], Tensor]]) -> dict[str, float]:
    """How far the losses of each kind are from the first's, as a share; AssertionError where that is too far."""
    losses = {}
    for kind in kinds:
        step = build(kind)
        losses[kind] = [float(step()) for _ in range(CHECKED_STEPS)]
    found = {}
    for kind in kinds[1:]:
        found[kind] = max(abs(a / b - 1) for a, b in zip(losses[kind], losses[kinds[0]], strict=True))
        assert found[kind] < TOLERANCE, (kind, losses)
    return found


def print_kernels(step: Callable[[], Tensor]) -> None:
    """The kernels of a replayed step, by time."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(10):
            step()
        torch.cuda.synchronize()
    rows = sorted(profiler.key_averages(), key=lambda row: -row.self_device_time_total)
    print(f"kernels of a step: {sum(row.count for row in rows) / 10:.0f}, {sum(row.self_device_time_total for row in rows) / 1e4:.3f} ms")
    for row in rows[:25]:
        print(f"  {row.self_device_time_total / 1e4:7.4f} ms, {row.count / 10:5.1f} times: {row.key[:110]}")


def least_bytes(count: int, views: int, size: int) -> int:
    """What a step must move: pictures and parameters of float32, each as often as no step can avoid."""
    return 4 * (views * size**2 * PICTURE_LAYERS * PICTURE_PASSES + count * PARAMETERS * PARAMETER_PASSES)


def headline(bench: Bench, counts: Sequence[int], views: int, size: int) -> Iterator[Row]:
    """The step as programs run it, whose losses are those of the views one by one; on a GPU launched and as a CUDA graph."""
    kinds = ["all views"] + ["all views, CUDA graph"] * bench.on_gpu
    for count in counts:

        def build(kind: str, count: int = count) -> Callable[[], Tensor]:
            return steps(kind, count, views, size, torch.device(bench.device))

        check(["view by view", *kinds], build)
        for kind in kinds:
            name = f"fit step, {count} Gaussians, {views} x {size}^2" + ": graph" * kind.endswith("graph")
            yield bench.row(name, build(kind), bytes=least_bytes(count, views, size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default=best_device().type)
    parser.add_argument("--gaussians", type=int, nargs="+", default=[5000, 21500])
    parser.add_argument("--views", type=int, default=7, help="the picture's included")
    parser.add_argument("--size", type=int, default=256, help="pixels a side")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--profile", action="store_true", help="list the kernels of the last row (GPU)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    device = torch.device(options.device)
    found = provenance(device)
    print(describe(found))
    bandwidth = bytes_per_millisecond(device)
    kinds = ["view by view", "all views"] + ["all views, CUDA graph"] * (device.type == "cuda")
    rows = []
    for count in options.gaussians:

        def build(kind: str, count: int = count) -> Callable[[], Tensor]:
            return steps(kind, count, options.views, options.size, device)

        print(f"{count} Gaussians, {options.views} views of {options.size}x{options.size}")
        for kind, worst in check(kinds, build).items():
            print(f"{kind}: losses within {worst:.1e} of '{kinds[0]}'")
        floor = least_bytes(count, options.views, options.size) / bandwidth
        for kind in kinds:
            step = build(kind)
            timing: Timing = time_calls(step, device, options.repeats, warm_up=5)
            rows.append({"gaussians": count, "kind": kind, "floor_ms": floor, **timing.as_row()})
            print(f"  {kind:24} {timing.median:8.3f} ms ({timing.p10:.3f} to {timing.p90:.3f}); floor {floor:.3f} ms")
        if options.profile and device.type == "cuda":
            print_kernels(step)
    write_json(options.out, found | {"rows": rows})


if __name__ == "__main__":
    main()
