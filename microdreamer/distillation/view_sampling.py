"""Cameras for score distillation: random views of a ball of radius 1, in the two ways of the published systems.

Elevations here are degrees **above** the horizon, as in those systems' configurations; `cam_utils`, which the cameras are made with, counts
them below. Azimuths agree: 0 is the front. For evaluation, `cam_utils.turntable` gives views around the object, none of them twice.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import torch
from torch import Tensor

from cam_utils import FOV_Y, RADIUS, Cameras, orbit_cameras

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class ViewRanges:
    """Where views are drawn; the names are threestudio's. Ranges are (lowest, highest), all angles in degrees.

    n_view: views of a group, evenly around the object at one elevation, distance and field of view; 1: every view for itself.
    relative_radius: distances are in units of 1 / tan(fov_y / 2), so that the object fills a picture alike at every field of view.
    Raises ValueError for an empty range, an elevation past a pole, a field of view outside (0, 180) or a distance that is not positive.
    """

    elevation_range: Range = (-10.0, 45.0)
    azimuth_range: Range = (-180.0, 180.0)
    camera_distance_range: Range = (1.0, 1.5)
    fovy_range: Range = (40.0, 70.0)
    n_view: int = 1
    relative_radius: bool = False

    def __post_init__(self) -> None:
        limits = {
            "elevation_range": (-90.0, 90.0),
            "azimuth_range": (-360.0, 360.0),
            "camera_distance_range": (1e-6, math.inf),
            "fovy_range": (1e-3, 180 - 1e-3),
        }
        for name, (lowest, highest) in limits.items():
            low, high = getattr(self, name)
            if not lowest <= low <= high <= highest:
                raise ValueError(f"{name}={[low, high]}: expected two numbers that rise, between {lowest:g} and {highest:g}")
        if self.n_view < 1:
            raise ValueError(f"n_view={self.n_view}: expected at least 1")


SINGLE_VIEW = ViewRanges()  # of ScaleDreamer's configurations for Stable Diffusion, and of MVDream:
MULTI_VIEW = ViewRanges((0.0, 30.0), camera_distance_range=(0.8, 1.0), fovy_range=(15.0, 60.0), n_view=4, relative_radius=True)
# The micro prior knows one distance and one field of view.
MICRO_VIEW = ViewRanges((-10.0, 45.0), camera_distance_range=(RADIUS, RADIUS), fovy_range=(FOV_Y, FOV_Y), n_view=4)


class Draws(NamedTuple):
    """The chance of one batch: numbers in [0,1), one for each of G groups (single views are groups of one), except for the coin."""

    coin: Tensor  # []; below 0.5: elevations uniform in angle, else uniform over the sphere's area
    elevation: Tensor  # [G]
    azimuth: Tensor
    distance: Tensor
    fovy: Tensor

    @classmethod
    def take(cls, groups: int, generator: torch.Generator) -> Draws:
        """From a generator on the CPU."""
        return cls(torch.rand((), generator=generator), *(torch.rand(groups, generator=generator) for _ in range(4)))


def draw_views(ranges: ViewRanges, views: int, size: int, generator: torch.Generator, device: torch.device | str = "cpu") -> Cameras:
    """`views` random cameras, in whole groups of `n_view`, for square pictures of `size` pixels a side.

    Raises ValueError for a number of views that is no multiple of `n_view`.
    """
    if views < 1 or views % ranges.n_view:
        raise ValueError(f"{views} views: expected a multiple of n_view={ranges.n_view}")
    return place_views(ranges, Draws.take(views // ranges.n_view, generator), size, device)


def place_views(ranges: ViewRanges, draws: Draws, size: int, device: torch.device | str = "cpu") -> Cameras:
    """The cameras that `draws` stand for.

    Single views are spread: the i-th of B lies in the i-th of B equal parts of the azimuth range. The views of a group are that
    range's n_view-th part apart, each group at an azimuth of its own.
    """
    draws = Draws(*(draw.double().cpu() for draw in draws))
    groups = torch.arange(len(draws.elevation), dtype=torch.float64)
    up = torch.where(
        draws.coin < 0.5, _between(ranges.elevation_range, draws.elevation), _on_sphere(ranges.elevation_range, draws.elevation)
    )
    if ranges.n_view == 1:
        share = (draws.azimuth + groups) / len(groups)
    else:
        share = ((draws.azimuth[:, None] + torch.arange(ranges.n_view, dtype=torch.float64)) / ranges.n_view).flatten()
    fov_y, distance = _between(ranges.fovy_range, draws.fovy), _between(ranges.camera_distance_range, draws.distance)
    if ranges.relative_radius:
        distance = distance / torch.tan(torch.deg2rad(fov_y) / 2)
    up, fov_y, distance = (column.repeat_interleave(ranges.n_view) for column in (up, fov_y, distance))
    azimuth = _between(ranges.azimuth_range, share)
    return orbit_cameras(-up, azimuth, distance, fov_y=fov_y, width=size, height=size, device=device)


def _between(bounds: Range, share: Tensor) -> Tensor:
    return bounds[0] + (bounds[1] - bounds[0]) * share


def _on_sphere(bounds: Range, share: Tensor) -> Tensor:
    """Elevations between the bounds, spread so that equal areas of the sphere get equally many: its sine is uniform."""
    low, high = (math.sin(math.radians(bound)) for bound in bounds)
    return torch.rad2deg(torch.asin((low + (high - low) * share).clamp(-1, 1)))
