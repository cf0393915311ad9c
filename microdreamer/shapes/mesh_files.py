"""Reads one GLB, glTF, OBJ or PLY file as a coloured triangle soup in the conventions of `shapes.packed`.

A texture becomes corner colours: triangles are split at edge midpoints until their corners carry it, up to a face limit.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

SUFFIXES = (".glb", ".gltf", ".obj", ".ply")
RADIUS = 0.8  # of the farthest vertex
_PLAIN = 200  # sRGB grey of surfaces without any colour
_HARD_EDGE = np.cos(np.radians(50.0))  # a vertex normal farther than this from the face's is taken for a hard edge
_TEXTURE_TOLERANCE = 16.0  # of 255: how far corner colours may be from the texture at an edge's middle


@dataclasses.dataclass
class _Soup:
    """Faces with everything at their corners; `image` numbers the texture of each face, -1 for none."""

    positions: np.ndarray  # [F,3,3] float64
    normals: np.ndarray  # [F,3,3]
    colors: np.ndarray  # [F,3,3] linear factor of the texture, or the whole colour
    uv: np.ndarray  # [F,3,2]
    image: np.ndarray  # [F] int

    def __len__(self) -> int:
        return len(self.image)

    def take(self, faces: np.ndarray) -> _Soup:
        return _Soup(*(getattr(self, field.name)[faces] for field in dataclasses.fields(self)))


def _join(soups: list[_Soup]) -> _Soup:
    return _Soup(*(np.concatenate([getattr(s, field.name) for s in soups]) for field in dataclasses.fields(_Soup)))


def read_mesh(path: str | Path, face_limit: int = 16000) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(vertices [v,3] float32, faces [f,3] int32, colours [f,3,3] uint8 sRGB, normals [f,3,3] int8 times 127).

    The centre of the bounding box becomes the origin and the farthest vertex gets the distance 0.8; axes stay as they
    are (glTF's +Y up, front +Z). Colours: texture times factor (linear, as glTF has it), vertex or face colours, or the material's colour.
    Normals are the vertices', or the face's where the two are more than 50 degrees apart. `face_limit` bounds the
    splitting for textures; a mesh that has more faces from the start keeps them.
    Raises FileNotFoundError, and ValueError for what cannot be read, has no faces or vertices that are not finite.
    """
    import trimesh

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        scene = trimesh.load(path, force="scene", process=False)  # its processing would drop vertices that are not finite
    except Exception as error:  # trimesh lets its readers' errors of any type through
        raise ValueError(f"{path}: not a readable mesh ({type(error).__name__}: {error})") from error
    soups, images = [], []
    for node in scene.graph.nodes_geometry:
        transform, name = scene.graph[node]
        mesh = scene.geometry[name]
        if not isinstance(mesh, trimesh.Trimesh) or len(mesh.faces) == 0:
            continue
        mesh = mesh.copy().apply_transform(transform)
        if not np.isfinite(mesh.vertices).all():
            raise ValueError(f"{path}: has vertices that are not finite; mend or remove it")
        mesh.merge_vertices()
        soups.append(_soup_of(mesh, images))
    if not soups:
        raise ValueError(f"{path}: has no triangles")
    soup = _join(soups)
    soup.positions = _normalised(soup.positions, path)
    soup = _split_for_textures(soup, images, face_limit)
    vertices, faces = np.unique(soup.positions.reshape(-1, 3).astype(np.float32), axis=0, return_inverse=True)
    faces = faces.reshape(-1, 3)
    kept = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    colors = _srgb(_corner_colors(soup, images))
    normals = soup.normals / np.maximum(np.linalg.norm(soup.normals, axis=-1, keepdims=True), 1e-12)
    return vertices, faces[kept].astype(np.int32), colors[kept], np.rint(normals[kept] * 127).astype(np.int8)


def _linear(srgb: np.ndarray) -> np.ndarray:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _srgb(linear: np.ndarray) -> np.ndarray:
    linear = linear.clip(0, 1)
    return np.rint(255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)).astype(np.uint8)


def _normalised(positions: np.ndarray, path: Path) -> np.ndarray:
    flat = positions.reshape(-1, 3)
    centred = positions - 0.5 * (flat.min(0) + flat.max(0))
    farthest = np.linalg.norm(centred, axis=-1).max()
    if farthest == 0:
        raise ValueError(f"{path}: all vertices are the same point")
    return centred * (RADIUS / farthest)


def _soup_of(mesh, images: list[np.ndarray]) -> _Soup:
    """Corners of a trimesh mesh; its texture, if it has one, joins `images` ([H,W,3] linear, first row at v = 1)."""
    normals = mesh.vertex_normals[mesh.faces]
    face_normals = np.broadcast_to(mesh.face_normals[:, None], normals.shape)
    hard = (normals * face_normals).sum(-1, keepdims=True) < _HARD_EDGE
    uv, image = np.zeros((len(mesh.faces), 3, 2)), -1
    visual = mesh.visual
    if visual.kind == "texture":
        colors, texture = _material(visual.material)
        colors = np.broadcast_to(colors, normals.shape).copy()
        painted = visual.vertex_attributes.get("color")
        if painted is not None:
            scale = 255.0 if np.issubdtype(painted.dtype, np.integer) else 1.0
            colors *= painted[mesh.faces][..., :3] / scale
        if texture is not None and visual.uv is not None:
            uv, image = np.asarray(visual.uv, np.float64)[mesh.faces], len(images)
            images.append(_linear(np.asarray(texture.convert("RGB"), np.float64) / 255))
    elif visual.kind == "vertex":
        colors = _linear(visual.vertex_colors[mesh.faces][..., :3] / 255.0)
    elif visual.kind == "face":
        colors = np.repeat(_linear(visual.face_colors[:, None, :3] / 255.0), 3, axis=1)
    else:
        colors = np.full(normals.shape, _linear(np.float64(_PLAIN / 255)))
    return _Soup(
        np.asarray(mesh.vertices, np.float64)[mesh.faces],
        np.where(hard, face_normals, normals),
        colors,
        uv,
        np.full(len(mesh.faces), image),
    )


def _material(material) -> tuple[np.ndarray, object]:
    """Linear colour factor [3] and texture (a PIL image or None) of a glTF or OBJ material."""
    factor = getattr(material, "baseColorFactor", None)
    if hasattr(material, "baseColorTexture"):
        texture = material.baseColorTexture
        return np.ones(3) if factor is None else np.asarray(factor, np.float64)[:3] / 255, texture
    texture = getattr(material, "image", None)
    diffuse = _linear(np.asarray(material.main_color, np.float64)[:3] / 255)
    return (np.ones(3) if texture is not None else diffuse), texture


def _sample(image: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Bilinear, repeating texture look-up at uv [N,2] -> [N,3]."""
    height, width = image.shape[:2]
    x, y = (uv[:, 0] % 1.0) * width - 0.5, ((1.0 - uv[:, 1]) % 1.0) * height - 0.5
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    fx, fy = (x - x0)[:, None], (y - y0)[:, None]
    top = image[y0 % height, x0 % width] * (1 - fx) + image[y0 % height, (x0 + 1) % width] * fx
    bottom = image[(y0 + 1) % height, x0 % width] * (1 - fx) + image[(y0 + 1) % height, (x0 + 1) % width] * fx
    return top * (1 - fy) + bottom * fy


def _texture_colors(soup: _Soup, images: list[np.ndarray], uv: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Linear colours [F,K,3] at K points of each face, given their uv [F,K,2] and colour factors [F,K,3]."""
    colors = factors.copy()
    for number, image in enumerate(images):
        own = soup.image == number
        colors[own] *= _sample(image, uv[own].reshape(-1, 2)).reshape(*uv[own].shape[:2], 3)
    return colors


def _corner_colors(soup: _Soup, images: list[np.ndarray]) -> np.ndarray:
    return _texture_colors(soup, images, soup.uv, soup.colors)


def _middles(corners: np.ndarray) -> np.ndarray:
    """Values [F,3,C] at the middles of edges 0-1, 1-2, 2-0."""
    return 0.5 * (corners + np.roll(corners, -1, axis=1))


def _split_for_textures(soup: _Soup, images: list[np.ndarray], face_limit: int) -> _Soup:
    """Bisect longest edges where the texture is not linear between corners; neighbours are split with them."""
    while len(soup) < face_limit and bool((soup.image >= 0).any()):
        wanted = _edges_to_split(soup, images)
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
    _, ids = np.unique(soup.positions.reshape(-1, 3), axis=0, return_inverse=True)
    ids = ids.reshape(-1, 3)
    ends = np.sort(np.stack([ids, np.roll(ids, -1, axis=1)], axis=-1), axis=-1).reshape(-1, 2)
    return np.unique(ends, axis=0, return_inverse=True)[1].reshape(-1, 3)


def _edges_to_split(soup: _Soup, images: list[np.ndarray]) -> np.ndarray:
    """Mask [F,3]: the longest edge of each face whose texture its corners do not carry, unless it is below a texel."""
    corners = _srgb(_corner_colors(soup, images)).astype(np.float64)
    middle = _srgb(_texture_colors(soup, images, _middles(soup.uv), _middles(soup.colors)))
    centre_uv, centre_factor = soup.uv.mean(1, keepdims=True), soup.colors.mean(1, keepdims=True)
    centre = _srgb(_texture_colors(soup, images, centre_uv, centre_factor))
    error = np.abs(middle - _middles(corners)).max((1, 2))
    error = np.maximum(error, np.abs(centre - corners.mean(1, keepdims=True)).max((1, 2)))
    sizes = np.array([[image.shape[1], image.shape[0]] for image in images] + [[0, 0]], np.float64)[soup.image]
    texels = np.linalg.norm((soup.uv - np.roll(soup.uv, -1, axis=1)) * sizes[:, None], axis=-1)
    longest = np.linalg.norm(soup.positions - np.roll(soup.positions, -1, axis=1), axis=-1).argmax(1)
    bad = (error > _TEXTURE_TOLERANCE) & (texels.max(1) > 1.5)
    mask = np.zeros((len(soup), 3), bool)
    mask[bad, longest[bad]] = True
    return mask


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
            result.append(_Soup(**{name: values[own][:, piece] for name, values in points.items()}, image=soup.image[own]))
    return _join(result)
