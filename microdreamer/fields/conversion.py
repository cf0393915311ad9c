"""From Gaussians to a mesh by way of a neural field: fitted to renders of them, extracted, then refined by differentiable rendering.

The other way, `gaussians.extraction.extract_mesh`, takes the density of the Gaussians as it is. Here that density is only where the
field starts and where rays look for it: along a ray, samples lie in space where there are Gaussians at all, and the field learns
what to change so that volume renders of it look like the Gaussians' own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from cam_utils import Cameras, rays
from microdreamer.core import profiler
from microdreamer.fields.hash_field import NeuralField, Rays, Start, field_values, render_rays
from microdreamer.gaussians.extraction import DensityField, closed_surface, extract_fields, solid_core, surface_density, uncut_field
from microdreamer.gaussians.surface import seen_points
from microdreamer.kernels.hash_grid import HashGridSpec
from microdreamer.kernels.mesh_raster import interpolate, rasterize
from microdreamer.meshes import MESH_FACES
from microdreamer.meshes import cleaning as mesh_cleaning
from microdreamer.meshes.mesh import Mesh
from microdreamer.meshes.model import clip_positions
from microdreamer.meshes.shown import coloured
from microdreamer.meshes.vertex_fit import RefineSettings, random_views, refine_to_model

if TYPE_CHECKING:
    from microdreamer.gaussians.model import GaussianModel

Progress = Callable[[str, int, int], None]  # what is done, step, of how many

SURROUNDINGS = 4  # px
MIN_SHOWN = 0.02  # alpha of a pixel that shows the model
EMPTY = 0.02  # of the surface's density: what is less opaque is taken as empty
LOG_RANGE = 4.0  # logarithms of densities are cut off this far from the level's
LEVELS = (2.5, 5.0, 10.0, 20.0, 40.0, 80.0)  # among which that of the surface is looked for,
LEVEL_VIEWS = 16  # in so many views,
FAR_OFF = 0.2  # half sides of the box, beyond which a depth is no more wrong
SMALL_GRID = HashGridSpec(levels=6, features=2, log2_table_size=15, base_resolution=16, growth=1.6)  # finest 167, for a CPU


@dataclasses.dataclass(frozen=True)
class ConverterSettings:
    """The constants of a conversion; the defaults take about ten seconds on a CPU.

    Densities are per half side of the field's box, which is the published converter's unit.
    """

    grid: HashGridSpec = SMALL_GRID
    hidden: int = 32  # width of the two networks behind the grids
    grid_lr: float = 1e-2
    network_lr: float = 1e-3
    field_steps: int = 100
    views: int = 32  # renders that the field is fitted to
    view_size: int = 128  # px
    max_elevation: float = 45.0  # degrees
    farthest: float = 2.0  # distance of the farthest camera; that of the nearest is 1
    rays: int = 2048  # a step
    samples: int = 24  # a ray, all in space that is not empty
    bins: int = 96  # a ray, in which emptiness is looked up
    alpha_weight: float = 1.0
    field_resolution: int = 128  # of the Gaussians' density
    start_density: float = 60.0  # of the field, at first, where renders of the Gaussians see their surface
    sharpness: float = 1.5  # power of the Gaussians' density that the field starts from
    density_level: float | None = None  # of the surface; None takes the one that comes closest to renders
    mesh_resolution: int = 128
    smoothness: float = 0.7  # nodes, by which the field is blurred before its surface is taken
    smoothing_steps: int = 3
    refine_views: int = 24  # renders that vertices are refined to; none leaves them where they are
    refine_size: int = 256  # px
    refine_elevation: float = 30.0  # degrees
    refine: RefineSettings = dataclasses.field(default_factory=RefineSettings)


@torch.no_grad()
def start_of(model: GaussianModel, settings: ConverterSettings) -> Start:
    """Where the field starts: from the Gaussians' density, relative to that at which renders see their surface."""
    field = extract_fields(model, settings.field_resolution, relax_ratio=None)
    threshold = surface_density(field, seen_points(model))
    field = uncut_field(model, field, threshold)
    relative = field.values / threshold
    known = settings.sharpness * relative.clamp_min(1e-6).log() + math.log(settings.start_density)
    occupied = (relative > EMPTY).float()
    return Start(field, known, nn.functional.max_pool3d(occupied[None, None], 3, 1, 1)[0, 0])


@torch.no_grad()
def rays_of(model: GaussianModel, cameras: Cameras) -> Rays:
    """The rays of renders of the model through pixels that show it, or lie within SURROUNDINGS pixels of one that does."""
    rendering = model.render(cameras, 0.0)
    origins, directions = rays(cameras)
    near = nn.functional.max_pool2d(rendering.alpha, 2 * SURROUNDINGS + 1, 1, SURROUNDINGS) > MIN_SHOWN
    kept = near.reshape(-1).nonzero()[:, 0]
    color = rendering.image.permute(0, 2, 3, 1)
    return Rays(origins.reshape(-1, 3), directions.reshape(-1, 3), color.reshape(-1, 3), rendering.alpha.reshape(-1))[kept]


@profiler.function
def fit_field(
    model: GaussianModel, start: Start, settings: ConverterSettings, generator: torch.Generator, progress: Progress | None = None
) -> NeuralField:
    """A field whose volume renders over white look like those of the model."""
    device = model.device
    views = random_views(model, settings.views, settings.view_size, settings.max_elevation, settings.farthest, generator)
    rays = rays_of(model, views)
    field = NeuralField(start, settings.grid, settings.hidden, generator).to(device)
    optimizer = field.make_optimizer(settings.grid_lr, settings.network_lr)
    draw = torch.Generator(device).manual_seed(int(torch.randint(1 << 31, (), generator=generator)))
    for step in range(settings.field_steps):
        batch = rays[torch.randint(len(rays.alpha), (settings.rays,), generator=draw, device=device)]
        jitter = torch.rand(settings.rays, settings.samples, generator=draw, device=device)
        color, alpha = render_rays(field, batch.origins, batch.directions, settings.samples, settings.bins, jitter)
        on_white = (color + (1 - alpha)[:, None]) - (batch.color + (1 - batch.alpha)[:, None])
        loss = on_white.square().mean() + settings.alpha_weight * (alpha - batch.alpha).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if progress:
            progress("field", step + 1, settings.field_steps)
    return field


def level_surface(density: DensityField, level: float, core: np.ndarray, smoothness: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [V,3] in the world and faces [F,3] where the density passes `level`, or `core` [R,R,R] passes zero.

    The surface is looked for in the logarithm of the density, which varies evenly across it, blurred by `smoothness` nodes; a
    border of nothing closes it.
    """
    height = (density.values.double() / level).log().clamp(-LOG_RANGE, LOG_RANGE).cpu().numpy()
    height = np.maximum(ndimage.gaussian_filter(height, smoothness), core)
    indices, faces = closed_surface(torch.from_numpy(height).to(density.values.device))
    return density.to_world(indices), faces


@torch.no_grad()
def find_level(model: GaussianModel, density: DensityField, core: np.ndarray, settings: ConverterSettings, cameras: Cameras) -> float:
    """The density level whose surface comes closest to what renders of the model from `cameras` show, in outline and in depth.

    Sharp Gaussians have their surface where the field is dense; blurred ones, as views that disagree leave them, reach no such
    density in places. The error is the mean difference of alpha, as a share of the mean alpha, plus that of depth in half sides of
    the box. The level is looked for among LEVELS, then by a parabola through the best of them and its neighbours.
    """
    rendering = model.render(cameras, 0.0)
    alpha, is_seen = rendering.alpha[:, 0], rendering.alpha[:, 0] > 0.5
    depth = (rendering.depth / rendering.alpha.clamp_min(0.5))[:, 0]
    errors = []
    for level in LEVELS:
        vertices, faces = level_surface(density, level, core, settings.smoothness)
        if len(faces) == 0:
            errors.append(math.inf)
            continue
        faces = torch.from_numpy(faces).int().to(alpha.device)
        positions = clip_positions(cameras, torch.from_numpy(vertices).float().to(alpha.device))
        rast, _ = rasterize(positions, faces, cameras.height, cameras.width)
        covered = rast[..., 3] > 0
        view_z = interpolate(positions[..., 3:].contiguous(), rast, faces)[0][..., 0]
        behind = ((view_z - depth) * density.scale).abs().clamp_max(FAR_OFF)[covered & is_seen]
        errors.append(float((covered.float() - alpha).abs().mean() / alpha.mean() + behind.mean()))
    best = int(np.argmin(errors))
    if best in (0, len(LEVELS) - 1):
        return LEVELS[best]
    before, here, after = errors[best - 1 : best + 2]
    shift = 0.5 * (before - after) / max(before - 2 * here + after, 1e-12)
    return LEVELS[best] * (LEVELS[best + 1] / LEVELS[best]) ** min(max(shift, -0.5), 0.5)


@torch.no_grad()
def extract_surface(
    model: GaussianModel, field: NeuralField, settings: ConverterSettings, generator: torch.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [V,3] in the world and faces [F,3] of the field's surface: closed, without hollows and crumbs.

    Raises ValueError where the field does not reach the level.
    """
    density = field_values(field, settings.mesh_resolution)
    seen = seen_points(model)
    core = solid_core(field.start.field, surface_density(field.start.field, seen), seen).cpu().numpy()
    core = resampled(core, settings.mesh_resolution)
    level = settings.density_level
    if level is None:
        cameras = random_views(model, LEVEL_VIEWS, settings.view_size, settings.max_elevation, 1.0, generator)
        level = find_level(model, density, core, settings, cameras)
    vertices, faces = level_surface(density, level, core, settings.smoothness)
    vertices, faces = mesh_cleaning.keep_outer_parts(vertices, faces)
    if len(faces) == 0:
        peak = float(density.values.max())
        raise ValueError(f"density_level={level:g}: no closed surface there, the field reaches {peak:.4g}; choose a lower level")
    return mesh_cleaning.smooth(vertices, faces, settings.smoothing_steps), faces


def resampled(values: np.ndarray, resolution: int) -> np.ndarray:
    """A field [R,R,R] at the nodes of a grid of `resolution` over the same box, trilinear."""
    if len(values) == resolution:
        return values
    size = (resolution,) * 3
    return nn.functional.interpolate(torch.from_numpy(values)[None, None].float(), size, mode="trilinear", align_corners=True)[0, 0].numpy()


@profiler.function
def convert(
    model: GaussianModel,
    target_faces: int = MESH_FACES,
    settings: ConverterSettings = ConverterSettings(),
    *,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> Mesh:
    """The surface that renders of the Gaussians show: closed, edge-manifold, of at most about `target_faces` faces.

    A neural field is fitted to renders, its surface simplified to `target_faces` if it has more, and its vertices
    refined until the mesh looks like the Gaussians from around; coloured a vertex as renders show it. An alternative to
    `gaussians.extraction.extract_mesh`, slower and closer to the renders. Vertices are in the world of the Gaussians. `generator` (on the
    CPU; default: seed 0) draws views, rays and initial values. Raises ValueError where there is no surface.
    """
    generator = generator or torch.Generator().manual_seed(0)
    start = start_of(model, settings)
    field = fit_field(model, start, settings, generator, progress)
    vertices, faces = mesh_cleaning.simplify(*extract_surface(model, field, settings, generator), target_faces)
    mesh = coloured(Mesh(vertices, faces), model)
    if settings.refine_views and settings.refine.steps:
        mesh = coloured(refined(mesh, model, settings, generator, progress), model)
    return mesh


def refined(
    mesh: Mesh, model: GaussianModel, settings: ConverterSettings, generator: torch.Generator, progress: Progress | None = None
) -> Mesh:
    """The mesh with its vertices refined to renders of the model."""
    cameras = random_views(model, settings.refine_views, settings.refine_size, settings.refine_elevation, 1.0, generator)
    told = None if progress is None else lambda step, total: progress("refine", step, total)
    return refine_to_model(mesh, model, cameras, settings.refine, generator, told)
