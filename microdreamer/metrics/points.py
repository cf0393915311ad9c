"""Points on the outside of meshes: made meshes and true ones are compared only where somebody could look."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cam_utils import fitting_distance, orbit_cameras, project
from microdreamer.shapes.packed import PackedMeshes, pack
from microdreamer.shapes.render import Lights, render_views

POINTS = 10_000
# 26 directions: the faces, edges and corners of a cube, about as the views that a texture is baked from.
DIRECTIONS = [(elevation, azimuth) for elevation in (0, -45, 45) for azimuth in range(0, 360, 45)] + [(-90, 0), (90, 0)]
VIEW_SIZE = 256  # px
DEPTH_TOLERANCE = 0.02  # of the mesh's radius: 8-bit positions err by 0.012 at most, a slanted pixel by as much
BATCH = 20_000  # candidates drawn at a time
MAX_BATCHES = 25  # half a million candidates: enough where a fiftieth of the surface is outside


def flat_light(count: int, device: torch.device | str = "cpu") -> Lights:
    """Light for `count` views under which every surface shows its own colour."""
    return Lights(torch.zeros(count, 1, 6, device=device), torch.ones(count, 2, 3, device=device), torch.zeros(count, 2, device=device))


def draw_points(vertices: Tensor, faces: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` points [P,3], evenly by area, on a mesh of vertices [v,3] and faces [f,3] on the CPU."""
    corners = vertices.double()[faces.long()]
    areas = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1)
    heights = areas.cumsum(0)
    chosen = torch.searchsorted(heights, torch.rand(count, generator=generator, dtype=torch.float64) * heights[-1])
    chosen = chosen.clamp_max(len(faces) - 1)
    u, v = torch.rand(count, 2, generator=generator, dtype=torch.float64).unbind(1)
    root = u.sqrt()[:, None]
    a, b, c = corners[chosen].unbind(1)
    return ((1 - root) * a + root * (1 - v[:, None]) * b + root * v[:, None] * c).float()


class OuterSurface:
    """Tells which points of a mesh on the CPU are seen from outside, by depth in pictures from 26 directions.

    The pictures are renders whose colours are positions, so the data renderer serves as a depth renderer.
    """

    def __init__(self, vertices: Tensor, faces: Tensor) -> None:
        used = vertices[faces.long().unique()]
        self.radius = float(used.norm(dim=1).max())
        low, high = used.amin(0), used.amax(0)
        extent = (high - low).clamp_min(1e-6)
        as_colors = ((vertices - low) / extent * 255).round().clamp(0, 255).to(torch.uint8)[faces.long()]
        mesh = pack([(vertices, faces, as_colors, torch.zeros_like(as_colors, dtype=torch.int8))], ["positions"])
        elevation, azimuth = zip(*DIRECTIONS, strict=True)
        self.cameras = orbit_cameras(elevation, azimuth, fitting_distance(self.radius), width=VIEW_SIZE, height=VIEW_SIZE)
        pictures = render_views(mesh, 0, self.cameras, flat_light(len(self.cameras)), supersample=1)
        positions = pictures[:, :3].permute(0, 2, 3, 1) * extent + low
        depth = (positions * self.cameras.world_to_camera[:, None, None, 2, :3]).sum(-1) + self.cameras.world_to_camera[:, 2, 3, None, None]
        self.depth = torch.where(pictures[:, 3] > 0, depth, math.inf)

    def sees(self, points: Tensor) -> Tensor:
        """Whether each point [P,3] on the mesh is in sight of at least one direction [P]."""
        pixels, z = project(self.cameras, points)
        column, row = pixels.long().clamp(0, VIEW_SIZE - 1).unbind(-1)
        nearest = self.depth[torch.arange(len(self.cameras))[:, None], row, column]
        return (z <= nearest + DEPTH_TOLERANCE * self.radius).any(0)


def outer_points(vertices: Tensor, faces: Tensor, generator: torch.Generator, count: int = POINTS) -> Tensor:
    """`count` points [P,3], evenly by area, on the part of a mesh that is seen from outside (fewer where that is tiny).

    Raises ValueError for a mesh without faces.
    """
    if len(faces) == 0:
        raise ValueError("expected a mesh with faces, got none")
    vertices, faces = vertices.cpu().float(), faces.cpu()
    surface = OuterSurface(vertices, faces)
    found: list[Tensor] = []
    for _ in range(MAX_BATCHES):
        candidates = draw_points(vertices, faces, BATCH, generator)
        found.append(candidates[surface.sees(candidates)])
        if sum(map(len, found)) >= count:
            break
    return torch.cat(found)[:count]


def outer_points_of(meshes: PackedMeshes, index: int, generator: torch.Generator) -> Tensor:
    """`outer_points` of one packed mesh."""
    vertices, faces, _, _ = meshes.mesh(index)
    return outer_points(vertices, faces, generator)
