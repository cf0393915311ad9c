"""Cutting the object out of a picture with a background: rembg's networks where they can be had, else an embedded method.

The embedded one needs no download: a saliency map starts several GrabCuts (Rother et al. 2004), their majority starts a last
one, a guided filter gives soft edges, and the background's colour is taken out of them.
"""

from __future__ import annotations

import importlib.util
import sys
import textwrap
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image
from scipy.ndimage import distance_transform_edt, map_coordinates

from microdreamer.images.saliency import saliency

Matting = Callable[[np.ndarray], np.ndarray]  # uint8 RGB [H,W,3] -> float32 alpha [H,W] in [0, 1]

AUTO, EMBEDDED, AUTO_MODEL = "auto", "embedded", "u2net"
MIN_SIDE = 16  # pixels; below it there is no border to learn the background from
_GRABCUT_SIDE = 320  # pixels; GrabCut takes seconds beyond this and gains little
_EDGE_SIDE = 1024  # pixels; filters are fitted at most this large and applied at full size (fast guided filter, He & Sun 2015)
_GRABCUT_ITERATIONS = 3
_MIN_AREA, _MAX_AREA = 0.01, 0.95  # of the picture; outside, there is no object or no background
_MAX_BORDER = 0.8  # of the picture's border that an object may touch
_ADVICE = "pass an RGBA picture that shows where the object is, or try another --model of process.py"


def cut_out(image: Image.Image, model: str | Matting = AUTO) -> Image.Image:
    """The object of `image` as straight RGBA of the same size; a picture that has alpha comes back as it is.

    `model`: "auto", "embedded", a rembg model's name, or what `load_matting` returned for one (to load it once for many
    pictures). Raises ValueError where no believable object is found or the model cannot be had.
    """
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        return image.convert("RGBA")
    rgb = np.asarray(image.convert("RGB"))
    if min(rgb.shape[:2]) < MIN_SIDE:
        raise ValueError(f"expected a picture of at least {MIN_SIDE}x{MIN_SIDE} pixels to cut out, got {image.width}x{image.height}")
    matting = load_matting(model) if isinstance(model, str) else model
    alpha = matting(rgb)
    _check_plausible(alpha > 0.5)
    colours = decontaminate(rgb, alpha)
    return Image.fromarray(np.dstack([colours, np.round(alpha * 255).astype(np.uint8)]), "RGBA")


def load_matting(model: str = AUTO) -> Matting:
    """The function that gives a picture's alpha. "auto" takes rembg's u2net, or else the embedded one and says why on stderr.

    A named rembg model that cannot be had is a ValueError.
    """
    if model == EMBEDDED:
        return embedded_alpha
    try:
        return _load_rembg(AUTO_MODEL if model == AUTO else model)
    except _NotAvailable as error:
        if model != AUTO:
            raise ValueError(f"--model {model}: {error}; or pass --model {EMBEDDED}") from error
        print(f"cut-out: embedded method ({error})", file=sys.stderr, flush=True)
        return embedded_alpha


class _NotAvailable(Exception):
    """Why a rembg model cannot be had and what to do, in one line."""


def _load_rembg(name: str) -> Matting:
    # rembg ends the process when onnxruntime is missing, so that is asked first.
    if any(package not in sys.modules and importlib.util.find_spec(package) is None for package in ("rembg", "onnxruntime")):
        raise _NotAvailable("rembg is not installed: pip install 'microdreamer-optimized[rembg]'")
    try:
        import rembg

        session = rembg.new_session(name)
    # The import, the download and the model's start-up each fail in ways of their own (rembg sets no common type).
    except Exception as error:
        reason = textwrap.shorten(str(error), 120, placeholder=" ...") or type(error).__name__
        raise _NotAvailable(f"rembg could not load {name!r} ({reason}): check its name and the network") from error

    def rembg_alpha(rgb: np.ndarray) -> np.ndarray:
        mask = rembg.remove(Image.fromarray(rgb), session=session, only_mask=True)
        return np.asarray(mask.convert("L"), dtype=np.float32) / 255

    return rembg_alpha


def embedded_alpha(rgb: np.ndarray) -> np.ndarray:
    """Alpha [H,W] (float32, 0 to 1) of the most salient object in uint8 RGB [H,W,3], each side at least 16 pixels.

    Works best for one object that stands clear of the border before a background of other colours.
    """
    mask = _segment(_shrink(rgb, _GRABCUT_SIDE))
    if not mask.any():
        return np.zeros(rgb.shape[:2], np.float32)
    return _soften(rgb, mask)


def _shrink(image: np.ndarray, side: int) -> np.ndarray:
    scale = min(1.0, side / max(image.shape[:2]))
    size = tuple(max(1, round(length * scale)) for length in image.shape[1::-1])
    return image if scale == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)


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
    size = _edge_size(rgb)
    coarse = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    pixel = max(1.0, max(size) / max(mask.shape))  # of the small mask, in the guide's pixels
    coarse = (cv2.GaussianBlur(coarse, (0, 0), 0.5 * pixel) > 0.5).astype(np.float32)
    return _with_fitted_edges(rgb, coarse, pixel, epsilon=1e-3)


def _edge_size(rgb: np.ndarray) -> tuple[int, int]:
    """(width, height) at which edges are fitted."""
    return _shrink(rgb[..., 0], _EDGE_SIDE).shape[::-1]


def _with_fitted_edges(rgb: np.ndarray, coarse: np.ndarray, pixel: float, epsilon: float) -> np.ndarray:
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
    small_rgb = _shrink(rgb, _EDGE_SIDE).astype(np.float32)
    small_alpha = _shrink(alpha, _EDGE_SIDE)
    radius = max(3, max(small_alpha.shape) // 64)
    foreground = _extend(small_rgb, (small_alpha > 0.95).astype(np.float32), radius)
    background = _extend(small_rgb, (small_alpha < 0.05).astype(np.float32), radius)

    near = cv2.dilate((small_alpha > 0).astype(np.uint8), np.ones((2 * radius + 1,) * 2, np.uint8))
    near = cv2.resize(near, rgb.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0
    colours = np.where((alpha > 0)[..., None], rgb, np.uint8(0))
    rows, columns = np.nonzero((near | (alpha > 0)) & (alpha < 1))
    share = alpha[rows, columns, None]
    inside, outside = (_sample(field, rows, columns, rgb.shape[:2]) for field in (foreground, background))
    own = inside + share * (rgb[rows, columns] - share * inside - (1 - share) * outside)
    colours[rows, columns] = np.clip(np.round(own), 0, 255).astype(np.uint8)
    return colours


def _extend(colours: np.ndarray, weight: np.ndarray, radius: int) -> np.ndarray:
    """Weighted mean colour [H,W,3] around each pixel; windows grow where a small one holds no weight."""
    result = np.broadcast_to((colours * weight[..., None]).sum(axis=(0, 1)) / max(weight.sum(), 1e-6), colours.shape).astype(np.float32)
    for size in (8 * radius, 2 * radius, radius // 2 + 1):
        window = (2 * size + 1,) * 2
        total = cv2.blur(weight, window)[..., None]
        result = np.where(total > 0.01, cv2.blur(colours * weight[..., None], window) / np.maximum(total, 1e-6), result)
    return result


def _check_plausible(mask: np.ndarray) -> None:
    area = mask.mean()
    if area < _MIN_AREA:
        raise ValueError(f"no object found, what was cut out covers {area:.1%} of the picture; {_ADVICE}")
    if area > _MAX_AREA:
        raise ValueError(f"no background found, what was cut out covers {area:.1%} of the picture; {_ADVICE}")
    touched = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean()
    if touched > _MAX_BORDER:
        raise ValueError(f"no clear object found, what was cut out touches {touched:.0%} of the picture's border; {_ADVICE}")
