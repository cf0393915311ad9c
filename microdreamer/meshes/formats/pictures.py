"""Pictures that mesh files hold or name, and how to find files that another system named."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
from PIL import Image, UnidentifiedImageError

from microdreamer.images.reading import FORMATS, MAX_PIXELS

FORMATS = (*FORMATS, "DDS")
KTX2_MAGIC = b"\xabKTX 20\xbb\r\n\x1a\n"
KTX2_REMEDY = "pip install opengl-basisu, or save the mesh with PNG or JPEG textures"
# What Pillow's decoders raise on damaged files.
_DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, OverflowError, IndexError, KeyError, TypeError, struct.error, zlib.error)


def decoded(data: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    """(pixels [H,W,3], alpha [H,W] or None where it is 255 everywhere), uint8, of a picture file in memory.

    The file's values, whatever it says of colour spaces and orientation: mesh formats want them so. Raises ValueError for what is no
    picture, damaged, or of more than `images.reading.MAX_PIXELS`, and ImportError where KTX2 needs a package that is not there.
    """
    if data[: len(KTX2_MAGIC)] == KTX2_MAGIC:
        return _split(_ktx2(data))
    Image.init()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN]) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise ValueError(f"{picture.width} x {picture.height} pixels are too many; scale it down")
                picture.load()
                return _split(_rgba(picture))
    except Image.DecompressionBombError as error:
        raise ValueError("it has too many pixels; scale it down") from error
    except UnidentifiedImageError as error:  # its own message tells an address in memory
        raise ValueError("of no format that is known" if data else "an empty file") from error
    except _DECODER_ERRORS as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def _rgba(picture: Image.Image) -> np.ndarray:
    """uint8 [H,W,3 or 4] of a Pillow picture of any mode."""
    if picture.mode.startswith("I"):  # 16 bits a texel, which Pillow would cut off at 255
        grey = (np.asarray(picture, np.float64) / 257).clip(0, 255)
        return np.rint(grey).astype(np.uint8)[..., None].repeat(3, axis=2)
    if picture.mode == "F":
        return np.rint(np.asarray(picture).clip(0, 1) * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    has_alpha = picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info
    wanted = "RGBA" if has_alpha else "RGB"
    return np.asarray(picture if picture.mode == wanted else picture.convert(wanted))  # of one of that mode already it would be a copy


def _split(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    alpha = np.ascontiguousarray(values[..., 3]) if values.shape[2] == 4 and values[..., 3].min() < 255 else None
    return np.ascontiguousarray(values[..., :3]), alpha


def _ktx2(data: bytes) -> np.ndarray:
    try:
        import opengl_basisu
    except ImportError:
        raise ImportError(f"it is a KTX2 file, which takes a package: {KTX2_REMEDY}") from None
    try:
        texture = opengl_basisu.open(data)
        return np.asarray(texture.transcode(opengl_basisu.Target.RGBA8).data)
    except Exception as error:
        raise ValueError(f"not a KTX2 texture that can be read ({' '.join(str(error).split())})") from error


def find_file(name: str, folders: Iterable[Path]) -> Path | None:
    """The file that a mesh calls `name`, in one of `folders`, as written or as near to that as it takes; None if it is not there.

    Folders are set apart by / or \\; letters may be of another case. Of a path that is not there, the last part counts: files are
    written with the paths of another computer.
    """
    name = name.strip().strip('"')
    if not name:
        return None
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in (".", "/")]
    for folder in folders:
        path = Path(name)
        trials = [path] if path.is_absolute() or PureWindowsPath(name).is_absolute() else [folder / name, folder.joinpath(*parts)]
        for trial in trials:
            if _is_file(trial):
                return trial
    for tail in (parts, parts[-1:]):
        for folder in folders:
            if (found := _in_another_case(folder, tail)) is not None:
                return found
    return None


def _in_another_case(folder: Path, parts: list[str]) -> Path | None:
    for number, part in enumerate(parts):
        if part == "..":
            folder = folder.parent
            continue
        try:
            names = {entry.name.casefold(): entry for entry in sorted(folder.iterdir(), reverse=True)}
        except OSError:
            return None
        if (entry := names.get(part.casefold())) is None:
            return None
        folder = entry
        if number == len(parts) - 1:
            return folder if _is_file(folder) else None
    return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, or with a zero in it
        return False
