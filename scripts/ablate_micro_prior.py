"""Ablation of the micro prior: small networks, each trained with a part of the recipe, side by side on equal samples.

python scripts/ablate_micro_prior.py --objects train_0.npz train_1.npz low_poly.npz --realistic household.npz --val val.npz --minutes 2

Every step of one is followed by a step of each other; how many there are follows from the time. The plain recipe is the first version's:
the first of the objects alone, clean pictures, an answer added to a part of its noisy input, rays for cameras, one picture, colours.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor
from train_micro_prior import load_objects, training_objects

from cam_utils import RADIUS
from microdreamer.core.files import atomic_write
from microdreamer.core.machine import best_device
from microdreamer.guidance.micro.network import PATCH, SLOTS, MultiViewNetwork, NetworkConfig, camera_features, pixel_rays
from microdreamer.guidance.micro.prior import END, END_WITH_SKIP, LOG_SNR_SHIFT, MIN_LOG_SNR
from microdreamer.guidance.micro.vocabulary import Vocabulary
from microdreamer.guidance.schedule import NoiseSchedule
from microdreamer.metrics.pictures import psnr
from microdreamer.shapes.packed import PackedMeshes, concatenate, load_packed
from microdreamer.training.micro_prior import batches
from microdreamer.training.micro_prior.bank import Bank
from microdreamer.training.micro_prior.loop import Step, TrainingConfig
from microdreamer.training.micro_prior.metrics import ELEVATION_UP, SIDES, STEPS, silhouette_iou, true_views
from microdreamer.training.micro_prior.optimiser import FlatOptimiser
from microdreamer.training.micro_prior.unrolled import renoised

SMALL = {"resolution": 64, "channels": (48, 96, 192), "depth": (1, 1, 4, 1, 1), "head_width": 32, "condition_width": 192, "text_width": 128}
RATES = {"muon_rate": 3e-3, "adam_rate": 1.5e-3, "warmup_steps": 100, "ema": 0.998, "elevation_noise_share": 0.0}
CALIBRATION = 10  # rounds that tell how long one takes
REPORT_ROUNDS = 100
LATE = 1.3  # times --minutes, after which training ends wherever it is


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Parts of the recipe: all objects, pairs and degraded pictures; no skip; relative cameras and up to four pictures; and so on."""

    data: bool = True
    no_skip: bool = True
    cameras: bool = True
    geometry: bool = True
    unrolled: bool = True

    def network(self, small: dict) -> NetworkConfig:
        references = SLOTS if self.cameras else 1
        return NetworkConfig(**small, skip=not self.no_skip, relative_cameras=self.cameras, references=references, geometry=self.geometry)


NONE = Recipe(data=False, no_skip=False, cameras=False, geometry=False, unrolled=False)
RECIPES = {
    "first version": NONE,
    "+ data": dataclasses.replace(NONE, data=True),
    "+ no skip": dataclasses.replace(NONE, data=True, no_skip=True),
    "+ relative cameras, 1 to 4 pictures": Recipe(geometry=False, unrolled=False),
    "+ geometry": Recipe(unrolled=False),
    "+ unrolled last tenth": Recipe(),
    "all but data": Recipe(data=False),
    "all but no skip": Recipe(no_skip=False),
    "all but relative cameras": Recipe(cameras=False),
}


@contextlib.contextmanager
def clean_pictures() -> Iterator[None]:
    """Batches as the first version drew them: no degraded pictures, other lenses, leaning or sheared objects."""

    def upright(count: int, device: torch.device) -> Tensor:
        return torch.eye(3, device=device).repeat(count, 1, 1)

    with mock.patch.multiple(batches, DEGRADED=0.0, OTHER_LENS=0.0, random_tilts=upright):
        yield


class Run:
    """One network in training."""

    def __init__(self, recipe: Recipe, bank: Bank, small: dict, batch: int):
        torch.manual_seed(0)
        own = min(batch // 4, 32)
        share = 0.1 if recipe.unrolled else 0.0
        graph = bank.tokens.is_cuda
        unrolled = {"unrolled_share": share, "unrolled_steps": 3, "unrolled_objects": own, "unrolled_seen": max(1, own // 4)}
        self.config = TrainingConfig(batch=batch, compile=False, graph=graph, **unrolled, **RATES)
        self.network = MultiViewNetwork(recipe.network(small)).to(bank.tokens.device)
        self.optimiser = FlatOptimiser(self.network, self.config.weight_decay, self.config.clip_norm)
        self.pictures = contextlib.nullcontext if recipe.data else clean_pictures
        self.step = Step(self.network, bank, self.optimiser, self.config)
        self.loss = torch.zeros_like(self.step.loss)
        if graph:
            with self.pictures():
                self.step.capture()

    def one(self, number: int, total: int) -> None:
        """Step `number` of `total`."""
        share = number / total
        rate = min(1.0, (number + 1) / self.config.warmup_steps) * 0.5 * (1 + math.cos(math.pi * share))
        self.optimiser.set_rates(self.config.muon_rate * rate, self.config.adam_rate * rate, number + 1, self.config.ema)
        self.step.coarse.fill_(float(share < self.config.coarse_share))
        with self.pictures():
            self.step.forward_backward(share >= 1 - self.config.unrolled_share and self.config.unrolled_share > 0)
        self.step.run_update()
        self.loss.lerp_(self.step.loss, 0.02)

    def finish(self) -> MultiViewNetwork:
        """The network with the moving average of its weights."""
        self.network.load_state_dict(self.optimiser.averaged_state())
        return self.network


def seconds_of(function, device: torch.device) -> float:
    """Of one call, which is waited for."""
    begin = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def rounds_within(seconds: float, runs: Sequence[Run], device: torch.device) -> int:
    """How many rounds, each a step of every run, fit into `seconds`; the runs' weights do not change for this."""

    def passes(unrolled: bool, chosen: Sequence[Run]) -> None:
        for run in chosen:
            with run.pictures():
                run.step.forward_backward(unrolled)
            run.optimiser.gradient.zero_()

    last = [run for run in runs if run.config.unrolled_share]
    timed = {False: runs, True: last}
    for unrolled, chosen in timed.items():
        passes(unrolled, chosen)
    every = {unrolled: seconds_of(lambda u=unrolled, c=chosen: [passes(u, c) for _ in range(CALIBRATION)], device) / CALIBRATION
             for unrolled, chosen in timed.items()}  # fmt: skip
    plain = seconds_of(partial(passes, False, last), device)
    update = sum(seconds_of(partial(run.optimiser.gradient.zero_), device) for run in runs)
    slower = 0.1 * max(0.0, every[True] - plain)
    return int(seconds / (1.15 * (every[False] + update + slower)))


@torch.no_grad()
def score(network: MultiViewNetwork, truth: Tensor) -> dict[str, float]:
    """Views of objects [N,4,3,R,R] in [0,1], whose first is the picture, against what is sampled, as `metrics.score_objects` does."""
    count, device, side = len(truth), truth.device, network.config.resolution // PATCH
    schedule = NoiseSchedule.shifted_cosine(LOG_SNR_SHIFT, MIN_LOG_SNR, END_WITH_SKIP if network.config.skip else END)
    azimuth = torch.tensor(SIDES, device=device, dtype=torch.float32).expand(count, -1)
    up, ones = torch.full_like(azimuth, ELEVATION_UP), torch.ones_like(azimuth)
    seen_from = azimuth[:, 0], up[:, 0]
    given = (
        pixel_rays(azimuth, up, RADIUS, batches.TAN_HALF, side),
        camera_features(azimuth, up, is_reference=False, known=ones, present=ones),
        truth[:, 0] * 2 - 1,
        pixel_rays(*seen_from, RADIUS, batches.TAN_HALF, side),
        camera_features(*seen_from, is_reference=True, known=ones[:, 0], present=ones[:, 0]),
        torch.zeros(count, network.config.text_tokens, dtype=torch.long, device=device),
    )
    levels = [torch.full((count,), schedule.log_snr(t), device=device) for t in schedule.levels(STEPS)[::-1]]

    def sampled(temperature: float) -> list[Tensor]:
        """The network's clean views at each level."""
        generator = torch.Generator(device).manual_seed(0)

        def fresh() -> Tensor:
            return temperature * torch.randn(truth.shape, generator=generator, device=device)

        noisy, answers = fresh(), []
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            for now, then in pairwise([*levels, levels[-1]]):
                answers.append(network(noisy, now, *given).float())
                noisy = renoised(noisy, answers[-1], now, then, fresh())
        return answers

    scores, usual = {}, sampled(1.0)
    for name, answer in (("sampled", usual[-1]), ("one_step", usual[0]), ("without_noise", sampled(0.0)[-1])):
        views = (answer * 0.5 + 0.5).clamp(0, 1)
        quality, overlap = psnr(views.flatten(0, 1), truth.flatten(0, 1)).unflatten(0, (count, -1)), silhouette_iou(views, truth)
        for kind, values in (("psnr", quality), ("iou", overlap)):
            mean = values.mean(dim=0)
            scores |= {
                f"{name}_{kind}_input": float(mean[0]),
                f"{name}_{kind}_sides": float(mean[[1, 3]].mean()),
                f"{name}_{kind}_back": float(mean[2]),
            }
    return scores


def lines(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """A table for each set of objects."""
    text = []
    for name in next(iter(results.values())):
        text += [f"\n| {name} | sampled sides dB / IoU | back | input dB | one step sides | without noise sides |", "|" + " --- |" * 6]
        for recipe, sets in results.items():
            row = sets[name]
            sampled = [f"{row[f'sampled_psnr_{side}']:.2f} / {row[f'sampled_iou_{side}']:.3f}" for side in ("sides", "back")]
            others = [f"{row[f'{way}_psnr_sides']:.2f} / {row[f'{way}_iou_sides']:.3f}" for way in ("one_step", "without_noise")]
            text.append(f"| {recipe} | {sampled[0]} | {sampled[1]} | {row['sampled_psnr_input']:.2f} | {others[0]} | {others[1]} |")
    return "\n".join(text)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", nargs="+", type=Path, required=True, help="packed .npz files")
    parser.add_argument("--realistic", nargs="*", type=Path, default=[])
    parser.add_argument("--exclude", type=Path, help="file of ids, one a line, to leave out")
    parser.add_argument("--first", type=int, default=1716, help="how many of --objects the first version had")
    parser.add_argument("--val", nargs="+", type=Path, required=True, help="packed objects to score on")
    parser.add_argument("--limit", type=int, default=93, help="of which the first so many")
    parser.add_argument("--pairs", type=int, default=4096)
    parser.add_argument("--procedural", type=int, default=8192)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--minutes", type=float, default=2.0, help="of training in all")
    parser.add_argument("--network", type=json.loads, default={}, help="other fields of NetworkConfig, as JSON")
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES), metavar="NAME", help="; ".join(RECIPES))
    parser.add_argument("--device", default=best_device().type)
    parser.add_argument("--out", type=Path, default=Path("logs/ablation.json"))
    return parser.parse_args()


def first_version_objects(args: argparse.Namespace, procedural: PackedMeshes) -> tuple[PackedMeshes, Tensor]:
    """Objects that the first version knew, and how often each is drawn: seven of ten samples, the rest are procedural shapes."""
    plain = load_objects(args.objects)
    plain = plain.subset(list(range(min(args.first, len(plain)))))
    shares = [torch.full((len(part),), share / len(part)) for part, share in ((plain, 0.7), (procedural, 0.3))]
    return concatenate([plain, procedural]), torch.cat(shares)


def main() -> None:
    args, begin = arguments(), time.perf_counter()
    torch.set_float32_matmul_precision("high")
    device = torch.device(args.device)

    def say(*parts: object) -> None:
        print(f"[{time.perf_counter() - begin:6.1f} s]", *parts, flush=True)

    args.realism, args.pack_cap, args.pair_share, args.procedural_share, args.seed = 2.0, 0.1, 0.15, 0.2, 0
    meshes, weights, real = training_objects(args, os.cpu_count() or 1)
    procedural = meshes.subset(list(range(real + args.pairs, len(meshes))))
    small = SMALL | {name: tuple(value) if isinstance(value, list) else value for name, value in args.network.items()}
    words = (caption for captions in meshes.captions for caption in captions)
    vocabulary = Vocabulary.from_captions(words, NetworkConfig().vocabulary - 1)

    def bank(own: PackedMeshes, shares: Tensor, seed: int | None) -> Bank:
        return Bank.build(own, shares, vocabulary, NetworkConfig().text_tokens, device, seed, places=True)

    banks = {True: bank(meshes, weights, 0), False: bank(*first_version_objects(args, procedural), None)}
    say(f"{real} objects, {args.pairs} pairs, {args.procedural} procedural shapes; first version: {len(banks[False].tokens)}")
    runs = {}
    for name in args.recipes:
        recipe, own = RECIPES[name], banks[RECIPES[name].data]
        runs[name] = Run(recipe, own if recipe.geometry else dataclasses.replace(own, painter=None), small, args.batch)
    say({name: f"{sum(p.numel() for p in run.network.parameters()) / 1e6:.2f} M" for name, run in runs.items()})
    total = rounds_within(args.minutes * 60, list(runs.values()), device)
    say(f"{total} rounds of {args.batch} samples: {total * args.batch} for each recipe")

    deadline = time.perf_counter() + LATE * args.minutes * 60
    for number in range(total):
        if time.perf_counter() > deadline:  # equal still, but at a higher rate than the last steps should have
            say(f"late: stopped after {number} rounds")
            total = number
            break
        if number % TrainingConfig().deform_steps == 0:
            banks[True].redraw(number // TrainingConfig().deform_steps)
        for run in runs.values():
            run.one(number, total)
        if (number + 1) % REPORT_ROUNDS == 0:
            say(number + 1, {name: round(float(run.loss[0]), 4) for name, run in runs.items()})
    results: dict[str, dict] = {name: {} for name in runs}
    for path in args.val:
        held_out = load_packed([path]).to(device)
        indices = range(min(args.limit, len(held_out)))
        truth = torch.stack([true_views(held_out, index, small["resolution"], device) for index in indices])
        for name, run in runs.items():
            results[name][f"{len(indices)} of {path.stem}"] = score(run.finish(), truth)
    with atomic_write(args.out) as temporary:
        temporary.write_text(json.dumps({"samples": total * args.batch, "network": small, "results": results}, indent=1) + "\n")
    say(lines(results))


if __name__ == "__main__":
    main()
