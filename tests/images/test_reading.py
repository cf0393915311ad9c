"""Reading pictures: every format and depth, every refusal, and files that carry more or less than a picture."""

import struct
import zlib

import numpy as np
import pytest
from made_pictures import disc, pattern, png
from PIL import Image, ImageCms

from microdreamer.images import reading
from microdreamer.images.reading import read_image


@pytest.mark.parametrize(
    "suffix, mode, tolerance",
    [
        ("png", "RGB", 0),
        ("bmp", "RGB", 0),
        ("tiff", "RGB", 0),
        ("tga", "RGB", 0),
        ("ppm", "RGB", 0),
        ("jpg", "RGB", 6),
        ("webp", "RGB", 8),
        ("jpg", "CMYK", 8),
        ("tiff", "CMYK", 2),
        ("tiff", "YCbCr", 4),
        ("tiff", "LAB", None),
    ],
)
def test_colour_formats(tmp_path, suffix, mode, tolerance):
    source = Image.fromarray(pattern())
    if mode == "LAB":
        transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        source = ImageCms.applyTransform(source, transform)
    source.convert(mode).save(tmp_path / f"a.{suffix}")
    result = read_image(tmp_path / f"a.{suffix}")
    assert result.mode == "RGB" and result.size == (40, 30)
    assert np.abs(np.asarray(result, int) - pattern()).mean() <= (8 if tolerance is None else tolerance)


def test_grey_bilevel_and_palette(tmp_path):
    grey = Image.fromarray(pattern()).convert("L")
    for mode in ("L", "1", "P"):
        grey.convert(mode).save(tmp_path / "a.png")
        assert np.array_equal(np.asarray(read_image(tmp_path / "a.png")), np.asarray(grey.convert(mode).convert("RGB")))


def test_palette_with_transparency(tmp_path):
    image = Image.new("P", (4, 2), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((0, 0), 0)
    image.save(tmp_path / "a.png", transparency=0)
    result = np.asarray(read_image(tmp_path / "a.png"))
    assert result.shape == (2, 4, 4) and result[0, 0, 3] == 0 and tuple(result[1, 1]) == (200, 100, 50, 255)


@pytest.mark.parametrize("suffix, mode", [("png", "RGBA"), ("png", "LA"), ("webp", "RGBA"), ("tiff", "RGBA")])
def test_alpha_is_kept(tmp_path, suffix, mode):
    source = Image.fromarray(disc()).convert(mode)
    source.save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    assert np.array_equal(np.asarray(read_image(tmp_path / f"a.{suffix}"))[..., 3], disc()[..., 3])


def test_opaque_alpha_is_dropped_and_empty_alpha_refused(tmp_path):
    Image.new("RGBA", (5, 5), (1, 2, 3, 255)).save(tmp_path / "opaque.png")
    assert read_image(tmp_path / "opaque.png").mode == "RGB"
    Image.new("RGBA", (5, 5), (1, 2, 3, 0)).save(tmp_path / "empty.png")
    with pytest.raises(ValueError, match=r"empty\.png: nothing is visible, alpha is 0 everywhere"):
        read_image(tmp_path / "empty.png")


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, suffix):
    values = np.array([[0, 128, 257], [32768, 65534, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    assert np.array_equal(np.asarray(read_image(tmp_path / f"a.{suffix}"))[..., 0], np.round(values / 257))


def test_16_bit_colour_with_alpha(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (6, 5, 4))
    (tmp_path / "a.png").write_bytes(png(5, 6, 16, 6, values.astype(">u2").reshape(6, -1)))
    assert np.abs(np.asarray(read_image(tmp_path / "a.png"), int) - values / 257).max() <= 1
    (tmp_path / "b.png").write_bytes(png(5, 6, 16, 2, values[..., :3].astype(">u2").reshape(6, -1)))
    result = read_image(tmp_path / "b.png")
    assert result.mode == "RGB" and np.abs(np.asarray(result, int) - values[..., :3] / 257).max() <= 1


def test_16_bit_transparent_colour(tmp_path):
    values = np.array([[1000, 50000]])
    key = struct.pack(">I", 2) + b"tRNS" + struct.pack(">H", 1000)
    key += struct.pack(">I", zlib.crc32(key[4:]))
    (tmp_path / "a.png").write_bytes(png(2, 1, 16, 0, values.astype(">u2"), key))
    assert np.asarray(read_image(tmp_path / "a.png"))[0, :, 3].tolist() == [0, 255]


def test_float_pixels(tmp_path):
    Image.fromarray(np.array([[0, 0.5, 1]], np.float32)).save(tmp_path / "a.tiff")
    assert np.asarray(read_image(tmp_path / "a.tiff"))[0, :, 1].tolist() == [0, 128, 255]
    Image.fromarray(np.array([[0, 0.5, 40]], np.float32)).save(tmp_path / "b.tiff")
    with pytest.raises(ValueError, match=r"expected float pixels in \[0, 1\], got 0 to 40"):
        read_image(tmp_path / "b.tiff")


def test_32_bit_integers_are_refused(tmp_path):
    Image.fromarray(np.array([[0, 7]], np.int32)).save(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match="32-bit integer pixels"):
        read_image(tmp_path / "a.tiff")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    upright = Image.fromarray(pattern())
    # How a camera stores the picture so that the tag turns it upright again.
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.png")), pattern())


def test_colour_profile_is_applied_and_a_damaged_one_ignored(tmp_path):
    linear_light = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(pattern()).save(tmp_path / "a.png", icc_profile=linear_light)
    assert np.abs(np.asarray(read_image(tmp_path / "a.png"), int) - pattern()).max() <= 1
    Image.fromarray(pattern()).save(tmp_path / "b.png", icc_profile=b"no profile")
    assert np.array_equal(np.asarray(read_image(tmp_path / "b.png")), pattern())


def test_one_pixel_and_first_frame(tmp_path):
    Image.new("RGB", (1, 1), (9, 8, 7)).save(tmp_path / "a.png")
    assert np.asarray(read_image(tmp_path / "a.png")).tolist() == [[[9, 8, 7]]]
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert np.asarray(read_image(tmp_path / "a.gif"))[0, 0].tolist() == [255, 0, 0]


def test_missing_path_folder_and_no_picture(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.png: no such file"):
        read_image(tmp_path / "nothing.png")
    with pytest.raises(ValueError, match="expected a picture, got a folder"):
        read_image(tmp_path)
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.png: not a picture this can read \(PNG, JPEG"):
        read_image(tmp_path / "text.png")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ValueError, match="got an empty file"):
        read_image(tmp_path / "empty.jpg")
    (tmp_path / "a.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    with pytest.raises(ValueError, match="not a picture"):
        read_image(tmp_path / "a.eps")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff", "gif"])
def test_truncated_and_damaged_files_give_one_line(tmp_path, suffix):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path := tmp_path / f"a.{suffix}")
    whole = path.read_bytes()
    for share in (0.05, 0.3, 0.7):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ValueError, match=rf"a\.{suffix}: ") as caught:
            read_image(path)
        assert "\n" not in str(caught.value)
    rng = np.random.default_rng(1)
    for _ in range(60):
        damaged = bytearray(whole)
        for position in rng.integers(0, min(len(whole), 200), 4):
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            assert read_image(path).mode in ("RGB", "RGBA")  # some damage does not show
        except ValueError as error:
            assert "\n" not in str(error) and str(path) in str(error)


@pytest.mark.parametrize("side", [12_000, 60_000])
def test_huge_pictures_are_refused_before_they_are_decoded(tmp_path, side):
    (tmp_path / "bomb.png").write_bytes(png(side, side, 1, 0, np.zeros((1, 1), np.uint8)))
    with pytest.raises(ValueError, match=r"bomb\.png: expected at most 120 megapixels, got .*; scale it down"):
        read_image(tmp_path / "bomb.png")


def test_suffixes_are_formats_that_can_be_read():
    Image.init()
    assert {Image.EXTENSION[suffix] for suffix in reading.SUFFIXES} <= set(reading.FORMATS)
