"""Mesh files: OBJ with a material and a PNG, binary glTF (GLB) out; whatever trimesh knows in."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from microdreamer.core import profiler
from microdreamer.core.files import atomic_write
from microdreamer.images.writing import encoded_png
from microdreamer.meshes.mesh import Mesh

_FLOAT, _UINT32 = 5126, 5125  # glTF component types
_ARRAY, _ELEMENT_ARRAY = 34962, 34963  # glTF buffer targets
_LINEAR, _LINEAR_MIPMAP_LINEAR, _CLAMP_TO_EDGE = 9729, 9987, 33071  # glTF sampler settings
_JSON_CHUNK, _BINARY_CHUNK = 0x4E4F534A, 0x004E4942


def srgb_to_linear(colors: np.ndarray) -> np.ndarray:
    """Light intensities of sRGB values, both in [0,1] (IEC 61966-2-1)."""
    return np.where(colors <= 0.04045, colors / 12.92, ((np.maximum(colors, 0) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(colors: np.ndarray) -> np.ndarray:
    """sRGB values of light intensities, both in [0,1]."""
    return np.where(colors <= 0.0031308, colors * 12.92, 1.055 * np.maximum(colors, 0.0031308) ** (1 / 2.4) - 0.055)


# ---- OBJ ----


def texture_path(path: str | Path) -> Path:
    """Where `write_obj(mesh, path)` puts the texture."""
    path = Path(path)
    return path.with_name(f"{path.stem}_albedo.png")


@profiler.function
def write_obj(mesh: Mesh, path: str | Path, png: bytes | None = None) -> None:
    """Write `path` (.obj) with normals, its material (.mtl) and, for a textured mesh, `_albedo.png` beside it.

    A mesh without texture has its colours at the vertices ("v x y z r g b"), which trimesh, MeshLab and Blender read.
    png: the `encoded_texture`, where it is at hand already.
    """
    path = _with_suffix(path, ".obj")
    material = path.with_suffix(".mtl")
    name = "albedo" if mesh.has_texture else "vertex_colors"
    parts = [f"mtllib {material.name}\n".encode()]
    if mesh.has_texture:
        corners = np.stack([mesh.faces, mesh.uv_faces, mesh.faces], axis=-1).reshape(-1, 9) + 1
        parts += [
            _lines("v %.7g %.7g %.7g\n", mesh.vertices),
            _lines("vt %.7g %.7g\n", mesh.uvs),
            _lines("vn %.5g %.5g %.5g\n", mesh.normals),
            f"usemtl {name}\n".encode(),
            _lines("f %d/%d/%d %d/%d/%d %d/%d/%d\n", corners),
        ]
    else:
        # The material is declared, not applied by `usemtl`: trimesh then would show it instead of the colours.
        parts += [
            _lines("v %.7g %.7g %.7g %.5g %.5g %.5g\n", np.concatenate([mesh.vertices, _vertex_colors(mesh)], axis=1)),
            _lines("vn %.5g %.5g %.5g\n", mesh.normals),
            _lines("f %d//%d %d//%d %d//%d\n", np.repeat(mesh.faces + 1, 2, axis=1)),
        ]
    lines = [f"newmtl {name}", "Ka 0 0 0", "Kd 1 1 1", "Ks 0 0 0", "d 1", "illum 1"]
    if mesh.has_texture:
        lines.append(f"map_Kd {texture_path(path).name}")
        with atomic_write(texture_path(path)) as temporary:
            temporary.write_bytes(png or encoded_texture(mesh))
    with atomic_write(material) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"".join(parts))


def _with_suffix(path: str | Path, suffix: str) -> Path:
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise ValueError(f"{path}: expected a name ending in {suffix}")
    return path


def _lines(template: str, rows: np.ndarray) -> bytes:
    """`template % row` for every row [R,C]; one call of `%` is many times as fast as one a row."""
    return (template * len(rows) % tuple(rows.reshape(-1).tolist())).encode()


def _vertex_colors(mesh: Mesh) -> np.ndarray:
    return np.ones_like(mesh.vertices) if mesh.vertex_colors is None else np.clip(mesh.vertex_colors, 0, 1)


def encoded_texture(mesh: Mesh) -> bytes:
    """The texture as a PNG file."""
    return encoded_png(np.rint(np.clip(mesh.texture, 0, 1) * 255).astype(np.uint8))


# ---- GLB ----


@profiler.function
def write_glb(mesh: Mesh, path: str | Path, png: bytes | None = None) -> None:
    """Write `path` (.glb): binary glTF 2.0 with positions, normals, and texture (a PNG inside) or vertex colours.

    glTF has one index a corner, so vertices on seams are repeated; vertex colours are linear light, textures sRGB, as it wants.
    """
    path = _with_suffix(path, ".glb")
    material: dict = {"name": "vertex_colors", "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0}}
    document: dict = {}
    image = b""
    if mesh.has_texture:
        pairs = np.stack([mesh.faces.reshape(-1), mesh.uv_faces.reshape(-1)], axis=1).astype(np.int64)
        _, first, corner = np.unique(pairs[:, 0] * len(mesh.uvs) + pairs[:, 1], return_index=True, return_inverse=True)
        source, uv_source = pairs[first].T
        faces = corner.reshape(-1, 3)
        uvs = mesh.uvs[uv_source] * [1, -1] + [0, 1]  # glTF's v grows downwards
        attributes = {"POSITION": mesh.vertices[source], "NORMAL": mesh.normals[source], "TEXCOORD_0": uvs.astype(np.float32)}
        material["name"] = "albedo"
        material["pbrMetallicRoughness"]["baseColorTexture"] = {"index": 0}
        sampler = {"magFilter": _LINEAR, "minFilter": _LINEAR_MIPMAP_LINEAR, "wrapS": _CLAMP_TO_EDGE, "wrapT": _CLAMP_TO_EDGE}
        image = png or encoded_texture(mesh)
        document = {"textures": [{"source": 0, "sampler": 0}], "samplers": [sampler]}
    else:
        faces = mesh.faces
        colors = srgb_to_linear(_vertex_colors(mesh).astype(np.float64)).astype(np.float32)
        attributes = {"POSITION": mesh.vertices, "NORMAL": mesh.normals, "COLOR_0": colors}
    arrays = [*attributes.values(), faces.astype(np.uint32)]
    views, accessors, offset = [], [], 0
    for array in arrays:
        is_index = array.dtype == np.uint32
        views.append({"buffer": 0, "byteOffset": offset, "byteLength": array.nbytes, "target": _ELEMENT_ARRAY if is_index else _ARRAY})
        accessors.append(
            {
                "bufferView": len(accessors),
                "componentType": _UINT32 if is_index else _FLOAT,
                "count": array.size if is_index else len(array),
                "type": "SCALAR" if is_index else f"VEC{array.shape[1]}",
            }
        )
        offset += array.nbytes
    if image:
        document["images"] = [{"bufferView": len(views), "mimeType": "image/png", "name": f"{path.stem}_albedo"}]
        views.append({"buffer": 0, "byteOffset": offset, "byteLength": len(image)})
        image += bytes(-len(image) % 4)
        offset += len(image)
    accessors[0] |= {"min": attributes["POSITION"].min(0).tolist(), "max": attributes["POSITION"].max(0).tolist()}
    primitive = {"attributes": {name: index for index, name in enumerate(attributes)}, "indices": len(attributes), "material": 0}
    document |= {
        "asset": {"version": "2.0", "generator": "MicroDreamerOptimized"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": path.stem}],
        "meshes": [{"primitives": [primitive], "name": path.stem}],
        "materials": [material],
        "buffers": [{"byteLength": offset}],
        "bufferViews": views,
        "accessors": accessors,
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)  # chunks start at multiples of 4; every array's length is one already
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + offset))
        file.write(struct.pack("<II", len(text), _JSON_CHUNK) + text + struct.pack("<II", offset, _BINARY_CHUNK))
        file.writelines(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes() for array in arrays)
        file.write(image)


# ---- Reading ----


def read_mesh(path: str | Path) -> Mesh:
    """Read a mesh of any format that trimesh knows; polygons as triangles, all parts of a scene as one.

    One textured part (or several that share a texture) keeps its texture and coordinates; vertices that only seams had
    repeated become one again. Parts with different textures get the textures' colours at their vertices. Without either: the
    material's or the vertices' colours, else white. Raises FileNotFoundError, or ValueError for a file without triangles, with
    numbers that are not finite, or whose texture is missing.
    """
    import trimesh

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a mesh (.obj, .glb, .ply, ...)")
    # trimesh keeps the order of an OBJ's vertices only at the cost of its texture coordinates.
    keeps_order = path.suffix.lower() != ".obj" or not _scan_obj(path)
    try:
        scene = trimesh.load_scene(path, process=False, maintain_order=keeps_order)
        gltf_colors = _gltf_colors(path) if path.suffix.lower() == ".glb" else {}
    except Exception as error:  # trimesh's readers raise whatever their parsing trips over
        raise ValueError(f"{path}: not a mesh that can be read ({' '.join(str(error).split())}); get a whole copy") from error
    parts = []
    for node in scene.graph.nodes_geometry:
        transform, name = scene.graph[node]
        geometry = scene.geometry[name]
        if isinstance(geometry, trimesh.Trimesh) and len(geometry.faces):
            faces = geometry.faces[:, ::-1] if np.linalg.det(transform[:3, :3]) < 0 else geometry.faces
            parts.append((trimesh.transform_points(geometry.vertices, transform), faces, geometry.visual, gltf_colors.get(name)))
    if not parts:
        raise ValueError(f"{path}: expected a mesh, found no triangles")
    try:
        mesh = _joined(parts)
        mesh.check()
    except (ValueError, OSError) as error:  # OSError: a texture inside of the file is cut short
        raise ValueError(f"{path}: {error}") from error
    return mesh


def _joined(parts: list[tuple]) -> Mesh:
    starts = np.cumsum([0, *(len(vertices) for vertices, *_ in parts)])[:-1]
    with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite and is refused later
        vertices = np.concatenate([vertices for vertices, *_ in parts]).astype(np.float32)
    faces = np.concatenate([faces + start for (_, faces, *_), start in zip(parts, starts, strict=True)])
    textures = [_texture(visual) for _, _, visual, _ in parts]
    shared = textures[0]
    if shared is not None and all(texture is not None and np.array_equal(texture, shared) for texture in textures[1:]):
        uvs = np.concatenate([visual.uv for _, _, visual, _ in parts])
        welded, index = np.unique(vertices, axis=0, return_inverse=True)
        index = index.reshape(-1)
        return Mesh(welded, index[faces], uvs=uvs, uv_faces=faces, texture=shared)
    colors = [_part_colors(len(v), visual, painted) for v, _, visual, painted in parts]
    return Mesh(vertices, faces, np.concatenate(colors))


def _material_image(visual):
    material = getattr(visual, "material", None)
    return getattr(material, "baseColorTexture", None) or getattr(material, "image", None)


def _texture(visual) -> np.ndarray | None:
    """sRGB texture [H,W,3] in [0,1] of a trimesh visual that has one with coordinates, its material's factor applied."""
    image = _material_image(visual)
    if image is None or getattr(visual, "uv", None) is None:
        return None
    texture = np.asarray(image.convert("RGB"), np.float32) / 255
    factor = getattr(visual.material, "baseColorFactor", None)
    if factor is not None and (factor := _unit(np.asarray(factor))[:3]).min() < 1:
        texture = linear_to_srgb(srgb_to_linear(texture.astype(np.float64)) * factor).astype(np.float32)
    return texture


def _part_colors(count: int, visual, painted: np.ndarray | None) -> np.ndarray:
    """sRGB colours [count,3] of a part that keeps no texture."""
    if painted is not None:
        return painted
    if visual.kind == "vertex":
        return _unit(visual.vertex_colors)[:, :3]
    if visual.kind == "texture":
        image, factor = _material_image(visual), getattr(visual.material, "baseColorFactor", None)
        if image is not None and visual.uv is not None:
            return _unit(visual.to_color().vertex_colors)[:, :3]
        if hasattr(visual.material, "baseColorFactor"):
            linear = np.ones(3) if factor is None else _unit(np.asarray(factor))[:3]
            return np.tile(linear_to_srgb(linear), (count, 1))
        if image is None:
            return np.tile(_unit(np.asarray(visual.material.diffuse))[:3], (count, 1))
    return np.ones((count, 3))


def _unit(colors: np.ndarray) -> np.ndarray:
    """Values in [0,1] of channels stored as floats or as integers of full scale."""
    scale = 1.0 if colors.dtype.kind == "f" else np.iinfo(colors.dtype).max
    return np.clip(colors.astype(np.float64) / scale, 0, 1)


def _gltf_colors(path: Path) -> dict[str, np.ndarray]:
    """sRGB vertex colours by geometry name, from the file's linear ones before trimesh rounds them to 8 bits."""
    from trimesh.exchange.gltf import load_glb

    with path.open("rb") as file:
        geometries = load_glb(file, skip_materials=True)["geometry"]
    return {name: linear_to_srgb(_unit(part["vertex_colors"])[:, :3]) for name, part in geometries.items() if "vertex_colors" in part}


def _check_texture(path: Path, name: str, library: str) -> None:
    """Raise ValueError unless the picture that a material of the OBJ at `path` names can be read; trimesh would pass over it."""
    remedy = f"restore it or remove the map_Kd line of {library}"
    if not (path.parent / name).is_file():
        raise ValueError(f"{path}: its texture {name} is not there; {remedy}")
    try:
        with Image.open(path.parent / name) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what PIL raises for damaged files
        raise ValueError(f"{path}: its texture {name} is no picture that can be read ({error}); {remedy}") from error


def _scan_obj(path: Path) -> bool:
    """Whether an OBJ has texture coordinates. Raises ValueError where a material names a picture that cannot be read."""
    has_uvs, libraries = False, []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            has_uvs = has_uvs or line.startswith("vt ")
            if line.startswith("mtllib") and (library := line.removeprefix("mtllib").strip()):
                libraries.append(library)
    for library in libraries:
        if not (material := path.parent / library).is_file():
            continue  # a mesh without its materials is still a mesh
        for line in material.read_text(encoding="utf-8", errors="replace").splitlines():
            key, *image = line.split(maxsplit=1) or [""]
            if key.lower() == "map_kd" and image:
                _check_texture(path, image[0].strip(), library)
    return has_uvs
