"""Polygon meshes in PLY files as a `Surface`, with colours of vertices or faces, or textured as MeshLab and others write them.

Rows whose lists are all of the same lengths, as nearly always, are read in one go.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from microdreamer.images.colour import srgb_to_linear, unit_range
from microdreamer.meshes.formats import pictures
from microdreamer.meshes.formats.mtl import lines_of
from microdreamer.meshes.formats.polygons import triangulated
from microdreamer.meshes.surface import Material, Surface, Texture

FORMATS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "="}  # and numpy's byte order
TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4", "double": "f8"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8"},
}
MAX_HEADER = 10_000_000  # bytes
_COLORS = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"))
_UVS = (("s", "t"), ("u", "v"), ("texture_u", "texture_v"), ("texture_s", "texture_t"), ("texcoord_u", "texcoord_v"), ("tx", "ty"))
_CORNERS = ("vertex_indices", "vertex_index", "vertices")


@dataclasses.dataclass
class _Property:
    name: str
    kind: str
    count_kind: str | None = None  # of a list's length; None for a single number


@dataclasses.dataclass
class _Element:
    name: str
    count: int
    properties: list[_Property] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class _Lists:
    """A list of numbers in every row: values [T], of which row k has counts[k] from starts[k] on."""

    values: np.ndarray
    starts: np.ndarray
    counts: np.ndarray


Column = np.ndarray | _Lists


def read_ply(path: Path) -> Surface:
    """Raises ValueError for what is no whole PLY, and for a texture that is not there."""
    data = path.read_bytes()
    byte_order, elements, textures, start = _header(data)
    columns = _read_ascii(data[start:], elements) if byte_order == FORMATS["ascii"] else _read_binary(data, start, elements, byte_order)
    vertex, face = columns.get("vertex", {}), columns.get("face", {})
    if not all(isinstance(vertex.get(axis), np.ndarray) for axis in "xyz"):
        raise ValueError("it has no vertices with x, y and z")
    positions = np.stack([vertex[axis] for axis in "xyz"], axis=1).astype(np.float64)
    corners = next((face[name] for name in _CORNERS if isinstance(face.get(name), _Lists)), None)
    if corners is None:
        corners = _strips(columns.get("tristrips", {}))
    if corners is None or not len(corners.counts):
        hint = "; of Gaussians, pass it as --from-splats" if "f_dc_0" in vertex else "; of points, make a surface of them first (MeshLab)"
        raise ValueError(f"expected a mesh, found no triangles{hint}")
    indices = corners.values.astype(np.int64)
    if len(indices) and (indices.min() < 0 or indices.max() >= len(positions)):
        raise ValueError(f"a face names vertex {indices.min() if indices.min() < 0 else indices.max()} of {len(positions)}")
    triangles, owners = triangulated(corners.starts, corners.counts, positions[indices])
    faces = indices[triangles]
    shown, uvs = _textured(path, textures, vertex, face, corners, triangles, owners, faces)
    if shown is not None:
        return _by_texture(positions, faces, uvs, *shown)
    colors = _colors(vertex)
    if colors is not None:
        return Surface.plain(positions, faces, colors=srgb_to_linear(colors[faces]))
    colors = _colors(face)
    if colors is not None:
        return Surface.plain(positions, faces, colors=srgb_to_linear(colors[owners])[:, None].repeat(3, axis=1))
    return Surface.plain(positions, faces)


# ---- The file ----


def _header(data: bytes) -> tuple[str, list[_Element], list[str], int]:
    """Byte order, elements, names of textures, and where the body starts."""
    if not data.startswith(b"ply"):
        raise ValueError("it does not start as a PLY file does")
    end = data.find(b"end_header", 0, MAX_HEADER)
    if end < 0:
        raise ValueError("it is cut short: its header does not end")
    text = data[:end].decode("utf-8", errors="replace")
    start = data.find(b"\n", end) + 1 or data.find(b"\r", end) + 1  # old Macintosh files
    if text[3:4] == "\r" and text[4:5] != "\n":
        start = data.find(b"\r", end) + 1
    if not start:
        raise ValueError("it is cut short after its header")
    byte_order, elements, textures = "", [], []
    for line in lines_of(text)[1:]:
        words = line.split()
        match words:
            case ["format", kind, *_] if kind in FORMATS:
                byte_order = FORMATS[kind]
            case ["comment" | "obj_info", "TextureFile", *_]:
                textures.append(line.split(maxsplit=2)[2].strip() if len(words) > 2 else "")
            case ["comment" | "obj_info", *_] | []:
                pass
            case ["element", name, count] if count.isdecimal():
                elements.append(_Element(name, int(count)))
            case ["property", "list", count_kind, kind, name] if elements and {count_kind, kind} <= TYPES.keys():
                elements[-1].properties.append(_Property(name, TYPES[kind], TYPES[count_kind]))
            case ["property", kind, name] if elements and kind in TYPES:
                elements[-1].properties.append(_Property(name, TYPES[kind]))
            case _:
                raise ValueError(f"a line of its header is not understood: '{line.strip()[:60]}'")
    if not byte_order:
        raise ValueError("its header names no format that is known")
    if any(element.count > len(data) for element in elements):
        raise ValueError("it is cut short: more rows are announced than it has bytes")
    return byte_order, elements, textures, start


def _read_binary(data: bytes, start: int, elements: list[_Element], byte_order: str) -> dict[str, dict[str, Column]]:
    found = {}
    for element in elements:
        columns, start = _binary_element(data, start, element, byte_order)
        found.setdefault(element.name, columns)
    return found


def _binary_element(data: bytes, start: int, element: _Element, order: str) -> tuple[dict[str, Column], int]:
    if element.count == 0 or not element.properties:
        return {}, start
    lengths, _ = _list_lengths(data, start, element, order)
    fields = []
    for place, found in enumerate(element.properties):
        if found.count_kind:
            fields.append((f"count {place}", order + found.count_kind))
        fields.append((f"value {place}", order + found.kind, (lengths.get(place, 1),)))
    row = np.dtype(fields)
    if start + element.count * row.itemsize <= len(data):
        rows = np.frombuffer(data, row, element.count, start)
        if all((rows[f"count {place}"] == length).all() for place, length in lengths.items()):
            columns = {}
            for place, found in enumerate(element.properties):
                values = rows[f"value {place}"]
                columns[found.name] = _even(values) if found.count_kind else values[:, 0]
            return columns, start + element.count * row.itemsize
    return _uneven_element(data, start, element, order)


def _even(values: np.ndarray) -> _Lists:
    rows, length = values.shape
    return _Lists(values.reshape(-1), np.arange(rows) * length, np.full(rows, length))


def _list_lengths(data: bytes, start: int, element: _Element, order: str) -> tuple[dict[int, int], int]:
    """The lengths of the first row's lists by their property's place, and where the row ends."""
    lengths = {}
    for place, found in enumerate(element.properties):
        size, count = np.dtype(found.kind).itemsize, 1
        if found.count_kind:
            count = lengths[place] = _one(data, start, order + found.count_kind)
            start += np.dtype(found.count_kind).itemsize
        start += count * size
        if count < 0 or start > len(data):
            raise ValueError(f"it is cut short within its {element.name[:40]}")
    return lengths, start


def _one(data: bytes, start: int, kind: str) -> int:
    values = np.frombuffer(data[start : start + np.dtype(kind).itemsize], kind)
    if len(values) != 1:
        raise ValueError("it is cut short")
    return int(values[0])


def _uneven_element(data: bytes, start: int, element: _Element, order: str) -> tuple[dict[str, Column], int]:
    """Row by row, as lists differ in length."""
    places: list[list[tuple[int, int]]] = [[] for _ in element.properties]  # where values start, and how many
    for _ in range(element.count):
        lengths, end = _list_lengths(data, start, element, order)
        for place, found in enumerate(element.properties):
            if found.count_kind:
                start += np.dtype(found.count_kind).itemsize
            count = lengths.get(place, 1)
            places[place].append((start, count))
            start += count * np.dtype(found.kind).itemsize
        start = end
    columns: dict[str, Column] = {}
    for found, rows in zip(element.properties, places, strict=True):
        size = np.dtype(found.kind).itemsize
        values = np.frombuffer(b"".join(data[begin : begin + count * size] for begin, count in rows), order + found.kind)
        counts = np.array([count for _, count in rows], np.int64)
        columns[found.name] = _Lists(values, np.cumsum(counts) - counts, counts) if found.count_kind else values
    return columns, start


def _read_ascii(body: bytes, elements: list[_Element]) -> dict[str, dict[str, Column]]:
    try:
        numbers = np.array(body.split(), np.float64)
    except ValueError:
        raise ValueError("expected numbers after its header, got something else") from None
    found, start = {}, 0
    for element in elements:
        columns, start = _ascii_element(numbers, start, element)
        found.setdefault(element.name, columns)
    return found


def _ascii_element(numbers: np.ndarray, start: int, element: _Element) -> tuple[dict[str, Column], int]:
    width = len(element.properties)
    if element.count == 0 or not width:
        return {}, start
    if not any(found.count_kind for found in element.properties):
        end = start + element.count * width
        if end > len(numbers):
            raise ValueError(f"it is cut short within its {element.name[:40]}")
        table = numbers[start:end].reshape(element.count, width)
        return {found.name: _typed(table[:, place], found.kind) for place, found in enumerate(element.properties)}, end
    values: list[list[np.ndarray]] = [[] for _ in element.properties]
    for _ in range(element.count):
        for place, found in enumerate(element.properties):
            count = 1
            if found.count_kind:
                length = numbers[start] if start < len(numbers) else -1
                if not (0 <= length <= len(numbers) and length == int(length)):
                    raise ValueError(f"it is cut short within its {element.name[:40]}")
                count, start = int(length), start + 1
            if start + count > len(numbers):
                raise ValueError(f"it is cut short within its {element.name[:40]}")
            values[place].append(numbers[start : start + count])
            start += count
    columns: dict[str, Column] = {}
    for found, rows in zip(element.properties, values, strict=True):
        counts = np.array([len(row) for row in rows], np.int64)
        joined = np.concatenate(rows)
        if found.count_kind and not np.isfinite(joined).all() and found.name in _CORNERS:
            raise ValueError("a face names a vertex that is no number")
        columns[found.name] = _Lists(joined, np.cumsum(counts) - counts, counts) if found.count_kind else _typed(joined, found.kind)
    return columns, start


def _typed(values: np.ndarray, kind: str) -> np.ndarray:
    """Numbers of a text in the type that its header gives them, where they fit."""
    if np.dtype(kind).kind == "f":
        return values
    limits = np.iinfo(kind)
    return values.astype(kind) if ((values >= limits.min) & (values <= limits.max)).all() else values


# ---- What it means ----


def _strips(element: dict[str, Column]) -> _Lists | None:
    """Triangles of strips that are set apart by -1, as old scanners wrote them."""
    strips = next((element[name] for name in _CORNERS if isinstance(element.get(name), _Lists)), None)
    if strips is None:
        return None
    triangles = [np.zeros((0, 3), np.int64)]
    for begin, count in zip(strips.starts, strips.counts, strict=True):
        strip = strips.values[begin : begin + count].astype(np.int64)
        for part in np.split(strip, np.flatnonzero(strip < 0)):
            part = part[part >= 0]
            step = np.arange(max(0, len(part) - 2))
            triangles.append(part[np.stack([step, step + 1 + step % 2, step + 2 - step % 2], axis=1)])
    return _even(np.concatenate(triangles))


def _colors(element: dict[str, Column]) -> np.ndarray | None:
    """sRGB [R,3] in [0,1] of rows that have colours: floats up to 1 or 255, or integers, of which wide ones may hold bytes."""
    for names in _COLORS:
        if all(isinstance(element.get(name), np.ndarray) for name in names):
            values = np.stack([element[name] for name in names], axis=1)
            if values.dtype.kind == "f":
                return unit_range(values)
            if values.dtype == np.int8:
                values = values.view(np.uint8)
            full = [scale for scale in (255, 65535) if values.max(initial=0) <= scale] or [np.iinfo(values.dtype).max]
            return (values / float(full[0])).clip(0, 1)
    return None


def _textured(path, textures, vertex, face, corners: _Lists, triangles, owners, faces):
    """((textures, the number of each triangle's), its coordinates [T,3,2]), or (None, None) for a mesh without."""
    if not textures:
        return None, None
    wedges = face.get("texcoord")
    pair = next((names for names in _UVS if all(isinstance(vertex.get(name), np.ndarray) for name in names)), None)
    if isinstance(wedges, _Lists) and (wedges.counts == 2 * corners.counts).all():
        within = triangles - corners.starts[owners][:, None]
        first = wedges.starts[owners][:, None] + 2 * within
        uvs = np.stack([wedges.values[first], wedges.values[first + 1]], axis=-1)
    elif pair is not None:
        uvs = np.stack([vertex[name] for name in pair], axis=1)[faces]
    else:
        return None, None
    numbers = face.get("texnumber")
    number = numbers[owners].astype(int).clip(0, len(textures) - 1) if isinstance(numbers, np.ndarray) else np.zeros(len(faces), int)
    shown = []
    for name in textures:
        found = pictures.find_file(name, [path.parent])
        if found is None:
            raise ValueError(f"its texture {name[:200]} is not there; restore it or remove the line that names it (comment TextureFile)")
        try:
            shown.append(Texture(*pictures.decoded(found.read_bytes())))
        except ValueError as error:
            raise ValueError(f"its texture {name[:200]} is no picture that can be read ({error}); restore it") from error
    return (shown, number), uvs.astype(np.float64)


def _by_texture(positions: np.ndarray, faces: np.ndarray, uvs: np.ndarray, textures: list[Texture], number: np.ndarray) -> Surface:
    surface = Surface.plain(positions, faces, uvs=uvs)
    surface.materials, surface.material = [Material(texture=texture) for texture in textures], number
    return surface
