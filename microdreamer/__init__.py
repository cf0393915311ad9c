"""MicroDreamerOptimized: a picture, a sentence, or both become 3D Gaussians and a textured mesh.

    import microdreamer

    result = microdreamer.reconstruct("photo.png")              # Gaussians, textured mesh, record
    result = microdreamer.refine(result)                        # stage 2
    result.save("out", "name")

    mesh = microdreamer.mesh_from_gaussians("splats.ply")
    vmapping, indices, uvs = microdreamer.unwrap(vertices, faces)
    prior = microdreamer.load_prior("micro")                    # once, for many runs

Importing this loads nothing heavy: what is named below is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from microdreamer.core.errors import Stopped, UserError
    from microdreamer.gaussians.model import GaussianModel
    from microdreamer.guidance import load_prior
    from microdreamer.meshes.mesh import Mesh
    from microdreamer.pipeline.config import Config, load_config
    from microdreamer.pipeline.library import mesh_from_gaussians, unwrap
    from microdreamer.pipeline.progress import Update
    from microdreamer.pipeline.reconstruction import reconstruct
    from microdreamer.pipeline.refinement import refine
    from microdreamer.pipeline.results import Result

_HOMES = {
    "Config": "pipeline.config",
    "GaussianModel": "gaussians.model",
    "Mesh": "meshes.mesh",
    "Result": "pipeline.results",
    "Stopped": "core.errors",
    "Update": "pipeline.progress",
    "UserError": "core.errors",
    "load_config": "pipeline.config",
    "load_prior": "guidance",
    "mesh_from_gaussians": "pipeline.library",
    "reconstruct": "pipeline.reconstruction",
    "refine": "pipeline.refinement",
    "unwrap": "pipeline.library",
}

__all__ = [
    "Config",
    "GaussianModel",
    "Mesh",
    "Result",
    "Stopped",
    "Update",
    "UserError",
    "load_config",
    "load_prior",
    "mesh_from_gaussians",
    "reconstruct",
    "refine",
    "unwrap",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
