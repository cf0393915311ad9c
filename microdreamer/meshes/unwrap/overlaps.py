"""Overlaps of flat charts with themselves: found along rows of texels, and cut away.

Where all faces are counter-clockwise, the number of faces above a point is the winding number of the chart's border around
it. So the border alone, cut with the rows' centre lines, tells where a chart covers itself. Positions are complex, in texels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from microdreamer.meshes.unwrap.charts import FacePairs, connected_regions

CONTACT = 1e-3  # texels by which parts of a chart may overlap: they touch, up to rounding


class Spans(NamedTuple):
    """Pieces of the centre lines of rows in charts: chart [S], row [S], from left [S] to right [S]."""

    chart: np.ndarray
    row: np.ndarray
    left: np.ndarray
    right: np.ndarray


def _numbered(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For `counts` [N] things of each of N owners, one owner after the other: the owner, and the number among its own."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)


def _crossings(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(edge, row, x) where edges [E] cross the centre lines (at row + 1/2) of rows."""
    low, high = np.minimum(start.imag, end.imag), np.maximum(start.imag, end.imag)
    first, last = np.ceil(low - 0.5).astype(np.int64), np.ceil(high - 0.5).astype(np.int64)
    edge, row = _numbered(last - first)
    row += first[edge]
    a, b = start[edge], end[edge]
    return edge, row, a.real + (row + 0.5 - a.imag) / (b.imag - a.imag) * (b.real - a.real)


class Lines:
    """Numbers for lines, the rows of charts: offset[chart] + row; those of all rows between the lowest, low[chart], and the highest.

    chart [N] and row [N] name lines of `count` charts. Where a chart has none, its `high` is below its `low`.
    """

    def __init__(self, chart: np.ndarray, row: np.ndarray, count: int) -> None:
        self.low = np.full(count, int(row.max(initial=0)) + 1)
        self.high = np.full(count, int(row.min(initial=0)) - 1)
        np.minimum.at(self.low, chart, row)
        np.maximum.at(self.high, chart, row)
        rows = np.maximum(self.high - self.low + 1, 0)
        self.offset = np.cumsum(rows) - rows - self.low
        self.count = int(rows.sum())


def double_spans(triangles: np.ndarray, labels: np.ndarray, border: np.ndarray) -> Spans:
    """Where charts cover a row's centre line at least twice, sorted by chart and row.

    triangles [F,3], counter-clockwise; labels [F] their charts; `border` half-edges (k F + f from corner k of face f on).
    """
    corner, face = np.divmod(border, len(triangles))
    start, end = triangles[face, corner], triangles[face, (corner + 1) % 3]
    edge, row, x = _crossings(start, end)
    chart = labels[face[edge]]
    lines = Lines(chart, row, int(labels.max()) + 1)
    line = lines.offset[chart] + row
    many = np.flatnonzero((np.bincount(line) > 2)[line])  # two borders of a chart have one layer between them
    edge, row, x, chart, line = edge[many], row[many], x[many], chart[many], line[many]
    if len(edge) == 0:
        return Spans(edge, row, x, x)
    # Sorted by line and x through one number, which tells places apart that are CONTACT apart for any count of charts.
    order = np.argsort(line + (x - x.min()) * (0.5 / max(float(np.ptp(x)), CONTACT)))
    x = x[order]
    winding = np.cumsum(np.where(end.imag < start.imag, 1, -1)[edge[order]])  # 0 again at the end of each row
    found = np.flatnonzero((winding[:-1] >= 2) & (np.diff(x) > CONTACT))
    where = order[found]
    return Spans(chart[where], row[where], x[found], x[found + 1])


def _by_height(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three complex arrays, sorted by their imaginary parts, place by place."""
    swap = a.imag > b.imag
    a, b = np.where(swap, b, a), np.where(swap, a, b)
    swap = b.imag > c.imag
    b, c = np.where(swap, c, b), np.where(swap, b, c)
    swap = a.imag > b.imag
    return np.where(swap, b, a), np.where(swap, a, b), c


def _chords(low: np.ndarray, middle: np.ndarray, high: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Left and right ends [S] of the centre lines of rows [S] in triangles whose corners [S], by height, they run between."""
    y = row + 0.5
    above = y >= middle.imag
    start, end = np.where(above, middle, low), np.where(above, high, middle)
    one = low.real + (y - low.imag) * ((high.real - low.real) / (high.imag - low.imag))
    other = start.real + (y - start.imag) * ((end.real - start.real) / (end.imag - start.imag))
    return np.minimum(one, other), np.maximum(one, other)


def involved_faces(triangles: np.ndarray, labels: np.ndarray, doubles: Spans) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (face [N], double span [N]) that meet, for `doubles` sorted by chart and row."""
    charts = int(labels.max()) + 1
    lines = Lines(doubles.chart, doubles.row, charts)
    left, right = np.full(charts, np.inf), np.full(charts, -np.inf)
    np.minimum.at(left, doubles.chart, doubles.left)
    np.maximum.at(right, doubles.chart, doubles.right)
    # Faces whose boxes meet the box of their chart's double spans, and the rows of that box that they cover.
    near = np.flatnonzero((lines.low <= lines.high)[labels])
    chart = labels[near]
    low, middle, high = _by_height(*triangles[near].T)
    first = np.maximum(np.ceil(low.imag - 0.5).astype(np.int64), lines.low[chart])
    end = np.minimum(np.ceil(high.imag - 0.5).astype(np.int64), lines.high[chart] + 1)
    on_left = np.minimum(np.minimum(low.real, middle.real), high.real)
    on_right = np.maximum(np.maximum(low.real, middle.real), high.real)
    meets = np.flatnonzero((first < end) & (on_right >= left[chart]) & (on_left <= right[chart]))
    near, chart, first, end = near[meets], chart[meets], first[meets], end[meets]
    low, middle, high = low[meets], middle[meets], high[meets]
    # Double spans of a line have numbers from begin[line] to begin[line + 1].
    begin = np.append(0, np.cumsum(np.bincount(lines.offset[doubles.chart] + doubles.row, minlength=lines.count)))
    face, row = _numbered(end - first)
    row += first[face]
    line = lines.offset[chart][face] + row
    counts = begin[line + 1] - begin[line]
    crossed = counts > 0
    face, row, line, counts = face[crossed], row[crossed], line[crossed], counts[crossed]
    span_left, span_right = _chords(low[face], middle[face], high[face], row)
    span, double = _numbered(counts)
    double += begin[line][span]
    shared = np.minimum(span_right[span], doubles.right[double]) - np.maximum(span_left[span], doubles.left[double])
    hit = shared > CONTACT / 2
    return near[face[span[hit]]], double[hit]


def _regions_of(faces: np.ndarray, pairs: FacePairs, labels: np.ndarray) -> np.ndarray:
    """The connected region of equal label, among `faces` [N] alone, that each of them is in."""
    number = np.full(len(labels), -1)
    number[faces] = np.arange(len(faces))
    one, other = number[pairs.one], number[pairs.other]
    inside = (one >= 0) & (other >= 0)
    return connected_regions(one[inside], other[inside], labels[faces])


def split_at_overlaps(triangles: np.ndarray, labels: np.ndarray, pairs: FacePairs, heights: np.ndarray, doubles: Spans) -> np.ndarray:
    """Labels [F] after one of two layers became a chart of its own, wherever a chart covers itself.

    That is the layer of smaller area or, where the layers hang together, the faces of lower `heights` [F] above the chart's
    plane. At least one face leaves every chart that has doubles, so that repeating this ends.
    """
    face, double = involved_faces(triangles, labels, doubles)
    chosen, place = np.unique(face, return_inverse=True)
    layers = _regions_of(chosen, pairs, labels)
    flat = triangles[chosen]
    areas = np.bincount(layers, ((flat[:, 1] - flat[:, 0]).conj() * (flat[:, 2] - flat[:, 0])).imag)
    layer = layers[place]
    largest = np.full(len(doubles.chart), -1)
    order = np.argsort(areas[layer], kind="stable")
    largest[double[order]] = layer[order]  # the last one wins
    leaves = np.zeros(len(areas), bool)
    leaves[layer[layer != largest[double]]] = True
    leaving = chosen[leaves[layers]]
    apart = np.zeros(len(doubles.chart), bool)
    apart[double[leaves[layer]]] = True
    together = ~apart[double]
    if together.any():
        top, bottom = np.full(len(apart), -np.inf), np.full(len(apart), np.inf)
        np.maximum.at(top, double, heights[face])
        np.minimum.at(bottom, double, heights[face])
        # The uppermost of several layers stays.
        leaving = np.union1d(leaving, face[together & (heights[face] < (0.7 * top + 0.3 * bottom)[double])])
    # Charts that nothing would leave (layers at the same height) lose the first face involved.
    stuck = np.setdiff1d(doubles.chart, labels[leaving])
    leaving = np.union1d(leaving, [chosen[(labels[chosen] == chart).argmax()] for chart in stuck]).astype(np.int64)
    labels = labels.copy()
    labels[leaving] = labels.max() + 1 + _regions_of(leaving, pairs, labels)
    return labels
