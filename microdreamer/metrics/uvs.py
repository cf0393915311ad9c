"""How good a UV layout is: stretch, use of the texture, charts, seams and overlaps.

Arrays: vertices [V,3], faces [F,3], and a layout of uvs [T,2] in [0,1] and uv_faces [F,3] (see `uv_unwrap.UVLayout`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from microdreamer.meshes.topology import edges_of, half_edges

TEXELS_AT_A_TIME = 2_000_000  # of faces' boxes, when coverage is counted


class Stretch(NamedTuple):
    """Sander et al., "Texture Mapping Progressive Meshes" (2001): 1 is best; infinite where a face of the mesh has no area in the texture.

    l2: root mean square over the surface, l_inf: the largest; both of a texel's length on the surface, times the square root of
    the layout's area over the surface's, so that a uniform scale does not matter. `l2_99`: the 0.99 quantile over the area of
    the faces' L2 stretch, which needles do not decide.
    """

    l2: float
    l2_99: float
    l_inf: float


def stretch(vertices: np.ndarray, faces: np.ndarray, uvs: np.ndarray, uv_faces: np.ndarray) -> Stretch:
    """Stretch of a layout, over the faces that have an area on the surface; nan where none has."""
    corners, flat = np.asarray(vertices, np.float64)[faces], np.asarray(uvs, np.float64)[uv_faces]
    p, q = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    s, t = flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0]
    areas = np.linalg.norm(np.cross(p, q), axis=1) / 2
    flat_areas = np.abs(s[:, 0] * t[:, 1] - s[:, 1] * t[:, 0]) / 2
    counted = areas > 1e-12 * max(areas.sum(), 1e-300)
    if not counted.any():
        return Stretch(np.nan, np.nan, np.nan)
    p, q, s, t, areas, flat_areas = (array[counted] for array in (p, q, s, t, areas, flat_areas))
    scale = flat_areas.sum() / areas.sum()
    if (flat_areas == 0).any():
        return Stretch(np.inf, np.inf, np.inf)
    # Derivatives of the surface's points by u and v, and what they make of all directions.
    along_u = (p * t[:, 1:] - q * s[:, 1:]) / (2 * flat_areas[:, None])
    along_v = (q * s[:, :1] - p * t[:, :1]) / (2 * flat_areas[:, None])
    a, b, c = (np.einsum("ij,ij->i", x, y) for x, y in ((along_u, along_u), (along_u, along_v), (along_v, along_v)))
    mean_square = (a + c) / 2 * scale
    largest = (a + c + np.sqrt((a - c) ** 2 + 4 * b * b)) / 2 * scale
    order = np.argsort(mean_square)
    heights = np.cumsum(areas[order])
    quantile = mean_square[order][np.searchsorted(heights, 0.99 * heights[-1])]
    return Stretch(float(np.sqrt((mean_square * areas).sum() / areas.sum())), float(np.sqrt(quantile)), float(np.sqrt(largest.max())))


def density_spread(vertices: np.ndarray, faces: np.ndarray, uvs: np.ndarray, uv_faces: np.ndarray) -> float:
    """Standard deviation over the surface of the logarithm of the texel density (texture area by surface area of each face)."""
    corners, flat = np.asarray(vertices, np.float64)[faces], np.asarray(uvs, np.float64)[uv_faces]
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    s, t = flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0]
    flat_areas = np.abs(s[:, 0] * t[:, 1] - s[:, 1] * t[:, 0])
    counted = (areas > 0) & (flat_areas > 0)
    areas, logarithms = areas[counted], np.log(flat_areas[counted] / areas[counted])
    mean = np.average(logarithms, weights=areas)
    return float(np.sqrt(np.average((logarithms - mean) ** 2, weights=areas)))


def texel_counts(uvs: np.ndarray, uv_faces: np.ndarray, resolution: int, margin: float = 1e-3) -> np.ndarray:
    """How many faces cover the centre of each texel, [resolution, resolution] with row 0 at v = 0.

    A centre within `margin` texels of an edge does not count as covered, so that neighbours do not cover it both.
    """
    corners = np.asarray(uvs, np.float64)[uv_faces] * resolution
    counts = np.zeros(resolution * resolution, np.int64)
    boxes = np.cumsum((np.ptp(corners, axis=1) + 1).prod(1))
    for part in np.split(corners, np.flatnonzero(np.diff(boxes // TEXELS_AT_A_TIME)) + 1):
        low = np.clip(np.ceil(part.min(1) - 0.5).astype(np.int64), 0, resolution)
        high = np.clip(np.floor(part.max(1) - 0.5).astype(np.int64) + 1, 0, resolution)
        width, height = np.maximum(high - low, 0).T
        face = np.repeat(np.arange(len(part)), width * height)
        number = np.arange(len(face)) - np.repeat(np.cumsum(width * height) - width * height, width * height)
        x, y = low[face, 0] + number % np.maximum(width[face], 1), low[face, 1] + number // np.maximum(width[face], 1)
        inside = np.ones(len(face), bool)
        a, b, c = part[:, 0], part[:, 1], part[:, 2]
        turn = np.sign((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0])
        for start, end in ((a, b), (b, c), (c, a)):
            edge = (end - start) * turn[:, None]
            edge = edge / np.maximum(np.linalg.norm(edge, axis=1, keepdims=True), 1e-300)
            inside &= edge[face, 0] * (y + 0.5 - start[face, 1]) - edge[face, 1] * (x + 0.5 - start[face, 0]) > margin
        counts += np.bincount(y[inside] * resolution + x[inside], minlength=len(counts))
    return counts.reshape(resolution, resolution)


def texel_use(uvs: np.ndarray, uv_faces: np.ndarray, resolution: int) -> float:
    """Share of the texels whose centre is in a face."""
    return float((texel_counts(uvs, uv_faces, resolution, margin=-1e-9) > 0).mean())


def overlapping_texels(uvs: np.ndarray, uv_faces: np.ndarray, resolution: int) -> int:
    """Number of texels whose centre is in more than one face."""
    return int((texel_counts(uvs, uv_faces, resolution) > 1).sum())


def face_charts(uv_faces: np.ndarray) -> np.ndarray:
    """The number [F] of the chart of each face: charts are connected across edges that two faces share in the layout."""
    count = len(uv_faces)
    numbers = edges_of(uv_faces).numbers
    links = sparse.coo_matrix((np.ones(3 * count, bool), (np.tile(np.arange(count), 3), count + numbers)), (4 * count,) * 2)
    return np.unique(csgraph.connected_components(links, directed=False)[1][:count], return_inverse=True)[1]


def chart_count(uv_faces: np.ndarray) -> int:
    return int(face_charts(uv_faces).max(initial=-1)) + 1


def seam_share(vertices: np.ndarray, faces: np.ndarray, uv_faces: np.ndarray) -> float:
    """Length of the edges at which the layout is cut, by the length of all edges between two faces.

    An edge is cut where its two faces do not share both ends in the layout. Open and crowded edges do not count.
    """
    faces, uv_faces = np.asarray(faces, np.int64), np.asarray(uv_faces, np.int64)
    (start, end), (uv_start, uv_end) = half_edges(faces).T, half_edges(uv_faces).T
    turned = start > end
    start, end = np.where(turned, end, start), np.where(turned, start, end)
    uv_start, uv_end = np.where(turned, uv_end, uv_start), np.where(turned, uv_start, uv_end)
    one, other = edges_of(faces).pairs()
    vertices = np.asarray(vertices, np.float64)
    lengths = np.linalg.norm(vertices[end[one]] - vertices[start[one]], axis=1)
    cut = (uv_start[one] != uv_start[other]) | (uv_end[one] != uv_end[other])
    return float(lengths[cut].sum() / max(lengths.sum(), 1e-300))
