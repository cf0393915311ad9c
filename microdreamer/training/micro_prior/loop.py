"""Training loop of the micro prior: one process per GPU, two captured graphs per step, no waiting for the host in between.

Loss: squared error of the predicted clean views, weighted min(SNR, 5) + 4 (EDM's weighting with the SNR's part capped), and, where the
network tells them, of their depth (where there is a surface), coverage and albedo, with weights of their own beside that. At the end
of a run, for a share of it, some samples are what `unrolled.py` says.
Noise: log-SNR -2 log tan(pi t / 2) - 4 for stratified uniform t, because everything about shape is decided below about -4.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from microdreamer.core.cuda_graphs import capture, warm_up
from microdreamer.guidance.checkpoints import save_sharded
from microdreamer.guidance.micro.network import MultiViewNetwork
from microdreamer.guidance.micro.prior import CLEANEST, LOG_SNR_SHIFT, MIN_LOG_SNR
from microdreamer.guidance.micro.vocabulary import Vocabulary
from microdreamer.guidance.schedule import cosine_log_snr, cosine_time
from microdreamer.training.micro_prior.bank import Bank
from microdreamer.training.micro_prior.batches import Batch, Shares, draw_batch, told_samples
from microdreamer.training.micro_prior.checkpoint import Progress, load_run, random_states, save_run
from microdreamer.training.micro_prior.optimiser import FlatOptimiser
from microdreamer.training.micro_prior.unrolled import PARTS, begun_views, free_errors


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """One run. `minutes` of wall clock are spent on steps; the learning rates fall as a cosine to 0 over them."""

    minutes: float = 20.0
    steps: int | None = None  # instead of `minutes`
    batch: int = 128  # samples per GPU and step
    muon_rate: float = 1.2e-3
    adam_rate: float = 6e-4
    warmup_steps: int = 300
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    ema: float = 0.9995
    coarse_share: float = 0.25  # share of the run that draws log-SNR below -3 alone
    deform_steps: int = 100  # steps between two redrawings of the objects' shapes
    several_share: float = 0.047  # share of the samples that see more than one picture, for networks that take several
    both_share: float = Shares.both  # shares of the samples that are told a picture and a caption,
    picture_share: float = Shares.picture  # a picture alone,
    caption_share: float = Shares.caption  # or a caption alone; the rest is told nothing
    elevation_noise_share: float = 0.1  # share of the pictures of known elevation of which a wrong one is told; more, and sides blur
    depth_weight: float = 1.0  # of surfaces beside the weight 1 of the colours, for networks that tell them
    coverage_weight: float = 0.1
    albedo_weight: float = 0.3
    unrolled_share: float = 0.0  # share of the run, at its end, in which some samples go on from views that the network began itself
    unrolled_steps: int = 2  # of sampling of these samples; the last one learns
    unrolled_objects: int = 16  # such samples per GPU and step
    unrolled_seen: int = 16  # of them, how many are also looked at from free cameras; at most
    unrolled_weight: float = 0.5  # of their errors at free cameras
    compile: bool = True
    graph: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.elevation_noise_share <= 1:
            raise ValueError(f"elevation_noise_share={self.elevation_noise_share}: expected 0 (all are told right) to 1 (none is)")
        for name in ("both_share", "picture_share", "caption_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected 0 to 1")
        told = self.both_share + self.picture_share + self.caption_share
        if told > 1 + 1e-6:
            raise ValueError(f"both_share, picture_share and caption_share are {told:g} together: expected at most 1")

    @property
    def shares(self) -> Shares:
        """What the samples of a batch are told."""
        return Shares(self.both_share, self.picture_share, self.caption_share, self.elevation_noise_share)


CHECKPOINT_MINUTES = 4.0  # between two checkpoints
REPORT_STEPS = 200  # steps between two reports, and the earliest between two checkpoints


def draw_log_snr(count: int, coarse: Tensor) -> Tensor:
    """[count] log signal-to-noise ratios in random order; `coarse` (a device scalar, 0 or 1) keeps them below -3."""
    order = torch.rand(count, device=coarse.device).argsort()  # the last samples of a batch have more pictures, the first ones surfaces
    t = (order + torch.rand(count, device=coarse.device)) / count
    cut = cosine_time(-3.0, LOG_SNR_SHIFT)
    t = t * (1 - cut * coarse) + cut * coarse
    return cosine_log_snr(t.clamp(1e-4, 1 - 1e-4), LOG_SNR_SHIFT).clamp(MIN_LOG_SNR, CLEANEST)


def denoising_loss(
    network: Callable, batch: Batch, log_snr: Tensor, config: TrainingConfig, begun: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Weighted squared errors of the network's clean views from views noised to `log_snr` [B]: their sum, and each part [1, 4 or 7].

    begun: noisy views of the first samples and their log-SNR, as of `begun_views`, in place of theirs; errors at free cameras join.
    """
    alpha = torch.sigmoid(log_snr)[:, None, None, None, None]
    noisy = alpha.sqrt() * batch.views + (1 - alpha).sqrt() * torch.randn_like(batch.views)
    if begun is not None:
        noisy, log_snr = (torch.cat([own, rest[len(own) :]]) for own, rest in zip(begun, (noisy, log_snr), strict=True))
    pictures = batch.pictures, batch.picture_rays, batch.picture_camera
    told = len(batch.seen) if batch.surfaces else 0
    answer = network(noisy, log_snr, batch.rays, batch.camera, *pictures, batch.tokens, told)
    clean, surfaces = answer if isinstance(answer, tuple) else (answer, None)
    weight = torch.exp(log_snr).clamp(max=5) + 4

    def weighted(error: Tensor) -> Tensor:
        return (weight[: len(error)] * error.square().mean(dim=(1, 2, 3, 4))).mean()

    parts = [weighted(clean.to(batch.views.dtype) - batch.views)]
    if surfaces is not None:
        truth = batch.surfaces
        parts.append(config.depth_weight * weighted((surfaces.depth - truth.depth) * batch.seen))
        parts.append(config.coverage_weight * weighted(surfaces.coverage - truth.coverage))
        parts.append(config.albedo_weight * weighted(surfaces.albedo - truth.albedo))
    if begun is not None:
        with torch.autocast(noisy.device.type, enabled=False):  # places need float32
            parts.extend(config.unrolled_weight * free_errors(clean.to(noisy.dtype), surfaces, batch.free))
    parts = torch.stack(parts)
    return parts.sum(), parts.detach()


def samples_with_several_pictures(config: TrainingConfig, references: int) -> int:
    """How many of a batch's samples have more than one picture, for a network that takes up to `references`."""
    return round(config.batch * config.several_share) if references > 1 else 0


def check_unrolled(config: TrainingConfig, geometry: bool, references: int) -> None:
    """Raise ValueError in one line where the settings of unrolled steps do not fit each other or the network."""
    if not 0 <= config.unrolled_share <= 1:
        raise ValueError(f"unrolled_share={config.unrolled_share}: expected 0 (none of the run) to 1 (all of it)")
    if not config.unrolled_share:
        return
    if not geometry:
        raise ValueError("unrolled_share: Gaussians are read off depth and coverage, which this network does not tell; use --geometry")
    if not config.both_share + config.picture_share:
        raise ValueError("unrolled_share: these samples have a picture; expected both_share or picture_share above 0")
    if config.unrolled_seen < 1:
        raise ValueError(f"unrolled_seen={config.unrolled_seen}: expected 1 or more")
    if config.unrolled_weight < 0:
        raise ValueError(f"unrolled_weight={config.unrolled_weight}: expected 0 (own samples alone) or more")
    if config.unrolled_steps < 1:
        raise ValueError(f"unrolled_steps={config.unrolled_steps}: expected 1 or more")
    most = min(told_samples(config.batch), config.batch - samples_with_several_pictures(config, references))
    if not 1 <= config.unrolled_objects <= most:
        raise ValueError(f"unrolled_objects={config.unrolled_objects}: expected 1 to {most} with batch={config.batch}")


class Step:
    """One optimisation step on static buffers: `forward_backward`, then (after gradients were shared) `run_update`."""

    def __init__(self, network: MultiViewNetwork, bank: Bank, optimiser: FlatOptimiser, config: TrainingConfig):
        device = bank.tokens.device
        if network.config.geometry and bank.painter is None:
            raise ValueError("the network tells surfaces: build the bank with places=True")
        self.network, self.bank, self.optimiser, self.config = network, bank, optimiser, config
        check_unrolled(config, network.config.geometry, network.config.references)
        self.several = samples_with_several_pictures(config, network.config.references)
        self.coarse = torch.zeros((), device=device)
        self.names = ("colours", "depth", "coverage", "albedo")[: 4 if network.config.geometry else 1]
        if config.unrolled_share:
            self.names += PARTS
        self.loss = torch.zeros(len(self.names), device=device)  # the last parts are 0 after plain steps
        self.call = torch.compile(network, dynamic=False) if config.compile else network
        self.run_update = optimiser.step
        self._replays: dict[bool, Callable[[], None]] = {}

    def forward_backward(self, unrolled: bool) -> None:
        """Adds to the gradient, and leaves the parts of the loss in `loss`."""
        self._replays[unrolled]() if unrolled in self._replays else self._forward_backward(unrolled)

    def _forward_backward(self, unrolled: bool) -> None:
        config, own = self.config, self.config.unrolled_objects if unrolled else 0
        free = min(own, config.unrolled_seen)
        batch = draw_batch(self.bank, config.batch, self.network.config.resolution, self.several, free, own, config.shares)
        log_snr = draw_log_snr(config.batch, self.coarse)
        mixed = torch.autocast("cuda", torch.bfloat16, enabled=self.coarse.is_cuda)
        begun = None
        if unrolled:
            with mixed:  # as it is: compiled for another number of samples it would save less than that takes
                begun = begun_views(self.network, batch, own, config.unrolled_steps)
        with mixed:
            loss, parts = denoising_loss(self.call, batch, log_snr, config, begun)
        loss.backward()
        self.loss[: len(parts)] = parts
        self.loss[len(parts) :] = 0

    def capture(self) -> None:
        """Warm up on a side stream, then record as CUDA graphs what the run needs; parameters are restored afterwards."""
        kept, device = (self.optimiser.flat.clone(), self.optimiser.average.clone()), self.loss.device
        share = self.config.unrolled_share
        kinds = [unrolled for unrolled, needed in ((False, share < 1), (True, share > 0)) if needed]

        def both(unrolled: bool) -> None:
            self._forward_backward(unrolled)
            self.optimiser.step()

        for unrolled in kinds:
            warm_up(partial(both, unrolled), device, 3)
        torch.cuda.synchronize()
        if self.config.graph:
            torch.cuda.empty_cache()  # a graph has memory of its own, beside what the warm-up took
            pool = None  # of the two kinds of steps, one at a time
            for unrolled in kinds:
                graph, _ = capture(partial(self._forward_backward, unrolled), device, pool)
                self._replays[unrolled], pool = graph.replay, graph.pool()
            update, _ = capture(self.optimiser.step, device)
            self.run_update = update.replay
        self.optimiser.flat.copy_(kept[0])
        self.optimiser.average.copy_(kept[1])
        for state in (self.optimiser.momentum, self.optimiser.first, self.optimiser.second, self.optimiser.gradient):
            state.zero_()


def train(
    network: MultiViewNetwork,
    bank: Bank,
    config: TrainingConfig,
    report: Callable[[dict], None],
    on_checkpoint: Callable[[FlatOptimiser, dict], None] | None = None,
    checkpoint_minutes: float = CHECKPOINT_MINUTES,
    state_file: Path | None = None,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[FlatOptimiser, dict]:
    """Train `network` in place. `report` gets a dict per some seconds, `on_checkpoint` runs on rank 0 now and then.

    `state_file` receives the whole state of the run at each checkpoint; with `resume` the run in it goes on, and ends with the
    same weights as if it had never stopped (on a GPU: except for the order in which its sums are rounded).
    Where rank 0's `should_stop` says so (it is asked every REPORT_STEPS steps), the run stops after one more checkpoint.
    Returns the optimiser (its `averaged_state` is the result) and {"steps", "samples", "seconds", "gpus"}.
    """
    device = bank.tokens.device
    world, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    torch.manual_seed(config.seed * 1000 + rank)
    optimiser = FlatOptimiser(network, config.weight_decay, config.clip_norm)
    step = Step(network, bank, optimiser, config)
    if device.type == "cuda":
        step.capture()
    if world > 1:
        dist.broadcast(optimiser.flat, 0)
        optimiser.average.copy_(optimiser.flat)
    run = {**dataclasses.asdict(config), "objects": len(bank.tokens), "tokens": int(bank.tokens.sum())}
    progress = Progress()
    if resume:
        progress = load_run(state_file, optimiser, device, run)
        bank.redraw(progress.done // config.deform_steps)

    def synchronise() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    def one(total: int) -> bool:
        """The next step of `total`; whether it was an unrolled one."""
        number = progress.done
        if number % config.deform_steps == 0:
            bank.redraw(number // config.deform_steps)
        share = number / total
        unrolled = share >= 1 - config.unrolled_share and config.unrolled_share > 0
        rate = min(1.0, (number + 1) / config.warmup_steps) * 0.5 * (1 + math.cos(math.pi * share))
        optimiser.set_rates(config.muon_rate * rate, config.adam_rate * rate, number + 1, config.ema)
        step.coarse.fill_(float(share < config.coarse_share))
        step.forward_backward(unrolled)
        if world > 1:
            dist.all_reduce(optimiser.gradient, op=dist.ReduceOp.SUM)
            optimiser.gradient.div_(world)
        step.run_update()
        progress.done += 1
        return unrolled

    def agreed(value: float) -> float:
        """Rank 0's value, on every rank."""
        if world == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=device)
        dist.broadcast(shared, 0)
        return float(shared)

    def elapsed() -> float:
        return before + time.perf_counter() - start

    def seconds_each(function: Callable[[], object], times: int) -> float:
        synchronise()
        begin = time.perf_counter()
        for _ in range(times):
            function()
        synchronise()
        return (time.perf_counter() - begin) / times

    before, start = progress.seconds, time.perf_counter()
    if config.steps is not None:
        progress.total = config.steps
    elif not progress.total:  # the rate of the first steps fixes their number, the same on every rank
        for _ in range(30):
            one(10**6)
        seconds = seconds_each(lambda: one(10**6), 40)
        if 0 < config.unrolled_share < 1:  # those were plain steps; what the others add is seen without an update
            plain, slower = (seconds_each(partial(step.forward_backward, unrolled), 20) for unrolled in (False, True))
            optimiser.gradient.zero_()
            seconds += config.unrolled_share * (slower - plain)
        progress.total = int(agreed(progress.done + (config.minutes * 60 - elapsed()) // seconds))

    last, saved = time.perf_counter(), time.perf_counter()
    losses: list[Tensor] = []
    unrolled_steps = 0  # of those in `losses`
    stopping = False
    while progress.done < progress.total and not stopping:
        unrolled_steps += one(progress.total)
        if rank == 0:
            losses.append(step.loss.clone())
        if progress.done % REPORT_STEPS and progress.done < progress.total:
            continue
        synchronise()
        progress.seconds = elapsed()
        now = time.perf_counter()
        if rank == 0:
            parts = torch.stack(losses).mean(dim=0).tolist()
            mean = sum(parts)
            named = dict(zip(step.names, parts, strict=True))
            for name in PARTS if config.unrolled_share else ():
                own = named.pop(name)
                if unrolled_steps:
                    named[name] = own * len(losses) / unrolled_steps
            if unrolled_steps and config.unrolled_weight:
                named["free_psnr"] = 10 * math.log10(4 * config.unrolled_weight / max(named["free_colours"], 1e-12))
            speed = len(losses) * config.batch * world / (now - last)
            report(
                {
                    "step": progress.done,
                    "of": progress.total,
                    "loss": mean,
                    **named,
                    "samples_per_s": speed,
                    "gradient": float(optimiser.gradient_norm),
                }
            )
            if not math.isfinite(mean):
                raise FloatingPointError(f"the loss became {mean} at step {progress.done}; lower muon_rate")
            losses.clear()
            unrolled_steps = 0
        stopping = agreed(float(should_stop())) > 0
        if progress.done < progress.total and (stopping or agreed(now - saved) > checkpoint_minutes * 60):
            states = random_states(device)
            if rank == 0 and state_file:
                save_run(state_file, optimiser, progress, states, run)
            if rank == 0 and on_checkpoint:
                on_checkpoint(optimiser, {"steps": progress.done, "samples": progress.done * config.batch * world})
            saved = time.perf_counter()
        last = time.perf_counter()
    synchronise()
    return optimiser, {
        "steps": progress.done,
        "of": progress.total,
        "samples": progress.done * config.batch * world,
        "seconds": progress.seconds,
        "gpus": world,
    }


def save_prior(folder: Path, network: MultiViewNetwork, state: dict[str, Tensor], vocabulary: Vocabulary, training: dict) -> None:
    """Write weights (bfloat16) and config.json so that `MicroPrior.load` reads them."""
    save_sharded({name: tensor.to(torch.bfloat16) for name, tensor in state.items()}, folder)
    stored = {"network": dataclasses.asdict(network.config), "training": training, "words": vocabulary.words}
    (folder / "config.json").write_text(json.dumps(stored, indent=1) + "\n")
