"""A network with its schedule: the training loss of noisy grids, and the clean grid it sees in them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor

from voxel_diffusion.network import VoxelUNet
from voxel_diffusion.schedule import VoxelSchedule


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
        return self.signal[t][:, None, None, None, None] * x0 + self.noise_level[t][:, None, None, None, None] * noise

    def losses(self, x0: Tensor, t: Tensor, noise: Tensor, network: Callable | None = None) -> Tensor:
        """Mean squared error [B] of the prediction (of x0 or of the noise, as the network's config says) at levels t [B].

        `network` replaces the module by a compiled form of it.
        """
        noisy = self.add_noise(x0, noise, t)
        if self.channels_last:
            noisy = noisy.contiguous(memory_format=torch.channels_last_3d)
        with self._autocast():
            predicted = (network or self.network)(noisy, t)
        target = noise if self.network.config.predict == "eps" else x0
        return (predicted.float() - target).square().mean(dim=(1, 2, 3, 4))

    @torch.no_grad()
    def predict_x0(self, sample: Tensor, t: int) -> Tensor:
        """The clean grids, in -1..1, that the network sees in samples [B,1,n,n,n] at level t."""
        with self._autocast():
            predicted = self.network(sample, torch.full((len(sample),), t, device=sample.device)).float()
        if self.network.config.predict == "eps":
            predicted = self.schedule.predict_x0(sample, predicted, t)
        return predicted.clamp(-1, 1)

    @torch.no_grad()
    def level_losses(self, grids: Tensor, levels: list[int], batch: int = 16, seed: int = 0) -> Tensor:
        """Mean loss [len(levels)] over `grids` [N,n,n,n] at each level, with the same noise at every call.

        Grids and levels are crossed and cut into batches, so that few levels or few grids both fill them.
        """
        generator = torch.Generator(self.device).manual_seed(seed)
        pairs = torch.cartesian_prod(torch.arange(len(levels)), torch.arange(len(grids)))
        chosen = torch.tensor(levels)
        sums = torch.zeros(len(levels), device=self.device)
        for part in pairs.split(batch):
            x0 = to_signed(grids[part[:, 1].to(grids.device)].to(self.device))
            noise = torch.randn(x0.shape, generator=generator, device=self.device)
            own = part[:, 0].to(self.device)
            sums.index_add_(0, own, self.losses(x0, chosen[part[:, 0]].to(self.device), noise))
        return sums / len(grids)
