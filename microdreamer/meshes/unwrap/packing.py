"""Packing of flat charts into a square texture: turned to small boxes, placed largest first, at the largest scale that fits.

Charts are placed on a grid of square cells, several texels a side, by the cells that they touch (with half of the padding
around), so that they nest into each other's bays and holes. Positions are complex numbers, half-edges as in `charts.edge_pairs`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from microdreamer.kernels.mask_placement import place_masks

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


def turn_to_small_boxes(triangles: np.ndarray, labels: np.ndarray, border: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Faces [F,3] after turning each chart so that its box is small and stands at the origin, and the sizes [C,2] of these.

    labels [F] are the charts of the faces; `border` holds the half-edges at the borders of all charts.
    """
    corner, face = np.divmod(border, len(triangles))
    order = np.argsort(labels[face], kind="stable")
    chart = labels[face][order]
    starts = np.flatnonzero(np.diff(chart, prepend=-1))
    points = triangles[face, corner][order]
    x, y = np.ascontiguousarray(points.real), np.ascontiguousarray(points.imag)
    turns = np.exp(0.5j * np.pi * np.arange(ANGLES) / ANGLES)
    boxes = np.empty((ANGLES, 4, len(starts)))
    for turn, box in zip(turns, boxes, strict=True):
        across, along = x * turn.real - y * turn.imag, x * turn.imag + y * turn.real
        np.minimum.reduceat(across, starts, out=box[0])
        np.maximum.reduceat(across, starts, out=box[1])
        np.minimum.reduceat(along, starts, out=box[2])
        np.maximum.reduceat(along, starts, out=box[3])
    best = ((boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2])).argmin(0)
    left, right, low, high = boxes[best, :, np.arange(len(starts))].T
    return triangles * turns[best][labels][:, None] - (left + 1j * low)[labels][:, None], np.stack([right - left, high - low], axis=1)


class Masks(NamedTuple):
    """Masks side by side in one array: that of chart c is cells[:h, left[c] : left[c] + w] with (w, h) = sizes[c], lowest row first."""

    cells: np.ndarray  # [R,W] uint8, 0 or 1
    left: np.ndarray  # [C]
    sizes: np.ndarray  # [C,2]

    def of(self, chart: int) -> np.ndarray:
        left, (width, height) = self.left[chart], self.sizes[chart]
        return self.cells[:height, left : left + width]

    def counts(self) -> np.ndarray:
        """The number [C] of the cells of each."""
        return np.add.reduceat(self.cells.sum(0, dtype=np.int64), self.left)


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

    def masks(self, scale: float, cell: float, margin: float) -> Masks:
        """For each chart the cells that its faces, times `scale`, touch when they are grown by `margin` on all sides.

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
        return Masks(covered, left[:-1], np.stack([right - left[:-1], top], axis=1))


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


def place(masks: Masks, order: np.ndarray, occupied: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Place masks, in `order`, in a strip of cells [R,width] uint8, each where it leaves the strip lowest, in one of four turns.

    Returns the places [C,2] (x, y), the quarter turns [C] and what is occupied afterwards, its last row not empty, or None where a
    mask is wider than the strip.
    """
    count, width = len(masks.left), occupied.shape[1]
    rank = np.arange(count)
    sizes = masks.sizes[order]
    turns = np.where(rank < TURNED, 4, 1 if count > MANY else 2)
    turns[sizes.max(1) == 1] = 1
    if (np.where(turns > 1, sizes.min(1), sizes[:, 0]) > width).any():
        return None
    large = int(np.flatnonzero(np.append(np.inf, sizes.max(1)) > TINY)[-1])  # from there on all are tiny
    if count - large <= FEW:
        large = count
    places, taken = np.zeros((count, 2), np.int64), np.zeros(count, np.int64)
    arguments = masks.cells, masks.left[order[:large]], sizes[:large], turns[:large], occupied
    found = place_masks(*(torch.from_numpy(np.ascontiguousarray(argument)) for argument in arguments))
    places[order[:large]], taken[order[:large]], occupied = (tensor.numpy() for tensor in found)
    if large < count:
        occupied = _place_tiny(masks, order[large:], occupied, places)
    return places, taken, occupied[: _height(occupied)]


def _height(occupied: np.ndarray) -> int:
    return int(np.append(-1, np.flatnonzero(occupied.any(1)))[-1]) + 1


def _place_tiny(masks: Masks, charts: np.ndarray, occupied: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Place charts in the lowest free squares of lattices as wide as their longer sides; fills in `places`, returns what is occupied."""
    width = occupied.shape[1]
    cells = np.pad(masks.cells, ((0, TINY), (0, TINY)))
    sides = masks.sizes[charts].max(1)
    for side in range(int(sides.max()), 0, -1):
        own = charts[sides == side]
        columns = width // side
        more = _height(occupied) + side * (2 + len(own) // columns) - len(occupied)
        if more > 0:
            occupied = np.concatenate([occupied, np.zeros((more, width), np.uint8)])
        rows = len(occupied) // side
        squares = occupied[: rows * side, : columns * side].reshape(rows, side, columns, side)
        free = np.flatnonzero(~squares.any((1, 3)))[: len(own)]
        places[own] = np.stack([free % columns, free // columns], axis=1) * side
        # Their masks, and what is beside them, cut off.
        y, x = np.mgrid[:side, :side].reshape(2, -1, 1)
        inside = (x < masks.sizes[own, 0]) & (y < masks.sizes[own, 1])
        filled = cells[np.broadcast_to(y, inside.shape), masks.left[own] + x] * inside
        occupied[places[own, 1] + y, places[own, 0] + x] = filled
    return occupied


def _orders(masks: Masks) -> list[np.ndarray]:
    """Orders worth trying: by cells, by the shorter side, by half of the box's border; largest first."""
    cells = masks.counts()
    return [np.lexsort((-cells, -size)) for size in (cells, masks.sizes.min(1), masks.sizes.sum(1))]


class Packing(NamedTuple):
    """Where charts lie: on a grid of square cells, `cell` texels a side, at `scale` and with `margin` texels around."""

    scale: float
    cell: float
    margin: float
    occupied: np.ndarray  # [R,G] uint8, rows from the lowest up, at most as many as there are columns


def pack(
    triangles: np.ndarray,
    labels: np.ndarray,
    border: np.ndarray,
    areas: np.ndarray,
    resolution: int,
    padding: float,
    known_scale: float | None = None,
) -> tuple[np.ndarray, Packing]:
    """Faces [F,3] in texels, 0 to `resolution` on both axes, of charts that lie `padding` texels apart; and how they are packed.

    triangles [F,3], all charts at the same scale; labels [F] and areas [F] of the faces; `border` the charts' half-edges. Where
    there are too many charts for the padding, it is halved until they fit. A `known_scale`, at which nearly the same charts fitted,
    saves the search for the largest: the first that fits is taken.
    """
    triangles, sizes = turn_to_small_boxes(triangles, labels, border)
    charts = Charts(triangles, labels, sizes)
    grid, margin = min(GRID, resolution), padding / 2
    while (packed := _pack_at_best_scale(charts, areas, resolution, grid, margin, known_scale)) is None:
        grid, margin = 2 * grid, margin / 2
    scale, masks, (places, turns, occupied) = packed
    packing = Packing(scale, resolution / grid, margin, occupied)
    return _placed(charts, packing, masks, places, turns), packing


def add(triangles: np.ndarray, labels: np.ndarray, packing: Packing) -> tuple[np.ndarray, Packing] | None:
    """Faces [F,3] in texels of further charts, placed in what a packing left free, and the packing with them; None where they do not fit.

    triangles [F,3] in texels; labels [F] the faces' charts.
    """
    triangles, sizes = turn_to_small_boxes(triangles / packing.scale, labels, np.arange(triangles.size))
    charts = Charts(triangles, labels, sizes)
    masks = charts.masks(packing.scale, packing.cell, packing.margin)
    placed = place(masks, _orders(masks)[0], packing.occupied)
    if placed is None or len(placed[2]) > packing.occupied.shape[1]:
        return None
    packing = packing._replace(occupied=placed[2])
    return _placed(charts, packing, masks, *placed[:2]), packing


def _placed(charts: Charts, packing: Packing, masks: Masks, places: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Faces [F,3] in texels of charts whose masks are at `places` [C,2] in cells, after quarter turns [C]."""
    # A mask turned k times by a quarter: its cells (x, y) go to (y, w - 1 - x), as by turning its box clockwise.
    wide, high = masks.sizes.T * packing.cell
    corner = np.select([turns == 0, turns == 1, turns == 2], [0, 1j * wide, wide + 1j * high], high)
    corner = corner + (places[:, 0] + 1j * places[:, 1]) * packing.cell
    factor = (-1j) ** turns
    corner += (1 + 1j) * packing.margin * factor
    return charts.triangles * (packing.scale * factor)[charts.labels][:, None] + corner[charts.labels][:, None]


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
    """(scale, masks, what `place` gave) of the largest scale found at which charts fit, or None where they fit at none.

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
        placed = place(masks, _orders(masks)[0] if order is None else order, np.zeros((0, grid), np.uint8))
        if placed is None:
            scale *= 0.9
            continue
        height = len(placed[2])
        if height <= grid and (best is None or scale > best[0]):
            best = scale, masks, placed
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
    orders = _orders(masks)[: 3 if len(charts.sizes) <= FEW else 1]
    strip = np.zeros((0, grid), np.uint8)
    tried = [(len(placed[2]), order) for order in orders if (placed := place(masks, order, strip)) is not None]
    height, order = min(tried, key=lambda pair: pair[0], default=(grid, orders[0]))
    return min(scale * COARSE_LOSS * np.sqrt(grid / height), limit), order
