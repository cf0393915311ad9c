"""Mesh files: OBJ with a material and a PNG, binary glTF (GLB) and PLY out; these and a few more in (see `formats`)."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from microdreamer.core import profiler
from microdreamer.core.files import atomic_write
from microdreamer.images.colour import srgb_to_linear
from microdreamer.images.writing import encoded_png
from microdreamer.meshes.cutting import without_hidden
from microdreamer.meshes.formats.gltf import read_gltf
from microdreamer.meshes.formats.gltf_document import MAGIC
from microdreamer.meshes.formats.obj import read_obj
from microdreamer.meshes.formats.other import read_other
from microdreamer.meshes.formats.ply import read_ply
from microdreamer.meshes.mesh import Mesh
from microdreamer.meshes.surface import UV_TOLERANCE, Surface
from microdreamer.meshes.topology import edges_of

_FLOAT, _UINT32 = 5126, 5125  # glTF component types
_ARRAY, _ELEMENT_ARRAY = 34962, 34963  # glTF buffer targets
_LINEAR, _LINEAR_MIPMAP_LINEAR, _CLAMP_TO_EDGE, _REPEAT = 9729, 9987, 33071, 10497  # glTF sampler settings
_JSON_CHUNK, _BINARY_CHUNK = 0x4E4F534A, 0x004E4942
UNLIT = "KHR_materials_unlit"
BAND_ROWS = 256  # of a texture at a time


@profiler.function
def write_mesh(mesh: Mesh, stem: str | Path, mesh_format: str) -> None:
    """Write the mesh as `stem`.obj, `stem`.glb or both (`obj`, `glb`, `all`); another thread encodes the texture meanwhile."""
    with ThreadPoolExecutor(1) as beside:
        png = beside.submit(encoded_texture, mesh).result if mesh.has_texture else None
        if mesh_format in ("obj", "all"):
            write_obj(mesh, f"{stem}.obj", png)
        if mesh_format in ("glb", "all"):
            write_glb(mesh, f"{stem}.glb", png)


# ---- OBJ ----


def texture_path(path: str | Path) -> Path:
    """Where `write_obj(mesh, path)` puts the texture."""
    path = Path(path)
    return path.with_name(f"{path.stem}_albedo.png")


@profiler.function
def write_obj(mesh: Mesh, path: str | Path, png: Callable[[], bytes] | None = None) -> None:
    """Write `path` (.obj) with normals, its material (.mtl) and, for a textured mesh, `_albedo.png` beside it.

    A mesh without texture has its colours at the vertices ("v x y z r g b"), which trimesh, MeshLab and Blender read.
    png: what gives the `encoded_texture`, where somebody else makes it.
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
            temporary.write_bytes(png() if png else encoded_texture(mesh))
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
    height, width = mesh.texture.shape[:2]
    picture = Image.new("RGB", (width, height))
    for top in range(0, height, BAND_ROWS):  # a large texture is held once more as a picture, not as floats or as an array of bytes
        band = np.rint(np.clip(mesh.texture[top : top + BAND_ROWS], 0, 1) * 255).astype(np.uint8)
        picture.paste(Image.fromarray(band), (0, top))
    return encoded_png(picture)


# ---- GLB ----


@profiler.function
def write_glb(mesh: Mesh, path: str | Path, png: Callable[[], bytes] | None = None) -> None:
    """Write `path` (.glb): binary glTF 2.0 with positions, normals, and texture (a PNG inside) or vertex colours.

    glTF has one index a corner, so vertices on seams are repeated; vertex colours are linear light, textures sRGB, as it wants. Colours
    that hold the light of the picture that they come from (`Mesh.shaded`) have a material that says that they are to be shown as they are
    (KHR_materials_unlit); readers that do not know that word get a matt surface, which they light once more. Others have the matt
    surface alone. Open surfaces are shown from both sides.
    """
    path = _with_suffix(path, ".glb")
    material: dict = {
        "name": "albedo" if mesh.has_texture else "vertex_colors",
        "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0},
    }
    document: dict = {}
    if mesh.shaded:
        material["extensions"], document = {UNLIT: {}}, {"extensionsUsed": [UNLIT]}
    if is_open(mesh.faces):
        material["doubleSided"] = True
    image = b""
    if mesh.has_texture:
        pairs = np.stack([mesh.faces.reshape(-1), mesh.uv_faces.reshape(-1)], axis=1).astype(np.int64)
        _, first, corner = np.unique(pairs[:, 0] * len(mesh.uvs) + pairs[:, 1], return_index=True, return_inverse=True)
        source, uv_source = pairs[first].T
        faces = corner.reshape(-1, 3)
        uvs = mesh.uvs[uv_source] * [1, -1] + [0, 1]  # glTF's v grows downwards
        attributes = {"POSITION": mesh.vertices[source], "NORMAL": _unit_normals(mesh)[source], "TEXCOORD_0": uvs.astype(np.float32)}
        material["pbrMetallicRoughness"]["baseColorTexture"] = {"index": 0}
        wrap = _REPEAT if uvs.min() < -UV_TOLERANCE or uvs.max() > 1 + UV_TOLERANCE else _CLAMP_TO_EDGE
        sampler = {"magFilter": _LINEAR, "minFilter": _LINEAR_MIPMAP_LINEAR, "wrapS": wrap, "wrapT": wrap}
        image = png() if png else encoded_texture(mesh)
        document |= {"textures": [{"source": 0, "sampler": 0}], "samplers": [sampler]}
    else:
        faces = mesh.faces
        colors = srgb_to_linear(_vertex_colors(mesh).astype(np.float64)).astype(np.float32)
        attributes = {"POSITION": mesh.vertices, "NORMAL": _unit_normals(mesh), "COLOR_0": colors}
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
        offset += len(image) + -len(image) % 4
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
        file.write(bytes(-len(image) % 4))


def _unit_normals(mesh: Mesh) -> np.ndarray:
    """The normals, and any where there is none: the format wants all of them to be of length one."""
    normals = mesh.normals
    return np.where(normals.any(axis=1, keepdims=True), normals, np.float32([0, 0, 1]))


def is_open(faces: np.ndarray) -> bool:
    """Whether some edge of faces [F,3] belongs to one face alone."""
    return bool((edges_of(faces).sharing == 1).any())


# ---- PLY ----


@profiler.function
def write_ply(mesh: Mesh, path: str | Path) -> None:
    """Write `path` (.ply): binary, little-endian, with normals and the vertex colours as bytes (white without). A texture is left out."""
    path = _with_suffix(path, ".ply")
    colors = np.rint(_vertex_colors(mesh) * 255).astype(np.uint8)
    vertices = np.empty(len(mesh.vertices), [("place", "<f4", 3), ("normal", "<f4", 3), ("color", "u1", 3)])
    vertices["place"], vertices["normal"], vertices["color"] = mesh.vertices, mesh.normals, colors
    faces = np.empty(len(mesh.faces), [("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, mesh.faces
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}"]
    header += [f"property float {name}" for name in ("x", "y", "z", "nx", "ny", "nz")]
    header += [f"property uchar {name}" for name in ("red", "green", "blue")]
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header\n"]
    with atomic_write(path) as temporary:
        temporary.write_bytes("\n".join(header).encode() + vertices.tobytes() + faces.tobytes())


# ---- Reading ----

FOREIGN = {  # formats of scenes and solids that need the programs they come from
    *(".fbx", ".blend", ".max", ".ma", ".mb", ".c4d", ".usd", ".usda", ".usdc", ".usdz", ".abc", ".skp"),
    *(".step", ".stp", ".iges", ".igs", ".sldprt", ".ifc", ".dwg", ".dxf"),
}
OF_GAUSSIANS = (".splat", ".spz", ".ksplat", ".sog")
SUFFIXES = (".glb", ".gltf", ".obj", ".ply")  # of formats with a reader of this project's own
REMEDY = "get a whole copy or save it anew"  # what can be done about a file that is not what it should be
BAKED_SIZE = 1024  # texels a side of a texture that `read_mesh` makes


def read_surface(path: str | Path) -> Surface:
    """What the mesh file at `path` shows: glTF (binary or JSON), OBJ, PLY, and without guarantee whatever else trimesh knows.

    Which format it is, is seen from how it begins, then from its name. Raises FileNotFoundError, or ValueError in one line for what
    cannot be read, needs a package that is not installed, has no triangles, numbers that are not finite, or lacks a texture.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: expected a mesh (.glb, .gltf, .obj, .ply, ...), got a folder")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a mesh (.glb, .gltf, .obj, .ply, ...)")
    try:
        return without_hidden(_reader(path)(path).checked())
    except ImportError as error:
        raise ValueError(f"{path}: {error}") from error
    except ValueError as error:
        what = " ".join(str(error).split())
        raise ValueError(f"{path}: {what}{'' if ';' in what else f'; {REMEDY}'}") from error
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a structure that is not what its format promises, at any place of it
        what = f"lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: not a mesh that can be read ({what[:200]}); {REMEDY}") from error


def _reader(path: Path) -> Callable[[Path], Surface]:
    suffix = path.suffix.lower()
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise ValueError("expected a mesh, got an empty file")
    if start.startswith(MAGIC) or suffix in (".glb", ".gltf", ".vrm"):
        return read_gltf
    if start.startswith((b"ply\n", b"ply\r")) or suffix == ".ply":
        return read_ply
    if suffix == ".obj":
        return read_obj
    if suffix in OF_GAUSSIANS:
        raise ValueError("it holds Gaussians, no mesh; pass it as --from-splats")
    if suffix in FOREIGN:
        raise ValueError(f"{suffix} files are not read; save it as GLB (Blender: File > Import, then File > Export > glTF 2.0)")
    return read_other


def read_mesh(path: str | Path) -> Mesh:
    """`read_surface` as one mesh with one texture or with colours at its vertices.

    Where its parts have several textures, or one whose colours they change, these are baked into one of `BAKED_SIZE` texels a side.
    Vertices that only seams had repeated become one again where there is a texture. Raises what `read_surface` raises.
    """
    surface = read_surface(path)
    mesh = surface.to_mesh()
    if mesh is None:
        from microdreamer.meshes.baking import baked

        mesh = baked(surface, BAKED_SIZE)
    return mesh
