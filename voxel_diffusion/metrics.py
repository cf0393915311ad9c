"""How alike two grids are: PSNR, SSIM, IoU, the nearest of a set, and the sphere that fits a grid best."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from voxel_diffusion.primitives import RADII

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
    size = grids.shape[-1]
    along = torch.arange(size, device=grids.device) + 0.5
    results = []
    for solid in filled(grids):
        volume = solid.sum()
        x = torch.stack([(solid.sum(dim=tuple({0, 1, 2} - {axis})) * along).sum() for axis in range(3)]) / volume.clamp_min(1)
        best = torch.cat([x, radius_of(volume)[None].to(x)])
        best = _into_distribution(best[None], size)
        best_iou = _sphere_iou(best, solid, along, volume)[0]
        best = best[0]
        step = 2.0
        while step >= 1 / 16:
            moves = torch.cat([torch.eye(4, device=grids.device), -torch.eye(4, device=grids.device)]) * step
            tried = _into_distribution(best + moves, size)
            ious = _sphere_iou(tried, solid, along, volume)
            iou, index = ious.max(0)
            if iou > best_iou:
                best, best_iou = tried[index], iou
            else:
                step /= 2
        results.append((best[:3], best[3], best_iou))
    centres, radii, ious = zip(*results, strict=True)
    return torch.stack(centres), torch.stack(radii), torch.stack(ious)


def _into_distribution(spheres: Tensor, size: int) -> Tensor:
    """Centres and radii [K,4], moved to where the training distribution has them."""
    radius = spheres[:, 3].clamp(RADII[0] * size, RADII[1] * size)
    centre = torch.minimum(torch.maximum(spheres[:, :3], radius[:, None]), size - radius[:, None])
    return torch.cat([centre, radius[:, None]], dim=1)


def _sphere_iou(spheres: Tensor, solid: Tensor, along: Tensor, volume: Tensor) -> Tensor:
    """IoU [K] of the voxelised spheres [K,4] with one grid."""
    x, y, z = ((along - spheres[:, axis : axis + 1]).square() for axis in range(3))
    ball = x[:, :, None, None] + y[:, None, :, None] + z[:, None, None, :] <= spheres[:, 3].square()[:, None, None, None]
    common = (ball & solid).sum(dim=(1, 2, 3))
    return common / (ball.sum(dim=(1, 2, 3)) + volume - common)
