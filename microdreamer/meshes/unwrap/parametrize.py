"""UV unwrapping: a layout of a mesh's faces in a square texture, without overlaps, at an even texel density.

Two methods: "charts", this project's own (see the modules beside this), an eighth of a second for 50 000 faces and twice
that where they are noise, and "xatlas", the library of that name, which takes tens of seconds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from microdreamer.meshes import TEXTURE_SIZE
from microdreamer.meshes.unwrap import METHODS, PADDING
from microdreamer.meshes.unwrap import charts as uv_charts
from microdreamer.meshes.unwrap import flatten as uv_flatten
from microdreamer.meshes.unwrap import overlaps as uv_overlaps
from microdreamer.meshes.unwrap import packing as uv_packing

FLAT_FACE = 1e-6  # faces of less height than this share of their longest edge get no area in the texture
MAX_SPLITS = 40  # rounds of cutting charts that cover themselves; each halves them at least
CHECK_FILL, CHECKS_A_TEXEL = 0.7, 2  # share of the texture that charts are taken to cover when checked for overlaps, and lines


class UVLayout(NamedTuple):
    """Corner k of face f is at uvs[uv_faces[f, k]].

    uvs [T,2] float32 in [0,1]: u to the right and v up, as in OBJ files and OpenGL, so that row r of an image of R rows, counted
    from its top, has its centre at v = 1 - (r + 1/2) / R. uv_faces [F,3] int32.
    """

    uvs: np.ndarray
    uv_faces: np.ndarray


def unwrap(
    vertices: np.ndarray, faces: np.ndarray, method: str = METHODS[0], resolution: int = TEXTURE_SIZE, padding: float = PADDING
) -> UVLayout:
    """Lay the faces [F,3] of a mesh of vertices [V,3] out in a texture of `resolution` texels a side.

    Charts are at least `padding` texels apart and half as far from the texture's border (with "charts": the padding is halved
    until they all fit, where there are very many). Faces are counter-clockwise in the layout. Those without area share one
    point, unless xatlas says otherwise. The same input gives the same layout. Charts end at edges that are open, have more
    than two faces or faces of opposite winding; vertices at the same place but of different number are not joined.
    Raises ValueError for arrays of other shapes, vertices that are not finite, faces that name missing vertices, and unknown
    methods; ImportError for "xatlas" where that is not installed.
    """
    vertices, faces = np.asarray(vertices, np.float64), np.asarray(faces)
    _check(vertices, faces, method, resolution, padding)
    faces = faces.astype(np.int64)
    if len(faces) == 0:
        return UVLayout(np.zeros((0, 2), np.float32), np.zeros((0, 3), np.int32))
    if method == "xatlas":
        return _unwrap_with_xatlas(vertices, faces, resolution, padding)
    used = np.zeros(len(vertices), bool)
    used[faces] = True
    size = float(np.ptp(vertices[used], axis=0).max())
    if size > 0:
        vertices = (vertices - vertices[faces[0, 0]]) / size
    edges = vertices[np.roll(faces, -1, axis=1)] - vertices[faces]
    normals = np.cross(edges[:, 0], edges[:, 1]) / 2
    areas = np.sqrt(np.einsum("ij,ij->i", normals, normals))
    solid = 2 * areas > FLAT_FACE * np.einsum("ijk,ijk->ij", edges, edges).max(1)
    if not solid.any():
        return UVLayout(np.full((1, 2), 0.5, np.float32), np.zeros((len(faces), 3), np.int32))
    layout = _unwrap_solid(vertices, faces[solid], normals[solid], areas[solid], resolution, padding)
    return layout if solid.all() else _with_flat_faces(layout, faces, solid)


def _check(vertices: np.ndarray, faces: np.ndarray, method: str, resolution: int, padding: float) -> None:
    if method not in METHODS:
        raise ValueError(f"method={method!r}: expected one of {', '.join(METHODS)}")
    if vertices.ndim != 2 or vertices.shape[1] != 3:
        raise ValueError(f"vertices: expected shape [V, 3], got {list(vertices.shape)}")
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype.kind not in "iu":
        raise ValueError(f"faces: expected whole numbers of shape [F, 3], got {faces.dtype} {list(faces.shape)}")
    if not np.isfinite(vertices).all():
        raise ValueError("vertices: some are not finite; mend or remove them")
    if len(faces) and not (int(faces.min()) >= 0 and int(faces.max()) < len(vertices)):
        raise ValueError(f"faces: they name vertices {faces.min()} to {faces.max()}, but there are {len(vertices)}")
    if resolution < 8 or not 0 <= padding <= resolution / 8:
        raise ValueError(
            f"resolution={resolution}, padding={padding}: expected at least 8 texels, and a padding of at most an eighth of them"
        )


def _unwrap_solid(vertices, faces, normals, areas, resolution, padding) -> UVLayout:
    """Layout of faces [F,3] that all have an area [F] and a normal of that length [F,3]."""
    pairs = uv_charts.face_pairs(vertices, faces)
    labels = uv_charts.cut_into_charts(pairs, normals)
    corners, vertex, chart = uv_flatten.chart_vertices(faces, labels)
    points = vertices[vertex]
    flat = uv_flatten.project(points, chart, uv_charts.chart_directions(labels, normals))
    flat = uv_flatten.relax(flat, corners, points, areas)
    triangles = flat[corners]
    flat_areas = uv_flatten.signed_areas(triangles)
    folded = flat_areas < uv_flatten.MIN_AREA_RATIO * areas
    triangles[folded] = uv_flatten.lay_flat(vertices[faces[folded]])
    labels[folded] = labels.max() + 1 + np.arange(folded.sum())
    triangles *= _density_factors(triangles, labels, areas)[labels][:, None]
    heights = np.einsum("ij,ij->i", vertices[faces].mean(1), uv_charts.chart_directions(labels, normals)[labels])
    scale = CHECKS_A_TEXEL * resolution * np.sqrt(CHECK_FILL / areas.sum())
    for turn in (1, 1j):  # rows, then columns
        labels = _split_until_single(triangles * (turn * scale), labels, pairs, heights)
    triangles, labels = _pack_until_single(triangles, labels, pairs, heights, areas, resolution, padding)
    corners, _, _ = uv_flatten.chart_vertices(faces, labels)
    positions = np.empty(int(corners.max()) + 1, np.complex128)
    positions[corners] = triangles
    uvs = np.stack([positions.real, positions.imag], axis=1) / resolution
    return UVLayout(np.clip(uvs, 0, 1).astype(np.float32), corners.astype(np.int32))


def _density_factors(triangles: np.ndarray, labels: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Factors [C] that give every chart the area of its faces in space."""
    flat = np.bincount(labels, uv_flatten.signed_areas(triangles))
    return np.sqrt(np.bincount(labels, areas) / np.maximum(flat, 1e-300))


def _split_until_single(triangles, labels, pairs, heights, doubtful: np.ndarray | None = None) -> np.ndarray:
    """Labels [F] of charts that cover no row of texels twice; `triangles` [F,3] in texels.

    `doubtful` [C]: whether a chart may cover itself; None: all may. Faces that leave their charts get new labels, above all others.
    """
    if doubtful is None:
        doubtful = np.ones(int(labels.max()) + 1, bool)
    for _ in range(MAX_SPLITS):
        doubles = uv_overlaps.double_spans(triangles, labels, uv_charts.border(pairs, labels, doubtful[labels]))
        if len(doubles.chart) == 0:
            break
        before = int(labels.max()) + 1
        labels = uv_overlaps.split_at_overlaps(triangles, labels, pairs, heights, doubles)
        doubtful = np.zeros(int(labels.max()) + 1, bool)
        doubtful[doubles.chart] = doubtful[before:] = True
    return labels


def _pack_until_single(triangles, labels, pairs, heights, areas, resolution, padding) -> tuple[np.ndarray, np.ndarray]:
    """Faces [F,3] in texels and the labels [F] of their charts, which are apart and cover no row of texels twice."""
    labels = uv_charts.connected_regions(pairs.one, pairs.other, labels)
    triangles, packing = uv_packing.pack(triangles, labels, uv_charts.border(pairs, labels), areas, resolution, padding)
    doubtful = None
    for _ in range(MAX_SPLITS):
        split = _split_until_single(triangles, labels, pairs, heights, doubtful)
        if split.max() == labels.max():
            break
        # The largest part of every chart stays where it is; the others go to what is free, if they fit.
        parts = uv_charts.connected_regions(pairs.one, pairs.other, split)
        by_area = np.argsort(np.bincount(parts, areas), kind="stable")
        chart = np.zeros_like(by_area)
        chart[parts] = labels
        largest = np.zeros(len(by_area), np.int64)
        largest[chart[by_area]] = by_area  # the last one wins
        labels, doubtful = parts, largest[chart] != np.arange(len(chart))
        moved = doubtful[labels]
        added = uv_packing.add(triangles[moved], np.unique(labels[moved], return_inverse=True)[1], packing)
        if added is not None:
            triangles[moved], packing = added
        else:
            border, doubtful = uv_charts.border(pairs, labels), None
            triangles, packing = uv_packing.pack(triangles, labels, border, areas, resolution, padding, packing.scale)
    return triangles, labels


def _with_flat_faces(layout: UVLayout, faces: np.ndarray, solid: np.ndarray) -> UVLayout:
    """Add the faces that are not solid: all corners of one at the place of a corner that other faces use, if there is one."""
    of_vertex = np.zeros(int(faces.max()) + 1, np.int32)
    of_vertex[faces[solid]] = layout.uv_faces
    uv_faces = np.empty((len(faces), 3), np.int32)
    uv_faces[solid] = layout.uv_faces
    uv_faces[~solid] = of_vertex[faces[~solid]].max(1, keepdims=True)
    return UVLayout(layout.uvs, uv_faces)


def _unwrap_with_xatlas(vertices: np.ndarray, faces: np.ndarray, resolution: int, padding: float) -> UVLayout:
    try:
        import xatlas
    except ImportError as error:
        raise ImportError("method='xatlas' needs the package xatlas; install it with: pip install xatlas") from error
    atlas = xatlas.Atlas()
    atlas.add_mesh(vertices.astype(np.float32), faces.astype(np.uint32))
    options = xatlas.PackOptions()
    options.resolution = resolution
    options.padding = int(np.ceil(padding))
    atlas.generate(pack_options=options)
    _, uv_faces, uvs = atlas[0]
    return UVLayout(np.ascontiguousarray(uvs, np.float32), np.ascontiguousarray(uv_faces, np.int32))
