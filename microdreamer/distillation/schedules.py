"""When score-based iterative reconstruction does what: noise levels, optimiser steps and density control of every round.

Wu et al. 2024, MicroDreamer (arXiv 2404.19525), section 4, in the arithmetic of its published code.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from microdreamer.guidance.schedule import NoiseSchedule

STEPS_SCHEDULES = ("fixed", "linear_up", "linear_down", "cosine_up", "cosine_down")


@dataclasses.dataclass(frozen=True)
class Round:
    """One round: repair renders by going `noise_level` -> up `inversion` -> down `denoising`, then fit for `steps`.

    inversion rises from the level to which noise is added (t1) to the top (t2); empty in the first round, which starts from
    pure noise. denoising falls from t2 to the end of the grid. steps holds the global numbers of its optimiser steps: the
    global count also advances by one at the start of each round, as the learning-rate schedules of the method expect.
    """

    index: int
    inversion: tuple[int, ...]
    denoising: tuple[int, ...]
    steps: range

    @property
    def starts_from_noise(self) -> bool:
        return not self.inversion

    @property
    def network_calls(self) -> int:
        """Calls of the prior: one per inversion step (one branch) and one per denoising step (two when guided)."""
        return max(len(self.inversion) - 1, 0) + len(self.denoising)


def optimiser_steps(schedule: str, progress: float, steps_min: int, steps_max: int) -> int:
    """Optimiser steps of a round at `progress` in [0,1] through the run. Raises ValueError for an unknown schedule."""
    if schedule not in STEPS_SCHEDULES:
        raise ValueError(f"steps_schedule={schedule}: expected one of {', '.join(STEPS_SCHEDULES)}")
    if schedule == "fixed":
        return steps_max
    shape, direction = schedule.split("_")
    share = progress if shape == "linear" else 0.5 * (1 - math.cos(math.pi * progress))
    return round(steps_min + (steps_max - steps_min) * (share if direction == "up" else 1 - share))


def plan_rounds(
    noise_schedule: NoiseSchedule,
    *,
    total_steps: int,
    denoise_steps: int,
    t_start: float,
    t_end: float,
    inv_r: float,
    init_steps: int,
    steps_min: int,
    steps_max: int,
    steps_schedule: str = "fixed",
) -> list[Round]:
    """The `total_steps` rounds of a run, the first of which starts from pure noise.

    t_start, t_end in [0,1]: fractions of the noise schedule's levels where denoising starts in the first and (nearly) in
    the last round; inv_r in (0,1]: t1 as a fraction of t2 (1: noise only, no inversion). Raises ValueError for values
    out of range.
    """
    if total_steps < 1:
        raise ValueError(f"total_steps={total_steps}: expected at least 1")
    if not 0 <= t_end <= t_start <= 1:
        raise ValueError(f"t_start={t_start}, t_end={t_end}: expected 0 <= t_end <= t_start <= 1")
    if not 0 < inv_r <= 1:
        raise ValueError(f"inv_r={inv_r}: expected a fraction in (0, 1]")
    if init_steps < 1 or not 1 <= steps_min <= steps_max:
        raise ValueError(f"init_steps={init_steps}, steps_min={steps_min}, steps_max={steps_max}: expected 1 <= steps_min <= steps_max")
    levels = noise_schedule.levels(denoise_steps)
    rounds = [Round(0, (), tuple(reversed(levels)), range(2, 2 + init_steps))]
    repeats = total_steps - 1
    # Evaluated in double precision in this very order: 20 * (1 - 0.9) is 1.999..., so the published runs start one level higher
    # than exact arithmetic would.
    first, last = denoise_steps * (1 - t_start), denoise_steps * (1 - t_end)
    for k in range(repeats):
        skipped = math.trunc(k / repeats * (last - first) + first)
        top = max(denoise_steps - 1 - skipped, 0)
        bottom = math.trunc(levels[top] / noise_schedule.timesteps * denoise_steps * inv_r)
        count = optimiser_steps(steps_schedule, k / max(repeats - 1, 1), steps_min, steps_max)
        start = rounds[-1].steps.stop + 1
        rounds.append(Round(k + 1, tuple(levels[bottom : top + 1]), tuple(reversed(levels[: top + 1])), range(start, start + count)))
    return rounds


def density_steps(rounds: Sequence[Round], start: int, end: int, interval: int) -> frozenset[int]:
    """Global steps after which Gaussians are grown and pruned: the multiples of `interval` in (start, end].

    A multiple that falls on the count between two rounds is moved to the optimiser step after it.
    """
    if interval < 1:
        raise ValueError(f"densification_interval={interval}: expected at least 1")
    taken = sorted(itertools.chain.from_iterable(r.steps for r in rounds))
    wanted = (multiple for multiple in range(interval, end + 1, interval) if multiple > start)
    return frozenset(next(step for step in taken if step >= multiple) for multiple in wanted if taken and multiple <= taken[-1])
