"""The noise schedule of a diffusion model, and one DDIM step between any two of its levels.

`alpha(t)` is the cumulative alpha: a sample at level t is `sqrt(alpha) x0 + sqrt(1 - alpha) noise`. Level -1 (and any below 0)
is the end of sampling, whose alpha is `final_alpha`.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

SPACINGS = ("leading", "trailing")


def cosine_log_snr(s: Tensor, shift: float) -> Tensor:
    """Log signal-to-noise ratio at times s in (0, 1), in which it falls: see `NoiseSchedule.shifted_cosine`."""
    return -2 * torch.log(torch.tan(0.5 * math.pi * s)) + shift


def cosine_time(log_snr: float, shift: float) -> float:
    """The time s in (0, 1) at which `cosine_log_snr` is `log_snr`."""
    return 2 / math.pi * math.atan(math.exp((shift - log_snr) / 2))


@dataclasses.dataclass(frozen=True)
class NoiseSchedule:
    """Cumulative alphas of T levels, falling in t, and how a sampler of N steps picks its levels among them.

    alphas_cumprod [T], kept in float64; final_alpha in (0, 1]; spacing: `leading` takes 1, 1 + T//N, 1 + 2 (T//N), ... (so the
    first step of sampling starts below the last level), `trailing` takes every T/N-th level counted down from T - 1.
    Raises ValueError for alphas outside (0, 1) or not falling.
    """

    alphas_cumprod: Tensor
    final_alpha: float
    spacing: str = "leading"

    def __post_init__(self) -> None:
        alphas = torch.as_tensor(self.alphas_cumprod).double().cpu()
        if alphas.ndim != 1 or len(alphas) < 2 or bool((alphas <= 0).any()) or bool((alphas >= 1).any()) or bool((alphas.diff() > 0).any()):
            raise ValueError(f"alphas_cumprod {tuple(alphas.shape)}: expected at least two values in (0, 1), none above the one before")
        if not 0 < self.final_alpha <= 1:
            raise ValueError(f"final_alpha={self.final_alpha}: expected a value in (0, 1]")
        if self.spacing not in SPACINGS:
            raise ValueError(f"spacing={self.spacing!r}: expected one of {', '.join(SPACINGS)}")
        object.__setattr__(self, "alphas_cumprod", alphas)
        object.__setattr__(self, "_alphas", tuple(alphas.tolist()))

    @classmethod
    def scaled_linear(cls, timesteps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> NoiseSchedule:
        """Stable Diffusion's schedule: sqrt(beta) linear in t; sampling ends at the first alpha, not at 1."""
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, timesteps, dtype=torch.float64) ** 2
        alphas = torch.cumprod(1 - betas, dim=0)
        return cls(alphas, float(alphas[0]))

    @classmethod
    def shifted_cosine(
        cls, log_snr_shift: float = -4.0, min_log_snr: float = -14.0, max_log_snr: float = 14.0, timesteps: int = 1000
    ) -> NoiseSchedule:
        """Cosine schedule with its log signal-to-noise ratio moved: -2 log tan(pi s / 2) + shift, between the two ends.

        The T levels lie evenly in s, from s(max_log_snr) at level 0 to s(min_log_snr) at level T - 1. (The shift is the one
        that small pictures need less of and large ones more: Hoogeboom et al. 2023, simple diffusion, section 2.2.)
        Sampling starts at the last level, which holds next to no signal, and ends at the clean sample.
        """
        ends = [cosine_time(end, log_snr_shift) for end in (max_log_snr, min_log_snr)]
        s = torch.linspace(*ends, timesteps, dtype=torch.float64)
        return cls(torch.sigmoid(cosine_log_snr(s, log_snr_shift)), 1.0, "trailing")

    @property
    def timesteps(self) -> int:
        """Number of levels T."""
        return len(self.alphas_cumprod)

    def alpha(self, t: int) -> float:
        """Cumulative alpha of level t < T; `final_alpha` below 0."""
        if t >= self.timesteps:
            raise ValueError(f"level {t}: this schedule has levels 0 to {self.timesteps - 1}")
        return self._alphas[t] if t >= 0 else self.final_alpha

    def log_snr(self, t: int) -> float:
        """log(alpha / (1 - alpha)) of level t; infinite where alpha is 1."""
        alpha = self.alpha(t)
        return math.log(alpha / (1 - alpha)) if alpha < 1 else math.inf

    def levels(self, steps: int) -> list[int]:
        """The N levels of a sampler of N = `steps` steps, ascending. Raises ValueError unless 1 <= N < T."""
        if not 1 <= steps < self.timesteps:
            raise ValueError(f"{steps} denoising steps: expected 1 to {self.timesteps - 1}")
        if self.spacing == "leading":
            return [1 + i * (self.timesteps // steps) for i in range(steps)]
        return [round((i + 1) * self.timesteps / steps) - 1 for i in range(steps)]

    def add_noise(self, x0: Tensor, noise: Tensor, t: int) -> Tensor:
        """The clean sample x0 taken to level t with the given standard normal noise."""
        alpha = self.alpha(t)
        return math.sqrt(alpha) * x0 + math.sqrt(1 - alpha) * noise

    def predict_x0(self, sample: Tensor, noise: Tensor, t: int) -> Tensor:
        """The clean sample that `noise`, the predicted noise at level t, implies."""
        alpha = self.alpha(t)
        return (sample - math.sqrt(1 - alpha) * noise) / math.sqrt(alpha)

    def sigma(self, t: int, t_next: int, eta: float) -> float:
        """Standard deviation of the fresh noise of a step from t down to t_next (Song et al. 2021, DDIM, equation 16)."""
        a, a_next = self.alpha(t), self.alpha(t_next)
        return eta * math.sqrt((1 - a_next) / (1 - a) * (1 - a / a_next))

    def step(self, sample: Tensor, noise: Tensor, t: int, t_next: int, eta: float = 0.0, fresh_noise: Tensor | None = None) -> Tensor:
        """One DDIM step of `sample` from level t to level t_next, with `noise` predicted at t (Song et al. 2021, equation 12).

        t_next below t denoises; above t it is DDIM inversion, which is the same formula without fresh noise. eta 0 is
        deterministic, 1 is ancestral; for eta > 0 `fresh_noise` is a standard normal tensor of the sample's shape.
        Raises ValueError for eta outside [0, 1], eta > 0 upwards or without fresh noise.
        """
        if not 0 <= eta <= 1:
            raise ValueError(f"eta={eta}: expected 0 (deterministic) to 1 (ancestral)")
        a_next = self.alpha(t_next)
        moved = self.predict_x0(sample, noise, t) * math.sqrt(a_next)
        if eta == 0:
            return moved + math.sqrt(1 - a_next) * noise
        if t_next > t:
            raise ValueError(f"eta={eta} from level {t} up to {t_next}: inversion is deterministic, use eta=0")
        if fresh_noise is None:
            raise ValueError(f"eta={eta} needs fresh_noise, a standard normal tensor shaped like the sample")
        sigma = self.sigma(t, t_next, eta)
        return moved + math.sqrt(max(1 - a_next - sigma**2, 0.0)) * noise + sigma * fresh_noise
