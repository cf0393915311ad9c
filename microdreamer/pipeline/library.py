"""Single pieces of the pipeline as calls of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from microdreamer.core.errors import user_errors
from microdreamer.core.machine import choose_device
from microdreamer.core.unique_rows import unique_rows
from microdreamer.gaussians.model import GaussianModel
from microdreamer.meshes import TEXTURE_SIZE
from microdreamer.meshes.mesh import Mesh
from microdreamer.meshes.unwrap import METHODS, PADDING
from microdreamer.meshes.unwrap.parametrize import unwrap as lay_out
from microdreamer.pipeline.config import Config, as_config
from microdreamer.pipeline.material import check_material
from microdreamer.pipeline.subject import load_subject, subject_of


def mesh_from_gaussians(source: GaussianModel | str | Path, config: Config | str | Path | Mapping[str, Any] | None = None) -> Mesh:
    """The textured mesh of a set of Gaussians, or of a file of them, where these stand.

    Keys that matter: mesh_method, mesh_resolution, mesh_faces, density_thresh, texture_size, unwrap, device. Raises UserError in
    one line for a file that is none or Gaussians without a surface.
    """
    with user_errors():
        config = as_config(config)
        check_material(config, None)
        device = choose_device(config.device)
        if isinstance(source, GaussianModel):
            subject = subject_of(source, config, None, source.device)
        else:
            subject = load_subject(dataclasses.replace(config, load=str(source), mesh=None), Path(), None, device)
        return subject.placed_back(subject.mesh)


def unwrap(
    vertices: np.ndarray, faces: np.ndarray, method: str = METHODS[0], resolution: int = TEXTURE_SIZE, padding: float = PADDING
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Texture coordinates of a mesh of vertices [V,3] and faces [F,3], in the form in which `xatlas.parametrize` gives them.

    Returns vmapping [T] (uint32: the vertex that each new vertex is a copy of), indices [F,3] (uint32, into the new vertices) and
    uvs [T,2] (float32 in [0,1], v up). Charts are at least `padding` texels apart in a texture of `resolution` texels a side.
    Raises ValueError for arrays of other shapes or faces that name missing vertices.
    """
    faces = np.asarray(faces)
    layout = lay_out(vertices, faces, method=method, resolution=resolution, padding=padding)
    corners = np.stack([faces.reshape(-1), layout.uv_faces.reshape(-1)], axis=1).astype(np.int64)
    pairs, _, indices = unique_rows(corners)
    return pairs[:, 0].astype(np.uint32), indices.reshape(-1, 3).astype(np.uint32), layout.uvs[pairs[:, 1]]
