"""Reading pictures: every format and depth, every refusal, and files that carry more or less than a picture."""

import base64
import struct
import sys
import zlib

import numpy as np
import pytest
from made_pictures import disc, pattern, png
from PIL import Image, ImageCms, PngImagePlugin

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
    pytest.importorskip("pi_heif").register_heif_opener()
    assert {Image.EXTENSION[suffix] for suffix in reading.SUFFIXES} <= set(reading.FORMATS)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_chunks(source: bytes, *chunks: bytes) -> bytes:
    """A PNG file with more chunks after its header."""
    return source[:33] + b"".join(chunks) + source[33:]


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt", b"iTXt", b"tEXt", "all, much of each"])
def test_png_with_megabytes_beside_the_picture(tmp_path, kind):
    megabytes = bytes(3_000_000)
    chunks = {
        b"iCCP": chunk(b"iCCP", b"profile\0\0" + zlib.compress(megabytes)),
        b"zTXt": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(megabytes)),
        b"iTXt": chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(megabytes)),
        b"tEXt": chunk(b"tEXt", b"Comment\0" + b"x" * 3_000_000),
    }
    wanted = [*chunks.values(), *[chunks[b"tEXt"]] * 25] if isinstance(kind, str) else [chunks[kind]]
    path = tmp_path / "a.png"
    Image.fromarray(pattern()).save(path)
    path.write_bytes(with_chunks(path.read_bytes(), *wanted))
    assert np.array_equal(np.asarray(read_image(path)), pattern())


def test_a_large_profile_is_applied(tmp_path):
    """The profile of a screen whose red and blue are exchanged, made large by a tag that nothing reads."""
    plain = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack_from(">I", plain, 128)[0]
    places = {bytes(plain[at : at + 4]): at for at in range(132, 132 + 12 * count, 12)}
    for tag, other in ((b"rXYZ", b"bXYZ"), (b"bXYZ", b"rXYZ")):
        plain[places[tag] : places[tag] + 4] = other
    plain += bytes(2_000_000)
    plain[:4] = struct.pack(">I", len(plain))
    path = tmp_path / "a.png"
    Image.fromarray(pattern()).save(path)
    path.write_bytes(with_chunks(path.read_bytes(), chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(plain)))))
    assert np.abs(np.asarray(read_image(path), int) - pattern()[..., ::-1]).max() <= 1


def test_profile_that_unpacks_without_end_is_left_out(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(pattern()).save(path)
    bomb = zlib.compress(bytes(reading.png.MAX_PROFILE + 1), 9)
    path.write_bytes(with_chunks(path.read_bytes(), chunk(b"iCCP", b"profile\0\0" + bomb)))
    assert reading.png.without_text(path).profile is None
    assert np.array_equal(np.asarray(read_image(path)), pattern())


@pytest.mark.parametrize("suffix", ["webp", "gif", "png"])
@pytest.mark.parametrize("empty", [1, 3])
def test_first_frame_with_something_in_it_is_taken(tmp_path, suffix, empty):
    frames = [Image.new("RGBA", (64, 64), (0, 0, 0, 0)) for _ in range(empty)] + [Image.fromarray(disc()), Image.fromarray(disc()[::-1])]
    options = {"lossless": True} if suffix == "webp" else {"disposal": 2} if suffix == "gif" else {}
    for number, frame in enumerate(frames[:empty]):  # encoders merge frames that are the same
        frame.putpixel((number, 0), (number, 0, 0, 0))
    frames[0].save(
        tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], duration=[50 + i for i in range(len(frames))], **options
    )
    notes = []
    result = np.asarray(read_image(tmp_path / f"a.{suffix}", notes.append))
    assert result.shape == (64, 64, 4) and result[32, 32].tolist() == [240, 140, 20, 255] and result[0, 0, 3] == 0
    assert len(notes) == 1 and notes[0].endswith("taken, the first with something in it")


def test_a_film_that_fades_in_and_one_of_nothing(tmp_path):
    black, scene = Image.new("RGB", (40, 30)), Image.fromarray(pattern())
    black.save(tmp_path / "a.webp", save_all=True, append_images=[scene], lossless=True)
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.webp")), pattern())
    empty = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
    empty.save(tmp_path / "b.webp", save_all=True, append_images=[Image.new("RGBA", (40, 30), (9, 0, 0, 0))], lossless=True)
    with pytest.raises(ValueError, match="nothing is visible"):
        read_image(tmp_path / "b.webp")
    scene.save(tmp_path / "c.webp", save_all=True, append_images=[black], lossless=True)
    notes = []
    assert np.array_equal(np.asarray(read_image(tmp_path / "c.webp", notes.append)), pattern()) and not notes


# `pattern(48, 64)`, its slopes 3 and 4, as libheif packs it.
HEIC = base64.b85decode(
    "0000SW^{RQXk}?*00000ZE0pPXk}?*ZE0a<0004fZDn*}000000000XXk=`10000000000aA{+700000000000000000000B57=IV*mgE07O6l0RRC200001"
    "p#T8@00000005Q%001LtX>Mi!000000RR916=`l}WdZ;I000310BCk&F#rGn01j|zbZr0t000010002}X>f9I0002pX>en20001XXm(>m0RwOV0058x00000"
    "9`FGC{rLC*01pFT0096PKmiN^|NjGU00093kN^M!000939=ZZRVE_RDDnbDP18@KU0|1Z!00RI30{|YNAb|yz>g1-"
    "mxCm%4AOHXZ10VnZ0{|gn00967L;=Bbz=;3=025<xY;ta6Y<K_x01W^JfB*mh6lrsCWdHyG00000KmY&$KmY&$C}V74Z~y=RKmY&$0RR91FaQ7m0RR910000"
    "00{{R2@Bjb+0ssI25O8UDX#fBK00RgJ2mk;87-?{AVE_OC000000RRC7fdT^sga7~lo^51dbN~PVk|+VM3E(~`YDJLJ_$T-"
    "5eT~!@DwAG#qPEF_&=uRBmuS76%@p`;%;6EyttTWe3YLGNQE*i@viaaGhZ7>0YOkY5IL)@|n~8U(q_=0^JQmM;i|0)GQ0sp<(Nw^9!vy=vr4#$qHe(tBgk9~"
    "NFMYp@8N#*R@0h4L)=DEaL^=`&&H@^E*hjueFB|iV<5kx"
)


@pytest.fixture
def no_heif_reader(monkeypatch):
    for name in reading.HEIF_READERS:
        monkeypatch.setitem(sys.modules, name, None)
    Image.init()
    monkeypatch.setattr(Image, "OPEN", {name: how for name, how in Image.OPEN.items() if name != "HEIF"})


@pytest.mark.parametrize("name", ["IMG_0001.HEIC", "sent.jpg"])
def test_heic_without_its_reader_says_what_to_install(tmp_path, no_heif_reader, name):
    (tmp_path / name).write_bytes(HEIC)
    with pytest.raises(
        ValueError, match=r"a HEIC picture, which needs one more package: pip install 'microdreamer-optimized\[heif\]'"
    ) as caught:
        read_image(tmp_path / name)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_heic_is_read_with_it(tmp_path):
    pytest.importorskip("pi_heif")
    y, x = np.mgrid[:48, :64]
    expected = np.dstack([x * 3 + 30, y * 4 + 30, 120 + 0 * x])
    for name in ("IMG_0001.HEIC", "sent.jpg"):
        (tmp_path / name).write_bytes(HEIC)
        result = read_image(tmp_path / name)
        assert result.mode == "RGB" and np.abs(np.asarray(result, int) - expected).mean() < 3
    (tmp_path / "cut.heic").write_bytes(HEIC[:300])
    with pytest.raises(ValueError, match=r"cut\.heic: .*damaged or cut short"):
        read_image(tmp_path / "cut.heic")


def test_a_damaged_length_that_asks_for_gigabytes_is_damage(tmp_path, monkeypatch):
    Image.new("RGB", (8, 4), (200, 10, 10)).save(tmp_path / "a.png")

    def ask_for_too_much(self):
        raise MemoryError

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load_end", ask_for_too_much)
    with pytest.raises(ValueError, match=r"a\.png: the picture is damaged or cut short \(MemoryError\)"):
        read_image(tmp_path / "a.png")
