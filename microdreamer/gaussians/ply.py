"""The PLY layout that 3D Gaussian splatting viewers read: one vertex per Gaussian, raw parameters, 32-bit floats."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from microdreamer.core.files import atomic_write

REST_COUNTS = {0: 0, 1: 9, 2: 24, 3: 45}  # f_rest properties by SH degree: 3 * ((degree + 1)^2 - 1)

FORMATS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "="}  # and numpy's byte order
TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4", "double": "f8"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8"},
}
MAX_HEADER_LINES, MAX_LINE = 10_000, 1000  # far beyond any real header; a foreign file is not read to its end


def _names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}_{index}" for index in range(count)]


def _columns(rest_count: int) -> list[str]:
    """All property names in file order."""
    head = ["x", "y", "z", "nx", "ny", "nz", *_names("f_dc", 3), *_names("f_rest", rest_count)]
    return [*head, "opacity", *_names("scale", 3), *_names("rot", 4)]


def write_ply(path: str | Path, parameters: dict[str, np.ndarray]) -> None:
    """Write raw parameters: means [N,3], sh_dc [N,1,3], sh_rest [N,K-1,3], opacity_logits [N], log_scales [N,3], quaternions [N,4].

    Binary little endian. Normals are zero; f_rest holds all coefficients of red, then of green, then of blue.
    """
    count, rest = len(parameters["means"]), parameters["sh_rest"]
    table = np.concatenate(
        [
            parameters["means"],
            np.zeros((count, 3), np.float32),
            parameters["sh_dc"][:, 0],
            rest.transpose(0, 2, 1).reshape(count, rest.shape[1] * 3),
            parameters["opacity_logits"][:, None],
            parameters["log_scales"],
            parameters["quaternions"],
        ],
        axis=1,
    ).astype("<f4")
    properties = [f"property float {name}" for name in _columns(rest.shape[1] * 3)]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {count}", *properties, "end_header", ""]
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        file.write("\n".join(header).encode("ascii"))
        file.write(table.tobytes())


@dataclass
class _Element:
    name: str
    count: int
    properties: dict[str, str] = field(default_factory=dict)  # name to numpy type; "list" for lists, whose size varies


def read_ply(path: str | Path) -> dict[str, np.ndarray]:
    """The raw parameters in `path`, as `write_ply` takes them; SH degree 0 to 3 by the number of f_rest properties.

    Binary or ascii, properties of any type in any order; those that mean nothing here are skipped. Raises
    FileNotFoundError, or ValueError in one line for a file that is not a whole PLY of Gaussians.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a PLY of Gaussians")
    try:
        with open(path, "rb") as file:
            vertices = _read_vertices(file)
    except ValueError as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error

    def gather(names: list[str]) -> np.ndarray:
        columns = [vertices[name].astype(np.float32) for name in names]
        return np.stack(columns, axis=1) if columns else np.zeros((len(vertices), 0), np.float32)

    rest_count = _rest_count(vertices.dtype.names)
    with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite and is refused below
        parameters = {
            "means": gather(["x", "y", "z"]),
            "sh_dc": gather(_names("f_dc", 3))[:, None],
            "sh_rest": gather(_names("f_rest", rest_count)).reshape(len(vertices), 3, rest_count // 3).transpose(0, 2, 1),
            "opacity_logits": gather(["opacity"])[:, 0],
            "log_scales": gather(_names("scale", 3)),
            "quaternions": gather(_names("rot", 4)),
        }
    for name, values in parameters.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{path}: {name} holds values that are not finite; the file is damaged")
    return {name: np.ascontiguousarray(values) for name, values in parameters.items()}


def _rest_count(names) -> int:
    return sum(name.startswith("f_rest_") for name in names)


def _read_vertices(file: BinaryIO) -> np.ndarray:
    """The element `vertex` of a PLY as a structured array [N]; ValueError unless it holds Gaussians."""
    byte_order, elements = _read_header(file)
    before = list(itertools.takewhile(lambda element: element.name != "vertex", elements))
    if len(before) == len(elements):
        raise ValueError("no element 'vertex'; expected a PLY of Gaussians")
    vertex = elements[len(before)]
    _check_properties(vertex)
    size = os.fstat(file.fileno()).st_size
    for element in [*before, vertex]:
        if element.count > size:
            raise ValueError(f"not a whole PLY file: {element.count} of '{element.name}' in {size} bytes; get a whole copy")
    row = np.dtype([(name, byte_order + kind) for name, kind in vertex.properties.items()])
    if byte_order == FORMATS["ascii"]:
        return _read_ascii(file, sum(element.count for element in before), vertex, row)

    for element in before:
        if "list" in element.properties.values():
            raise ValueError(f"lists in element '{element.name}' stand before the vertices; expected a PLY of Gaussians")
        file.seek(element.count * sum(np.dtype(kind).itemsize for kind in element.properties.values()), os.SEEK_CUR)
    there = max(0, size - file.tell())
    if there < vertex.count * row.itemsize:
        held = there // row.itemsize
        raise ValueError(f"not a whole PLY file: {vertex.count} vertices are announced and {held} are there; get a whole copy")
    return np.frombuffer(file.read(vertex.count * row.itemsize), row, count=vertex.count)


def _read_header(file: BinaryIO) -> tuple[str, list[_Element]]:
    """Numpy's byte order and the elements in file order; leaves `file` at the first byte of data."""
    if file.readline(MAX_LINE).rstrip() != b"ply":
        raise ValueError("not a PLY file; expected a PLY of Gaussians")
    byte_order, elements = None, []
    for _ in range(MAX_HEADER_LINES):
        line = file.readline(MAX_LINE)
        words = line.decode("ascii", "replace").split()
        match words:
            case ["end_header"] if byte_order is not None:
                return byte_order, elements
            case ["format", name, "1.0"] if name in FORMATS:
                byte_order = FORMATS[name]
            case ["element", name, count] if count.isdecimal():
                elements.append(_Element(name, int(count)))
            case ["property", kind, name] if kind in TYPES and elements and name not in elements[-1].properties:
                elements[-1].properties[name] = TYPES[kind]
            case ["property", "list", _, _, name] if elements:
                elements[-1].properties[name] = "list"
            case ["comment" | "obj_info", *_]:
                pass
            case _:
                break
    if not line.endswith(b"\n") and len(line) < MAX_LINE:
        raise ValueError("not a whole PLY file: the header has no end; get a whole copy")
    raise ValueError(f"not a PLY file this can read: header line {' '.join(words)[:60]!r}; save it as binary little endian 1.0")


def _check_properties(vertex: _Element) -> None:
    rest_count = _rest_count(vertex.properties)
    for name in [column for column in _columns(rest_count) if column not in ("nx", "ny", "nz")]:
        if name not in vertex.properties:
            raise ValueError(f"no vertex property '{name}'; expected a PLY of Gaussians, this looks like another kind")
    if rest_count not in REST_COUNTS.values():
        raise ValueError(f"{rest_count} properties f_rest_*; expected 0, 9, 24 or 45 (SH degree 0 to 3)")
    for name, kind in vertex.properties.items():
        if kind == "list":
            raise ValueError(f"vertex property '{name}' is a list; expected a PLY of Gaussians, this looks like another kind")


def _read_ascii(file: BinaryIO, skipped: int, vertex: _Element, row: np.dtype) -> np.ndarray:
    """One vertex a line, after `skipped` lines of other elements."""
    lines = list(itertools.islice(file, skipped, skipped + vertex.count))
    values = [line.split() for line in lines]
    if len(values) < vertex.count or any(len(words) != len(row) for words in values):
        raise ValueError(f"not a whole PLY file: expected {vertex.count} lines of {len(row)} numbers; get a whole copy")
    try:
        table = np.array(values, np.float64).reshape(vertex.count, len(row))
    except ValueError:
        raise ValueError("not a whole PLY file: expected numbers in every line of vertices; get a whole copy") from None
    vertices = np.empty(vertex.count, row)
    for name, column in zip(row.names, table.T, strict=True):
        vertices[name] = column
    return vertices
