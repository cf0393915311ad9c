"""The PLY container: elements of named properties, binary or ascii, without lists.

Not by `plyfile`: that is licensed under the GPL, which this package does not depend on. Nor is it needed: 262 144 Gaussians of
62 properties are read in about the same time (docs/splats.md).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

BYTE_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "="}
TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4", "double": "f8"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8"},
}
MAX_HEADER = 1 << 24  # bytes, far beyond any real header: a foreign file is not read to its end
SHORT_LINE = 1000  # a last line without an end that is longer is no header that was cut off


@dataclass
class Element:
    """An element of the header: how many, and the numpy type of each property by name; "list" for lists, whose size varies."""

    name: str
    count: int
    properties: dict[str, str] = field(default_factory=dict)

    @property
    def has_lists(self) -> bool:
        return "list" in self.properties.values()


@dataclass
class Header:
    byte_order: str  # numpy's; "=" for ascii
    elements: list[Element]
    comments: list[str]

    def named(self, name: str) -> Element | None:
        return next((element for element in self.elements if element.name == name), None)


def read_header(file: BinaryIO) -> Header:
    """The header of a PLY; leaves `file` at the first byte of data. Raises ValueError for what is none."""
    if file.readline(SHORT_LINE).rstrip() != b"ply":
        raise ValueError("not a PLY file; expected a PLY of Gaussians")
    header = Header("", [], [])
    elements, line, words = header.elements, b"\n", []
    while file.tell() < MAX_HEADER:
        line = file.readline(MAX_HEADER)
        words = line.decode("utf-8", "replace").split()
        match words:
            case ["end_header"] if header.byte_order:
                return header
            case ["format", name, "1.0"] if name in BYTE_ORDERS:
                header.byte_order = BYTE_ORDERS[name]
            case ["element", name, count] if count.isascii() and count.isdecimal():
                elements.append(Element(name, int(count)))
            case ["property", kind, name] if kind in TYPES and elements and name not in elements[-1].properties:
                elements[-1].properties[name] = TYPES[kind]
            case ["property", "list", _, _, name] if elements:
                elements[-1].properties[name] = "list"
            case ["comment" | "obj_info", *rest]:
                header.comments.append(" ".join(rest))
            case _:
                break
    if not line.endswith(b"\n") and len(line) < SHORT_LINE:
        raise ValueError("not a whole PLY file: the header has no end; get a whole copy")
    raise ValueError(f"not a PLY file this can read: header line {' '.join(words)[:60]!r}; save it as binary little endian 1.0")


def read_elements(file: BinaryIO, header: Header, names: Sequence[str]) -> list[np.ndarray]:
    """The elements called `names`, which the header has, as structured arrays, from a `file` at the first byte of data.

    Raises ValueError where there are fewer than announced, or lists stand before them.
    """
    size = os.fstat(file.fileno()).st_size
    last = max(index for index, element in enumerate(header.elements) if element.name in names)
    wanted = header.elements[: last + 1]
    for element in wanted:
        if element.count > size:
            raise ValueError(f"not a whole PLY file: {element.count} of '{element.name}' in {size} bytes; get a whole copy")
    lines = iter(file) if header.byte_order == "=" else None
    found = {}
    for element in wanted:
        if element.name not in names and lines is not None:
            next(itertools.islice(lines, element.count, element.count), None)
            continue
        if element.has_lists:
            raise ValueError(f"element '{element.name}' holds lists; expected a PLY of Gaussians, this looks like another kind")
        row = np.dtype([(name, header.byte_order + kind) for name, kind in element.properties.items()])
        table = _binary(file, element, row, size) if lines is None else _ascii(lines, element, row)
        found.setdefault(element.name, table)
    return [found[name] for name in names]


def _binary(file: BinaryIO, element: Element, row: np.dtype, size: int) -> np.ndarray:
    there = max(0, size - file.tell())
    if there < element.count * row.itemsize:
        kind = "vertices" if element.name == "vertex" else f"of '{element.name}'"
        raise ValueError(
            f"not a whole PLY file: {element.count} {kind} are announced and {there // row.itemsize} are there; get a whole copy"
        )
    return np.frombuffer(file.read(element.count * row.itemsize), row, count=element.count)


def _ascii(lines: Iterator[bytes], element: Element, row: np.dtype) -> np.ndarray:
    """One element a line."""
    try:
        numbers = (
            np.loadtxt(itertools.islice(lines, element.count), np.float64, comments=None, ndmin=2) if element.count else np.empty((0, 0))
        )
    except (ValueError, UnicodeDecodeError):
        numbers = np.empty((0, 0))
    if numbers.shape != (element.count, len(row)) and element.count:
        raise ValueError(f"not a whole PLY file: expected {element.count} lines of {len(row)} numbers; get a whole copy")
    table = np.empty(element.count, row)
    for name, column in zip(row.names, numbers.T, strict=bool(element.count)):
        if row[name].kind in "iu":
            limits = np.iinfo(row[name])
            column = np.clip(np.nan_to_num(column), limits.min, limits.max)
        with np.errstate(over="ignore"):
            table[name] = column
    return table


def gathered(table: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Columns of a structured array [N] as float32 [N, len(names)]. Values beyond float32 become infinite."""
    kinds = {table.dtype[name] for name in table.dtype.names}
    if len(table) and len(kinds) == 1:  # one type throughout, as nearly always: a matrix, whose rows are read one after the other
        places = [table.dtype.names.index(name) for name in names]
        matrix = table.view(kinds.pop()).reshape(len(table), len(table.dtype))
        run = slice(places[0], places[-1] + 1) if places and places == list(range(places[0], places[-1] + 1)) else places
        with np.errstate(over="ignore"):
            return matrix[:, run].astype(np.float32)
    with np.errstate(over="ignore"):
        columns = np.empty((len(table), len(names)), np.float32)
        for index, name in enumerate(names):
            columns[:, index] = table[name]
    return columns
