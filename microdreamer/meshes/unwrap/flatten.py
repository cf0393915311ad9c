"""Flattening of charts: projection along the chart's direction, relaxed to keep lengths, and kept free of overlaps.

The relaxation is the local/global scheme of Liu et al., "A Local/Global Approach to Mesh Parameterization" (2008): every
face's best rotation, then one sparse least-squares problem for the positions, here by a few conjugate gradient steps.
Corners are given as numbers [F,3] of chart vertices: a vertex of the mesh has one in each chart that uses it.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

RELAXATIONS = 3  # rounds of rotations and positions
GRADIENT_STEPS = 12  # of the conjugate gradient method a round, at most
CONVERGED = 1e-24  # squared residual, as a share of the squared right side, at which a round ends: beyond, steps follow rounding errors
MIN_WEIGHT, MAX_WEIGHT = 0.05, 20.0  # of an edge (a cotangent): obtuse faces would make the problem indefinite, needles ill-conditioned
MIN_AREA_RATIO = 0.02  # of a face's area when flat and in space; below, it counts as folded


def chart_vertices(faces: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Corners [F,3], and for every chart vertex its vertex [T] and its chart [T]; those of a chart follow each other."""
    vertex_count = int(faces.max(initial=-1)) + 1
    # Most vertices are in one chart: they need no sorting of all corners, only those with a further chart do.
    main = np.full(vertex_count, -1)
    main[faces] = labels[:, None]
    used = np.flatnonzero(main >= 0)
    further = main[faces] != labels[:, None]
    keys, inverse = np.unique((labels[:, None] * vertex_count + faces)[further], return_inverse=True)
    keys = np.concatenate([main[used] * vertex_count + used, keys])
    order = np.argsort(keys)
    rank = np.empty(len(keys), np.int64)
    rank[order] = np.arange(len(keys))
    of_vertex = np.zeros(vertex_count, np.int64)
    of_vertex[used] = rank[: len(used)]
    corners = of_vertex[faces]
    corners[further] = rank[len(used) + inverse]
    chart, vertex = np.divmod(keys[order], max(vertex_count, 1))
    return corners, vertex, chart


def signed_areas(triangles: np.ndarray) -> np.ndarray:
    """Areas [F] of flat faces [F,3], positive where counter-clockwise."""
    a, b, c = triangles.T
    return ((b - a).conj() * (c - a)).imag / 2


def lay_flat(corners: np.ndarray) -> np.ndarray:
    """Flat copies [F,3] of single faces with corners [F,3,3], true to size."""
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    base = np.maximum(np.linalg.norm(first, axis=1), 1e-300)
    height = np.linalg.norm(np.cross(first, second), axis=1) / base
    return np.stack([np.zeros(len(base)), base, np.einsum("ij,ij->i", first, second) / base + 1j * height], axis=1)


def project(points: np.ndarray, charts: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Positions [T] of chart vertices in the planes across the directions [C,3] of their charts, faces seen from their front."""
    helper = np.eye(3)[np.abs(directions).argmin(1)]
    right = np.cross(helper, directions)
    right /= np.maximum(np.linalg.norm(right, axis=1, keepdims=True), 1e-300)
    up = np.cross(directions, right)
    return np.einsum("ij,ij->i", points, (right + 1j * up)[charts])


def _inner(a: np.ndarray, b: np.ndarray) -> float:
    """The inner product of complex vectors [T] as of real ones twice as long. BLAS would wake all its threads for so little."""
    return float(np.einsum("i,i->", a.view(np.float64), b.view(np.float64)))


def relax(flat: np.ndarray, corners: np.ndarray, points: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Positions [T] that keep the lengths of faces with corners at `points` [T,3] better than `flat` does."""
    count = len(flat)
    p0, p1, p2 = (points[corners[:, k]] for k in range(3))
    # The face in its own plane: corner 0 at the origin, corner 1 on the real axis. Edge k is opposite to corner k.
    first, second = p1 - p0, p2 - p0
    base = np.sqrt(np.einsum("ij,ij->i", first, first))
    apex = np.einsum("ij,ij->i", first, second) / base + 2j * areas / base
    edges = np.stack([apex - base, -apex, base + 0j])  # [3,F]
    weights = np.stack([-(edges[k - 2] * edges[k - 1].conj()).real for k in range(3)]) / (2 * areas)  # cotangents at the corners
    weights = np.clip(weights, MIN_WEIGHT, MAX_WEIGHT)
    rows, columns = corners[:, [1, 2, 0]].T.reshape(-1), corners[:, [2, 0, 1]].T.reshape(-1)
    pulls = sparse.coo_matrix((weights.reshape(-1), (rows, columns)), (count, count)).tocsr()
    pulls = pulls + pulls.T
    diagonal = np.asarray(pulls.sum(1)).reshape(-1)
    pulls = pulls.astype(np.complex128)
    weighted = (edges * weights).conj()
    # Times the positions, each face's rotation, except for its length; its adjoint times these, what pulls at the positions.
    shares = np.stack([weighted[1] - weighted[2], weighted[2] - weighted[0], weighted[0] - weighted[1]], axis=1)
    turns = sparse.csr_matrix((shares.reshape(-1), corners.reshape(-1), np.arange(0, corners.size + 1, 3)), (len(corners), count))
    forces = turns.conj().T
    for _ in range(RELAXATIONS):
        turn = turns @ flat
        turn /= np.maximum(np.abs(turn), 1e-300)
        right = forces @ turn
        residual = right - (diagonal * flat - pulls @ flat)
        step = residual / diagonal
        product = _inner(residual, step)
        enough = CONVERGED * _inner(right, right / diagonal)
        for _ in range(GRADIENT_STEPS):
            if product <= enough:
                break
            image = diagonal * step - pulls @ step
            rate = product / max(_inner(step, image), 1e-300)
            flat = flat + rate * step
            residual -= rate * image
            preconditioned = residual / diagonal
            previous, product = product, _inner(residual, preconditioned)
            step = preconditioned + (product / max(previous, 1e-300)) * step
    return flat
