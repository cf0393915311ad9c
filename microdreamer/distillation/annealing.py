"""Numbers that change during a run, written down as data: weights of losses, noise levels, resolutions.

A schedule is a number, or a list `[start_step, start, end, end_step]`: from `start` to `end` between the two steps, constant outside.
Without `start_step` it begins at 0; further pairs `value, step` add pieces. Steps count optimiser steps where they are integers and
epochs where they are floats: `8000.0` is an epoch. (The format of threestudio's configurations.)

How a piece runs is `linear` unless a mapping says otherwise: `{anneal: sqrt, points: [0, 0.98, 0.5, 8000]}`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

Schedule = float | Sequence[float] | Mapping[str, object]

# Share of the way from a piece's first value to its last, from the share p of its steps. `sqrt` leaves high noise levels fast and takes
# its time at low ones (Zhu et al. 2023, HiFA, arXiv 2305.18766, section 3.2). `step` waits for the end; `exp` is apart, below.
_SHARES = {"linear": lambda p: p, "sqrt": math.sqrt, "step": lambda p: float(p >= 1)}
ANNEALS = (*_SHARES, "exp")


def value(schedule: Schedule, step: int, epoch: int = 0) -> float:
    """The number that `schedule` has at optimiser step `step` of epoch `epoch`. Raises ValueError for what is no schedule."""
    anneal, points = _parts(schedule)
    if len(points) == 1:
        return points[0]
    (first, start), *rest = zip(points[::2], points[1::2], strict=True)
    now = epoch if isinstance(rest[0][1], float) else step
    values, ends = [start, *(point[0] for point in rest)], [first, *(point[1] for point in rest)]
    piece = next((index for index in range(1, len(rest)) if now < ends[index]), len(rest))
    progress = max(min((now - ends[piece - 1]) / (ends[piece] - ends[piece - 1]), 1.0), 0.0)
    low, high = values[piece - 1], values[piece]
    if anneal == "exp":
        return math.exp(math.log(low) + (math.log(high) - math.log(low)) * progress)
    return low + (high - low) * _SHARES[anneal](progress)


def bounds(name: str, schedule: Schedule) -> tuple[float, float]:
    """The lowest and the highest number that `schedule` ever has.

    Raises ValueError, in one line that begins with `name`, for what is no schedule.
    """
    try:
        _, points = _parts(schedule)
    except ValueError as error:
        raise ValueError(f"{name}={schedule}: {error}") from None
    values = points if len(points) == 1 else [points[1], *points[2::2]]
    return min(values), max(values)


def milestone(values: Sequence[int] | int, milestones: Sequence[int], step: int) -> int:
    """The value of the last milestone that `step` has reached: values[0] before the first, values[k] from milestones[k - 1] on.

    A single number holds for the whole run. Raises ValueError unless there is one value more than milestones, which rise.
    """
    if isinstance(values, int):
        return values
    if len(values) != len(milestones) + 1 or list(milestones) != sorted(set(milestones)):
        raise ValueError(
            f"values {list(values)} at milestones {list(milestones)}: expected rising milestones and one value more than those"
        )
    return values[sum(step >= start for start in milestones)]


def _parts(schedule: Schedule) -> tuple[str, list[float]]:
    """How the pieces run, and [value] or [step, value, value, step, (value, step), ...]."""
    anneal, points = "linear", schedule
    if isinstance(schedule, Mapping):
        if set(schedule) != {"anneal", "points"} or schedule["anneal"] not in ANNEALS:
            raise ValueError(f"expected anneal (one of {', '.join(ANNEALS)}) and points")
        anneal, points = schedule["anneal"], schedule["points"]
    points = [points] if isinstance(points, (int, float)) else list(points) if isinstance(points, Sequence) else [points]
    if any(isinstance(point, (bool, str)) or not isinstance(point, (int, float)) or not math.isfinite(point) for point in points):
        raise ValueError("expected numbers")
    if len(points) == 1:
        return anneal, [float(points[0])]
    if len(points) == 3:
        points = [0, *points]
    if len(points) < 4 or len(points) % 2:
        raise ValueError("expected a number, or [start_step, start, end, end_step], and pairs of value and step after it")
    steps = [points[0], *points[3::2]]
    if any(b <= a for a, b in itertools.pairwise(steps)):
        raise ValueError("expected steps that rise")
    if len({type(step) for step in points[3::2]}) > 1:
        raise ValueError("expected all steps as integers (optimiser steps) or all as floats (epochs)")
    values = [points[1], *points[2::2]]
    if anneal == "exp" and min(values) <= 0:
        raise ValueError("expected positive values for exp")
    return anneal, points
