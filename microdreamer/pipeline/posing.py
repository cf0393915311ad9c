"""Where the cameras of several pictures of one object stand: as told, or found by the prior.

Azimuths that are not given are found by the prior: it draws the object's sides from each picture, and these are put where pictures and
drawings resemble one another most.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cam_utils import orbit_cameras
from microdreamer.core.files import user_path
from microdreamer.guidance.base import Prior
from microdreamer.guidance.samplers import ddim_sample
from microdreamer.images.reference import PosedPicture, on_white
from microdreamer.metrics.pictures import psnr
from microdreamer.pipeline.config import Config
from microdreamer.pipeline.inputs import SIDES, split_input
from microdreamer.pipeline.pictures import Picture

log = logging.getLogger(__name__)

SAMPLING_STEPS = 10  # of the views that they are compared with


def posed(
    config: Config, prior: Prior, pictures: Sequence[Tensor], names: Sequence[str], places: Sequence[tuple[float, float | None]]
) -> list[PosedPicture]:
    """The pictures [4,S,S] with their cameras; azimuths that are None are found by the prior, which is told to the log."""
    azimuths = [azimuth for _, azimuth in places if azimuth is not None]
    if len(azimuths) < len(places):
        azimuths = found_azimuths(config, prior, pictures, [elevation for elevation, _ in places])
        for name, azimuth in list(zip(names, azimuths, strict=True))[1:]:
            log.info("%s: taken for the %s side (azimuth %g); if it is not, pass azimuth=0,...", name, SIDES[azimuth], azimuth)
    return [PosedPicture(picture, up, turn) for picture, (up, _), turn in zip(pictures, places, azimuths, strict=True)]


@torch.no_grad()
def found_azimuths(config: Config, prior: Prior, pictures: Sequence[Tensor], elevations: Sequence[float]) -> list[float]:
    """Azimuths of pictures [4,S,S], the first of which is at 0: the order of `SIDES` in which they resemble one another most.

    Compared is both ways: each other picture with what the prior draws there from the first, and the first with what it draws from the
    other. Raises ValueError for a prior that takes no pictures.
    """

    @functools.cache
    def drawn(number: int, elevation: float) -> Tensor:
        """What the prior draws of picture `number` at its own azimuth and the quarter turns from there, [4,3,R,R]."""
        condition = prior.condition(pictures[number], config.prompt, config.negative_prompt, elevations[number])
        look = {"fov_y": config.fovy, "width": prior.resolution, "height": prior.resolution, "device": prior.device}
        cameras = orbit_cameras(elevation, [0.0, *SIDES], config.radius, **look)
        levels, generator = prior.schedule.levels(SAMPLING_STEPS)[::-1], torch.Generator().manual_seed(config.seed)
        latents = ddim_sample(prior, prior.latent_shape(len(cameras)), cameras, condition, levels, config.cfg, generator=generator)
        return prior.decode(latents).clamp(0, 1)

    likeness = torch.zeros(len(pictures), len(SIDES))
    for number in range(1, len(pictures)):
        there = _likeness(drawn(0, elevations[number])[1:], pictures[number].to(prior.device))
        back = _likeness(drawn(number, elevations[0])[1:], pictures[0].to(prior.device)).flip(0)  # from a quarter to the right: to the left
        likeness[number] = (there + back).cpu()
    orders = itertools.permutations(range(len(SIDES)), len(pictures) - 1)
    best = max(orders, key=lambda order: sum(float(likeness[number, side]) for number, side in enumerate(order, 1)))
    return [0.0, *(list(SIDES)[side] for side in best)]


def _likeness(drawn: Tensor, picture: Tensor) -> Tensor:
    """How much each of some views [V,3,S,S] resembles the picture [4,P,P], in dB of colours on white."""
    white = F.interpolate(on_white(picture[None]), drawn.shape[-2:], mode="bilinear", antialias=True)
    return psnr(drawn, white.expand_as(drawn))


def sources_of(config: Config, picture: Picture | Sequence[Picture] | None) -> list[Picture]:
    """The pictures that a run is given, by its call or by its configuration; none where there is only a sentence."""
    if picture is None:
        return [*split_input(config.input)] if config.input else []
    return [picture] if isinstance(picture, str | Path | Image.Image | np.ndarray | Tensor) else [*picture]


def names_of(sources: Sequence[Picture]) -> list[str]:
    """What pictures are called in messages."""
    return [str(user_path(source)) if isinstance(source, (str, Path)) else f"picture {index}" for index, source in enumerate(sources, 1)]
