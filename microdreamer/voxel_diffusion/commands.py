"""The commands: each takes the parsed options of `__main__`, does its work and returns the exit code."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from microdreamer.core.files import atomic_write
from microdreamer.core.machine import choose_device
from microdreamer.voxel_diffusion import checkpoints, primitives
from microdreamer.voxel_diffusion.checkpoints import ScheduleConfig
from microdreamer.voxel_diffusion.grids import PATTERN, load_grids, save_array, save_folder, save_packed
from microdreamer.voxel_diffusion.importance import check_name, load_importance, measure_importance, save_importance
from microdreamer.voxel_diffusion.network import NetworkConfig
from microdreamer.voxel_diffusion.schedule import shift_for
from microdreamer.voxel_diffusion.timesteps import TimestepSampler, make_sampler
from microdreamer.voxel_diffusion.training import Trainer, TrainingConfig


def bar(iterable, description: str, quiet: bool, total: int | None = None):
    return tqdm(iterable, desc=description, total=total, delay=2, leave=False, disable=quiet or None)


def say(options: argparse.Namespace, text: str) -> None:
    if not options.quiet:
        print(text, file=sys.stderr, flush=True)


def generate(options: argparse.Namespace) -> int:
    if options.count < 1:
        raise ValueError(f"--count {options.count}: expected at least 1")
    out = Path(options.out)
    if not options.packed and not options.overwrite and any(out.glob(PATTERN)):
        raise ValueError(f"{out}: already holds grids; choose another --out or pass --overwrite")
    if options.kind == "mesh":
        from microdreamer.voxel_diffusion.voxelise import voxelise_files

        if not options.input:
            raise ValueError("--kind mesh: name what to voxelise by --input (mesh files, folders of them, or packs of objects)")
        grids, names = voxelise_files(options.input, options.size, options.least, options.count)
    else:
        numbers = bar(range(options.count), "shapes", options.quiet)
        grids = [primitives.draw(options.kind, options.size, options.seed, i) for i in numbers]
        names = [f"{options.kind}_{options.seed}_{i}" for i in range(options.count)]
    if options.packed:
        save_packed(options.packed, grids, names)
    else:
        save_folder(out, grids, options.overwrite)
    say(options, f"wrote {len(grids)} grids of {options.size}^3 to {options.packed or out}")
    return 0


def _trainer(options: argparse.Namespace, sampler_of) -> tuple[Trainer, ScheduleConfig]:
    """The trainer that the network, schedule and execution options ask for, on the grids of --data."""
    device = choose_device(options.device, "--device ")
    on_gpu = device.type == "cuda"
    if options.bf16 and not on_gpu:
        raise ValueError("--bf16: needs a GPU; leave it out on the CPU, where it gains nothing")
    grids = torch.from_numpy(load_grids(options.data))
    size = grids.shape[-1]
    schedule = ScheduleConfig(options.schedule, options.T, shift_for(size) if options.shift is None else options.shift)
    network = NetworkConfig(
        size, options.patch, options.channels, tuple(options.multipliers), options.blocks, options.attention, options.predict, options.T
    )
    for name in ("batch", "warmup"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} {getattr(options, name)}: expected at least 1")
    if not options.rate > 0 or not 0 <= options.ema < 1:
        raise ValueError(f"--rate {options.rate:g} --ema {options.ema:g}: expected a rate above 0 and an average's decay of 0 to below 1")
    if options.decay is not None and options.decay < 0:
        raise ValueError(f"--decay {options.decay}: expected a number of steps, or 0 for a rate that is kept")
    config = TrainingConfig(
        batch=options.batch,
        rate=options.rate,
        warmup=options.warmup,
        decay=options.decay or 0,
        weight_decay=options.weight_decay,
        ema=options.ema,
        augment=options.augment,
        seed=options.seed,
        bf16=on_gpu if options.bf16 is None else options.bf16,
        channels_last=options.channels_last,
        checkpointing=options.checkpointing,
        compile=options.compile,
    )
    made = schedule.make()
    torch.backends.cudnn.benchmark = on_gpu  # all steps have one shape, for which cuDNN may search the fastest way
    return Trainer(network, made, sampler_of(made, schedule, device), grids.to(device), config, device), schedule


def importance(options: argparse.Namespace) -> int:
    """Measured on the averaged weights of --checkpoint or, without one, after --first uniform steps from scratch."""
    check_name(options.out)
    trainer, schedule = _trainer(options, lambda made, _, device: TimestepSampler(made.timesteps, device))
    if options.checkpoint:
        checkpoints.resume_weights(options.checkpoint, trainer, schedule)
    else:
        for _ in bar(range(options.first), "first steps", options.quiet):
            trainer.step()
    progress = tqdm(total=options.batches, desc="batches", delay=2, leave=False, disable=options.quiet or None)
    measured, norms = measure_importance(trainer, options.batches, options.levels, lambda done, _: progress.update(done - progress.n))
    progress.close()
    save_importance(options.out, measured, norms, checkpoints.as_dict(schedule), options.batches)
    largest = [measured[i] for i in norms.topk(min(5, len(measured))).indices.tolist()]
    say(options, f"wrote {options.out} and its plot; the largest gradients are at t = {', '.join(map(str, largest))}")
    return 0


def train(options: argparse.Namespace) -> int:
    from microdreamer.core.command import Interrupt
    from microdreamer.voxel_diffusion.monitoring import MEAN_OVER, Losses, Monitor, Profiler

    if options.steps is None and options.minutes is None:
        options.steps = 10_000
    if (options.steps is not None and options.steps < 1) or (options.minutes is not None and not options.minutes > 0):
        raise ValueError("--steps and --minutes: expected numbers above 0")
    if options.decay is None:  # a run bounded by minutes has no last step that is known before
        options.decay = options.steps
    out = Path(options.out or f"outputs/{options.timesteps}")
    path = out / "checkpoint.pt"
    if path.exists() and not options.resume:
        raise ValueError(f"{path}: there is a run already; pass --resume to go on with it or another --out")

    def sampler_of(made, schedule: ScheduleConfig, device: torch.device) -> TimestepSampler:
        norms = load_importance(options.importance, checkpoints.as_dict(schedule)) if options.timesteps == "fixed" else None
        return make_sampler(options.timesteps, made, device, options.top, options.every, options.probe, options.levels, norms)

    trainer, schedule = _trainer(options, sampler_of)
    if options.resume:
        checkpoints.resume(path, trainer, schedule)
        say(options, f"resuming {path} after step {trainer.steps}")
    losses = Losses(out / "losses.json", trainer.steps)
    checkpoints.save_checkpoint(path, trainer, schedule)  # a folder or disk that cannot hold it fails now, not after the training
    folder = Path(options.profiling) / out.name / time.strftime("%Y%m%d-%H%M%S") if options.profiling else None
    monitor = Monitor(folder, trainer.device, trainer.steps, options.steps, options.quiet)
    profiler = Profiler(folder, trainer.device) if folder and options.profile else None
    deadline = time.perf_counter() + 60 * options.minutes if options.minutes is not None else float("inf")
    saved = time.perf_counter()

    def save() -> None:
        losses.save()
        checkpoints.save_checkpoint(path, trainer, schedule)

    try:
        with Interrupt() as interrupt:
            while (options.steps is None or trainer.steps < options.steps) and time.perf_counter() < deadline and not interrupt.requested:
                losses.add(trainer.step())
                if profiler and not profiler.step():
                    profiler = None
                if trainer.steps % MEAN_OVER == 0:
                    mean = losses.settle()
                    if not np.isfinite(mean):
                        raise ValueError(f"the loss became {mean} before step {trainer.steps}; lower --rate ({path} is from before)")
                    monitor.show(trainer.steps, mean)
                    if time.perf_counter() - saved > 60 * options.save_minutes:
                        save()
                        saved = time.perf_counter()
            losses.settle()
            save()
    finally:
        if profiler:
            profiler.close()
        monitor.close()
    say(options, f"{'stopped' if interrupt.requested else 'done'} after step {trainer.steps}: {path}")
    return interrupt.exit_code if interrupt.requested else 0


def sample(options: argparse.Namespace) -> int:
    from microdreamer.voxel_diffusion.sampling import sample as draw

    device = choose_device(options.device, "--device ")
    denoiser, about = checkpoints.load_denoiser(options.checkpoint, device, bf16=device.type == "cuda")
    timesteps = denoiser.schedule.timesteps
    levels = None
    if options.trained_only:
        if options.steps is not None:
            raise ValueError("--steps and --trained-only: pass one of them; the second visits the trained timesteps")
        levels = about["trained"]
    elif len(about["trained"]) < timesteps:
        say(options, f"only {len(about['trained'])} of {timesteps} timesteps were trained on; --trained-only visits those alone")
    if options.batch < 1:
        raise ValueError(f"--batch {options.batch}: expected at least 1")
    generator = torch.Generator(device).manual_seed(options.seed)
    progress = tqdm(desc="sampling", delay=2, leave=False, disable=options.quiet or None)

    def show(done: int, total: int) -> None:
        progress.total = total
        progress.update(done - progress.n)

    grids = draw(denoiser, options.count, options.steps, options.method, options.eta, levels, options.batch, generator, show)
    progress.close()
    save_array(options.out, grids.numpy())
    say(options, f"wrote {options.out} {list(grids.shape)}")
    return 0


def evaluate(options: argparse.Namespace) -> int:
    from microdreamer.voxel_diffusion.evaluate import evaluate as measure
    from microdreamer.voxel_diffusion.evaluate import report

    output = Path(options.output)
    if output.suffix == ".json":
        raise ValueError(f"--output {output}: name the text file; the JSON file is written beside it")
    device = choose_device(options.device, "--device ")
    generated = torch.from_numpy(load_grids(options.gen))
    truth = torch.from_numpy(load_grids(options.gt_dir, generated.shape[-1]))
    result = measure(generated.to(device), truth.to(device), set_limit=options.sets)
    text = report(result, options.gen, options.gt_dir)
    with atomic_write(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    with atomic_write(output.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if not options.quiet:
        print(text, end="")
    return 0


def view(options: argparse.Namespace) -> int:
    from microdreamer.images.writing import write_sheet
    from microdreamer.voxel_diffusion.metrics import filled
    from microdreamer.voxel_diffusion.render import render_view
    from microdreamer.voxel_diffusion.view import view as write

    grids = torch.from_numpy(load_grids(options.grids)).float()
    chosen = options.index or [int(filled(grids).flatten(1).any(1).int().argmax())]
    for index in chosen:
        if not 0 <= index < len(grids):
            raise ValueError(f"--index {index}: {options.grids} holds grids 0 to {len(grids) - 1}")
    folder, stem = Path(options.out), Path(options.grids).stem
    paths = [folder / f"{stem}_sheet.png"]
    write_sheet(paths[0], render_view(grids[: options.sheet], 30.0), 8)
    for index in bar(chosen, "views", options.quiet):
        paths += write(grids[index], folder, f"{stem}_{index:04d}")
    say(options, "wrote " + " ".join(map(str, paths)))
    return 0
