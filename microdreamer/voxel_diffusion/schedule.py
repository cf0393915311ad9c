"""The forward process of T steps and its reverse steps; one object serves training, sampling and tests."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from microdreamer.guidance.schedule import NoiseSchedule

KINDS = ("linear", "cosine")
MAX_BETA = 0.999  # of the cosine schedule (Nichol and Dhariwal 2021, section 3.2)


def shift_for(size: int) -> float:
    """The log-SNR shift for grids of that many voxels a side: as many times more noise as there are more voxels than in 16^3.

    The mean of a grid is then hidden as well at the last level; without it a sampler, which starts from noise alone, starts from
    something the network was never shown.
    """
    return -3 * math.log(size / 16)


class VoxelSchedule(NoiseSchedule):
    """x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e for t = 0 .. T-1, with a_t the cumulative product of 1 - beta; `a_-1` is 1."""

    @classmethod
    def make(cls, kind: str = "linear", timesteps: int = 1000, log_snr_shift: float = 0.0) -> VoxelSchedule:
        """`linear`: betas that grow linearly in time from 0.1/T to 20/T, in the continuous form of Song et al. (2021, equation 32).

        At T = 1000 those are DDPM's 1e-4 to 0.02, and unlike them they also reach noise at T = 10. `cosine`: Nichol and
        Dhariwal (2021, equation 17). `log_snr_shift` is added to log(a / (1 - a)) of all levels: a large grid of large solids
        shows its shape through noise that hides a small picture (Hoogeboom et al. 2023, section 2.2), so shifts below 0 pay there.
        Raises ValueError for an unknown kind or T < 2.
        """
        if kind not in KINDS:
            raise ValueError(f"schedule={kind}: expected one of {', '.join(KINDS)}")
        if timesteps < 2:
            raise ValueError(f"T={timesteps}: expected at least 2 timesteps")
        time = np.arange(timesteps + 1) / timesteps
        if kind == "linear":
            alphas = np.exp(-(0.1 * time + 0.5 * (20 - 0.1) * time**2))[1:]
        else:
            level = np.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
            alphas = np.cumprod(1 - np.minimum(1 - level[1:] / level[:-1], MAX_BETA))
        alphas = 1 / (1 + (1 - alphas) / alphas * math.exp(-log_snr_shift))
        return cls(torch.from_numpy(alphas), 1.0, "trailing")

    @property
    def betas(self) -> Tensor:
        """1 - a_t / a_{t-1}, [T] float64."""
        return 1 - self.alphas_cumprod / torch.cat([self.alphas_cumprod.new_ones(1), self.alphas_cumprod[:-1]])

    def levels(self, steps: int) -> list[int]:
        """Levels of a sampler of `steps` steps, ascending and ending at T-1. Raises ValueError unless 1 <= steps <= T."""
        if not 1 <= steps <= self.timesteps:
            raise ValueError(f"steps={steps}: expected 1 to T={self.timesteps}")
        return [round((i + 1) * self.timesteps / steps) - 1 for i in range(steps)]

    def coefficients(self, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """sqrt(a_t) and sqrt(1 - a_t), each [T] float32 on `device`, to be indexed by a batch of t."""
        return tuple(c.float().to(device) for c in (self.alphas_cumprod.sqrt(), (1 - self.alphas_cumprod).sqrt()))

    def predict_noise(self, sample: Tensor, x0: Tensor, t: int) -> Tensor:
        """The noise that `sample` at level t holds if x0 is the clean sample."""
        alpha = self.alpha(t)
        return (sample - math.sqrt(alpha) * x0) / math.sqrt(1 - alpha)

    def posterior(self, sample: Tensor, x0: Tensor, t: int, t_next: int) -> tuple[Tensor, float]:
        """Mean and variance of q(x_{t_next} | x_t, x_0) for any t_next < t (Ho et al. 2020, equation 7, between any two levels)."""
        if not t_next < t:
            raise ValueError(f"level {t} to {t_next}: the posterior is of a lower level")
        a, a_next = self.alpha(t), self.alpha(t_next)
        beta = 1 - a / a_next
        mean = math.sqrt(a_next) * beta / (1 - a) * x0 + math.sqrt(a / a_next) * (1 - a_next) / (1 - a) * sample
        return mean, beta * (1 - a_next) / (1 - a)

    @property
    def signal_slope(self) -> Tensor:
        """d sqrt(1 - a) / ds at every t, with s = t / T: how fast the noise grows, [T] float64."""
        return self._slope((1 - self.alphas_cumprod).sqrt())

    @property
    def variance_slope(self) -> Tensor:
        """d (1 - a) / ds at every t, [T] float64."""
        return self._slope(1 - self.alphas_cumprod)

    def _slope(self, values: Tensor) -> Tensor:
        return torch.gradient(values)[0] * self.timesteps
