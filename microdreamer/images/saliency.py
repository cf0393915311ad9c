"""Where the object probably is, from one picture alone: superpixels and their connection to the picture's border.

Zhu et al., "Saliency Optimization from Robust Background Detection" (CVPR 2014): background regions lean on the border much
more than an object of the same size does. Nothing is learned and nothing is downloaded.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

SUPERPIXELS = 400
_COMPACTNESS = 12.0  # Lab units that one superpixel spacing weighs as much as (SLIC's m)
_SIGMA_COLOUR = 10.0  # Lab units at which two regions stop being "the same", section 3.2
_SIGMA_SPACE = 0.4  # of the picture's longer side, reach of the contrast term, equation 5
_BOUNDARY_CONNECTIVITY_SCALE = 1.0  # equation 6


def superpixels(lab: np.ndarray, count: int = SUPERPIXELS, iterations: int = 6) -> np.ndarray:
    """SLIC (Achanta et al. 2012) labels [H,W], 0..N-1 without gaps, for float Lab [H,W,3]."""
    height, width = lab.shape[:2]
    step = max(1.0, np.sqrt(height * width / count))
    rows, columns = max(1, round(height / step)), max(1, round(width / step))
    y, x = np.mgrid[:height, :width].astype(np.float32)
    cell_y, cell_x = (y * rows / height).astype(int), (x * columns / width).astype(int)
    features = np.dstack([lab, x * (_COMPACTNESS / step), y * (_COMPACTNESS / step)]).astype(np.float32).reshape(-1, 5)
    labels = (cell_y * columns + cell_x).ravel()
    # A pixel may join the centres of its own grid cell and of the eight around it, padded by repetition at the border.
    offsets = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    candidates = [(np.clip(cell_y + dy, 0, rows - 1) * columns + np.clip(cell_x + dx, 0, columns - 1)).ravel() for dy, dx in offsets]
    centres = region_means(labels, features, rows * columns)
    for _ in range(iterations):
        distances = np.stack([np.square(features - centres[candidate]).sum(axis=1) for candidate in candidates])
        labels = np.stack(candidates)[distances.argmin(axis=0), np.arange(len(labels))]
        centres = region_means(labels, features, rows * columns)
    return np.unique(labels, return_inverse=True)[1].reshape(height, width)


def region_means(labels: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Mean of `values` [P,C] over each label of 0..count-1: [count,C]; 0 for an unused label."""
    sizes = np.maximum(np.bincount(labels, minlength=count), 1)
    return np.stack([np.bincount(labels, values[:, c], count) for c in range(values.shape[1])], axis=1) / sizes[:, None]


def _texture(lab: np.ndarray) -> np.ndarray:
    """Local contrast of lightness [H,W], compressed to Lab-like units, so that gravel differs from a smooth thing of its colour."""
    lightness = lab[..., 0]
    mean = cv2.GaussianBlur(lightness, (0, 0), 3)
    deviation = np.sqrt(np.maximum(cv2.GaussianBlur(lightness * lightness, (0, 0), 3) - mean * mean, 0))
    return 8 * np.log1p(deviation / 2)


def saliency(lab: np.ndarray) -> np.ndarray:
    """Saliency [H,W] in [0, 1] of a picture in float Lab [H,W,3], constant over each superpixel."""
    height, width = lab.shape[:2]
    labels = superpixels(cv2.GaussianBlur(lab, (0, 0), 1.0))
    count = int(labels.max()) + 1
    y, x = np.mgrid[:height, :width]
    features = np.dstack([lab, _texture(lab), x / max(height, width), y / max(height, width)]).reshape(-1, 6)
    means = region_means(labels.ravel(), features, count)
    appearance, position = means[:, :4], means[:, 4:]
    sizes = np.bincount(labels.ravel(), minlength=count) / labels.size * count

    colour_distance = np.sqrt(np.square(appearance[:, None] - appearance[None]).sum(axis=2))
    border = np.zeros(count, bool)
    border[np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))] = True
    neighbours = _neighbours(labels, count)
    graph = neighbours.copy()
    graph[np.ix_(border, border)] = True  # the border counts as one region, section 3.1
    np.fill_diagonal(graph, False)
    # Small steps between neighbours are noise; what is left adds up along the shortest path.
    noise = np.mean(np.where(neighbours, colour_distance, np.inf).min(axis=1))
    first, second = np.nonzero(graph)
    lengths = np.maximum(colour_distance[first, second] - noise, 0) + 1e-6
    geodesic = dijkstra(coo_array((lengths, (first, second)), shape=(count, count)).tocsr())

    similarity = np.exp(-np.square(geodesic) / (2 * _SIGMA_COLOUR**2)) * sizes[None]
    area = similarity.sum(axis=1)
    connectivity = similarity[:, border].sum(axis=1) / np.sqrt(area)
    background = 1 - np.exp(-np.square(connectivity) / (2 * _BOUNDARY_CONNECTIVITY_SCALE**2))

    nearness = np.exp(-np.square(position[:, None] - position[None]).sum(axis=2) / (2 * _SIGMA_SPACE**2))
    contrast = (colour_distance * nearness * sizes[None]) @ background
    contrast = contrast / max(contrast.max(), 1e-9)
    foreground = np.where(contrast > contrast.mean(), contrast, 0)

    # Equation 9: the smoothest assignment that respects both cues, a linear system in one value per superpixel.
    coupling = np.where(neighbours, np.exp(-np.square(colour_distance) / (2 * _SIGMA_COLOUR**2)) + 0.1, 0)
    laplacian = np.diag(coupling.sum(axis=1)) - coupling
    values = np.linalg.solve(np.diag(background + foreground + 1e-6) + laplacian, foreground)
    return np.clip(values / max(values.max(), 1e-9), 0, 1)[labels]


def _neighbours(labels: np.ndarray, count: int) -> np.ndarray:
    """Which superpixels touch [N,N], directly or with one between (which bridges thin outlines)."""
    touch = np.zeros((count, count), bool)
    for first, second in ((labels[:, 1:], labels[:, :-1]), (labels[1:], labels[:-1])):
        touch[first, second] = touch[second, first] = True
    np.fill_diagonal(touch, False)
    return touch
