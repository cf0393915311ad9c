"""Chapter 6: the whole program with and without the kernels of the density grid, and what a launcher can get wrong."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from unittest import mock

import torch
from omegaconf import OmegaConf

from benchmarks.course import originals
from benchmarks.course.scene import Scene, figure, table, time_here
from benchmarks.stages import NAME, PICTURE, run_once
from gs_renderer import GaussianModel, extract_fields, switches
from microdreamer.core.errors import UserError
from microdreamer.core.machine import choose_device
from microdreamer.guidance import load_prior
from microdreamer.kernels import gaussian_field
from microdreamer.pipeline.command_line import parse_command_line
from microdreamer.pipeline.config import Config, load_config

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "micro.yaml"
SMALL = ["total_steps=1", "denoise_steps=1", "init_steps=2", "num_pts=300", "cfg=1", "eta=1", "texture_size=64", "mesh_resolution=32"]
ON_CPU = ["total_steps=3", "mesh_resolution=64"]  # where the plain version of the whole takes a quarter of an hour
SWITCHES = {"plain PyTorch": False, "kernels": True}
GRID = "density grid, in mesh"  # beside the phases, in what a run is told by
DASHED = "--input=photo_rgba.png"  # as the course project's launcher passed it


class FieldClock:
    """Adds up the seconds that a program spends in the density grid, with its own number of blocks or, where that is less, another."""

    def __init__(self, most_blocks: int) -> None:
        self.seconds, self._most_blocks, self._compute = 0.0, most_blocks, gaussian_field.extract_fields

    def __call__(self, means, covs, opacities, resolution, num_blocks, relax_ratio):
        started = time.perf_counter()
        field = self._compute(means, covs, opacities, resolution, min(num_blocks, self._most_blocks), relax_ratio)
        if means.device.type == "cuda":
            torch.cuda.synchronize(means.device)
        self.seconds += time.perf_counter() - started
        return field


def clock_of(device: torch.device) -> AbstractContextManager[object]:
    """While it lasts, programs on the CPU tell the processor's seconds, which others on the machine hardly change."""
    return mock.patch.object(time, "perf_counter", time.process_time) if device.type == "cpu" else nullcontext()


def run_program(config: Config, device: torch.device, compiled: bool, most_blocks: int) -> dict[str, float]:
    """Seconds of main.py by phase, and of the density grid within them. The prior is loaded before."""
    prior = load_prior(config.prior, config.prior_path, device, config.precision, config.prior_memory)
    clock = FieldClock(most_blocks)
    counted = mock.patch.object(gaussian_field, "extract_fields", clock)
    with tempfile.TemporaryDirectory() as folder, switches(compiled, compiled), counted, clock_of(device):
        seconds, _ = run_once("stage 1", dataclasses.replace(config, outdir=folder, save_path=NAME), prior, device)
    found = {phase: spent for (_, phase), spent in seconds.items() if phase != "prior + fit"}
    return found | {GRID: clock.seconds}


def amdahl(share: float, times: float) -> float:
    """How many times as fast a program becomes when `share` of its time becomes `times` as fast."""
    return 1 / (1 - share + share / times)


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


def blob_and_object(scene: Scene) -> dict[str, float]:
    """Milliseconds of the same grid of a blob before any fit and of the object-like scene, equal in number."""
    from benchmarks.course.profile import solid_model

    generator = torch.Generator().manual_seed(0)
    blob = GaussianModel.initial_ball(scene.count, generator=generator, device=torch.device(scene.device))
    models = {"untrained blob": blob, "an object": solid_model(scene)}
    with switches(gauss=False, extract=False):
        return {
            name: time_here(
                lambda model=model: extract_fields(model, scene.resolution, scene.num_blocks), scene.device, 1, warm_up=0
            ).median
            for name, model in models.items()
        }


def run(scene: Scene) -> dict:
    device = choose_device(scene.device)
    changes = SMALL if scene.small else ON_CPU if scene.device == "cpu" else []
    config = load_config(CONFIG, [f"device={scene.device}", f"input={PICTURE}", "video_frames=0", *changes])
    if not scene.small:
        run_program(config, device, True, scene.num_blocks)  # libraries and graphs: no part of what is compared
    runs = {name: run_program(config, device, compiled, scene.num_blocks) for name, compiled in SWITCHES.items()}
    before, after = runs.values()
    share = before[GRID] / before["total"]
    times = before[GRID] / after[GRID]
    return {
        "program": " ".join(["main.py --config configs/micro.yaml", *changes]),
        "runs": runs,
        "share": share,
        "times": times,
        "expected": amdahl(share, times),
        "launcher": {"merged without a look": swallowed(), "this project's": answer_to(DASHED)},
        "blob_ms": blob_and_object(scene),
    }


def tell(document: dict) -> Iterator[str]:
    runs, share, times = document["runs"], document["share"], document["times"]
    before, after = runs.values()
    yield f"{document['program']}: seconds by phase"
    yield table(
        ("phase", *runs, "times"), [(phase, before[phase], after[phase], before[phase] / max(after[phase], 1e-9)) for phase in before]
    )
    yield f"\nThe grid is {100 * share:.1f} % of the plain program and becomes {figure(times)} times as fast:"
    most = amdahl(share, float("inf"))
    yield f"the program should become {figure(document['expected'])} times as fast, {figure(most)} at the very most,"
    yield f"and it became {figure(before['total'] / after['total'])} times as fast."
    yield f"\nThe launcher: {DASHED}"
    yield from (f"  {name}: {said}" for name, said in document["launcher"].items())
    blob = ", ".join(f"{name} {figure(ms)} ms" for name, ms in document["blob_ms"].items())
    yield f"  so its grid was an untrained blob's: {blob} in plain PyTorch here"
    yield f"\nTheir {originals.REPORTED['A10G, kernel alone']:.0f} times, taken apart (their figures):"
    yield table(("what changed", "times"), originals.factors())
