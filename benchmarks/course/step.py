"""Chapter 5: a step of the fit: views together instead of one by one, one launch for Adam, and a CUDA graph."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.course.scene import Scene, figure, kind_of, operations, table, time_in_turn
from benchmarks.fit_step import check, least_bytes, steps
from benchmarks.timing import Timing, bytes_per_millisecond
from microdreamer.gaussians.model import GaussianModel
from microdreamer.kernels.adam import Adam

BETAS, EPS, RATE = (0.9, 0.999), 1e-15, 1e-3


def spelt_out(parameters: list[Tensor]) -> Callable[[], None]:
    """Adam as the paper writes it, an operation after the other."""
    moments = [(torch.zeros_like(parameter), torch.zeros_like(parameter)) for parameter in parameters]
    counter = itertools.count(1)

    @torch.no_grad()
    def step() -> None:
        number = next(counter)
        for parameter, (mean, square) in zip(parameters, moments, strict=True):
            gradient = parameter.grad
            mean.mul_(BETAS[0]).add_((1 - BETAS[0]) * gradient)
            square.mul_(BETAS[1]).add_((1 - BETAS[1]) * gradient * gradient)
            unbiased, spread = mean / (1 - BETAS[0] ** number), (square / (1 - BETAS[1] ** number)).sqrt()
            parameter.sub_(RATE * unbiased / (spread + EPS))

    return step


def one_tensor_a_launch(parameters: list[Tensor]) -> Callable[[], None]:
    return torch.optim.Adam(parameters, RATE, BETAS, EPS, fused=True).step


def all_in_one_launch(parameters: list[Tensor]) -> Callable[[], None]:
    return Adam(parameters, RATE, BETAS, EPS).step


ADAMS = {"Adam, spelt out": spelt_out, "Adam, PyTorch's fused": one_tensor_a_launch, "Adam, one launch": all_in_one_launch}


def adam_parameters(count: int, device: str) -> list[Tensor]:
    model = GaussianModel.initial_ball(count, generator=torch.Generator().manual_seed(0), device=torch.device(device))
    parameters = [parameter for parameter in model.parameters() if parameter.numel()]
    generator = torch.Generator().manual_seed(1)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(device)
    return parameters


def adams(count: int, device: str, repeats: int) -> dict[str, tuple[Timing, int]]:
    """Milliseconds and operations of each; all must have moved the parameters to the same place after three steps."""
    steps_of, first = {}, None
    for name, make in ADAMS.items():
        parameters = adam_parameters(count, device)
        step = make(parameters)
        for _ in range(3):
            step()
        moved = torch.cat([parameter.detach().flatten() for parameter in parameters])
        first = moved if first is None else first
        difference = float((moved - first).abs().max())
        if not difference <= 1e-5:
            raise SystemExit(f"{name}: parameters differ by {difference:.1g} after three steps; expected at most 1e-5")
        steps_of[name] = step
    timings = time_in_turn(steps_of, device, repeats)
    return {name: (timings[name], operations(step)) for name, step in steps_of.items()}


def run(scene: Scene) -> dict:
    device = torch.device(scene.device)
    count, views, size = (100, 3, 32) if scene.small else (5000, 7, 256) if scene.device == "cuda" else (1000, 5, 128)
    repeats = 2 if scene.small else 50 if scene.device == "cuda" else 20
    kinds = ["view by view", "all views"] + ["all views, CUDA graph"] * (scene.device == "cuda")

    def build(kind: str) -> Callable[[], Tensor]:
        return steps(kind, count, views, size, device)

    agreement = check(kinds, build)
    calls = {kind: build(kind) for kind in kinds}
    timings = time_in_turn(calls, scene.device, repeats, warm_up=5)
    # A replayed graph is one operation to the host; PyTorch's counter would stand in the way of the replay.
    counts = {kind: 1 if "graph" in kind else operations(call) for kind, call in calls.items()}
    rows = [{"what": kind, "operations": counts[kind], **timings[kind].as_row()} for kind in kinds]
    for name, (timing, count_of) in adams(count, scene.device, repeats).items():
        rows.append({"what": name, "operations": count_of, **timing.as_row()})
    floor = least_bytes(count, views, size) / bytes_per_millisecond(scene.device, time.process_time)
    return {"gaussians": count, "views": views, "size": size, "agreement": agreement, "floor_ms": floor, "rows": rows}


def tell(document: dict) -> Iterator[str]:
    size, views = document["size"], document["views"]
    yield f"a step of the fit: {document['gaussians']} Gaussians, {views} views of {size}x{size}, {kind_of(document)}"
    for kind, worst in document["agreement"].items():
        yield f"{kind}: losses within {worst:.1e} of '{document['rows'][0]['what']}'"
    cells = [(row["what"], row["median_ms"], str(row["operations"])) for row in document["rows"]]
    yield table(("what", "ms", "operations of the host"), cells)
    yield f"\nThe floor of a step, to move its pictures and parameters, is {figure(document['floor_ms'])} ms."
