"""PNG files: what other libraries read from them is the picture, whatever its size; they are small and always the same."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

import png_file
from png_file import STRIP_ROWS, encoded_png


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def shaded(size):
    """A picture as renders are: smooth, a little noisy, white around."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    shade = (
        128
        + 80 * np.sin(9 * x[..., None] + [0, 1, 2]) * np.cos(7 * y[..., None])
        + np.random.default_rng(0).normal(0, 1.5, (size, size, 3))
    )
    return np.where((x**2 + y**2 < 0.16)[..., None], shade, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "picture",
    [noise(1, 1), noise(3, 1), noise(1, 7), noise(STRIP_ROWS, 5), noise(STRIP_ROWS + 1, 5), noise(3 * STRIP_ROWS - 1, 33), shaded(200)],
    ids=lambda picture: "x".join(map(str, picture.shape[:2])),
)
def test_others_read_the_picture(picture):
    data = encoded_png(picture)
    with Image.open(io.BytesIO(data)) as image:
        image.verify()  # checksums of all chunks
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), picture)
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1], picture)


def test_parts_of_larger_arrays_are_pictures_too():
    picture = shaded(200)
    assert encoded_png(picture[::2, ::-1]) == encoded_png(np.ascontiguousarray(picture[::2, ::-1]))


def test_files_are_about_as_small_as_pillow_makes_them():
    picture = shaded(512)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", compress_level=4)
    assert len(encoded_png(picture)) < 1.05 * len(buffer.getvalue())


def test_the_number_of_cores_does_not_matter(monkeypatch):
    data = encoded_png(shaded(300))
    monkeypatch.setattr(png_file.os, "cpu_count", lambda: 1)
    assert encoded_png(shaded(300)) == data


@pytest.mark.parametrize(
    "picture", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_no_picture_is_refused(picture):
    with pytest.raises(ValueError, match=r"picture: expected shape \[H,W,3\] and uint8, got \["):
        encoded_png(picture)
