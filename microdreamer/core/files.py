"""Writing files whole or not at all, and saying what went wrong with one."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

PROBES = 100  # trials of a folder that goes missing again and again


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path`, with its suffix, to write to; renamed to `path` when the block ends well.

        with atomic_write("out/model.ply") as temporary:
            temporary.write_bytes(data)

    The folder is made if it is missing. Whatever the block raises (a full disk, Ctrl-C) passes through, the temporary file
    is removed, and a file that stood at `path` before is left as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: its files are private to the user whatever the umask says.
    temporary = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, str(temporary)):  # unnamed where an open file was written to
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def try_writing(path: str | Path) -> None:
    """Try whether a file could be written at `path`, folders included; leaves nothing. Raises OSError if not.

    Several programs may try the same folder at once.
    """
    path = Path(path)
    probe = path.with_name(f".{uuid.uuid4().hex}.probe")
    missing = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    for attempts_left in reversed(range(PROBES)):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            probe.touch()
            break
        except (FileNotFoundError, FileExistsError):  # another program has just removed the folder that it had made for its own trial
            if not attempts_left:
                raise
    probe.unlink()
    for folder in missing:
        with contextlib.suppress(OSError):  # by now another program's
            folder.rmdir()
