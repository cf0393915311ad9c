"""What the benchmark's sections share: sizes, ways to execute a step, trainers, the clock, judging samples."""

from __future__ import annotations

import dataclasses
import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from microdreamer.core.files import atomic_write
from microdreamer.core.machine import device_name
from microdreamer.images.writing import write_sheet
from microdreamer.voxel_diffusion.metrics import filled, fit_spheres, iou_matrix
from microdreamer.voxel_diffusion.network import NetworkConfig
from microdreamer.voxel_diffusion.primitives import draw
from microdreamer.voxel_diffusion.render import render_view
from microdreamer.voxel_diffusion.sampling import sample
from microdreamer.voxel_diffusion.schedule import VoxelSchedule, shift_for
from microdreamer.voxel_diffusion.set_metrics import compare_sets
from microdreamer.voxel_diffusion.timesteps import TimestepSampler
from microdreamer.voxel_diffusion.training import Trainer, TrainingConfig


@dataclasses.dataclass(frozen=True)
class Preset:
    """Sizes of a run on one kind of device. budgets: seconds of each section, its start included."""

    size: int
    shapes: int
    batch: int
    full: dict  # network at full resolution
    folded: dict  # network on blocks of 2^3 voxels
    light: dict  # the same with half the channels, for runs whose samples are judged
    sampled: int
    long: int  # T of the longer schedule
    warm_up: int  # steps over which the rate rises
    budgets: dict[str, float]


PRESETS = {
    "cuda": Preset(
        size=64,
        shapes=1000,
        batch=16,
        full={"channels": 32, "multipliers": (1, 2, 4, 4)},
        folded={"patch": 2, "channels": 64, "multipliers": (1, 2, 2, 2), "attention": True},
        light={"patch": 2, "channels": 32, "multipliers": (1, 2, 4, 4), "attention": True},
        sampled=64,
        long=1000,
        warm_up=50,
        budgets={
            "ladder": 60,
            "compile": 150,
            "full": 75,
            "strategies10": 75,
            "strategies1000": 75,
            "spheres": 120,
            "objects": 240,
        },
    ),
    "cpu": Preset(
        size=16,
        shapes=64,
        batch=4,
        full={"channels": 8, "multipliers": (1, 2, 2)},
        folded={"patch": 2, "channels": 16, "multipliers": (1, 2)},
        light={"patch": 2, "channels": 16, "multipliers": (1, 2), "attention": True},
        sampled=8,
        long=100,
        warm_up=10,
        budgets={
            "ladder": 30,
            "compile": 120,
            "full": 40,
            "strategies10": 60,
            "strategies1000": 90,
            "spheres": 60,
            "objects": 60,
        },
    ),
}
SECTIONS = tuple(PRESETS["cuda"].budgets)
RATE = 5e-4
SCHEDULE = "cosine"
VALIDATION_SHAPES = 16
VALIDATION_LEVELS = 10
LOOK = 0.1  # seconds of work that the host may queue before it waits for the device


@dataclasses.dataclass(frozen=True)
class Rung:
    """A way to execute steps. options: of TrainingConfig; network: name of the preset's; tf32: convolutions may round to TF32;
    search: cuDNN tries its algorithms; on_device: the grids lie on the device as uint8, else on the host as float32."""

    options: dict = dataclasses.field(default_factory=dict)
    network: str = "full"
    tf32: bool = True
    search: bool = False
    on_device: bool = False


BF16 = {"bf16": True}
FLOAT32, TF32, HALF, FOLDED = "float32", "TF32 (PyTorch's default)", "bf16", "bf16, folded 2^3"
COMPILED, COMPILED_FOLDED = "bf16, torch.compile", "bf16, folded 2^3, torch.compile"
RUNGS = {
    FLOAT32: Rung(tf32=False),
    TF32: Rung(),
    HALF: Rung(BF16),
    FOLDED: Rung(BF16, network="folded"),
    "bf16, gradient checkpointing": Rung(BF16 | {"checkpointing": True}),
    "bf16, channels_last_3d": Rung(BF16 | {"channels_last": True}),
    "bf16, cuDNN searches": Rung(BF16, search=True),
    "bf16, cuDNN searches, channels_last_3d": Rung(BF16 | {"channels_last": True}, search=True),
    "bf16, grids on the device": Rung(BF16, on_device=True),
    "bf16, folded 2^3, cuDNN searches": Rung(BF16, network="folded", search=True),
    "bf16, folded 2^3, channels_last_3d": Rung(BF16 | {"channels_last": True}, network="folded", search=True),
    COMPILED: Rung(BF16 | {"compile": True}),
    COMPILED_FOLDED: Rung(BF16 | {"compile": True}, network="folded"),
}
CPU_RUNGS = {
    FLOAT32: Rung(),
    "channels_last_3d": Rung({"channels_last": True}),
    "gradient checkpointing": Rung({"checkpointing": True}),
    "folded 2^3": Rung(network="folded"),
    "torch.compile": Rung({"compile": True}),
}


class Bench:
    """One section of the benchmark: its rows so far, its time, and the data."""

    def __init__(self, out: Path, device: str, section: str, end: float, again: bool = False) -> None:
        """end: of the section, on time.perf_counter()'s clock."""
        self.preset, self.device, self.section, self.end = PRESETS[device], device, section, end
        self.out, self.path = out, out / f"rows_{section}.json"
        old = json.loads(self.path.read_text())["rows"] if self.path.is_file() and not again else {}
        self.rows: dict[str, dict] = {key: row for key, row in old.items() if "error" not in row}
        self._sets: dict[tuple[int, int], Tensor] = {}
        self.machine = device_name(torch.device(device))

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    def left(self) -> float:
        """Seconds."""
        return self.end - time.perf_counter()

    def run(self, key: str, seconds: float, work: Callable[[], dict]) -> None:
        """Make row `key` unless it is there or about `seconds` are not left. A failure is a row, too: its text."""
        if key in self.rows:
            return
        if self.left() < seconds:
            print(f"{key}: not started, needs about {seconds:.0f} s and {max(self.left(), 0):.0f} s are left", flush=True)
            return
        begin = time.perf_counter()
        try:
            row = work()
        except Exception as error:  # one configuration that fails must not take the others with it
            traceback.print_exc()
            row = {"error": f"{type(error).__name__}: {error}"[:2000]}
        if self.on_gpu:
            torch.cuda.empty_cache()
        self.rows[key] = row | {"whole_s": round(time.perf_counter() - begin, 1)}
        document = {"machine": self.machine, "torch": torch.__version__, "preset": dataclasses.asdict(self.preset), "rows": self.rows}
        with atomic_write(self.path) as temporary:
            temporary.write_text(json.dumps(document, indent=1))
        brief = {k: v for k, v in self.rows[key].items() if not isinstance(v, list | dict)}
        print(f"{key}: {json.dumps(brief)}", flush=True)

    def spheres(self, seed: int, count: int) -> Tensor:
        """[count,n,n,n] uint8 on the host; seed 0 is for training."""
        key = (seed, count)
        if key not in self._sets:
            self._sets[key] = torch.from_numpy(np.stack([draw("sphere", self.preset.size, seed, i) for i in range(count)])).to(torch.uint8)
        return self._sets[key]

    def synchronise(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def reset_peak(self) -> None:
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> float | None:
        return round(torch.cuda.max_memory_allocated() / 2**30, 3) if self.on_gpu else None


def make_trainer(bench: Bench, rung: Rung, timesteps: int, grids: Tensor, **options) -> Trainer:
    """A trainer on uniform timesteps; `options` are of TrainingConfig."""
    preset = bench.preset
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = rung.tf32
    torch.backends.cudnn.benchmark = rung.search
    torch._dynamo.reset()
    schedule = VoxelSchedule.make(SCHEDULE, timesteps, shift_for(preset.size))
    network = NetworkConfig(size=preset.size, timesteps=timesteps, **getattr(preset, rung.network))
    config = TrainingConfig(**{"batch": preset.batch, "rate": RATE, "warmup": preset.warm_up} | rung.options | options)
    held = grids.to(bench.device) if rung.on_device else grids.float()  # the plain way reads float32 files, as a data folder holds them
    return Trainer(network, schedule, TimestepSampler(timesteps, bench.device), held, config, bench.device)


def warm_up(bench: Bench, trainer: Trainer, steps: int = 3) -> tuple[float, float]:
    """Run what a clock must not see for the first time (compiling, cuDNN's choices for the step); the trainer is as new afterwards.

    Returns the seconds of the first step, and of one step after that.
    """
    begin = time.perf_counter()
    trainer.step()
    bench.synchronise()
    first, begin = time.perf_counter() - begin, time.perf_counter()
    for _ in range(steps):
        trainer.step()
    bench.synchronise()
    each = (time.perf_counter() - begin) / steps
    trainer.restart(trainer.sampler)
    return first, each


def level_errors(bench: Bench, trainer: Trainer, held_out: Tensor) -> list[float]:
    """Mean squared error of the clean grid at evenly spaced levels, averaged weights; on a GPU in bf16, whatever the training does."""
    levels = trainer.denoiser.schedule.levels(min(VALIDATION_LEVELS, trainer.denoiser.schedule.timesteps))
    with trainer.averaged() as denoiser:
        own, denoiser.bf16 = denoiser.bf16, bench.on_gpu
        try:
            return denoiser.level_losses(held_out[:VALIDATION_SHAPES], levels, bench.preset.batch).tolist()
        finally:
            denoiser.bf16 = own


def mean_errors(training: Tensor, held_out: Tensor) -> float:
    """The same error of one answer for every grid and level: the mean of the training grids."""
    mean = training.float().mean(0).to(held_out.device) * 2 - 1
    return float((held_out[:VALIDATION_SHAPES].float() * 2 - 1 - mean).square().mean())


def train(
    bench: Bench,
    trainer: Trainer,
    held_out: Tensor,
    step_s: float,
    seconds: float | None = None,
    steps: int | None = None,
    checks: int = 8,
    offset: float = 0.0,
    until: float | None = None,
) -> dict:
    """Train for `seconds` on the clock or for `steps`, with `checks` evenly spaced validations, which the clock does not see.

    step_s: of one step, known from warming up. offset: seconds that were spent before and count. until: stop at this loss.
    The row's curve is [seconds, steps, loss].
    """
    together = max(1, round(LOOK / max(step_s, 1e-4)))  # steps between two looks at the clock, which wait for the device
    bench.reset_peak()
    clock, curve, errors, peak = offset, [], [], None
    for part in range(1, checks + 1):
        begin = time.perf_counter()
        while True:
            now = clock + time.perf_counter() - begin
            if seconds is not None and now >= offset + (seconds - offset) * part / checks:
                break
            if steps is not None and trainer.steps >= round(steps * part / checks):
                break
            for _ in range(together if steps is None else min(together, round(steps * part / checks) - trainer.steps)):
                trainer.step()
            bench.synchronise()
        clock += time.perf_counter() - begin
        peak = peak or bench.peak_gib()  # before validation, which needs memory of its own
        errors = level_errors(bench, trainer, held_out)
        curve.append([clock, trainer.steps, sum(errors) / len(errors)])
        if until is not None and curve[-1][2] <= until:
            break
    return {
        "it_s": trainer.steps / max(clock - offset, 1e-9),
        "peak_gib": peak,
        "seconds": clock,
        "steps": trainer.steps,
        "val_loss": curve[-1][2],
        "level_losses": errors,
        "mean_loss": mean_errors(trainer.grids, held_out),
        "curve": curve,
        "parameters": sum(p.numel() for p in trainer.parameters),
    }


def draw_samples(bench: Bench, trainer: Trainer, steps: int | None, levels: list[int] | None = None, method: str = "ddpm") -> Tensor:
    """Grids [N,n,n,n] of 0..1 by the averaged weights, on the device."""
    generator = torch.Generator(bench.device).manual_seed(1)
    with trainer.averaged() as denoiser:
        grids = sample(denoiser, bench.preset.sampled, steps, method, levels=levels, batch=64, generator=generator)
    return grids.to(bench.device)


def fills(grids: Tensor) -> list[float]:
    """Filled share of the grids [N,n,n,n]: the 10th, 50th and 90th percentile."""
    shares = filled(grids).flatten(1).float().mean(1).cpu()
    return shares.quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()


def judge(grids: Tensor, training: Tensor, references: Tensor) -> dict:
    """Samples against training grids (how near is the nearest) and new ones of the same distribution (MMD, COV, 1-NNA)."""
    count = min(len(grids), len(references))
    return {
        "empty": int((~filled(grids).flatten(1).any(1)).sum()),
        "fills": fills(grids),
        "fills_training": fills(training),
        "nearest_iou": float(iou_matrix(grids, training).amax(1).mean()),
    } | compare_sets(grids[:count], references[:count])


def judge_spheres(bench: Bench, grids: Tensor) -> dict:
    """`judge`, and how near samples are to the best sphere of the distribution."""
    preset = bench.preset
    _, _, ious = fit_spheres(grids)
    row = {
        "sphere_iou": float(ious.mean()),
        "sphere_iou_median": float(ious.median()),
        "share_above_0.9": float((ious >= 0.9).float().mean()),
    }
    training, references = bench.spheres(0, preset.shapes), bench.spheres(2, preset.sampled)
    return row | judge(grids, training.to(grids.device), references.to(grids.device))


def save_pictures(bench: Bench, name: str, grids: Tensor, columns: int, pixels: int = 112) -> None:
    views = torch.cat([render_view(part, 30.0, pixels=pixels).cpu() for part in grids.float().split(8)])
    write_sheet(bench.out / f"{name}.png", views, columns)
