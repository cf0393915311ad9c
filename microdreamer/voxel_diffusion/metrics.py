"""How alike two grids are: PSNR, SSIM, IoU, the nearest of a set, and the sphere that fits a grid best."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from microdreamer.voxel_diffusion.primitives import RADII

DATA_RANGE = 1.0  # grids are 0..1
THRESHOLD = 0.5  # above which a voxel is filled
SSIM_SIGMA, SSIM_WINDOW = 1.5, 11  # voxels (Wang et al. 2004)


def psnr(grids: Tensor, references: Tensor) -> Tensor:
    """Peak signal-to-noise ratio [N] in dB of grids [N,n,n,n] against as many references, for a range of 1; infinite where equal."""
    error = (grids.float() - references.float()).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(DATA_RANGE**2 / error)


def ssim(grids: Tensor, references: Tensor) -> Tensor:
    """Structural similarity [N] (Wang et al. 2004) in three dimensions: an 11^3 Gaussian window of sigma 1.5, range 1.

    Averaged over the voxels whose window lies inside of the grid. Raises ValueError for grids below 11 voxels a side.
    """
    if grids.shape[-1] < SSIM_WINDOW:
        raise ValueError(f"SSIM: expected grids of at least {SSIM_WINDOW} voxels a side, got {grids.shape[-1]}")
    x, y = grids[:, None].float(), references[:, None].float()
    along = torch.arange(SSIM_WINDOW, device=x.device, dtype=torch.float32) - SSIM_WINDOW // 2
    window = torch.exp(-0.5 * (along / SSIM_SIGMA) ** 2)
    window = window / window.sum()

    def blur(values: Tensor) -> Tensor:
        for shape in ((-1, 1, 1), (1, -1, 1), (1, 1, -1)):
            values = functional.conv3d(values, window.view(1, 1, *shape))
        return values

    mean_x, mean_y = blur(x), blur(y)
    variance_x, variance_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * DATA_RANGE) ** 2, (0.03 * DATA_RANGE) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2) / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))
    return similarity.mean(dim=(1, 2, 3, 4))


def filled(grids: Tensor) -> Tensor:
    """Which voxels are filled, bool."""
    return grids > THRESHOLD


def iou_matrix(grids: Tensor, references: Tensor, batch: int = 64) -> Tensor:
    """Intersection over union [N,M] of the filled voxels of every pair; 1 for two empty grids."""
    rows = []
    volumes = filled(references).flatten(1).sum(1)
    for own in filled(grids).split(batch):
        a = own.flatten(1).float()
        common = torch.cat([a @ filled(part).flatten(1).float().T for part in references.split(batch)], dim=1)
        union = a.sum(1)[:, None] + volumes - common
        rows.append(torch.where(union > 0, common / union.clamp_min(1), 1.0))
    return torch.cat(rows)


def radius_of(volume: Tensor) -> Tensor:
    """Radius of the ball of that many voxels."""
    return (volume.double() * 3 / (4 * math.pi)) ** (1 / 3)


def fit_spheres(grids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The training distribution's sphere with the best IoU for each grid [N,n,n,n]: centres [N,3], radii [N] and IoU [N].

    That distribution is continuous: radii of `primitives.RADII`, any place from which the sphere stays inside of the grid. The search
    starts from centroid and volume and moves each parameter in turn by steps down to a sixteenth of a voxel.
    """
    at_once = 16 if grids.device.type == "cuda" else 1  # a GPU waits for launches rather than for memory
    found = torch.cat([_search(part) for part in filled(grids).split(at_once)])
    return found[:, :3], found[:, 3], found[:, 4]


def _search(solids: Tensor) -> Tensor:
    """Centre, radius and IoU [N,5] of the best spheres for bool grids [N,n,n,n]."""
    count, size, device = len(solids), solids.shape[-1], solids.device
    along = torch.arange(size, device=device) + 0.5
    volume = solids.sum(dim=(1, 2, 3))
    sums = [solids.sum(dim=tuple({1, 2, 3} - {axis})).float() @ along for axis in (1, 2, 3)]
    centre = torch.stack(sums, dim=1) / volume.clamp_min(1)[:, None]
    best = _into_distribution(torch.cat([centre, radius_of(volume)[:, None].to(centre)], dim=1), size)
    best_iou = _sphere_iou(best[:, None], solids, along)[:, 0]
    moves = torch.cat([torch.eye(4, device=device), -torch.eye(4, device=device)])
    step = torch.full((count,), 2.0, device=device)
    each = torch.arange(count, device=device)
    while bool((step >= 1 / 16).any()):
        tried = _into_distribution(best[:, None] + moves * step[:, None, None], size)
        iou, index = _sphere_iou(tried, solids, along).max(1)
        is_better = iou > best_iou
        best = torch.where(is_better[:, None], tried[each, index], best)
        best_iou = torch.where(is_better, iou, best_iou)
        step = torch.where(is_better, step, step / 2)
    return torch.cat([best, best_iou[:, None]], dim=1)


def _into_distribution(spheres: Tensor, size: int) -> Tensor:
    """Centres and radii [...,4], moved to where the training distribution has them."""
    radius = spheres[..., 3:].clamp(RADII[0] * size, RADII[1] * size)
    centre = torch.minimum(torch.maximum(spheres[..., :3], radius), size - radius)
    return torch.cat([centre, radius], dim=-1)


def _sphere_iou(spheres: Tensor, solids: Tensor, along: Tensor) -> Tensor:
    """IoU [N,K] of voxelised spheres [N,K,4] with the bool grids [N,n,n,n]."""
    x, y, z = ((along - spheres[..., axis, None]).square() for axis in range(3))  # each [N,K,n]
    distance = x[..., :, None, None] + y[..., None, :, None] + z[..., None, None, :]
    ball = distance <= spheres[..., 3, None, None, None].square()
    common = (ball & solids[:, None]).sum(dim=(2, 3, 4))
    return common / (ball.sum(dim=(2, 3, 4)) + solids.sum(dim=(1, 2, 3))[:, None] - common)
