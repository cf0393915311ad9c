"""Distances between pictures, masks and point sets."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree
from torch import Tensor

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2
MASK_LEVEL = 0.5  # coverage above which a pixel belongs to the object
F_DISTANCES = (0.02, 0.05)  # world units; objects have a radius of 0.8
MAX_PSNR = 100.0  # dB, of equal pictures


def psnr(estimate: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB [...] of pictures [...,C,H,W] in [0,1]; at most `MAX_PSNR`."""
    return -10 * torch.log10((estimate - truth).square().mean(dim=(-3, -2, -1)).clamp_min(10 ** (-MAX_PSNR / 10)))


def ssim(estimate: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity [V] of pictures [V,C,H,W] in [0,1] (Wang et al. 2004, equation 13), mean over pixels and channels.

    Window of 11x11 pixels, Gaussian of sigma 1.5, zeros beyond the border.
    """
    reach = SSIM_WINDOW // 2
    weights = [math.exp(-((offset / SSIM_SIGMA) ** 2) / 2) for offset in range(-reach, reach + 1)]

    def blur(pictures: Tensor) -> Tensor:
        # Sums of shifted pictures: on the CPU several times as fast as convolutions.
        for dim in (-1, -2):
            padded = F.pad(pictures, (reach, reach) if dim == -1 else (0, 0, reach, reach))
            length, pictures = pictures.shape[dim], torch.zeros_like(pictures)
            for start, weight in enumerate(weights):
                pictures.add_(padded.narrow(dim, start, length), alpha=weight / sum(weights))
        return pictures

    mean_a, mean_b = blur(estimate), blur(truth)
    variance_a, variance_b = blur(estimate**2) - mean_a**2, blur(truth**2) - mean_b**2
    covariance = blur(estimate * truth) - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + SSIM_C1) * (2 * covariance + SSIM_C2)
    likeness = likeness / ((mean_a**2 + mean_b**2 + SSIM_C1) * (variance_a + variance_b + SSIM_C2))
    return likeness.mean(dim=(1, 2, 3))


def mask_iou(estimate: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union [V] of coverages [V,1,H,W] in [0,1], cut at a half; 1 where both are empty."""
    a, b = estimate > MASK_LEVEL, truth > MASK_LEVEL
    union = (a | b).sum(dim=(1, 2, 3))
    return torch.where(union > 0, (a & b).sum(dim=(1, 2, 3)) / union.clamp_min(1), 1.0)


def sharpness(estimate: Tensor, coverage: Tensor, truth: Tensor, true_coverage: Tensor) -> float:
    """Mean brightness gradient of pictures [V,3,H,W] within the object, as a share of the true one's; 1 is as sharp as the truth.

    Only pixels count that, with their 5x5 neighbours, are covered in both pictures, so that silhouettes do not. 1 where there are none.
    """
    inside = -F.max_pool2d(-torch.minimum(coverage, true_coverage), 5, stride=1, padding=2) > 0.99

    def strength(pictures: Tensor) -> Tensor:
        brightness = pictures.mean(1, keepdim=True)
        along_x = brightness[..., :-1, 1:] - brightness[..., :-1, :-1]
        along_y = brightness[..., 1:, :-1] - brightness[..., :-1, :-1]
        return ((along_x.square() + along_y.square()).sqrt() * inside[..., :-1, :-1]).sum()

    true_strength = strength(truth)
    return float(strength(estimate) / true_strength) if float(true_strength) > 0 else 1.0


def point_scores(estimate: Tensor, truth: Tensor) -> dict[str, float]:
    """`chamfer`, the mean of the mean distances both ways, and `f_score_D`, of points [P,3] and [Q,3], in their unit.

    The F-score at distance D is the harmonic mean of the shares of points of either set that have one of the other within D
    (Knapitsch et al. 2017, section 5). Raises ValueError for an empty set.
    """
    if len(estimate) == 0 or len(truth) == 0:
        raise ValueError(f"expected points on both sides, got {len(estimate)} and {len(truth)}")
    a, b = estimate.double().cpu().numpy(), truth.double().cpu().numpy()
    to_truth, to_estimate = cKDTree(b).query(a)[0], cKDTree(a).query(b)[0]
    scores = {"chamfer": float(to_truth.mean() + to_estimate.mean()) / 2}
    for distance in F_DISTANCES:
        precision, recall = float((to_truth <= distance).mean()), float((to_estimate <= distance).mean())
        scores[f"f_score_{distance:g}"] = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return scores
