"""Paints a mesh's texture: from renders of the Gaussians it was made of, from what a file's materials show, and the input picture.

The texture is gathered, not scattered: every texel asks each view what it shows at the texel's place on the surface, so that no
texel within a chart stays empty. S is the number of texels a side, P that of texels within charts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample, normalize

from cam_utils import project_for_sampling
from microdreamer.core import profiler
from microdreamer.images.colour import linear_to_srgb
from microdreamer.kernels.mesh_raster import interpolate, rasterize
from microdreamer.kernels.texture_padding import fill_holes
from microdreamer.meshes.cleaning import merge_vertices
from microdreamer.meshes.mesh import Mesh
from microdreamer.meshes.model import MeshModel, vertex_normals
from microdreamer.meshes.surface import Surface
from microdreamer.meshes.unwrap import METHODS
from microdreamer.meshes.unwrap.parametrize import unwrap

if TYPE_CHECKING:
    from microdreamer.images.reference import Reference
    from microdreamer.meshes.shown import Shown

VIEW_SIZE = 512  # px of the renders that the texture is taken from
PICTURE_FACING = (0.2, 0.5)  # cosines between which the picture's say grows from none to all
SEAM_PADDING = 32  # texels around charts that take their colour, for mip-maps
PICTURE_EDGE = 3  # px at the picture's silhouette whose colours are mixed with its background's
DEPTH_TOLERANCE = 0.01  # of the mesh's radius, by which a texel may lie behind what the picture sees


class Texels(NamedTuple):
    """The texels within charts: `inside` [S,S] says which; positions [P,3] and unit normals [P,3] on the surface, and the blend of
    the vertex colours there [P,3] (white without), in row order."""

    inside: Tensor
    positions: Tensor
    normals: Tensor
    vertex_colors: Tensor


def rasterize_layout(mesh: Mesh, size: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """What `rasterize` finds of an unwrapped mesh laid flat: which faces the texels of a texture of `size` a side lie on."""
    uvs, uv_faces = torch.from_numpy(mesh.uvs).to(device), torch.from_numpy(mesh.uv_faces).to(device)
    flat = torch.stack([2 * uvs[:, 0] - 1, 1 - 2 * uvs[:, 1], torch.zeros_like(uvs[:, 0]), torch.ones_like(uvs[:, 0])], dim=-1)
    return rasterize(flat[None].contiguous(), uv_faces, size, size)


@torch.no_grad()
def texels_of(mesh: Mesh, size: int, device: torch.device | str = "cpu") -> Texels:
    """Where the texels of a texture of `size` a side lie on an unwrapped mesh."""
    vertices, faces = (torch.from_numpy(array).to(device) for array in (mesh.vertices, mesh.faces))
    rast, _ = rasterize_layout(mesh, size, device)
    colors = torch.ones_like(vertices) if mesh.vertex_colors is None else torch.from_numpy(mesh.vertex_colors).to(device)
    attributes = torch.cat([vertices, vertex_normals(vertices, faces), colors], dim=1)
    surface, _ = interpolate(attributes[None], rast, faces)
    inside = rast[0, ..., 3] > 0
    positions, normals, colors = surface[0][inside].split(3, dim=1)
    return Texels(inside, positions, normalize(normals, dim=-1, eps=1e-12), colors)


@profiler.function
def unwrapped(mesh: Mesh, size: int, method: str = METHODS[0]) -> Mesh:
    """The mesh with texture coordinates made for a texture of `size` texels a side; it still has its vertex colours."""
    layout = unwrap(mesh.vertices, mesh.faces, method=method, resolution=size)
    return Mesh(mesh.vertices, mesh.faces, mesh.vertex_colors, layout.uvs, layout.uv_faces)


@torch.no_grad()
@profiler.function
def bake(mesh: Mesh, size: int, model: Shown | None = None, picture: Reference | None = None, device: torch.device | str = "cpu") -> Mesh:
    """The unwrapped mesh with a texture of `size` texels a side: what renders of `model` show (without one, the vertex colours),
    over it the picture where it sees the surface; the space between charts is filled from their edges."""
    texels = texels_of(mesh, size, device)
    colors = texels.vertex_colors
    if model is not None:
        colors = model.surface_colors(texels.positions, texels.normals, VIEW_SIZE)
    return _painted(mesh, size, texels, colors, picture)


@torch.no_grad()
@profiler.function
def bake_function(
    mesh: Mesh,
    size: int,
    color: Callable[[Tensor], Tensor],
    device: torch.device | str = "cpu",
    chunk: int = 1 << 18,
    progress: Callable[[int, int], None] | None = None,
) -> Mesh:
    """The unwrapped mesh with a texture of `size` texels a side: what `color`, positions [P,3] -> sRGB [P,3], says of the places on the
    surface where texels lie, cut to [0,1]. It is asked for `chunk` places at a time."""
    texels = texels_of(mesh, size, device)
    return _painted(mesh, size, texels, in_chunks(color, texels.positions, chunk, progress).float().clamp(0, 1), None)


def in_chunks(
    function: Callable[[Tensor], Tensor], points: Tensor, chunk: int, progress: Callable[[int, int], None] | None = None
) -> Tensor:
    """`function` of `points` [P,...], asked for at most `chunk` of them at a time."""
    parts = []
    for part in points.split(chunk):
        parts.append(function(part))
        if progress:
            progress(min(len(parts) * chunk, len(points)), len(points))
    return torch.cat(parts)


def with_picture(mesh: Mesh, size: int, picture: Reference, device: torch.device | str = "cpu") -> Mesh:
    """The mesh with a texture of `size` texels a side on which the picture stands where it sees the surface."""
    texels = texels_of(mesh, size, device)
    return _painted(mesh, size, texels, torch.from_numpy(mesh.texture).to(device)[texels.inside], picture)


@torch.no_grad()
def _painted(mesh: Mesh, size: int, texels: Texels, colors: Tensor, picture: Reference | None) -> Mesh:
    """The mesh with `colors` [P,3] at its texels, the picture over them, and the space between charts filled from their edges."""
    if picture is not None:
        seen, weight = picture_colors(mesh, texels, picture)
        colors = torch.lerp(colors, seen, weight[:, None])
    texture = torch.zeros(size, size, 3, device=colors.device)
    texture[texels.inside] = colors
    texture = fill_holes(texture, texels.inside, SEAM_PADDING)
    return dataclasses.replace(mesh, texture=texture.cpu().numpy())


def baked(surface: Surface, size: int, method: str = METHODS[0], device: torch.device | str = "cpu") -> Mesh:
    """Whatever `surface` shows, on one texture of `size` texels a side; faces that use a vertex twice are left out.

    Raises ValueError where no other is left.
    """
    surface, vertices, faces = welded(surface)
    return repainted(surface, unwrapped(Mesh(vertices, faces), size, method), size, device)


def welded(surface: Surface) -> tuple[Surface, np.ndarray, np.ndarray]:
    """The faces of `surface` that have three corners, and the same as vertices [V,3] float64, one where several fell together, with
    faces [F,3]. Raises ValueError where there is none."""
    used, faces = np.unique(surface.faces, return_inverse=True)
    vertices, faces = merge_vertices(surface.vertices[used], faces.reshape(-1, 3))
    a, b, c = faces.T
    solid = (a != b) & (b != c) & (c != a)
    if not solid.any():
        raise ValueError("expected a mesh with faces that have an area, found none")
    return surface.take(solid), vertices, faces[solid]


@torch.no_grad()
@profiler.function
def repainted(surface: Surface, layout: Mesh, size: int, device: torch.device | str = "cpu") -> Mesh:
    """`layout`, the same faces unwrapped anew, with a texture of `size` texels a side that shows what `surface` shows."""
    face, uvs, colors, stretch, inside = _corners_of_texels(surface, layout, size, device)
    texture = torch.zeros(size, size, 3)
    texture[inside] = torch.from_numpy(linear_to_srgb(surface.shade_at(face, uvs, colors, stretch)[:, :3]).astype(np.float32))
    return dataclasses.replace(layout, texture=fill_holes(texture, inside, SEAM_PADDING).numpy())


def _corners_of_texels(surface: Surface, layout: Mesh, size: int, device: torch.device | str):
    """For the texels within charts: face [P], uvs [P,4], colors [P,4] of its corners blended, and how much uvs change from one texel to
    the next [P,4], in row order; and which texels these are, bool [S,S]."""
    rast, rast_db = rasterize_layout(layout, size, device)
    inside = rast[0, ..., 3].cpu() > 0
    rast, rast_db = rast[0].cpu()[inside].double().numpy(), rast_db[0].cpu()[inside].double().numpy()
    face = np.rint(rast[:, 3]).astype(int) - 1
    weights = np.stack([rast[:, 0], rast[:, 1], 1 - rast[:, 0] - rast[:, 1]], axis=1)
    corners = surface.uvs[face]
    uvs, colors = np.einsum("nkc,nk->nc", corners, weights), np.einsum("nkc,nk->nc", surface.colors[face], weights)
    along, across = corners[:, 0] - corners[:, 2], corners[:, 1] - corners[:, 2]
    steps = [along * rast_db[:, [0 + axis]] + across * rast_db[:, [2 + axis]] for axis in range(2)]
    return face, uvs, colors, np.maximum(np.abs(steps[0]), np.abs(steps[1])), inside


def picture_colors(mesh: Mesh, texels: Texels, picture: Reference) -> tuple[Tensor, Tensor]:
    """What the picture shows at the texels [P,3], and how much that counts [P]: 1 where it sees the surface frontally, away from edges."""
    camera = picture.camera
    bare = MeshModel(Mesh(mesh.vertices, mesh.faces), camera.device)
    depth, _, _ = bare.geometry(camera, bare.rasterize(camera))
    positions, z = project_for_sampling(camera, texels.positions)
    core = -torch.nn.functional.max_pool2d(-picture.mask, 2 * PICTURE_EDGE + 1, stride=1, padding=PICTURE_EDGE)
    layers = torch.cat([picture.image, (core > 0.99).float()], dim=1)
    samples = grid_sample(layers, positions[:, :, None], align_corners=False)[0, :, :, 0]
    nearest = grid_sample(depth, positions[:, :, None], mode="nearest", align_corners=False)[0, 0, :, 0]
    facing = (normalize(camera.centers - texels.positions, dim=-1) * texels.normals).sum(-1)
    low, high = PICTURE_FACING
    weight = ((facing - low) / (high - low)).clamp(0, 1) * samples[3]
    visible = (nearest > 0) & (z[0] < nearest + DEPTH_TOLERANCE * bare.radius)
    return samples[:3].T, torch.where(visible, weight, 0)
