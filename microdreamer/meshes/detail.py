"""Textures finer than the pictures that they are fitted to: a coarse one is fitted, and what it changed is added to the fine one.

A pixel that covers many texels moves them all alike, as a mip level does. So the fit needs no more texels than the views can tell apart,
and the fine texture keeps all that they cannot. Colours are added up as logits, the space in which a fit moves them.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

BAND_TEXELS = 1 << 22  # of the fine texture at a time
LOGIT_LIMIT = 0.002  # colours are kept this far from 0 and 1 in logit space: one step of 1/512


def logits(colors: np.ndarray) -> np.ndarray:
    """Logits of colours in [0,1], which are first moved off the ends."""
    colors = np.clip(colors, LOGIT_LIMIT, 1 - LOGIT_LIMIT)
    return np.log(colors / (1 - colors))


def coarse_logits(texture: np.ndarray, most: int) -> np.ndarray | None:
    """Logits [h,w,3] of a texture [H,W,3] in [0,1], averaged over whole numbers of texels until no side is above `most`.

    None for one that is no larger. Raises ValueError for `most` below 1.
    """
    if most < 1:
        raise ValueError(f"most: expected 1 or more texels, got {most}")
    height, width = texture.shape[:2]
    times = math.ceil(max(height, width) / most)
    if times == 1:
        return None
    columns, rows = max(1, width // times), max(1, height // times)
    # Columns first, some rows at a time, so that no second texture of full size is needed.
    narrow = np.empty((height, columns, 3), np.float32)
    for some in _bands(height, width):
        narrow[some] = cv2.resize(logits(texture[some]), (columns, some.stop - some.start), interpolation=cv2.INTER_AREA)
    return cv2.resize(narrow, (columns, rows), interpolation=cv2.INTER_AREA)


def add_change(texture: np.ndarray, change: np.ndarray) -> None:
    """Add a change of logits [h,w,3] to a texture [H,W,3] in [0,1], in place, linearly between the centres of the coarse texels.

    What does not change stays as it is, to the bit.
    """
    height, width = texture.shape[:2]
    for some in _bands(height, width):
        row = (np.arange(some.start, some.stop) + 0.5) * (len(change) / height) - 0.5
        first = np.floor(row).astype(int)
        share = (row - first).astype(np.float32)[:, None, None]
        above, below = (change[number.clip(0, len(change) - 1)] for number in (first, first + 1))
        moved = cv2.resize(above + share * (below - above), (width, len(row)), interpolation=cv2.INTER_LINEAR)
        moved += logits(texture[some])
        np.negative(moved, out=moved)
        np.exp(moved, out=moved)
        moved += 1
        np.reciprocal(moved, out=moved)
        np.copyto(texture[some], moved, where=_changed(change, first, width))


def _changed(change: np.ndarray, first: np.ndarray, width: int) -> np.ndarray:
    """Which texels [R,W,1] of some rows lie beside a coarse texel that changed; `first` [R]: the coarse row above each."""
    moved = change.any(axis=2)
    near = moved[first.clip(0, len(moved) - 1)] | moved[(first + 1).clip(0, len(moved) - 1)]
    column = np.floor((np.arange(width) + 0.5) * (change.shape[1] / width) - 0.5).astype(int)
    return (near[:, column.clip(0, near.shape[1] - 1)] | near[:, (column + 1).clip(0, near.shape[1] - 1)])[..., None]


def _bands(height: int, width: int) -> list[slice]:
    rows = max(1, BAND_TEXELS // width)
    return [slice(start, min(start + rows, height)) for start in range(0, height, rows)]
