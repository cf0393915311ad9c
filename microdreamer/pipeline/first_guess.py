"""The first guess of a run: Gaussians read off one pass of a prior that tells surfaces beside colours.

It is what `--preview` writes, and what the rounds start from with `start=prior`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from cam_utils import FOV_Y, RADIUS
from microdreamer.core import profiler
from microdreamer.core.errors import UserError
from microdreamer.gaussians.model import GaussianModel
from microdreamer.guidance.base import Prior
from microdreamer.guidance.micro.read_off import read_off, thinned, without_strays
from microdreamer.pipeline.config import Config

OnPreview = Callable[[GaussianModel], None]  # called once, before the rounds, with Gaussians of its own

OPACITY = 0.9  # of its Gaussians: what is read off is a surface, and soft ones leave the mesh's hollow
WIDTH = 0.5  # of the distance between neighbours: wider ones would stand out beyond the outline
STEPS = 1  # of the sampler that the views it is read off come from
FEWEST = 50  # points that make a shape
TO_BE_ABLE = "pass prior_path=FOLDER of a micro prior that was trained with --geometry"


def check_surfaces(prior: Prior, asked: str) -> None:
    """Raises UserError for a prior that tells no surfaces, which `asked` (words of the user's) needs."""
    if not prior.tells_surfaces:
        whose = "these weights of the micro prior" if prior.name == "micro" else f"the {prior.name} prior"
        raise UserError(
            f"{asked}: {whose} tell{'' if prior.name == 'micro' else 's'} colours alone, not surfaces; {TO_BE_ABLE}, or leave it out"
        )


def starts_from_prior(config: Config, prior: Prior) -> bool:
    """Whether the rounds start from what the prior tells. Raises UserError where that is asked for by name and not possible."""
    if config.start == "prior":
        if config.load:
            raise UserError(f"start=prior and load={config.load}: expected one thing to start from; leave one of them out")
        check_surfaces(prior, "start=prior")
    return config.start != "ball" and prior.tells_surfaces and not config.load


@torch.no_grad()
@profiler.function
def first_guess(config: Config, prior: Prior, condition: object) -> GaussianModel:
    """Some `num_pts` Gaussians of the object, in the run's frame. Draws nothing from the run's own generator.

    Raises UserError where the prior draws next to nothing, ValueError where it tells no surfaces.
    """
    levels = prior.schedule.levels(STEPS)[::-1]
    generator = torch.Generator().manual_seed(config.seed)
    points, colours = read_off(prior, condition, config.eye_level, levels, generator, config.temperature)
    if len(points) < FEWEST:
        raise UserError(f"the prior's first guess has {len(points)} points, too few for an object; try another seed, prompt or picture")
    points, colours = without_strays(*thinned(points, colours, config.num_pts))
    # What fills as much of the picture from where the run's cameras stand, with their field of view.
    scale = config.radius * math.tan(math.radians(config.fovy / 2)) / (RADIUS * math.tan(math.radians(FOV_Y / 2)))
    guess = GaussianModel.from_points(points * scale, colours, config.sh_degree, prior.device, OPACITY)
    guess.log_scales.add_(math.log(WIDTH))
    return guess
