"""Training batches, drawn and rendered on the device: objects, cameras, light, captions and what is left out.

Every sample is a reference view and four target views of one object in one light. All draws are tensor operations on the
device's default generator and the renderer needs no host, so that a batch can be part of a captured CUDA graph.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from cam_utils import FOV_Y, RADIUS, orbit_axes
from microdreamer.guidance.micro.network import PATCH, camera_features, pixel_rays
from microdreamer.kernels.mesh_render import render_meshes
from microdreamer.shapes import OBJECT_RADIUS
from microdreamer.shapes.render import random_lights
from microdreamer.training.micro_prior.bank import Bank
from microdreamer.training.micro_prior.degrade import degrade

VIEWS = 4
TAN_HALF = math.tan(math.radians(FOV_Y / 2))
REACH = 0.88  # radius of the ball that an object may fill after it was scaled; 0.91 touches the picture's border
WITH_PICTURE_AND_TEXT, WITH_PICTURE, WITH_TEXT = 0.30, 0.40, 0.20  # shares of the samples; the rest sees neither
DEGRADED = 0.3  # share of the pictures that are degraded
OTHER_LENS = 0.15  # share of the pictures taken from another distance, with the lens that shows the object as large


@dataclasses.dataclass
class Batch:
    """What a training step reads: views [B,4,3,R,R] and picture [B,3,R,R] in [-1,1], rays and camera with the reference last."""

    views: Tensor
    picture: Tensor
    rays: Tensor
    camera: Tensor
    tokens: Tensor


def uniform(shape: tuple[int, ...], low: float, high: float, device: torch.device) -> Tensor:
    return torch.rand(shape, device=device) * (high - low) + low


def world_to_camera(azimuth: Tensor, elevation_up: Tensor, radius: Tensor | float = RADIUS) -> Tensor:
    """[..., 3, 4] world-to-camera matrices (OpenCV axes) of orbit cameras; angles in degrees."""
    right, up, backward = orbit_axes(-elevation_up, azimuth)
    zero = torch.zeros_like(azimuth)
    rotation = torch.stack([right, -up, -backward], dim=-2)
    return torch.cat([rotation, torch.stack([zero, zero, zero + radius], dim=-1)[..., None]], dim=-1)


def random_tilts(count: int, device: torch.device) -> Tensor:
    """[count,3,3]: a quarter leans by some degrees, three tenths are sheared, the rest are identities."""
    lean = torch.deg2rad(8 * torch.randn(count, device=device)) * (torch.rand(count, device=device) < 0.25)
    toward = uniform((count,), 0, 2 * math.pi, device)
    zero = torch.zeros_like(lean)
    axis = torch.stack([toward.cos(), zero, toward.sin()], dim=-1)
    cross = torch.stack(
        [
            torch.stack([zero, -axis[:, 2], zero], dim=-1),
            torch.stack([axis[:, 2], zero, -axis[:, 0]], dim=-1),
            torch.stack([zero, axis[:, 0], zero], dim=-1),
        ],
        dim=-2,
    )
    identity = torch.eye(3, device=device)
    rotation = identity + lean.sin()[:, None, None] * cross + (1 - lean.cos())[:, None, None] * cross @ cross
    shear = 0.1 * torch.randn(count, 3, 3, device=device) * (1 - identity) * (torch.rand(count, 1, 1, device=device) < 0.3)
    return rotation @ (identity + shear)


def random_shapes(support: Tensor, reference: Tensor, recentre: Tensor) -> Tensor:
    """Object-to-world matrices [B,3,4]: mirrored, stretched, tilted and, where `recentre`, moved as a cut-out photograph would be.

    support [B,S,3]; reference [B,3,4] the reference camera; recentre [B] bool: the object is scaled and shifted until its
    box in the reference picture is centred and fills 65 to 95 % of it (but stays within REACH of the centre).
    """
    batch, device = len(support), support.device
    stretch = torch.exp(torch.randn(batch, 3, device=device) * 0.12) * (torch.rand(batch, 1, device=device) < 0.5)
    stretch = torch.where(stretch > 0, stretch, torch.ones_like(stretch))
    stretch[:, 0] *= torch.where(torch.rand(batch, device=device) < 0.5, -1.0, 1.0)
    shape = random_tilts(batch, device) * stretch[:, None]
    points = support @ shape.mT
    extent = points.norm(dim=-1).amax(dim=1)
    plain = OBJECT_RADIUS * uniform((batch,), 0.85, 1.0, device) / extent

    seen = points @ reference[:, :, :3].mT * plain[:, None, None] + reference[:, None, :, 3]
    picture = seen[..., :2] / seen[..., 2:] / TAN_HALF
    low, high = picture.amin(dim=1), picture.amax(dim=1)
    fill = uniform((batch,), 0.65, 0.95, device) / (0.5 * (high - low).amax(dim=1))
    scale = torch.where(recentre, torch.minimum(plain * fill, REACH / extent), plain)
    shift = -0.5 * (low + high) * TAN_HALF * RADIUS * (scale / plain)[:, None]
    shift = torch.einsum("bij,bi->bj", reference[:, :2, :3], shift) * recentre[:, None]
    return torch.cat([shape * scale[:, None, None], shift[..., None]], dim=-1)


def random_colours(count: int, keep: Tensor) -> Tensor:
    """Colour maps [count,3,4] on sRGB albedo: channels permuted, scaled and lifted, or the identity where `keep` [count]."""
    device = keep.device
    order = torch.rand(count, 3, device=device).argsort(dim=1)
    matrix = (order[..., None] == torch.arange(3, device=device)).float() * uniform((count, 3, 1), 0.75, 1.15, device)
    lift = uniform((count, 3, 1), -0.06, 0.06, device)
    identity = torch.eye(3, 4, device=device)
    return torch.where(keep[:, None, None], identity, torch.cat([matrix, lift], dim=-1))


@torch.no_grad()
def draw_batch(bank: Bank, count: int, resolution: int) -> Batch:
    """`count` random samples."""
    device = bank.tokens.device

    def chance(share: float) -> Tensor:
        return torch.rand(count, device=device) < share

    index = bank.draw(count)
    caption = bank.tokens[index, torch.randint(0, 3, (count,), device=device)]

    mode = torch.rand(count, device=device)
    has_picture = mode < WITH_PICTURE_AND_TEXT + WITH_PICTURE
    has_text = (mode < WITH_PICTURE_AND_TEXT) | ((mode >= WITH_PICTURE_AND_TEXT + WITH_PICTURE) & (mode < 0.9))
    canonical = chance(0.45)  # the first target is the reference view itself

    reference_azimuth = torch.where(chance(0.5), uniform((count,), -180, 180, device), 35 * torch.randn(count, device=device))
    reference_azimuth = torch.where(has_picture, reference_azimuth, 0.0)
    reference_up = torch.where(chance(0.8), uniform((count,), 0, 30, device), uniform((count,), -10, 45, device))
    start = torch.where(canonical, 0.0, uniform((count,), 0, 360, device))
    target_up = torch.where(canonical, reference_up, uniform((count,), -10, 40, device))
    spread = torch.arange(VIEWS, device=device) * (360 / VIEWS)
    relative = torch.cat([start[:, None] + spread, torch.zeros(count, 1, device=device)], dim=1)
    up = torch.cat([target_up[:, None].expand(count, VIEWS), reference_up[:, None]], dim=1)
    cameras = world_to_camera(relative + reference_azimuth[:, None], up)
    # A photograph's lens is unknown: some stand nearer or farther and show the object as large as from RADIUS.
    distance = torch.exp(uniform((count,), math.log(1.6), math.log(5.0), device))
    distance = torch.where(has_picture & chance(OTHER_LENS), distance, RADIUS)

    shapes = random_shapes(bank.support[index], cameras[:, -1], has_picture & chance(0.6))
    colours = random_colours(count, has_text | chance(0.5))
    lights = random_lights(count, device=device, front_azimuth=reference_azimuth)

    cameras[:, -1, 2, 3] = distance
    focal = torch.full((count, VIEWS + 1, 2), 0.5 * resolution / TAN_HALF, device=device)
    focal[:, -1] *= (distance / RADIUS)[:, None]
    intrinsics = torch.cat([focal, torch.full_like(focal, resolution / 2)], dim=-1).flatten(0, 1)

    def each_view(value: Tensor) -> Tensor:
        return value.repeat_interleave(VIEWS + 1, dim=0)

    meshes = bank.meshes
    rgba = render_meshes(
        meshes.vertices,
        meshes.faces,
        meshes.corner_colors,
        meshes.corner_normals,
        meshes.vertex_offset,
        meshes.face_offset,
        each_view(index),
        each_view(shapes),
        each_view(colours),
        cameras.flatten(0, 1).contiguous(),
        intrinsics,
        each_view(lights.lights),
        each_view(lights.ambient),
        resolution,
        resolution,
        gloss=each_view(lights.gloss),
        supersample=2,
        max_faces=meshes.max_faces,
    )
    white = rgba[:, :3].to(torch.int16) + (255 - rgba[:, 3:].to(torch.int16))
    images = (white.float() / 255).unflatten(0, (count, VIEWS + 1))
    views, picture = images[:, :VIEWS] * 2 - 1, images[:, VIEWS]
    coverage = rgba.unflatten(0, (count, VIEWS + 1))[:, VIEWS, 3:].float() / 255
    picture = torch.where(chance(DEGRADED)[:, None, None, None], degrade(picture, coverage), picture) * 2 - 1
    picture = torch.where(has_picture[:, None, None, None], picture, 1.0)

    # Without a picture, the reference slot stands at azimuth 0, unknown; azimuths are then absolute.
    present = has_picture.float()
    known = (has_picture & chance(0.7)).float()
    shown_up = torch.where(known > 0, reference_up, 0.0)
    tan_half, side = TAN_HALF, resolution // PATCH
    rays = torch.cat(
        [
            pixel_rays(relative[:, :VIEWS], up[:, :VIEWS], RADIUS, tan_half, side),
            pixel_rays(relative[:, VIEWS:], shown_up[:, None], RADIUS, tan_half, side),
        ],
        dim=1,
    )
    ones = torch.ones_like(up[:, :VIEWS])
    camera = torch.cat(
        [
            camera_features(relative[:, :VIEWS], up[:, :VIEWS], is_reference=False, known=ones, present=ones * present[:, None]),
            camera_features(relative[:, VIEWS:], shown_up[:, None], is_reference=True, known=known[:, None], present=present[:, None]),
        ],
        dim=1,
    )
    return Batch(views, picture, rays, camera, torch.where(has_text[:, None], caption, 0))
