"""Many small coloured meshes in a few tensors, as files of packed arrays and as the renderer takes them."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from microdreamer.core.files import atomic_write
from microdreamer.shapes import FACE_LIMIT
from microdreamer.shapes.mesh_files import SUFFIXES, read_mesh

# name in the file -> (attribute, dtype, shape after the first axis)
_ARRAYS = {
    "vertices": ("vertices", np.float32, (3,)),
    "faces": ("faces", np.int32, (3,)),
    "colors": ("corner_colors", np.uint8, (3, 3)),
    "normals": ("corner_normals", np.int8, (3, 3)),
    "vertex_offset": ("vertex_offset", np.int64, ()),
    "face_offset": ("face_offset", np.int64, ()),
}
TENSORS = tuple(attribute for attribute, _, _ in _ARRAYS.values())


@dataclasses.dataclass(frozen=True)
class PackedMeshes:
    """M meshes, one after another. Mesh i has the vertices and faces between its two offsets.

    vertices [V,3] float32 (+Y up, front +Z, bounding box centred on the origin, farthest vertex at 0.8); faces [F,3]
    int32, vertex numbers **within the mesh**; corner_colors [F,3,3] uint8, sRGB albedo of each corner; corner_normals
    [F,3,3] int8, times 127; vertex_offset, face_offset [M+1] int64; ids: M names; captions: M lists of sentences, the
    plain name first, or empty lists; categories: M words, or empty ones; max_faces: faces of the largest mesh.
    """

    vertices: Tensor
    faces: Tensor
    corner_colors: Tensor
    corner_normals: Tensor
    vertex_offset: Tensor
    face_offset: Tensor
    ids: list[str]
    captions: list[list[str]]
    categories: list[str]
    max_faces: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def device(self) -> torch.device:
        return self.vertices.device

    def to(self, device: torch.device | str) -> PackedMeshes:
        """The same meshes on another device."""
        return dataclasses.replace(self, **{name: getattr(self, name).to(device) for name in TENSORS})

    def mesh(self, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(vertices [v,3] float32, faces [f,3] int32, colours [f,3,3] float32 0..1 sRGB, normals [f,3,3] float32)."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"mesh {index}: there are {len(self)}")
        index %= len(self)
        own_vertices = slice(*self.vertex_offset[index : index + 2].tolist())
        own_faces = slice(*self.face_offset[index : index + 2].tolist())
        colors = self.corner_colors[own_faces].float() / 255
        return self.vertices[own_vertices], self.faces[own_faces], colors, self.corner_normals[own_faces].float() / 127

    def subset(self, indices: Sequence[int] | Tensor) -> PackedMeshes:
        """The meshes `indices`, in that order (repeats are allowed)."""
        indices = [int(i) for i in indices]
        for i in indices:
            if not 0 <= i < len(self):
                raise IndexError(f"mesh {i}: there are {len(self)}")
        vertex_ranges = [slice(*self.vertex_offset[i : i + 2].tolist()) for i in indices]
        face_ranges = [slice(*self.face_offset[i : i + 2].tolist()) for i in indices]

        def gather(tensor: Tensor, ranges: list[slice]) -> Tensor:
            return torch.cat([tensor[:0], *(tensor[own] for own in ranges)])

        return PackedMeshes(
            gather(self.vertices, vertex_ranges),
            gather(self.faces, face_ranges),
            gather(self.corner_colors, face_ranges),
            gather(self.corner_normals, face_ranges),
            _offsets([own.stop - own.start for own in vertex_ranges], self.device),
            _offsets([own.stop - own.start for own in face_ranges], self.device),
            [self.ids[i] for i in indices],
            [self.captions[i] for i in indices],
            [self.categories[i] for i in indices],
            max((own.stop - own.start for own in face_ranges), default=0),
        )

    def save(self, path: str | Path) -> None:
        """Write `path` (.npz) in the packed format, and the captions and categories to `index.json` beside it.

        Entries of other files in that index.json stay; those of ids that are written here are replaced.
        """
        path = Path(path)
        arrays = {name: getattr(self, attribute).cpu().numpy() for name, (attribute, _, _) in _ARRAYS.items()}
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, ids=np.array(self.ids, dtype=str), **arrays)
        index = path.parent / "index.json"
        entries = _read_index(index)
        for name, captions, category in zip(self.ids, self.captions, self.categories, strict=True):
            entries[name] = {**entries.get(name, {}), "id": name, "captions": captions, "category": category, "file": path.name}
        with atomic_write(index) as temporary:
            temporary.write_text(json.dumps({"objects": list(entries.values())}, indent=1), encoding="utf-8")


def _offsets(counts: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    return torch.tensor([0, *np.cumsum(counts).tolist()], dtype=torch.int64, device=device)


def pack(
    meshes: Sequence[tuple], ids: Sequence[str], captions: Sequence[Sequence[str]] | None = None, categories: Sequence[str] | None = None
) -> PackedMeshes:
    """Pack (vertices [v,3] float, faces [f,3] int, colours [f,3,3] uint8, normals [f,3,3] int8) of numpy arrays or tensors.

    Raises ValueError for vertices that are not finite, faces that name a missing vertex, and lists of different lengths.
    """
    if not len(meshes) == len(ids) == len(captions if captions is not None else ids) == len(categories if categories is not None else ids):
        raise ValueError(f"{len(meshes)} meshes but {len(ids)} ids: expected one id, caption list and category a mesh")
    parts = {name: [np.zeros((0, *shape), dtype)] for name, (_, dtype, shape) in _ARRAYS.items() if shape}
    for mesh in meshes:
        for name, array in zip(("vertices", "faces", "colors", "normals"), mesh, strict=True):
            parts[name].append(np.asarray(array, _ARRAYS[name][1]).reshape(-1, *_ARRAYS[name][2]))
    arrays = {name: np.concatenate(list_) for name, list_ in parts.items()}
    arrays["vertex_offset"] = np.cumsum([len(a) for a in parts["vertices"]])
    arrays["face_offset"] = np.cumsum([len(a) for a in parts["faces"]])
    return _from_arrays(arrays, list(ids), captions, categories, "pack")


def _from_arrays(arrays: dict[str, np.ndarray], ids: list[str], captions, categories, source: str) -> PackedMeshes:
    """Checks the arrays of a pack and makes tensors of them."""
    for name, (_, dtype, shape) in _ARRAYS.items():
        array = arrays[name]
        if array.shape[1:] != shape or not np.can_cast(array.dtype, dtype, "same_kind"):
            raise ValueError(
                f"{source}: {name} is {array.dtype} {list(array.shape)}, expected {np.dtype(dtype)} [n{''.join(f', {n}' for n in shape)}]"
            )
    faces, vertex_offset, face_offset = arrays["faces"], arrays["vertex_offset"], arrays["face_offset"]
    if len(arrays["colors"]) != len(faces) or len(arrays["normals"]) != len(faces):
        raise ValueError(f"{source}: {len(faces)} faces but {len(arrays['colors'])} colors and {len(arrays['normals'])} normals")
    for name, total in (("vertex_offset", len(arrays["vertices"])), ("face_offset", len(faces))):
        offset = arrays[name]
        if len(offset) != len(ids) + 1 or offset[0] != 0 or offset[-1] != total or (np.diff(offset) < 0).any():
            raise ValueError(f"{source}: {name} should rise from 0 to {total} in {len(ids) + 1} entries, one more than there are ids")
    if not np.isfinite(arrays["vertices"]).all():
        bad = int(np.searchsorted(vertex_offset, np.flatnonzero(~np.isfinite(arrays["vertices"]).all(1))[0], "right")) - 1
        raise ValueError(f"{source}: {ids[bad]} has vertices that are not finite; mend or remove that object")
    counts = np.repeat(np.diff(vertex_offset), np.diff(face_offset))
    wrong = ((faces < 0) | (faces >= counts[:, None])).any(1)
    if wrong.any():
        bad = int(np.searchsorted(face_offset, np.flatnonzero(wrong)[0], "right")) - 1
        raise ValueError(f"{source}: {ids[bad]} has faces that name vertices it does not have")
    tensors = {attribute: torch.from_numpy(np.ascontiguousarray(arrays[name], dtype)) for name, (attribute, dtype, _) in _ARRAYS.items()}
    return PackedMeshes(
        **tensors,
        ids=ids,
        captions=[list(c) for c in captions] if captions is not None else [[] for _ in ids],
        categories=list(categories) if categories is not None else [""] * len(ids),
        max_faces=int(np.diff(face_offset).max(initial=0)),
    )


def concatenate(packs: Sequence[PackedMeshes]) -> PackedMeshes:
    """One pack of several, in order, on the first one's device. Raises ValueError for none."""
    if not packs:
        raise ValueError("concatenate: expected at least one pack")
    device = packs[0].device
    joined = {name: torch.cat([getattr(p, name).to(device) for p in packs]) for name in TENSORS if not name.endswith("offset")}
    for name in ("vertex_offset", "face_offset"):
        joined[name] = _offsets(torch.cat([getattr(p, name).diff().cpu() for p in packs]).tolist(), device)
    lists = {name: [value for p in packs for value in getattr(p, name)] for name in ("ids", "captions", "categories")}
    return PackedMeshes(**joined, **lists, max_faces=max(p.max_faces for p in packs))


def load_packed(paths: str | Path | Sequence[str | Path]) -> PackedMeshes:
    """Read one or several .npz packs (see the class), with captions and categories from the `index.json` beside each.

    Raises FileNotFoundError for a missing file and ValueError for one that is not such a pack.
    """
    paths = [paths] if isinstance(paths, str | Path) else list(paths)
    return concatenate([_load_one(Path(path)) for path in paths])


def _load_one(path: Path) -> PackedMeshes:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a .npz pack of meshes")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("ids", *_ARRAYS) if name in file.files}
    except (zipfile.BadZipFile, EOFError, AttributeError, TypeError, ValueError, OSError) as error:
        raise ValueError(f"{path}: not a readable .npz file of arrays; expected a pack of meshes") from error
    missing = [name for name in ("ids", *_ARRAYS) if name not in arrays]
    if missing:
        raise ValueError(f"{path}: not a pack of meshes, it lacks the array {missing[0]}")
    ids = [str(name) for name in arrays.pop("ids")]
    entries = _read_index(path.parent / "index.json")
    captions = [entries.get(name, {}).get("captions", []) for name in ids]
    categories = [entries.get(name, {}).get("category", "") for name in ids]
    return _from_arrays(arrays, ids, captions, categories, str(path))


def _read_index(path: Path) -> dict[str, dict]:
    """Entries of an index.json by id; none where there is no such file."""
    if not path.is_file():
        return {}
    try:
        return {entry["id"]: entry for entry in json.loads(path.read_text(encoding="utf-8"))["objects"]}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected a JSON object with a list `objects` whose entries have an `id` ({error!r})") from error


def load_folder(path: str | Path, face_limit: int = FACE_LIMIT) -> PackedMeshes:
    """Read every GLB, glTF, OBJ and PLY file below a folder (see `shapes.mesh_files.read_mesh`); ids are relative paths.

    Captions of `foo.glb` are the lines of `foo.txt` beside it, or what the folder's `captions.json` says of "foo" or
    "foo.glb" (a sentence or a list of them). Raises FileNotFoundError for a missing folder or one without meshes, and
    ValueError for a file that cannot be read.
    """
    from tqdm import tqdm

    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder")
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise FileNotFoundError(f"{path}: no mesh in this folder; expected files ending in {', '.join(SUFFIXES)}")
    named = _read_captions(path / "captions.json")
    captions = [_captions_of(file, file.relative_to(path), named) for file in files]
    meshes = [read_mesh(file, face_limit) for file in tqdm(files, desc="reading meshes", delay=2, leave=False)]
    return pack(meshes, [file.relative_to(path).with_suffix("").as_posix() for file in files], captions)


def _read_captions(path: Path) -> dict[str, str | list[str]]:
    if not path.is_file():
        return {}
    try:
        named = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(named, dict) or not all(isinstance(v, str | list) for v in named.values()):
        raise ValueError(f"{path}: expected an object that maps file names to a caption or a list of captions")
    return named


def _captions_of(file: Path, name: Path, named: dict[str, str | list[str]]) -> list[str]:
    beside = file.with_suffix(".txt")
    if beside.is_file():
        return [line.strip() for line in beside.read_text(encoding="utf-8").splitlines() if line.strip()]
    found = named.get(name.as_posix(), named.get(name.with_suffix("").as_posix(), []))
    return [found] if isinstance(found, str) else list(found)
