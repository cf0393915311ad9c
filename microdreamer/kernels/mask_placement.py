"""Placement of masks in a strip, each where its cells lie lowest: one after the other, on the CPU."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from microdreamer.kernels import extension

_AROUND = np.ones((3, 3), np.uint8)


def place_masks(
    cells: Tensor, left: Tensor, sizes: Tensor, turns: Tensor, occupied: Tensor, compiled: bool | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Place masks, in their order, in a strip, each in the turn and at the place where it leaves the strip lowest.

    cells [R,W] (uint8, 0 or 1) holds all masks side by side: mask n is cells[:h, left[n] : left[n] + w] with (w, h) = sizes[n],
    lowest row first; left [N], sizes [N,2] and turns [N], how many quarter turns (1 to 4) are tried, are int64. The strip's cells
    `occupied` [H,width] (uint8) are not free; above row H all are. Of several turns wins that of the lowest strip, then of the
    lowest centre; of several places the lowest, then leftmost.

    Returns the places [N,2] (x, y), the quarter turns [N] (as of numpy.rot90) and the strip afterwards, with more rows where
    these are needed. All are on the CPU. ValueError (from the compiled op) for masks without cells, outside of `cells`, or wider
    than the strip in all turns. `compiled` is the compiled op or the plain version, which give the same; None: the best there is.
    """
    if extension.use_compiled("cpu", asked=compiled):
        return torch.ops.microdreamer.place_masks(cells.contiguous(), left, sizes, turns, occupied.contiguous())
    return place_masks_reference(cells, left, sizes, turns, occupied)


def place_masks_reference(cells: Tensor, left: Tensor, sizes: Tensor, turns: Tensor, occupied: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`place_masks` by OpenCV's dilation."""
    rows, width = occupied.shape
    strip = occupied.numpy().copy()
    used = np.flatnonzero(strip.any(1))
    height, floor = int(used[-1]) + 1 if len(used) else 0, 0
    longest = int(sizes.max()) if len(sizes) else 0
    places, taken = np.zeros((len(left), 2), np.int64), np.zeros(len(left), np.int64)
    for index, (x0, (w, h), tries) in enumerate(zip(left.tolist(), sizes.tolist(), turns.tolist(), strict=True)):
        if height + longest > len(strip):
            strip = np.concatenate([strip, np.zeros((len(strip) + 2 * longest, width), np.uint8)])
        while floor < height and strip[floor].all():
            floor += 1
        upright = np.ascontiguousarray(cells.numpy()[:h, x0 : x0 + w])
        # Most of what was placed before is no smaller than the mask, and meets its outline if it meets the mask.
        outline = upright - cv2.erode(upright, _AROUND, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        y_cells, x_cells = np.nonzero(upright)
        x_middle, y_middle = x_cells.sum() / len(x_cells), y_cells.sum() / len(y_cells)
        middles = (y_middle, w - 1 - x_middle, h - 1 - y_middle, x_middle)
        best = None
        for turn in range(tries):
            mask = _turned(upright, turn)
            high, wide = mask.shape
            if wide > width:
                continue
            x, y = _lowest_place(strip[floor : height + high], _turned(outline, turn))
            if cv2.countNonZero(strip[floor + y : floor + y + high, x : x + wide] & mask):
                x, y = _lowest_place(strip[floor : height + high], mask)
            key = (max(floor + y + high, height), floor + y + middles[turn], x)
            if best is None or key < best[0]:
                best = key, x, floor + y, turn, mask
        _, x, y, taken[index], mask = best
        strip[y : y + mask.shape[0], x : x + mask.shape[1]] |= mask
        height = max(height, y + mask.shape[0])
        places[index] = x, y
    return torch.from_numpy(places), torch.from_numpy(taken), torch.from_numpy(strip[: max(rows, height)])


def _turned(mask: np.ndarray, quarters: int) -> np.ndarray:
    """`np.rot90(mask, quarters)`, contiguous, at a fraction of its overhead."""
    return np.ascontiguousarray((mask, mask.T[::-1], mask[::-1, ::-1], mask.T[:, ::-1])[quarters])


def _lowest_place(occupied: np.ndarray, mask: np.ndarray) -> tuple[int, int]:
    """(x, y) of the lowest, then leftmost place where the mask meets no occupied cell; the top rows are free."""
    height, width = mask.shape
    blocked = cv2.dilate(occupied, mask, anchor=(0, 0), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    free = blocked[: len(occupied) - height + 1, : occupied.shape[1] - width + 1] == 0
    y, x = divmod(int(free.argmax()), free.shape[1])
    return x, y


# ---- The op: shapes for torch.compile ----


def _fake(cells: Tensor, left: Tensor, sizes: Tensor, turns: Tensor, occupied: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows = torch.library.get_ctx().new_dynamic_size()
    return torch.empty_like(sizes), torch.empty_like(turns), occupied.new_empty(rows, occupied.shape[1])


extension.register("place_masks", fake=_fake)
