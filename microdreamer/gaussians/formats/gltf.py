"""Gaussians in glTF: the extension KHR_gaussian_splatting, as ratified in 2026, read from .glb and .gltf and written as .glb.

A primitive of points whose attributes hold position, rotation (quaternion xyzw), linear scale, opacity from 0 to 1, and harmonics of
colour, one attribute a coefficient. Drafts of the extension stored logarithms of the scales; as scales are never negative, a file
with negative ones is one of those. Read are also quantised accessors and SPZ data within (KHR_gaussian_splatting_compression_spz_2).
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
import urllib.parse
from pathlib import Path

import numpy as np
import torch

from microdreamer.gaussians.formats import spz
from microdreamer.gaussians.formats.common import RawSplats, base_colors, log, logit, sigmoid, unit_quaternions
from microdreamer.gaussians.rotation import turned_raw
from microdreamer.images.colour import srgb_to_linear
from microdreamer.kernels.gaussian_raster import rotation_matrices

EXTENSION = "KHR_gaussian_splatting"
SPZ_EXTENSION = f"{EXTENSION}_compression_spz_2"
UNDERSTOOD = {EXTENSION, SPZ_EXTENSION, "KHR_mesh_quantization"}
MAGIC, JSON_CHUNK, BINARY_CHUNK = 0x46546C67, 0x4E4F534A, 0x004E4942
COMPONENTS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
FLOAT, UNSIGNED_BYTE, POINTS = 5126, 5121, 0
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
MAX_DEGREE = 3
MAX_DEPTH = 100  # of nodes within nodes
SHEAR = 1e-3  # by which a node's three scales may differ


def sh_name(index: int) -> str:
    """The attribute of harmonic `index`, counted over all degrees."""
    degree = int(np.sqrt(index))
    return f"{EXTENSION}:SH_DEGREE_{degree}_COEF_{index - degree**2}"


# ---- Reading ----


def read_gltf(path: Path) -> RawSplats:
    """The Gaussians of a .glb or .gltf, where its nodes place them. Raises ValueError for what is no whole glTF of Gaussians."""
    try:
        return _Document(path).splats()
    except (KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError, struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"not a whole glTF file: {type(error).__name__} at {str(error)[:60]}; get a whole copy") from None
    except json.JSONDecodeError:
        raise ValueError("not a glTF file: its JSON cannot be read; expected a .glb or .gltf of Gaussians") from None


class _Document:
    def __init__(self, path: Path) -> None:
        self.folder = path.parent
        data = path.read_bytes()
        self.binary = None
        if data[:4] == b"glTF":
            data = self._chunks(data)
        self.json = json.loads(data.decode("utf-8"))
        required = set(self.json.get("extensionsRequired", ())) - UNDERSTOOD
        if required:
            raise ValueError(f"glTF that requires {', '.join(sorted(map(str, required)))}; expected Gaussians without it")

    def _chunks(self, data: bytes) -> bytes:
        """The JSON chunk of a GLB; the binary one is kept."""
        _, version, length = struct.unpack_from("<4sII", data)
        if version != 2 or length > len(data):
            raise ValueError(f"not a whole GLB: version {version}, {length} bytes announced and {len(data)} there; get a whole copy")
        offset, found = 12, {}
        while offset + 8 <= length:
            size, kind = struct.unpack_from("<II", data, offset)
            found.setdefault(kind, data[offset + 8 : offset + 8 + size])
            offset += 8 + size
        self.binary = found.get(BINARY_CHUNK)
        return found[JSON_CHUNK]

    def splats(self) -> RawSplats:
        parts = []
        for mesh, transform in self._placed_meshes():
            for primitive in self.json["meshes"][mesh]["primitives"]:
                if EXTENSION in primitive.get("extensions", {}):
                    parts.append(_placed(self._primitive(primitive), transform))
        if not parts:
            raise ValueError(f"no primitive with {EXTENSION}; expected a glTF of Gaussians, this looks like a mesh (see --from-mesh)")
        harmonics = max(part.sh.shape[1] for part in parts)
        padded = [part._replace(sh=np.pad(part.sh, ((0, 0), (0, harmonics - part.sh.shape[1]), (0, 0)))) for part in parts]
        joined = (np.concatenate([part[index] for part in padded]) for index in range(5))
        remarks = dict.fromkeys(remark for part in parts for remark in part.remarks)
        return RawSplats(*joined, up="y", remarks=tuple(remarks))

    def _placed_meshes(self) -> list[tuple[int, np.ndarray]]:
        """The meshes of the scene and the matrix [4,4] of each; of all nodes where there is no scene."""
        nodes = self.json.get("nodes", [])
        scenes = self.json.get("scenes")
        if scenes:
            roots = scenes[self.json.get("scene", 0)].get("nodes", [])
        else:
            children = {child for node in nodes for child in node.get("children", ())}
            roots = [index for index in range(len(nodes)) if index not in children]
        found, waiting = [], [(index, np.eye(4), 0) for index in roots]
        while waiting:
            index, parent, depth = waiting.pop()
            node = nodes[index]
            matrix = parent @ _matrix(node)
            if depth > MAX_DEPTH:
                raise ValueError(f"glTF with nodes more than {MAX_DEPTH} deep")
            waiting += [(child, matrix, depth + 1) for child in node.get("children", ())]
            if "mesh" in node:
                found.append((node["mesh"], matrix))
        return found

    def _primitive(self, primitive: dict) -> RawSplats:
        splatting, attributes = primitive["extensions"][EXTENSION], primitive["attributes"]
        inner = splatting.get("extensions", {})
        if SPZ_EXTENSION in inner:
            return spz.decoded(bytes(self._view(inner[SPZ_EXTENSION]["bufferView"])))
        if inner:
            raise ValueError(f"glTF of Gaussians with {', '.join(sorted(map(str, inner)))}; expected them without it")
        for name in ("POSITION", f"{EXTENSION}:ROTATION", f"{EXTENSION}:SCALE", f"{EXTENSION}:OPACITY", sh_name(0)):
            if name not in attributes:
                raise ValueError(f"no attribute '{name}' (a draft's?); expected Gaussians as the ratified {EXTENSION} has them")
        remarks = []
        means, scales = self._accessor(attributes["POSITION"], 3), self._accessor(attributes[f"{EXTENSION}:SCALE"], 3)
        if (scales < 0).any():
            remarks.append("negative scales, so logarithms as in drafts of the extension")
        else:
            scales = log(scales).astype(np.float32)
        if splatting.get("colorSpace") == "lin_rec709_display":
            remarks.append("colours are stated to be linear and taken as they are")
        degree = max((d for d in range(MAX_DEGREE + 1) if all(sh_name(k) in attributes for k in range((d + 1) ** 2))), default=0)
        splats = RawSplats(
            means=means,
            sh=np.stack([self._accessor(attributes[sh_name(index)], 3) for index in range((degree + 1) ** 2)], axis=1),
            log_scales=scales,
            quaternions=self._accessor(attributes[f"{EXTENSION}:ROTATION"], 4)[:, [3, 0, 1, 2]],
            opacity_logits=logit(self._accessor(attributes[f"{EXTENSION}:OPACITY"], 1)[:, 0]).astype(np.float32),
            remarks=tuple(remarks),
        )
        if len({len(values) for values in splats[:5]}) != 1:
            raise ValueError("attributes of one primitive differ in length; get a whole copy")
        return splats

    def _accessor(self, index: int, width: int) -> np.ndarray:
        """An accessor's values as float32 [N, width]; integers that are normalised become -1 to 1 or 0 to 1."""
        accessor = self.json["accessors"][index]
        kind, count = np.dtype(COMPONENTS[accessor["componentType"]]), accessor["count"]
        if "sparse" in accessor or WIDTHS[accessor["type"]] != width:
            raise ValueError(f"accessor {index}: expected {width} plain numbers a Gaussian, got {accessor['type']}")
        view = self.json["bufferViews"][accessor["bufferView"]]
        data, start = self._view(accessor["bufferView"]), accessor.get("byteOffset", 0)
        stride = view.get("byteStride") or width * kind.itemsize
        if min(count, start) < 0 or stride <= 0 or (count and start + (count - 1) * stride + width * kind.itemsize > len(data)):
            raise ValueError(f"not a whole glTF file: accessor {index} reaches beyond its data; get a whole copy")
        values = np.ndarray((count, width), kind, data, start, (stride, kind.itemsize)).astype(np.float32)
        if accessor.get("normalized") and kind.kind in "iu":
            values = np.maximum(values / np.iinfo(kind).max, -1)
        return values

    def _view(self, index: int) -> memoryview:
        view = self.json["bufferViews"][index]
        if view.get("extensions"):
            raise ValueError(f"buffer with {', '.join(sorted(map(str, view['extensions'])))}; expected Gaussians without compression")
        data = self._buffer(view["buffer"])
        start, length = view.get("byteOffset", 0), view["byteLength"]
        if start < 0 or length < 0 or start + length > len(data):
            raise ValueError("not a whole glTF file: a buffer is shorter than announced; get a whole copy")
        return memoryview(data)[start : start + length]

    def _buffer(self, index: int) -> bytes:
        uri = self.json["buffers"][index].get("uri")
        if uri is None:
            if self.binary is None:
                raise ValueError("not a whole GLB: its binary chunk is missing; get a whole copy")
            return self.binary
        if uri.startswith("data:"):
            try:
                return base64.b64decode(uri.partition(",")[2], validate=True)
            except binascii.Error:
                raise ValueError("a buffer's data URI is not base64; get a whole copy") from None
        path = self.folder / urllib.parse.unquote(uri)
        if path.name != urllib.parse.unquote(uri) or not path.is_file():
            raise ValueError(f"{uri[:60]}: no such file beside it; put the glTF's buffers into its folder")
        return path.read_bytes()


def _matrix(node: dict) -> np.ndarray:
    """A node's transform [4,4]."""
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    x, y, z, w = np.array(node.get("rotation", (0, 0, 0, 1)), np.float64)
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_matrices(torch.from_numpy(unit_quaternions(np.array([[w, x, y, z]]))))[0].numpy() * np.array(
        node.get("scale", (1, 1, 1)), np.float64
    )
    matrix[:3, 3] = node.get("translation", (0, 0, 0))
    return matrix


def _placed(splats: RawSplats, matrix: np.ndarray) -> RawSplats:
    """The Gaussians under a node's matrix [4,4]. Raises ValueError for one that would shear or mirror them."""
    if np.array_equal(matrix, np.eye(4)):
        return splats
    if not np.isfinite(matrix).all():
        raise ValueError("a node's transform is not finite; get a whole copy")
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    scale = float(lengths.mean())
    turn = matrix[:3, :3] / (scale or 1)
    if not scale or np.abs(turn.T @ turn - np.eye(3)).max() > SHEAR or np.linalg.det(turn) < 0:
        raise ValueError("a node stretches or mirrors its Gaussians; apply its transform in the tool that wrote the file")
    splats = turned_raw(splats, turn)
    means = splats.means.astype(np.float64) * scale + matrix[:3, 3]
    return splats._replace(means=means.astype(np.float32), log_scales=splats.log_scales + np.float32(np.log(scale)))


# ---- Writing ----


def write_glb(path: Path, parameters: dict[str, np.ndarray]) -> None:
    """Write raw parameters (see `ply.write_ply`) as a GLB. COLOR_0 holds the base colours for programs that show plain points."""
    path.write_bytes(encoded(parameters))


def encoded(parameters: dict[str, np.ndarray]) -> bytes:
    """The bytes of `write_glb`."""
    means, opacities = parameters["means"], sigmoid(parameters["opacity_logits"])
    harmonics = np.concatenate([parameters["sh_dc"], parameters["sh_rest"]], axis=1)
    color = np.clip(base_colors(parameters["sh_dc"]), 0, 1)
    linear = srgb_to_linear(color)  # COLOR_0 is linear, as all of glTF's colours
    attributes: dict[str, np.ndarray] = {
        "POSITION": means,
        "COLOR_0": (np.concatenate([linear, opacities[:, None]], axis=1) * 255).round().astype(np.uint8),
        f"{EXTENSION}:ROTATION": unit_quaternions(parameters["quaternions"])[:, [1, 2, 3, 0]],
        f"{EXTENSION}:SCALE": np.exp(parameters["log_scales"]),
        f"{EXTENSION}:OPACITY": opacities[:, None],
        **{sh_name(index): harmonics[:, index] for index in range(harmonics.shape[1])},
    }
    blocks, views, accessors = [], [], []
    for name, values in attributes.items():
        is_byte = values.dtype == np.uint8
        block = np.ascontiguousarray(values, values.dtype if is_byte else "<f4").tobytes()
        accessor = {"bufferView": len(views), "count": len(values), "type": "SCALAR" if values.shape[1] == 1 else f"VEC{values.shape[1]}"}
        accessor |= {"componentType": UNSIGNED_BYTE, "normalized": True} if is_byte else {"componentType": FLOAT}
        if name == "POSITION":
            accessor |= {"min": means.min(0).tolist(), "max": means.max(0).tolist()}
        views.append({"buffer": 0, "byteOffset": sum(map(len, blocks)), "byteLength": len(block), "target": 34962})
        accessors.append(accessor)
        blocks.append(block)
    splatting = {"kernel": "ellipse", "colorSpace": "srgb_rec709_display", "sortingMethod": "cameraDistance", "projection": "perspective"}
    primitive = {
        "mode": POINTS,
        "attributes": {name: index for index, name in enumerate(attributes)},
        "extensions": {EXTENSION: splatting},
    }
    document = {
        "asset": {"version": "2.0", "generator": "MicroDreamerOptimized"},
        "extensionsUsed": [EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "buffers": [{"byteLength": sum(map(len, blocks))}],
        "bufferViews": views,
        "accessors": accessors,
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    binary = b"".join(blocks)
    binary += b"\0" * (-len(binary) % 4)
    chunks = struct.pack("<II", len(text), JSON_CHUNK) + text + struct.pack("<II", len(binary), BINARY_CHUNK) + binary
    return struct.pack("<III", MAGIC, 2, 12 + len(chunks)) + chunks
