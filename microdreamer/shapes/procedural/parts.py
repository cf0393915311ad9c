"""Building blocks of procedural shapes: primitive meshes that fill the unit cube, and how to deform, place and join them.

Every primitive is a `Part`. Most are lofts: rings of points joined by quads. Shading normals are not carried along; a part says which
corners share a normal (`groups`), and `finish` computes the normals once, from the final geometry, so any deformation is allowed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from microdreamer.shapes import OBJECT_RADIUS


@dataclass(frozen=True)
class Part:
    """A mesh piece. Faces are counter-clockwise seen from outside; arrays are shared between parts and must not be written to."""

    vertices: np.ndarray  # [V, 3] float64
    faces: np.ndarray  # [F, 3] int64
    groups: np.ndarray  # [F, 3] int64: corners with the same number share a shading normal
    cells: np.ndarray  # [F] int64: triangles of one flat cell (a quad) share a number; crisp patterns colour whole cells
    colors: np.ndarray | None = None  # [3] or [F, 3, 3] float64 in 0..1 (sRGB), set when painted


def _fit_unit(part: Part) -> Part:
    low, high = part.vertices.min(0), part.vertices.max(0)
    extent = np.where(high - low > 1e-9, high - low, 1.0)
    return replace(part, vertices=(part.vertices - (low + high) / 2) / extent)


def flat(part: Part) -> Part:
    """The part with one normal per triangle (the faceted low-poly look)."""
    return replace(part, groups=np.repeat(np.arange(len(part.faces))[:, None], 3, 1))


@lru_cache(maxsize=4096)
def _loft_topology(
    ring_count: int, columns: int, closed: bool, poles: tuple[int, ...], sharp: tuple[int, ...], sharp_columns: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Faces, groups, cells and the vertices kept (numbers into the [P * K] grid of ring points) of a loft."""
    bands = ring_count if closed else ring_count - 1
    row, column = (axis.ravel() for axis in np.meshgrid(np.arange(bands), np.arange(columns), indexing="ij"))
    above, right = (row + 1) % ring_count, (column + 1) % columns
    is_pole = np.isin(np.arange(ring_count), poles)
    is_sharp = np.isin(np.arange(ring_count), sharp)
    is_sharp_column = np.isin(np.arange(columns), sharp_columns)

    def vertex(ring: np.ndarray, col: np.ndarray) -> np.ndarray:
        return ring * columns + np.where(is_pole[ring], 0, col)

    def group(ring: np.ndarray, starts: bool, col: np.ndarray, leads: bool) -> np.ndarray:
        ring_side = np.where(is_sharp[ring] & ~is_pole[ring], int(starts), 0)
        column_side = np.where(is_sharp_column[col], int(leads), 0)
        # A smooth pole has one normal for all its triangles, a sharp one (the tip of a cone) one for each.
        merged = is_pole[ring] & ~is_sharp[ring]
        return np.where(merged, ring * columns * 4, ((ring * columns + col) * 2 + ring_side) * 2 + column_side)

    corners = [(row, True, column, True), (row, True, right, False), (above, False, right, False), (above, False, column, True)]
    vertex_ids = np.stack([vertex(ring, col) for ring, _, col, _ in corners], 1)
    group_ids = np.stack([group(*corner) for corner in corners], 1)
    faces = vertex_ids[:, [[0, 1, 2], [0, 2, 3]]].reshape(-1, 3)
    groups = group_ids[:, [[0, 1, 2], [0, 2, 3]]].reshape(-1, 3)
    cells = np.repeat(np.arange(len(row)), 2)
    whole = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    kept, faces = np.unique(faces[whole], return_inverse=True)
    _, groups = np.unique(groups[whole], return_inverse=True)
    return faces.reshape(-1, 3), groups.reshape(-1, 3), cells[whole], kept


def loft(
    rings: np.ndarray,
    *,
    sharp: tuple[int, ...] = (),
    sharp_columns: tuple[int, ...] = (),
    poles: tuple[int, ...] = (),
    closed: bool = False,
) -> Part:
    """Join rings of points by quads.

    rings [P, K, 3]: P rings of K points, the points counter-clockwise seen from the end toward which the rings run. `poles` are rings whose
    points coincide; `sharp` rings and `sharp_columns` get hard edges; `closed` joins the last ring to the first. Size is kept as given.
    """
    count, columns = rings.shape[:2]
    faces, groups, cells, kept = _loft_topology(count, columns, closed, poles, sharp, sharp_columns)
    return Part(rings.reshape(-1, 3)[kept], faces, groups, cells)


def revolve(profile: np.ndarray, segments: int, *, closed: bool = False, crease_deg: float = 42.0, half_step: bool = True) -> Part:
    """Surface of revolution about y.

    profile [P, 2] holds (radius, y) from the bottom up along the outside; an end with radius 0 is a pole. Edges of the profile that turn by
    more than crease_deg are hard. `half_step` turns a flank, rather than an edge, toward the front.
    """
    profile = np.asarray(profile, dtype=np.float64)
    count = len(profile)
    angles = (np.arange(segments) + (0.5 if half_step else 0.0)) * (2 * np.pi / segments)
    rings = np.empty((count, segments, 3))
    rings[:, :, 0] = profile[:, :1] * np.sin(angles)
    rings[:, :, 1] = profile[:, 1:]
    rings[:, :, 2] = profile[:, :1] * np.cos(angles)
    poles = tuple(int(i) for i in np.flatnonzero(profile[:, 0] < 1e-9)) if not closed else ()
    steps = np.roll(profile, -1, 0) - profile
    heading = np.arctan2(steps[:, 1], steps[:, 0])
    turn = np.abs((heading - np.roll(heading, 1) + np.pi) % (2 * np.pi) - np.pi)
    is_sharp = turn > np.radians(crease_deg)
    if not closed:
        slope = np.abs(steps[:, 1]) / (np.linalg.norm(steps, axis=1) + 1e-12)
        is_sharp[0], is_sharp[-1] = slope[0] > 0.6, slope[-2] > 0.6
    return loft(rings, sharp=tuple(int(i) for i in np.flatnonzero(is_sharp)), poles=poles, closed=closed)


@lru_cache(maxsize=256)
def box(cuts: tuple[int, int, int] = (1, 1, 1)) -> Part:
    """Unit cube, its sides cut into cells along x, y, z (for patterns and deformations)."""
    vertices, faces, groups = [], [], []
    start = 0
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        nu, nv = cuts[u], cuts[v]
        for side in (-0.5, 0.5):
            grid = np.zeros((nu + 1, nv + 1, 3))
            grid[..., u] = np.linspace(-0.5, 0.5, nu + 1)[:, None]
            grid[..., v] = np.linspace(-0.5, 0.5, nv + 1)[None]
            grid[..., axis] = side
            quads = grid_quads(nu + 1, nv + 1)
            vertices.append(grid.reshape(-1, 3))
            groups.append(start + (quads if side > 0 else quads[:, ::-1]))
            start += (nu + 1) * (nv + 1)
    points = np.concatenate(vertices)
    groups_all = np.concatenate(groups)
    # Neighbouring sides share their positions, not their normals.
    _, first, shared = np.unique(np.round(points * 1e6).astype(np.int64), axis=0, return_index=True, return_inverse=True)
    faces = shared.reshape(-1)[groups_all]
    return Part(points[first], faces, groups_all, np.arange(len(faces)) // 2)


def grid_quads(rows: int, columns: int) -> np.ndarray:
    """Triangles [2 (rows - 1) (columns - 1), 3] over a grid of points numbered row by row, facing (row direction) x (column direction)."""
    start = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).reshape(-1, 1)
    quads = np.array([[0, columns, columns + 1], [0, columns + 1, 1]])
    return (start[:, None] + quads).reshape(-1, 3)


@lru_cache(maxsize=1)
def _bevel_template() -> tuple[np.ndarray, np.ndarray, Part]:
    """Corner signs [24, 3], the axis mask [24, 3] and the topology of a box whose edges are cut off."""
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=np.float64)
    corner_signs, mask = np.repeat(signs, 3, 0), np.tile(np.eye(3), (8, 1))
    from_corner = {tuple(s): i for i, s in enumerate(signs.astype(int).tolist())}

    def index(sign: np.ndarray, axis: int) -> int:
        return from_corner[tuple(int(s) for s in sign)] * 3 + axis

    polygons: list[tuple[list[int], np.ndarray]] = []
    axes = np.eye(3)
    for axis in range(3):
        u, v = axes[(axis + 1) % 3], axes[(axis + 2) % 3]
        for side in (-1, 1):
            square = [side * axes[axis] + a * u + b * v for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
            polygons.append(([index(s, axis) for s in square], side * axes[axis]))
        for a in (-1, 1):
            for b in (-1, 1):
                ends = [s * axes[axis] + a * u + b * v for s in (-1, 1)]
                first, second = (axis + 1) % 3, (axis + 2) % 3
                quad = [index(ends[0], first), index(ends[1], first), index(ends[1], second), index(ends[0], second)]
                polygons.append((quad, a * u + b * v))
    polygons += [([i * 3, i * 3 + 1, i * 3 + 2], sign) for i, sign in enumerate(signs)]
    sample = corner_signs * 0.7 + 0.3 * corner_signs * mask
    faces, cells = [], []
    for number, (polygon, outward) in enumerate(polygons):
        a, b, c = sample[polygon[:3]]
        ordered = polygon if np.cross(b - a, c - a) @ outward > 0 else polygon[::-1]
        for k in range(1, len(ordered) - 1):
            faces.append([ordered[0], ordered[k], ordered[k + 1]])
            cells.append(number)
    topology = np.array(faces)
    return corner_signs, mask, Part(sample, topology, topology, np.array(cells))


def bevel_box(size: tuple[float, float, float], bevel: float) -> Part:
    """Box of the given size (not unit) with cut edges, smooth-shaded so that they look rounded; a large bevel is clipped."""
    signs, mask, part = _bevel_template()
    half = np.asarray(size, dtype=np.float64) / 2
    cut = min(bevel, 0.66 * float(half.min()))
    return replace(part, vertices=signs * (half - cut) + signs * mask * cut)


@lru_cache(maxsize=64)
def cylinder(segments: int = 14, top: float = 1.0) -> Part:
    """Upright cylinder or frustum; top is the ratio of the upper radius to the lower one (0 is a cone)."""
    profile = [(0, -0.5), (0.5, -0.5), (0.5 * top, 0.5)] + ([(0, 0.5)] if top > 0 else [])
    return _fit_unit(revolve(np.array(profile), segments))


@lru_cache(maxsize=64)
def prism(sides: int, top: float = 1.0) -> Part:
    """Upright prism, pyramid (top = 0) or their frustum, with flat flanks."""
    return flat(cylinder(sides, top))


@lru_cache(maxsize=64)
def sphere(segments: int = 14, rings: int = 8) -> Part:
    """Sphere with poles at the top and bottom."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, rings + 1)
    profile = np.stack([0.5 * np.cos(angle), 0.5 * np.sin(angle)], 1)
    profile[[0, -1], 0] = 0
    return _fit_unit(revolve(profile, segments))


@lru_cache(maxsize=64)
def dome(segments: int = 14, rings: int = 5) -> Part:
    """Upper half of a sphere on a flat base, fitted to the unit cube."""
    angle = np.linspace(0, np.pi / 2, rings + 1)
    profile = np.stack([0.5 * np.cos(angle), np.sin(angle) - 0.5], 1)
    profile[-1, 0] = 0
    return _fit_unit(revolve(np.concatenate([[(0, -0.5)], profile]), segments))


@lru_cache(maxsize=64)
def capsule(aspect: float = 2.0, segments: int = 12, rings: int = 4) -> Part:
    """Upright capsule that is `aspect` times as high as wide, before it is fitted to the unit cube."""
    angle = np.linspace(0, np.pi / 2, rings + 1)
    cap = np.stack([0.5 * np.cos(angle), 0.5 * np.sin(angle) + max(aspect - 1, 0.0) / 2], 1)
    cap[-1, 0] = 0
    return _fit_unit(revolve(np.concatenate([cap[::-1] * (1, -1), cap]), segments))


@lru_cache(maxsize=64)
def torus(thickness: float = 0.25, segments: int = 16, around: int = 8) -> Part:
    """Ring in the xz plane; thickness is the tube's diameter over the ring's radius to the tube's centre."""
    angle = np.arange(around) * (2 * np.pi / around)
    tube = 0.5 * thickness
    profile = np.stack([1 + tube * np.cos(angle), tube * np.sin(angle)], 1)
    return _fit_unit(revolve(profile, segments, closed=True, crease_deg=80))


@lru_cache(maxsize=64)
def tube(inner: float = 0.75, segments: int = 16) -> Part:
    """Upright pipe; inner is the ratio of the radii."""
    profile = np.array([(inner, -0.5), (1, -0.5), (1, 0.5), (inner, 0.5)])
    return _fit_unit(revolve(profile, segments, closed=True))


def extrude(outline: np.ndarray, *, bevel: float = 0.0, crease_deg: float = 35.0) -> Part:
    """Plate from z = -0.5 to 0.5 over an outline.

    outline [K, 2] is counter-clockwise and star-shaped about the origin; bevel (0..0.4) shrinks the front and back and rounds the rim.
    """
    outline = np.asarray(outline, dtype=np.float64)
    scales, depths = ([1.0, 1.0], [-0.5, 0.5]) if bevel <= 0 else ([1 - bevel, 1, 1, 1 - bevel], [-0.5, -0.5 + bevel, 0.5 - bevel, 0.5])
    count = len(scales) + 2
    rings = np.zeros((count, len(outline), 3))
    for i, (scale, depth) in enumerate(zip(scales, depths, strict=True), start=1):
        rings[i, :, :2], rings[i, :, 2] = outline * scale, depth
    rings[0, :, 2], rings[-1, :, 2] = -0.5, 0.5
    edges = np.roll(outline, -1, 0) - outline
    heading = np.arctan2(edges[:, 1], edges[:, 0])
    turn = np.abs((heading - np.roll(heading, 1) + np.pi) % (2 * np.pi) - np.pi)
    sharp_columns = tuple(int(i) for i in np.flatnonzero(turn > np.radians(crease_deg)))
    return loft(rings, sharp=tuple(range(1, count - 1)), sharp_columns=sharp_columns, poles=(0, count - 1))


@lru_cache(maxsize=1)
def wedge() -> Part:
    """Half a cube: full height at the back (-z), falling to the floor at the front."""
    part = extrude(np.array([(-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5)]) + 1 / 6)
    return _fit_unit(replace(part, vertices=part.vertices[:, [2, 1, 0]] * (-1, 1, 1)))


@lru_cache(maxsize=1)
def gable() -> Part:
    """Triangular prism with its ridge along z (the roof of a house that looks to +z)."""
    return _fit_unit(extrude(np.array([(-0.5, -0.5), (0.5, -0.5), (0.0, 0.5)]) + np.array((0, 1 / 6))))


def sweep(
    path: np.ndarray, radius: np.ndarray | float, *, segments: int = 6, section: np.ndarray | None = None, closed: bool = False
) -> Part:
    """Tube along a path.

    path [P, 3]; radius [P] or one number; section [K, 2] replaces the circle (counter-clockwise, unit size; its first axis lies level
    where it can) and has hard edges. Ends get flat caps unless `closed`.
    """
    path = np.asarray(path, dtype=np.float64)
    if closed:
        tangent = np.roll(path, -1, 0) - np.roll(path, 1, 0)
    else:
        padded = np.concatenate([path[:1] * 2 - path[1:2], path, path[-1:] * 2 - path[-2:-1]])
        tangent = padded[2:] - padded[:-2]
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-12
    span = np.ptp(path, axis=0)
    # The reference direction is the axis in which the path moves least, so that the frame never flips.
    reference = np.eye(3)[int(np.argmin(span))]
    side = np.cross(tangent, reference)
    side /= np.linalg.norm(side, axis=1, keepdims=True) + 1e-12
    up = np.cross(tangent, side)
    if section is None:
        angle = (np.arange(segments) + 0.5) * (2 * np.pi / segments)
        outline, sharp_columns = np.stack([np.cos(angle), np.sin(angle)], 1), ()
    else:
        outline, sharp_columns = np.asarray(section, dtype=np.float64), tuple(range(len(section)))
    radii = np.broadcast_to(np.asarray(radius, dtype=np.float64), (len(path),))[:, None, None]
    rings = path[:, None] + radii * (outline[None, :, :1] * side[:, None] + outline[None, :, 1:] * up[:, None])
    if closed:
        return loft(rings, sharp_columns=sharp_columns, closed=True)
    count, columns = len(path), len(outline)
    ends = [np.broadcast_to(path[i], (1, columns, 3)) for i in (0, -1)]
    rings = np.concatenate([ends[0], rings, ends[1]])
    return loft(rings, sharp=(1, count), sharp_columns=sharp_columns, poles=(0, count + 1))


def height_field(heights: np.ndarray) -> Part:
    """Block over the unit square whose top follows heights [R, C] (rows along z, columns along x), its floor at y = 0."""
    rows, columns = heights.shape
    z, x = np.meshgrid(np.linspace(-0.5, 0.5, rows), np.linspace(-0.5, 0.5, columns), indexing="ij")
    top = np.stack([x, heights, z], -1).reshape(-1, 3)
    number = np.arange(rows * columns).reshape(rows, columns)
    rim = np.concatenate([number[0, :-1], number[:-1, -1], number[-1, :0:-1], number[:0:-1, 0]])[::-1]
    count = rows * columns
    floor = top[rim] * (1, 0, 1)
    low = count + np.arange(len(rim))
    following = np.roll(np.arange(len(rim)), -1)
    skirt = np.stack([low, low[following], rim[following], low, rim[following], rim], 1).reshape(-1, 3)
    centre = count + len(rim)
    bottom = np.stack([low[following], low, np.full(len(rim), centre)], 1)
    top_faces = grid_quads(rows, columns)
    faces = np.concatenate([top_faces, skirt, bottom])
    skirt_groups = count + np.repeat(np.arange(len(skirt))[:, None], 3, 1)
    groups = np.concatenate([top_faces, skirt_groups, np.full((len(bottom), 3), count + len(skirt))])
    cells = np.concatenate([np.arange(len(top_faces) + len(skirt)) // 2, len(faces) + np.arange(len(bottom))])
    return Part(np.concatenate([top, floor, [(0.0, 0.0, 0.0)]]), faces, groups, cells)


@lru_cache(maxsize=4)
def _icosphere(level: int) -> Part:
    golden = (1 + 5**0.5) / 2
    base = np.array([(0, s, t * golden) for s in (-1, 1) for t in (-1, 1)], dtype=np.float64)
    vertices = np.concatenate([np.roll(base, shift, 1) for shift in range(3)])
    distance = np.linalg.norm(vertices[:, None] - vertices, axis=-1)
    near = (distance > 0.1) & (distance < 2.1)
    triples = [(i, j, k) for i in range(12) for j in range(i) for k in range(j) if near[i, j] and near[j, k] and near[i, k]]
    faces = np.array([t if np.linalg.det(vertices[list(t)]) > 0 else t[::-1] for t in triples])
    part = Part(vertices, faces, faces, np.arange(20))
    for _ in range(level):
        part = subdivide(part)
        part = replace(part, groups=part.faces)
    return replace(part, vertices=part.vertices / np.linalg.norm(part.vertices, axis=1, keepdims=True) / 2)


def rock(rng: np.random.Generator, *, level: int = 1, roughness: float = 0.3, facets: bool = True) -> Part:
    """Boulder: an icosphere of 20 * 4^level triangles with radial noise, fitted to the unit cube."""
    part = _icosphere(level)
    direction = part.vertices * 2
    waves = np.sin(direction @ rng.normal(0, 2.2, (3, 4)) + rng.uniform(0, 6.3, 4)).mean(1)
    scale = 1 + roughness * (waves + rng.uniform(-0.35, 0.35, len(direction)))
    part = _fit_unit(replace(part, vertices=direction * scale[:, None]))
    return flat(part) if facets else part


def _split_edges(ids: np.ndarray, start: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers [F, 3] of the midpoints of the edges (0-1, 1-2, 2-0) of triangles, from `start` up, and the edges' ends [E, 2]."""
    ends = np.stack([ids, np.roll(ids, -1, 1)], -1).reshape(-1, 2)
    low, high = ends.min(1), ends.max(1)
    keys, inverse = np.unique(low * np.int64(start + 1) + high, return_inverse=True)
    return start + inverse.reshape(-1, 3), np.stack([keys // (start + 1), keys % (start + 1)], 1)


# How a triangle is cut: corners 0..2, midpoints 3 (0-1), 4 (1-2), 5 (2-0). The two triangles of a quad, (a, b, c) and (a, c, d), are cut
# so that their pieces pair up into four quads of the same pattern; for each piece: corners, which quad, whether it is the second in it.
_CUT_FIRST = (np.array([[0, 3, 5], [3, 1, 4], [5, 4, 2], [3, 4, 5]]), np.array([0, 1, 2, 1]), np.array([0, 0, 0, 1]))
_CUT_SECOND = (np.array([[0, 3, 5], [3, 1, 4], [5, 4, 2], [5, 3, 4]]), np.array([0, 2, 3, 3]), np.array([1, 1, 1, 0]))


def subdivide(part: Part) -> Part:
    """Cut each triangle into four at the midpoints of its edges; positions, hard edges and quad cells are kept."""
    middle, ends = _split_edges(part.faces, len(part.vertices))
    group_middle, _ = _split_edges(part.groups, int(part.groups.max()) + 1)
    vertices = np.concatenate([part.vertices, part.vertices[ends].mean(1)])
    second = np.zeros(len(part.faces), dtype=bool)
    second[1:] = part.cells[1:] == part.cells[:-1]
    cut, quad, late = (np.where(second.reshape(-1, *[1] * a.ndim), b, a) for a, b in zip(_CUT_FIRST, _CUT_SECOND, strict=True))
    cells = (part.cells[:, None] * 4 + quad).ravel()
    order = np.argsort(cells * 2 + late.ravel(), kind="stable")

    def split(ids: np.ndarray, mid: np.ndarray) -> np.ndarray:
        corners = np.concatenate([ids, mid], 1)
        return np.take_along_axis(corners[:, None], cut, 2).reshape(-1, 3)[order]

    return Part(vertices, split(part.faces, middle), split(part.groups, group_middle), cells[order])


def taper(part: Part, amount: float) -> Part:
    """Scale x and z linearly with height: 1 at the bottom, 1 - amount at the top of the unit cube."""
    factor = 1 - amount * (part.vertices[:, 1:2] + 0.5)
    return replace(part, vertices=part.vertices * np.concatenate([factor, np.ones_like(factor), factor], 1))


def twist(part: Part, angle_deg: float) -> Part:
    """Turn about y in proportion to height; angle_deg is the turn from the bottom to the top of the unit cube."""
    angle = np.radians(angle_deg) * part.vertices[:, 1]
    x, y, z = part.vertices.T
    return replace(part, vertices=np.stack([x * np.cos(angle) + z * np.sin(angle), y, z * np.cos(angle) - x * np.sin(angle)], 1))


def bend(part: Part, angle_deg: float, *, toward_x: bool = False) -> Part:
    """Bend the y axis of the unit cube into an arc of angle_deg toward +z (or +x), keeping its length; |angle_deg| up to about 90."""
    if abs(angle_deg) < 1:
        return part
    points = part.vertices[:, [2, 1, 0]] if toward_x else part.vertices
    curvature = np.radians(angle_deg)
    theta, radius = points[:, 1] * curvature, 1 / curvature
    bent = np.stack([points[:, 0], (radius - points[:, 2]) * np.sin(theta), radius - (radius - points[:, 2]) * np.cos(theta)], 1)
    return replace(part, vertices=bent[:, [2, 1, 0]] if toward_x else bent)


def rotation(turn_deg: tuple[float, float, float]) -> np.ndarray:
    """Rotation matrix [3, 3] that turns about x, then y, then z (degrees)."""
    x, y, z = (np.radians(a) for a in turn_deg)
    cx, sx, cy, sy, cz, sz = np.cos(x), np.sin(x), np.cos(y), np.sin(y), np.cos(z), np.sin(z)
    return np.array(
        [
            [cy * cz, sx * sy * cz - cx * sz, cx * sy * cz + sx * sz],
            [cy * sz, sx * sy * sz + cx * cz, cx * sy * sz - sx * cz],
            [-sy, sx * cy, cx * cy],
        ]
    )


def place(
    part: Part,
    size: tuple[float, float, float] | float = 1.0,
    at: tuple[float, float, float] = (0.0, 0.0, 0.0),
    turn_deg: tuple[float, float, float] | None = None,
) -> Part:
    """Scale a part about the origin, turn it (about x, then y, then z), then move it to `at`. Sizes are positive."""
    vertices = part.vertices * size
    if turn_deg is not None:
        vertices = vertices @ rotation(turn_deg).T
    return replace(part, vertices=vertices + at)


def mirror(part: Part) -> Part:
    """The mirror image x -> -x, with triangles turned round so that they still face outward."""
    colors = part.colors if part.colors is None or part.colors.ndim == 1 else part.colors[:, ::-1]
    return Part(part.vertices * (-1, 1, 1), part.faces[:, ::-1], part.groups[:, ::-1], part.cells, colors)


def finish(parts: list[Part]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Join painted parts into one mesh in the conventions of the packed objects.

    Returns vertices [V, 3] float32 (bounding box centred, farthest vertex at 0.8), faces [F, 3] int32, corner colours [F, 3, 3] uint8
    and corner normals [F, 3, 3] int8. Triangles without area are dropped.
    """
    vertex_start = np.cumsum([0] + [len(p.vertices) for p in parts])
    group_start = np.cumsum([0] + [int(p.groups.max()) + 1 for p in parts])
    vertices = np.concatenate([p.vertices for p in parts])
    faces = np.concatenate([p.faces + s for p, s in zip(parts, vertex_start, strict=False)])
    groups = np.concatenate([p.groups + s for p, s in zip(parts, group_start, strict=False)])
    colors = np.concatenate([np.broadcast_to(p.colors, (len(p.faces), 3, 3)) for p in parts])
    low, high = vertices.min(0), vertices.max(0)
    vertices = vertices - (low + high) / 2
    vertices *= OBJECT_RADIUS / np.sqrt((vertices**2).sum(1).max())

    corners = vertices[faces]
    u, v = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    face_normals = np.stack([u[:, i] * v[:, j] - u[:, j] * v[:, i] for i, j in ((1, 2), (2, 0), (0, 1))], 1)  # length: twice the area
    length = np.sqrt((face_normals**2).sum(1))
    solid = length > 1e-9
    if not solid.all():
        faces, groups, colors, face_normals, length = (a[solid] for a in (faces, groups, colors, face_normals, length))
        used, faces = np.unique(faces, return_inverse=True)
        vertices, faces = vertices[used], faces.reshape(-1, 3)
    flat_groups = groups.ravel()
    summed = np.stack([np.bincount(flat_groups, np.repeat(face_normals[:, d], 3)) for d in range(3)], 1)
    normals = summed[groups]
    norm = np.sqrt((normals**2).sum(-1, keepdims=True))
    unit_face = (face_normals / length[:, None])[:, None]
    # Where the triangles of a group cancel out (a folded sheet) each keeps its own normal.
    normals = np.where(norm > 1e-3 * length[:, None, None], normals / np.maximum(norm, 1e-30), unit_face)
    return (
        vertices.astype(np.float32),
        faces.astype(np.int32),
        np.rint(colors * 255).clip(0, 255).astype(np.uint8),
        np.rint(normals * 127).astype(np.int8),
    )
