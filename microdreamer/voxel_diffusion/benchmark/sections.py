"""The sections of microdreamer.voxel_diffusion.benchmark.run: each makes its rows within the time that its `Bench` has."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from microdreamer.core.files import atomic_write
from microdreamer.voxel_diffusion.benchmark.setup import (
    BF16,
    COMPILED,
    COMPILED_FOLDED,
    CPU_RUNGS,
    FLOAT32,
    FOLDED,
    HALF,
    LOOK,
    RUNGS,
    TF32,
    VALIDATION_SHAPES,
    Bench,
    Rung,
    draw_samples,
    fills,
    judge,
    judge_spheres,
    level_errors,
    make_trainer,
    save_pictures,
    train,
    warm_up,
)
from microdreamer.voxel_diffusion.grids import load_grids
from microdreamer.voxel_diffusion.importance import measure_importance
from microdreamer.voxel_diffusion.metrics import iou_matrix
from microdreamer.voxel_diffusion.timesteps import TimestepSampler, interpolate, make_sampler
from microdreamer.voxel_diffusion.training import Trainer

SAMPLING_STEPS = 50
LONG_SAMPLING = ((250, "ddpm"), (50, "ddpm"), (50, "ddim"))
# name -> arguments of make_sampler; "every step" measures all timesteps on all grids of every batch, as the strategy is published
STRATEGIES: dict[str, dict] = {
    "uniform": {"name": "uniform"},
    "importance": {"name": "importance"},
    "speed": {"name": "speed"},
    "fixed": {"name": "fixed"},
    "adaptive (every 50 steps, 4 grids, 20 levels)": {"name": "adaptive", "every": 50, "probe": 4, "levels": 20},
    "adaptive, every step": {"name": "adaptive"},
}
REPEATED = ("uniform", "importance", "speed")  # with more seeds, as far as the time goes
SEEDS = (0, 1, 2)
FULL_BATCH = 8  # half of the usual one, so that float32 makes twice as many steps in its time
COMPILE_S = 40  # to compile one network, about


def ladder(bench: Bench) -> None:
    """Steps a second and peak memory of every way to execute the step that needs no compiling."""
    ways = {name: rung for name, rung in (RUNGS if bench.on_gpu else CPU_RUNGS).items() if "compile" not in rung.options}
    seconds = bench.left() / len(ways) / 2
    for name, rung in ways.items():
        bench.run(f"ladder: {name}", seconds, lambda rung=rung: ladder_row(bench, rung, min(seconds, 2.0)))


def ladder_row(bench: Bench, rung: Rung, seconds: float) -> dict:
    bench.reset_peak()
    trainer = make_trainer(bench, rung, bench.preset.long, bench.spheres(0, bench.preset.shapes))
    setup, step_s = warm_up(bench, trainer)
    together = max(1, round(LOOK / step_s))
    begin, steps = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        for _ in range(together):
            losses = trainer.step()
        bench.synchronise()
        steps += together
    return {
        "it_s": steps / (time.perf_counter() - begin),
        "peak_gib": bench.peak_gib(),
        "setup_s": setup,
        "steps": steps,
        "loss": float(losses.mean()),
        "parameters": sum(p.numel() for p in trainer.parameters),
    }


def full(bench: Bench) -> None:
    """The full-resolution network trained plainly, and how soon the others are at its loss."""
    seconds = 0.45 * bench.left()
    names = [FLOAT32, TF32, HALF, FOLDED] if bench.on_gpu else [FLOAT32, "folded 2^3"]
    for name in names:
        goal = bench.rows.get(f"full: {FLOAT32}", {}).get("val_loss")
        bench.run(f"full: {name}", 5, lambda name=name, goal=goal: full_row(bench, name, seconds, goal))


def full_row(bench: Bench, name: str, seconds: float, goal: float | None) -> dict:
    """The baseline where there is no goal yet; the others stop once they are there, and are looked at more often."""
    preset = bench.preset
    rung = (RUNGS if bench.on_gpu else CPU_RUNGS)[name]
    held_out = bench.spheres(1, VALIDATION_SHAPES).to(bench.device)
    trainer = make_trainer(bench, rung, preset.long, bench.spheres(0, preset.shapes), batch=FULL_BATCH, warmup=20)
    setup, step_s = warm_up(bench, trainer)
    level_errors(bench, trainer, held_out)
    if goal is None:
        return train(bench, trainer, held_out, step_s, seconds=seconds, checks=5) | {"setup_s": setup}
    limit = min(seconds, max(bench.left() - 3, 1))
    checks = max(8, round(limit / max(0.25, 4 * step_s)))
    return train(bench, trainer, held_out, step_s, seconds=limit, checks=checks, until=goal) | {"setup_s": setup}


def compiled(bench: Bench) -> None:
    """`torch.compile`: the ladder's figures beside those of the same steps uncompiled, and the training of `full`."""
    names = [FOLDED, COMPILED_FOLDED, HALF, COMPILED] if bench.on_gpu else [FLOAT32, "torch.compile"]
    rungs = RUNGS if bench.on_gpu else CPU_RUNGS
    for name in names:
        needed = COMPILE_S if "compile" in name else 5
        bench.run(f"compile: {name}", needed, lambda name=name: ladder_row(bench, rungs[name], 2.0))
    for name in names:
        if "compile" in name:  # the caches of the first time make this one short
            bench.run(f"full: {name}", COMPILE_S / 2, lambda name=name: full_row(bench, name, 6.0, 0.0))


def strategies10(bench: Bench) -> None:
    strategies(bench, 10)


def strategies1000(bench: Bench) -> None:
    strategies(bench, bench.preset.long)


def strategies(bench: Bench, timesteps: int) -> None:
    """Every strategy for the same time on one network, then the cheap ones with other seeds."""
    seconds = bench.left() / 16
    trainer = make_trainer(bench, light(bench), timesteps, bench.spheres(0, bench.preset.shapes))
    _, step_s = warm_up(bench, trainer, 10)
    held_out = bench.spheres(1, VALIDATION_SHAPES).to(bench.device)
    warm_up_the_rest(bench, trainer, held_out)
    runs = [(title, 0) for title in STRATEGIES] + [(title, seed) for seed in SEEDS[1:] for title in REPEATED]
    for title, seed in runs:
        key = f"T={timesteps}: {title}" + (f", seed {seed}" if seed else "")
        bench.run(
            key,
            1.5 * seconds,
            lambda title=title, seed=seed: strategy_row(bench, trainer, held_out, step_s, seconds, title, seed),
        )
    join_pictures(bench, timesteps)


def light(bench: Bench) -> Rung:
    """How the runs are executed whose samples are judged."""
    return Rung(BF16 if bench.on_gpu else {}, network="light", search=bench.on_gpu, on_device=True)


def warm_up_the_rest(bench: Bench, trainer: Trainer, held_out: Tensor) -> None:
    """Shapes other than the step's: probes of `adaptive`, validation, sampling."""
    grids = trainer.grids[: trainer.config.batch].to(bench.device)
    for probe in sorted({arguments.get("probe", 0) or len(grids) for arguments in STRATEGIES.values()}):
        trainer.gradient_norms(grids[:probe], [0, 1])
    level_errors(bench, trainer, held_out)
    draw_samples(bench, trainer, 2)
    bench.synchronise()


def strategy_row(bench: Bench, trainer: Trainer, held_out: Tensor, step_s: float, seconds: float, title: str, seed: int) -> dict:
    schedule, arguments = trainer.denoiser.schedule, dict(STRATEGIES[title])
    timesteps, offset, norms = schedule.timesteps, 0.0, None
    trainer.config = dataclasses.replace(trainer.config, seed=seed)
    if arguments["name"] == "fixed":
        offset, norms = measured_importance(bench, trainer)
    if arguments.get("levels", 0) >= timesteps:
        arguments["levels"] = 0
    sampler = make_sampler(schedule=schedule, device=bench.device, norms=norms, **arguments)
    trainer.restart(sampler)
    if title.endswith("every step"):
        step_s = LOOK  # look at the clock after each
    row = train(bench, trainer, held_out, step_s, seconds=seconds, offset=offset)
    row |= {"offset_s": offset, "trained": len(sampler.trained), "measuring_passes": getattr(sampler, "passes", 0)}
    grids = draw_samples(bench, trainer, min(SAMPLING_STEPS, timesteps))
    row |= judge_spheres(bench, grids)
    if not seed:
        save_pictures(bench, strip_name(timesteps, title), grids[:8], 8, 96)
    if len(sampler.trained) < timesteps:  # the other choice: visit the trained timesteps only
        few = sampler.trained[:: max(1, len(sampler.trained) // min(SAMPLING_STEPS, timesteps))]
        row["trained_levels_only"] = judge_spheres(bench, draw_samples(bench, trainer, None, levels=few))
    return row


def measured_importance(bench: Bench, trainer: Trainer) -> tuple[float, Tensor]:
    """Seconds, and gradient norms [T] after 30 uniform steps: two batches at 10 timesteps, interpolated between."""
    timesteps = trainer.denoiser.schedule.timesteps
    trainer.restart(TimestepSampler(timesteps, bench.device))
    bench.synchronise()
    begin = time.perf_counter()
    for _ in range(30):
        trainer.step()
    measured, norms = measure_importance(trainer, 2, min(timesteps, 10))
    bench.synchronise()
    return time.perf_counter() - begin, interpolate(norms.to(bench.device), measured, timesteps)


def strip_name(timesteps: int, title: str) -> str:
    """Of the picture of one strategy's samples, which `join_pictures` takes."""
    return f"strips/T{timesteps}_{title.split(' (')[0].replace(', ', '_').replace(' ', '_')}"


def join_pictures(bench: Bench, timesteps: int) -> None:
    """One sheet of all strategies' strips of a T, in the order of STRATEGIES."""
    names = [strip_name(timesteps, title) for title in STRATEGIES]
    strips = [np.asarray(Image.open(bench.out / f"{name}.png")) for name in names if (bench.out / f"{name}.png").is_file()]
    if strips:
        with atomic_write(bench.out / f"strategies_T{timesteps}.png") as temporary:
            Image.fromarray(np.concatenate(strips)).save(temporary, format="PNG")


def spheres(bench: Bench) -> None:
    """Longer runs of two strategies, with a rate that falls to zero, and what their samples are like."""
    names = ("uniform", "importance")
    for i, name in enumerate(names):
        seconds = bench.left() / (len(names) - i)
        bench.run(f"spheres: {name}", 10, lambda name=name, seconds=seconds: sphere_row(bench, name, seconds))


def sphere_row(bench: Bench, name: str, seconds: float) -> dict:
    end = time.perf_counter() + seconds
    preset = bench.preset
    held_out = bench.spheres(1, VALIDATION_SHAPES).to(bench.device)
    trainer = make_trainer(bench, light(bench), preset.long, bench.spheres(0, preset.shapes))
    sampling_s = prepare_long_run(bench, trainer, name, held_out, sum(steps for steps, _ in LONG_SAMPLING), end, 6.0)
    row = train(bench, trainer, held_out, sampling_s["step_s"], steps=trainer.config.decay)
    for steps, method in LONG_SAMPLING:
        grids = draw_samples(bench, trainer, min(steps, preset.long), method=method)
        row[f"{method}_{steps}"] = judge_spheres(bench, grids)
        if (steps, method) == LONG_SAMPLING[0]:
            save_pictures(bench, f"spheres_{name}", grids[:32], 8)
    return row


def prepare_long_run(
    bench: Bench, trainer: Trainer, name: str, held_out: Tensor, sampling_steps: int, end: float, judging_s: float
) -> dict[str, float]:
    """Warm the trainer up and give it as many steps, with a rate that falls to zero over them, as fit in before `end`."""
    trainer.sampler = make_sampler(name, trainer.denoiser.schedule, bench.device)
    _, step_s = warm_up(bench, trainer, 20)
    draw_samples(bench, trainer, 2)
    begin = time.perf_counter()
    draw_samples(bench, trainer, 4)
    sampling_s = (time.perf_counter() - begin) / 4 * sampling_steps
    begin = time.perf_counter()
    level_errors(bench, trainer, held_out)
    validation_s = time.perf_counter() - begin
    left = end - time.perf_counter() - sampling_s - judging_s - 8 * validation_s
    steps = max(20, int(0.97 * left / step_s))
    trainer.restart(
        make_sampler(name, trainer.denoiser.schedule, bench.device),
        dataclasses.replace(trainer.config, decay=steps, warmup=min(trainer.config.warmup * 4, steps // 5)),
    )
    print(f"{name}: {steps} steps of {step_s:.4f} s, {sampling_s:.1f} s of sampling", flush=True)
    return {"step_s": step_s, "sampling_s": sampling_s}


def objects(bench: Bench, path: Path) -> None:
    bench.run("objects", 20, lambda: object_row(bench, path))


def object_row(bench: Bench, path: Path) -> dict:
    """Voxelised objects, one in 16 held out; samples beside the training objects nearest to them, which tells copies from new shapes."""
    preset = bench.preset
    grids = torch.from_numpy(load_grids(path, preset.size))
    is_held_out = torch.arange(len(grids)) % 16 == 0
    training, held_out = grids[~is_held_out], grids[is_held_out].to(bench.device)
    rung = Rung(BF16 if bench.on_gpu else {}, network="folded", search=bench.on_gpu, on_device=True)
    trainer = make_trainer(bench, rung, preset.long, training, augment=True)
    timing = prepare_long_run(bench, trainer, "uniform", held_out, sum(steps for steps, _ in LONG_SAMPLING), bench.end, 8.0)
    row = train(bench, trainer, held_out, timing["step_s"], steps=trainer.config.decay)
    on_device = training.to(bench.device)
    for steps, method in LONG_SAMPLING:
        samples = draw_samples(bench, trainer, min(steps, preset.long), method=method)
        row[f"{method}_{steps}"] = judge(samples, on_device, held_out)
        if (steps, method) == LONG_SAMPLING[0]:
            nearest = on_device[iou_matrix(samples[:16], on_device).argmax(1)]
            pairs = torch.stack([samples[:16].float(), nearest.float()], dim=1).flatten(0, 1)
            save_pictures(bench, "objects_nearest", pairs, 8)
            save_pictures(bench, "objects", samples[:32], 8)
    save_pictures(bench, "objects_training", on_device[:: max(1, len(training) // 16)][:16], 8)
    return row | {"training_objects": len(training), "fills_held_out": fills(held_out)}


def run(bench: Bench, packed_objects: Path | None) -> None:
    """Make the rows of the section that `bench` is for."""
    if bench.section == "objects":
        objects(bench, packed_objects)
    else:
        WORK[bench.section](bench)


WORK = {
    "ladder": ladder,
    "compile": compiled,
    "full": full,
    "strategies10": strategies10,
    "strategies1000": strategies1000,
    "spheres": spheres,
}
