"""Training batches, drawn and rendered on the device: objects, cameras, light, captions and what is left out.

Every sample is a reference view and four target views of one object in one light. All draws are tensor operations on the
device's default generator and the renderer needs no host, so that a batch can be part of a captured CUDA graph.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from cam_utils import FOV_Y, RADIUS
from microdreamer.guidance.micro.network import PATCH, camera_features, pixel_rays
from microdreamer.guidance.micro.vocabulary import Vocabulary
from microdreamer.kernels.mesh_render import render_meshes
from microdreamer.shapes.packed import PackedMeshes
from microdreamer.shapes.render import random_lights

VIEWS = 4
SUPPORT_DIRECTIONS = 64
TAN_HALF = math.tan(math.radians(FOV_Y / 2))
REACH = 0.88  # radius of the ball that an object may fill after it was scaled; 0.91 touches the picture's border
WITH_PICTURE_AND_TEXT, WITH_PICTURE, WITH_TEXT = 0.30, 0.40, 0.20  # shares of the samples; the rest sees neither


@dataclasses.dataclass
class Bank:
    """All training objects on the device, with their captions as tokens and their extreme points."""

    meshes: PackedMeshes
    tokens: Tensor  # [M, 3, T] int64; rows past an object's captions repeat
    support: Tensor  # [M, SUPPORT_DIRECTIONS, 3] vertices farthest in each of many directions
    real: int  # the first `real` objects are drawn with `real_share`
    real_share: float

    @classmethod
    def build(
        cls, meshes: PackedMeshes, real: int, real_share: float, vocabulary: Vocabulary, length: int, device: torch.device | str
    ) -> Bank:
        rows = []
        for captions in meshes.captions:
            encoded = [vocabulary.encode(caption, length)[0] for caption in captions[:3]] or [[0] * length]
            rows.append([encoded[k % len(encoded)] for k in range(3)])
        return cls(meshes.to(device), torch.tensor(rows, device=device), support_points(meshes).to(device), real, real_share)


def support_points(meshes: PackedMeshes) -> Tensor:
    """[M, SUPPORT_DIRECTIONS, 3]: for each object the vertex that reaches farthest in each of a spiral of directions."""
    k = torch.arange(SUPPORT_DIRECTIONS) + 0.5
    height, turn = 1 - 2 * k / SUPPORT_DIRECTIONS, k * math.pi * (3 - 5**0.5)
    ring = (1 - height**2).sqrt()
    directions = torch.stack([ring * turn.cos(), height, ring * turn.sin()], dim=0)
    points = []
    for first, last in zip(meshes.vertex_offset[:-1].tolist(), meshes.vertex_offset[1:].tolist(), strict=True):
        vertices = meshes.vertices[first:last]
        points.append(vertices[(vertices @ directions).argmax(dim=0)])
    return torch.stack(points)


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


def world_to_camera(azimuth: Tensor, elevation_up: Tensor) -> Tensor:
    """[..., 3, 4] world-to-camera matrices (OpenCV axes) of orbit cameras at RADIUS."""
    a, e = torch.deg2rad(azimuth), torch.deg2rad(elevation_up)
    zero = torch.zeros_like(a)
    backward = torch.stack([e.cos() * a.sin(), e.sin(), e.cos() * a.cos()], dim=-1)
    right = torch.stack([a.cos(), zero, -a.sin()], dim=-1)
    up = torch.linalg.cross(backward, right)
    rotation = torch.stack([right, -up, -backward], dim=-2)
    return torch.cat([rotation, torch.stack([zero, zero, torch.full_like(a, RADIUS)], dim=-1)[..., None]], dim=-1)


def random_shapes(support: Tensor, reference: Tensor, recentre: Tensor) -> Tensor:
    """Object-to-world matrices [B,3,4]: mirrored, stretched and, where `recentre`, moved as a cut-out photograph would be.

    support [B,S,3]; reference [B,3,4] the reference camera; recentre [B] bool: the object is scaled and shifted until its
    box in the reference picture is centred and fills 65 to 95 % of it (but stays within REACH of the centre).
    """
    batch, device = len(support), support.device
    stretch = torch.exp(torch.randn(batch, 3, device=device) * 0.12) * (torch.rand(batch, 1, device=device) < 0.5)
    stretch = torch.where(stretch > 0, stretch, torch.ones_like(stretch))
    stretch[:, 0] *= torch.where(torch.rand(batch, device=device) < 0.5, -1.0, 1.0)
    points = support * stretch[:, None]
    extent = points.norm(dim=-1).amax(dim=1)
    plain = 0.8 * uniform((batch,), 0.85, 1.0, device) / extent

    seen = points @ reference[:, :, :3].mT * plain[:, None, None] + reference[:, None, :, 3]
    picture = seen[..., :2] / seen[..., 2:] / TAN_HALF
    low, high = picture.amin(dim=1), picture.amax(dim=1)
    fill = uniform((batch,), 0.65, 0.95, device) / (0.5 * (high - low).amax(dim=1))
    scale = torch.where(recentre, torch.minimum(plain * fill, REACH / extent), plain)
    shift = -0.5 * (low + high) * TAN_HALF * RADIUS * (scale / plain)[:, None]
    shift = torch.einsum("bij,bi->bj", reference[:, :2, :3], shift) * recentre[:, None]
    return torch.cat([torch.diag_embed(stretch * scale[:, None]), shift[..., None]], dim=-1)


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

    from_real = chance(bank.real_share)
    total = len(bank.tokens)
    index = torch.where(
        from_real, torch.randint(0, bank.real, (count,), device=device), torch.randint(bank.real, total, (count,), device=device)
    )
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

    shapes = random_shapes(bank.support[index], cameras[:, -1], has_picture & chance(0.6))
    colours = random_colours(count, has_text | chance(0.5))
    lights = random_lights(count, device=device, front_azimuth=reference_azimuth)

    focal = torch.full((count * (VIEWS + 1), 2), 0.5 * resolution / TAN_HALF, device=device)
    intrinsics = torch.cat([focal, torch.full_like(focal, resolution / 2)], dim=1)

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
    images = (white.float() / 127.5 - 1).unflatten(0, (count, VIEWS + 1))
    picture = torch.where(has_picture[:, None, None, None], images[:, VIEWS], 1.0)

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
    return Batch(images[:, :VIEWS], picture, rays, camera, torch.where(has_text[:, None], caption, 0))
