"""Solid voxel grids of triangle meshes, closed or not.

Along each axis a ray through every voxel's centre is crossed with all triangles; the signed count of crossings on one side of a
voxel is its winding number there, which is exact for a closed mesh, whatever overlaps in it. Six counts (three axes, two sides)
that agree settle a voxel. Where they do not, because the surface has holes, sheets or wrongly turned faces, the generalised
winding number (Jacobson et al. 2013) decides, which such a surface still has, smoothly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FILL = 0.9  # of the grid's side that the mesh's longest extent takes
PAIRS = 1 << 17  # of a point or ray and a triangle held at a time: half a megabyte an array, which the cache holds
BRICK = 8  # voxels
FAR = 2.5  # radii of a brick's faces from where on they count as a dipole
# Rays are moved off the voxels' centres by this part of a voxel, so that none runs through a vertex or along an edge of a mesh
# whose coordinates are on the grid. The two numbers are unequal and have no simple ratio.
JITTER = (1.31e-4, 2.17e-4)


def voxelise(vertices: np.ndarray | Tensor, faces: np.ndarray | Tensor, size: int) -> np.ndarray:
    """Bool [n,n,n] (axes x, y, z) of a mesh in grid coordinates: vertices [V,3] with 0..n across the grid, faces [F,3].

    A voxel is filled if its centre has a winding number of magnitude above one half. Faces may have either orientation as long
    as neighbours agree. Raises ValueError for vertices that are not finite or a mesh without faces.
    """
    vertices = torch.as_tensor(vertices, dtype=torch.float64)
    faces = torch.as_tensor(faces, dtype=torch.int64)
    if len(faces) == 0:
        raise ValueError("the mesh has no faces")
    if not bool(torch.isfinite(vertices).all()):
        raise ValueError("the mesh has vertices that are not finite")
    triangles = vertices[faces]
    counts = torch.stack([side for axis in range(3) for side in _crossings(triangles, size, axis)])  # [6,n,n,n]
    agreed = (counts == counts[0]).all(0)
    solid = agreed & (counts[0] != 0)
    disputed = torch.nonzero(~agreed)
    if len(disputed):
        winding = winding_numbers(disputed.double() + 0.5, vertices, faces)
        solid[tuple(disputed.T)] = winding.abs() > 0.5
    return solid.numpy()


def _crossings(triangles: Tensor, size: int, axis: int) -> tuple[Tensor, Tensor]:
    """Signed crossings below and above every voxel's centre along `axis`; each int32 [n,n,n].

    Orders the axes so that `axis` comes last in a right-handed frame: a face whose normal points up counts as -1 from below.
    """
    order = [(axis + 1) % 3, (axis + 2) % 3, axis]
    u, v, w = triangles[..., order].unbind(-1)  # each [F,3]
    u, v = u - JITTER[0] - 0.5, v - JITTER[1] - 0.5  # rays now stand at whole numbers
    doubled = (u[:, 1] - u[:, 0]) * (v[:, 2] - v[:, 0]) - (v[:, 1] - v[:, 0]) * (u[:, 2] - u[:, 0])  # area seen along the axis
    low_u, high_u = u.amin(1).ceil().clamp(0, size).long(), u.amax(1).floor().clamp(-1, size - 1).long()
    low_v, high_v = v.amin(1).ceil().clamp(0, size).long(), v.amax(1).floor().clamp(-1, size - 1).long()
    wide, tall = (high_u - low_u + 1).clamp_min(0), (high_v - low_v + 1).clamp_min(0)
    pairs = torch.where(doubled != 0, wide * tall, 0)
    ends = pairs.cumsum(0)
    change = torch.zeros(size * size * (size + 1), dtype=torch.int32)
    first = 0
    while first < len(pairs):  # chunks of triangles, by how many rays their bounds hold
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(torch.searchsorted(ends, before + PAIRS, right=True)))
        own = torch.arange(first, last).repeat_interleave(pairs[first:last])
        place = torch.arange(len(own)) - (ends[own] - pairs[own] - before)
        i, j = low_u[own] + place // tall[own].clamp_min(1), low_v[own] + place % tall[own].clamp_min(1)
        a, b, c = (_edge(u[own], v[own], k, i, j) for k in range(3))
        inside = ((a > 0) & (b > 0) & (c > 0)) | ((a < 0) & (b < 0) & (c < 0))
        own, i, j = own[inside], i[inside], j[inside]
        a, b, c = a[inside], b[inside], c[inside]
        height = (a * w[own, 2] + b * w[own, 0] + c * w[own, 1]) / (a + b + c)
        above = (height + 0.5).floor().clamp(0, size).long()  # the first voxel whose centre is not below the crossing
        sign = -doubled[own].sign().to(torch.int32)
        change.index_add_(0, (i * size + j) * (size + 1) + above, sign)
        first = last
    change = change.view(size, size, size + 1)
    below = change.cumsum(2, dtype=torch.int32)[..., :size]
    above = below - change.sum(2, dtype=torch.int32, keepdim=True)  # = -(sum of the crossings above)
    back = [order.index(k) for k in range(3)]
    return below.permute(back), above.permute(back)


def _edge(u: Tensor, v: Tensor, k: int, i: Tensor, j: Tensor) -> Tensor:
    """Doubled area of the ray (i, j) and the edge from corner k to the next: what the third corner counts."""
    n = (k + 1) % 3
    # The ends are put in one order first, so that the two triangles of an edge get the same bits with opposite signs.
    swap = (u[:, k] > u[:, n]) | ((u[:, k] == u[:, n]) & (v[:, k] > v[:, n]))
    u0, u1 = torch.where(swap, u[:, n], u[:, k]), torch.where(swap, u[:, k], u[:, n])
    v0, v1 = torch.where(swap, v[:, n], v[:, k]), torch.where(swap, v[:, k], v[:, n])
    area = (u1 - u0) * (j - v0) - (v1 - v0) * (i - u0)
    return torch.where(swap, -area, area)


def winding_numbers(points: Tensor, vertices: Tensor, faces: Tensor) -> Tensor:
    """Generalised winding number [P] of points [P,3] in grid coordinates.

    Faces are gathered by bricks of BRICK voxels. To points farther from a brick's faces than FAR times their radius they count as
    one dipole (Barill et al. 2018), the others by their exact solid angles.
    """
    corners = vertices[faces]
    middles = corners.mean(1)
    areas = 0.5 * torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    _, brick_of = torch.unique((middles / BRICK).floor().long(), dim=0, return_inverse=True)
    count = int(brick_of.max()) + 1
    size = areas.norm(dim=1).clamp_min(1e-12)
    centres = torch.zeros(count, 3, dtype=torch.float64).index_add(0, brick_of, middles * size[:, None])
    centres /= torch.zeros(count, dtype=torch.float64).index_add(0, brick_of, size)[:, None]
    dipoles = torch.zeros(count, 3, dtype=torch.float64).index_add(0, brick_of, areas)
    reach = (corners - centres[brick_of, None]).norm(dim=2).amax(1)
    radii = torch.zeros(count, dtype=torch.float64).scatter_reduce(0, brick_of, reach, "amax")
    groups, group_of = torch.unique((points / BRICK).floor().long(), dim=0, return_inverse=True)
    order = group_of.argsort()
    result = torch.empty(len(points))
    for group, own in zip(groups, order.split(torch.bincount(group_of).tolist()), strict=True):
        middle = (group + 0.5) * BRICK
        is_far = (centres - middle).norm(dim=1) > FAR * radii + BRICK * 3**0.5 / 2
        offset = centres[is_far] - points[own, None]
        far = ((offset * dipoles[is_far]).sum(2) / offset.norm(dim=2) ** 3).sum(1) / (4 * torch.pi)
        near = solid_angles(points[own], vertices, faces[~is_far[brick_of]]) / (4 * torch.pi)
        result[own] = near + far.float()
    return result


def solid_angles(points: Tensor, vertices: Tensor, faces: Tensor) -> Tensor:
    """Sum [P] over the faces of the signed solid angles they are seen under from points [P,3] (Van Oosterom and Strackee 1983)."""
    centre = points.mean(0)
    points, corners = (points - centre).float(), (vertices[faces] - centre).float()
    a, b, c = corners.unbind(1)
    normal = torch.linalg.cross(a, b) + torch.linalg.cross(b, c) + torch.linalg.cross(c, a)
    volume = (a * torch.linalg.cross(b, c)).sum(1)
    squares = corners.square().sum(2)  # [F,3]
    totals = []
    for own in points.split(max(1, PAIRS // max(1, len(faces)))):
        square = own.square().sum(1, keepdim=True)
        la, lb, lc = (torch.sqrt((square - 2 * own @ corners[:, k].T + squares[:, k]).clamp_min_(0)) for k in range(3))

        def dots(first: Tensor, second: Tensor, own=own, square=square) -> Tensor:
            return square - own @ (first + second).T + (first * second).sum(1)

        scale = (la * lb + dots(a, b)).mul_(lc).add_(dots(b, c).mul_(la)).add_(dots(c, a).mul_(lb))
        totals.append(2 * torch.atan2(volume - own @ normal.T, scale).sum(1))
    return torch.cat(totals)


def to_grid(vertices: np.ndarray | Tensor, size: int) -> np.ndarray:
    """Vertices [V,3] in grid coordinates: the bounding box centred, its longest side FILL of the grid's.

    Raises ValueError for a mesh without extent.
    """
    vertices = np.asarray(vertices, np.float64)
    low, high = vertices.min(0), vertices.max(0)
    extent = float((high - low).max())
    if not extent > 0:
        raise ValueError("the mesh has no extent")
    return (vertices - 0.5 * (low + high)) * (FILL * size / extent) + size / 2


def voxelise_files(paths: Sequence[str | Path], size: int, least: int = 1, limit: int | None = None) -> tuple[list[np.ndarray], list[str]]:
    """Grids and names of the objects in mesh files (.glb, .obj, .ply, ...), folders of those, and packs of objects (.npz).

    Objects of fewer than `least` filled voxels, such as thin sheets, are left out; at most `limit` are returned. Raises
    FileNotFoundError, or ValueError for a file that is neither or where nothing is left.
    """
    from tqdm import tqdm

    grids, names = [], []
    found = list(_meshes([Path(path) for path in paths]))
    for source, name, load in tqdm(found, desc="voxelising", delay=2, leave=False):
        if limit is not None and len(grids) == limit:
            break
        try:
            vertices, faces = load()
            grid = voxelise(to_grid(vertices, size), faces, size)
        except ValueError as error:
            raise ValueError(str(error) if str(source) in str(error) else f"{source}: {name}: {error}") from error
        if grid.sum() >= max(1, least):
            grids.append(grid)
            names.append(name)
    if not grids:
        raise ValueError(f"{paths[0]}: no object with {max(1, least)} solid voxels at {size}^3; choose a larger size or a smaller --least")
    return grids, names


def _meshes(paths: Sequence[Path]) -> Iterator[tuple[Path, str, Callable]]:
    """(file, name, function that gives vertices and faces) of every object."""
    from microdreamer.meshes.files import SUFFIXES, read_surface
    from microdreamer.shapes.packed import load_packed

    def from_file(path: Path) -> tuple[np.ndarray, np.ndarray]:
        surface = read_surface(path)  # its shape alone
        return surface.vertices.astype(np.float32), surface.faces

    for path in paths:
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            if not files:
                raise FileNotFoundError(f"{path}: no mesh in this folder; expected files ending in {', '.join(SUFFIXES)}")
            for file in files:
                yield file, file.relative_to(path).with_suffix("").as_posix(), lambda file=file: from_file(file)
        elif path.suffix.lower() == ".npz":
            packed = load_packed(path)
            for i, name in enumerate(packed.ids):
                yield path, name, lambda packed=packed, i=i: packed.mesh(i)[:2]
        else:
            yield path, path.stem, lambda path=path: from_file(path)
