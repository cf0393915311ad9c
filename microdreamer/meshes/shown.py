"""What a mesh is fitted to and painted from: anything that can be rendered and asked for the colours of its surface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from cam_utils import Cameras
from microdreamer.meshes.mesh import Mesh


class Shown(Protocol):
    """A set of Gaussians, for one. Meshes know no more of it than this, so that this room needs none of those above it."""

    @property
    def device(self) -> torch.device: ...

    @property
    def reach(self) -> float:
        """Of the object from the origin."""

    def render(self, cameras: Cameras, background: Tensor | float) -> Any:
        """Pictures with at least `image` [V,3,H,W], `alpha` and `depth` [V,1,H,W]."""

    def surface_colors(self, points: Tensor, normals: Tensor, view_size: int = ...) -> Tensor:
        """Colours [P,3] in [0,1] that pictures of `view_size` pixels show at points [P,3] with unit normals [P,3]."""

    def surface_painter(self, view_size: int = ...) -> Callable[[Tensor, Tensor], Tensor]:
        """`surface_colors` as a function of points and normals, whose pictures are rendered once."""


def coloured(mesh: Mesh, model: Shown) -> Mesh:
    """The mesh with the colours at its vertices that renders of the model show there."""
    colors = model.surface_colors(torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.normals))
    return Mesh(mesh.vertices, mesh.faces, colors.cpu().numpy())
