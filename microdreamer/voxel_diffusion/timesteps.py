"""Which timesteps to train on: five strategies, each a law over t and a weight for the loss at t.

All of them draw t from `probabilities` [T] and multiply the loss at t by `weights` [T]; they differ in where the two come from.
Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from microdreamer.voxel_diffusion.schedule import VoxelSchedule

NAMES = ("uniform", "adaptive", "fixed", "importance", "speed")
Measure = Callable[[Tensor, list[int]], Tensor]  # grids of 0..1, timesteps -> gradient norm of the loss at each


class TimestepSampler:
    """`uniform`: t ~ U{0..T-1}, weight 1. The base of the other strategies."""

    name = "uniform"

    def __init__(self, timesteps: int, device: torch.device | str = "cpu") -> None:
        self.timesteps = timesteps
        self.probabilities = torch.full((timesteps,), 1 / timesteps, device=device)
        self.weights = torch.ones(timesteps, device=device)

    def prepare(self, step: int, grids: Tensor, measure: Measure) -> None:
        """Called before step number `step` with its batch [B,n,n,n]."""

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """t [count] int64 and the weights [count] of their losses."""
        t = torch.multinomial(self.probabilities, count, replacement=True)
        return t, self.weights[t]

    def observe(self, t: Tensor, losses: Tensor) -> None:
        """Called after a step with the unweighted losses [B] seen at t [B]."""

    @property
    def trained(self) -> list[int]:
        """The timesteps that are drawn at present, ascending."""
        return torch.nonzero(self.probabilities > 0)[:, 0].tolist()

    def state_dict(self) -> dict[str, Tensor]:
        return {"probabilities": self.probabilities, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, tensor in self.state_dict().items():
            if name not in state or state[name].shape != tensor.shape:
                raise ValueError(f"timesteps={self.name}: the stored state is of another strategy")
            tensor.copy_(state[name])


class TopK(TimestepSampler):
    """The K timesteps of the largest gradient norm, evenly; the rest is never trained on."""

    def __init__(self, timesteps: int, top: int, device: torch.device | str = "cpu") -> None:
        super().__init__(timesteps, device)
        if not 1 <= top <= timesteps:
            raise ValueError(f"top={top}: expected 1 to T={timesteps} timesteps")
        self.top = top

    def choose(self, norms: Tensor) -> None:
        """Train on the largest of `norms` [T]."""
        largest = norms.topk(self.top).indices
        self.probabilities.zero_().scatter_(0, largest, 1 / self.top)


class Fixed(TopK):
    """`fixed`: top K of norms [T] measured once, before training."""

    name = "fixed"

    def __init__(self, norms: Tensor, top: int, device: torch.device | str = "cpu") -> None:
        super().__init__(len(norms), top, device)
        self.choose(norms.to(device))


class Adaptive(TopK):
    """`adaptive`: top K of norms measured on the batch itself, before each `every`-th step.

    A measurement costs one backward pass of `probe` grids of the batch (0: all) for each of `levels` timesteps (0: all T;
    fewer are spread evenly, and the norms between them interpolated). At every=1, probe=0, levels=0 that is T passes a step.
    """

    name = "adaptive"

    def __init__(
        self, timesteps: int, top: int, every: int = 1, probe: int = 0, levels: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(timesteps, top, device)
        if every < 1 or probe < 0 or not (levels == 0 or 2 <= levels <= timesteps):
            raise ValueError(
                f"every={every}, probe={probe}, levels={levels}: expected every >= 1, probe >= 0, levels 0 or 2 to T={timesteps}"
            )
        self.every, self.probe = every, probe
        self.measured = torch.linspace(0, timesteps - 1, levels or timesteps).round().long().tolist()
        self.passes = 0  # backward passes spent on measuring

    def prepare(self, step: int, grids: Tensor, measure: Measure) -> None:
        if step % self.every:
            return
        norms = measure(grids[: self.probe or None], self.measured)
        self.passes += len(self.measured)
        self.choose(interpolate(norms, self.measured, self.timesteps))


class Importance(TimestepSampler):
    """`importance`: t in proportion to a running estimate of the gradient norm, weight 1 / (T p), so that the mean is unbiased.

    The norm of a squared error's gradient by the prediction is 2 sqrt(loss / n), so the root of the mean loss seen at t is an
    estimate that costs nothing (compare Katharopoulos and Fleuret 2018; Nichol and Dhariwal 2021, equation 18). It is kept for
    up to `bins` ranges of t; a share `floor` of draws stays uniform, which bounds the weights by 1 / floor.
    """

    name = "importance"

    def __init__(self, timesteps: int, device: torch.device | str = "cpu", bins: int = 100, decay: float = 0.9, floor: float = 0.1) -> None:
        super().__init__(timesteps, device)
        self.bins, self.decay, self.floor = min(bins, timesteps), decay, floor
        self.bin_of = torch.arange(timesteps, device=device) * self.bins // timesteps
        self.sums = torch.zeros(self.bins, device=device)  # decayed mean losses, times `mass`
        self.mass = torch.zeros(self.bins, device=device)  # how much of the mean is made of losses seen, 0..1

    def observe(self, t: Tensor, losses: Tensor) -> None:
        own = self.bin_of[t]
        zeros = torch.zeros_like(self.sums)
        counts = zeros.index_add(0, own, torch.ones_like(losses))
        means = zeros.index_add(0, own, losses) / counts.clamp_min(1)
        kept = self.decay**counts
        self.sums.mul_(kept).add_(means * (1 - kept))
        self.mass.mul_(kept).add_(1 - kept)
        seen = self.mass > 0
        norms = (self.sums / self.mass.clamp_min(1e-12)).sqrt()
        mean = (norms * seen).sum() / seen.sum().clamp_min(1)
        each = torch.where(seen, norms, mean)[self.bin_of]
        each = each / each.sum().clamp_min(1e-30)
        self.probabilities.copy_((1 - self.floor) * each + self.floor / self.timesteps)
        self.probabilities.div_(self.probabilities.sum())
        self.weights.copy_(1 / (self.timesteps * self.probabilities))

    def state_dict(self) -> dict[str, Tensor]:
        return super().state_dict() | {"sums": self.sums, "mass": self.mass}


class Speed(TimestepSampler):
    """`speed`: the law and the weights of SpeeD (Wang et al. 2024, arXiv 2405.17403), both fixed by the schedule.

    With v(s) = sqrt(1 - a) over time s = t / T, the slope of v rises in the acceleration area, falls in the deceleration area, and
    is below CONVERGED in the convergence area, whose timesteps are drawn RARER times less often. Weights grow with the slope of 1 - a,
    from 1 - CEILING to CEILING, and are scaled to a mean of 1 over the draws.
    """

    name = "speed"
    CONVERGED = 0.1  # per unit of s: 1e-4 a step at T = 1000
    RARER = 5.0
    CEILING = 0.6

    def __init__(self, schedule: VoxelSchedule, device: torch.device | str = "cpu") -> None:
        super().__init__(schedule.timesteps, device)
        areas = self.areas(schedule)
        law = torch.where(areas == 2, 1.0, self.RARER).double()
        law /= law.sum()
        slope = schedule.variance_slope.clamp_min(0)
        weights = 1 - self.CEILING + (2 * self.CEILING - 1) * slope / slope.max()
        self.probabilities.copy_(law)
        self.weights.copy_(weights / (law * weights).sum())

    @classmethod
    def areas(cls, schedule: VoxelSchedule) -> Tensor:
        """0 (acceleration), 1 (deceleration) or 2 (convergence) for every t."""
        slope = schedule.signal_slope
        after_peak = torch.arange(len(slope)) > int(slope.argmax())
        return torch.where(after_peak, torch.where(slope < cls.CONVERGED, 2, 1), 0)


def interpolate(values: Tensor, at: list[int], timesteps: int) -> Tensor:
    """values [L] known at the ascending timesteps `at`, linear in between: [timesteps]."""
    if len(at) == timesteps:
        return values
    places = torch.tensor(at, device=values.device)
    t = torch.arange(timesteps, device=values.device)
    right = torch.searchsorted(places, t).clamp(1, len(at) - 1)
    left = right - 1
    share = (t - places[left]) / (places[right] - places[left])
    return torch.lerp(values[left], values[right], share.clamp(0, 1).to(values.dtype))


def make_sampler(
    name: str,
    schedule: VoxelSchedule,
    device: torch.device | str = "cpu",
    top: int = 0,
    every: int = 1,
    probe: int = 0,
    levels: int = 0,
    norms: Tensor | None = None,
) -> TimestepSampler:
    """The strategy called `name`. `top`: K of the top-K ones (0: half of T); `norms` [T]: what `fixed` chooses by.

    Raises ValueError for an unknown name, K > T, or norms that are missing or of another T.
    """
    timesteps = schedule.timesteps
    top = top or max(1, timesteps // 2)
    if name == "uniform":
        return TimestepSampler(timesteps, device)
    if name == "adaptive":
        return Adaptive(timesteps, top, every, probe, levels, device)
    if name == "fixed":
        if norms is None or len(norms) != timesteps:
            got = "none" if norms is None else f"those of T={len(norms)}"
            raise ValueError(f"timesteps=fixed: needs the importance of all T={timesteps} timesteps, got {got}")
        return Fixed(norms, top, device)
    if name == "importance":
        return Importance(timesteps, device)
    if name == "speed":
        return Speed(schedule, device)
    raise ValueError(f"timesteps={name}: expected one of {', '.join(NAMES)}")
