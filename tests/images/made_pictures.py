"""Pictures that the tests of this project make, and how to measure them."""

import struct
import zlib

import numpy as np
from PIL import Image


def pattern(height: int = 30, width: int = 40) -> np.ndarray:
    """Smooth colours [H,W,3] that JPEG and WebP keep."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return np.dstack([x * 200 / width + 30, y * 200 / height + 30, 120 + 0 * x]).astype(np.uint8)


def disc(size: int = 64) -> np.ndarray:
    """RGBA [S,S,4]: an orange disc with a soft edge whose hidden colour is black."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    alpha = np.clip(size * 0.4 - np.hypot(x, y), 0, 1)
    return np.dstack([(alpha > 0)[..., None] * np.array([240, 140, 20]), alpha * 255]).round().astype(np.uint8)


def png(width: int, height: int, depth: int, colour_type: int, rows: np.ndarray, extra: bytes = b"") -> bytes:
    """A PNG by hand, for depths that Pillow does not write. `rows` [H, bytes a row]."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def box_of(image: Image.Image) -> tuple[int, int, int, int]:
    return image.getchannel("A").point(lambda value: 255 * (value > 127)).getbbox()
