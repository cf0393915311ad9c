"""The container of glTF 2.0 (binary or JSON): buffers, views, accessors and pictures as arrays.

Why not a package: those that follow the specification's structure (pygltflib) give the JSON as objects and leave the meaning of every
part (normalised and sparse accessors, colour spaces, skins, extensions) to the caller, and the one that gives meshes (trimesh) skips
some of it without a word. What is left to do is less code than either's use; the compressions, which are not, come from packages.
"""

from __future__ import annotations

import base64
import json
import struct
import urllib.parse
from pathlib import Path

import numpy as np

from microdreamer.meshes.formats import pictures

MAGIC = b"glTF"
_JSON_CHUNK, _BINARY_CHUNK = 0x4E4F534A, 0x004E4942
COMPONENTS = {5120: "i1", 5121: "u1", 5122: "i2", 5123: "u2", 5125: "u4", 5126: "f4"}
_SHAPES = {"SCALAR": (1, 1), "VEC2": (1, 2), "VEC3": (1, 3), "VEC4": (1, 4), "MAT2": (2, 2), "MAT3": (3, 3), "MAT4": (4, 4)}
MAX_COUNT, MAX_ZEROS = 200_000_000, 10_000_000  # elements of an accessor; of one without data
MESHOPT = ("EXT_meshopt_compression", "KHR_meshopt_compression")


class Document:
    """A glTF file. `json` is its structure; everything is read when it is asked for.

    Raises ValueError where the file is no glTF 2.0. Its methods raise ValueError, KeyError, IndexError or TypeError for a structure that
    is not as the specification has it, and ImportError where a package is missing.
    """

    def __init__(self, path: Path) -> None:
        self.folder = path.parent
        data = path.read_bytes()
        self._chunk: bytes | None = None
        self._buffers: dict[int, bytes] = {}
        self._views: dict[int, bytes] = {}
        text = self._unpacked(data) if data[:4] == MAGIC else data
        try:
            self.json = json.loads(text.decode("utf-8-sig"))
        except RecursionError:
            raise ValueError("its JSON is nested too deeply") from None
        except ValueError as error:
            raise ValueError(f"neither binary glTF nor JSON ({error})" if text is data else f"its JSON is damaged ({error})") from None
        if not isinstance(self.json, dict) or not isinstance(self.json.get("asset"), dict):
            raise ValueError("it has no 'asset', so it is no glTF")
        version = str(self.json["asset"].get("version"))
        if version.split(".")[0] != "2":
            raise ValueError(f"it is glTF {version}, expected 2.0; save it anew as glTF 2.0")

    def _unpacked(self, data: bytes) -> bytes:
        """The JSON of a binary file, whose other chunk is kept."""
        if len(data) < 20:
            raise ValueError("it is cut short")
        version, length = struct.unpack_from("<II", data, 4)
        if version != 2:
            raise ValueError(f"it is binary glTF {version}, expected 2; save it anew as glTF 2.0")
        if length > len(data):
            raise ValueError(f"it is cut short: {length} bytes are announced and {len(data)} are there")
        text, start = None, 12
        while start + 8 <= length:
            size, kind = struct.unpack_from("<II", data, start)
            chunk = data[start + 8 : start + 8 + size]
            if len(chunk) < size:
                raise ValueError("it is cut short: a chunk ends beyond the file")
            if kind == _JSON_CHUNK and text is None:
                text = chunk
            elif kind == _BINARY_CHUNK and self._chunk is None:
                self._chunk = chunk
            start += 8 + size + -size % 4
        if text is None:
            raise ValueError("it has no JSON")
        return text

    def item(self, kind: str, index: int) -> dict:
        """Object number `index` of the list `kind`."""
        items = self.json.get(kind, [])
        if not isinstance(index, int) or isinstance(index, bool) or not isinstance(items, list) or not 0 <= index < len(items):
            raise ValueError(f"it names {kind}[{index}], which is not there")
        if not isinstance(items[index], dict):
            raise ValueError(f"{kind}[{index}] is no object")
        return items[index]

    # ---- Bytes ----

    def from_uri(self, uri: str) -> bytes:
        """What a data URI holds, or the file of a relative one."""
        if uri.startswith("data:"):
            head, _, body = uri.partition(",")
            text = urllib.parse.unquote(body)
            return base64.b64decode(text) if head.endswith(";base64") else text.encode("latin-1", errors="replace")
        path = pictures.find_file(urllib.parse.unquote(uri), [self.folder]) or pictures.find_file(uri, [self.folder])
        if path is None:
            raise ValueError(f"{uri[:200]} is not there; restore it beside the mesh")
        return path.read_bytes()

    def buffer(self, index: int) -> bytes:
        if index not in self._buffers:
            found = self.item("buffers", index)
            if "uri" in found:
                self._buffers[index] = self.from_uri(found["uri"])
            elif index == 0 and self._chunk is not None:
                self._buffers[index] = self._chunk
            else:
                raise ValueError(f"buffers[{index}] has no data")
        return self._buffers[index]

    def _slice(self, place: dict) -> bytes:
        start, size = place.get("byteOffset", 0), place["byteLength"]
        data = self.buffer(place["buffer"])
        if start < 0 or size < 0 or start + size > len(data):
            raise ValueError(f"it is cut short: a view ends at byte {start + size} of a buffer of {len(data)}")
        return data[start : start + size]

    def view(self, index: int) -> bytes:
        """The bytes of a buffer view, decompressed."""
        if index not in self._views:
            view = self.item("bufferViews", index)
            packed = next((view["extensions"][name] for name in MESHOPT if name in view.get("extensions", {})), None)
            self._views[index] = self._slice(view) if packed is None else _from_meshopt(self._slice(packed), packed)
        return self._views[index]

    # ---- Arrays ----

    def accessor(self, index: int) -> np.ndarray:
        """The elements [N,K] of an accessor: floats of what is normalised, else the numbers as they are stored; matrices row by row."""
        accessor = self.item("accessors", index)
        kind, shape = np.dtype("<" + COMPONENTS[accessor["componentType"]]), _SHAPES[accessor["type"]]
        count = accessor["count"]
        if not 0 <= count <= MAX_COUNT:
            raise ValueError(f"accessors[{index}] has {count} elements")
        if "bufferView" in accessor:
            values = self._elements(accessor["bufferView"], accessor.get("byteOffset", 0), kind, shape, count)
        else:  # the specification's zeros
            if count > MAX_ZEROS:
                raise ValueError(f"accessors[{index}] has {count} elements without data")
            values = np.zeros((count, shape[0] * shape[1]), kind)
        if "sparse" in accessor:
            values = self._changed(values, accessor["sparse"], kind, shape)
        return normalised(values) if accessor.get("normalized") else values

    def _changed(self, values: np.ndarray, sparse: dict, kind: np.dtype, shape: tuple[int, int]) -> np.ndarray:
        places, changes, count = sparse["indices"], sparse["values"], sparse["count"]
        index_kind = np.dtype("<" + COMPONENTS[places["componentType"]])
        rows = self._elements(places["bufferView"], places.get("byteOffset", 0), index_kind, (1, 1), count)[:, 0]
        values = values.copy()
        values[rows.astype(np.int64)] = self._elements(changes["bufferView"], changes.get("byteOffset", 0), kind, shape, count)
        return values

    def _elements(self, view: int, offset: int, kind: np.dtype, shape: tuple[int, int], count: int) -> np.ndarray:
        """`count` elements of a view from byte `offset` on, [count,K]. Columns of matrices start at multiples of four bytes."""
        data = self.view(view)
        columns, rows = shape
        column_size = rows * kind.itemsize
        if columns > 1:
            column_size += -column_size % 4
        size = (columns - 1) * column_size + rows * kind.itemsize
        stride = self.item("bufferViews", view).get("byteStride") or (columns * column_size if columns > 1 else size)
        if offset < 0 or stride < 1 or count < 0 or (count and offset + (count - 1) * stride + size > len(data)):
            raise ValueError(f"it is cut short: {count} elements are announced in a view of {len(data)} bytes")
        if count == 0:
            return np.zeros((0, columns * rows), kind)
        strides = (stride, column_size, kind.itemsize)
        values = np.ndarray((count, columns, rows), kind, data, offset, strides)
        return np.ascontiguousarray(values.transpose(0, 2, 1) if columns > 1 else values).reshape(count, -1)

    def picture(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """`pictures.decoded` of a picture of the file."""
        image = self.item("images", index)
        name = image.get("name") or (image["uri"] if "uri" in image and not image["uri"].startswith("data:") else f"images[{index}]")
        data = self.view(image["bufferView"]) if "bufferView" in image else self.from_uri(image["uri"])
        try:
            return pictures.decoded(data)
        except (ValueError, ImportError) as error:
            raise type(error)(f"its texture {str(name)[:200]} cannot be read: {error}") from error


def normalised(values: np.ndarray) -> np.ndarray:
    """Integers of full scale as floats in [0,1] or [-1,1]; floats as they are."""
    if values.dtype.kind == "f":
        return values
    return np.maximum(values / np.float64(np.iinfo(values.dtype).max), -1)


def _from_meshopt(data: bytes, packed: dict) -> bytes:
    try:
        import meshopt
    except ImportError:
        raise ImportError("it is compressed with meshopt, which takes a package: pip install meshopt (Python 3.11 or newer)") from None
    count, stride = packed["count"], packed["byteStride"]
    if not 0 <= count <= MAX_COUNT or not 0 < stride <= 256:
        raise ValueError(f"a compressed view has {count} elements of {stride} bytes")
    try:
        return np.ascontiguousarray(meshopt.decode_gltf_buffer(data, count, stride, packed["mode"], packed.get("filter"))).tobytes()
    except Exception as error:
        raise ValueError(f"a view compressed with meshopt cannot be read ({' '.join(str(error).split())})") from error
