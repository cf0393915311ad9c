"""Pictures of packed meshes: light rigs and a render call that takes the project's cameras."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cam_utils import Cameras, orbit_direction
from microdreamer.kernels.mesh_render import render_meshes
from microdreamer.shapes.packed import PackedMeshes


@dataclasses.dataclass(frozen=True)
class Lights:
    """Light on B views: lights [B,L,6] (unit direction to the light in world axes, linear rgb intensity), ambient [B,2,3]
    (linear light on surfaces that face up and down), gloss [B,2] (strength and exponent of highlights)."""

    lights: Tensor
    ambient: Tensor
    gloss: Tensor

    def __len__(self) -> int:
        return len(self.lights)

    def _map(self, function) -> Lights:
        return Lights(function(self.lights), function(self.ambient), function(self.gloss))

    def __getitem__(self, index) -> Lights:
        """A sub-batch; `index` is a slice or a tensor of indices."""
        return self._map(lambda tensor: tensor[index])

    def to(self, device: torch.device | str) -> Lights:
        return self._map(lambda tensor: tensor.to(device))

    def repeat_interleave(self, views: int) -> Lights:
        """The light of each object `views` times over, for views [object, view] in one batch."""
        return self._map(lambda tensor: tensor.repeat_interleave(views, dim=0))


def _directions(elevation: Tensor, azimuth: Tensor) -> Tensor:
    """Unit vectors [B,3] from degrees; positive elevation is up here."""
    return orbit_direction(-elevation, azimuth)


def _tint(warmth: Tensor) -> Tensor:
    """Colour [B,3] of mean 1: redder for positive warmth, bluer for negative."""
    return torch.stack([1 + warmth, torch.ones_like(warmth), 1 - warmth], dim=-1)


def random_lights(
    count: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu", front_azimuth: Tensor | float = 0.0
) -> Lights:
    """`count` photo-like rigs: a key light from above and the front, a weak fill from the other side, and sky and ground.

    `front_azimuth` (degrees, a number or [count]) is where the front is: a camera's azimuth, or 0 for the world's. White
    that faces the key light gets 0.75 to 1.05 of full intensity (sRGB 0.88 and above); what the key does not give
    of it comes from sky and ground. Key and sky differ a little in warmth; half of the rigs have a soft highlight.
    Without host synchronisation, so that it can run inside a CUDA graph (`generator` on `device`, or the default one).
    """

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator, device=device)

    key_azimuth = uniform(-80, 80)
    key_direction = _directions(uniform(15, 75), key_azimuth + front_azimuth)
    fill_direction = _directions(uniform(-10, 45), key_azimuth + uniform(110, 250) + front_azimuth)
    exposure, key_part, fill_part = uniform(0.75, 1.05), uniform(0.45, 0.8), uniform(0.0, 0.2)
    ground_part = uniform(0.25, 0.85)
    upward = 0.5 + 0.5 * key_direction[:, 1]
    sky_level = exposure * (1 - key_part) / (ground_part + (1 - ground_part) * upward)
    warmth = uniform(-0.08, 0.08)
    key = torch.cat([key_direction, (exposure * key_part)[:, None] * _tint(warmth)], dim=-1)
    fill = torch.cat([fill_direction, (exposure * fill_part)[:, None] * _tint(uniform(-0.1, 0.1))], dim=-1)
    sky = sky_level[:, None] * _tint(-0.5 * warmth + uniform(-0.04, 0.04))
    ground = (sky_level * ground_part)[:, None] * _tint(uniform(-0.02, 0.08))
    strength = uniform(-0.25, 0.25).clamp_min(0)
    exponent = 2 ** uniform(3, 6)
    return Lights(torch.stack([key, fill], dim=1), torch.stack([sky, ground], dim=1), torch.stack([strength, exponent], dim=-1))


def studio_lights(count: int, device: torch.device | str = "cpu") -> Lights:
    """The fixed rig of evaluations, the same for all views: key from the upper front, fill, a rim from behind, soft ambient."""
    directions = ((0.3, 0.8, 0.55), (-0.8, 0.2, 0.5), (-0.2, 0.5, -0.85))
    intensities = ((0.62, 0.6, 0.57), (0.13, 0.14, 0.16), (0.24, 0.24, 0.25))
    rows = [
        [component / math.hypot(*direction) for component in direction] + list(intensity)
        for direction, intensity in zip(directions, intensities, strict=True)
    ]
    ambient = [[0.33, 0.34, 0.36], [0.19, 0.18, 0.17]]
    return Lights(
        torch.tensor(rows, device=device).repeat(count, 1, 1),
        torch.tensor(ambient, device=device).repeat(count, 1, 1),
        torch.zeros(count, 2, device=device),
    )


def render_views(
    packed: PackedMeshes,
    mesh_index: Tensor | Sequence[int] | int,
    cameras: Cameras,
    lights: Lights | None = None,
    supersample: int = 2,
    object_to_world: Tensor | None = None,
    color_transform: Tensor | None = None,
) -> Tensor:
    """Pictures [B,4,H,W] float32 0..1 (sRGB premultiplied by coverage, coverage), one for each camera.

    `mesh_index` names the mesh of each camera, or one mesh for all. `lights` default to `studio_lights`. The rest is as
    for `kernels.mesh_render.render_meshes`. Raises ValueError where the batches differ in length.
    """
    device, count = packed.device, len(cameras)
    if isinstance(mesh_index, int):
        mesh_index = torch.full((count,), mesh_index, dtype=torch.int64, device=device)
    mesh_index = torch.as_tensor(mesh_index, dtype=torch.int64, device=device)
    lights = studio_lights(count, device) if lights is None else lights
    if not len(mesh_index) == count == len(lights):
        raise ValueError(f"{count} cameras, {len(mesh_index)} mesh indices and {len(lights)} lights: expected as many of each")
    if object_to_world is None:
        object_to_world = torch.eye(3, 4, device=device).repeat(count, 1, 1)
    rgba = render_meshes(
        packed.vertices,
        packed.faces,
        packed.corner_colors,
        packed.corner_normals,
        packed.vertex_offset,
        packed.face_offset,
        mesh_index,
        object_to_world,
        color_transform,
        cameras.world_to_camera,
        cameras.intrinsics,
        lights.lights,
        lights.ambient,
        cameras.width,
        cameras.height,
        supersample,
        max_faces=packed.max_faces or None,
        gloss=lights.gloss,
    )
    return rgba.float() / 255


def over_white(rgba: Tensor) -> Tensor:
    """Pictures [B,3,H,W] float32 0..1 on white, from premultiplied RGBA [B,4,H,W], bytes or floats 0..1."""
    if rgba.dtype == torch.uint8:
        rgba = rgba.float() / 255
    return rgba[:, :3] + (1 - rgba[:, 3:])
