"""Textured meshes, differentiable: see microdreamer.meshes.model."""

from microdreamer.meshes.model import MeshModel

__all__ = ["MeshModel"]
