"""Marching cubes: the closed surface where a field on a grid passes zero (Lorensen and Cline 1987), with a table made here.

The table is derived, not listed: on every side of a cube the cut edges are joined so that each outside corner is cut off by
itself, a rule that needs the side's four signs only, so that two cubes agree on the side they share; polygons are split by
diagonals that lie in no side. Hence every edge of the surface has two faces and every vertex one fan of them.

USE_CUDA_EXTRACT chooses between the compiled kernels and the plain-PyTorch version of this file (see `kernels.extension`). A point
is numbered (x Y + y) Z + z on a field [X,Y,Z]; corner 4 dx + 2 dy + dz of a cube is (dx, dy, dz) from its first point.
"""

from __future__ import annotations

import functools
import itertools

import torch
from torch import Tensor

from microdreamer.kernels import extension

MAX_FACES = 5  # of one cube; rows of the table hold three times as many edges
NEAREST = 1e-3  # steps between a vertex and the ends of its edge: faces keep an area where the field is zero at a point


def marching_cubes(field: Tensor) -> tuple[Tensor, Tensor]:
    """The surface between points where field [X,Y,Z] (float32) is above zero and where it is not.

    Returns vertices [V,3] float32 in steps of the grid, one for each grid edge that is cut, in the order of the edges' first
    points, and faces [F,3] int32, counter-clockwise seen from where the field is not above zero, in the order of the cubes. All
    three versions return the same bits. Where no border point is above zero, the surface is a closed 2-manifold. On a GPU the
    host waits once, to learn the sizes. ValueError for another dtype, a side below 2 or, compiled, more than 143 million points.
    """
    table = table_on(field.device)
    if extension.use_compiled(field.device, "USE_CUDA_EXTRACT"):
        return torch.ops.microdreamer.marching_cubes(field.contiguous(), table)
    return marching_cubes_reference(field, table)


def marching_cubes_reference(field: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """`marching_cubes` in plain PyTorch; `table` as `triangle_table` makes it."""
    if field.dim() != 3 or min(field.shape) < 2 or field.dtype != torch.float32:
        raise ValueError(f"field: expected float32 [X,Y,Z] with sides of 2 or more, got {field.dtype} {list(field.shape)}")
    inside = field > 0
    cut = torch.zeros(*field.shape, 3, dtype=torch.bool, device=field.device)
    share = torch.zeros(*field.shape, 3, device=field.device)
    for axis in range(3):
        count = field.shape[axis] - 1
        first, last = field.narrow(axis, 0, count), field.narrow(axis, 1, count)
        cut.narrow(axis, 0, count)[..., axis] = inside.narrow(axis, 0, count) != inside.narrow(axis, 1, count)
        share.narrow(axis, 0, count)[..., axis] = (first / (first - last)).clamp(NEAREST, 1 - NEAREST)
    number = (cut.flatten().cumsum(0) - 1).reshape(cut.shape)
    places = cut.nonzero()
    vertices = places[:, :3].float()
    vertices[torch.arange(len(places), device=field.device), places[:, 3]] += share[cut]

    cubes = [side - 1 for side in field.shape]
    case = torch.zeros(cubes, dtype=torch.int64, device=field.device)
    for corner, offset in enumerate(itertools.product((0, 1), repeat=3)):
        case += _shifted(inside, offset, cubes).long() << corner
    of_edge = torch.stack([_shifted(number, offset, cubes)[..., axis] for axis, offset in EDGES], dim=-1)  # [X-1,Y-1,Z-1,12]
    rows = table.long()[case.flatten()]
    corners = of_edge.reshape(-1, len(EDGES)).gather(1, rows.clamp_min(0))
    return vertices, corners[rows >= 0].reshape(-1, 3).int()


def _shifted(values: Tensor, offset: tuple[int, int, int], cubes: list[int]) -> Tensor:
    """The values [X-1,Y-1,Z-1,...] at one corner of every cube."""
    x, y, z = offset
    return values[x : x + cubes[0], y : y + cubes[1], z : z + cubes[2]]


# ---- The table ----

# Axis and first corner of the cube's edges: edge 4 axis + k starts where the two other coordinates, in order, are the bits of k.
EDGES = [(axis, (*bits[:axis], 0, *bits[axis:])) for axis in range(3) for bits in itertools.product((0, 1), repeat=2)]
Triangle = tuple[int, int, int]


@functools.cache
def triangle_table() -> tuple[tuple[Triangle, ...], ...]:
    """For each of the 256 cases (bit c: corner c is inside) the faces, as the cube's edges that their corners lie on."""
    return tuple(tuple(itertools.chain(*map(_best_split, _polygons(case)))) for case in range(256))


@functools.cache
def table_on(device: torch.device) -> Tensor:
    """`triangle_table` as [256, 3 MAX_FACES] int8, filled up with -1."""
    rows = [list(itertools.chain(*faces)) for faces in triangle_table()]
    return torch.tensor([row + [-1] * (3 * MAX_FACES - len(row)) for row in rows], dtype=torch.int8, device=device)


@functools.cache
def _ends(edge: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    axis, start = EDGES[edge]
    return start, tuple(value + (k == axis) for k, value in enumerate(start))


@functools.cache
def _sides(edge: int) -> set[tuple[int, int]]:
    """The cube's two sides (axis, 0 or 1) that an edge borders."""
    axis, start = EDGES[edge]
    return {(k, start[k]) for k in range(3) if k != axis}


@functools.cache
def _middle(edge: int) -> tuple[float, ...]:
    return tuple((a + b) / 2 for a, b in zip(*_ends(edge), strict=True))


def _polygons(case: int) -> list[tuple[int, ...]]:
    """The loops of cut edges, counter-clockwise seen from outside of the surface."""

    def is_inside(corner: tuple[int, ...]) -> bool:
        return bool(case >> (4 * corner[0] + 2 * corner[1] + corner[2]) & 1)

    following: dict[int, int] = {}
    all_cut = [edge for edge in range(12) if len({is_inside(end) for end in _ends(edge)}) == 2]
    for side in itertools.product(range(3), (0, 1)):
        cut = [edge for edge in all_cut if side in _sides(edge)]
        if len(cut) == 2:
            segments = [cut]
        else:  # none, or four: around each outside corner, so that thin parts hold together
            corners = {end for edge in cut for end in _ends(edge) if not is_inside(end)}
            segments = [[edge for edge in cut if corner in _ends(edge)] for corner in corners]
        for one, other in segments:
            inner, outer = sorted(_ends(one), key=is_inside, reverse=True)
            # Along the side, with the way out of the surface to its right as seen from outside of the cube.
            out = [b - a for a, b in zip(inner, outer, strict=True)]
            normal = [(2 * side[1] - 1) * (k == side[0]) for k in range(3)]
            ahead = [out[k - 2] * normal[k - 1] - out[k - 1] * normal[k - 2] for k in range(3)]
            if sum(a * (q - p) for a, p, q in zip(ahead, _middle(one), _middle(other), strict=True)) > 0:
                following[one] = other
            else:
                following[other] = one
    polygons = []
    while following:
        polygon = [min(following)]
        while (edge := following.pop(polygon[-1])) != polygon[0]:
            polygon.append(edge)
        polygons.append(tuple(polygon))
    return polygons


@functools.cache
def _splits(polygon: tuple[int, ...]) -> list[list[Triangle]]:
    """All ways to split a polygon into triangles."""
    if len(polygon) < 3:
        return [[]]
    return [
        [(polygon[0], polygon[k], polygon[-1]), *left, *right]
        for k in range(1, len(polygon) - 1)
        for left in _splits(polygon[: k + 1])
        for right in _splits(polygon[k:])
    ]


@functools.cache
def _best_split(polygon: tuple[int, ...]) -> list[Triangle]:
    """The split without a diagonal in a side of the cube, where the cube beyond might have the same one; shortest diagonals."""
    border = {frozenset(pair) for pair in zip(polygon, polygon[1:] + polygon[:1], strict=True)}

    def cost(split: list[Triangle]) -> tuple[int, float]:
        diagonals = {frozenset(pair) for triangle in split for pair in itertools.combinations(triangle, 2)} - border
        in_sides = sum(bool(_sides(a) & _sides(b)) for a, b in diagonals)
        return in_sides, sum((p - q) ** 2 for a, b in diagonals for p, q in zip(_middle(a), _middle(b), strict=True))

    return min(_splits(polygon), key=cost)


# ---- The op: shapes for torch.compile ----


def _fake(field: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    context = torch.library.get_ctx()
    return field.new_empty(context.new_dynamic_size(), 3), field.new_empty(context.new_dynamic_size(), 3, dtype=torch.int32)


extension.register("marching_cubes", fake=_fake)
