"""What the second stage refines: the mesh of stage 1, one made of any Gaussians, or a mesh of the user's own, made fit for it.

Files of the user's own may hold an object of any size anywhere. Priors, pictures and the steps of the fits are made for one of about
unit size around the origin: a frame takes the object there and, when it is written, back.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from cam_utils import fitting_radius
from microdreamer.core.errors import UserError
from microdreamer.core.files import user_path
from microdreamer.core.staging import finish
from microdreamer.core.unique_rows import unique_rows
from microdreamer.gaussians import captures
from microdreamer.gaussians.model import GaussianModel
from microdreamer.gaussians.splat_files import log_remarks, read_splats
from microdreamer.meshes.baking import bake, repainted, unwrapped, welded, with_picture
from microdreamer.meshes.cleaning import drop_unused_vertices
from microdreamer.meshes.files import read_mesh, read_surface
from microdreamer.meshes.mesh import Mesh
from microdreamer.meshes.surface import UV_TOLERANCE, Surface
from microdreamer.pipeline.asset import make_mesh
from microdreamer.pipeline.config import Config

if TYPE_CHECKING:
    from microdreamer.images.reference import Reference
    from microdreamer.pipeline.results import Result

log = logging.getLogger(__name__)

OFF_CENTER = 0.25  # of the object's reach, by which its middle may miss the origin, and
REACH_RANGE = (0.5, 1.5)  # its reach, as a share of what fits, to stay as it is: objects of stage 1 do
FRAMED_SHARE = 0.995  # of the opacity of Gaussians, that a frame holds
UNPAINTED = 0.5  # grey of a mesh that came without colours; from the ends of the scale, where sigmoids are flat, a fit hardly gets away


class Frame(NamedTuple):
    """An object's point p is at (p - center [3]) * scale while it is refined."""

    center: np.ndarray
    scale: float

    def inward(self, points: np.ndarray) -> np.ndarray:
        return (points.astype(np.float64) - self.center) * self.scale

    def outward(self, points: np.ndarray) -> np.ndarray:
        return points.astype(np.float64) / self.scale + self.center


UNMOVED = Frame(np.zeros(3), 1.0)


@dataclasses.dataclass(frozen=True)
class Subject:
    """A textured mesh and, where they are known, the Gaussians it was made of, both within `frame`. The mesh's texture is its own."""

    mesh: Mesh
    gaussians: GaussianModel | None
    frame: Frame = UNMOVED

    def placed_back(self, mesh: Mesh) -> Mesh:
        """A mesh within the frame where, and as large as, the object was in its file."""
        return dataclasses.replace(mesh, vertices=self.frame.outward(mesh.vertices))


def frame_of(points: np.ndarray, radius: float, fov_y: float) -> Frame:
    """The frame in which points [P,3] just fit into the view of cameras at distance `radius`, whichever side they look from.

    Raises ValueError for points that all fall into one.
    """
    low, high = points.min(0).astype(np.float64), points.max(0).astype(np.float64)
    center = (low + high) / 2
    return frame_around(center, float(np.linalg.norm(points - center, axis=1).max()), radius, fov_y)


def frame_around(center: np.ndarray, reach: float, radius: float, fov_y: float) -> Frame:
    """The frame in which a ball of radius `reach` around `center` [3] just fits into the view of cameras at distance `radius`.

    One of about that size around the origin stays where it is. Raises ValueError for a ball without a size.
    """
    if not 0 < reach < math.inf:
        raise ValueError(f"expected an object with a size, got one that reaches {reach:g} from its middle")
    fitting = fitting_radius(radius, fov_y)
    smallest, largest = REACH_RANGE
    if np.linalg.norm(center) <= OFF_CENTER * reach and smallest <= reach / fitting <= largest:
        return UNMOVED
    return Frame(center, fitting / reach)


def load_subject(config: Config, stem: Path, picture: Reference | None, device: torch.device) -> Subject:
    """The mesh to refine: `config.mesh`, else one made of the Gaussians `config.load`, else what stage 1 wrote under `stem`.

    Raises UserError where there is none, ValueError and OSError for files that cannot be used.
    """
    if config.mesh:
        surface = read_surface(user_path(config.mesh))
        try:
            surface, frame = framed_surface(surface, config)
            mesh = made_fit(surface, config.texture_size, config.unwrap, picture, device)
        except ValueError as error:
            raise ValueError(f"{config.mesh}: {error}") from error
        for note in surface.notes:
            log.warning("%s: %s", config.mesh, note)
        return Subject(mesh, None, frame)
    if config.load:
        parameters, stated_up, remarks = read_splats(user_path(config.load))
        try:
            subject = gaussian_subject(parameters, stated_up, config, picture, device)
        except ValueError as error:
            raise ValueError(f"{config.load}: {'; '.join([str(error), *remarks])}") from error
        log_remarks(config.load, remarks)
        return subject
    finish(stem)
    found = [path for path in (Path(f"{stem}_model.glb"), Path(f"{stem}_model.obj")) if path.is_file()]
    if not found:
        raise UserError(f"{stem}_model.glb: there is no mesh of that name; run main.py first, or pass --from-mesh or --from-splats FILE")
    mesh, ply = read_mesh(found[0]), Path(f"{stem}_model.ply")
    gaussians = GaussianModel.load(ply, device) if ply.is_file() else None
    if not mesh.has_texture:
        mesh = bake(unwrapped(mesh, config.texture_size, config.unwrap), config.texture_size, gaussians, picture, device)
    return Subject(mesh, gaussians)


def subject_of(source: Result | Mesh | GaussianModel, config: Config, picture: Reference | None, device: torch.device) -> Subject:
    """What `refine` was given: a result of stage 1, or a mesh or Gaussians of the user's own."""
    if isinstance(source, Mesh):
        surface, frame = framed_surface(Surface.of_mesh(source), config)
        return Subject(made_fit(surface, config.texture_size, config.unwrap, picture, device), None, frame)
    if isinstance(source, GaussianModel):
        return gaussian_subject(source.arrays(), "y", config, picture, device)  # as all models here
    if source.mesh is None:
        raise ValueError(f"there is no mesh to refine: {source.no_mesh}")
    texture = None if source.mesh.texture is None else source.mesh.texture.copy()
    return Subject(dataclasses.replace(source.mesh, texture=texture), source.gaussians)


def gaussian_subject(
    parameters: captures.Parameters, stated_up: str | None, config: Config, picture: Reference | None, device: torch.device
) -> Subject:
    """The mesh of Gaussians of the user's own; see `framed_gaussians`."""
    gaussians, frame = framed_gaussians(parameters, stated_up, config, device)
    solid = GaussianModel.from_arrays(captures.thickened(gaussians.arrays()), device)
    return Subject(make_mesh(config, solid, picture), gaussians, frame)


def framed_gaussians(
    parameters: captures.Parameters, stated_up: str | None, config: Config, device: torch.device
) -> tuple[GaussianModel, Frame]:
    """The Gaussians of a file, cleaned and upright, within a frame for the cameras of `config`, and that frame.

    Raises ValueError where there are none, or none that can be seen.
    """
    if not len(parameters["means"]):
        raise ValueError("expected Gaussians, found none")
    parameters = captures.upright(captures.cleaned(parameters) if config.clean else parameters, config.up, stated_up)
    frame = frame_around(*captures.extent_of(parameters, FRAMED_SHARE), config.radius, config.fovy)
    parameters["means"] = frame.inward(parameters["means"]).astype(np.float32)
    parameters["log_scales"] = parameters["log_scales"] + np.float32(math.log(frame.scale))
    model = GaussianModel.from_arrays(parameters, device)
    if config.clean:
        model = captures.without_white_floaters(model, config.radius, config.fovy)
    return model, frame


def framed_surface(surface: Surface, config: Config) -> tuple[Surface, Frame]:
    """The surface within a frame for the cameras of `config`, and that frame, which vertices of no face have no say in."""
    frame = frame_of(surface.vertices[surface.faces].reshape(-1, 3), config.radius, config.fovy)
    return dataclasses.replace(surface, vertices=frame.inward(surface.vertices)), frame


def made_fit(surface: Surface, size: int, method: str, picture: Reference | None, device: torch.device) -> Mesh:
    """A mesh of the user's own with a texture that lies within [0,1], one vertex where several fell together, none without faces.

    Where it has one texture that every face shows once, that is it. Else a texture is made, of `size` texels a side by the unwrap
    `method`: of all the file's materials, or, where it has no texture, of its colours and the picture (all white counts as no colour).
    Faces that use a vertex twice are dropped. Raises ValueError where no other is left.
    """
    surface, vertices, faces = welded(surface)
    painted = None
    if surface.has_texture and (mesh := surface.to_mesh()) is not None:
        painted = within_unit_square(mesh)
    if painted is None:
        layout = unwrapped(Mesh(vertices, faces), size, method)
        if surface.is_white:
            grey = Mesh(vertices, faces, np.full_like(vertices, UNPAINTED), layout.uvs, layout.uv_faces)
            painted = bake(grey, size, None, picture, device)
        else:
            painted = repainted(surface, layout, size, device)
            if picture is not None and not surface.has_texture:
                painted = with_picture(painted, size, picture, device)
    vertices, faces = drop_unused_vertices(vertices, faces)
    return Mesh(vertices, faces, uvs=painted.uvs, uv_faces=painted.uv_faces, texture=painted.texture)


def within_unit_square(mesh: Mesh) -> Mesh | None:
    """The textured mesh with every face's coordinates moved into [0,1] by whole repeats of the texture; None where that is not
    possible, because a face spans several."""
    assert mesh.uvs is not None
    corners = mesh.uvs[mesh.uv_faces].astype(np.float64)
    if corners.min() >= -UV_TOLERANCE and corners.max() <= 1 + UV_TOLERANCE:
        return mesh
    corners -= np.floor(corners.min(axis=1, keepdims=True) + UV_TOLERANCE)
    if corners.max() > 1 + UV_TOLERANCE:
        return None
    uvs, _, uv_faces = unique_rows(corners.reshape(-1, 2).astype(np.float32))
    return dataclasses.replace(mesh, uvs=uvs, uv_faces=uv_faces.reshape(-1, 3))
