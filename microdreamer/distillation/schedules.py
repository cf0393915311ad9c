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

STEPS_SCHEDULES = ("fixed", "linear", "linear_up", "linear_down", "cosine_up", "cosine_down", "cosine_up_then_down")


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
    """Optimiser steps of the round that begins when the share `progress` in [0,1) of the rounds is done; `fixed` is steps_max.

    The others go from one of steps_min and steps_max towards the other, whichever is larger, and are cut to whole steps.
    `linear` (also `linear_up`), `cosine_up`, `cosine_down` and `cosine_up_then_down` are the published code's expressions, in
    their order: where one comes out a rounding below a whole number, a step is lost. `linear_down` is `linear` with its ends
    exchanged. Raises ValueError for an unknown schedule.
    """
    if schedule not in STEPS_SCHEDULES:
        raise ValueError(f"steps_schedule={schedule}: expected one of {', '.join(STEPS_SCHEDULES)}")
    if schedule == "fixed":
        return steps_max
    if schedule == "linear_down":
        return optimiser_steps("linear", progress, steps_max, steps_min)
    share = {
        "linear": progress,
        "linear_up": progress,
        "cosine_up": (1 - math.cos(progress * math.pi)) / 2,
        "cosine_down": (1 + math.cos(progress * math.pi)) / 2,
        "cosine_up_then_down": (1 - math.cos(progress * 2 * math.pi)) / 2,
    }[schedule]
    return int(share * (steps_max - steps_min) + steps_min)


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
    steps_schedule: str = STEPS_SCHEDULES[0],
) -> list[Round]:
    """The `total_steps` rounds of a run, the first of which starts from pure noise.

    t_start, t_end in [0,1]: fractions of the noise schedule's levels where denoising starts in the first and (nearly) in
    the last round; inv_r in (0,1]: t1 as a fraction of t2 (1: noise only, no inversion). `init_steps` are the optimiser steps
    of the first round, `steps_min`, `steps_max` and `steps_schedule` those of the others (see `optimiser_steps`). Raises
    ValueError for values out of range.
    """
    if total_steps < 1:
        raise ValueError(f"total_steps={total_steps}: expected at least 1")
    if not 0 <= t_end <= t_start <= 1:
        raise ValueError(f"t_start={t_start}, t_end={t_end}: expected 0 <= t_end <= t_start <= 1")
    if not 0 < inv_r <= 1:
        raise ValueError(f"inv_r={inv_r}: expected a fraction in (0, 1]")
    if min(init_steps, steps_min, steps_max) < 1:
        raise ValueError(f"init_steps={init_steps}, steps_min={steps_min}, steps_max={steps_max}: expected at least 1 each")
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
        count = optimiser_steps(steps_schedule, k / repeats, steps_min, steps_max)
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
