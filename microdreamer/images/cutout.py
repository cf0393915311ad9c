"""Cutting the object out of a picture with a background: rembg's networks where rembg is installed, else an embedded one.

The embedded network, U^2-Net-p, ships with the project. GrabCut, which knows nothing of things, stays as a choice.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import textwrap
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from microdreamer.images.alpha import SPECK, VISIBLE, haze_of, why_no_cut_out, without_haze
from microdreamer.images.edges import decontaminate, edge_size, extend, fit_edges
from microdreamer.images.grabcut import grabcut_alpha

Matting = Callable[[np.ndarray], np.ndarray]  # uint8 RGB [H,W,3] -> float32 alpha [H,W] in [0, 1]

_log = logging.getLogger(__name__)

AUTO, EMBEDDED, U2NETP, GRABCUT, AUTO_MODEL = "auto", "embedded", "u2netp", "grabcut", "u2net"
MIN_SIDE = 16  # pixels; below it there is no border to learn the background from
_MIN_AREA, _MAX_AREA = 0.01, 0.95  # of the picture; outside, there is no object or no background
_MAX_BORDER = 0.8  # of the picture's border that an object may touch
_CERTAIN = 0.5  # of the network's map; where it stays below everywhere there is no object
_MAP_RANGE = (0.1, 0.9)  # of the stretched map that becomes alpha's 0 to 1: its ends are soft
_EDGE_EPSILON = 1e-4  # of the guided filter, for the network's map, which is soft itself
_ADVICE = "pass an RGBA picture that shows where the object is, or try another --model of process.py"


class CutOut(NamedTuple):
    """An object's picture, straight RGBA; whether a background was removed; and what was done in a few words, if anything."""

    image: Image.Image
    background_removed: bool
    done: str | None


def cut_out(image: Image.Image, model: str | Matting = AUTO) -> Image.Image:
    """The object of `image` as straight RGBA of the same size: the picture of `separated`."""
    return separated(image, model).image


def separated(image: Image.Image, model: str | Matting = AUTO) -> CutOut:
    """The object of `image`, at the same size; a picture whose alpha is a cut-out already keeps it, except for haze.

    Whether it is one is judged by `alpha.why_no_cut_out`. `model`: "auto", "embedded", "grabcut", a rembg model's name, or what
    `load_matting` returned for one (to load it once for many pictures). Raises ValueError where no believable object is found or
    the model cannot be had.
    """
    if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
        return CutOut(_without_background(np.asarray(image.convert("RGB")), model), True, "background removed")
    image = image.convert("RGBA")
    alpha = np.asarray(image.getchannel("A"))
    if haze := haze_of(alpha):
        alpha = without_haze(alpha, haze)
    reason = why_no_cut_out(alpha)
    if reason is None:
        if haze:
            image.putalpha(Image.fromarray(alpha))
        return CutOut(image, False, f"alpha of up to {haze} of 255 around the object removed" if haze else None)
    shown = cv2.medianBlur(alpha, SPECK) > VISIBLE if min(alpha.shape) >= SPECK else alpha > VISIBLE
    try:
        rgba = _without_background(_with_hidden_filled(np.asarray(image)[..., :3], shown), model, shown)
    except _NoObject as error:
        if shown.all():
            raise
        return CutOut(image, False, f"{reason}, but {error.found}: alpha kept")
    return CutOut(rgba, True, f"{reason}, so it is no cut-out: background removed")


class _NoObject(ValueError):
    """No believable object; `found` says in a few words what was found instead."""

    def __init__(self, found: str) -> None:
        super().__init__(f"{found}; {_ADVICE}")
        self.found = found


def _without_background(rgb: np.ndarray, model: str | Matting, shown: np.ndarray | None = None) -> Image.Image:
    """RGBA of uint8 RGB [H,W,3] whose object is looked for by the model; what is not in `shown` [H,W] stays hidden."""
    height, width = rgb.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise ValueError(f"expected a picture of at least {MIN_SIDE}x{MIN_SIDE} pixels to cut out, got {width}x{height}")
    matting = load_matting(model) if isinstance(model, str) else model
    alpha = matting(rgb)
    if shown is not None:
        alpha = np.where(shown, alpha, np.float32(0))
    _check_plausible(alpha > 0.5)
    colours = decontaminate(rgb, alpha)
    return Image.fromarray(np.dstack([colours, np.round(alpha * 255).astype(np.uint8)]), "RGBA")


def _with_hidden_filled(rgb: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Colours [H,W,3] in which what is not `shown` has the mean colour of what is shown nearby: an edge there is none to see."""
    if shown.all() or not shown.any():
        return rgb
    size = edge_size(rgb)
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    weight = cv2.resize(shown.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    filled = extend(small, np.floor(weight), max(3, max(size) // 64))
    return np.where(shown[..., None], rgb, np.round(cv2.resize(filled, rgb.shape[1::-1])).astype(np.uint8))


def load_matting(model: str = AUTO) -> Matting:
    """The function that gives a picture's alpha. "auto" takes rembg's u2net where rembg is installed, else the embedded network.

    A warning is logged where rembg is there but cannot load its network. A named rembg model that cannot be had is a ValueError.
    """
    if model in (EMBEDDED, U2NETP) or (model == AUTO and not _has_rembg()):
        return embedded_alpha
    if model == GRABCUT:
        return grabcut_alpha
    try:
        return _load_rembg(AUTO_MODEL if model == AUTO else model)
    except _NotAvailable as error:
        if model != AUTO:
            raise ValueError(f"--model {model}: {error}; or pass --model {EMBEDDED}") from error
        _log.warning("cut-out: embedded network (%s)", error)
        return embedded_alpha


class _NotAvailable(Exception):
    """Why a rembg model cannot be had and what to do, in one line."""


def _has_rembg() -> bool:
    """Whether rembg can be imported: it ends the process when onnxruntime is missing."""
    return all(package in sys.modules or importlib.util.find_spec(package) is not None for package in ("rembg", "onnxruntime"))


def _load_rembg(name: str) -> Matting:
    if not _has_rembg():
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
    """Alpha [H,W] (float32, 0 to 1) of what U^2-Net-p takes for the object of uint8 RGB [H,W,3]; 0 everywhere where it sees none."""
    coarse, size = coarse_alpha(rgb), edge_size(rgb)
    scaled = cv2.resize(coarse, size, interpolation=cv2.INTER_LINEAR)
    return fit_edges(rgb, scaled, max(1.0, max(size) / len(coarse)), _EDGE_EPSILON)


def coarse_alpha(rgb: np.ndarray) -> np.ndarray:
    """The same [320,320], of the picture scaled to a square: the network's map stretched to [0,1], as its authors do, its soft ends cut."""
    from microdreamer.images.u2net import saliency_map  # PyTorch takes a second to import, which pictures with alpha save

    found = saliency_map(rgb)
    if found.max() < _CERTAIN:
        return np.zeros_like(found)
    low, high = _MAP_RANGE
    stretched = (found - found.min()) / (found.max() - found.min())
    return np.clip((stretched - low) / (high - low), 0, 1)


def _check_plausible(mask: np.ndarray) -> None:
    area = mask.mean()
    if area < _MIN_AREA:
        raise _NoObject(f"no object found, what was cut out covers {area:.1%} of the picture")
    if area > _MAX_AREA:
        raise _NoObject(f"no background found, what was cut out covers {area:.1%} of the picture")
    touched = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean()
    if touched > _MAX_BORDER:
        raise _NoObject(f"no clear object found, what was cut out touches {touched:.0%} of the picture's border")
