"""The edge of a cut-out: alpha that follows the picture's colours, and colours without the background's share."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.ndimage import map_coordinates

_EDGE_SIDE = 1024  # pixels; filters are fitted at most this large and applied at full size (fast guided filter, He & Sun 2015)


def shrink(image: np.ndarray, side: int) -> np.ndarray:
    """`image` [H,W] or [H,W,C] scaled down, by averages, until its longer side is at most `side` pixels."""
    scale = min(1.0, side / max(image.shape[:2]))
    size = tuple(max(1, round(length * scale)) for length in image.shape[1::-1])
    return image if scale == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def edge_size(rgb: np.ndarray) -> tuple[int, int]:
    """(width, height) at which edges are fitted."""
    return shrink(rgb[..., 0], _EDGE_SIDE).shape[::-1]


def fit_edges(rgb: np.ndarray, coarse: np.ndarray, pixel: float, epsilon: float) -> np.ndarray:
    """Alpha [H,W] from a coarse one [h,w] whose edges are right to a few times `pixel` of its pixels.

    Within a band around them alpha is a locally linear function of colour (guided filter, He et al. 2010, equations 14 to 16),
    fitted at the size of `coarse`, at most 1024 pixels, and applied to the pixels of the full picture.
    """
    guide = cv2.resize(rgb, coarse.shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    coefficients = _guided_filter_coefficients(guide, coarse, round(2 * pixel) + 1, epsilon)
    reach = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * round(2 * pixel) + 3,) * 2)
    band = cv2.morphologyEx(coarse, cv2.MORPH_GRADIENT, reach)

    full = rgb.shape[1::-1]
    alpha = cv2.resize(coarse, full, interpolation=cv2.INTER_LINEAR)
    rows, columns = np.nonzero(cv2.resize(band, full, interpolation=cv2.INTER_LINEAR) > 0)
    slope_offset = _sample(coefficients, rows, columns, rgb.shape[:2])
    linear = (slope_offset[:, :3] * (rgb[rows, columns] / np.float32(255))).sum(axis=1) + slope_offset[:, 3]
    # The filter averages over its window and so never quite reaches 0 and 1: spread the middle.
    alpha[rows, columns] = np.clip((linear - 0.15) / 0.7, 0, 1)
    return alpha


def _guided_filter_coefficients(guide: np.ndarray, target: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """[H,W,4]: slope for r, g, b and offset of the smooth local fit target ~ slope . guide + offset."""

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.blur(values, (2 * radius + 1, 2 * radius + 1), borderType=cv2.BORDER_REFLECT)

    mean_guide, mean_target = mean(guide), mean(target)
    covariance = np.empty((*target.shape, 3, 3), np.float32)
    for i in range(3):
        for j in range(i, 3):
            covariance[..., i, j] = mean(guide[..., i] * guide[..., j]) - mean_guide[..., i] * mean_guide[..., j]
            covariance[..., j, i] = covariance[..., i, j]
    covariance += epsilon * np.eye(3, dtype=np.float32)
    cross = mean(guide * target[..., None]) - mean_guide * mean_target[..., None]
    slope = np.linalg.solve(covariance, cross[..., None])[..., 0]
    offset = mean_target - (slope * mean_guide).sum(axis=-1)
    return mean(np.dstack([slope, offset]))


def _sample(field: np.ndarray, rows: np.ndarray, columns: np.ndarray, full: tuple[int, int]) -> np.ndarray:
    """[P,C]: a small field [h,w,C] at pixels of the full-size picture, interpolated."""
    small = field.shape[:2]
    points = [(index + 0.5) * (small[axis] / full[axis]) - 0.5 for axis, index in enumerate((rows, columns))]
    return np.stack([map_coordinates(field[..., c], points, order=1, mode="nearest") for c in range(field.shape[-1])], axis=-1)


def decontaminate(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The object's own colours, uint8 [H,W,3]: soft pixels lose the background's share, invisible ones beside it take its colour.

    Opaque pixels stay; those far outside become black. Foreground and background colours are averages of nearby sure
    pixels, corrected by the pixel itself (Forte 2021, arXiv 2006.14970, equation 7).
    """
    small_rgb = shrink(rgb, _EDGE_SIDE).astype(np.float32)
    small_alpha = shrink(alpha, _EDGE_SIDE)
    radius = max(3, max(small_alpha.shape) // 64)
    foreground = extend(small_rgb, (small_alpha > 0.95).astype(np.float32), radius)
    background = extend(small_rgb, (small_alpha < 0.05).astype(np.float32), radius)

    near = cv2.dilate((small_alpha > 0).astype(np.uint8), np.ones((2 * radius + 1,) * 2, np.uint8))
    near = cv2.resize(near, rgb.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0
    colours = np.where((alpha > 0)[..., None], rgb, np.uint8(0))
    rows, columns = np.nonzero((near | (alpha > 0)) & (alpha < 1))
    share = alpha[rows, columns, None]
    inside, outside = (_sample(field, rows, columns, rgb.shape[:2]) for field in (foreground, background))
    own = inside + share * (rgb[rows, columns] - share * inside - (1 - share) * outside)
    colours[rows, columns] = np.clip(np.round(own), 0, 255).astype(np.uint8)
    return colours


def extend(colours: np.ndarray, weight: np.ndarray, radius: int) -> np.ndarray:
    """Weighted mean colour [H,W,3] around each pixel; windows grow where a small one holds no weight."""
    result = np.broadcast_to((colours * weight[..., None]).sum(axis=(0, 1)) / max(weight.sum(), 1e-6), colours.shape).astype(np.float32)
    for size in (8 * radius, 2 * radius, radius // 2 + 1):
        window = (2 * size + 1,) * 2
        total = cv2.blur(weight, window)[..., None]
        result = np.where(total > 0.01, cv2.blur(colours * weight[..., None], window) / np.maximum(total, 1e-6), result)
    return result
