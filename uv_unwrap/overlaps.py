"""Overlaps of flat charts with themselves: found along rows of texels, and cut away.

Where all faces are counter-clockwise, the number of faces above a point is the winding number of the chart's border around
it. So the border alone, cut with the rows' centre lines, tells where a chart covers itself. Positions are complex, in texels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from uv_unwrap.charts import FacePairs, connected_regions

CONTACT = 1e-3  # texels by which parts of a chart may overlap: they touch, up to rounding


class Spans(NamedTuple):
    """Pieces of the centre lines of rows: item [S] (a face or a chart), row [S], from left [S] to right [S]."""

    item: np.ndarray
    row: np.ndarray
    left: np.ndarray
    right: np.ndarray


def _crossings(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(edge, row, x) where edges [E] cross the centre lines (at row + 1/2) of rows."""
    low, high = np.minimum(start.imag, end.imag), np.maximum(start.imag, end.imag)
    first, last = np.ceil(low - 0.5).astype(np.int64), np.ceil(high - 0.5).astype(np.int64)
    counts = last - first
    edge = np.repeat(np.arange(len(start)), counts)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    a, b = start[edge], end[edge]
    return edge, row, a.real + (row + 0.5 - a.imag) / (b.imag - a.imag) * (b.real - a.real)


def double_spans(triangles: np.ndarray, labels: np.ndarray, border: np.ndarray) -> Spans:
    """Where charts cover a row's centre line at least twice; items are charts.

    triangles [F,3], counter-clockwise; labels [F] their charts; `border` half-edges (k F + f from corner k of face f on).
    """
    face, corner = border % len(triangles), border // len(triangles)
    start, end = triangles[face, corner], triangles[face, (corner + 1) % 3]
    edge, row, x = _crossings(start, end)
    chart = labels[face[edge]]
    order = np.lexsort((x, row, chart))
    edge, row, x, chart = edge[order], row[order], x[order], chart[order]
    winding = np.cumsum(np.where(end[edge].imag < start[edge].imag, 1, -1))  # 0 again at the end of each row
    found = np.flatnonzero((winding[:-1] >= 2) & (np.diff(x) > CONTACT))
    return Spans(chart[found], row[found], x[found], x[found + 1])  # sorted by chart and row


def face_spans(triangles: np.ndarray) -> Spans:
    """Where faces [F,3] cover the centre lines of rows; items are faces."""
    count = len(triangles)
    edge, row, x = _crossings(triangles.T.reshape(-1), np.roll(triangles, -1, axis=1).T.reshape(-1))
    order = np.lexsort((x, row, edge % count))
    face, row, x = edge[order] % count, row[order], x[order]
    return Spans(face[::2], row[::2], x[::2], x[1::2])


def _near(triangles: np.ndarray, labels: np.ndarray, doubles: Spans) -> np.ndarray:
    """Faces whose boxes meet the box of the double spans of their chart."""
    bounds = np.full((4, int(labels.max()) + 1), np.inf)
    for bound, values in zip(bounds, (doubles.left, -doubles.right, doubles.row, -doubles.row - 1), strict=True):
        np.minimum.at(bound, doubles.item, values)
    faces = np.flatnonzero(np.isfinite(bounds[0])[labels])
    left, right, low, high = bounds[:, labels[faces]]
    x, y = triangles[faces].real, triangles[faces].imag
    return faces[(x.max(1) >= left) & (x.min(1) <= -right) & (y.max(1) >= low) & (y.min(1) <= -high)]


def _involved(spans: Spans, labels: np.ndarray, doubles: Spans) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (face, double span) that meet; `labels` of the faces of `spans`, `doubles` sorted by chart and row."""
    low = min(int(spans.row.min()), int(doubles.row.min()))
    rows = max(int(spans.row.max()), int(doubles.row.max())) - low + 1
    line, double_line = labels * rows + spans.row - low, doubles.item * rows + doubles.row - low
    begin, end = np.searchsorted(double_line, line, "left"), np.searchsorted(double_line, line, "right")
    counts = end - begin
    span = np.repeat(np.arange(len(line)), counts)
    double = np.arange(len(span)) - np.repeat(np.cumsum(counts) - counts, counts) + begin[span]
    hit = np.minimum(spans.right[span], doubles.right[double]) - np.maximum(spans.left[span], doubles.left[double]) > CONTACT / 2
    return spans.item[span[hit]], double[hit]


def split_at_overlaps(triangles: np.ndarray, labels: np.ndarray, pairs: FacePairs, heights: np.ndarray, doubles: Spans) -> np.ndarray:
    """Labels [F] after one of two layers became a chart of its own, wherever a chart covers itself.

    That is the layer of smaller area or, where the layers hang together, the faces of lower `heights` [F] above the chart's
    plane. At least one face leaves every chart that has doubles, so that repeating this ends.
    """
    near = _near(triangles, labels, doubles)
    spans = face_spans(triangles[near])
    face, double = _involved(spans, labels[near[spans.item]], doubles)
    face = near[face]
    chosen = np.unique(face)
    number = np.full(len(labels), -1)
    number[chosen] = np.arange(len(chosen))
    inside = (number[pairs.one] >= 0) & (number[pairs.other] >= 0)
    local = FacePairs(number[pairs.one[inside]], number[pairs.other[inside]], pairs.lengths[inside])
    layers = connected_regions(local, labels[chosen])
    flat = triangles[chosen]
    areas = np.bincount(layers, ((flat[:, 1] - flat[:, 0]).conj() * (flat[:, 2] - flat[:, 0])).imag)
    layer = layers[number[face]]
    largest = np.full(len(doubles.item), -1)
    order = np.argsort(areas[layer], kind="stable")
    largest[double[order]] = layer[order]  # the last one wins
    leaves = np.zeros(len(areas), bool)
    leaves[layer[layer != largest[double]]] = True
    leaving = chosen[leaves[layers]]
    apart = np.zeros(len(doubles.item), bool)
    apart[double[leaves[layer]]] = True
    together = ~apart[double]
    if together.any():
        top, bottom = np.full(len(apart), -np.inf), np.full(len(apart), np.inf)
        np.maximum.at(top, double, heights[face])
        np.minimum.at(bottom, double, heights[face])
        # The uppermost of several layers stays.
        leaving = np.union1d(leaving, face[together & (heights[face] < (0.7 * top + 0.3 * bottom)[double])])
    # Charts that nothing would leave (layers at the same height) lose the first face involved.
    stuck = np.setdiff1d(doubles.item, labels[leaving])
    leaving = np.union1d(leaving, [chosen[(labels[chosen] == chart).argmax()] for chart in stuck]).astype(np.int64)
    moved = np.zeros(len(labels), bool)
    moved[leaving] = True
    parts = connected_regions(pairs, np.where(moved, labels + labels.max() + 1, -1 - np.arange(len(labels))))
    labels = labels.copy()
    labels[leaving] = labels.max() + 1 + np.unique(parts[leaving], return_inverse=True)[1]
    return labels
