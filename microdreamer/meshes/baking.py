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
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import grid_sample, normalize

from cam_utils import project_for_sampling
from microdreamer.core import profiler
from microdreamer.images.colour import linear_to_srgb
from microdreamer.kernels.mesh_raster import interpolate, rasterize
from microdreamer.kernels.texture_padding import nearest_filled
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
BETTER = 4  # power of their weights by which pictures that see a place share it
PICTURE_EDGE = 3  # px at the picture's silhouette whose colours are mixed with its background's
BAND_TEXELS = 1 << 22  # of a texture that is made at a time: all of one of 2048 a side; bounds the memory of larger ones
ROUGH_SIZE, LEAST_WEIGHT = 256, 0.05  # texels a side of a rough look at what views see, and from which weight on they do
DEPTH_TOLERANCE = 0.01  # of the mesh's radius, by which a texel may lie behind what the picture sees


class Texels(NamedTuple):
    """The texels within charts: `inside` [R,S] says which of R rows; positions [P,3] and unit normals [P,3] on the surface, and the
    blend of the vertex colours there [P,3] (white without), in row order."""

    inside: Tensor
    positions: Tensor
    normals: Tensor
    vertex_colors: Tensor


def bands(size: int) -> list[slice]:
    """The rows of a texture of `size` texels a side in parts of at most `BAND_TEXELS` texels: large textures are made part by part."""
    rows = max(1, BAND_TEXELS // size)
    return [slice(start, min(start + rows, size)) for start in range(0, size, rows)]


def rasterize_layout(mesh: Mesh, size: int, device: torch.device | str, rows: slice | None = None) -> tuple[Tensor, Tensor]:
    """What `rasterize` finds of an unwrapped mesh laid flat: which faces the texels of a texture of `size` a side lie on, in all rows
    or in some."""
    uvs, uv_faces = torch.from_numpy(mesh.uvs).to(device), torch.from_numpy(mesh.uv_faces).to(device)
    x, y = 2 * uvs[:, 0] - 1, 1 - 2 * uvs[:, 1]
    height = size
    if rows is not None and (rows.start, rows.stop) != (0, size):
        height = rows.stop - rows.start
        y = ((y + 1) / 2 * size - rows.start) * (2 / height) - 1
        low, high = y[uv_faces.long()].aminmax(dim=1)
        uv_faces = torch.where(((high >= -1) & (low <= 1))[:, None], uv_faces, 0)  # a face of one corner covers nothing
    flat = torch.stack([x, y, torch.zeros_like(x), torch.ones_like(x)], dim=-1)
    return rasterize(flat[None].contiguous(), uv_faces, height, size)


@torch.no_grad()
def texels_of(mesh: Mesh, size: int, device: torch.device | str = "cpu", rows: slice | None = None) -> Texels:
    """Where the texels of a texture of `size` a side, or of some of its rows, lie on an unwrapped mesh."""
    vertices, faces = (torch.from_numpy(array).to(device) for array in (mesh.vertices, mesh.faces))
    rast, _ = rasterize_layout(mesh, size, device, rows)
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
    shown = None if model is None else model.surface_painter(VIEW_SIZE)

    def colors_of(texels: Texels, _: slice) -> Tensor:
        return texels.vertex_colors if shown is None else shown(texels.positions, texels.normals)

    return _painted(mesh, size, colors_of, picture, device)


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
    surface where texels lie, cut to [0,1]. It is asked for `chunk` places at a time; `progress` is told rows of texels."""

    def colors_of(texels: Texels, rows: slice) -> Tensor:
        colors = in_chunks(color, texels.positions, chunk).float().clamp(0, 1) if len(texels.positions) else texels.positions
        if progress:
            progress(rows.stop, size)
        return colors

    return _painted(mesh, size, colors_of, None, device)


def in_chunks(function: Callable[[Tensor], Tensor], points: Tensor, chunk: int) -> Tensor:
    """`function` of `points` [P,...], asked for at most `chunk` of them at a time."""
    return torch.cat([function(part) for part in points.split(chunk)])


def with_picture(mesh: Mesh, size: int, picture: Reference, device: torch.device | str = "cpu") -> Mesh:
    """The mesh with a texture of `size` texels a side on which the picture stands where it sees the surface."""
    texture = torch.from_numpy(mesh.texture)
    return _painted(mesh, size, lambda texels, rows: texture[rows].to(device)[texels.inside], picture, device)


@torch.no_grad()
@profiler.function
def with_gain(mesh: Mesh, gain: Reference, device: torch.device | str = "cpu") -> Mesh:
    """The textured mesh with the colours of its texture, sRGB, times what the views `gain` show there, cut to [0,1].

    Places that no view sees well have the gain of the nearest one that some view does; all 1 where none is.
    """
    size = len(mesh.texture)
    texture, gain_of = torch.from_numpy(mesh.texture), picture_painter(mesh, gain)
    rough = texels_of(mesh, min(size, ROUGH_SIZE), device)
    known, weight = gain_of(rough)
    is_seen = (weight > LEAST_WEIGHT).cpu()
    places, known = rough.positions.cpu()[is_seen], known.cpu()[is_seen]
    if not len(places):
        return mesh
    nearest = cKDTree(places.numpy())

    def colors_of(texels: Texels, rows: slice) -> Tensor:
        factor, weight = gain_of(texels)
        unseen = weight <= LEAST_WEIGHT
        _, index = nearest.query(texels.positions[unseen].cpu().numpy())
        factor[unseen] = known[torch.from_numpy(index)].to(factor)
        return (texture[rows].to(device)[texels.inside] * factor).clamp(0, 1)

    return _painted(mesh, size, colors_of, None, device)


@torch.no_grad()
def _painted(
    mesh: Mesh, size: int, colors_of: Callable[[Texels, slice], Tensor], picture: Reference | None, device: torch.device | str
) -> Mesh:
    """The mesh with the colours [P,3] that `colors_of` has for the texels of some rows, the picture over them, and the space between
    charts filled from their edges."""
    seen_by_picture = None if picture is None else picture_painter(mesh, picture)
    texture, inside = torch.zeros(size, size, 3), torch.zeros(size, size, dtype=torch.bool)
    for rows in bands(size):
        texels = texels_of(mesh, size, device, rows)
        colors = colors_of(texels, rows)
        if seen_by_picture is not None:
            seen, weight = seen_by_picture(texels)
            colors = torch.lerp(colors, seen, weight[:, None])
        inside[rows] = texels.inside.cpu()
        texture[rows][inside[rows]] = colors.cpu()
    fill_seams(texture, inside, device)
    return dataclasses.replace(mesh, texture=texture.numpy())


def fill_seams(texture: Tensor, inside: Tensor, device: torch.device | str = "cpu") -> None:
    """Give the texels around charts, up to `SEAM_PADDING` away, the colours of the charts' edges: of texture [S,S,3], in place."""
    size = len(texture)
    for rows in bands(size):
        start = max(0, rows.start - SEAM_PADDING)
        around = slice(start, min(size, rows.stop + SEAM_PADDING))  # nothing farther off counts
        nearest = nearest_filled(inside[around].to(device), SEAM_PADDING)[rows.start - start : rows.stop - start].cpu()
        texture[rows] = texture[around].flatten(0, 1)[nearest]


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
    texture, inside = torch.zeros(size, size, 3), torch.zeros(size, size, dtype=torch.bool)
    for rows in bands(size):
        face, uvs, colors, stretch, inside[rows] = _corners_of_texels(surface, layout, size, device, rows)
        shade = linear_to_srgb(surface.shade_at(face, uvs, colors, stretch)[:, :3])
        texture[rows][inside[rows]] = torch.from_numpy(shade.astype(np.float32))
    fill_seams(texture, inside)
    return dataclasses.replace(layout, texture=texture.numpy())


def _corners_of_texels(surface: Surface, layout: Mesh, size: int, device: torch.device | str, rows: slice):
    """For the texels of some rows within charts: face [P], uvs [P,4], colors [P,4] of its corners blended, and how much uvs change from
    one texel to the next [P,4], in row order; and which texels these are, bool [R,S]."""
    rast, rast_db = rasterize_layout(layout, size, device, rows)
    inside = rast[0, ..., 3].cpu() > 0
    rast, rast_db = rast[0].cpu()[inside].double().numpy(), rast_db[0].cpu()[inside].double().numpy()
    face = np.rint(rast[:, 3]).astype(int) - 1
    weights = np.stack([rast[:, 0], rast[:, 1], 1 - rast[:, 0] - rast[:, 1]], axis=1)
    corners = surface.uvs[face]
    uvs, colors = np.einsum("nkc,nk->nc", corners, weights), np.einsum("nkc,nk->nc", surface.colors[face], weights)
    along, across = corners[:, 0] - corners[:, 2], corners[:, 1] - corners[:, 2]
    steps = [along * rast_db[:, [0 + axis]] + across * rast_db[:, [2 + axis]] for axis in range(2)]
    return face, uvs, colors, np.maximum(np.abs(steps[0]), np.abs(steps[1])), inside


def picture_painter(mesh: Mesh, picture: Reference) -> Callable[[Texels], tuple[Tensor, Tensor]]:
    """Of a mesh, a function that says what the picture shows at some texels [P,3], and how much that counts [P]: 1 where it sees the
    surface frontally, away from edges. Of several pictures each shows what it sees better than the others."""
    painters = [_view_painter(mesh, one) for one in picture.each()]

    def seen(texels: Texels) -> tuple[Tensor, Tensor]:
        colors, weights = zip(*(painter(texels) for painter in painters), strict=True)
        each, best = torch.stack(weights), torch.stack(weights).amax(0)
        share = each**BETTER / (each**BETTER).sum(0).clamp_min(1e-12)
        return (share[..., None] * torch.stack(colors)).sum(0), best

    return seen if len(painters) > 1 else painters[0]


def _view_painter(mesh: Mesh, picture: Reference) -> Callable[[Texels], tuple[Tensor, Tensor]]:
    """The same of one picture."""
    camera = picture.camera
    bare = MeshModel(Mesh(mesh.vertices, mesh.faces), camera.device)
    depth, _, _ = bare.geometry(camera, bare.rasterize(camera))
    core = -torch.nn.functional.max_pool2d(-picture.mask, 2 * PICTURE_EDGE + 1, stride=1, padding=PICTURE_EDGE)
    layers = torch.cat([picture.image, (core > 0.99).float()], dim=1)
    low, high = PICTURE_FACING

    def seen(texels: Texels) -> tuple[Tensor, Tensor]:
        positions, z = project_for_sampling(camera, texels.positions)
        samples = grid_sample(layers, positions[:, :, None], align_corners=False)[0, :, :, 0]
        nearest = grid_sample(depth, positions[:, :, None], mode="nearest", align_corners=False)[0, 0, :, 0]
        facing = (normalize(camera.centers - texels.positions, dim=-1) * texels.normals).sum(-1)
        weight = ((facing - low) / (high - low)).clamp(0, 1) * samples[3]
        visible = (nearest > 0) & (z[0] < nearest + DEPTH_TOLERANCE * bare.radius)
        return samples[:3].T, torch.where(visible, weight, 0)

    return seen
