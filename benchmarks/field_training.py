"""Score distillation of neural fields with published priors of full size: steps and frames a second, memory, and the floor below them.

    python scripts/make_random_checkpoint.py mvdream /tmp/random/mvdream
    python scripts/make_random_checkpoint.py stable_diffusion /tmp/random/stable_diffusion
    python -m benchmarks.field_training --weights /tmp/random [--cases NAME ...] [--out results.json]
    torchrun --nproc_per_node 2 -m benchmarks.field_training --weights /tmp/random --cases low

Cases: `low`, x0-SDS with MVDream at 64x64, 8 views; `low, 16 views`, for two GPUs as busy as one with 8; `high`, at 256x256, 4 views;
`high, recompute`; `asd`, ASD with Stable Diffusion at 64x64, one view with Perp-Neg. The floor of a step is the prior alone: encoder
forward and backward and all its branches, on the same shapes. Random weights draw noise; their time is real. The field is what --steps of
training from the initial blob leave.
Memory: `peak_gib` is the most that a step allocates, prior and optimiser with it, measured at steps that are not captured as CUDA graphs;
`reserved_gib` is what the process takes from the device when they are, whose graphs keep memory of their own.
The MindSpore port of MVDream-threestudio tells 0.857 step/s (low), 0.465 (high) and 0.439 frame/s on its accelerator.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.timing import write_json
from microdreamer.core.cuda_graphs import uncaptured
from microdreamer.core.machine import choose_device, provenance
from microdreamer.guidance import load_prior
from microdreamer.guidance.base import Prior
from microdreamer.pipeline.launch.config import LaunchConfig, load_launch_config
from microdreamer.pipeline.launch.run import make_trainer, processes
from microdreamer.pipeline.launch.trainer import Shard, Trainer
from microdreamer.pipeline.launch.views import frames

PROMPT = "prompt=an astronaut riding a horse"
CASES = {
    "low": ("mvdream_sd21", 0, []),
    "low, recompute": ("mvdream_sd21", 0, ["system.use_recompute=true"]),
    "low, 16 views": ("mvdream_sd21", 0, ["data.batch_size=16"]),
    "high": ("mvdream_sd21", 1, []),
    "high, recompute": ("mvdream_sd21", 1, ["system.use_recompute=true"]),
    "asd": ("asd_sd_nerf", 0, []),
}
FRAMES, FRAME_SIZE = 24, 256


def in_stage(name: str, stage: int, words: list[str]):
    """The configuration with one of its stages from the first step on."""
    path = Path("configs") / f"{name}.yaml"
    whole = load_launch_config(path, [PROMPT])
    chosen = [f"data.size={whole.data.size[stage]}", f"data.batch_size={whole.data.batch_size[stage]}", "data.resolution_milestones=[]"]
    return load_launch_config(path, [PROMPT, *chosen, *words])


def prior_of(case: str) -> str:
    """The name of the prior that a case asks."""
    return load_launch_config(Path("configs") / f"{CASES[case][0]}.yaml", []).system.guidance.prior


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[int], object], first: int, count: int, device: torch.device) -> list[float]:
    """Seconds of each of `count` calls, after a few that warm up."""
    found = []
    for index in range(first, first + count):
        wait(device)
        start = time.perf_counter()
        work(index)
        wait(device)
        found.append(time.perf_counter() - start)
    return found


def floor(trainer: Trainer) -> Callable[[int], object]:
    """A step of the prior alone: what the objective does with pictures that are there already."""
    cameras = trainer.cameras(0)
    pictures = torch.rand(len(cameras), 3, cameras.height, cameras.width, device=trainer.device)

    def once(step: int) -> None:
        shown = pictures.clone().requires_grad_()
        torch.autograd.grad(trainer.objective(shown, cameras, step).loss, shown)

    return once


def let_go() -> None:
    """Give back what the last case held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def peak_memory(name: str, prior: Prior, shard: Shard) -> float:
    """GiB that a step allocates at most, where nothing has been captured with this prior yet."""
    let_go()
    trainer = make_trainer(in_stage(*CASES[name]), prior, shard)
    with uncaptured():
        for step in range(3):
            if step == 2:  # the optimiser's state and the lists' lengths are there
                torch.cuda.reset_peak_memory_stats(trainer.device)
            trainer.step(step)
    peak = torch.cuda.max_memory_allocated(trainer.device) / 2**30
    trainer.close()
    return peak


def measure(name: str, prior: Prior, shard: Shard, steps: int, count: int) -> dict:
    let_go()
    config = in_stage(*CASES[name])
    trainer = make_trainer(config, prior, shard)
    device = trainer.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for step in range(steps):
        trainer.step(step)
    whole = statistics.median(seconds_of(trainer.step, steps, count, device))
    found = {
        "case": name,
        "views": config.data.batch_size[0],
        "size": config.data.size[0],
        "step_ms": 1e3 * whole,
        "steps_per_second": 1 / whole,
    }
    if device.type == "cuda":
        found["reserved_gib"] = torch.cuda.max_memory_reserved(device) / 2**30
    once = floor(trainer)
    seconds_of(once, 0, 4, device)
    alone = statistics.median(seconds_of(once, 0, count, device))
    found |= {"prior_alone_ms": 1e3 * alone, "rest_share": (whole - alone) / whole}
    if shard.world == 1:
        start = time.perf_counter()
        for _ in frames(trainer.learner.model, config, FRAMES, FRAME_SIZE, device):
            pass
        wait(device)
        start = time.perf_counter()
        for _ in frames(trainer.learner.model, config, FRAMES, FRAME_SIZE, device):
            pass
        wait(device)
        found["frames_per_second"] = FRAMES / (time.perf_counter() - start)
    trainer.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, metavar="FOLDER", help="folder of the priors' folders")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=[case for case in CASES if case != "low, 16 views"])
    parser.add_argument("--steps", type=int, default=60, help="training steps before the measurement")
    parser.add_argument("--count", type=int, default=40, help="steps to measure")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", metavar="FILE.json")
    options = parser.parse_args()
    with processes(LaunchConfig(device=options.device)) as (shard, config):
        device = choose_device(config.device)
        rows = []
        for wanted, names in itertools.groupby(options.cases, prior_of):
            cases, prior = list(names), load_prior(wanted, str(Path(options.weights) / wanted), device)
            peaks = {name: {"peak_gib": peak_memory(name, prior, shard)} if device.type == "cuda" else {} for name in cases}
            for name in cases:
                rows.append(measure(name, prior, shard, options.steps, options.count) | peaks[name])
                if shard.rank == 0:
                    print({key: round(value, 3) if isinstance(value, float) else value for key, value in rows[-1].items()}, flush=True)
            del prior
        if options.out and shard.rank == 0:
            write_json(options.out, {"environment": provenance(device), "processes": shard.world, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
