"""What the second stage refines: the mesh of stage 1, one made of any Gaussians, or a mesh of the user's own, made fit for it.

Files of the user's own may hold an object of any size anywhere. Priors, pictures and the steps of the fits are made for one of about
unit size around the origin: a frame takes the object there and, when it is written, back.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from cam_utils import fitting_radius
from microdreamer.core.errors import UserError
from microdreamer.core.files import user_path
from microdreamer.core.staging import finish
from microdreamer.gaussians import captures
from microdreamer.gaussians.model import GaussianModel
from microdreamer.gaussians.splat_files import holds_gaussians, log_remarks, read_splats
from microdreamer.meshes.baking import bake, repainted, unwrapped
from microdreamer.meshes.cleaning import drop_unused_vertices, merge_vertices
from microdreamer.meshes.files import read_mesh
from microdreamer.meshes.mesh import Mesh
from microdreamer.pipeline.asset import make_mesh
from microdreamer.pipeline.config import Config

if TYPE_CHECKING:
    from microdreamer.images.reference import Reference
    from microdreamer.pipeline.results import Result

OFF_CENTER = 0.25  # of the object's reach, by which its middle may miss the origin, and
REACH_RANGE = (0.5, 1.5)  # its reach, as a share of what fits, to stay as it is: objects of stage 1 do
FRAMED_SHARE = 0.995  # of the opacity of Gaussians, that a frame holds
UNPAINTED = 0.5  # grey of a mesh that came without colours; from the ends of the scale, where sigmoids are flat, a fit hardly gets away
UV_TOLERANCE = 1e-5  # by which texture coordinates may leave [0,1]


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
    """A textured mesh and, where they are known, the Gaussians it was made of, both within `frame`."""

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
        mesh = read_mesh(user_path(config.mesh))
        try:
            mesh, frame = framed_mesh(mesh, config)
            return Subject(made_fit(mesh, config.texture_size, config.unwrap, picture, device), None, frame)
        except ValueError as error:
            raise ValueError(f"{config.mesh}: {error}") from error
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


def subject_of(
    source: Result | Mesh | GaussianModel | str | Path, config: Config, picture: Reference | None, device: torch.device
) -> Subject:
    """What `refine` was given: a result of stage 1, a mesh or Gaussians of the user's own, or the path of a file of either."""
    if isinstance(source, Mesh):
        mesh, frame = framed_mesh(source, config)
        return Subject(made_fit(mesh, config.texture_size, config.unwrap, picture, device), None, frame)
    if isinstance(source, GaussianModel):
        return gaussian_subject(source.arrays(), "y", config, picture, device)  # as all models here
    if isinstance(source, (str, Path)):
        key = "load" if holds_gaussians(source) else "mesh"
        return load_subject(dataclasses.replace(config, mesh=None, load=None, **{key: str(source)}), Path(), picture, device)
    if source.mesh is None:
        raise ValueError(f"there is no mesh to refine: {source.no_mesh}")
    return Subject(source.mesh, source.gaussians)


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


def framed_mesh(mesh: Mesh, config: Config) -> tuple[Mesh, Frame]:
    """The mesh within a frame for the cameras of `config`, and that frame, which vertices of no face have no say in."""
    frame = frame_of(mesh.vertices[mesh.faces].reshape(-1, 3), config.radius, config.fovy)
    return dataclasses.replace(mesh, vertices=frame.inward(mesh.vertices)), frame


def made_fit(mesh: Mesh, size: int, method: str, picture: Reference | None, device: torch.device) -> Mesh:
    """A mesh of the user's own with a texture that lies within [0,1], one vertex where several fell together, none without faces.

    A texture is made, of `size` texels a side by the unwrap `method`, where there is none (of vertex colours and the picture; all
    white counts as no colour) or where faces repeat it. Faces that use a vertex twice are dropped. Raises ValueError where no
    other is left.
    """
    used, faces = np.unique(mesh.faces, return_inverse=True)
    colors = None if mesh.vertex_colors is None else mesh.vertex_colors[used]
    mesh = dataclasses.replace(mesh, vertices=mesh.vertices[used], faces=faces, vertex_colors=colors)
    vertices, faces = merge_vertices(mesh.vertices.astype(np.float64), mesh.faces)
    a, b, c = faces.T
    solid = (a != b) & (b != c) & (c != a)
    if not solid.any():
        raise ValueError("expected a mesh with faces that have an area, found none")
    faces = faces[solid]
    uv_faces = None if mesh.uv_faces is None else mesh.uv_faces[solid]
    mesh = dataclasses.replace(mesh, faces=mesh.faces[solid], uv_faces=uv_faces)
    painted = within_unit_square(mesh) if mesh.has_texture else None
    if painted is None:
        layout = unwrapped(Mesh(vertices, faces), size, method)
        if mesh.has_texture:
            painted = repainted(mesh, layout, size, device)
        else:  # colours may differ between vertices that fall together, so these are joined after they are painted
            colors = np.full_like(mesh.vertices, UNPAINTED) if (mesh.vertex_colors == 1).all() else mesh.vertex_colors
            unpainted = Mesh(mesh.vertices, mesh.faces, colors, layout.uvs, layout.uv_faces)
            painted = bake(unpainted, size, None, picture, device)
    vertices, faces = drop_unused_vertices(vertices, faces)
    return Mesh(vertices, faces, uvs=painted.uvs, uv_faces=painted.uv_faces, texture=painted.texture)


def within_unit_square(mesh: Mesh) -> Mesh | None:
    """The textured mesh with every face's coordinates moved into [0,1] by whole repeats of the texture; None where that is not
    possible, because a face spans several."""
    corners = mesh.uvs[mesh.uv_faces].astype(np.float64)
    if corners.min() >= -UV_TOLERANCE and corners.max() <= 1 + UV_TOLERANCE:
        return mesh
    corners -= np.floor(corners.min(axis=1, keepdims=True) + UV_TOLERANCE)
    if corners.max() > 1 + UV_TOLERANCE:
        return None
    uvs, uv_faces = np.unique(corners.reshape(-1, 2).astype(np.float32), axis=0, return_inverse=True)
    return dataclasses.replace(mesh, uvs=uvs, uv_faces=uv_faces.reshape(-1, 3))
