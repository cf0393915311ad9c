"""From where an object is seen, in words: for priors that know no cameras, the sentence has to say it."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

# Poole et al. 2022, DreamFusion (arXiv 2209.14988), section 3.2. A prompt is followed by a comma and one of these.
DIRECTIONS = ("front view", "side view", "back view", "overhead view")
FRONT, SIDE, BACK, OVERHEAD = range(4)


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """Degrees by which views are named; the names are those of threestudio's configurations."""

    front_threshold: float = 45.0  # from azimuth 0
    back_threshold: float = 45.0  # from azimuth 180
    overhead_threshold: float = 60.0  # above the horizon


THRESHOLDS = Thresholds()


def directions(elevation: Tensor, azimuth: Tensor, thresholds: Thresholds = THRESHOLDS) -> Tensor:
    """Index into DIRECTIONS of each view, [V], from `cam_utils`' degrees [V] (elevation is positive from below).

    All thresholds are strict; overhead is so whatever the azimuth.
    """
    away = around(azimuth)
    index = torch.where(away < thresholds.front_threshold, FRONT, SIDE)
    index = torch.where(away > 180 - thresholds.back_threshold, BACK, index)
    return torch.where(-elevation > thresholds.overhead_threshold, OVERHEAD, index)


def around(azimuth: Tensor) -> Tensor:
    """Degrees from the front, 0 to 180, on either side."""
    return ((azimuth + 180).remainder(360) - 180).abs()
