"""Volume rendering of a field: march, choice of visible samples, compositing, and the whole render, forward and backward.

    python -m benchmarks.volume [--device cuda] [--views 8] [--size 64] [--samples 512] [--grid published micro] [--out results.json]

A field as it starts, a blob in the middle, with its occupancy grid after a first update. Each op is compared with its plain-PyTorch
twin on the same rays before it is timed, and stands beside it in the table (twins on a GPU wait for it); with nerfacc installed and on
a GPU, beside that too. The render's rows are: without gradients; with them, forward and backward; the same as a CUDA graph.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.rows import Bench, Row
from benchmarks.timing import Timing, captured, time_calls, write_json
from cam_utils import rays, turntable
from microdreamer.core.machine import best_device, describe, provenance
from microdreamer.fields.backgrounds import EnvironmentBackground
from microdreamer.fields.implicit_volume import PUBLISHED_GRID, ImplicitVolume, ImplicitVolumeSpec
from microdreamer.fields.volume_model import MIN_TRANSMITTANCE, VolumeModel, VolumeSettings
from microdreamer.kernels import extension
from microdreamer.kernels.hash_grid import HashGridSpec
from microdreamer.kernels.volume import Composite, Samples, composite, keep_visible, march_rays

GRIDS = {
    "published": ImplicitVolumeSpec(grid=PUBLISHED_GRID),
    "micro": ImplicitVolumeSpec(grid=HashGridSpec(levels=8, features=2, log2_table_size=15, base_resolution=8, growth=1.5), hidden=32),
}
CHECKED_RAYS = 1000
TOLERANCE = 1e-4


class Work(NamedTuple):
    """What the ops are given: rays [N,3], and for the samples found on them densities [M] and features [K,3] of the visible ones."""

    model: VolumeModel
    origins: Tensor
    directions: Tensor
    jitter: Tensor
    marched: Samples
    density: Tensor
    visible: Samples
    visible_density: Tensor
    features: Tensor

    def march(self, compiled: bool | None, capacity: int | None) -> Samples:
        model = self.model
        return march_rays(
            self.origins,
            self.directions,
            model.occupancy.occupied,
            radius=model.settings.radius,
            step=model.settings.step_size,
            jitter=self.jitter,
            capacity=capacity,
            compiled=compiled,
        )

    def keep(self, compiled: bool | None, capacity: int | None) -> Samples:
        least = self.model.occupancy.threshold
        return keep_visible(
            self.marched, self.density, min_alpha=least, min_transmittance=MIN_TRANSMITTANCE, capacity=capacity, compiled=compiled
        )

    def composite(self, compiled: bool | None) -> Composite:
        return composite(self.visible_density, self.features, self.visible, compiled=compiled)


def make_work(model: VolumeModel, views: int, size: int, least_rays: int | None = None) -> Work:
    """The samples of a turntable's rays, or of `least_rays` of them."""
    device = model.device
    chosen = slice(None, None, max(1, views * size * size // least_rays) if least_rays else 1)
    origins, directions = (
        tensor.reshape(-1, 3)[chosen].contiguous() for tensor in rays(turntable(views, width=size, height=size, device=device))
    )
    jitter = torch.rand(len(origins), generator=torch.Generator().manual_seed(1)).to(device)
    work = Work(model, origins, directions, jitter, *[None] * 5)
    work = work._replace(marched=work.march(None, None))
    with torch.no_grad():
        work = work._replace(density=model.geometry.density(work.marched.positions(origins, directions)))
        visible = work.keep(None, None)
        values = model.geometry(visible.positions(origins, directions))
    return work._replace(
        visible=visible,
        visible_density=values.density.requires_grad_(),
        features=values.features.sigmoid().contiguous().requires_grad_(),
    )


def gradients(work: Work, found: Composite) -> tuple[Tensor, ...]:
    loss = found.features.square().sum() + found.alpha.square().sum() + found.depth.sum()
    return torch.autograd.grad(loss, [work.visible_density, work.features])


def check(work: Work) -> None:
    """Stop where ops and twins disagree."""
    for name, make in (("march_rays", work.march), ("keep_visible", work.keep)):
        op, twin = make(True, None), make(False, None)
        differing = len(
            set(zip(op.ray.tolist(), op.start.tolist(), strict=True)) ^ set(zip(twin.ray.tolist(), twin.start.tolist(), strict=True))
        )
        if differing > 1e-3 * int(twin.total):
            raise SystemExit(f"{name} and plain PyTorch differ in {differing} of {int(twin.total)} samples: not timed")
    results = []
    for compiled in (True, False):
        found = work.composite(compiled)
        results.append([*found, *gradients(work, found)])
    for got, want in zip(*results, strict=True):
        error = float((got - want).detach().norm() / want.detach().norm())
        if not error < TOLERANCE:
            raise SystemExit(f"composite and plain PyTorch differ by {error:.1e}: not timed")


def with_nerfacc(work: Work) -> dict[str, Callable[[], object]]:
    """The same three things by nerfacc: march, march and choice, compositing."""
    import nerfacc

    settings, occupancy, count = work.model.settings, work.model.occupancy, len(work.origins)
    estimator = nerfacc.OccGridEstimator([-settings.radius] * 3 + [settings.radius] * 3, resolution=occupancy.resolution, levels=1)
    estimator = estimator.to(work.origins.device)
    estimator.binaries = occupancy.occupied[None].clone()
    density, visible = work.visible_density, work.visible
    ends = visible.start + visible.length

    def sums():
        weights, _, _ = nerfacc.render_weight_from_density(visible.start, ends, density, ray_indices=visible.ray, n_rays=count)
        parts = (work.features, None, visible.middle[:, None])
        return [nerfacc.accumulate_along_rays(weights, values, visible.ray, count) for values in parts]

    def backward():
        colors, alpha, depth = sums()
        return torch.autograd.grad(colors.square().sum() + alpha.square().sum() + depth.sum(), [density, work.features])

    return {
        "march": lambda: estimator.sampling(work.origins, work.directions, render_step_size=settings.step_size),
        "composite": sums,
        "composite and gradients": backward,
    }


def render_rows(model: VolumeModel, views: int, size: int) -> dict[str, Callable[[], object]]:
    """The whole render, in training mode with draws from outside."""
    cameras, draws = turntable(views, width=size, height=size, device=model.device), model.draw(views, size, size)
    parameters = list(model.parameters())

    def forward():
        with torch.no_grad():
            return model.render(cameras, None, draws)

    def training():
        return torch.autograd.grad(model.render(cameras, None, draws).image.square().mean(), parameters)

    rows = {"render": forward, "render and gradients": training}
    if model.device.type == "cuda":
        rows["render and gradients, graph"] = captured(training)
    return rows


def starting_model(grid: str, samples: int, device: torch.device | str) -> VolumeModel:
    """A field as it starts, with `samples` steps along the box's diagonal."""
    generator = torch.Generator().manual_seed(0)
    settings = VolumeSettings(samples_per_ray=samples)
    model = VolumeModel(ImplicitVolume(GRIDS[grid], generator), EnvironmentBackground(generator=generator), settings, generator)
    model = model.to(device).train()
    model.refresh(0)
    return model


def headline(bench: Bench, grid: str, views: int, size: int, samples: int) -> Iterator[Row]:
    """The whole render; what it cannot leave out are the networks' products at the samples that are seen. Ops are held to their twins."""
    model = starting_model(grid, samples, bench.device)
    check(make_work(model, views, size, CHECKED_RAYS))
    seen = len(make_work(model, views, size).visible.start)
    weights = sum(p.numel() for part in (model.geometry.density_network, model.geometry.feature_network) for p in part.parameters())
    for what, call in render_rows(model, views, size).items():
        passes = 3 if "gradients" in what else 1  # forward, and the gradients of inputs and of weights
        yield bench.row(f"neural field ({grid}), {views} x {size}^2: {what}", call, products=passes * seen * weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default=best_device().type)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--samples", type=int, default=512, help="steps along the box's diagonal")
    parser.add_argument("--grid", nargs="+", choices=GRIDS, default=list(GRIDS))
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    device, rows = torch.device(options.device), []
    if not extension.available(device):
        raise SystemExit(f"no compiled {device} kernels to measure; {extension.BUILD_HINT}")
    header = provenance(device)
    print(describe(header))
    print(f"{options.views} views of {options.size}x{options.size}, {options.samples} samples a ray, {options.repeats} calls each")
    for name in options.grid:
        model = starting_model(name, options.samples, device)
        check(make_work(model, options.views, options.size, CHECKED_RAYS))
        work = make_work(model, options.views, options.size)
        capacities = (len(work.marched.start), len(work.visible.start)) if device.type == "cuda" else (None, None)
        found = f"{len(work.origins)} rays, {len(work.marched.start)} samples marched, {len(work.visible.start)} visible"
        print(f"{name}: {found}")

        def ways(compiled: bool, work: Work = work, capacities=capacities) -> dict[str, Callable[[], object]]:
            return {
                "march": lambda: work.march(compiled, capacities[0]),
                "choice": lambda: work.keep(compiled, capacities[1]),
                "composite": lambda: work.composite(compiled),
                "composite and gradients": lambda: gradients(work, work.composite(compiled)),
            }

        calls = {"op": ways(True), "plain PyTorch": ways(False)}
        if device.type == "cuda" and importlib.util.find_spec("nerfacc"):
            calls["nerfacc"] = with_nerfacc(work)
        calls["model"] = render_rows(model, options.views, options.size)
        for way, named in calls.items():
            for what, call in named.items():
                timing: Timing = time_calls(call, device, options.repeats, warm_up=2)
                rows.append({"grid": name, "way": way, "what": what, "samples": found, **timing.as_row()})
                print(f"  {what:28} {way:14} {timing.median:9.3f} ms ({timing.p10:.3f} to {timing.p90:.3f})", flush=True)
    write_json(options.out, header | {"rows": rows})


if __name__ == "__main__":
    main()
