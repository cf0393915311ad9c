"""Polygons of any shape as triangles: concave ones by cutting off ears (Meisters, "Polygons have ears", 1975).

A polygon in space is looked at along its mean normal (Newell's), so that one that is not flat has an order of corners too.
"""

from __future__ import annotations

import numpy as np

FLAT = 1e-9  # share of a polygon's squared size up to which a corner counts as straight
MAX_CORNERS = 5_000  # of one concave polygon: seconds


def triangulated(starts: np.ndarray, counts: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Polygons as triangles without new corners.

    Polygon k has the corners starts[k] to starts[k] + counts[k] - 1, at points [C,3]. Returns the corners of the triangles [T,3] and
    the polygon of each [T]. Polygons of fewer than three corners give none; convex ones become fans. Raises ValueError for a concave
    polygon of more than `MAX_CORNERS`.
    """
    starts, counts = np.asarray(starts, np.int64), np.asarray(counts, np.int64)
    corners, owners = [np.zeros((0, 3), np.int64)], [np.zeros(0, np.int64)]
    for size in np.unique(counts[counts >= 3]):
        polygons = np.flatnonzero(counts == size)
        rows = starts[polygons][:, None] + np.arange(size)
        if size == 4:
            rows = np.where(_other_diagonal(points[rows])[:, None], np.roll(rows, -1, axis=1), rows)
        fan = np.stack([np.zeros(size - 2, np.int64), np.arange(1, size - 1), np.arange(2, size)], axis=1)
        triangles = rows[:, fan]
        if size > 4:
            for number in np.flatnonzero(_least_turn(points[rows]) <= FLAT):
                triangles[number] = rows[number][_ears(points[rows[number]])]
        corners.append(triangles.reshape(-1, 3))
        owners.append(polygons.repeat(size - 2))
    corners, owners = np.concatenate(corners), np.concatenate(owners)
    in_order = np.argsort(owners, kind="stable")
    return corners[in_order], owners[in_order]


def _other_diagonal(points: np.ndarray) -> np.ndarray:
    """Which quads [P,4,3] are to be cut from corner 1 to 3 rather than from 0 to 2, as they are concave or straight at 1 or 3 [P]."""
    bad = _turns(points) <= FLAT
    return (bad[:, 1] | bad[:, 3]) & ~(bad[:, 0] | bad[:, 2])


def _normals(points: np.ndarray) -> np.ndarray:
    """Newell's normals [P,3], of the length of twice the area, of polygons [P,K,3]."""
    centred = points - points[:, :1]
    return np.cross(centred, np.roll(centred, -1, axis=1)).sum(axis=1)


def _turns(points: np.ndarray) -> np.ndarray:
    """How much polygons [P,K,3] turn at their corners [P,K], as a share of their squared size: negative where against the whole."""
    edges = np.roll(points, -1, axis=1) - points
    normals = _normals(points)
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = normals / np.where(lengths > 0, lengths, 1)
    turns = np.einsum("pkc,pc->pk", np.cross(np.roll(edges, 1, axis=1), edges), normals)
    size = np.einsum("pkc,pkc->pk", edges, edges).max(axis=1, keepdims=True)
    return turns / np.where(size > 0, size, 1)


def _least_turn(points: np.ndarray) -> np.ndarray:
    return _turns(points).min(axis=1)


def _ears(points: np.ndarray) -> np.ndarray:
    """Triangles [K-2,3] of one polygon [K,3].

    Of the ears there are, the one of the widest angle's sine goes first, which keeps slivers for last. Where a polygon crosses
    itself so that no ear is left, the least bad corner is cut off.
    """
    if len(points) > MAX_CORNERS:
        raise ValueError(f"a concave polygon has {len(points)} corners, at most {MAX_CORNERS} are read; triangulate it first")
    normal = _normals(points[None])[0]
    axis = int(np.abs(normal).argmax())
    flat = np.delete(points, axis, axis=1)
    if (normal[axis] > 0) == (axis == 1):  # leaving out y turns the plane over
        flat = flat[:, ::-1]
    flat = (flat - flat.min(axis=0)) / max(float(np.ptp(flat, axis=0).max()), np.finfo(np.float64).tiny)
    left = np.arange(len(points))
    bends = _cross(flat - np.roll(flat, 1, axis=0), np.roll(flat, -1, axis=0) - flat) <= FLAT  # only such corners lie in others' ears
    quality = np.array([_ear_quality(flat, place, flat[bends]) for place in range(len(flat))])
    triangles = []
    while len(left) > 3:
        place = int(quality.argmax())
        triangles.append([left[place - 1], left[place], left[(place + 1) % len(left)]])
        left, flat, quality, bends = (np.delete(values, place, axis=0) for values in (left, flat, quality, bends))
        for neighbour in (place - 1, place % len(left)):
            quality[neighbour] = _ear_quality(flat, neighbour, flat[bends])
    triangles.append(list(left))
    return np.array(triangles)


def _ear_quality(flat: np.ndarray, place: int, others: np.ndarray) -> float:
    """How well a corner of what is left of a polygon [K,2] can be cut off: the sine of its angle, -1 for straight corners and below
    for those that turn inward or whose triangle has one of `others` inside."""
    a, b, c = flat[place - 1], flat[place], flat[(place + 1) % len(flat)]
    area = float(_cross(b - a, c - b))
    if area <= FLAT:
        return -1.0 if area >= -FLAT else -3.0
    inside = (_cross(b - a, others - a) >= 0) & (_cross(c - b, others - b) >= 0) & (_cross(a - c, others - c) >= 0)
    at_corner = (others == a).all(axis=1) | (others == b).all(axis=1) | (others == c).all(axis=1)
    if (inside & ~at_corner).any():
        return -2.0
    return area / float(np.linalg.norm(b - a) * np.linalg.norm(c - b))


def _cross(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]
