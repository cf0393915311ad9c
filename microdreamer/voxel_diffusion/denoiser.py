"""A network with its schedule: the training loss of noisy grids, and the clean grid it sees in them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor

from microdreamer.voxel_diffusion.network import VoxelUNet
from microdreamer.voxel_diffusion.schedule import VoxelSchedule


def to_signed(grids: Tensor) -> Tensor:
    """Grids [B,n,n,n] of 0..1 as [B,1,n,n,n] float32 of -1..1, which the network works on."""
    return grids[:, None].float() * 2 - 1


def to_unit(grids: Tensor) -> Tensor:
    """The inverse: [B,1,n,n,n] of -1..1, clamped, as [B,n,n,n] of 0..1."""
    return (grids[:, 0].float().clamp(-1, 1) + 1) / 2


class Denoiser:
    """`network` on the levels of `schedule`; `bf16` runs it under autocast, `channels_last` keeps voxels' channels side by side."""

    def __init__(self, network: VoxelUNet, schedule: VoxelSchedule, bf16: bool = False, channels_last: bool = False) -> None:
        if network.config.timesteps != schedule.timesteps:
            raise ValueError(f"the network was made for T={network.config.timesteps}, the schedule has T={schedule.timesteps}")
        self.network, self.schedule, self.bf16, self.channels_last = network, schedule, bf16, channels_last
        self.device = next(network.parameters()).device
        if channels_last:
            network.to(memory_format=torch.channels_last_3d)
        self.signal, self.noise_level = schedule.coefficients(self.device)

    def _autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Grids [B,1,n,n,n] taken to the levels t [B]."""
        signal, noise_level = self._levels(t)
        return signal * x0 + noise_level * noise

    def losses(self, x0: Tensor, t: Tensor, noise: Tensor, network: Callable | None = None) -> Tensor:
        """Mean squared error [B] of the prediction (of what the network's config says) at levels t [B].

        `network` replaces the module by a compiled form of it.
        """
        predicted = self._predict(self.add_noise(x0, noise, t), t, self.network if network is None else network)
        return (predicted - self._target(x0, noise, t)).square().mean(dim=(1, 2, 3, 4))

    def _predict(self, noisy: Tensor, t: Tensor, network: Callable) -> Tensor:
        """The network's output in float32, so that nothing after it is rounded to bfloat16."""
        if self.channels_last:
            noisy = noisy.contiguous(memory_format=torch.channels_last_3d)
        with self._autocast():
            predicted = network(noisy, t)
        return predicted.float()

    def _levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(a) and sqrt(1 - a) of levels t [B], shaped to multiply grids."""
        return self.signal[t][:, None, None, None, None], self.noise_level[t][:, None, None, None, None]

    def _target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should answer: x0, the noise, or v = sqrt(a) noise - sqrt(1 - a) x0 (Salimans and Ho 2022)."""
        if self.network.config.predict == "v":
            signal, noise_level = self._levels(t)
            return signal * noise - noise_level * x0
        return noise if self.network.config.predict == "eps" else x0

    @torch.no_grad()
    def predict_x0(self, sample: Tensor, t: int | Tensor) -> Tensor:
        """The clean grids, in -1..1, that the network sees in samples [B,1,n,n,n] at level t, or at a level t [B] each."""
        if isinstance(t, int):
            t = torch.full((len(sample),), t, device=sample.device)
        predicted = self._predict(sample, t, self.network)
        signal, noise_level = self._levels(t)
        if self.network.config.predict == "v":
            predicted = signal * sample - noise_level * predicted
        elif self.network.config.predict == "eps":
            predicted = (sample - noise_level * predicted) / signal
        return predicted.clamp(-1, 1)

    @torch.no_grad()
    def level_losses(self, grids: Tensor, levels: list[int], batch: int = 16, seed: int = 0) -> Tensor:
        """Mean squared error [len(levels)] of the clean grids predicted for `grids` [N,n,n,n] at each level, in the scale of -1..1.

        It compares networks whatever they predict. The noise is the same at every call. Grids and levels are crossed and cut into
        batches, so that few levels or few grids both fill them.
        """
        generator = torch.Generator(self.device).manual_seed(seed)
        pairs = torch.cartesian_prod(torch.arange(len(levels)), torch.arange(len(grids)))
        chosen = torch.tensor(levels)
        sums = torch.zeros(len(levels), device=self.device)
        for part in pairs.split(batch):
            x0 = to_signed(grids[part[:, 1].to(grids.device)].to(self.device))
            noise = torch.randn(x0.shape, generator=generator, device=self.device)
            t = chosen[part[:, 0]].to(self.device)
            errors = (self.predict_x0(self.add_noise(x0, noise, t), t) - x0).square().mean(dim=(1, 2, 3, 4))
            sums.index_add_(0, part[:, 0].to(self.device), errors)
        return sums / len(grids)
