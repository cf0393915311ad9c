"""Cameras: orbit poses and the camera batch that every renderer and prior takes.

Axes: the world is right-handed with +Y up; an object's front looks toward +Z, where azimuth is 0. Azimuth grows from +Z
toward +X. Elevation keeps the sign of DreamGaussian's and MicroDreamer's `orbit_camera`: **positive looks from below**.
Camera axes are OpenCV's (x right, y down, z forward) in `world_to_camera`, OpenGL's (x right, y up, z backward) in poses.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from microdreamer.core.transfer import send
from microdreamer.core.usual_view import FOV_Y, RADIUS

MARGIN = 1.05  # how much farther than where a ball just fits into the picture a camera is put

Number = float | Sequence[float] | np.ndarray | Tensor


def _columns(*values: Number) -> tuple[Tensor, ...]:
    """Each value as [V] float64 on the CPU, broadcast against the others."""
    return torch.broadcast_tensors(*(torch.as_tensor(value, dtype=torch.float64, device="cpu").reshape(-1) for value in values))


def orbit_direction(elevation: Tensor, azimuth: Tensor) -> Tensor:
    """Unit vectors [...,3] from the target toward cameras on an orbit, from degrees [...]: the one home of the sign of elevation.

    Positive elevation is below. What counts it upward (the micro prior, lights) passes its negative.
    """
    e, a = torch.deg2rad(elevation), torch.deg2rad(azimuth)
    return torch.stack([e.cos() * a.sin(), -e.sin(), e.cos() * a.cos()], dim=-1)


def orbit_axes(elevation: Tensor, azimuth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Right, up and backward of cameras on an orbit, unit vectors [...,3] in the world, from degrees [...]."""
    backward, a = orbit_direction(elevation, azimuth), torch.deg2rad(azimuth)
    right = torch.stack([a.cos(), torch.zeros_like(a), -a.sin()], dim=-1)
    return right, torch.linalg.cross(backward, right), backward


def orbit_poses(elevation: Number, azimuth: Number, radius: Number = RADIUS, target: Sequence[float] = (0.0, 0.0, 0.0)) -> Tensor:
    """Camera-to-world matrices [V,4,4] (float64, OpenGL axes) on a sphere around `target`.

    `elevation`, `azimuth` in degrees and `radius` broadcast against each other: numbers or sequences of length V. The
    position is `radius * (cos e sin a, -sin e, cos e cos a)`. At elevation +-90 the up direction is taken from the
    azimuth, so the matrix stays a rotation (the originals' degenerates there).
    """
    elevations, azimuths, radii = _columns(elevation, azimuth, radius)
    right, up, backward = orbit_axes(elevations, azimuths)
    pose = torch.eye(4, dtype=torch.float64).repeat(len(radii), 1, 1)
    pose[:, :3, :3] = torch.stack([right, up, backward], dim=-1)
    pose[:, :3, 3] = radii[:, None] * backward + torch.as_tensor(target, dtype=torch.float64)
    return pose


def orbit_camera(
    elevation: float,
    azimuth: float,
    radius: float = 1.0,
    is_degree: bool = True,
    target: Sequence[float] | None = None,
    opengl: bool = True,
) -> np.ndarray:
    """One camera-to-world matrix [4,4] (float32 numpy), with the signature of the originals' function.

    `is_degree=False` takes radians; `opengl=False` gives the originals' forward-looking axes (x right, y up, z forward: a
    left-handed frame).
    """
    if not is_degree:
        elevation, azimuth = math.degrees(elevation), math.degrees(azimuth)
    pose = orbit_poses(elevation, azimuth, radius, (0.0, 0.0, 0.0) if target is None else target)[0]
    if not opengl:
        pose[:3, 2] *= -1
    return pose.numpy().astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Cameras:
    """A batch of V pinhole cameras with one picture size. Made once; `to`, `resized` and indexing give new batches.

    world_to_camera [V,4,4] float32, OpenCV axes; intrinsics [V,4] = (fx, fy, cx, cy) in pixels, with pixel centres at
    +0.5; elevation, azimuth [V] degrees and radius [V]: where the cameras stand on their orbit (what a prior is told).
    """

    world_to_camera: Tensor
    intrinsics: Tensor
    width: int
    height: int
    elevation: Tensor
    azimuth: Tensor
    radius: Tensor

    def __len__(self) -> int:
        return len(self.world_to_camera)

    def _map(self, function) -> Cameras:
        changed = {f.name: function(getattr(self, f.name)) for f in dataclasses.fields(self) if isinstance(getattr(self, f.name), Tensor)}
        return dataclasses.replace(self, **changed)

    def __getitem__(self, index) -> Cameras:
        """A sub-batch; `index` is an integer, a slice or a tensor of indices (the result is always a batch)."""
        index = slice(index, index + 1 or None) if isinstance(index, int) else index
        return self._map(lambda tensor: tensor[index])

    def to(self, device: torch.device | str) -> Cameras:
        return self._map(lambda tensor: send(tensor, device))

    def resized(self, width: int, height: int) -> Cameras:
        """The same views at another picture size."""
        scale = torch.tensor([width / self.width, height / self.height] * 2, device=self.intrinsics.device)
        return dataclasses.replace(self, width=width, height=height, intrinsics=self.intrinsics * scale)

    def turned(self, azimuth: float) -> Cameras:
        """The same views in a world turned around its vertical axis so that what was at `azimuth` degrees is at 0."""
        angle = math.radians(azimuth)
        turn = torch.eye(4, dtype=torch.float64)
        turn[0, 0] = turn[2, 2] = math.cos(angle)
        turn[0, 2], turn[2, 0] = math.sin(angle), -math.sin(angle)
        world_to_camera = (self.world_to_camera.double() @ send(turn, self.device)).to(self.world_to_camera.dtype)
        return dataclasses.replace(self, world_to_camera=world_to_camera, azimuth=(self.azimuth - azimuth + 180).remainder(360) - 180)

    @property
    def device(self) -> torch.device:
        return self.world_to_camera.device

    @property
    def centers(self) -> Tensor:
        """Camera positions in the world [V,3]."""
        rotation, translation = self.world_to_camera[:, :3, :3], self.world_to_camera[:, :3, 3:]
        return -(rotation.transpose(1, 2) @ translation)[..., 0]

    @property
    def camera_to_world(self) -> Tensor:
        """Poses [V,4,4], OpenGL axes."""
        pose = torch.zeros_like(self.world_to_camera)
        rotation = self.world_to_camera[:, :3, :3].transpose(1, 2)
        pose[:, :3, 0], pose[:, :3, 1:3] = rotation[..., 0], -rotation[..., 1:]
        pose[:, :3, 3] = self.centers
        pose[:, 3, 3] = 1
        return pose


def concatenate(batches: Sequence[Cameras]) -> Cameras:
    """One batch of several. Raises ValueError if their picture sizes differ."""
    if len({(batch.width, batch.height) for batch in batches}) != 1:
        raise ValueError(f"cameras of different sizes: {sorted({(b.width, b.height) for b in batches})}")
    fields = [f.name for f in dataclasses.fields(Cameras) if f.name not in ("width", "height")]
    return dataclasses.replace(batches[0], **{name: torch.cat([getattr(batch, name) for batch in batches]) for name in fields})


def orbit_cameras(
    elevation: Number,
    azimuth: Number,
    radius: Number = RADIUS,
    *,
    fov_y: Number = FOV_Y,
    width: int = 256,
    height: int = 256,
    device: torch.device | str = "cpu",
) -> Cameras:
    """Cameras on orbits around the origin; `elevation`, `azimuth`, `fov_y` (degrees) and `radius` broadcast to V views.

    Raises ValueError for an empty picture, a field of view outside (0, 180) or a radius that is not positive.
    """
    if width < 1 or height < 1:
        raise ValueError(f"picture size {width}x{height}: expected at least 1x1")
    elevations, azimuths, radii, fovs = _columns(elevation, azimuth, radius, fov_y)
    if not bool(((fovs > 0) & (fovs < 180)).all()):
        raise ValueError(f"fov_y={fov_y}: expected degrees between 0 and 180")
    if not bool((radii > 0).all()):
        raise ValueError(f"radius={radii.tolist()}: expected positive distances")
    pose = orbit_poses(elevations, azimuths, radii)
    rotation = (pose[:, :3, :3] * pose.new_tensor([1.0, -1.0, -1.0])).transpose(1, 2)
    world_to_camera = torch.eye(4, dtype=torch.float64).repeat(len(pose), 1, 1)
    world_to_camera[:, :3, :3] = rotation
    world_to_camera[:, :3, 3] = -(rotation @ pose[:, :3, 3:])[..., 0]
    focal = 0.5 * height / torch.tan(torch.deg2rad(fovs) / 2)
    intrinsics = torch.stack([focal, focal, torch.full_like(focal, width / 2), torch.full_like(focal, height / 2)], dim=1)
    columns = (column.float() for column in (elevations, azimuths, radii))
    return Cameras(world_to_camera.float(), intrinsics.float(), width, height, *columns).to(device)


def turntable(count: int, elevation: float = 0.0, radius: float = RADIUS, **kwargs) -> Cameras:
    """`count` cameras evenly around the object, starting at the front; keywords as for `orbit_cameras`."""
    return orbit_cameras(elevation, [360.0 * k / count for k in range(count)], radius, **kwargs)


def fitting_distance(radius: float, fov_y: float = FOV_Y) -> float:
    """Distance from which the ball of `radius` around the target fits into a square picture, with a margin."""
    return MARGIN * radius / math.sin(math.radians(fov_y) / 2)


def fitting_radius(distance: float, fov_y: float = FOV_Y) -> float:
    """Radius of the ball around the target that fits into a square picture from `distance`: the inverse of `fitting_distance`."""
    return distance * math.sin(math.radians(fov_y / 2)) / MARGIN


def in_camera_axes(cameras: Cameras, points: Tensor) -> Tensor:
    """World positions [P,3] in the axes of each camera [V,P,3]: x right, y down, z forward."""
    return points @ cameras.world_to_camera[:, :3, :3].transpose(1, 2) + cameras.world_to_camera[:, None, :3, 3]


def project(cameras: Cameras, points: Tensor) -> tuple[Tensor, Tensor]:
    """Where world positions [P,3] fall in the pictures, in pixels [V,P,2] (x, y), and their view depth z [V,P].

    Pixels mean something only where z is positive.
    """
    x, y, z = in_camera_axes(cameras, points).unbind(-1)
    fx, fy, cx, cy = (value[:, None] for value in cameras.intrinsics.unbind(1))
    return torch.stack([fx * x / z + cx, fy * y / z + cy], dim=-1), z


def project_for_sampling(cameras: Cameras, points: Tensor) -> tuple[Tensor, Tensor]:
    """As `project`, with places [V,P,2] from -1 to 1 between the pictures' edges, as grid_sample (align_corners=False) wants them."""
    pixels, z = project(cameras, points)
    x, y = pixels.unbind(-1)
    return torch.stack([x / cameras.width, y / cameras.height], dim=-1) * 2 - 1, z


def unproject(cameras: Cameras, view: Tensor, pixels: Tensor, depth: Tensor) -> Tensor:
    """World positions [P,3] of places `pixels` [P,2] (x, y) at view depth z `depth` [P] in the pictures numbered `view` [P]."""
    fx, fy, cx, cy = cameras.intrinsics[view].unbind(1)
    x, y = pixels.unbind(1)
    in_camera = torch.stack([(x - cx) / fx * depth, (y - cy) / fy * depth, depth], dim=1)
    world_to_camera = cameras.world_to_camera[view]
    return (world_to_camera[:, :3, :3].transpose(1, 2) @ (in_camera - world_to_camera[:, :3, 3])[..., None])[..., 0]


def rays(cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Origins and unit directions [V,H,W,3] in the world of the rays through pixel centres."""
    columns = torch.arange(cameras.width, device=cameras.device) + 0.5
    rows = torch.arange(cameras.height, device=cameras.device) + 0.5
    fx, fy, cx, cy = cameras.intrinsics[:, :, None, None].unbind(1)
    x, y = torch.broadcast_tensors((columns[None, None] - cx) / fx, (rows[None, :, None] - cy) / fy)
    in_camera = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    directions = torch.nn.functional.normalize(in_camera.flatten(1, 2) @ cameras.world_to_camera[:, :3, :3], dim=-1)
    directions = directions.reshape(*x.shape, 3)
    return cameras.centers[:, None, None].expand_as(directions), directions
