"""`material=albedo`: a mesh's colours without the light that they were seen in, so that a viewer's light is the only one.

Renders of the mesh are shown to the prior, which tells of each its colours and what these would be without light. By how much they differ
is as smooth as light is; that is taken out of the texture, whose detail is finer than the prior's pictures.
"""

from __future__ import annotations

import dataclasses

import torch
from torch.nn.functional import avg_pool2d, interpolate

from cam_utils import FOV_Y, RADIUS, orbit_cameras
from microdreamer.core import profiler
from microdreamer.core.errors import UserError
from microdreamer.guidance.base import Prior
from microdreamer.images.reference import Reference
from microdreamer.meshes.baking import with_gain
from microdreamer.meshes.mesh import Mesh
from microdreamer.meshes.model import MeshModel
from microdreamer.pipeline.config import Config
from microdreamer.pipeline.first_guess import check_surfaces

RINGS = ((0.0, 0.0), (-35.0, 45.0))  # elevation, and azimuth of the first view, of a circle of views
RENDERED = 2  # times as many pixels of renders along a side, which are then averaged
AROUND = 5  # pixels a side over which what is told is averaged: light is smoother than what is guessed of it
ENLARGED = 2  # times as many pixels of what is told along a side: outlines are then left out by the pixel
MOST_GAIN = 3.0  # and its inverse: beyond, what is told of black or glaring places is chance
DARKEST = 1e-3  # added to both colours, so that black is not divided by black


def check_material(config: Config, prior: Prior | None) -> None:
    """Raises UserError where the material that is asked for takes a prior that tells surfaces, and there is none."""
    if config.material == "albedo":
        if prior is None:
            raise UserError("material=albedo: expected a picture or a sentence to ask the prior about, got neither; leave it out")
        check_surfaces(prior, "material=albedo")


@torch.no_grad()
@profiler.function
def without_light(mesh: Mesh, prior: Prior, condition: object, generator: torch.Generator) -> Mesh:
    """The textured mesh, as large as the prior's objects are, with the colours that its surface has without light.

    Raises ValueError for a prior that tells no surfaces.
    """
    size = prior.resolution
    elevation, first = torch.tensor(RINGS, dtype=torch.float64).repeat_interleave(prior.views, dim=0).unbind(1)
    azimuth = first + 360 / prior.views * torch.arange(prior.views, dtype=torch.float64).repeat(len(RINGS))
    cameras = orbit_cameras(elevation, azimuth, RADIUS, fov_y=FOV_Y, width=size, height=size, device=prior.device)
    seen = MeshModel(mesh, prior.device).render(cameras.resized(RENDERED * size, RENDERED * size))
    shown, mask = (interpolate(layer, (size, size), mode="area") for layer in (seen.image, seen.alpha))
    colours, surfaces = prior.predict_surfaces(prior.encode(shown, generator), -1, cameras, condition)  # as clean as can be
    told, lit = (avg_pool2d(layer * mask, AROUND, 1, AROUND // 2) + DARKEST for layer in (surfaces.albedo, colours))
    gain = (told / lit).clamp(1 / MOST_GAIN, MOST_GAIN)
    fine = (ENLARGED * size, ENLARGED * size)
    gain, mask = (interpolate(layer, fine, mode="bilinear", align_corners=False) for layer in (gain, mask))
    return dataclasses.replace(with_gain(mesh, Reference(cameras.resized(*fine), gain, mask), prior.device), shaded=False)
