"""Shows a textured or vertex-coloured mesh: many views in one call, differentiable in texture, colours and vertices.

Shapes: V views of H x W, N vertices, F faces, S texels a side.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cam_utils import Cameras, in_camera_axes
from microdreamer.core import profiler
from microdreamer.kernels.mesh_raster import Topology, antialias, interpolate, mesh_topology, rasterize
from microdreamer.kernels.texture import texture as sample_texture
from microdreamer.meshes.detail import LOGIT_LIMIT, add_change, coarse_logits
from microdreamer.meshes.mesh import Mesh

__all__ = ["Fragments", "Mesh", "MeshModel", "MeshRender", "clip_positions", "vertex_normals"]

NEAR, FAR = 0.01, 100.0  # distances between which surfaces are shown
MAX_LEVEL = 3  # coarser mip levels would mix charts, which stand a few texels apart


class MeshRender(NamedTuple):
    """image [V,3,H,W]; alpha, depth [V,1,H,W] (view z, 0 where empty); normal [V,3,H,W], unit, world axes, turned as the faces
    are wound; view_cosine [V,1,H,W] between it and the direction to the camera, negative on back sides."""

    image: Tensor
    alpha: Tensor
    depth: Tensor
    normal: Tensor
    view_cosine: Tensor


class Fragments(NamedTuple):
    """What the pixels of V views see of the surface, whatever its colour: clip positions [V,N,4], rasteriser output, texture
    coordinates [V,H,W,2] with their pixel derivatives [V,H,W,4] (None without a texture)."""

    clip: Tensor
    rast: Tensor
    uv: Tensor | None
    uv_da: Tensor | None


def clip_positions(cameras: Cameras, vertices: Tensor) -> Tensor:
    """Clip-space positions [V,N,4] of `vertices` [N,3]: y grows downwards as rows do, w is the view z."""
    x, y, z = in_camera_axes(cameras, vertices).unbind(-1)
    fx, fy, cx, cy = (value[:, None] for value in cameras.intrinsics.unbind(1))
    clip_x = (2 * fx / cameras.width) * x + (2 * cx / cameras.width - 1) * z  # in this order a centred camera cancels no digits
    clip_y = (2 * fy / cameras.height) * y + (2 * cy / cameras.height - 1) * z
    clip_z = (FAR + NEAR) / (FAR - NEAR) * z - 2 * FAR * NEAR / (FAR - NEAR)
    return torch.stack([clip_x, clip_y, clip_z, z], dim=-1)


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Unit normals [N,3]: those of the faces around, weighted by area; differentiable."""
    corners = vertices[faces.long()]
    doubled_areas = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    sums = torch.zeros_like(vertices).index_add(0, faces.reshape(-1).long(), doubled_areas.repeat_interleave(3, dim=0))
    return nn.functional.normalize(sums, dim=-1, eps=1e-20)


def to_logits(colors: Tensor) -> Tensor:
    """Logits of colours in [0,1], which are first moved off the ends."""
    return colors.clamp(LOGIT_LIMIT, 1 - LOGIT_LIMIT).logit()


class MeshModel(nn.Module):
    """A mesh on a device, with what a fit may change: `color_logits` and vertex `offsets` [N,3].

    color_logits is [1,S,S,3] for a textured mesh, filtered before the sigmoid as the originals do, else [1,N,3], one row a vertex.
    A texture of more than `most_texels` a side is shown, and fitted, as a coarser one; `to_mesh` gives all of its texels back.
    """

    vertices: Tensor
    faces: Tensor

    def __init__(self, mesh: Mesh, device: torch.device | str = "cpu", most_texels: int | None = None) -> None:
        super().__init__()
        mesh.check()
        self.source = mesh
        self._coarse = coarse_logits(mesh.texture, most_texels) if mesh.has_texture and most_texels else None
        colors = mesh.texture if mesh.has_texture else np.ones_like(mesh.vertices) if mesh.vertex_colors is None else mesh.vertex_colors
        arrays = {"vertices": mesh.vertices, "faces": mesh.faces, "uvs": mesh.uvs, "uv_faces": mesh.uv_faces}
        for name, array in arrays.items():
            self.register_buffer(name, None if array is None else torch.from_numpy(array).to(device), persistent=False)
        logits = to_logits(torch.from_numpy(colors)) if self._coarse is None else torch.from_numpy(self._coarse).clone()
        self.color_logits = nn.Parameter(logits[None].contiguous().to(device))
        self.offsets = nn.Parameter(torch.zeros_like(self.vertices))
        self._topology: Topology | None = None

    @property
    def device(self) -> torch.device:
        return self.vertices.device

    @property
    def has_texture(self) -> bool:
        return self.uvs is not None and self.color_logits.dim() == 4

    @property
    def radius(self) -> float:
        """Distance of the farthest vertex from the origin."""
        return float(self.vertices.norm(dim=1).max())

    @property
    def topology(self) -> Topology:
        """Which faces share an edge, found once."""
        if self._topology is None:
            self._topology = mesh_topology(self.faces)
        return self._topology

    @profiler.function
    def rasterize(self, cameras: Cameras) -> Fragments:
        """What the cameras see. Where only colours are fitted, it is made once for all steps."""
        clip = clip_positions(cameras, self.vertices + self.offsets)
        rast, rast_db = rasterize(clip, self.faces, cameras.height, cameras.width)
        if not self.has_texture:
            return Fragments(clip, rast, None, None)
        # OBJ's v grows upwards, the rows of a texture downwards.
        flipped = torch.stack([self.uvs[:, 0], 1 - self.uvs[:, 1]], dim=-1)
        uv, uv_da = interpolate(flipped[None], rast, self.uv_faces, rast_db)
        return Fragments(clip, rast, uv, uv_da)

    @profiler.function
    def shade(self, fragments: Fragments, background: Tensor | float) -> tuple[Tensor, Tensor]:
        """Picture [V,3,H,W] on `background` ([3] or a number) and alpha [V,1,H,W], silhouettes antialiased."""
        covered = fragments.rast[..., 3:] > 0
        if self.has_texture:
            logits = sample_texture(
                self.color_logits, fragments.uv, fragments.uv_da, "linear-mipmap-linear", "clamp", MAX_LEVEL, mask=covered[..., 0]
            )
        else:
            logits, _ = interpolate(self.color_logits, fragments.rast, self.faces)
        colors = torch.where(covered, logits.sigmoid(), background)
        layers = antialias(torch.cat([colors, covered.float()], dim=-1), fragments.rast, fragments.clip, self.faces, self.topology)
        layers = layers.permute(0, 3, 1, 2)
        return layers[:, :3], layers[:, 3:]

    def render(self, cameras: Cameras, background: Tensor | float = 1.0) -> MeshRender:
        """All views in one call."""
        fragments = self.rasterize(cameras)
        image, alpha = self.shade(fragments, background)
        depth, normal, cosine = self.geometry(cameras, fragments)
        return MeshRender(image, alpha, depth, normal, cosine)

    def geometry(self, cameras: Cameras, fragments: Fragments) -> tuple[Tensor, Tensor, Tensor]:
        """Depth, normal and view cosine of `MeshRender`."""
        vertices = self.vertices + self.offsets
        normals = vertex_normals(vertices, self.faces)
        attributes = torch.cat([vertices, normals], dim=1)[None]
        surface, _ = interpolate(attributes, fragments.rast, self.faces)
        covered = fragments.rast[..., 3:] > 0
        position, normal = surface[..., :3], nn.functional.normalize(surface[..., 3:], dim=-1, eps=1e-12)
        to_camera = nn.functional.normalize(cameras.centers[:, None, None] - position, dim=-1)
        cosine = torch.where(covered, (normal * to_camera).sum(-1, keepdim=True), 0)
        third_row = cameras.world_to_camera[:, None, None, 2]
        depth = torch.where(covered, (position * third_row[..., :3]).sum(-1, keepdim=True) + third_row[..., 3:], 0)
        return tuple(layer.permute(0, 3, 1, 2) for layer in (depth, normal, cosine))

    @torch.no_grad()
    def to_mesh(self, reuse_texture: bool = False) -> Mesh:
        """The mesh as it is now, for the files. `reuse_texture`: a texture with more texels than were fitted is changed in the source."""
        source = self.source
        vertices = (self.vertices + self.offsets).cpu().numpy()
        if not self.has_texture:
            return Mesh(vertices, source.faces, self.color_logits[0].sigmoid().cpu().numpy())
        if self._coarse is None:
            texture = self.color_logits[0].sigmoid().cpu().numpy()
        else:
            texture = source.texture if reuse_texture else source.texture.copy()
            add_change(texture, self.color_logits[0].cpu().numpy() - self._coarse)
        return Mesh(vertices, source.faces, uvs=source.uvs, uv_faces=source.uv_faces, texture=texture)
