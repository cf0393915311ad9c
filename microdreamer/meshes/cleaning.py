"""Cleaning and simplification of triangle meshes: closed, edge-manifold, consistently wound, with a given number of faces.

Arrays are vertices [V,3] float64 and faces [F,3] int64. Faces are counter-clockwise seen from outside.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from scipy import sparse
from scipy.sparse import csgraph

from microdreamer.core import profiler
from microdreamer.core.unique_rows import unique_rows
from microdreamer.kernels import extension
from microdreamer.kernels.mesh_simplify import is_closed_manifold, simplify_closed_mesh
from microdreamer.meshes.topology import edges_of, half_edges

log = logging.getLogger(__name__)

Arrays = tuple[np.ndarray, np.ndarray]

MIN_PART_FACES = 0.01  # parts with a smaller share of the largest part's faces are dropped,
MIN_PART_DIAGONAL = 0.1  # and so are those with a shorter diagonal than this share of the largest part's
MERGE_DISTANCE = 1e-6  # of the mesh's diagonal
FACE_TOLERANCE = 0.02  # how far a simplified mesh may be from the wanted number of faces
MAX_SIMPLIFICATIONS = 8  # where the mesh is open


def face_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Normals [F,3] whose lengths are twice the areas."""
    corners = vertices[faces]
    return np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


def drop_unused_vertices(vertices: np.ndarray, faces: np.ndarray) -> Arrays:
    used = np.zeros(len(vertices), bool)
    used[faces] = True
    return vertices[used], (np.cumsum(used) - 1)[faces]


def merge_vertices(vertices: np.ndarray, faces: np.ndarray) -> Arrays:
    """Make one of vertices that fall into the same cell of a grid of `MERGE_DISTANCE`."""
    if len(vertices) == 0:
        return vertices, faces
    cell = max(float(np.linalg.norm(np.ptp(vertices, axis=0))) * MERGE_DISTANCE, np.finfo(np.float64).tiny)
    _, first, target = unique_rows(np.round(vertices / cell))
    return vertices[first], target[faces]


def drop_bad_faces(vertices: np.ndarray, faces: np.ndarray) -> Arrays:
    """Drop faces that use a vertex twice or repeat another face, whichever way it is wound."""
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    first = unique_rows(np.sort(faces, axis=1)).first
    return drop_unused_vertices(vertices, faces[np.sort(first)])


def drop_crowded_faces(vertices: np.ndarray, faces: np.ndarray) -> Arrays:
    """Make every edge have at most two faces: where there are more, the two with the largest areas stay."""
    while len(faces):
        _, numbers, counts = edges_of(faces)
        if counts.max() <= 2:
            break
        areas = np.tile(np.linalg.norm(face_normals(vertices, faces), axis=1), 3)
        order = np.lexsort((-areas, numbers))
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        rank = np.arange(len(order)) - starts[numbers[order]]
        dropped = np.unique(order[rank >= 2] % len(faces))
        faces = np.delete(faces, dropped, axis=0)
    return drop_unused_vertices(vertices, faces)


def split_touching_fans(vertices: np.ndarray, faces: np.ndarray) -> Arrays:
    """Give every fan of faces around a vertex a vertex of its own, where several fans touch in it only."""
    count = len(faces)
    if count == 0:
        return vertices, faces
    _, numbers, counts = edges_of(faces)
    order = np.argsort(numbers, kind="stable")
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])[counts == 2]
    one, other = order[first], order[first + 1]  # half-edges of the two faces at an edge
    corner = np.concatenate([np.arange(count) + k * count for k in range(3)])  # corner k of face f is k F + f
    following = np.concatenate([corner[count:], corner[:count]])
    flat = faces.T.reshape(-1)
    same = flat[corner[one]] == flat[corner[other]]
    rows = np.concatenate([corner[one], following[one]])
    columns = np.concatenate([np.where(same, corner[other], following[other]), np.where(same, following[other], corner[other])])
    links = sparse.coo_matrix((np.ones(len(rows), bool), (rows, columns)), (3 * count, 3 * count))
    fans, label = csgraph.connected_components(links, directed=False)
    source = np.zeros(fans, np.int64)
    source[label] = flat
    return vertices[source], label.reshape(3, count).T


def face_parts(faces: np.ndarray) -> np.ndarray:
    """The number [F] of the connected part that each face belongs to (faces are connected across edges)."""
    _, numbers, counts = edges_of(faces)
    count = len(faces)
    incidence = sparse.coo_matrix((np.ones(3 * count, bool), (np.tile(np.arange(count), 3), count + numbers)), (count + len(counts),) * 2)
    return csgraph.connected_components(incidence, directed=False)[1][:count]


def signed_volumes(vertices: np.ndarray, faces: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Volume enclosed by each part, negative where its faces look inward."""
    x, y, z = np.ascontiguousarray((vertices - vertices.mean(0)).T)  # columns are gathered twice as fast as rows
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = ((x[corner], y[corner], z[corner]) for corner in faces.T)
    return np.bincount(parts, ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx)) / 6


def drop_cavities(vertices: np.ndarray, faces: np.ndarray) -> Arrays:
    """Drop the parts that look inward: walls of hollows that nobody sees. The winding must be right already."""
    if len(faces) == 0:
        return vertices, faces
    parts = face_parts(faces)
    return drop_unused_vertices(vertices, faces[signed_volumes(vertices, faces, parts)[parts] > 0])


def drop_small_parts(vertices: np.ndarray, faces: np.ndarray) -> Arrays:
    """Drop parts with less than 1 % of the faces or 10 % of the diagonal of the largest part (largest by diagonal)."""
    if len(faces) == 0:
        return vertices, faces
    parts = face_parts(faces)
    return drop_unused_vertices(vertices, faces[_is_large(vertices, faces, parts)[parts]])


def _is_large(vertices: np.ndarray, faces: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Which parts [P] have the least share of the largest part's faces and diagonal."""
    sizes = np.bincount(parts)
    order = np.argsort(parts, kind="stable")
    corners = faces[order].reshape(-1)
    starts = 3 * (np.cumsum(sizes) - sizes)
    columns = [column[corners] for column in vertices.T]
    sides = [np.maximum.reduceat(column, starts) - np.minimum.reduceat(column, starts) for column in columns]
    diagonals = np.linalg.norm(np.stack(sides, axis=1), axis=1)
    largest = diagonals.argmax()
    return (sizes >= MIN_PART_FACES * sizes[largest]) & (diagonals >= MIN_PART_DIAGONAL * diagonals[largest])


@profiler.function
def keep_outer_parts(vertices: np.ndarray, faces: np.ndarray) -> Arrays:
    """A closed manifold that is wound outward (as marching cubes makes) without the walls of hollows and without small parts."""
    if len(faces) == 0:
        return vertices, faces
    corners = faces.astype(np.int32)  # what SciPy indexes with; of other integers it makes copies at each step
    links = np.ones(2 * len(faces), bool), (np.repeat(corners[:, 0], 2), corners[:, 1:].reshape(-1))
    parts = csgraph.connected_components(sparse.csr_matrix(links, (len(vertices),) * 2), directed=False)[1][faces[:, 0]]
    looks_out = signed_volumes(vertices, faces, parts)[parts] > 0
    faces, parts = faces.compress(looks_out, axis=0), parts[looks_out]
    if len(faces) == 0:
        return drop_unused_vertices(vertices, faces)
    parts = (np.cumsum(np.bincount(parts) > 0) - 1)[parts]  # numbers without gaps
    return drop_unused_vertices(vertices, faces.compress(_is_large(vertices, faces, parts)[parts], axis=0))


def wind_outward(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The faces, turned so that neighbours agree and every part encloses a positive volume. Edges have at most two faces."""
    if len(faces) == 0:
        return faces
    one, other = edges_of(faces).pairs()
    directed = half_edges(faces)
    agree = directed[one, 0] != directed[other, 0]
    if not agree.all():
        faces = _agree_with_neighbours(faces, one % len(faces), other % len(faces), agree)
    parts = face_parts(faces)
    inward = signed_volumes(vertices, faces, parts)[parts] < 0
    return np.where(inward[:, None], faces[:, ::-1], faces)


def _agree_with_neighbours(faces: np.ndarray, one: np.ndarray, other: np.ndarray, agree: np.ndarray) -> np.ndarray:
    """Turn faces until the pairs of neighbours (one, other) agree, all or, where that cannot be, those of a spanning tree with
    as many agreeing pairs as possible."""
    count = len(faces)
    agreeing = sparse.coo_matrix((np.ones(agree.sum(), bool), (one[agree], other[agree])), (count, count))
    patches, patch = csgraph.connected_components(agreeing, directed=False)
    # Of patches that agree within, a tree whose every step turns; its root, one more patch, has a step to each part of the mesh.
    rows, columns = patch[one[~agree]], patch[other[~agree]]
    turns = sparse.coo_matrix((np.ones(len(rows), bool), (rows, columns)), (patches, patches))
    first = np.unique(csgraph.connected_components(turns, directed=False)[1], return_index=True)[1]
    rows, columns = np.concatenate([rows, np.full(len(first), patches)]), np.concatenate([columns, first])
    turns = sparse.coo_matrix((np.ones(len(rows), bool), (rows, columns)), (patches + 1,) * 2)
    _, ancestor = csgraph.breadth_first_order(turns, patches, directed=False)
    ancestor[patches] = patches
    turned = ~np.isin(np.arange(patches + 1), np.append(first, patches))  # against the ancestor, which moves up until it is the root
    while (ancestor != patches).any():
        turned ^= turned[ancestor]
        ancestor = ancestor[ancestor]
    return np.where(turned[patch][:, None], faces[:, ::-1], faces)


def boundary_loops(faces: np.ndarray) -> list[list[int]]:
    """Closed chains of vertices along the edges with one face, in the direction of these faces.

    Every vertex must have one fan of consistently wound faces (`split_touching_fans`, `wind_outward`), so that one such edge
    at most leaves it. Chains that do not close (on a one-sided surface) are left out.
    """
    edges = edges_of(faces)
    following = dict(half_edges(faces)[edges.sharing[edges.numbers] == 1].tolist())
    loops = []
    while following:
        loop = [next(iter(following))]
        while (vertex := following.pop(loop[-1], None)) is not None:
            loop.append(vertex)
        if loop[-1] == loop[0]:
            loops.append(loop[:-1])
    return loops


def fill_holes(vertices: np.ndarray, faces: np.ndarray, max_edges: int) -> Arrays:
    """Close holes of at most `max_edges` edges: three by a face, more by a fan around their middle."""
    new_vertices, new_faces = [vertices], [faces]
    count = len(vertices)
    for loop in boundary_loops(faces) if len(faces) else ():
        if not 3 <= len(loop) <= max_edges:
            continue
        if len(loop) == 3:
            new_faces.append(np.array([loop[::-1]]))
            continue
        new_vertices.append(vertices[loop].mean(0, keepdims=True))
        new_faces.append(np.array([[end, start, count] for start, end in zip(loop, loop[1:] + loop[:1], strict=True)]))
        count += 1
    return np.concatenate(new_vertices), np.concatenate(new_faces)


def smooth(vertices: np.ndarray, faces: np.ndarray, steps: int, shrink: float = 0.5, grow: float = -0.53) -> np.ndarray:
    """Taubin smoothing ("Curve and surface smoothing without shrinkage", 1995) of a closed mesh: vertices after `steps` pairs of passes."""
    corners = faces.astype(np.int32)  # what SciPy indexes with
    # Each edge is there in both directions, as the faces at it run along it in opposite ways.
    edges = np.ones(3 * len(faces)), (corners.reshape(-1), np.roll(corners, -1, axis=1).reshape(-1))
    neighbours = sparse.csr_matrix(edges, (len(vertices),) * 2)
    neighbours.data[:] = 1  # an edge counts once, however many faces it has
    degrees = np.maximum(np.asarray(neighbours.sum(1)), 1)
    for _ in range(steps):
        for factor in (shrink, grow):
            vertices = vertices + factor * (neighbours @ vertices / degrees - vertices)
    return vertices


@profiler.function
def clean(vertices: np.ndarray, faces: np.ndarray, max_hole_edges: int = 64) -> Arrays:
    """A mesh without doubles, small parts or crowded edges, its holes of up to `max_hole_edges` closed, wound outward."""
    vertices, faces = drop_bad_faces(*merge_vertices(np.asarray(vertices, np.float64), np.asarray(faces, np.int64)))
    for _ in range(3):  # closing a hole can crowd an edge again, rarely
        vertices, faces = drop_crowded_faces(vertices, faces)
        vertices, faces = split_touching_fans(vertices, faces)
        faces = wind_outward(vertices, faces)
        vertices, faces = fill_holes(vertices, faces, max_hole_edges)
        if len(faces) == 0 or edges_of(faces)[1:][1].max() <= 2:
            break
    vertices, faces = drop_small_parts(vertices, faces)
    return vertices, wind_outward(vertices, faces)


@profiler.function
def simplify(vertices: np.ndarray, faces: np.ndarray, target_faces: int) -> Arrays:
    """Collapse edges by quadric error (Garland and Heckbert 1997) until at most `target_faces` faces are left.

    A mesh that has no more faces than that is returned as it is. A closed manifold stays one, and ends at the target or one face
    below. Others, and all where no kernels were built, are cleaned and end within 2 % of the target. Where its parts and handles
    need more faces, a warning says so. Raises ValueError for a target below 4.
    """
    if target_faces < 4:
        raise ValueError(f"target_faces={target_faces}: expected at least 4")
    if len(faces) <= target_faces:
        return vertices, faces
    tensors = torch.from_numpy(np.asarray(vertices, np.float64)), torch.from_numpy(np.asarray(faces, np.int64))
    if extension.available("cpu") and is_closed_manifold(tensors[1], len(vertices)):
        vertices, faces = (tensor.numpy() for tensor in simplify_closed_mesh(*tensors, target_faces))
    else:
        vertices, faces = simplify_open(vertices, faces, target_faces)
    if len(faces) > target_faces * (1 + FACE_TOLERANCE):
        log.warning(
            "target_faces=%d: simplification ended at %d faces, as the parts and handles of the mesh allow no fewer",
            target_faces,
            len(faces),
        )
    return vertices, faces


def simplify_open(vertices: np.ndarray, faces: np.ndarray, target_faces: int) -> Arrays:
    """As near to `target_faces` faces as the package fast_simplification comes, cleaned."""
    import fast_simplification

    best, least = (vertices, faces), np.inf
    wanted, aggressiveness = target_faces, 5.0
    for _ in range(MAX_SIMPLIFICATIONS):
        collapsed = fast_simplification.simplify(vertices, faces, target_count=wanted, agg=aggressiveness)
        simple_vertices, simple_faces = clean(*collapsed)
        surplus = len(simple_faces) - target_faces
        if len(simple_faces) and abs(surplus) < least:
            best, least = (simple_vertices, simple_faces), abs(surplus)
        if abs(surplus) <= FACE_TOLERANCE * target_faces:
            break
        # What the collapse left over calls for more force; what cleaning took or added, for another target.
        if len(collapsed[1]) > wanted * (1 + FACE_TOLERANCE):
            aggressiveness += 2
        else:
            wanted = max(wanted - surplus, 4)
    return best
