"""Pictures that the tests of this project make, and how to measure them."""

import struct
import zlib

import numpy as np
from PIL import Image, ImageDraw


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


def toy_mask(side: int = 256) -> np.ndarray:
    """A made object's silhouette: a jug with a handle that one can look through."""
    mask = Image.new("L", (side * 4, side * 4), 0)
    draw = ImageDraw.Draw(mask)
    unit = side * 4 / 16
    draw.ellipse([8.5 * unit, 5 * unit, 12.5 * unit, 10 * unit], fill=255)
    draw.ellipse([9.3 * unit, 6 * unit, 11.6 * unit, 9 * unit], fill=0)
    draw.rounded_rectangle([4 * unit, 4 * unit, 10 * unit, 12.5 * unit], radius=unit, fill=255)
    return np.asarray(mask.resize((side, side), Image.Resampling.BOX), dtype=np.float32) / 255


def toy_picture(background: np.ndarray, mask: np.ndarray) -> Image.Image:
    """The jug, lit from the left and painted in two colours, before `background`."""
    side = len(mask)
    y, x = np.mgrid[:side, :side] / side
    paint = np.where((y < 0.5)[..., None], np.array([205, 60, 40]), np.array([235, 190, 60]))
    lit = paint * (1.1 - 0.7 * x)[..., None]
    backdrop = np.asarray(Image.fromarray(background).convert("RGB").resize((side, side)), dtype=np.float32)
    return Image.fromarray((backdrop * (1 - mask[..., None]) + lit * mask[..., None]).clip(0, 255).astype(np.uint8))


def iou(alpha: np.ndarray, truth: np.ndarray) -> float:
    found, expected = alpha > 0.5, truth > 0.5
    return float((found & expected).sum() / (found | expected).sum())


def alpha_of(image: Image.Image) -> np.ndarray:
    return np.asarray(image.getchannel("A"), dtype=np.float32) / 255
