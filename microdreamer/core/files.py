"""Files: written whole or not at all, named so that every system takes the name, and what went wrong with one in a line."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import unicodedata
import uuid
from collections.abc import Iterator
from pathlib import Path

PROBES = 100  # trials of a folder that goes missing again and again
MAX_NAME = 200  # bytes; file systems allow 255, and suffixes follow
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)")  # Windows takes these for devices, suffix or not


@contextlib.contextmanager
def folder_for(path: Path) -> Iterator[None]:
    """Make the folders in which `path` is to lie. Where the block, or that, fails, those that were made and are empty go again."""
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in missing:
            with contextlib.suppress(OSError):  # it was not made, or holds something by now
                folder.rmdir()
        raise


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path`, with its suffix, to write to; renamed to `path` when the block ends well.

        with atomic_write("out/model.ply") as temporary:
            temporary.write_bytes(data)

    The folder is made if it is missing. Whatever the block raises (a full disk, Ctrl-C) passes through, the temporary file
    is removed, and a file that stood at `path` before is left as it was.
    """
    path = Path(path)
    # Not tempfile: its files are private to the user whatever the umask says.
    temporary = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    with folder_for(path):
        try:
            yield temporary
            os.replace(temporary, path)
        except OSError as error:
            # Unnamed where an open file was written to. An error without a number has a message of its own, which a name would replace.
            if error.errno is not None and error.filename in (None, str(temporary)):
                error.filename = str(path)
            raise
        finally:
            temporary.unlink(missing_ok=True)


def try_writing(path: str | Path) -> None:
    """Try whether a file could be written at `path`, folders included; leaves nothing. Raises OSError, which names `path`, if not.

    Several programs may try the same folder at once.
    """
    path = Path(path)
    try:
        _try_writing(path)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from None  # rather than the name of the trial


def _try_writing(path: Path) -> None:
    probe = path.with_name(f".{uuid.uuid4().hex}.probe")
    missing = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    for attempts_left in reversed(range(PROBES)):
        try:
            with folder_for(path):
                probe.touch()
            break
        except (FileNotFoundError, FileExistsError):  # another program has just removed the folder that it had made for its own trial
            if not attempts_left:
                raise
    probe.unlink()
    for folder in missing:
        with contextlib.suppress(OSError):  # by now another program's
            folder.rmdir()


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hex digits. Raises OSError where it cannot be read."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def user_path(text: str | Path) -> Path:
    """The path that a user typed: `~` and `~name` at its start are a home folder, unless there is a file of that very name."""
    path = Path(text)
    if not str(text).startswith("~") or os.path.lexists(path):
        return path
    try:
        return path.expanduser()
    except RuntimeError:  # no such user
        return path


def readable(text: str) -> str:
    """`text` without lone surrogates, which stand for the undecodable bytes of a file's name: those read as Latin-1, others as escapes."""
    latin = re.sub("[\udc80-\udcff]", lambda found: chr(ord(found.group()) - 0xDC00), text)
    return latin.encode("utf-8", "backslashreplace").decode("utf-8")


def clean_name(text: str) -> str:
    """A plain file name for results, of at most `MAX_NAME` bytes, from any text, such as the name of a user's file.

    Blanks of every kind become spaces; joiners, controls and marks of direction go; what paths or Windows forbid becomes `_`;
    dots do not come first. Names that are plain already stay as they are; of nothing at all comes `object`.
    """
    kept = []
    for sign in unicodedata.normalize("NFC", readable(text)):
        category = unicodedata.category(sign)
        if sign.isspace() or category == "Zs":
            kept.append(" ")
        elif sign in '<>:"/\\|?*' or category in ("Cn", "Co"):
            kept.append("_")
        elif category not in ("Cc", "Cf"):
            kept.append(sign)
    name = " ".join("".join(kept).split()).lstrip(". ")
    if _RESERVED.match(name):
        name = f"_{name}"
    name = name.encode()[:MAX_NAME].decode(errors="ignore").rstrip(". ")
    return unicodedata.normalize("NFC", name) or "object"
