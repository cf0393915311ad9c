"""Training: AdamW with a running average of the weights, one step after another."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from microdreamer.voxel_diffusion.denoiser import Denoiser, to_signed
from microdreamer.voxel_diffusion.network import NetworkConfig, VoxelUNet
from microdreamer.voxel_diffusion.schedule import VoxelSchedule
from microdreamer.voxel_diffusion.timesteps import TimestepSampler


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """batch: grids a step; rate: of AdamW, reached after `warmup` steps, which falls to zero along half a cosine until step `decay`
    (0: it is kept); clip: of the gradient's norm; ema: decay of the averaged weights, at most; augment: turn and mirror the grids.
    The rest is how, not what: bf16 (autocast), channels_last, checkpointing and compile (torch.compile)."""

    batch: int = 16
    rate: float = 5e-4
    warmup: int = 100
    decay: int = 0
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.9995
    augment: bool = False
    seed: int = 0
    bf16: bool = False
    channels_last: bool = False
    checkpointing: bool = False
    compile: bool = False


# The second moment of a gradient is remembered for about 100 steps. Adam's usual 1000 still holds the large gradients of the start when
# they have become small, and a small one when a large one comes, which is what makes a loss jump.
BETAS = (0.9, 0.99)
MEMORY = 9  # the averaged weights look back over about 1 / MEMORY of the steps so far, up to 1 / (1 - ema) steps


def rate_at(step: int, config: TrainingConfig) -> float:
    """The learning rate of step number `step`, counted from 0."""
    share = min(1.0, (step + 1) / config.warmup)
    if config.decay:
        share *= 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / config.decay))
    return config.rate * share


def average_decay(step: int, config: TrainingConfig) -> float:
    """How much of the average is kept at step number `step`: its memory grows with the run, so that short and long ones both have one."""
    return min(config.ema, (1 + step) / (1 + MEMORY + step))


def turn_and_mirror(grids: Tensor) -> Tensor:
    """Each of the grids [B,n,n,n] by itself turned by a random number of right angles about y, and mirrored in x half of the time.

    The random numbers are those of the grids' device; nothing waits for it.
    """
    swap, flip_x, flip_z = (torch.rand(3, len(grids), 1, 1, 1, device=grids.device) < 0.5).unbind()
    grids = torch.where(swap, grids.transpose(1, 3), grids)
    grids = torch.where(flip_x, grids.flip(1), grids)
    return torch.where(flip_z, grids.flip(3), grids)


class Trainer:
    """Trains a network on `grids` [N,n,n,n] (uint8 or float32, 0..1; on the training device or on the host).

    What a step computes follows from the weights, the optimiser's and the sampler's state, the number of the step and the random
    state alone, all of which `state_dict` holds: a run that is resumed goes on as one that was never stopped.
    """

    def __init__(
        self,
        network: NetworkConfig,
        schedule: VoxelSchedule,
        sampler: TimestepSampler,
        grids: Tensor,
        config: TrainingConfig,
        device: torch.device | str = "cpu",
    ) -> None:
        if len(grids) == 0 or tuple(grids.shape[1:]) != (network.size,) * 3:
            raise ValueError(f"grids {list(grids.shape)}: expected at least one of [{network.size}, {network.size}, {network.size}]")
        self.device, self.config, self.sampler, self.grids = torch.device(device), config, sampler, grids
        torch.manual_seed(config.seed)
        module = VoxelUNet(network, config.checkpointing).to(self.device)
        self.denoiser = Denoiser(module, schedule, config.bf16, config.channels_last)
        self.call = torch.compile(module, dynamic=False) if config.compile else module
        self.parameters = list(module.parameters())
        self.average = [p.detach().clone() for p in self.parameters]
        self.optimizer = torch.optim.AdamW(self.parameters, betas=BETAS, weight_decay=config.weight_decay, fused=self.device.type == "cuda")
        self.steps = 0
        self._x = torch.zeros(config.batch, *grids.shape[1:], dtype=grids.dtype, device=self.device)
        self._t = torch.zeros(config.batch, dtype=torch.int64, device=self.device)
        self._weight = torch.ones(config.batch, device=self.device)
        self._losses = torch.zeros(config.batch, device=self.device)
        self._average_share = torch.zeros((), device=self.device)

    def restart(self, sampler: TimestepSampler, config: TrainingConfig | None = None) -> None:
        """Back to the first step, with another sampler and, if given, another rate, decay or seed; what was compiled stays in use."""
        self.config = config or self.config
        torch.manual_seed(self.config.seed)
        fresh = VoxelUNet(self.denoiser.network.config).to(self.device)
        with torch.no_grad():
            for p, average, value in zip(self.parameters, self.average, fresh.parameters(), strict=True):
                p.copy_(value)
                average.copy_(value)
                for tensor in self.optimizer.state[p].values():
                    tensor.zero_()
        self.sampler, self.steps = sampler, 0

    def step(self) -> Tensor:
        """One optimiser step; the unweighted losses [B] as they were before it (a buffer that the next step overwrites)."""
        rate = rate_at(self.steps, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._average_share.fill_(1 - average_decay(self.steps, self.config))
        chosen = torch.randint(len(self.grids), (self.config.batch,), device=self.grids.device)
        self._x.copy_(self.grids[chosen], non_blocking=True)
        if self.config.augment:
            self._x.copy_(turn_and_mirror(self._x))
        self.sampler.prepare(self.steps, self._x, self.gradient_norms)
        t, weight = self.sampler.draw(self.config.batch)
        self._t.copy_(t)
        self._weight.copy_(weight)
        self._compute()
        self.sampler.observe(self._t, self._losses)
        self.steps += 1
        return self._losses

    def _compute(self) -> None:
        x0 = to_signed(self._x)
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.denoiser.losses(x0, self._t, torch.randn_like(x0), self.call)
        (self._weight * losses).mean().backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip, foreach=True)
        self.optimizer.step()
        with torch.no_grad():
            change = torch._foreach_sub(self.parameters, self.average)
            torch._foreach_mul_(change, self._average_share)
            torch._foreach_add_(self.average, change)
            self._losses.copy_(losses.detach())

    def gradient_norms(self, grids: Tensor, timesteps: list[int]) -> Tensor:
        """Norm of the loss's gradient by all weights at each of the timesteps, over a batch [B,n,n,n] with one draw of noise."""
        x0 = to_signed(grids)
        noise = torch.randn_like(x0)
        norms = []
        for t in timesteps:
            loss = self.denoiser.losses(x0, torch.full((len(x0),), t, device=x0.device), noise).mean()
            gradients = torch.autograd.grad(loss, self.parameters)
            norms.append(torch.stack(torch._foreach_norm(gradients)).norm())
        return torch.stack(norms)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[Denoiser]:
        """The denoiser with the averaged weights in place of the trained ones, for the time of the block."""
        with torch.no_grad():
            kept = [p.clone() for p in self.parameters]
            torch._foreach_copy_(self.parameters, self.average)
        try:
            yield self.denoiser
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, kept)

    def state_dict(self) -> dict:
        """Everything that the following steps depend on."""
        names = [name for name, _ in self.denoiser.network.named_parameters()]
        random_state = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random_state["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "weights": dict(zip(names, (p.detach() for p in self.parameters), strict=True)),
            "average": dict(zip(names, self.average, strict=True)),
            "optimizer": self.optimizer.state_dict(),
            "sampler": self.sampler.state_dict(),
            "steps": self.steps,
            "random": random_state,
        }

    def load_state_dict(self, state: dict) -> None:
        """Goes on from `state_dict()`; the next step follows the one after which it was taken."""
        self.denoiser.network.load_state_dict(state["weights"])
        with torch.no_grad():
            for (name, _), tensor in zip(self.denoiser.network.named_parameters(), self.average, strict=True):
                tensor.copy_(state["average"][name])
        # The groups' options (rate and how the step is run) are this run's; the stored state may come from another device.
        kept = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, options in zip(self.optimizer.param_groups, kept, strict=True):
            group.update(options)
        on_gpu = self.device.type == "cuda"
        for own in self.optimizer.state.values():
            own["step"] = own["step"].to(self.device if on_gpu else "cpu")
        self.sampler.load_state_dict(state["sampler"])
        self.steps = state["steps"]
        torch.set_rng_state(state["random"]["cpu"].cpu())
        if self.device.type == "cuda" and "cuda" in state["random"]:
            torch.cuda.set_rng_state(state["random"]["cuda"].cpu(), self.device)
