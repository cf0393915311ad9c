"""What pays in training a voxel diffusion model: the ladder of execution options, and five ways to choose timesteps.

    python -m benchmarks.voxel_diffusion --out FOLDER [--minutes 9] [--only ladder full strategies10 ...] [--objects PACKED.npz]

Each configuration is a row; rows.json is written after each one, and a row that is there already is skipped, so that the run can be
cut into pieces (`--minutes` starts no configuration that would not fit). table.md and the pictures are made of all rows so far.

Groups: `ladder` (speed and memory of one step, full-resolution U-Net), `full` (that U-Net trained plainly and with everything on, to
the same validation loss), `strategies10`, `strategies1000` (every strategy for the same time, T = 10 and 1000), `spheres` (a longer
run whose samples are judged), `objects` (the same on voxelised objects, which `--objects` names).

Clocks count training steps and measurements of gradients; validation, sampling and compiling are left out, the last
is told apart as set-up. Losses are of averaged weights, over evenly spaced timesteps, held-out grids and fixed noise. It takes about
16 minutes on an H200.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor

from benchmarks.voxel_diffusion_report import table
from files import atomic_write
from media import write_sheet
from voxel_diffusion.grids import load_grids
from voxel_diffusion.importance import measure_importance
from voxel_diffusion.metrics import fit_spheres, iou_matrix
from voxel_diffusion.network import NetworkConfig
from voxel_diffusion.primitives import draw
from voxel_diffusion.render import render_view
from voxel_diffusion.sampling import sample
from voxel_diffusion.schedule import VoxelSchedule, shift_for
from voxel_diffusion.set_metrics import compare_sets
from voxel_diffusion.timesteps import TimestepSampler, interpolate, make_sampler
from voxel_diffusion.training import Trainer, TrainingConfig


@dataclasses.dataclass(frozen=True)
class Preset:
    """Sizes of a run; seconds are of training."""

    size: int
    shapes: int
    batch: int
    full: dict  # network at full resolution
    folded: dict  # network on blocks of 2^3 voxels
    sampled: int
    long: int  # T of the longer schedule
    ladder_seconds: float
    baseline_seconds: float
    best_seconds: float
    strategy_seconds: float
    sphere_seconds: float
    object_seconds: float
    setup_seconds: float  # of one compiling, for the budget


PRESETS = {
    "cuda": Preset(
        size=64,
        shapes=1000,
        batch=16,
        full={"channels": 32, "multipliers": (1, 2, 4, 4)},
        folded={"patch": 2, "channels": 64, "multipliers": (1, 2, 2, 2)},
        sampled=64,
        long=1000,
        ladder_seconds=4,
        baseline_seconds=40,
        best_seconds=25,
        strategy_seconds=12,
        sphere_seconds=80,
        object_seconds=80,
        setup_seconds=45,
    ),
    "cpu": Preset(
        size=16,
        shapes=64,
        batch=4,
        full={"channels": 8, "multipliers": (1, 2, 2)},
        folded={"patch": 2, "channels": 16, "multipliers": (1, 2)},
        sampled=8,
        long=100,
        ladder_seconds=2,
        baseline_seconds=10,
        best_seconds=8,
        strategy_seconds=6,
        sphere_seconds=20,
        object_seconds=20,
        setup_seconds=1,
    ),
}
VALIDATION_SHAPES = 32
VALIDATION_LEVELS = 10
VALIDATIONS = 8  # in a run, evenly in time
SAMPLING_STEPS = 50
WARM_UP = 3  # untimed steps
GROUPS = ("ladder", "full", "strategies10", "strategies1000", "spheres", "objects")

# name -> (options of TrainingConfig, TF32 allowed, cuDNN may search, grids on the device, folded network)
PLAIN = {}
BF16 = {"bf16": True}
LAST = {"bf16": True, "channels_last": True}
RUNGS: dict[str, tuple[dict, bool, bool, bool, bool]] = {
    "float32": (PLAIN, False, False, False, False),
    "TF32 convolutions (PyTorch's default)": (PLAIN, True, False, False, False),
    "bf16": (BF16, True, False, False, False),
    "bf16, cuDNN searches": (BF16, True, True, False, False),
    "bf16, channels_last_3d": (LAST, True, True, False, False),
    "+ checkpointing": (LAST | {"checkpointing": True}, True, True, False, False),
    "bf16, channels_last_3d, grids on the device": (LAST, True, True, True, False),
    "bf16, grids on the device": (BF16, True, True, True, False),
    "+ torch.compile": (BF16 | {"compile": True}, True, True, True, False),
    "+ torch.compile, channels_last_3d": (LAST | {"compile": True}, True, True, True, False),
    "bf16, grids on the device, folded 2^3": (BF16, True, True, True, True),
}
CPU_RUNGS: dict[str, tuple[dict, bool, bool, bool, bool]] = {
    "float32": (PLAIN, False, False, True, False),
    "channels_last_3d": ({"channels_last": True}, False, False, True, False),
    "checkpointing": ({"checkpointing": True}, False, False, True, False),
    "folded 2^3": (PLAIN, False, False, True, True),
}
BEST, BEST_FOLDED = "+ torch.compile", "bf16, grids on the device, folded 2^3"
# name -> arguments of make_sampler; "as published" measures all timesteps on all grids of every batch
STRATEGIES: dict[str, dict] = {
    "uniform": {"name": "uniform"},
    "importance": {"name": "importance"},
    "speed": {"name": "speed"},
    "fixed": {"name": "fixed"},
    "adaptive": {"name": "adaptive", "every": 50, "probe": 4, "levels": 20},
    "adaptive, every step": {"name": "adaptive"},
}


class Bench:
    """The rows so far and what all configurations share."""

    def __init__(self, out: Path, device: str, scale: float, deadline: float, objects: Path | None) -> None:
        self.preset, self.device, self.scale, self.deadline, self.objects = PRESETS[device], device, scale, deadline, objects
        self.out, self.path = out, out / "rows.json"
        self.rows: dict[str, dict] = json.loads(self.path.read_text())["rows"] if self.path.is_file() else {}
        self._sets: dict[tuple[str, int, int], Tensor] = {}
        self.trainers: dict[int, Trainer] = {}
        self.machine = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"

    def has_time(self, seconds: float) -> bool:
        return time.perf_counter() + seconds < self.deadline

    def run(self, key: str, seconds: float, work: Callable[[], dict]) -> None:
        """Make row `key` unless it is there or about `seconds` are not left."""
        if key in self.rows:
            return
        if not self.has_time(seconds):
            print(f"{key}: left for the next piece ({seconds:.0f} s)", flush=True)
            return
        begin = time.perf_counter()
        try:
            row = work()
        except torch.OutOfMemoryError as error:
            row = {"error": str(error).splitlines()[0]}
        except Exception as error:  # one configuration that fails must not take the others with it
            traceback.print_exc()
            print(f"{key}: failed: {type(error).__name__}", flush=True)
            return
        finally:
            if self.device == "cuda":
                torch.cuda.empty_cache()
        self.rows[key] = row | {"whole_s": round(time.perf_counter() - begin, 1)}
        with atomic_write(self.path) as temporary:
            temporary.write_text(json.dumps(self.document(), indent=1))
        brief = {k: v for k, v in self.rows[key].items() if not isinstance(v, list | dict)}
        print(f"{key}: {json.dumps(brief)}", flush=True)

    def document(self) -> dict:
        return {"machine": self.machine, "torch": torch.__version__, "preset": dataclasses.asdict(self.preset), "rows": self.rows}

    def spheres(self, seed: int, count: int) -> Tensor:
        """[count,n,n,n] uint8 on the host; seed 0 is for training."""
        key = ("sphere", seed, count)
        if key not in self._sets:
            self._sets[key] = torch.from_numpy(np.stack([draw("sphere", self.preset.size, seed, i) for i in range(count)])).to(torch.uint8)
        return self._sets[key]

    def synchronise(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def reset_peak(self) -> None:
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> float | None:
        return round(torch.cuda.max_memory_allocated() / 2**30, 3) if self.device == "cuda" else None


def make_trainer(bench: Bench, rung: str, timesteps: int, grids: Tensor, sampler: TimestepSampler | None = None, **extra) -> Trainer:
    preset = bench.preset
    options, tf32, search, on_device, is_folded = (RUNGS if bench.device == "cuda" else CPU_RUNGS)[rung]
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = search
    torch._dynamo.reset()
    schedule = VoxelSchedule.make("linear", timesteps, shift_for(preset.size))
    network = NetworkConfig(size=preset.size, timesteps=timesteps, **(preset.folded if is_folded else preset.full))
    config = TrainingConfig(batch=preset.batch, **options, **extra)
    # The plain way reads float32 files, as the data folder holds them.
    held = grids.to(bench.device) if on_device else grids.float()
    return Trainer(network, schedule, sampler or TimestepSampler(timesteps, bench.device), held, config, bench.device)


def parameters_of(trainer: Trainer) -> int:
    return sum(p.numel() for p in trainer.parameters)


def ladder_row(bench: Bench, rung: str) -> dict:
    """Steps a second and peak memory of one execution option."""
    bench.reset_peak()
    trainer = make_trainer(bench, rung, bench.preset.long, bench.spheres(0, bench.preset.shapes))
    begin = time.perf_counter()
    for _ in range(WARM_UP):
        losses = trainer.step()
    bench.synchronise()
    setup = time.perf_counter() - begin
    begin, steps = time.perf_counter(), 0
    while time.perf_counter() - begin < bench.preset.ladder_seconds * bench.scale:
        for _ in range(4):
            losses = trainer.step()
        bench.synchronise()
        steps += 4
    rate = steps / (time.perf_counter() - begin)
    return {
        "it_s": rate,
        "peak_gib": bench.peak_gib(),
        "setup_s": setup,
        "steps": steps,
        "loss": float(losses.mean()),
        "parameters": parameters_of(trainer),
    }


def validation(bench: Bench, trainer: Trainer, grids: Tensor) -> float:
    levels = trainer.denoiser.schedule.levels(min(VALIDATION_LEVELS, trainer.denoiser.schedule.timesteps))
    with trainer.averaged() as denoiser:
        return float(denoiser.level_losses(grids, levels, bench.preset.batch).mean())


def train_for(
    bench: Bench,
    trainer: Trainer,
    seconds: float,
    held_out: Tensor,
    offset: float = 0.0,
    until: float | None = None,
    validations: int = VALIDATIONS,
) -> dict:
    """Train for `seconds` on the clock, or until the validation loss is at most `until`; the curve is [seconds, steps, loss]."""
    seconds *= bench.scale
    bench.reset_peak()
    begin = time.perf_counter()
    if trainer.config.compile:  # the first step compiles; it counts as set-up, and as a step
        trainer.step()
    bench.synchronise()
    setup, clock, curve, peak = time.perf_counter() - begin, offset, [], None
    start = trainer.steps
    for part in range(1, validations + 1):
        begin = time.perf_counter()
        while clock + time.perf_counter() - begin < offset + (seconds - offset) * part / validations:
            trainer.step()
            if trainer.steps % 4 == 0 or bench.device == "cpu":
                bench.synchronise()
        bench.synchronise()
        clock += time.perf_counter() - begin
        peak = peak or bench.peak_gib()  # before validation, which needs memory of its own
        curve.append([clock, trainer.steps, validation(bench, trainer, held_out)])
        if until is not None and curve[-1][2] <= until:
            break
    return {
        "it_s": (trainer.steps - start) / max(clock - offset, 1e-9),
        "peak_gib": peak,
        "setup_s": setup,
        "seconds": clock,
        "steps": trainer.steps,
        "val_loss": curve[-1][2],
        "curve": curve,
        "parameters": parameters_of(trainer),
    }


def judge_spheres(
    bench: Bench, trainer: Trainer, count: int, steps: int, levels: list[int] | None = None, method: str = "ddpm"
) -> tuple[dict, Tensor]:
    """Sample and compare: IoU to the best sphere of the distribution and to the nearest training grid, MMD, COV, 1-NNA."""
    generator = torch.Generator(bench.device).manual_seed(1)
    begin = time.perf_counter()
    with trainer.averaged() as denoiser:
        grids = sample(denoiser, count, steps, method, levels=levels, batch=32, generator=generator).to(bench.device)
    seconds = time.perf_counter() - begin
    _, _, ious = fit_spheres(grids)
    training = bench.spheres(0, bench.preset.shapes).to(bench.device)
    row = {
        "sphere_iou": float(ious.mean()),
        "sphere_iou_median": float(ious.median()),
        "share_above_0.9": float((ious >= 0.9).float().mean()),
        "nearest_iou": float(iou_matrix(grids, training).amax(1).mean()),
        "sampling_s": seconds,
    }
    return row | compare_sets(grids, bench.spheres(2, count).to(bench.device)), grids


def save_pictures(bench: Bench, name: str, grids: Tensor, columns: int, pixels: int = 112) -> None:
    views = torch.cat([render_view(part, 30.0, pixels=pixels).cpu() for part in grids.float().split(8)])
    write_sheet(bench.out / f"{name}.png", views, columns)


def full_rows(bench: Bench) -> None:
    """The U-Net at full resolution, uniform timesteps: plain, PyTorch's default, and everything on, to the plain one's loss."""
    preset = bench.preset
    grids, held_out = bench.spheres(0, preset.shapes), bench.spheres(1, VALIDATION_SHAPES).to(bench.device)
    on_gpu = bench.device == "cuda"

    def plain(rung: str) -> dict:
        return train_for(bench, make_trainer(bench, rung, preset.long, grids), preset.baseline_seconds, held_out)

    def best(rung: str) -> dict:
        """As long as it takes to the plain run's loss, with a validation each second so that the moment is known."""
        trainer = make_trainer(bench, rung, preset.long, grids)
        return train_for(bench, trainer, preset.best_seconds, held_out, validations=max(8, int(preset.best_seconds * bench.scale)))

    bench.run("full: float32", preset.baseline_seconds * bench.scale * 1.4 + 10, lambda: plain("float32"))
    if on_gpu:
        default = "TF32 convolutions (PyTorch's default)"
        bench.run("full: TF32 (default)", preset.baseline_seconds * bench.scale * 1.4 + 10, lambda: plain(default))
        for key, rung in (("full: bf16", "bf16, grids on the device"), ("full: best", BEST), ("full: best, folded 2^3", BEST_FOLDED)):
            setup = preset.setup_seconds if rung == BEST else 5
            bench.run(key, preset.best_seconds * bench.scale * 1.5 + setup, lambda rung=rung: best(rung))
    else:
        bench.run("full: best, folded 2^3", preset.best_seconds * bench.scale * 2, lambda: best("folded 2^3"))


def folded_trainer(bench: Bench, timesteps: int) -> Trainer:
    """One folded network for all strategies of a T, warmed up once."""
    if timesteps not in bench.trainers:
        bench.trainers.clear()
        rung = BEST_FOLDED if bench.device == "cuda" else "folded 2^3"
        bench.trainers[timesteps] = make_trainer(bench, rung, timesteps, bench.spheres(0, bench.preset.shapes))
        for _ in range(WARM_UP):
            bench.trainers[timesteps].step()
    return bench.trainers[timesteps]


def strategy_rows(bench: Bench, timesteps: int) -> None:
    preset = bench.preset
    held_out = bench.spheres(1, VALIDATION_SHAPES).to(bench.device)
    for title, arguments in STRATEGIES.items():

        def work(title: str = title, arguments: dict = arguments) -> dict:
            trainer = folded_trainer(bench, timesteps)
            schedule, offset, norms = trainer.denoiser.schedule, 0.0, None
            if arguments["name"] == "fixed":
                offset, norms = measured_importance(bench, trainer)
            arguments = arguments if arguments.get("levels", 0) < timesteps else arguments | {"levels": 0}
            sampler = make_sampler(schedule=schedule, device=bench.device, norms=norms, **arguments)
            trainer.restart(sampler)
            row = train_for(bench, trainer, preset.strategy_seconds, held_out, offset=offset)
            row |= {"offset_s": offset, "trained": len(sampler.trained), "measuring_passes": getattr(sampler, "passes", 0)}
            judged, grids = judge_spheres(bench, trainer, preset.sampled, min(SAMPLING_STEPS, timesteps))
            row |= judged
            save_pictures(bench, strip_name(timesteps, title), grids[:8], 8, 96)
            if len(sampler.trained) < timesteps:  # the other choice: visit the trained timesteps only
                few = sampler.trained[:: max(1, len(sampler.trained) // min(SAMPLING_STEPS, timesteps))]
                only, _ = judge_spheres(bench, trainer, preset.sampled, 0, levels=few)
                row["trained_levels_only"] = only
            return row

        bench.run(
            f"T={timesteps}: {title}",
            preset.strategy_seconds * bench.scale + 12,
            work,
        )
    join_pictures(bench, timesteps)


def measured_importance(bench: Bench, trainer: Trainer) -> tuple[float, Tensor]:
    """Seconds and gradient norms [T] after 100 uniform steps, over 4 batches; at most 20 timesteps are measured."""
    timesteps = trainer.denoiser.schedule.timesteps
    trainer.restart(TimestepSampler(timesteps, bench.device))
    bench.synchronise()
    begin = time.perf_counter()
    for _ in range(100 if bench.device == "cuda" else 10):
        trainer.step()
    measured, norms = measure_importance(trainer, 4, min(timesteps, 20))
    bench.synchronise()
    return time.perf_counter() - begin, interpolate(norms, measured, timesteps)


def strip_name(timesteps: int, title: str) -> str:
    """Of the picture of one strategy's samples, which `join_pictures` takes."""
    return f"strips/T{timesteps}_{title.replace(', ', '_').replace(' ', '_')}"


def join_pictures(bench: Bench, timesteps: int) -> None:
    """One sheet of all strategies' strips of a T, in the order of STRATEGIES."""
    from PIL import Image

    names = [strip_name(timesteps, title) for title in STRATEGIES]
    strips = [np.asarray(Image.open(bench.out / f"{name}.png")) for name in names if (bench.out / f"{name}.png").is_file()]
    if strips:
        with atomic_write(bench.out / f"strategies_T{timesteps}.png") as temporary:
            Image.fromarray(np.concatenate(strips)).save(temporary, format="PNG")


def sphere_row(bench: Bench) -> dict:
    preset = bench.preset
    trainer = folded_trainer(bench, preset.long)
    trainer.restart(make_sampler("importance", trainer.denoiser.schedule, bench.device))
    row = train_for(bench, trainer, preset.sphere_seconds, bench.spheres(1, VALIDATION_SHAPES).to(bench.device))
    for steps, method in ((250, "ddpm"), (50, "ddpm"), (50, "ddim")):
        judged, grids = judge_spheres(bench, trainer, preset.sampled, min(steps, preset.long), method=method)
        row[f"{method}_{steps}"] = judged
        if method == "ddpm" and steps == 250:
            row |= judged
            save_pictures(bench, "spheres", grids[:32], 8)
    return row


def object_row(bench: Bench, path: Path) -> dict:
    """Voxelised objects, one in 16 held out; samples beside the training objects nearest to them."""
    preset = bench.preset
    grids = torch.from_numpy(load_grids(path, preset.size))
    is_held_out = torch.arange(len(grids)) % 16 == 0
    training, held_out = grids[~is_held_out], grids[is_held_out].to(bench.device)
    rung = BEST_FOLDED if bench.device == "cuda" else "folded 2^3"
    bench.trainers.clear()
    trainer = make_trainer(bench, rung, preset.long, training)
    trainer.sampler = make_sampler("importance", trainer.denoiser.schedule, bench.device)
    row = train_for(bench, trainer, preset.object_seconds, held_out[:VALIDATION_SHAPES])
    generator = torch.Generator(bench.device).manual_seed(1)
    with trainer.averaged() as denoiser:
        samples = sample(denoiser, preset.sampled, min(250, preset.long), batch=32, generator=generator).to(bench.device)
    similarity = iou_matrix(samples, training.to(bench.device))
    nearest = training.to(bench.device)[similarity.argmax(1)]
    row |= {
        "training_objects": len(training),
        "nearest_iou": float(similarity.amax(1).mean()),
        "empty": int((samples > 0.5).flatten(1).any(1).logical_not().sum()),
    }
    count = min(len(samples), len(held_out))
    row |= compare_sets(samples[:count], held_out[:count])
    pairs = torch.stack([samples[:16].float(), nearest[:16].float()], dim=1).flatten(0, 1)
    save_pictures(bench, "objects", pairs, 8)
    save_pictures(bench, "objects_training", training[:: max(1, len(training) // 16)][:16].to(bench.device), 8)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/voxel_benchmark"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=list(PRESETS))
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), help="groups to run")
    parser.add_argument("--minutes", type=float, default=60.0, help="no configuration is started that would end later")
    parser.add_argument("--scale", type=float, default=1.0, help="times all seconds of training")
    parser.add_argument("--again", action="store_true", help="make the rows of --only again")
    parser.add_argument("--objects", type=Path, help="packed grids of objects (python -m voxel_diffusion generate --kind mesh --packed)")
    options = parser.parse_args()
    bench = Bench(options.out, options.device, options.scale, time.perf_counter() + 60 * options.minutes, options.objects)
    options.out.mkdir(parents=True, exist_ok=True)
    preset = bench.preset
    if options.again:
        prefixes = {"strategies10": "T=10:", "strategies1000": f"T={preset.long}:"}
        again = tuple(prefixes.get(group, group) for group in options.only)
        bench.rows = {key: row for key, row in bench.rows.items() if not key.startswith(again)}
    if "ladder" in options.only:
        for rung in RUNGS if options.device == "cuda" else CPU_RUNGS:
            setup = preset.setup_seconds if "compile" in rung or "the same" in rung else 8
            bench.run(f"ladder: {rung}", preset.ladder_seconds * options.scale + setup, lambda rung=rung: ladder_row(bench, rung))
    if "full" in options.only:
        full_rows(bench)
    if "strategies10" in options.only:
        strategy_rows(bench, 10)
    if "strategies1000" in options.only:
        strategy_rows(bench, preset.long)
    if "spheres" in options.only:
        bench.run(
            "spheres",
            preset.sphere_seconds * options.scale + 30,
            lambda: sphere_row(bench),
        )
    if "objects" in options.only and options.objects:
        bench.run("objects", preset.object_seconds * options.scale + 20, lambda: object_row(bench, options.objects))
    document = bench.document()
    text = table(document, SAMPLING_STEPS)
    with atomic_write(options.out / "table.md") as temporary:
        temporary.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
