"""Gaussians -> textured mesh."""

from __future__ import annotations

import torch

from microdreamer.gaussians.extraction import extract_mesh
from microdreamer.gaussians.model import GaussianModel
from microdreamer.images.reference import Reference
from microdreamer.meshes.baking import bake, unwrapped
from microdreamer.meshes.mesh import Mesh
from microdreamer.pipeline.config import Config


def make_mesh(config: Config, model: GaussianModel, picture: Reference | None) -> Mesh:
    """The textured mesh of the Gaussians, over whose texture the picture is laid where it sees the surface.

    Raises ValueError where they have no surface.
    """
    if config.mesh_method == "field":
        from microdreamer.fields.conversion import convert

        mesh = convert(model, config.mesh_faces, generator=torch.Generator().manual_seed(config.seed))
    else:
        mesh = extract_mesh(model, config.density_thresh, config.mesh_resolution, config.mesh_faces, color_vertices=False)
    mesh = unwrapped(mesh, config.texture_size, config.unwrap)
    return bake(mesh, config.texture_size, model, picture, model.device)
