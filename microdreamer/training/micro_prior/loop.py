"""Training loop of the micro prior: one process per GPU, two captured graphs per step, no waiting for the host in between.

Loss: squared error of the predicted clean views, weighted min(SNR, 5) + 4 (EDM's weighting with the SNR's part capped), and, where the
network tells them, of their depth (where there is a surface), coverage and albedo, with weights of their own beside that.
Noise: log-SNR -2 log tan(pi t / 2) - 4 for stratified uniform t, because everything about shape is decided below about -4.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from microdreamer.core.cuda_graphs import capture, warm_up
from microdreamer.guidance.checkpoints import save_sharded
from microdreamer.guidance.micro.network import MultiViewNetwork
from microdreamer.guidance.micro.prior import LOG_SNR_SHIFT, MIN_LOG_SNR
from microdreamer.guidance.micro.vocabulary import Vocabulary
from microdreamer.training.micro_prior.bank import Bank
from microdreamer.training.micro_prior.batches import Batch, draw_batch
from microdreamer.training.micro_prior.checkpoint import Progress, load_run, random_states, save_run
from microdreamer.training.micro_prior.optimiser import FlatOptimiser


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
    depth_weight: float = 1.0  # of surfaces beside the weight 1 of the colours, for networks that tell them
    coverage_weight: float = 0.1
    albedo_weight: float = 0.3
    compile: bool = True
    graph: bool = True
    seed: int = 0


MAX_LOG_SNR = 8.0  # of the noise that is trained on
CHECKPOINT_MINUTES = 4.0  # between two checkpoints
REPORT_STEPS = 200  # steps between two reports, and the earliest between two checkpoints


def draw_log_snr(count: int, coarse: Tensor) -> Tensor:
    """[count] log signal-to-noise ratios in random order; `coarse` (a device scalar, 0 or 1) keeps them below -3."""
    order = torch.rand(count, device=coarse.device).argsort()  # the last samples of a batch have more pictures, the first ones surfaces
    t = (order + torch.rand(count, device=coarse.device)) / count
    cut = 2 / math.pi * math.atan(math.exp(0.5 * (LOG_SNR_SHIFT + 3)))  # the t at which log-SNR is -3
    t = t * (1 - cut * coarse) + cut * coarse
    return (-2 * torch.log(torch.tan(0.5 * math.pi * t.clamp(1e-4, 1 - 1e-4))) + LOG_SNR_SHIFT).clamp(MIN_LOG_SNR, MAX_LOG_SNR)


def denoising_loss(network: Callable, batch: Batch, log_snr: Tensor, config: TrainingConfig) -> tuple[Tensor, Tensor]:
    """Weighted squared errors of the network's clean views from views noised to `log_snr` [B]: their sum, and each part [1 or 4]."""
    alpha = torch.sigmoid(log_snr)[:, None, None, None, None]
    noisy = alpha.sqrt() * batch.views + (1 - alpha).sqrt() * torch.randn_like(batch.views)
    pictures = batch.pictures, batch.picture_rays, batch.picture_camera
    told = len(batch.seen) if batch.surfaces else 0
    answer = network(noisy, log_snr, batch.rays, batch.camera, *pictures, batch.tokens, told)
    clean, surfaces = answer if isinstance(answer, tuple) else (answer, None)
    weight = torch.exp(log_snr).clamp(max=5) + 4

    def weighted(error: Tensor) -> Tensor:
        return (weight[: len(error)] * error.square().mean(dim=(1, 2, 3, 4))).mean()

    parts = [weighted(clean.float() - batch.views)]
    if surfaces is not None:
        truth = batch.surfaces
        parts.append(config.depth_weight * weighted((surfaces.depth - truth.depth) * batch.seen))
        parts.append(config.coverage_weight * weighted(surfaces.coverage - truth.coverage))
        parts.append(config.albedo_weight * weighted(surfaces.albedo - truth.albedo))
    parts = torch.stack(parts)
    return parts.sum(), parts.detach()


class Step:
    """One optimisation step on static buffers: `forward_backward`, then (after gradients were shared) `update`."""

    def __init__(self, network: MultiViewNetwork, bank: Bank, optimiser: FlatOptimiser, config: TrainingConfig):
        device = bank.tokens.device
        if network.config.geometry and bank.painter is None:
            raise ValueError("the network tells surfaces: build the bank with places=True")
        self.network, self.bank, self.optimiser, self.config = network, bank, optimiser, config
        self.coarse = torch.zeros((), device=device)
        self.loss = torch.zeros(4 if network.config.geometry else 1, device=device)  # colours, depth, coverage, albedo
        self.several = round(config.batch * config.several_share) if network.config.references > 1 else 0
        self.call = torch.compile(network, dynamic=False) if config.compile else network
        self.run_forward_backward, self.run_update = self._forward_backward, optimiser.step

    def _forward_backward(self) -> None:
        batch = draw_batch(self.bank, self.config.batch, self.network.config.resolution, self.several)
        log_snr = draw_log_snr(self.config.batch, self.coarse)
        with torch.autocast("cuda", torch.bfloat16, enabled=self.coarse.is_cuda):
            loss, parts = denoising_loss(self.call, batch, log_snr, self.config)
        loss.backward()
        self.loss.copy_(parts)

    def capture(self) -> None:
        """Warm up on a side stream, then record both halves as CUDA graphs; parameters are restored afterwards."""
        kept, device = (self.optimiser.flat.clone(), self.optimiser.average.clone()), self.loss.device

        def both() -> None:
            self._forward_backward()
            self.optimiser.step()

        warm_up(both, device, 3)
        torch.cuda.synchronize()
        if self.config.graph:
            torch.cuda.empty_cache()  # a graph has memory of its own, beside what the warm-up took
            first, _ = capture(self._forward_backward, device)
            second, _ = capture(self.optimiser.step, device)
            self.run_forward_backward, self.run_update = first.replay, second.replay
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

    def one(total: int) -> None:
        number = progress.done
        if number % config.deform_steps == 0:
            bank.redraw(number // config.deform_steps)
        share = number / total
        rate = min(1.0, (number + 1) / config.warmup_steps) * 0.5 * (1 + math.cos(math.pi * share))
        optimiser.set_rates(config.muon_rate * rate, config.adam_rate * rate, number + 1, config.ema)
        step.coarse.fill_(float(share < config.coarse_share))
        step.run_forward_backward()
        if world > 1:
            dist.all_reduce(optimiser.gradient, op=dist.ReduceOp.SUM)
            optimiser.gradient.div_(world)
        step.run_update()
        progress.done += 1

    def agreed(value: float) -> float:
        """Rank 0's value, on every rank."""
        if world == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=device)
        dist.broadcast(shared, 0)
        return float(shared)

    def elapsed() -> float:
        return before + time.perf_counter() - start

    before, start = progress.seconds, time.perf_counter()
    if config.steps is not None:
        progress.total = config.steps
    elif not progress.total:  # the rate of the first steps fixes their number, the same on every rank
        for _ in range(30):
            one(10**6)
        synchronise()
        begin = time.perf_counter()
        for _ in range(40):
            one(10**6)
        synchronise()
        seconds = (time.perf_counter() - begin) / 40
        progress.total = int(agreed(progress.done + (config.minutes * 60 - elapsed()) // seconds))

    last, saved = time.perf_counter(), time.perf_counter()
    losses: list[Tensor] = []
    stopping = False
    while progress.done < progress.total and not stopping:
        one(progress.total)
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
            speed = len(losses) * config.batch * world / (now - last)
            report(
                {
                    "step": progress.done,
                    "of": progress.total,
                    "loss": mean,
                    **dict(zip(("colours", "depth", "coverage", "albedo"), parts, strict=False)),
                    "samples_per_s": speed,
                    "gradient": float(optimiser.gradient_norm),
                }
            )
            if not math.isfinite(mean):
                raise FloatingPointError(f"the loss became {mean} at step {progress.done}; lower muon_rate")
            losses.clear()
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
