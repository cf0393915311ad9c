"""One GLB, glTF, OBJ or PLY file as a coloured triangle soup in the conventions of `shapes.packed`.

A texture becomes corner colours: triangles are split at edge midpoints until their corners carry it, up to a face limit.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from microdreamer.core.unique_rows import unique_rows
from microdreamer.images.colour import linear_to_srgb, srgb_to_linear
from microdreamer.meshes.files import SUFFIXES, read_surface
from microdreamer.meshes.surface import Material, Surface
from microdreamer.shapes import FACE_LIMIT, OBJECT_RADIUS

__all__ = ["SUFFIXES", "read_mesh"]

_PLAIN = 200  # sRGB grey of surfaces without any colour
_HARD_EDGE = np.cos(np.radians(50.0))  # a vertex normal farther than this from the face's is taken for a hard edge
_TEXTURE_TOLERANCE = 16.0  # of 255: how far corner colours may be from the texture at an edge's middle


@dataclasses.dataclass
class _Soup:
    """Faces with everything at their corners, and the number of each face's material."""

    positions: np.ndarray  # [F,3,3] float64
    normals: np.ndarray  # [F,3,3]
    colors: np.ndarray  # [F,3,4] linear, as of `Surface`
    uv: np.ndarray  # [F,3,4]
    material: np.ndarray  # [F] int

    def __len__(self) -> int:
        return len(self.material)

    def take(self, faces: np.ndarray) -> _Soup:
        return _Soup(*(getattr(self, field.name)[faces] for field in dataclasses.fields(self)))


def _join(soups: list[_Soup]) -> _Soup:
    return _Soup(*(np.concatenate([getattr(s, field.name) for s in soups]) for field in dataclasses.fields(_Soup)))


def read_mesh(path: str | Path, face_limit: int = FACE_LIMIT) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(vertices [v,3] float32, faces [f,3] int32, colours [f,3,3] uint8 sRGB, normals [f,3,3] int8 times 127).

    The centre of the bounding box becomes the origin and the farthest vertex gets the distance 0.8; axes stay as they
    are (glTF's +Y up, front +Z). Colours: whatever the file's materials show at the corners, grey where it says nothing of colour.
    Normals are the vertices', or the face's where the two are more than 50 degrees apart. `face_limit` bounds the
    splitting for textures; a mesh that has more faces from the start keeps them.
    Raises what `meshes.files.read_surface` raises, and ValueError for a mesh that is a point.
    """
    surface = read_surface(path)
    soup = _soup_of(surface)
    soup.positions = _normalised(soup.positions, Path(path))
    soup = _split_for_textures(soup, surface.materials, face_limit)
    vertices, _, faces = unique_rows(soup.positions.reshape(-1, 3).astype(np.float32))
    faces = faces.reshape(-1, 3)
    kept = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    colors = _srgb(_shaded(soup, surface.materials, soup.uv, soup.colors))
    normals = soup.normals / np.maximum(np.linalg.norm(soup.normals, axis=-1, keepdims=True), 1e-12)
    return vertices, faces[kept].astype(np.int32), colors[kept], np.rint(normals[kept] * 127).astype(np.int8)


def _srgb(linear: np.ndarray) -> np.ndarray:
    return np.rint(255 * linear_to_srgb(linear.clip(0, 1).astype(np.float64))).astype(np.uint8)


def _normalised(positions: np.ndarray, path: Path) -> np.ndarray:
    flat = positions.reshape(-1, 3)
    centred = positions - 0.5 * (flat.min(0) + flat.max(0))
    farthest = np.linalg.norm(centred, axis=-1).max()
    if farthest == 0:
        raise ValueError(f"{path}: all vertices are the same point")
    return centred * (OBJECT_RADIUS / farthest)


def _soup_of(surface: Surface) -> _Soup:
    """The corners of a surface's faces."""
    _, vertices, index = unique_rows(surface.vertices)
    faces = index[surface.faces]
    positions = surface.vertices[vertices][faces]
    edges = _unit(np.roll(positions, -1, axis=1) - positions)
    face_normals = _unit(np.cross(positions[:, 1] - positions[:, 0], positions[:, 2] - positions[:, 0]))[:, None].repeat(3, axis=1)
    angles = np.arccos(-(edges * np.roll(edges, 1, axis=1)).sum(-1, keepdims=True).clip(-1, 1))
    weighted = (face_normals * angles).reshape(-1, 3)
    sums = np.stack([np.bincount(faces.reshape(-1), axis, len(vertices)) for axis in weighted.T], axis=1)
    normals = _unit(sums)[faces]
    hard = (normals * face_normals).sum(-1, keepdims=True) < _HARD_EDGE
    colors = surface.colors.astype(np.float64)
    silent = np.array([not material.stated for material in surface.materials])[surface.material]
    colors[silent, :, :3] = srgb_to_linear(np.float64(_PLAIN / 255))
    return _Soup(positions, np.where(hard, face_normals, normals), colors, surface.uvs, surface.material)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-300)


def _shaded(soup: _Soup, materials: list[Material], uv: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Linear colours [F,K,3] at K points of each face, given their uv [F,K,4] and corner colours [F,K,4]."""
    found = np.empty((*uv.shape[:2], 3))
    for number, material in enumerate(materials):
        own = soup.material == number
        found[own] = material.shade(uv[own].reshape(-1, 4), colors[own].reshape(-1, 4))[:, :3].reshape(-1, uv.shape[1], 3)
    return found


def _middles(corners: np.ndarray) -> np.ndarray:
    """Values [F,3,C] at the middles of edges 0-1, 1-2, 2-0."""
    return 0.5 * (corners + np.roll(corners, -1, axis=1))


def _split_for_textures(soup: _Soup, materials: list[Material], face_limit: int) -> _Soup:
    """Bisect longest edges where the texture is not linear between corners; neighbours are split with them."""
    while len(soup) < face_limit and any(material.has_texture for material in materials):
        wanted = _edges_to_split(soup, materials)
        if not wanted.any():
            break
        # A split edge adds one face to each side; take the longest edges when not all fit.
        budget = face_limit - len(soup)
        lengths = np.linalg.norm(soup.positions - np.roll(soup.positions, -1, axis=1), axis=-1)
        shared = _edge_numbers(soup)
        chosen = np.unique(shared[wanted])
        uses = np.bincount(shared.reshape(-1))
        order = chosen[np.argsort(-_largest(lengths, shared)[chosen], kind="stable")]
        order = order[: np.searchsorted(np.cumsum(uses[order]), budget, "right")]
        if len(order) == 0:
            break
        soup = _split(soup, np.isin(shared, order))
    return soup


def _largest(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    result = np.zeros(groups.max() + 1)
    np.maximum.at(result, groups.reshape(-1), values.reshape(-1))
    return result


def _edge_numbers(soup: _Soup) -> np.ndarray:
    """A number [F,3] for each edge 0-1, 1-2, 2-0, equal where two faces have both ends in common."""
    ids = unique_rows(soup.positions.reshape(-1, 3)).index.reshape(-1, 3)
    ends = np.sort(np.stack([ids, np.roll(ids, -1, axis=1)], axis=-1), axis=-1).reshape(-1, 2)
    return unique_rows(ends).index.reshape(-1, 3)


# Points of a face, as weights of its corners, at which its colours are compared: edge middles, the centre, and three that do not lie on
# lines of symmetry, where the texel grids of checks and stripes would hide.
_PROBES = np.array(
    [[0.5, 0.5, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [1 / 3, 1 / 3, 1 / 3], [0.62, 0.27, 0.11], [0.11, 0.62, 0.27], [0.27, 0.11, 0.62]]
)


def _edges_to_split(soup: _Soup, materials: list[Material]) -> np.ndarray:
    """Mask [F,3]: the longest edge of each face whose texture its corners do not carry, unless it is below a texel."""
    corners = _srgb(_shaded(soup, materials, soup.uv, soup.colors)).astype(np.float64)
    shown = _srgb(_shaded(soup, materials, _PROBES @ soup.uv, _PROBES @ soup.colors))
    error = np.abs(shown - _PROBES @ corners).max((1, 2))
    sizes = np.array([_sizes(material) for material in materials], np.float64)[soup.material]
    steps = (soup.uv - np.roll(soup.uv, -1, axis=1)) * sizes[:, None]
    texels = np.linalg.norm(steps.reshape(len(soup), 3, 2, 2), axis=-1).max((1, 2))
    longest = np.linalg.norm(soup.positions - np.roll(soup.positions, -1, axis=1), axis=-1).argmax(1)
    bad = (error > _TEXTURE_TOLERANCE) & (texels > 1.5)
    mask = np.zeros((len(soup), 3), bool)
    mask[bad, longest[bad]] = True
    return mask


def _sizes(material: Material) -> list[int]:
    """Width and height of a material's texture and of its emission's, 0 for none."""
    return [size for t in (material.texture, material.emission_texture) for size in ((0, 0) if t is None else t.pixels.shape[1::-1])]


# Corners 0-2 and edge middles 3-5 (of 0-1, 1-2, 2-0) of the faces that replace one, by how many edges are split; the
# split edges come first, in the order 0-1 (one), 0-1 and 1-2 (two), all (three).
_PIECES = {
    0: ((0, 1, 2),),
    1: ((0, 3, 2), (3, 1, 2)),
    2: ((0, 3, 2), (3, 4, 2), (3, 1, 4)),
    3: ((0, 3, 5), (3, 1, 4), (5, 4, 2), (3, 4, 5)),
}


def _split(soup: _Soup, mask: np.ndarray) -> _Soup:
    """Replace each face by pieces so that the masked edges [F,3] are cut in the middle."""
    count = mask.sum(1)
    first = np.where(count == 1, mask.argmax(1), np.where(count == 2, ((~mask).argmax(1) + 1) % 3, 0))
    turned = (first[:, None] + np.arange(3)) % 3
    rows = np.arange(len(soup))[:, None]
    corners = {name: getattr(soup, name)[rows, turned] for name in ("positions", "normals", "colors", "uv")}
    points = {name: np.concatenate([values, _middles(values)], axis=1) for name, values in corners.items()}
    result = []
    for pieces in range(4):
        own = count == pieces
        for piece in _PIECES[pieces]:
            result.append(_Soup(**{name: values[own][:, piece] for name, values in points.items()}, material=soup.material[own]))
    return _join(result)
