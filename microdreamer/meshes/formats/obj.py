"""Wavefront OBJ files as a `Surface`: polygons of any shape, materials, and colours of vertices as several programs write them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from microdreamer.images.colour import srgb_to_linear, unit_range
from microdreamer.meshes.formats import mtl, pictures
from microdreamer.meshes.formats.polygons import triangulated
from microdreamer.meshes.surface import Material, Surface

_BOMS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_POLYPAINT = "#MRGB"  # ZBrush: eight hexadecimal digits a vertex, of which the first two are a mask


@dataclasses.dataclass
class _Lines:
    """The lines of a file by what they say, without the keyword."""

    vertices: list[str] = dataclasses.field(default_factory=list)
    uvs: list[str] = dataclasses.field(default_factory=list)
    faces: list[str] = dataclasses.field(default_factory=list)
    counts: dict[int, tuple[int, int]] = dataclasses.field(default_factory=dict)  # v and vt so far, where a face counts backwards
    materials: list[int] = dataclasses.field(default_factory=list)  # of each face, a number of `names`
    names: list[str] = dataclasses.field(default_factory=lambda: [""])
    libraries: list[str] = dataclasses.field(default_factory=list)
    polypaint: list[str] = dataclasses.field(default_factory=list)


def decoded(data: bytes) -> str:
    """The text of a file that may say how it is encoded; UTF-8, else Latin-1."""
    for mark, encoding in _BOMS.items():
        if data.startswith(mark):
            return data.decode(encoding, errors="replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def read_obj(path: Path) -> Surface:
    """Raises ValueError for lines that cannot be understood, corners that do not exist, and textures that are not there."""
    lines = _sorted(decoded(path.read_bytes()))
    notes: list[str] = []
    known = _materials(path, lines, notes)
    positions, colors = _vertices(lines)
    corners, starts, counts = _corners(lines, len(positions), len(lines.uvs))
    if not len(counts):
        return Surface.plain(positions, np.zeros((0, 3)))
    triangles, owners = triangulated(starts, counts, positions[corners[:, 0]])
    if not len(triangles):
        return Surface.plain(positions, np.zeros((0, 3)))
    uvs = _table(lines.uvs, 1, 2, 0.0)
    uv_corners = corners[:, 1][triangles]
    has_uvs = (uv_corners >= 0).all(axis=1)
    face_uvs = np.zeros((len(triangles), 3, 2))
    face_uvs[has_uvs] = uvs[uv_corners[has_uvs]]
    faces = corners[:, 0][triangles]
    wanted = np.array(lines.materials)[owners]
    surface = Surface.plain(positions, faces, uvs=face_uvs)
    surface.materials, surface.material = [], np.zeros(len(faces), int)
    for number in np.unique(wanted):
        own = wanted == number
        material = known.get(lines.names[number]) or mtl.ObjMaterial(Material(stated=False))
        surface.uvs[own, :, :2] = surface.uvs[own, :, :2] * material.scale + material.offset
        for textured in np.unique(has_uvs[own]):
            shown = material.shown if textured else dataclasses.replace(material.shown, texture=None)
            surface.material[own & (has_uvs == textured)] = len(surface.materials)
            surface.materials.append(shown)
    if colors is not None:
        _paint(surface, colors[faces])
    surface.notes = notes
    return surface


def _paint(surface: Surface, colors: np.ndarray) -> None:
    """Give faces without texture the sRGB colours [F,3,3] of their corners; these are what is meant, not the material's colour."""
    plain = np.array([material.texture is None for material in surface.materials])[surface.material]
    surface.colors[plain, :, :3] = srgb_to_linear(colors[plain])
    surface.materials = [m if m.texture is not None else Material(emission=m.emission, cutoff=m.cutoff) for m in surface.materials]


def _sorted(text: str) -> _Lines:
    lines, number, names = _Lines(), 0, {"": 0}
    for line in mtl.lines_of(text.replace("\\\r\n", " ").replace("\\\n", " ")):
        key, _, rest = line.replace("\t", " ").lstrip().partition(" ")
        if key == "v":
            lines.vertices.append(rest)
        elif key == "f":
            if "-" in rest:
                lines.counts[len(lines.faces)] = (len(lines.vertices), len(lines.uvs))
            lines.faces.append(rest.partition("#")[0])
            lines.materials.append(number)
        elif key == "vt":
            lines.uvs.append(rest)
        elif key.lower() == "usemtl":
            name = rest.strip()
            if (number := names.setdefault(name, len(names))) == len(lines.names):
                lines.names.append(name)
        elif key.lower() == "mtllib" and rest.strip():
            lines.libraries.append(rest.strip())
        elif key == _POLYPAINT:
            lines.polypaint.append(rest.strip())
    return lines


def _table(rows: list[str], least: int, width: int, default: float) -> np.ndarray:
    """The first `width` numbers of each row, [R,width] float64; `default` where a row of at least `least` has fewer."""
    if not rows:
        return np.zeros((0, width))
    try:
        whole = np.array(" ".join(rows).split(), np.float64)
        per_row = {len(row.split()) for row in rows}
        if len(per_row) == 1 and min(per_row) >= width:
            return whole.reshape(len(rows), -1)[:, :width]
    except ValueError:
        pass  # one of the rows: find and name it
    table = np.full((len(rows), width), default)
    for number, row in enumerate(rows):
        try:
            values = [float(word) for word in row.partition("#")[0].split()[:width]]
        except ValueError:
            raise ValueError(f"expected numbers, got '{row.strip()[:60]}'") from None
        if len(values) < least:
            raise ValueError(f"expected {least} numbers or more, got '{row.strip()[:60]}'")
        table[number, : len(values)] = values
    return table


def _vertices(lines: _Lines) -> tuple[np.ndarray, np.ndarray | None]:
    """Positions [V,3], and sRGB colours [V,3] in [0,1] where the file has them: after x y z, or as polypaint."""
    if max((len(row.partition("#")[0].split()) for row in lines.vertices), default=0) >= 6:
        table = _table(lines.vertices, 3, 6, np.nan)
        positions, colors = table[:, :3], table[:, 3:]
        without = np.isnan(colors).any(axis=1)
        colors = unit_range(colors)
        colors[without] = 1
    else:
        positions, colors = _table(lines.vertices, 3, 3, 0.0), _polypaint(lines)
    if colors is not None and (colors == 1).all():
        colors = None  # white all over says nothing, while the material may
    return positions, colors


def _polypaint(lines: _Lines) -> np.ndarray | None:
    text = "".join(lines.polypaint)
    if not text or len(text) < 8 * len(lines.vertices):
        return None
    try:
        values = np.frombuffer(bytes.fromhex(text[: 8 * len(lines.vertices)]), np.uint8)
    except ValueError:
        return None
    return values.reshape(-1, 4)[:, 1:] / 255


def _corners(lines: _Lines, vertex_count: int, uv_count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of `v` and `vt` [C,2] (-1 for none) of all corners, and where each face's corners start and how many there are."""
    sizes = [len(face.split()) for face in lines.faces]
    counts = np.array(sizes, np.int64)
    starts = np.cumsum(counts) - counts
    numbers = np.zeros((int(counts.sum()), 2), np.int64)  # as they stand, from 1; 0 for none
    alike: dict[tuple[int, int, bool], list[int]] = {}
    for number, face in enumerate(lines.faces):
        alike.setdefault((sizes[number], face.count("/"), "//" in face), []).append(number)
    for (size, slashes, doubled), faces in alike.items():
        rows = starts[faces][:, None] + np.arange(size)
        kinds = slashes // max(size, 1) + 1 - doubled  # numbers a corner
        try:
            values = np.array(" ".join(lines.faces[face] for face in faces).replace("/", " ").split(), np.int64)
            values = values.reshape(len(faces), size, kinds)
            numbers[rows, 0] = values[..., 0]
            if kinds > 1 and not doubled:
                numbers[rows, 1] = values[..., 1]
        except (ValueError, OverflowError):  # corners of different kinds in one face, or none
            numbers[rows] = np.array([[_corner(word) for word in lines.faces[face].split()] for face in faces]).reshape(*rows.shape, 2)
    for face, so_far in lines.counts.items():
        own = numbers[starts[face] : starts[face] + counts[face]]
        own[...] = np.where(own < 0, np.where(own + so_far >= 0, own + so_far + 1, own), own)
    for column, (name, count) in enumerate((("v", vertex_count), ("vt", uv_count))):
        wrong = (numbers[:, column] > count) | (numbers[:, column] < 1 - column)
        if wrong.any():
            raise ValueError(f"a face names {name} {int(numbers[wrong, column][0])}, of which there are {count}")
    return numbers - 1, starts, counts


def _corner(word: str) -> tuple[int, int]:
    """The numbers of v and vt in `v`, `v/vt`, `v//vn` or `v/vt/vn`, 0 for none."""
    parts = word.split("/")
    try:
        found = [int(part) if part else 0 for part in (parts[0], parts[1] if len(parts) > 1 else "")]
        return tuple(np.array(found, np.int64))
    except (ValueError, OverflowError):
        raise ValueError(f"expected a corner of a face, got '{word[:60]}'") from None


def _materials(path: Path, lines: _Lines, notes: list[str]) -> dict[str, mtl.ObjMaterial]:
    """The materials by the names that faces call them. What is not there is noted: a mesh without its materials is still a mesh."""
    known: dict[str, mtl.ObjMaterial] = {}
    read_any = False
    used = {lines.names[number] for number in lines.materials}
    for statement in lines.libraries:
        whole = pictures.find_file(statement, [path.parent])
        for name in [statement] if whole else statement.split():
            library = whole or pictures.find_file(name, [path.parent])
            if library is None:
                notes.append(f"its materials {name[:200]} are not there; colours and textures are left out")
                continue
            text = decoded(library.read_bytes())
            found = mtl.read_mtl(text, list(dict.fromkeys([library.parent, path.parent])), used)
            known = {**found, **known}
            read_any = True
    missing = sorted(name for name in used - {""} if name not in known)
    if missing and read_any:
        notes.append(f"no material is called {', '.join(name[:60] for name in missing[:5])}; its faces are without colour")
    return known
