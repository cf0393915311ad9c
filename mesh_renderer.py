"""Coloured triangle meshes: what they are, how they are written and read."""

from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path

import numpy as np

from files import atomic_write

_FLOAT, _UINT32 = 5126, 5125  # glTF component types
_ARRAY, _ELEMENT_ARRAY = 34962, 34963  # glTF buffer targets
_JSON_CHUNK, _BINARY_CHUNK = 0x4E4F534A, 0x004E4942


def srgb_to_linear(colors: np.ndarray) -> np.ndarray:
    """Light intensities of sRGB values, both in [0,1] (IEC 61966-2-1)."""
    return np.where(colors <= 0.04045, colors / 12.92, ((np.maximum(colors, 0) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(colors: np.ndarray) -> np.ndarray:
    """sRGB values of light intensities, both in [0,1]."""
    return np.where(colors <= 0.0031308, colors * 12.92, 1.055 * np.maximum(colors, 0.0031308) ** (1 / 2.4) - 0.055)


@dataclasses.dataclass
class Mesh:
    """vertices [V,3] float32, +Y up, front toward +Z; faces [F,3] int32, counter-clockwise seen from outside;
    vertex_colors [V,3] float32 sRGB in [0,1]."""

    vertices: np.ndarray
    faces: np.ndarray
    vertex_colors: np.ndarray

    def __post_init__(self) -> None:
        self.vertices = np.ascontiguousarray(self.vertices, np.float32).reshape(-1, 3)
        self.faces = np.ascontiguousarray(self.faces, np.int32).reshape(-1, 3)
        self.vertex_colors = np.ascontiguousarray(self.vertex_colors, np.float32).reshape(-1, 3)
        if len(self.vertex_colors) != len(self.vertices):
            raise ValueError(f"vertex_colors: expected {len(self.vertices)} rows, one a vertex, got {len(self.vertex_colors)}")

    @property
    def normals(self) -> np.ndarray:
        """Unit vertex normals [V,3]: those of the faces around, weighted by area; zero where there is no face."""
        corners = self.vertices[self.faces].astype(np.float64)
        doubled_areas = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        sums = np.stack(
            [np.bincount(self.faces.reshape(-1), np.repeat(doubled_areas[:, axis], 3), len(self.vertices)) for axis in range(3)], axis=1
        )
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        return (sums / np.where(lengths > 0, lengths, 1)).astype(np.float32)

    def write_obj(self, path: str | Path) -> None:
        """Write `path` (.obj) with colours and normals a vertex, and the material file of the same name (.mtl) beside it."""
        path = _with_suffix(path, ".obj")
        material = path.with_suffix(".mtl")
        vertices = np.concatenate([self.vertices, np.clip(self.vertex_colors, 0, 1)], axis=1)
        corners = np.repeat(self.faces + 1, 2, axis=1)  # position and normal of a corner have one index
        parts = [
            f"mtllib {material.name}\n",  # declared, not applied by `usemtl`: trimesh then shows the material instead of the colours
            _lines("v %.7g %.7g %.7g %.5g %.5g %.5g\n", vertices),
            _lines("vn %.5g %.5g %.5g\n", self.normals),
            _lines("f %d//%d %d//%d %d//%d\n", corners),
        ]
        with atomic_write(material) as temporary:
            temporary.write_text("newmtl vertex_colors\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nd 1\nillum 1\n", encoding="utf-8")
        with atomic_write(path) as temporary:
            temporary.write_text("".join(parts), encoding="utf-8")

    def write_glb(self, path: str | Path) -> None:
        """Write `path` (.glb): binary glTF 2.0 with positions, normals and colours, the last as linear light, as glTF wants."""
        path = _with_suffix(path, ".glb")
        attributes = {
            "POSITION": self.vertices,
            "NORMAL": self.normals,
            "COLOR_0": srgb_to_linear(np.clip(self.vertex_colors.astype(np.float64), 0, 1)).astype(np.float32),
        }
        arrays = [*attributes.values(), self.faces.astype(np.uint32)]
        views, accessors, offset = [], [], 0
        for array in arrays:
            is_index = array.dtype == np.uint32
            views.append({"buffer": 0, "byteOffset": offset, "byteLength": array.nbytes, "target": _ELEMENT_ARRAY if is_index else _ARRAY})
            accessors.append(
                {
                    "bufferView": len(accessors),
                    "componentType": _UINT32 if is_index else _FLOAT,
                    "count": array.size if is_index else len(array),
                    "type": "SCALAR" if is_index else "VEC3",
                }
            )
            offset += array.nbytes
        accessors[0] |= {"min": self.vertices.min(0).tolist(), "max": self.vertices.max(0).tolist()}
        primitive = {"attributes": {name: index for index, name in enumerate(attributes)}, "indices": len(attributes), "material": 0}
        document = {
            "asset": {"version": "2.0", "generator": "MicroDreamerOptimized"},
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0, "name": path.stem}],
            "meshes": [{"primitives": [primitive], "name": path.stem}],
            "materials": [{"name": "vertex_colors", "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0}}],
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

    @classmethod
    def load(cls, path: str | Path) -> Mesh:
        """Read a mesh of any format that trimesh knows; all parts of a scene as one. White where the file has no vertex colours.

        Raises FileNotFoundError, or ValueError for a file without triangles.
        """
        import trimesh

        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; expected a mesh (.obj, .glb, .ply, ...)")
        try:
            scene = trimesh.load_scene(path, process=False, maintain_order=True, skip_materials=True)
            gltf_colors = _gltf_colors(path) if path.suffix.lower() == ".glb" else None
        except Exception as error:  # trimesh's readers raise whatever their parsing trips over
            raise ValueError(f"{path}: not a mesh that can be read ({' '.join(str(error).split())}); get a whole copy") from error
        parts = []
        for node in scene.graph.nodes_geometry:
            transform, name = scene.graph[node]
            geometry = scene.geometry[name]
            if not isinstance(geometry, trimesh.Trimesh) or len(geometry.faces) == 0:
                continue
            faces = geometry.faces[:, ::-1] if np.linalg.det(transform[:3, :3]) < 0 else geometry.faces
            colors = np.ones((len(geometry.vertices), 3))
            if gltf_colors is not None:
                colors = gltf_colors.get(name, colors)
            elif geometry.visual.kind == "vertex":
                colors = _unit_colors(geometry.visual.vertex_colors)
            parts.append((trimesh.transform_points(geometry.vertices, transform), faces, colors))
        if not parts:
            raise ValueError(f"{path}: expected a mesh, found no triangles")
        starts = np.cumsum([0, *(len(vertices) for vertices, _, _ in parts)])
        return cls(
            np.concatenate([vertices for vertices, _, _ in parts]),
            np.concatenate([faces + start for (_, faces, _), start in zip(parts, starts[:-1], strict=True)]),
            np.concatenate([colors for _, _, colors in parts]),
        )


def _with_suffix(path: str | Path, suffix: str) -> Path:
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise ValueError(f"{path}: expected a name ending in {suffix}")
    return path


def _lines(template: str, rows: np.ndarray) -> str:
    return (template * len(rows)) % tuple(rows.reshape(-1).tolist())


def _unit_colors(colors: np.ndarray) -> np.ndarray:
    """Colours [V,3] in [0,1] of the first three channels, stored as floats or as integers of full scale."""
    scale = 1.0 if colors.dtype.kind == "f" else np.iinfo(colors.dtype).max
    return np.clip(colors[:, :3].astype(np.float64) / scale, 0, 1)


def _gltf_colors(path: Path) -> dict[str, np.ndarray]:
    """sRGB vertex colours by geometry name, from the file's linear ones before trimesh rounds them to 8 bits."""
    from trimesh.exchange.gltf import load_glb

    with path.open("rb") as file:
        geometries = load_glb(file, skip_materials=True)["geometry"]
    return {name: linear_to_srgb(_unit_colors(part["vertex_colors"])) for name, part in geometries.items() if "vertex_colors" in part}
