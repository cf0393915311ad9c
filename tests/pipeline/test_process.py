"""process.py and the reading of pictures: every format and depth, every refusal, the geometry of recentring, the command line."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from microdreamer.images import reading as image_io
from microdreamer.images.reading import read_image
from microdreamer.pipeline import cutouts as process
from microdreamer.pipeline.cutouts import recentre


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


def box_of(image: Image.Image) -> tuple[int, int, int, int]:
    return image.getchannel("A").point(lambda value: 255 * (value > 127)).getbbox()


@pytest.mark.parametrize("size, border_ratio", [(512, 0.2), (256, 0.0), (100, 0.5)])
@pytest.mark.parametrize("place", [(3, 5, 63, 35), (100, 0, 120, 149), (0, 0, 150, 150)])
def test_recentre_puts_the_box_in_the_middle(place, size, border_ratio):
    image = Image.new("RGBA", (150, 150), (0, 0, 0, 0))
    image.paste((200, 10, 10, 255), place)
    left, top, right, bottom = box_of(result := recentre(image, size, border_ratio))
    assert result.size == (size, size) and result.mode == "RGBA"
    longer = round(size * (1 - border_ratio))
    width, height = place[2] - place[0], place[3] - place[1]
    assert max(right - left, bottom - top) == longer
    assert abs((right - left) - width * longer / max(width, height)) <= 1
    assert abs((bottom - top) - height * longer / max(width, height)) <= 1
    assert abs(left - (size - right)) <= 1 and abs(top - (size - bottom)) <= 1


def test_recentre_keeps_every_row_and_column():
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (10, 10, 18, 18))
    image.paste((0, 255, 0, 255), (17, 17, 18, 18))  # the last pixel of the box
    result = np.asarray(recentre(image, 8, 0.0))
    assert np.array_equal(result, np.asarray(image)[10:18, 10:18])


@pytest.mark.parametrize("size", [37, 200])
def test_recentre_has_no_dark_halo(size):
    result = np.asarray(recentre(Image.fromarray(disc()), size), float)
    seen = result[..., 3] > 40
    assert np.abs(result[seen][:, :3] - [240, 140, 20]).max() <= 4


def test_recentre_refuses_an_invisible_picture():
    with pytest.raises(ValueError, match="alpha of at most 12 of 255 everywhere"):
        recentre(Image.new("RGBA", (5, 5), (255, 255, 255, 10)))


def test_recentre_of_one_pixel_and_of_a_line():
    assert box_of(recentre(Image.new("RGBA", (1, 1), (1, 2, 3, 255)), 10, 0.2)) == (1, 1, 9, 9)
    assert recentre(Image.new("RGBA", (3000, 1), (1, 2, 3, 255)), 64).getchannel("A").getextrema()[1] > 0


def test_command_line_writes_beside_the_picture(tmp_path, capsys):
    folder = tmp_path / "mein Ordner é 写真"
    folder.mkdir()
    Image.fromarray(disc()).save(path := folder / "grüne Ente.png")
    assert process.main([str(path), "--size", "64", "--border_ratio", "0.5"]) == 0
    result = Image.open(folder / "grüne Ente_rgba.png")
    assert result.size == (64, 64) and np.abs(np.subtract(box_of(result), (16, 16, 48, 48))).max() <= 1
    assert str(folder / "grüne Ente_rgba.png") in capsys.readouterr().out


def test_no_recenter_keeps_size_and_place(tmp_path):
    Image.fromarray(disc()).save(tmp_path / "a.png")
    assert process.main([str(tmp_path / "a.png"), "--no-recenter", "--out", str(tmp_path / "new" / "folder")]) == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "folder" / "a_rgba.png")), disc())


def test_photo_is_cut_out(tmp_path):
    skimage_data = pytest.importorskip("skimage.data")
    photo = Image.fromarray(skimage_data.grass()).convert("RGB").resize((160, 160))
    photo.paste((230, 40, 40), (30, 50, 110, 120))
    photo.save(tmp_path / "a.jpg", quality=95)
    assert process.main([str(tmp_path / "a.jpg"), "--model", "embedded", "--size", "100"]) == 0
    left, top, right, bottom = box_of(Image.open(tmp_path / "a_rgba.png"))
    # JPEG's halved colour resolution blurs the edge by a pixel or two of the 160, which soft alpha shows.
    assert abs(right - left - 80) <= 5 and abs(bottom - top - 70) <= 5


def test_folder_goes_on_after_a_bad_picture(tmp_path, capsys):
    for name in ("a", "c"):
        Image.fromarray(disc()).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes(b"\x89PNG no more")
    (tmp_path / "notes.txt").write_text("not a picture by name")
    (tmp_path / "old_rgba.png").write_bytes(b"a result, left alone")
    assert process.main([str(tmp_path)]) == 2
    assert {path.name for path in tmp_path.iterdir()} == {
        "a.png", "b.png", "c.png", "a_rgba.png", "c_rgba.png", "notes.txt", "old_rgba.png"
    }  # fmt: skip
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line or "failed" in line]
    assert len(errors) == 2 and "b.png: " in errors[0] and errors[1] == "1 of 3 pictures failed"


def test_rgba_result_given_by_name_is_done_again_in_place(tmp_path):
    Image.fromarray(disc()).save(tmp_path / "a_rgba.png")
    assert process.main([str(tmp_path / "a_rgba.png"), "--size", "32"]) == 0
    assert Image.open(tmp_path / "a_rgba.png").size == (32, 32) and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["missing.png"], "no such file"),
        (["."], "expected a folder with pictures"),
        (["flat.png", "--model", "embedded"], "pass an RGBA picture"),
        (["flat.png", "--model", "no-such-model"], "--model no-such-model: "),
    ],
)
def test_failures_exit_with_2_and_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    if arguments != ["."]:
        Image.new("RGB", (32, 32), "grey").save("flat.png")
    assert process.main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and message in error and "\n" not in error
    assert not list(tmp_path.glob("*_rgba.png"))


def test_two_pictures_of_one_name_are_refused(tmp_path, capsys):
    for suffix in ("png", "jpg"):
        Image.new("RGB", (32, 32)).save(tmp_path / f"a.{suffix}")
    assert process.main([str(tmp_path)]) == 2
    assert "would both be written to" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--size", "0"], ["--size", "big"], ["--border_ratio", "1"], ["--recenter", "False"], ["--sise", "3"]])
def test_wrong_options_exit_with_2(option, capsys):
    with pytest.raises(SystemExit) as exit_:
        process.main(["a.png", *option])
    said = capsys.readouterr().err
    assert exit_.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1


def test_picture_with_alpha_never_loads_a_model(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "load_matting", lambda model: pytest.fail("asked for a model"))
    Image.fromarray(disc()).save(tmp_path / "a.png")
    assert process.main([str(tmp_path / "a.png")]) == 0


def test_suffixes_are_formats_that_can_be_read():
    Image.init()
    assert {Image.EXTENSION[suffix] for suffix in image_io.SUFFIXES} <= set(image_io.FORMATS)
