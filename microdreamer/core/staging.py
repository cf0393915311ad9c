"""Several files that belong together, written aside and put in place at the end, so that a run never spoils an earlier result.

Files are written into a hidden folder beside their places. When all are whole, the folder is renamed, which says so in one step, and
they are moved to their places. A run that ends before leaves the earlier result as it was; one that is killed while moving is
finished by whoever comes next (`finish`).
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import shutil
import socket
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from microdreamer.core.files import folder_for

LONGEST = 100  # bytes of a result's name that hidden folders' names repeat; with those of a process and a machine 255 must hold all


def _hidden(stem: Path) -> str:
    """What names of hidden folders of a result begin with: its name, or of a long one what stands for it."""
    name = os.fsencode(stem.name)
    return f".{stem.name}" if len(name) <= LONGEST else f".{hashlib.sha256(name).hexdigest()[:32]}"


def _pending(stem: Path) -> Path:
    """The folder of whole files on their way to their places."""
    return stem.with_name(f"{_hidden(stem)}.whole")


def finish(stem: str | Path) -> None:
    """Finish what a killed run of `stem` had begun: move whole files to their places, drop the unfinished ones of dead processes."""
    stem = Path(stem)
    if _pending(stem).is_dir():
        _move(stem)
    prefix, host = f"{_hidden(stem)}.new-", socket.gethostname()
    for folder in stem.parent.glob(f"{glob.escape(prefix)}*") if stem.parent.is_dir() else ():
        process, _, where = folder.name.removeprefix(prefix).partition("@")
        if where.rpartition("~")[0] == host and process.isdecimal() and not _is_alive(int(process)):
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(process: int) -> bool:
    if os.name == "nt":  # os.kill would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def check_places(stem: str | Path, suffixes: Sequence[str]) -> None:
    """Raise IsADirectoryError where a folder stands in the place of a file: no file can take it."""
    for suffix in suffixes:
        if os.path.isdir(place := f"{stem}{suffix}") and not os.path.islink(place):
            raise IsADirectoryError(errno.EISDIR, "a folder stands where a file is to be written; move it away", place)


@contextlib.contextmanager
def staged(stem: str | Path, suffixes: Sequence[str]) -> Iterator[Path]:
    """A stem to write to, in a hidden folder, whose files take the places of `stem`'s when the block ends well.

        with staged("out/name", ("_model.ply", ".json")) as aside:
            model.save_ply(f"{aside}_model.ply")

    `suffixes` are all that files of such a result end in: what stands at `stem` with one of them and was not written anew is
    removed, as it would seem to belong to the new result. The last suffix is moved last. Whatever the block raises passes
    through, and the earlier result is left as it was. Raises OSError where files cannot be written or moved.
    """
    stem = Path(stem)
    with folder_for(stem):
        check_places(stem, suffixes)
        finish(stem)
        folder = stem.with_name(f"{_hidden(stem)}.new-{os.getpid()}@{socket.gethostname()}~{uuid.uuid4().hex[:8]}")
        folder.mkdir()
        try:
            yield folder / stem.name
            written = {path.name for path in folder.iterdir()}
            gone = [suffix for suffix in suffixes if f"{stem.name}{suffix}" not in written]
            (folder / "gone").write_text("\n".join(gone), encoding="utf-8")
            _order(folder, stem.name, suffixes)
            _rename_whole(folder, stem)
        except OSError as error:
            if error.filename and Path(error.filename).parent == folder:  # the user knows the place, not the hidden folder
                error.filename = str(stem.with_name(Path(error.filename).name))
            elif error.errno is not None and error.filename is None:  # an open file that could not grow
                error.filename = str(stem)
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # gone already where all went well
    _move(stem)


def _order(folder: Path, name: str, suffixes: Sequence[str]) -> None:
    """Write down in which order the files are moved: those of unknown suffixes first."""
    rank = {f"{name}{suffix}": index for index, suffix in enumerate(suffixes)}
    names = sorted((path.name for path in folder.iterdir() if path.name != "gone"), key=lambda file: (rank.get(file, -1), file))
    (folder / "order").write_text("\n".join(names), encoding="utf-8")


def _rename_whole(folder: Path, stem: Path) -> None:
    pending = _pending(stem)
    if pending.is_dir():  # another run of the same name has just become whole
        _move(stem)
    os.replace(folder, pending)


def _move(stem: Path) -> None:
    pending = _pending(stem)
    with contextlib.suppress(FileNotFoundError):  # another process may be finishing the same
        names = (pending / "order").read_text(encoding="utf-8").split("\n")
        for suffix in (pending / "gone").read_text(encoding="utf-8").split("\n"):
            if suffix:
                Path(f"{stem}{suffix}").unlink(missing_ok=True)
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # moved before
                os.replace(pending / name, stem.with_name(name))
    shutil.rmtree(pending, ignore_errors=True)
