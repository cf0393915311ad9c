"""The object of a picture by colour and layout alone, with nothing learned: superpixels' saliency and GrabCut.

A saliency map starts several GrabCuts (Rother et al. 2004), their majority starts a last one, and a guided filter gives soft edges.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

from microdreamer.images.edges import edge_size, fit_edges, shrink
from microdreamer.images.saliency import saliency

_GRABCUT_SIDE = 320  # pixels; GrabCut takes seconds beyond this and gains little
_GRABCUT_ITERATIONS = 3
_EDGE_EPSILON = 1e-3  # of the guided filter, for masks that are hard


def grabcut_alpha(rgb: np.ndarray) -> np.ndarray:
    """Alpha [H,W] (float32, 0 to 1) of the most salient object in uint8 RGB [H,W,3], each side at least 16 pixels.

    Works best for one object that stands clear of the border before a background of other colours.
    """
    mask = _segment(shrink(rgb, _GRABCUT_SIDE))
    if not mask.any():
        return np.zeros(rgb.shape[:2], np.float32)
    return _soften(rgb, mask)


def _segment(rgb: np.ndarray) -> np.ndarray:
    """Object mask [H,W] of a small picture: the majority of three GrabCuts with different beginnings, cut once more."""
    salient = saliency(_lab(rgb))
    # A second look without fine texture (bricks' joints, gravel), whose edges otherwise outweigh the object's.
    height, width = salient.shape
    plain = saliency(_lab(cv2.medianBlur(rgb, 2 * (max(height, width) // 72) + 1)))
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
    central = _normalised(salient * np.exp(-2 * (x * x + y * y)))  # sides of an object tend to be near the middle
    starts = [_grabcut_start(central, _otsu(central))]
    for values in (salient, plain):
        # Blurred, the map reaches parts of the object that are not salient themselves.
        wide = np.maximum(values, _normalised(cv2.GaussianBlur(values, (0, 0), max(height, width) / 40)))
        starts.append(_grabcut_start(wide, 0.8 * _otsu(values)))
    votes = sum(_grabcut(rgb, start).astype(int) for start in starts)
    start = np.where(votes >= 2, cv2.GC_PR_FGD, cv2.GC_PR_BGD)
    start[(votes == 0) & (salient < 0.1)] = cv2.GC_BGD
    return _whole_parts(_grabcut(rgb, start.astype(np.uint8)))


def _lab(rgb: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def _normalised(values: np.ndarray) -> np.ndarray:
    return values / max(values.max(), 1e-9)


def _otsu(values: np.ndarray) -> float:
    return cv2.threshold(np.round(values * 255).astype(np.uint8), 0, 255, cv2.THRESH_OTSU)[0] / 255


def _grabcut_start(salient: np.ndarray, threshold: float) -> np.ndarray:
    start = np.where(salient > threshold, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    start[salient < 0.01] = cv2.GC_BGD
    frame = np.ones(salient.shape, bool)
    frame[2:-2, 2:-2] = False
    start[frame & (salient <= threshold)] = cv2.GC_BGD
    return start


def _grabcut(rgb: np.ndarray, start: np.ndarray) -> np.ndarray:
    labels = start.copy()
    is_object = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    # Each side's colour model is a mixture of five, which needs some pixels to be fitted to.
    if min(is_object.sum(), (~is_object).sum()) < 10:
        return is_object
    cv2.setRNGSeed(0)  # the mixtures start from random clusters
    cv2.grabCut(np.ascontiguousarray(rgb), labels, None, np.zeros((1, 65)), np.zeros((1, 65)), _GRABCUT_ITERATIONS, cv2.GC_INIT_WITH_MASK)
    return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)


def _whole_parts(mask: np.ndarray) -> np.ndarray:
    """The large parts of a mask without specks, with pinholes filled; holes such as a handle's stay open."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count == 1:
        return mask
    areas = stats[1:, cv2.CC_STAT_AREA]
    large = areas >= 0.2 * areas.max()
    kept = _without_cropped_things(np.isin(labels, 1 + np.nonzero(large)[0]))
    count, labels, stats, _ = cv2.connectedComponentsWithStats((~kept).astype(np.uint8), connectivity=4)
    pinholes = 1 + np.nonzero(stats[1:, cv2.CC_STAT_AREA] < 0.004 * kept.sum())[0]
    return kept | np.isin(labels, pinholes)


def _without_cropped_things(mask: np.ndarray) -> np.ndarray:
    """Beside a largest part that lies whole in the picture, what the border cuts off is another thing, thin bridges or not."""
    cores = cv2.erode(mask.astype(np.uint8), np.ones((7, 7), np.uint8), borderType=cv2.BORDER_REPLICATE)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(cores)
    if count == 1:
        return mask
    cropped = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    cropped = cropped[cropped > 0]
    if 1 + stats[1:, cv2.CC_STAT_AREA].argmax() in cropped:
        return mask
    rows, columns = distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
    return mask & ~np.isin(labels[rows, columns], cropped)


def _soften(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Alpha [H,W] whose edges follow the colours of `rgb`, from the mask of a smaller copy."""
    size = edge_size(rgb)
    coarse = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    pixel = max(1.0, max(size) / max(mask.shape))  # of the small mask, in the guide's pixels
    coarse = (cv2.GaussianBlur(coarse, (0, 0), 0.5 * pixel) > 0.5).astype(np.float32)
    return fit_edges(rgb, coarse, pixel, _EDGE_EPSILON)
