"""Writing files whole or not at all."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path


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
    finally:
        temporary.unlink(missing_ok=True)
