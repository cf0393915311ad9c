"""PNG without what it carries beside the picture: some programs put megabytes of text or colour profile into it, which Pillow refuses.

ISO/IEC 15948 (PNG, third edition), clauses 5.3 (chunks) and 11.3.2.3 (iCCP).
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import NamedTuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXT = (b"tEXt", b"zTXt", b"iTXt")
MAX_PROFILE = 32 << 20  # bytes unpacked; profiles of printers take a few million


class Lean(NamedTuple):
    """A PNG file without text and profile, and the profile, unpacked; None where there was none that can be unpacked."""

    file: bytes
    profile: bytes | None


def without_text(path: Path) -> Lean | None:
    """The PNG at `path` without what is not the picture; None where the file is no PNG or there was nothing to leave out."""
    data = path.read_bytes()
    if not data.startswith(SIGNATURE):
        return None
    kept, profile, position = [SIGNATURE], None, len(SIGNATURE)
    while position + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length  # length, name, data, checksum
        if name == b"iCCP":
            profile = _unpacked(data[position + 8 : end - 4])
        elif name not in TEXT:
            kept.append(data[position:end])
        position = end
    lean = b"".join(kept)
    return Lean(lean, profile) if len(lean) < len(data) else None


def _unpacked(chunk: bytes) -> bytes | None:
    """The profile in an iCCP chunk: a name, a zero, the method (0, deflate), and the packed profile."""
    _, _, packed = chunk.partition(b"\0")
    unpacking = zlib.decompressobj()
    try:
        profile = unpacking.decompress(packed[1:], MAX_PROFILE)
    except zlib.error:
        return None
    return profile if unpacking.eof else None
