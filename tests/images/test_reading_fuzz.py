"""Damaged pictures at random: each gives a picture, or a ValueError in one line, in bounded time and memory."""

import functools
import io
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_pictures import disc, pattern, png
from PIL import Image

from microdreamer.images.reading import MAX_PIXELS, read_image

LONGEST = 5.0  # seconds of the processor for a file of a few kilobytes
ADDRESS_SPACE = 4 << 30  # bytes beyond what is in use: twice what the largest picture that is read takes


@functools.cache
def sources() -> dict[str, bytes]:
    """Small whole pictures of the formats that people send, by name."""

    def saved(picture: Image.Image, name: str, **options: object) -> bytes:
        picture.save(buffer := io.BytesIO(), format=name, **options)
        return buffer.getvalue()

    rgb, rgba = Image.fromarray(pattern()), Image.fromarray(disc(40))
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "rgb.png": saved(rgb, "PNG", exif=exif),
        "rgba.png": saved(rgba, "PNG"),
        "palette.png": saved(rgb.quantize(16), "PNG", transparency=3),
        "grey16.png": png(8, 4, 16, 0, np.arange(64, dtype=np.uint8).reshape(4, 16)),
        "rgb.jpg": saved(rgb, "JPEG", exif=exif),
        "progressive.jpg": saved(rgb, "JPEG", progressive=True),
        "cmyk.jpg": saved(rgb.convert("CMYK"), "JPEG"),
        "lossy.webp": saved(rgb, "WEBP"),
        "lossless.webp": saved(rgba, "WEBP", lossless=True),
        "film.webp": saved(Image.new("RGBA", (40, 30)), "WEBP", save_all=True, append_images=[rgb], lossless=True),
        "film.gif": saved(Image.new("RGB", (40, 30)), "GIF", save_all=True, append_images=[rgb, rgb.rotate(90)]),
    }


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, bytes]:
    """(name, bytes) of a picture with bytes overwritten, cut out, repeated or cut off; often in its first 64, where sizes stand."""
    name = draw(st.sampled_from(sorted(sources())))
    data = bytearray(sources()[name])
    for _ in range(draw(st.integers(1, 4))):
        end = min(len(data), 64) if draw(st.booleans()) else len(data)
        start = draw(st.integers(0, max(end - 1, 0)))
        length = draw(st.integers(1, 8))
        kind = draw(st.sampled_from(("overwrite", "overwrite", "extreme", "remove", "repeat", "cut off")))
        if kind == "overwrite":
            data[start : start + length] = draw(st.binary(min_size=length, max_size=length))
        elif kind == "extreme":
            data[start : start + length] = bytes([draw(st.sampled_from((0, 0x7F, 0x80, 0xFF)))]) * length
        elif kind == "remove":
            del data[start : start + length]
        elif kind == "repeat":
            data[start:start] = data[start : start + length * 16]
        else:
            del data[start:]
    return name, bytes(data)


def read_or_refuse(folder: Path, case: tuple[str, bytes]) -> None:
    name, data = case
    path = folder / name
    path.write_bytes(data)
    start = time.process_time()
    try:
        picture = read_image(path)
        assert picture.mode in ("RGB", "RGBA") and 0 < picture.width * picture.height <= MAX_PIXELS
    except (ValueError, OSError) as error:
        assert "\n" not in str(error) and str(path) in str(error)
    assert time.process_time() - start < LONGEST


@pytest.fixture(scope="module")
def bounded(tmp_path_factory):
    """A folder; while it is in use, memory beyond `ADDRESS_SPACE` more than now is a MemoryError, which fails the test."""
    if not sys.platform.startswith("linux"):
        yield tmp_path_factory.mktemp("fuzz")
        return
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESS_SPACE, before[1]))
    yield tmp_path_factory.mktemp("fuzz")
    resource.setrlimit(resource.RLIMIT_AS, before)


RELAXED = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}


@settings(max_examples=400, derandomize=True, **RELAXED)
@given(case=damaged())
def test_damaged_pictures(bounded, case):
    read_or_refuse(bounded, case)


@pytest.mark.slow
@settings(max_examples=8000, **RELAXED)
@given(case=damaged())
def test_thousands_of_damaged_pictures(bounded, case):
    read_or_refuse(bounded, case)


@settings(max_examples=100, derandomize=True, **RELAXED)
@given(data=st.binary(max_size=200), name=st.sampled_from(("a.png", "a.jpg", "a.webp", "a.gif", "a.tif", "a.tga", "a.ppm", "a.bmp")))
def test_bytes_that_are_no_picture(bounded, data, name):
    read_or_refuse(bounded, (name, data))
