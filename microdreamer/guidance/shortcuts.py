"""What sampling with a prior may leave out, each at some cost in quality: branches of guidance, and deep features of the network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable

from torch import Tensor

from microdreamer.guidance.names import WHOLE
from microdreamer.guidance.schedule import NoiseSchedule


@dataclasses.dataclass(frozen=True)
class Shortcuts:
    """Nothing is left out unless told.

    cfg_interval: shares [0,1] of the schedule between which levels are guided; elsewhere the conditional branch is taken alone
    (Kynkaanniemi et al. 2024, arXiv 2404.07724, section 3). feature_interval: levels from one evaluation of the network's deep features to
    the next; between them those before are taken again (DeepCache, Ma et al. 2023, arXiv 2312.00858). Raises ValueError for others.
    """

    cfg_interval: tuple[float, float] = WHOLE
    feature_interval: int = 1

    def __post_init__(self) -> None:
        low, high = self.cfg_interval
        if not 0 <= low <= high <= 1:
            raise ValueError(f"cfg_interval={list(self.cfg_interval)}: expected two shares from 0 to 1, the second not below the first")
        if self.feature_interval < 1:
            raise ValueError(f"feature_interval={self.feature_interval}: expected at least 1")

    def scale_at(self, t: int, schedule: NoiseSchedule, guidance_scale: float | None) -> float | None:
        """The guidance scale at level t: the given one, or 1 outside the interval. None, the null branch, stays."""
        low, high = self.cfg_interval
        inside = guidance_scale is None or low <= t / schedule.timesteps <= high
        return guidance_scale if inside else 1.0


NO_SHORTCUTS = Shortcuts()


class FeatureCache:
    """Deep features of one run of a sampler, by what was asked: taken again until `interval` evaluations shared them."""

    def __init__(self, interval: int) -> None:
        self.interval = interval
        self._kept: dict[Hashable, tuple[Tensor, int]] = {}  # features, and how many evaluations have them so far

    def answer(self, key: Hashable, whole: Callable[[], tuple[Tensor, Tensor]], rest: Callable[[Tensor], Tensor]) -> Tensor:
        """What the network answers: by `whole`, which gives its deep features too, or by `rest`, which is given them."""
        features, shared = self._kept.get(key, (None, 0))
        if features is None or shared >= self.interval:
            answer, features = whole()
            self._kept[key] = features, 1
            return answer
        self._kept[key] = features, shared + 1
        return rest(features)
