"""Training batches, drawn and rendered on the device: objects, cameras, light, captions and what is left out.

Every sample is a reference view, or up to four, and four target views of one object in one light. All draws are tensor operations on
the device's default generator and the renderer needs no host, so that a batch can be part of a captured CUDA graph.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from cam_utils import FOV_Y, RADIUS, orbit_axes
from microdreamer.guidance.micro.network import PATCH, SLOTS, Surfaces, camera_features, pixel_rays
from microdreamer.kernels.mesh_render import render_meshes
from microdreamer.shapes import OBJECT_RADIUS
from microdreamer.shapes.geometry import camera_depth, render_albedo
from microdreamer.shapes.render import random_lights
from microdreamer.training.micro_prior.bank import Bank
from microdreamer.training.micro_prior.degrade import degrade

VIEWS = 4
TAN_HALF = math.tan(math.radians(FOV_Y / 2))
REACH = 0.88  # radius of the ball that an object may fill after it was scaled; 0.91 touches the picture's border
DEGRADED = 0.3  # share of the pictures that are degraded
TOLD = 0.5  # share of the samples whose surfaces are drawn: they cost time, and half of them teach the same
FREE_VIEWS, FREE_ELEVATIONS = 3, (-15.0, 60.0)  # of a sample that is looked at from elsewhere too; degrees above
OTHER_LENS = 0.15  # share of the pictures taken from another distance, with the lens that shows the object as large
SAID_LEVEL, ARE_LEVEL = 0.5, 1 / 3  # of pictures told at a wrong height: share said to be level, and the share of those that are
MISJUDGED = 10.0  # degrees: standard deviation of what is told of the others


@dataclasses.dataclass(frozen=True)
class Shares:
    """Of the samples: how many are told a picture and a caption, a picture, a caption; the rest is told nothing.

    `misjudged` is of those that are told a picture's height: how many of these are told a wrong one.
    """

    both: float = 0.30
    picture: float = 0.40
    caption: float = 0.20
    misjudged: float = 0.0


@dataclasses.dataclass
class FreeViews:
    """The first N samples seen from FREE_VIEWS cameras anywhere, F for short.

    pictures [N,F,3,R,R] on white and coverage [N,F,1,R,R] in [-1,1]; world-to-camera matrices of these cameras [N,F,4,4] and of the
    samples' own views [N,4,4,4]; intrinsics [4] of both.
    """

    pictures: Tensor
    coverage: Tensor
    cameras: Tensor
    view_cameras: Tensor
    intrinsics: Tensor


@dataclasses.dataclass
class Batch:
    """What a training step reads, of B samples and M pictures: one of each sample, but SLOTS of each of the last samples.

    views [B,4,3,R,R] and pictures [M,3,R,R] in [-1,1]; rays and camera features of the views [B,4,...] and of the pictures [M,...];
    tokens [B,T]; where the bank tells them, the surfaces of the first TOLD of the samples' views [TOLD * B,4,...], and `seen`, 1 where
    a pixel's centre shows one.
    """

    views: Tensor
    rays: Tensor
    camera: Tensor
    pictures: Tensor
    picture_rays: Tensor
    picture_camera: Tensor
    tokens: Tensor
    surfaces: Surfaces | None = None
    seen: Tensor | None = None
    free: FreeViews | None = None


def uniform(shape: tuple[int, ...], low: float, high: float, device: torch.device) -> Tensor:
    return torch.rand(shape, device=device) * (high - low) + low


def world_to_camera(azimuth: Tensor, elevation_up: Tensor, radius: Tensor | float = RADIUS) -> Tensor:
    """[..., 3, 4] world-to-camera matrices (OpenCV axes) of orbit cameras; angles in degrees."""
    right, up, backward = orbit_axes(-elevation_up, azimuth)
    zero = torch.zeros_like(azimuth)
    rotation = torch.stack([right, -up, -backward], dim=-2)
    return torch.cat([rotation, torch.stack([zero, zero, zero + radius], dim=-1)[..., None]], dim=-1)


def told_heights(up: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Where pictures are taken from and where they are said to be, degrees above, both [B]; of the given `share` that differs.

    People say nothing of a picture's height, which then counts as 0, or misjudge it. Some of those said to be level are: else a
    network would know that what is said of them is wrong.
    """
    chances = torch.rand(3, len(up), device=up.device)
    wrong, said_level = chances[0] < share, chances[1] < SAID_LEVEL
    up = torch.where(wrong & said_level & (chances[2] < ARE_LEVEL), 0.0, up)
    guess = torch.where(said_level, 0.0, up + MISJUDGED * torch.randn_like(up))
    return up, torch.where(wrong, guess, up)


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


def random_shapes(support: Tensor, reference: Tensor, recentre: Tensor, pictured: Tensor) -> Tensor:
    """Object-to-world matrices [B,3,4]: mirrored, stretched, tilted and, where `recentre`, moved as a cut-out photograph would be.

    support [B,S,3]; reference [B,3,4] the reference camera; recentre [B] bool: the object is scaled and shifted until its
    box in the reference picture is centred and fills 65 to 95 % of it (but stays within REACH of the centre). Only what is
    `pictured` [B] is tilted: a lean that nothing tells of would be learnt as part of what a word means.
    """
    batch, device = len(support), support.device
    stretch = torch.exp(torch.randn(batch, 3, device=device) * 0.12) * (torch.rand(batch, 1, device=device) < 0.5)
    stretch = torch.where(stretch > 0, stretch, torch.ones_like(stretch))
    stretch[:, 0] *= torch.where(torch.rand(batch, device=device) < 0.5, -1.0, 1.0)
    tilts = torch.where(pictured[:, None, None], random_tilts(batch, device), torch.eye(3, device=device))
    shape = tilts * stretch[:, None]
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


@dataclasses.dataclass
class PictureCameras:
    """Where the M pictures of a batch were taken from: each one's sample, degrees from the sample's first picture, height."""

    owner: Tensor
    turn: Tensor
    up: Tensor
    source: Tensor  # number of the picture that each slot shows: its own, or an earlier one of its sample again

    @classmethod
    def draw(cls, up: Tensor, several: int) -> PictureCameras:
        """First pictures stand at `up` [B]; the last `several` samples have SLOTS pictures, two to SLOTS of them different."""
        count, device = len(up), up.device
        single = count - several
        owner = torch.cat([torch.arange(single, device=device), single + torch.arange(several, device=device).repeat_interleave(SLOTS)])
        slot = torch.cat([torch.zeros(single, dtype=torch.long, device=device), torch.arange(SLOTS, device=device).repeat(several)])
        total = len(owner)
        square = torch.rand(total, device=device) < 0.5  # seen straight from a side, as people take pictures
        turn = torch.where(square, 90.0 * torch.randint(1, 4, (total,), device=device), uniform((total,), 0, 360, device))
        level = torch.rand(total, device=device) < 0.5
        raised = torch.where(level, up[owner], uniform((total,), -10, 40, device))
        different = torch.randint(2, SLOTS + 1, (count,), device=device)[owner]
        source = torch.arange(total, device=device) - slot + slot % different
        return cls(owner, torch.where(slot > 0, turn, 0.0), torch.where(slot > 0, raised, up[owner]), source)


def fitted_intrinsics(points: Tensor, cameras: Tensor, resolution: int, fill: Tensor) -> Tensor:
    """[M,4] of cameras [M,3,4] in whose pictures the box of points [M,S,3] is centred and fills the share `fill` [M]."""
    seen = points @ cameras[:, :, :3].mT + cameras[:, None, :, 3]
    flat = seen[..., :2] / seen[..., 2:]
    low, high = flat.amin(dim=1), flat.amax(dim=1)
    focal = fill * resolution / (high - low).amax(dim=1).clamp_min(1e-3)
    return torch.cat([focal[:, None].expand(-1, 2), resolution / 2 - 0.5 * (low + high) * focal[:, None]], dim=-1)


def told_samples(count: int) -> int:
    """How many samples of a batch tell their surfaces, where any do."""
    return max(1, round(count * TOLD))


STANDARD = Shares()


@torch.no_grad()
def draw_batch(
    bank: Bank, count: int, resolution: int, several: int = 0, free: int = 0, pictured: int = 0, shares: Shares = STANDARD
) -> Batch:
    """`count` random samples, the last `several` of them with more than one picture.

    The first `pictured` (and `free`) have a picture in any case, the first `free` are seen from free cameras as well. Of the share
    `misjudged` of the pictures whose height is told it is told as `told_heights` says. Such a sample's views stand where they are
    said to stand, so that they show the object upright; but the one asked for at the picture's own camera shows what the picture
    shows: people expect to see their picture again, whatever they said of it.
    """
    device = bank.tokens.device

    def chance(share: float, of: int = count) -> Tensor:
        return torch.rand(of, device=device) < share

    mode, with_picture = torch.rand(count, device=device), shares.both + shares.picture
    pictured = max(pictured, free)
    if pictured:
        mode[:pictured] *= with_picture
    has_picture = mode < with_picture
    caption_alone = ~has_picture & (mode < with_picture + shares.caption)
    has_text = (mode < shares.both) | caption_alone
    index = bank.draw(count, caption_alone)
    caption = bank.tokens[index, torch.randint(0, 3, (count,), device=device)]
    canonical = chance(0.45)  # the first target is the reference view itself

    reference_azimuth = torch.where(chance(0.5), uniform((count,), -180, 180, device), 35 * torch.randn(count, device=device))
    reference_azimuth = torch.where(has_picture, reference_azimuth, 0.0)
    reference_up = torch.where(chance(0.8), uniform((count,), 0, 30, device), uniform((count,), -10, 45, device))
    single = torch.arange(count, device=device) < count - several
    known = has_picture & (chance(0.7) | ~single)
    told_up = reference_up
    if shares.misjudged:
        heights = told_heights(reference_up, shares.misjudged)
        reference_up, told_up = (torch.where(known, height, reference_up) for height in heights)
    start = torch.where(canonical, 0.0, uniform((count,), 0, 360, device))
    target_up = torch.where(canonical, told_up, uniform((count,), -10, 40, device))
    relative = start[:, None] + torch.arange(VIEWS, device=device) * (360 / VIEWS)
    up = target_up[:, None].expand(count, VIEWS)
    at_picture = canonical[:, None] & (torch.arange(VIEWS, device=device) == 0)
    stands = torch.where(at_picture, reference_up[:, None], up)  # where a view is drawn from; `up` is where it is said to be
    cameras = world_to_camera(relative + reference_azimuth[:, None], stands)

    taken = PictureCameras.draw(reference_up, several)
    owner, total = taken.owner, len(taken.owner)
    # A photograph's lens is unknown: some stand nearer or farther and show the object as large as from RADIUS.
    distance = torch.exp(uniform((total,), math.log(1.6), math.log(5.0), device))
    distance = torch.where(has_picture[owner] & chance(OTHER_LENS, total), distance, RADIUS)
    picture_cameras = world_to_camera(taken.turn + reference_azimuth[owner], taken.up)

    first = torch.arange(count, device=device)
    first = first + (first - (count - several)).clamp_min(0) * (SLOTS - 1)
    shapes = random_shapes(bank.support[index], picture_cameras[first], has_picture & chance(0.6), has_picture)
    colours = random_colours(count, has_text | chance(0.5))
    lights = random_lights(count, device=device, front_azimuth=reference_azimuth)

    picture_cameras[:, 2, 3] = distance
    intrinsics = _plain_intrinsics(resolution, device)
    picture_intrinsics = intrinsics.repeat(total, 1)
    picture_intrinsics[:, :2] *= (distance / RADIUS)[:, None]
    if several:  # half of the further pictures were cut out and centred each by itself
        own = shapes[owner]
        points = bank.support[index[owner]] @ own[:, :, :3].mT + own[:, None, :, 3]
        fitted = fitted_intrinsics(points, picture_cameras, resolution, uniform((total,), 0.65, 0.95, device))
        further = torch.ones(total, dtype=torch.bool, device=device).index_fill(0, first, False)
        picture_intrinsics = torch.where((further & chance(0.5, total))[:, None], fitted, picture_intrinsics)

    sample = torch.cat([torch.arange(count, device=device).repeat_interleave(VIEWS), owner])
    all_cameras = torch.cat([cameras.flatten(0, 1), picture_cameras])
    all_intrinsics = torch.cat([intrinsics.repeat(count * VIEWS, 1), picture_intrinsics])
    meshes = bank.meshes

    def drawn(sample: Tensor, cameras: Tensor, intrinsics: Tensor) -> Tensor:
        return render_meshes(
            meshes.vertices,
            meshes.faces,
            meshes.corner_colors,
            meshes.corner_normals,
            meshes.vertex_offset,
            meshes.face_offset,
            index[sample],
            shapes[sample],
            colours[sample],
            cameras,
            intrinsics,
            lights.lights[sample],
            lights.ambient[sample],
            resolution,
            resolution,
            gloss=lights.gloss[sample],
            supersample=2,
            max_faces=meshes.max_faces,
        )

    rgba = drawn(sample, all_cameras, all_intrinsics)
    images = _on_white(rgba)
    views, pictures = images[: count * VIEWS].unflatten(0, (count, VIEWS)) * 2 - 1, images[count * VIEWS :]
    coverage = rgba[count * VIEWS :, 3:].float() / 255
    pictures = torch.where(chance(DEGRADED, total)[:, None, None, None], degrade(pictures, coverage), pictures) * 2 - 1

    # Without a picture, the reference slots stand at azimuth 0, unknown; azimuths are then absolute.
    present = has_picture.float()
    shows = has_picture[owner]
    pictures = torch.where(shows[:, None, None, None], pictures, 1.0)[taken.source]
    turn = torch.where(shows, taken.turn, 0.0)[taken.source]
    known, told = known[owner], (taken.up + (told_up - reference_up)[owner])
    shown_up = torch.where(known, told, 0.0)[taken.source]
    side, ones = resolution // PATCH, torch.ones_like(up)
    batch = Batch(
        views,
        pixel_rays(relative, up, RADIUS, TAN_HALF, side),
        camera_features(relative, up, is_reference=False, known=ones, present=ones * present[:, None]),
        pictures,
        pixel_rays(turn, shown_up, RADIUS, TAN_HALF, side),
        camera_features(turn, shown_up, is_reference=True, known=known.float(), present=present[owner]),
        torch.where(has_text[:, None], caption, 0),
    )
    if bank.painter:
        told = told_samples(count)
        targets = sample[: told * VIEWS]
        pose = index[targets], shapes[targets]
        seen_by = cameras[:told].flatten(0, 1), intrinsics.repeat(told * VIEWS, 1)
        albedo = render_albedo(meshes, *pose, colours[targets], *seen_by, resolution)
        places, seen = bank.painter.render(*pose, *seen_by, resolution)
        depth = camera_depth(places, seen_by[0]) - RADIUS
        parts = depth, rgba[: told * VIEWS, 3:].float() / 127.5 - 1, _on_white(albedo) * 2 - 1
        batch.surfaces = Surfaces(*(part.unflatten(0, (told, VIEWS)) for part in parts))
        batch.seen = seen.float().unflatten(0, (told, VIEWS))
    if free:
        elsewhere = world_to_camera(uniform((free, FREE_VIEWS), 0, 360, device), uniform((free, FREE_VIEWS), *FREE_ELEVATIONS, device))
        owners = torch.arange(free, device=device).repeat_interleave(FREE_VIEWS)
        rgba = drawn(owners, elsewhere.flatten(0, 1), intrinsics.repeat(free * FREE_VIEWS, 1))
        parts = _on_white(rgba) * 2 - 1, rgba[:, 3:].float() / 127.5 - 1
        seen_from = _as_square(elsewhere), _as_square(cameras[:free])
        batch.free = FreeViews(*(part.unflatten(0, (free, FREE_VIEWS)) for part in parts), *seen_from, intrinsics)
    return batch


def _as_square(cameras: Tensor) -> Tensor:
    """World-to-camera matrices [...,3,4] as [...,4,4]."""
    return torch.cat([cameras, torch.eye(4, device=cameras.device)[3:].expand(*cameras.shape[:-2], 1, 4)], dim=-2)


def _plain_intrinsics(resolution: int, device: torch.device) -> Tensor:
    """[4] of a camera with the prior's field of view, made without a copy from the host, which no CUDA graph could hold."""
    intrinsics = torch.full((4,), resolution / 2, device=device)
    intrinsics[:2] /= TAN_HALF
    return intrinsics


def _on_white(rgba: Tensor) -> Tensor:
    """Pictures [V,3,H,W] in [0,1] on white, of premultiplied bytes [V,4,H,W]."""
    return (rgba[:, :3].to(torch.int16) + (255 - rgba[:, 3:].to(torch.int16))).float() / 255
