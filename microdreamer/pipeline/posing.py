"""Where the cameras of several pictures of one object stand: as told, or found by the prior.

Azimuths that are not given are found by the prior: it draws the object's sides from the first
picture, and each other picture is put where it resembles them most.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
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

SAMPLING_STEPS, MASK_LEVEL = 10, 0.95  # of the views that they are compared with; a pixel darker than this shows the object
APART = 1.0  # degrees between two cameras that count as different


def posed(
    config: Config, prior: Prior, pictures: Sequence[Tensor], names: Sequence[str], places: Sequence[tuple[float, float | None]]
) -> list[PosedPicture]:
    """The pictures [4,S,S] with their cameras; azimuths that are None are found by the prior, which is told to the log."""
    azimuths = [azimuth for _, azimuth in places]
    if None in azimuths:
        azimuths = found_azimuths(config, prior, pictures, [elevation for elevation, _ in places])
        for name, azimuth in list(zip(names, azimuths, strict=True))[1:]:
            log.info("%s: taken for the %s side (azimuth %g); if it is not, pass azimuth=0,...", name, SIDES[azimuth], azimuth)
    return [PosedPicture(picture, up, turn) for picture, (up, _), turn in zip(pictures, places, azimuths, strict=True)]


@torch.no_grad()
def found_azimuths(config: Config, prior: Prior, pictures: Sequence[Tensor], elevations: Sequence[float]) -> list[float]:
    """Azimuths of pictures [4,S,S], the first of which is at 0: the order of `SIDES` in which the others most resemble what the prior
    draws there from the first. Raises ValueError for a prior that takes no pictures."""
    angles = [0.0, *SIDES]
    condition = prior.condition(pictures[0], config.prompt, config.negative_prompt, elevations[0])
    size = prior.resolution
    cameras = orbit_cameras(elevations[0], angles, config.radius, fov_y=config.fovy, width=size, height=size, device=prior.device)
    generator = torch.Generator().manual_seed(config.seed)
    levels = prior.schedule.levels(SAMPLING_STEPS)[::-1]
    latents = ddim_sample(prior, prior.latent_shape(len(angles)), cameras, condition, levels, config.cfg, generator=generator)
    drawn = prior.decode(latents).clamp(0, 1)
    likeness = torch.stack([_likeness(drawn[1:], picture.to(prior.device)) for picture in pictures[1:]]).cpu()  # [R-1,sides]
    orders = itertools.permutations(range(len(SIDES)), len(pictures) - 1)
    best = max(orders, key=lambda order: sum(float(likeness[row, side]) for row, side in enumerate(order)))
    return [0.0, *(list(SIDES)[side] for side in best)]


def _likeness(drawn: Tensor, picture: Tensor) -> Tensor:
    """How much each of the views [V,3,S,S] resembles the picture [4,P,P], in dB of colours on white."""
    white = F.interpolate(on_white(picture[None]), drawn.shape[-2:], mode="bilinear", antialias=True)
    return psnr(drawn, white.expand_as(drawn))


def sources_of(config: Config, picture: Picture | Sequence[Picture] | None) -> list[Picture]:
    """The pictures that a run is given, by its call or by its configuration; none where there is only a sentence."""
    if picture is None:
        return split_input(config.input) if config.input else []
    return list(picture) if isinstance(picture, (list, tuple)) else [picture]


def names_of(sources: Sequence[Picture]) -> list[str]:
    """What pictures are called in messages."""
    return [str(user_path(source)) if isinstance(source, (str, Path)) else f"picture {index}" for index, source in enumerate(sources, 1)]
