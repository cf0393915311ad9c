"""What a picture's alpha says: where an object ends, or nothing of use.

Some programs write an alpha of 254 into photographs, round the corners of a screenshot, fade its border or leave noise in it.
A cut-out, by the rule here, hides a fair share of the picture, and of its border, and what it shows is no window into a photograph.
"""

from __future__ import annotations

import cv2
import numpy as np

from microdreamer.images.edges import shrink

VISIBLE = 12  # of 255; fainter alpha does not count as part of the object
LEAST_HIDDEN = 0.05  # of the picture; hiding less, alpha is no cut-out
LEAST_HIDDEN_BORDER = 0.10  # of the picture's border; a hole in the middle is no cut-out either
WINDOW_SPAN = 0.95  # of the picture's width or height, from which a rounded rectangle or an ellipse is a window
WINDOW_FIT = 0.985  # intersection over union with it
HAZE_MAX = 64  # of 255; fainter alpha all along the border is haze
_MEASURED_SIDE = 1024  # pixels; shares are measured at most this large
SPECK = 5  # pixels; the median over this square ignores noise


def why_no_cut_out(alpha: np.ndarray) -> str | None:
    """None where alpha [H,W] (uint8) shows what belongs to an object; else why it does not, for a message."""
    small = shrink(alpha, _MEASURED_SIDE)
    if min(small.shape) >= SPECK:
        small = cv2.medianBlur(small, SPECK)
    visible = small > VISIBLE
    hidden = 1 - visible.mean()
    if hidden < LEAST_HIDDEN:
        return f"alpha hides {hidden:.0%} of the picture"
    hidden_border = 1 - np.concatenate([visible[0], visible[-1], visible[:, 0], visible[:, -1]]).mean()
    if hidden_border < LEAST_HIDDEN_BORDER:
        return f"alpha hides {hidden_border:.0%} of the picture's border"
    if _is_window(visible):
        return "alpha shows a rounded rectangle or an ellipse as large as the picture"
    return None


def _is_window(visible: np.ndarray) -> bool:
    """Whether a mask [H,W] is a rectangle, rounded or not, or an ellipse that spans the picture's width or height."""
    rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    if rows.size == 0:
        return False
    part = visible[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = part.shape
    if height < WINDOW_SPAN * visible.shape[0] and width < WINDOW_SPAN * visible.shape[1]:
        return False
    y, x = (np.abs(np.arange(length) + 0.5 - length / 2) for length in part.shape)
    # Four quarter circles leave (4 - pi) r^2 of their squares free; that gives the radius of the corners.
    radius = min(np.sqrt((~part).sum() / (4 - np.pi)), min(part.shape) / 2)
    corner = np.hypot(np.maximum(y - (height / 2 - radius), 0)[:, None], np.maximum(x - (width / 2 - radius), 0)[None])
    ellipse = np.hypot((y / (height / 2))[:, None], (x / (width / 2))[None])
    return any((part & shape).sum() >= WINDOW_FIT * (part | shape).sum() for shape in (corner <= radius, ellipse <= 1))


def haze_of(alpha: np.ndarray) -> int:
    """The faint alpha, 0 to 63 of 255, that covers what alpha [H,W] (uint8) should hide; 0 where most of its border is clean."""
    border = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
    faint = border[border < HAZE_MAX]
    if 2 * len(faint) < len(border) or np.median(faint) == 0:
        return 0
    return int(faint.max())


def without_haze(alpha: np.ndarray, haze: int) -> np.ndarray:
    """Alpha [H,W] (uint8) whose black point is moved up to `haze`."""
    return np.round(np.clip((alpha.astype(np.float32) - haze) * (255 / (255 - haze)), 0, 255)).astype(np.uint8)
