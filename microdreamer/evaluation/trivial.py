"""Answers that need no prior, to compare with: the picture as a flat card, and its silhouette as a solid.

Both are meshes whose colours already contain light; draw them with `evaluation.surface.flat_light`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cam_utils import Cameras
from microdreamer.meshes.cleaning import drop_unused_vertices
from microdreamer.metrics.pictures import MASK_LEVEL
from microdreamer.shapes import OBJECT_RADIUS
from microdreamer.shapes.packed import PackedMeshes, pack

WALL_SEGMENTS = 16  # along the depth of a hull: long slivers are slow to draw


def at_size(picture: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Straight colours [3,height,width] and mask [height,width] (bool) of a straight RGBA picture [4,S,S]."""
    premultiplied = torch.cat([picture[:3] * picture[3:], picture[3:]])
    small = F.interpolate(premultiplied[None], (height, width), mode="area")[0]
    return small[:3] / small[3:].clamp_min(1e-6), small[3] > MASK_LEVEL


def _rays(camera: Cameras) -> Tensor:
    """Directions [height+1,width+1,3] of depth 1, in camera axes, through the corners of the pixels."""
    fx, fy, cx, cy = camera.intrinsics[0]
    y, x = torch.meshgrid(torch.arange(camera.height + 1.0), torch.arange(camera.width + 1.0), indexing="ij")
    return torch.stack([(x - cx) / fx, (y - cy) / fy, torch.ones_like(x)], dim=-1)


def _quads(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Two triangles [2n,3] for each quadrilateral with corners a, b, c, d [n]."""
    return torch.stack([torch.stack([a, b, c], -1), torch.stack([a, c, d], -1)], dim=1).reshape(-1, 3)


def _pack(in_camera: Tensor, faces: Tensor, colors: Tensor, camera: Cameras, name: str) -> PackedMeshes:
    """One mesh of vertices [v,3] in camera axes; `colors` [f,3] in [0,1] are those of whole faces."""
    rotation, translation = camera.world_to_camera[0, :3, :3], camera.world_to_camera[0, :3, 3]
    vertices, faces = drop_unused_vertices(((in_camera - translation) @ rotation).numpy(), faces.numpy())
    corner_colors = (colors.clamp(0, 1) * 255).round().to(torch.uint8)[:, None].expand(-1, 3, -1)
    return pack([(vertices, faces, corner_colors, torch.zeros(len(faces), 3, 3, dtype=torch.int8))], [name])


def _pixel_corners(mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Numbers [n] of the corners of the pixels in a mask [H,W], in a grid of [H+1,W+1]: counter-clockwise from the upper left."""
    row, column = mask.nonzero().unbind(1)
    first = row * (mask.shape[1] + 1) + column
    below = first + mask.shape[1] + 1
    return first, below, below + 1, first + 1


def _solid(picture: Tensor, camera: Cameras) -> tuple[Tensor, Tensor]:
    """Colours and mask of the picture at the camera's size. Raises ValueError for an empty mask or several cameras."""
    if len(camera) != 1:
        raise ValueError(f"expected the one camera of the picture, got {len(camera)}")
    colors, mask = at_size(picture.cpu(), camera.width, camera.height)
    if not bool(mask.any()):
        raise ValueError("the picture's mask is empty: nothing to make a card or a hull of")
    return colors, mask


def flat_card(picture: Tensor, camera: Cameras) -> PackedMeshes:
    """The RGBA picture [4,S,S] on the plane through the origin that faces its camera (a batch of one), as one mesh.

    A square a pixel, at the camera's picture size; pixels outside of the mask are left out.
    """
    camera = camera.to("cpu")
    colors, mask = _solid(picture, camera)
    distance = camera.world_to_camera[0, 2, 3]
    vertices = (_rays(camera) * distance).reshape(-1, 3)
    return _pack(vertices, _quads(*_pixel_corners(mask)), colors[:, mask].T.repeat_interleave(2, dim=0), camera, "flat card")


def visual_hull(picture: Tensor, camera: Cameras) -> PackedMeshes:
    """The cone of rays through the RGBA picture's mask, as deep as the mask is wide and within the object's ball, as one mesh.

    Depth lies evenly around the plane through the origin. All of it, the back and the walls too, has the colours that the
    picture [4,S,S] projects there. `camera` is the picture's (a batch of one); its size is that of the mask.
    """
    camera = camera.to("cpu")
    colors, mask = _solid(picture, camera)
    height, width = mask.shape
    rays, center = _rays(camera), camera.world_to_camera[0, :3, 3]
    columns = mask.any(0).nonzero()[:, 0]
    half_depth = float((columns[-1] - columns[0] + 1) / camera.intrinsics[0, 0] * center[2] / 2)
    squared, along = rays.square().sum(-1), rays @ center
    half_chord = (along**2 - squared * (center.square().sum() - OBJECT_RADIUS**2)).clamp_min(0).sqrt()
    far = ((along + half_chord) / squared).clamp_max(center[2] + half_depth)
    near = torch.minimum(((along - half_chord) / squared).clamp_min(center[2] - half_depth), far)
    shares = torch.linspace(0, 1, WALL_SEGMENTS + 1)
    vertices = torch.cat([(rays * torch.lerp(near, far, share)[..., None]).reshape(-1, 3) for share in shares])

    layer = (height + 1) * (width + 1)  # vertices of each depth
    back = WALL_SEGMENTS * layer
    corners = _pixel_corners(mask)
    parts = [(_quads(*corners), mask), (_quads(*(corner + back for corner in reversed(corners))), mask)]
    padded = F.pad(mask, (1, 1, 1, 1))
    neighbours = (padded[1:-1, :-2], padded[2:, 1:-1], padded[1:-1, 2:], padded[:-2, 1:-1])  # left, below, right, above
    for side, neighbour in enumerate(neighbours):
        edge = mask & ~neighbour
        corners = _pixel_corners(edge)
        start, end = corners[side], corners[(side + 1) % 4]
        for base in range(0, back, layer):
            parts.append((_quads(end + base, start + base, start + base + layer, end + base + layer), edge))
    faces = torch.cat([part for part, _ in parts])
    face_colors = torch.cat([colors[:, where].T.repeat_interleave(2, dim=0) for _, where in parts])
    return _pack(vertices, faces, face_colors, camera, "visual hull")
