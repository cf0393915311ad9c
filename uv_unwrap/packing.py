"""Packing of flat charts into a square texture: turned to small boxes, placed largest first, at the largest scale that fits.

Charts are placed on a grid of square cells, several texels a side, by the cells that they touch (with half of the padding
around), so that they nest into each other's bays and holes. Positions are complex numbers.
"""

from __future__ import annotations

import cv2
import numpy as np

GRID = 192  # cells a side, or as many as there are texels
ANGLES = 48  # that are tried for the smallest box, within a quarter turn
FILL = 0.93  # share of the texture that the first try covers, with half of the cells at borders
COARSE_LOSS = 1.02  # by which a finer grid lets charts be larger
TRIES, MAX_SCALES = 3, 24  # of scales: at least so many if none fills the texture, and at most so many if none fits
FEW, MANY = 40, 1000  # charts: several orders are tried for few, fewer scales for many
TINY = 3  # cells a side of charts that are placed all at once where they are many
TURNED = 40  # largest charts that are tried in all four turns
FULL = 0.975  # share of the height that must be used for the search to stop
MAX_RECTANGLE = 3  # cells a side: larger faces are drawn row by row, smaller ones as their boxes


def turn_to_small_boxes(flat: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Positions [T] after turning each chart, vertices from `starts` [C] on, so that its box is small and stands at the origin."""
    turns = np.exp(0.5j * np.pi * np.arange(ANGLES) / ANGLES)
    boxes = []
    for turn in turns:
        turned = flat * turn
        boxes.append([ends.reduceat(part, starts) for part in (turned.real, turned.imag) for ends in (np.minimum, np.maximum)])
    boxes = np.array(boxes)  # [ANGLES,4,C]
    best = ((boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2])).argmin(0)
    counts = np.diff(np.append(starts, len(flat)))
    corner = boxes[best, 0, np.arange(len(starts))] + 1j * boxes[best, 2, np.arange(len(starts))]
    return flat * np.repeat(turns[best], counts) - np.repeat(corner, counts)


class Charts:
    """Flat charts whose boxes stand at the origin: corners of faces [F,3], charts [F] of the faces, sizes [C,2] of the boxes."""

    def __init__(self, triangles: np.ndarray, labels: np.ndarray, sizes: np.ndarray) -> None:
        self.triangles, self.labels, self.sizes = triangles, labels, sizes
        x, y = triangles.real, triangles.imag
        # Rounding may leave a little less than 0.
        self.low = (
            np.maximum(np.minimum(np.minimum(x[:, 0], x[:, 1]), x[:, 2]), 0),
            np.maximum(np.minimum(np.minimum(y[:, 0], y[:, 1]), y[:, 2]), 0),
        )
        self.high = np.maximum(np.maximum(x[:, 0], x[:, 1]), x[:, 2]), np.maximum(np.maximum(y[:, 0], y[:, 1]), y[:, 2])

    def masks(self, scale: float, cell: float, margin: float) -> list[np.ndarray]:
        """For each chart the cells [h,w] uint8 that its faces, times `scale`, touch when they are grown by `margin` on all sides.

        The origin of a mask is `margin` below and left of that of the chart.
        """
        reach = 2 * margin / cell
        x0, y0 = (np.floor(low * (scale / cell)).astype(np.int64) for low in self.low)
        x1, y1 = (np.floor(high * (scale / cell) + reach).astype(np.int64) + 1 for high in self.high)
        size = np.floor(self.sizes * (scale / cell) + reach).astype(np.int64) + 2
        large = np.maximum(x1 - x0, y1 - y0) > MAX_RECTANGLE
        chart = self.labels
        if large.any():
            # Large faces are covered row by row, the others by their boxes.
            face = np.flatnonzero(large)
            owner, row, first, last = _rows_of_cells(self.triangles[face] * (scale / cell), y0[face], y1[face], reach)
            small = ~large
            x0, x1 = np.concatenate([x0[small], first]), np.concatenate([x1[small], last])
            y0, y1 = np.concatenate([y0[small], row]), np.concatenate([y1[small], row + 1])
            chart = np.concatenate([chart[small], chart[face[owner]]])
        # All masks stand side by side in one array, in which rectangles are drawn by their corners and summed up.
        left = np.concatenate([[0], np.cumsum(size[:, 0] + 1)])
        height, width = int(size[:, 1].max()) + 1, int(left[-1])
        start = left[chart]
        x0, x1, y0, y1 = start + x0, start + x1, y0 * width, y1 * width
        sums = np.bincount(np.concatenate([y0 + x0, y1 + x1]), minlength=height * width)
        sums -= np.bincount(np.concatenate([y0 + x1, y1 + x0]), minlength=height * width)
        covered = (sums.reshape(height, width).cumsum(0).cumsum(1) > 0).astype(np.uint8)
        right, top = np.zeros(len(size), np.int64), np.zeros(len(size), np.int64)
        np.maximum.at(right, chart, x1)
        np.maximum.at(top, chart, y1 // width)
        return [np.ascontiguousarray(covered[:h, x:w]) for x, w, h in zip(left.tolist(), right.tolist(), top.tolist(), strict=False)]


def _rows_of_cells(triangles: np.ndarray, low: np.ndarray, high: np.ndarray, reach: float) -> tuple[np.ndarray, ...]:
    """(face, row, first column, column after the last) of the cells, of size 1, in rows `low` to `high` [F] that faces touch.

    Faces [F,3] are grown by `reach` to the right and up.
    """
    counts = high - low
    face = np.repeat(np.arange(len(triangles)), counts)
    row = np.arange(len(face)) - np.repeat(np.cumsum(counts) - counts, counts) + low[face]
    bottom, top = row - reach, row + 1
    left, right = np.full(len(face), np.inf), np.full(len(face), -np.inf)
    for k in range(3):
        # The part of the edge between the heights `bottom` and `top`, as shares of its length.
        start, end = triangles[face, k], triangles[face, (k + 1) % 3]
        rise = end.imag - start.imag
        level = np.abs(rise) < 1e-9
        safe = np.where(level, 1.0, rise)
        one, other = (bottom - start.imag) / safe, (top - start.imag) / safe
        enter = np.where(level, 0.0, np.maximum(np.minimum(one, other), 0))
        leave = np.where(level, 1.0, np.minimum(np.maximum(one, other), 1))
        inside = (enter <= leave) & (~level | ((start.imag >= bottom) & (start.imag <= top)))
        run = end.real - start.real
        one, other = start.real + enter * run, start.real + leave * run
        left = np.where(inside, np.minimum(left, np.minimum(one, other)), left)
        right = np.where(inside, np.maximum(right, np.maximum(one, other)), right)
    hit = left <= right
    first = np.floor(np.maximum(left[hit], 0)).astype(np.int64)
    return face[hit], row[hit], first, np.floor(right[hit] + reach).astype(np.int64) + 1


_AROUND = np.ones((3, 3), np.uint8)


def place(masks: list[np.ndarray], order: np.ndarray, width: int) -> tuple[int, np.ndarray, np.ndarray] | None:
    """Place masks, in `order`, in a strip of `width` cells, each where its cells lie lowest, in one of four turns.

    Returns the height in cells, the places [C,2] (x, y) and the quarter turns [C], or None where a mask is wider than the strip.
    """
    count = len(masks)
    places, turns = np.zeros((count, 2), np.int64), np.zeros(count, np.int64)
    longest = max(max(mask.shape) for mask in masks)
    occupied = np.zeros((2 * width + longest, width), np.uint8)
    height = floor = 0
    sides = np.array([max(masks[chart].shape) for chart in order])
    rest = np.maximum.accumulate(sides[::-1])[::-1] <= TINY  # from where on all charts are tiny
    for rank, chart in enumerate(order):
        if rest[rank] and count - rank > FEW:
            return _place_tiny(masks, order[rank:], sides[rank:], occupied, height, places), places, turns
        best = None
        # Most of what was placed before is no smaller than the mask, and meets its outline if it meets the mask.
        upright = masks[chart]
        outline = upright - cv2.erode(upright, _AROUND, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        moments = cv2.moments(upright, binaryImage=True)
        x_middle, y_middle = moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]
        h, w = upright.shape
        middles = (y_middle, w - 1 - x_middle, h - 1 - y_middle, x_middle)
        for turn in range(1 if upright.size == 1 else 4 if rank < TURNED else 1 if count > MANY else 2):
            mask = _turned(upright, turn)
            h, w = mask.shape
            if w > width:
                continue
            x, y = _lowest_place(occupied[floor : height + h], _turned(outline, turn), h, w)
            if cv2.countNonZero(occupied[floor + y : floor + y + h, x : x + w] & mask):
                x, y = _lowest_place(occupied[floor : height + h], mask, h, w)
            key = (max(floor + y + h, height), y + middles[turn], x)
            if best is None or key < best[0]:
                best = key, x, floor + y, turn, mask
        if best is None:
            return None
        _, x, y, turn, mask = best
        h, w = mask.shape
        occupied[y : y + h, x : x + w] |= mask
        height = max(height, y + h)
        if height + longest > len(occupied):
            occupied = np.concatenate([occupied, np.zeros_like(occupied)])
        places[chart], turns[chart] = (x, y), turn
        while floor < height and occupied[floor].all():
            floor += 1
    return height, places, turns


def _place_tiny(masks, charts, sides, occupied, height, places) -> int:
    """Place charts in the lowest free squares of lattices as wide as their longer sides; fills in `places`, returns the height."""
    width = occupied.shape[1]
    for side in range(int(sides.max()), 0, -1):
        own = charts[sides == side]
        columns = width // side
        more = height + side * (2 + len(own) // columns) - len(occupied)
        if more > 0:
            occupied = np.concatenate([occupied, np.zeros((more, width), np.uint8)])
        rows = len(occupied) // side
        squares = occupied[: rows * side, : columns * side].reshape(rows, side, columns, side)
        free = np.flatnonzero(~squares.any((1, 3)))[: len(own)]
        places[own] = np.stack([free % columns, free // columns], axis=1) * side
        for chart, (x, y) in zip(own, places[own], strict=True):
            h, w = masks[chart].shape
            occupied[y : y + h, x : x + w] |= masks[chart]
            height = max(height, int(y) + h)
    return height


def _turned(mask: np.ndarray, quarters: int) -> np.ndarray:
    """`np.rot90(mask, quarters)`, contiguous, at a fraction of its overhead."""
    return np.ascontiguousarray((mask, mask.T[::-1], mask[::-1, ::-1], mask.T[:, ::-1])[quarters])


def _lowest_place(occupied: np.ndarray, mask: np.ndarray, height: int, width: int) -> tuple[int, int]:
    """(x, y) of the lowest, then leftmost place where a mask of that size meets no occupied cell; the top rows are free."""
    blocked = cv2.dilate(occupied, mask, anchor=(0, 0), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    free = blocked[: len(occupied) - height + 1, : occupied.shape[1] - width + 1] == 0
    y, x = divmod(int(free.argmax()), free.shape[1])
    return x, y


def _orders(masks: list[np.ndarray]) -> list[np.ndarray]:
    """Orders worth trying: by cells, by the shorter side, by half of the box's border; largest first."""
    cells = np.array([cv2.countNonZero(mask) for mask in masks])
    sides = np.array([mask.shape for mask in masks])
    return [np.lexsort((-cells, -size)) for size in (cells, sides.min(1), sides.sum(1))]


def pack(
    flat: np.ndarray,
    corners: np.ndarray,
    labels: np.ndarray,
    starts: np.ndarray,
    areas: np.ndarray,
    resolution: int,
    padding: float,
    known_scale: float | None = None,
) -> tuple[np.ndarray, float]:
    """Positions [T] in texels, 0 to `resolution` on both axes, of charts that lie `padding` texels apart; and their scale.

    flat [T] positions (all charts at the same scale), the vertices of chart c from `starts[c]` on; corners [F,3] and labels
    [F] and areas [F] of the faces. Where there are too many charts for the padding, it is halved until they fit. A
    `known_scale`, at which nearly the same charts fitted, saves the search for the largest: the first that fits is taken.
    """
    flat = turn_to_small_boxes(flat, starts)
    counts = np.diff(np.append(starts, len(flat)))
    sizes = np.stack([np.maximum.reduceat(flat.real, starts), np.maximum.reduceat(flat.imag, starts)], axis=1)
    charts = Charts(flat[corners], labels, sizes)
    grid, margin = min(GRID, resolution), padding / 2
    while (packed := _pack_at_best_scale(charts, areas, resolution, grid, margin, known_scale)) is None:
        grid, margin = 2 * grid, margin / 2
    scale, masks, places, turns = packed
    cell = resolution / grid
    # A mask turned k times by a quarter: its cells (x, y) go to (y, w - 1 - x), as by turning its box clockwise.
    boxes = np.array([mask.shape[::-1] for mask in masks]) * cell
    positions = flat * scale + (1 + 1j) * margin
    turn = np.repeat(turns, counts)
    wide, high = np.repeat(boxes[:, 0], counts), np.repeat(boxes[:, 1], counts)
    x, y = positions.real, positions.imag
    turned = np.select([turn == 0, turn == 1, turn == 2], [x + 1j * y, y + 1j * (wide - x), wide - x + 1j * (high - y)], high - y + 1j * x)
    return turned + np.repeat(places[:, 0] + 1j * places[:, 1], counts) * cell, scale


def _first_scale(charts: Charts, areas: np.ndarray, resolution: int, cell: float, margin: float) -> float | None:
    """The scale at which charts, with their margins and parts of cells, would fill the texture; None where margins alone do."""
    border = 2 * margin + cell
    room = FILL * resolution**2 - len(charts.sizes) * border**2
    if room <= 0:
        return None
    # area s^2 + border (sum of half perimeters) s = room
    area, perimeters = float(areas.sum()), 0.7 * border * float(charts.sizes.sum())
    return 2 * room / (perimeters + np.sqrt(perimeters**2 + 4 * area * room))


def _pack_at_best_scale(charts: Charts, areas: np.ndarray, resolution: int, grid: int, margin: float, known_scale: float | None):
    """(scale, masks, places, turns) of the largest scale found at which charts fit, or None where they fit at none.

    A known scale is the first to be tried, and the first that fits is taken.
    """
    longest = max(float(charts.sizes.max()), 1e-300)
    limit = (resolution - 2 * margin) * (1 - 1e-6) / longest
    scale = _first_scale(charts, areas, resolution, resolution / grid, margin)
    if scale is None:
        return None
    order = None
    if known_scale is not None and len(charts.sizes) > FEW:
        scale = min(known_scale, limit)
    else:
        scale, order = _coarse_scale(charts, min(scale, limit), limit, resolution, max(grid // 2, 1), margin)
    best = None
    tries = TRIES if len(charts.sizes) < MANY else TRIES - 1
    for attempt in range(MAX_SCALES):
        masks = charts.masks(scale, resolution / grid, margin)
        placed = place(masks, _orders(masks)[0] if order is None else order, grid)
        if placed is None:
            scale *= 0.9
            continue
        height = placed[0]
        if height <= grid and (best is None or scale > best[0]):
            best = scale, masks, *placed[1:]
        if best is not None and (order is None or attempt + 1 >= tries or (height <= grid and height >= FULL * grid)):
            break
        following = min(scale * np.sqrt(grid / height) * (1 if height <= grid else 0.998), limit)
        if best is not None and following <= best[0]:
            break
        scale = following
    return best


def _coarse_scale(charts: Charts, scale: float, limit: float, resolution: int, grid: int, margin: float) -> tuple[float, np.ndarray]:
    """A grid of half as many cells tells the best order, and the scale nearly."""
    masks = charts.masks(scale, resolution / grid, margin)
    orders = _orders(masks)[: 3 if len(masks) <= FEW else 1]
    tried = [(placed[0], order) for order in orders if (placed := place(masks, order, grid)) is not None]
    height, order = min(tried, key=lambda pair: pair[0], default=(grid, orders[0]))
    return min(scale * COARSE_LOSS * np.sqrt(grid / height), limit), order
