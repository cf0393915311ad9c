"""What the data renderer shows beside light: surface colours, and where in the world each pixel's surface is.

Both are pictures of `kernels.mesh_render` under even light; for places, the corners are painted with their coordinates. Its bytes resolve
2 PLACE_REACH / 255 = 0.01, of which half is the largest error: a pixel of 128 across the field of view is 0.014 wide at the centre.
"""

from __future__ import annotations

import torch
from torch import Tensor

from microdreamer.kernels.mesh_render import render_meshes
from microdreamer.shapes.packed import PackedMeshes

PLACE_REACH = 1.28  # coordinates of the world that can be told
PART = 2**22  # faces whose corners are gathered at once


def _even_light(views: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Lights and ambient under which every surface shows its own colour."""
    return torch.zeros(views, 1, 6, device=device), torch.ones(views, 2, 3, device=device)


def _render(meshes: PackedMeshes, colors: Tensor, index, to_world, transform, cameras, intrinsics, size: int, supersample: int) -> Tensor:
    own = (meshes.vertices, meshes.faces, colors, meshes.corner_normals, meshes.vertex_offset, meshes.face_offset)
    light = _even_light(len(index), meshes.device)
    return render_meshes(
        *own, index, to_world, transform, cameras, intrinsics, *light, size, size, supersample=supersample, max_faces=meshes.max_faces
    )


def render_albedo(
    meshes: PackedMeshes,
    index: Tensor,  # [V]
    to_world: Tensor,  # [V,3,4]
    color_transform: Tensor | None,  # [V,3,4]
    cameras: Tensor,  # [V,3,4] world to camera
    intrinsics: Tensor,  # [V,4]
    size: int,
) -> Tensor:
    """[V,4,S,S] uint8: sRGB colours of the surfaces without light, premultiplied by coverage, and coverage."""
    return _render(meshes, meshes.corner_colors, index, to_world, color_transform, cameras, intrinsics, size, 2)


class PlacePainter:
    """Meshes painted with where their corners are; `repaint` after vertices moved, into the same tensors."""

    def __init__(self, meshes: PackedMeshes):
        self.meshes = meshes
        self.colors = torch.empty_like(meshes.corner_colors)
        self.reach = torch.ones(len(meshes), device=meshes.device)  # largest coordinate of each mesh
        counts = meshes.vertex_offset.diff()
        self._mesh_of_vertex = torch.repeat_interleave(torch.arange(len(meshes), device=meshes.device), counts)
        self._mesh_of_face = torch.repeat_interleave(torch.arange(len(meshes), device=meshes.device), meshes.face_offset.diff())
        self.repaint()

    @torch.no_grad()
    def repaint(self) -> None:
        vertices, reach = self.meshes.vertices, torch.zeros_like(self.reach)
        reach.scatter_reduce_(0, self._mesh_of_vertex, vertices.abs().amax(dim=1), "amax")
        self.reach.copy_(reach.clamp_min(1e-6))
        for first in range(0, len(self.colors), PART):
            part = slice(first, first + PART)
            owner = self._mesh_of_face[part]
            corners = vertices[(self.meshes.faces[part] + self.meshes.vertex_offset[owner, None]).long()]
            share = corners / self.reach[owner, None, None] * 0.5 + 0.5
            self.colors[part] = (share * 255).round().clamp(0, 255).to(torch.uint8)

    def render(self, index: Tensor, to_world: Tensor, cameras: Tensor, intrinsics: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """World coordinates [V,3,S,S] at pixels' centres, and where there is a surface [V,1,S,S] bool; arguments as of `render_albedo`."""
        matrix = to_world[:, :, :3] * (self.reach[index] / PLACE_REACH)[:, None, None]
        offset = (to_world[:, :, 3] / PLACE_REACH - matrix.sum(dim=-1)) * 0.5 + 0.5
        transform = torch.cat([matrix, offset[..., None]], dim=-1)
        seen = _render(self.meshes, self.colors, index, to_world, transform, cameras, intrinsics, size, 1)
        return (seen[:, :3].float() / 255 * 2 - 1) * PLACE_REACH, seen[:, 3:] > 0


def camera_depth(places: Tensor, cameras: Tensor) -> Tensor:
    """Distance along the cameras' axes [V,1,S,S] of world coordinates [V,3,S,S]; cameras [V,3,4] world to camera."""
    return torch.einsum("vk,vkhw->vhw", cameras[:, 2, :3], places)[:, None] + cameras[:, 2, 3, None, None, None]
