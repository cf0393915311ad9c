"""Reading pictures: any common format and depth to 8-bit RGB or RGBA, upright, in sRGB."""

from __future__ import annotations

import contextlib
import importlib
import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

from microdreamer.images import png

MAX_PIXELS = 120_000_000  # about 0.5 GB as RGBA; beyond a 108-megapixel phone picture

# No EPS and the like: Pillow hands those to other programs. Names that this Pillow was built without are left out on opening.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "TIFF", "GIF", "PPM", "TGA", "JPEG2000", "AVIF", "HEIF")
SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".tga", ".jp2", ".avif", ".heic", ".heif"}
)
HEIF_READERS = ("pi_heif", "pillow_heif")  # either teaches Pillow the pictures of iPhones; the first has no encoder under the GPL
HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
MAX_FRAMES, MAX_FRAME_PIXELS = 100, 4 * MAX_PIXELS  # of an animation, among which one with something in it is looked for

# What Pillow's decoders raise on damaged files, found by damaging files of every format above.
_DECODER_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, OverflowError, IndexError, KeyError, TypeError, struct.error, zlib.error),
    MemoryError,  # a damaged length asks for gigabytes; the picture's own size is checked before
)


def read_image(path: str | Path, note: Callable[[str], None] | None = None) -> Image.Image:
    """The picture at `path`, upright (EXIF) and in sRGB: mode RGB, or RGBA where its alpha is not 255 everywhere.

    PNG, JPEG, WebP, BMP, TIFF and a few more, of 1 to 16 bits a channel or float in [0, 1]; grey, palette, CMYK and so on
    become RGB; of several frames the first with something in it is taken, and `note` told if that is not the first. HEIC needs
    the extra `heif`. Raises FileNotFoundError for a missing path and ValueError for anything that is not a whole picture of at most
    `MAX_PIXELS` pixels with something visible in it; both in one line.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; expected the path of a picture")
    if not path.is_file():
        raise ValueError(f"{path}: expected a picture, got a {'folder' if path.is_dir() else 'special file'}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # size is checked here; metadata that Pillow finds odd does not matter
            with _opened(path) as picture:
                converted = _first_frame_of_use(picture, path, note)
    except Image.DecompressionBombError:
        _check_size(path, 2 * Image.MAX_IMAGE_PIXELS)  # Pillow refuses on its own above this
        raise
    except _ReadError:
        raise
    except _DECODER_ERRORS as error:
        raise ValueError(f"{path}: {_describe(path, error)}") from error
    return _with_useful_alpha(converted, path)


def _opened(path: Path) -> Image.Image:
    """The file as Pillow opens it: decoded so far, its size checked. PNG that carries much beside the picture is opened without that."""
    formats = _available_formats()
    try:
        picture = Image.open(path, formats=formats)
        try:
            _check_size(path, picture.width * picture.height)
            picture.load()
        except BaseException:
            picture.close()
            raise
    except ValueError as error:
        if isinstance(error, _ReadError) or not (lean := png.without_text(path)):
            raise
        picture = Image.open(io.BytesIO(lean.file), formats=formats)
        _check_size(path, picture.width * picture.height)
        picture.load()
        if lean.profile:
            picture.info["icc_profile"] = lean.profile
    return picture


def _first_frame_of_use(picture: Image.Image, path: Path, note: Callable[[str], None] | None) -> Image.Image:
    """The first frame that shows anything, converted; the first of all where none does, or one that follows is damaged."""
    first = to_8_bit(ImageOps.exif_transpose(picture), path, picture.format)
    if not _is_blank(first):
        return first
    pixels = max(1, picture.width * picture.height)
    for number in range(1, min(MAX_FRAMES, MAX_FRAME_PIXELS // pixels)):
        try:
            picture.seek(number)
            _check_size(path, picture.width * picture.height)
            picture.load()
            frame = to_8_bit(ImageOps.exif_transpose(picture), path, picture.format)
        except (_ReadError, *_DECODER_ERRORS):  # EOFError after the last one
            break
        if not _is_blank(frame):
            if note:
                note(f"frame {number + 1} taken, the first with something in it")
            return frame
    return first


def _is_blank(picture: Image.Image) -> bool:
    """Whether RGB or RGBA shows nothing, or one colour alone."""
    if picture.mode == "RGBA" and picture.getchannel("A").getextrema()[1] == 0:
        return True
    return all(low == high for low, high in picture.getextrema())


class _ReadError(ValueError):
    """A finished message, to be told from a decoder's ValueError."""


def _available_formats() -> list[str]:
    Image.init()
    if "HEIF" not in Image.OPEN:
        for name in HEIF_READERS:
            with contextlib.suppress(ImportError):
                importlib.import_module(name).register_heif_opener()
                break
    return [name for name in FORMATS if name in Image.OPEN]


def _check_size(path: Path, pixels: int) -> None:
    if pixels > MAX_PIXELS:
        raise _ReadError(f"{path}: expected at most {MAX_PIXELS // 10**6} megapixels, got {pixels / 1e6:.0f} or more; scale it down first")


def _describe(path: Path, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "may not be read (permission denied)"
    if path.stat().st_size == 0:
        return "expected a picture, got an empty file"
    if isinstance(error, Image.UnidentifiedImageError):
        if _is_heif(path) and "HEIF" not in Image.OPEN:
            return "a HEIC picture, which needs one more package: pip install 'microdreamer-optimized[heif]'; or save it as JPEG"
        if _is_heif(path):
            return "the HEIC picture is damaged or cut short; get a whole copy"
        names = ", ".join(name for name in ("PNG", "JPEG", "WebP", "BMP", "TIFF", "GIF") if name.upper() in Image.OPEN)
        return f"not a picture this can read ({names}); convert it to PNG or JPEG, or check that the file is whole"
    return f"the picture is damaged or cut short ({' '.join(str(error).split()) or type(error).__name__}); get a whole copy"


def _is_heif(path: Path) -> bool:
    """Whether the file says so of itself, whatever its name: telephones send HEIC called .jpg, too."""
    with path.open("rb") as file:
        start = file.read(12)
    return start[4:8] == b"ftyp" and start[8:] in HEIF_BRANDS


def to_8_bit(picture: Image.Image, path: Path | str, file_format: str | None) -> Image.Image:
    """RGB or RGBA of any Pillow mode; colours go through the embedded profile where there is one.

    Raises ValueError, which calls the picture `path`, for numbers whose range is not known.
    """
    if picture.mode.startswith("I") or picture.mode == "F":
        return _grey_to_8_bit(picture, path, file_format)
    transparency = picture.info.get("transparency")
    if isinstance(transparency, tuple) and max(transparency) > 255:  # the key colour of a 16-bit PNG, whose pixels Pillow has cut to 8
        picture.info["transparency"] = tuple(value >> 8 for value in transparency)
    has_alpha = picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info
    if not has_alpha:
        return _to_srgb(picture)
    rgba = picture.convert("RGBA")
    colours = _to_srgb(rgba.convert("RGB"), picture.info.get("icc_profile"))
    colours.putalpha(rgba.getchannel("A"))
    return colours


def _grey_to_8_bit(picture: Image.Image, path: Path | str, file_format: str | None) -> Image.Image:
    values = np.asarray(picture).astype(np.float64)
    if picture.mode == "F":
        full_scale = 1.0
    elif picture.mode == "I" and file_format not in ("PNG", "PPM"):  # those two hold at most 16 bits, whatever Pillow's mode
        raise _ReadError(f"{path}: 32-bit integer pixels have no agreed range; save it with 8 or 16 bits a channel")
    else:
        full_scale = 65535.0
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= full_scale):
        raise _ReadError(
            f"{path}: expected float pixels in [0, 1], got {np.nanmin(values):.4g} to {np.nanmax(values):.4g}; rescale it first"
        )
    converted = Image.fromarray(np.round(values * (255 / full_scale)).astype(np.uint8)).convert("RGB")
    if isinstance(key := picture.info.get("transparency"), int):
        converted.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return converted


def _to_srgb(picture: Image.Image, profile: bytes | None = None) -> Image.Image:
    profile = profile or picture.info.get("icc_profile")
    if profile and picture.mode in ("RGB", "CMYK"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            return ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            pass  # a damaged profile or one for another colour space: show the colours as sRGB, as viewers do
    return picture.convert("RGB")


def _with_useful_alpha(picture: Image.Image, path: Path) -> Image.Image:
    if picture.mode != "RGBA":
        return picture
    low, high = picture.getchannel("A").getextrema()
    if high == 0:
        raise ValueError(
            f"{path}: nothing is visible, alpha is 0 everywhere; save the picture without its alpha channel or with the right one"
        )
    return picture.convert("RGB") if low == 255 else picture
