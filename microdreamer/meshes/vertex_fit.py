"""Refines the vertices of a mesh by differentiable rendering, so that its pictures come closer to given ones.

Topology stays. Positions learn from where silhouettes and occlusion edges lie in the pictures; colours learn beside them, so that
the inside of the object has something to be compared with, and say nothing about positions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cam_utils import Cameras, concatenate, fitting_distance, orbit_cameras
from microdreamer.core import profiler
from microdreamer.core.cuda_graphs import GraphedStep
from microdreamer.kernels.adam import Adam
from microdreamer.kernels.mesh_raster import Topology, antialias, interpolate, mesh_topology, rasterize
from microdreamer.meshes import VERTEX_STEPS
from microdreamer.meshes.mesh import Mesh
from microdreamer.meshes.model import clip_positions
from microdreamer.meshes.shown import Shown, coloured
from microdreamer.meshes.topology import edges_of

if TYPE_CHECKING:
    from microdreamer.images.reference import Reference

OFFSET_EPS = 3e-5  # Adam's: gradients of vertices at silhouettes are 1e-4 and more; those that no picture needs to move stay
PICTURE_SHARE = 1 / 6
COLOR_MARGIN = 1e-3  # colours start no closer to 0 and 1, where a logit could not move


@dataclasses.dataclass(frozen=True)
class RefineSettings:
    """How vertices are refined; all terms are added to the mean squared difference of colours."""

    steps: int = VERTEX_STEPS
    views: int = 4  # a step
    offset_lr: float = 2e-3  # object's units a step; falls to a tenth
    color_lr: float = 2e-2  # of logits; falls to a tenth
    alpha_weight: float = 1.0
    normal_weight: float = 1e-2
    laplacian_weight: float = 10.0
    offset_weight: float = 0.1


# ---- Regularisers ----


class Neighbourhood:
    """Who is whose neighbour in a mesh: edges [E,2] of vertices, and pairs [I,2] of faces that share an edge."""

    def __init__(self, faces: np.ndarray, vertex_count: int, device: torch.device | str = "cpu") -> None:
        faces = np.asarray(faces, np.int64)
        found = edges_of(faces)
        edges = found.ends
        pairs = np.stack(found.pairs(), axis=1) % max(len(faces), 1)
        self.faces = torch.from_numpy(faces).to(device)
        self.edges = torch.from_numpy(edges).to(device)
        self.face_pairs = torch.from_numpy(pairs).to(device)
        degrees = np.bincount(edges.reshape(-1), minlength=vertex_count)
        self.degrees = torch.from_numpy(np.maximum(degrees, 1)).to(device)

    def laplacian(self, values: Tensor) -> Tensor:
        """Mean of the neighbours' values minus one's own, [V,C] of [V,C]; zero for a vertex without neighbours."""
        one, other = self.edges.unbind(1)
        differences = values.index_select(0, other) - values.index_select(0, one)
        sums = torch.zeros_like(values).index_add(0, one, differences).index_add(0, other, -differences)
        return sums / self.degrees[:, None]

    def normal_inconsistency(self, vertices: Tensor) -> Tensor:
        """Mean, over edges between two faces, of 1 - cos of the angle between their normals."""
        a, b, c = (vertices.index_select(0, corner) for corner in self.faces.unbind(1))
        normals = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=1)
        one, other = self.face_pairs.unbind(1)
        return (1 - (normals.index_select(0, one) * normals.index_select(0, other)).sum(1)).mean()


# ---- Refinement ----


def render(vertices: Tensor, colors: Tensor, faces: Tensor, cameras: Cameras, topology: Topology | None = None) -> Tensor:
    """Colours, premultiplied, and alpha [V,4,H,W] of a mesh of vertices [P,3], colors [P,3] and faces [F,3] int32, without light.

    Gradients reach vertices from silhouettes alone.
    """
    positions = clip_positions(cameras, vertices)
    rast, _ = rasterize(positions, faces, cameras.height, cameras.width)
    attributes = torch.cat([colors, torch.ones_like(colors[:, :1])], dim=1)[None]
    sharp, _ = interpolate(attributes, rast.detach(), faces)
    return antialias(sharp, rast, positions, faces, topology).permute(0, 3, 1, 2)


@profiler.function
def refine_vertices(
    mesh: Mesh,
    cameras: Cameras,
    target_images: Tensor,
    target_alphas: Tensor,
    settings: RefineSettings = RefineSettings(),
    *,
    background: float = 1.0,
    generator: torch.Generator | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Mesh:
    """The mesh with vertices moved, and colours learnt, to look like the pictures of V views.

    target_images [V,3,H,W] in [0,1] over the grey `background`; target_alphas [V,1,H,W]. Loss: squared differences of colour and
    alpha, 1 - cos between neighbouring faces, the squared Laplacian of the offsets and the squared offsets, weighted by
    `settings`. `generator` (on the CPU) draws the views of each step. Raises ValueError for pictures that do not fit the cameras.
    """
    device, count = target_images.device, len(cameras)
    for name, tensor, channels in (("target_images", target_images, 3), ("target_alphas", target_alphas, 1)):
        if tuple(tensor.shape) != (count, channels, cameras.height, cameras.width):
            wanted = [count, channels, cameras.height, cameras.width]
            raise ValueError(f"{name}: expected shape {wanted} like the cameras, got {list(tensor.shape)}")
    cameras = cameras.to(device)
    start = torch.from_numpy(mesh.vertices).to(device)
    faces = torch.from_numpy(mesh.faces).to(device)
    neighbourhood = Neighbourhood(mesh.faces, len(mesh.vertices), device)
    topology = mesh_topology(faces)
    offsets = torch.zeros_like(start, requires_grad=True)
    colors = torch.from_numpy(mesh.vertex_colors).to(device).clamp(COLOR_MARGIN, 1 - COLOR_MARGIN)
    color_logits = colors.logit().requires_grad_()
    groups = [{"params": [offsets], "lr": settings.offset_lr, "eps": OFFSET_EPS}, {"params": [color_logits], "lr": settings.color_lr}]
    optimizer = Adam(groups)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, max(settings.steps, 1))
    order = torch.rand(settings.steps, count, generator=generator).argsort(1)[:, : settings.views].to(device)

    def step(world_to_camera: Tensor, intrinsics: Tensor, images: Tensor, alphas: Tensor) -> Tensor:
        seen = dataclasses.replace(cameras, world_to_camera=world_to_camera, intrinsics=intrinsics)
        rendering = render(start + offsets, color_logits.sigmoid(), faces, seen, topology)
        image, alpha = rendering[:, :3] + background * (1 - rendering[:, 3:]), rendering[:, 3:]
        loss = (
            (image - images).square().mean()
            + settings.alpha_weight * (alpha - alphas).square().mean()
            + settings.normal_weight * neighbourhood.normal_inconsistency(start + offsets)
            + settings.laplacian_weight * neighbourhood.laplacian(offsets).square().sum(1).mean()
            + settings.offset_weight * offsets.square().sum(1).mean()
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    graphed = GraphedStep(step, device)
    for done, chosen in enumerate(order, start=1):
        graphed(cameras.world_to_camera[chosen], cameras.intrinsics[chosen], target_images[chosen], target_alphas[chosen])
        schedule.step()
        if progress:
            progress(done, settings.steps)
    vertices = (start + offsets).detach().cpu().numpy()
    return Mesh(vertices, mesh.faces, color_logits.detach().sigmoid().cpu().numpy())


def random_views(model: Shown, count: int, size: int, max_elevation: float, farthest: float, generator: torch.Generator) -> Cameras:
    """Cameras around the model, from where it just fits into the picture to `farthest` times that distance."""
    nearest = fitting_distance(model.reach)
    draws = torch.rand(3, count, generator=generator)
    elevation = max_elevation * (2 * draws[0] - 1)
    azimuth = 360 * (torch.arange(count) + draws[1]) / count  # one in each of `count` sectors
    distance = nearest * (1 + (farthest - 1) * draws[2])
    return orbit_cameras(elevation, azimuth, distance, width=size, height=size, device=model.device)


@profiler.function
def refine_to_model(
    mesh: Mesh,
    model: Shown,
    cameras: Cameras,
    settings: RefineSettings = RefineSettings(),
    generator: torch.Generator | None = None,
    progress: Callable[[int, int], None] | None = None,
    picture: Reference | None = None,
) -> Mesh:
    """The mesh, which keeps its texture coordinates, with vertices moved and coloured to look like renders of the Gaussians.

    Each view of `picture` counts as `PICTURE_SHARE` of those views.
    """
    if mesh.vertex_colors is None:
        mesh = dataclasses.replace(mesh, vertex_colors=coloured(mesh, model).vertex_colors)
    with torch.no_grad():
        rendering = model.render(cameras, 1.0)
    images, alphas = rendering.image, rendering.alpha
    if picture is not None:
        size, times = (cameras.height, cameras.width), max(round(PICTURE_SHARE * len(cameras)), 1)
        cameras = concatenate([cameras, *[picture.camera.resized(cameras.width, cameras.height)] * times])
        image, mask = (torch.nn.functional.interpolate(layer, size, mode="area") for layer in (picture.image, picture.mask))
        images, alphas = torch.cat([images, *[image] * times]), torch.cat([alphas, *[mask] * times])
    moved = refine_vertices(mesh, cameras, images, alphas, settings, generator=generator, progress=progress)
    return dataclasses.replace(mesh, vertices=moved.vertices, vertex_colors=moved.vertex_colors)
