"""Which pictures a batch is of, and what the result of each is called. Needs no PyTorch."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from microdreamer.core.errors import UserError
from microdreamer.core.files import clean_name, readable, user_path
from microdreamer.images.reading import SUFFIXES
from microdreamer.pipeline.inputs import split_input

CUT_OUT = "_rgba"  # what names of cut-outs end in; results are named without it
LIST = ".txt"  # of a file with one path a line
TAKEN = frozenset({"report"})  # names that the batch itself writes to


class Item(NamedTuple):
    """A picture's path, the name of its result, which no other of the batch has, and the paths of more pictures of the same object."""

    picture: Path
    name: str
    others: tuple[Path, ...] = ()

    @property
    def pictures(self) -> tuple[Path, ...]:
        return (self.picture, *self.others)

    @property
    def text(self) -> str:
        """As `input=` has it."""
        return ",".join(map(str, self.pictures))


def names_many(text: str | None) -> bool:
    """Whether `input=text` is more than one object: a folder, a list, or a pattern. A picture of that very name comes first, and so do
    several pictures of one object, with commas between."""
    if not text or is_several(text):
        return False
    path = user_path(text)
    if path.is_file():
        return path.suffix.lower() == LIST
    return path.is_dir() or glob.has_magic(text)


def is_several(text: str) -> bool:
    """Whether `input=text` is several pictures of one object."""
    names = split_input(text)
    return len(names) > 1 and (not glob.has_magic(text) or any(user_path(name).is_file() for name in names))


def items_of(text: str, outdir: str | Path) -> list[Item]:
    """The pictures of a batch in order, with names for their results in the folder `outdir`.

    text: a folder (its pictures by name, not those of folders within; a photo beside which its cut-out NAME_rgba.* lies is left out), a
    text file with a path a line (relative to the file's folder; `#` begins a remark; several paths with commas between are one object's),
    a pattern as of `glob` (** for folders within), or one object's picture or pictures. Raises UserError where there is none,
    and where results would lie among the pictures.
    """
    path = user_path(text)
    if is_several(text):
        objects, where = [tuple(map(user_path, split_input(text)))], ""
    elif path.is_dir():
        objects = _one_each(_in_folder(path))
        where = f"no pictures in that folder ({', '.join(sorted(SUFFIXES))})"
    elif path.is_file() and path.suffix.lower() == LIST:
        objects = _in_list(path)
        where = "no paths in that list, which takes one a line"
    elif path.is_file() or not glob.has_magic(text):
        objects, where = [(path,)], ""
    else:
        found = sorted(map(Path, glob.glob(str(path), recursive=True)))
        objects = _one_each(_without_photos_of_cut_outs([one for one in found if one.is_file() and one.suffix.lower() in SUFFIXES]))
        where = "no pictures match that pattern"
    if not objects:
        raise UserError(f"input={text}: {where}")
    folders = {picture.parent.resolve() for pictures in objects for picture in pictures}
    if names_many(text) and not path.is_file() and user_path(outdir).resolve() in folders:
        raise UserError(f"outdir={outdir}: results there would be taken for pictures of the next run; choose another outdir")
    return _named(objects)


def _one_each(pictures: Sequence[Path]) -> list[tuple[Path, ...]]:
    return [(picture,) for picture in pictures]


def _in_folder(folder: Path) -> list[Path]:
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    except OSError as error:
        raise UserError(f"input={folder}: cannot be read ({error.strerror})") from None
    return _without_photos_of_cut_outs([path for path in found if not path.name.startswith(".")])


def _without_photos_of_cut_outs(pictures: list[Path]) -> list[Path]:
    """Without each photo.jpg beside which there is a photo_rgba.png: the same object, cut out and perhaps mended."""
    cut_outs = {path.with_name(path.stem.removesuffix(CUT_OUT)) for path in pictures if path.stem.endswith(CUT_OUT)}
    return [path for path in pictures if path.stem.endswith(CUT_OUT) or path.with_suffix("") not in cut_outs]


def _in_list(file: Path) -> list[tuple[Path, ...]]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"input={file}: expected a list of paths in UTF-8") from None
    except OSError as error:
        raise UserError(f"input={file}: cannot be read ({error.strerror})") from None
    entries = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return [tuple(file.parent / user_path(name) for name in split_input(entry, file.parent)) for entry in entries]


def _named(objects: Sequence[tuple[Path, ...]]) -> list[Item]:
    """Each object once, its result named after its (first) picture; of several of one name the first has it, the rest a number behind.

    Names that differ in case alone count as one: to some file systems they are.
    """
    taken, items = set(TAKEN), []
    for picture, *others in dict.fromkeys(objects):
        name = stem = clean_name(readable(picture.stem.removesuffix(CUT_OUT)))
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.casefold())
        items.append(Item(picture, name, tuple(others)))
    return items
