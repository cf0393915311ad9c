"""Chapter 6: the whole program with and without the kernels of the density grid, and what a launcher can get wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from omegaconf import OmegaConf
from torch import Tensor

from benchmarks.course import originals
from benchmarks.course.scene import Scene, figure, table, time_here
from benchmarks.stages import NAME, PICTURE, run_once
from gs_renderer import GaussianModel, extract_fields, switches
from microdreamer.core.errors import UserError
from microdreamer.core.machine import choose_device
from microdreamer.gaussians import extraction
from microdreamer.guidance import load_prior
from microdreamer.kernels import gaussian_field
from microdreamer.pipeline.command_line import parse_command_line
from microdreamer.pipeline.config import Config, load_config

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "micro.yaml"
SMALL = ["total_steps=1", "denoise_steps=1", "init_steps=2", "num_pts=300", "cfg=1", "eta=1", "texture_size=64", "mesh_resolution=32"]
ON_CPU = ["total_steps=3", "mesh_resolution=64"]  # where the plain version of the whole takes a quarter of an hour
SWITCHES = {"plain PyTorch": False, "kernels": True}
# Beside the phases, in what a run is told by: what the switches change, all of it in the mesh phase.
GRID, OTHERS = "density grid, in mesh", "else switched, in mesh"
SWITCHED = ((extraction, "marching_cubes"), (extraction, "signed_distance"), (gaussian_field, "gaussian_3d_coeff"))
DASHED = "--input=photo_rgba.png"  # as the course project's launcher passed it


class SwitchedClock:
    """Adds up the seconds that a program spends in what the switches change; a call within such a call is the outer one's."""

    def __init__(self, device: torch.device, most_blocks: int) -> None:
        self.seconds = dict.fromkeys((GRID, OTHERS), 0.0)
        self._device, self._most_blocks, self._inside = device, most_blocks, False

    def timed(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if self._inside:
                return function(*arguments)
            self._inside = True
            try:
                started = self._now()
                result = function(*arguments)
                self.seconds[kind] += self._now() - started
            finally:
                self._inside = False
            return result

        return call

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """While the block runs, the functions are counted. The grid has its own number of blocks or, where that is less, `most_blocks`."""
        compute = gaussian_field.extract_fields

        def grid(means: Tensor, covs: Tensor, opacities: Tensor, resolution: int, num_blocks: int, relax_ratio: float) -> Tensor:
            return compute(means, covs, opacities, resolution, min(num_blocks, self._most_blocks), relax_ratio)

        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(gaussian_field, "extract_fields", self.timed(GRID, grid)))
            for module, name in SWITCHED:
                stack.enter_context(mock.patch.object(module, name, self.timed(OTHERS, getattr(module, name))))
            yield


def clock_of(device: torch.device) -> AbstractContextManager[object]:
    """While it lasts, programs on the CPU tell the processor's seconds, which others on the machine hardly change."""
    return mock.patch.object(time, "perf_counter", time.process_time) if device.type == "cpu" else nullcontext()


def run_program(config: Config, device: torch.device, compiled: bool, most_blocks: int) -> dict[str, float]:
    """Seconds of main.py by phase, and of what the switches change within them. The prior is loaded before."""
    prior = load_prior(config.prior, config.prior_path, device, config.precision, config.prior_memory)
    clock = SwitchedClock(device, most_blocks)
    with tempfile.TemporaryDirectory() as folder, switches(compiled, compiled), clock.running(), clock_of(device):
        seconds, _ = run_once("stage 1", dataclasses.replace(config, outdir=folder, save_path=NAME), prior, device)
    found = {phase: spent for (_, phase), spent in seconds.items() if phase != "prior + fit"}
    return found | clock.seconds


def amdahl(*parts: tuple[float, float]) -> float:
    """How many times as fast a program becomes when each part, a share of its time, becomes so many times as fast: (share, times)."""
    return 1 / (1 - sum(share for share, _ in parts) + sum(share / times for share, times in parts))


def swallowed() -> str:
    """Words with dashes, merged as the original's launcher did: they are keys of their own, and `input` stays empty."""
    merged = OmegaConf.merge({"input": ""}, OmegaConf.from_dotlist([DASHED]))
    return f"input={merged.input!r}, and a key {next(key for key in merged if str(key).startswith('--'))!r} that nobody reads"


def answer_to(*words: str) -> str:
    """What this project's parser makes of the same words."""
    try:
        config, _ = parse_command_line(list(words), "")
    except UserError as error:
        return f"refused: {error}"
    return f"input={config.input!r}"


def blob_and_object(scene: Scene) -> dict[str, dict[str, float]]:
    """Milliseconds of the same grid, plain and by the kernel, of a blob before any fit and of the object-like scene, equal in number."""
    from benchmarks.course.profile import solid_model

    generator = torch.Generator().manual_seed(0)
    blob = GaussianModel.initial_ball(scene.count, generator=generator, device=torch.device(scene.device))
    found = {}
    for name, model in {"untrained blob": blob, "an object": solid_model(scene)}.items():
        found[name] = {}
        for version, compiled in SWITCHES.items():
            with switches(gauss=False, extract=compiled):
                repeats, warm_up = (5, 1) if compiled else (1, 0)
                timing = time_here(
                    lambda model=model: extract_fields(model, scene.resolution, scene.num_blocks), scene.device, repeats, warm_up
                )
            found[name][version] = timing.median
    return found


def run(scene: Scene) -> dict:
    device = choose_device(scene.device)
    changes = SMALL if scene.small else ON_CPU if scene.device == "cpu" else []
    config = load_config(CONFIG, [f"device={scene.device}", f"input={PICTURE}", "video_frames=0", *changes])
    if not scene.small:
        run_program(config, device, True, scene.num_blocks)  # libraries and graphs: no part of what is compared
    runs = {name: run_program(config, device, compiled, scene.num_blocks) for name, compiled in SWITCHES.items()}
    before, after = runs.values()
    parts = {kind: (before[kind] / before["total"], before[kind] / max(after[kind], 1e-9)) for kind in (GRID, OTHERS)}
    return {
        "program": " ".join(["main.py --config configs/micro.yaml", *changes]),
        "runs": runs,
        "parts": {kind: {"share": share, "times": times} for kind, (share, times) in parts.items()},
        "launcher": {"merged without a look": swallowed(), "this project's": answer_to(DASHED)},
        "blob_ms": blob_and_object(scene),
    }


def tell(document: dict) -> Iterator[str]:
    runs = document["runs"]
    before, after = runs.values()
    yield f"{document['program']}: seconds by phase"
    yield table(
        ("phase", *runs, "times"), [(phase, before[phase], after[phase], before[phase] / max(after[phase], 1e-9)) for phase in before]
    )
    grid, others = ((part["share"], part["times"]) for part in document["parts"].values())
    yield f"\nThe grid is {100 * grid[0]:.1f} % of the plain program and becomes {figure(grid[1])} times as fast:"
    most = amdahl((grid[0], float("inf")))
    yield f"by that the program should become {figure(amdahl(grid))} times as fast, {figure(most)} at the very most."
    yield f"What else the switches change is {100 * others[0]:.1f} % and becomes {figure(others[1])} times as fast:"
    yield f"with it {figure(amdahl(grid, others))} times; and the program became {figure(before['total'] / after['total'])} times as fast."
    yield f"\nThe launcher: {DASHED}"
    yield from (f"  {name}: {said}" for name, said in document["launcher"].items())
    yield "  so its grid was an untrained blob's, and here that makes"
    yield table(("ms of a grid", *SWITCHES), [(name, *times.values()) for name, times in document["blob_ms"].items()])
    yield f"\nTheir {originals.REPORTED['A10G, kernel alone']:.0f} times, taken apart (their figures):"
    yield table(("what changed", "times"), originals.factors())
