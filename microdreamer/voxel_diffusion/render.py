"""Pictures of voxel grids: shaded views from around, and slices. Plain PyTorch, on the grid's device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from microdreamer.voxel_diffusion.metrics import THRESHOLD

COLOR = (0.45, 0.65, 0.85)
LIGHT = (0.4, 0.8, 0.45)  # direction to the light, seen from the camera: right, up, towards it
AMBIENT = 0.35
HALF_WIDTH = 1.15  # of the orthographic view; the grid reaches from -1 to 1
SMOOTHING = 0.8  # voxels; of the surface that is seen and its normals


def smooth(grids: Tensor, sigma: float = SMOOTHING) -> Tensor:
    """Grids [N,n,n,n] blurred by a Gaussian of `sigma` voxels; empty outside."""
    reach = max(1, math.ceil(2.5 * sigma))
    along = torch.arange(-reach, reach + 1, device=grids.device, dtype=torch.float32)
    window = torch.exp(-0.5 * (along / sigma) ** 2)
    window = window / window.sum()
    values = grids[:, None].float()
    for axis in range(3):
        shape, padding = [1, 1, 1, 1, 1], [0, 0, 0]
        shape[2 + axis], padding[axis] = -1, reach
        values = functional.conv3d(values, window.view(shape), padding=padding)
    return values[:, 0]


def _camera(azimuth: float, elevation: float, device: torch.device) -> Tensor:
    """Rows: the directions right, up and towards the viewer. Degrees; azimuth 0 looks along -z, a positive elevation from above."""
    a, e = math.radians(azimuth), math.radians(elevation)
    towards = [math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e)]
    right = [math.cos(a), 0.0, -math.sin(a)]
    up = [-math.sin(a) * math.sin(e), math.cos(e), -math.cos(a) * math.sin(e)]
    return torch.tensor([right, up, towards], device=device)


@torch.no_grad()
def render_view(grids: Tensor, azimuth: float, elevation: float = 25.0, pixels: int = 128) -> Tensor:
    """Shaded pictures [N,3,pixels,pixels] of grids [N,n,n,n] of 0..1 (axes x, y up, z), on white.

    Orthographic: samples along each pixel's ray, the first one above one half is the surface, its normal the gradient there.
    """
    field = smooth(grids)[:, None].transpose(2, 4)  # grid_sample wants z, y, x
    axes = _camera(azimuth, elevation, grids.device)
    half_diagonal = math.sqrt(3)
    depth = math.ceil(half_diagonal * grids.shape[-1])
    across = (torch.arange(pixels, device=grids.device) + 0.5) / pixels * 2 - 1
    v, u = torch.meshgrid(-across * HALF_WIDTH, across * HALF_WIDTH, indexing="ij")
    w = torch.linspace(half_diagonal, -half_diagonal, depth, device=grids.device)  # from the viewer on
    points = (u[..., None] * axes[0] + v[..., None] * axes[1])[None] + w[:, None, None, None] * axes[2]
    pictures = []
    for own in field:
        density = functional.grid_sample(own[None], points[None], align_corners=False)[0, 0]  # [depth,H,W]
        hit = density > THRESHOLD
        first = hit.to(torch.uint8).argmax(0)
        at = points.gather(0, first[None, ..., None].expand(1, -1, -1, 3))[0]
        normal = functional.normalize(-_gradient(own, at), dim=-1)
        light = axes.T @ torch.tensor(LIGHT, device=grids.device)
        shade = AMBIENT + (1 - AMBIENT) * (normal @ functional.normalize(light, dim=0)).clamp_min(0)
        color = torch.tensor(COLOR, device=grids.device)[:, None, None] * shade
        pictures.append(torch.where(hit.any(0), color, 1.0))
    return torch.stack(pictures)


def _gradient(field: Tensor, points: Tensor) -> Tensor:
    """Gradient [H,W,3] of a field [1,n,n,n] (z, y, x) at points [H,W,3] (x, y, z), by central differences of a voxel."""
    step = 2 / field.shape[-1]
    moves = torch.eye(3, device=field.device) * step
    both = torch.stack([points + move for move in (*moves, *-moves)])  # [6,H,W,3]
    values = functional.grid_sample(field[None], both[None], align_corners=False)[0, 0]
    return (values[:3] - values[3:]).movedim(0, -1)


def orbit(grid: Tensor, frames: int = 36, elevation: float = 25.0, pixels: int = 192) -> Tensor:
    """Views [frames,3,pixels,pixels] of one grid [n,n,n] from all around."""
    return torch.cat([render_view(grid[None], 360 * i / frames, elevation, pixels) for i in range(frames)])


def slices(grid: Tensor, count: int = 16, scale: int = 2) -> Tensor:
    """`count` evenly spaced slices [count,3,scale n,scale n] across the z axis, from back to front, x to the right and y up."""
    chosen = torch.linspace(0, grid.shape[-1] - 1, min(count, grid.shape[-1])).round().long()
    pictures = grid.float()[:, :, chosen.to(grid.device)].permute(2, 1, 0).flip(1)  # [count,y,x]
    pictures = pictures.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    return 1 - pictures[:, None].expand(-1, 3, -1, -1)


def gallery(grids: Tensor, azimuths: Sequence[float] = (30.0,), pixels: int = 128) -> Tensor:
    """One view after another of each grid [N,n,n,n]: [N len(azimuths),3,pixels,pixels]."""
    views = [render_view(grids, azimuth, pixels=pixels) for azimuth in azimuths]
    return torch.stack(views, dim=1).flatten(0, 1)
