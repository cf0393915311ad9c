"""The pictures that a run starts from: read, cut out where needed, squared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from microdreamer.core.files import user_path
from microdreamer.images.cutout import AUTO, Matting, separated
from microdreamer.images.preparation import prepared, prepared_together
from microdreamer.images.reading import read_image, to_8_bit

MIN_SIDE = 16  # pixels; less shows no object
MAX_SIDE = 1024  # pixels; no prior sees more, and a phone's picture would cost seconds a resize
SAME_ELEVATION = 10.0  # degrees between cameras from which an object is about equally high
RANGE_TOLERANCE = 0.1  # by which floats may leave [0,1], as sharpened and resized pictures do

Say = Callable[[str], None]  # takes a line about what was done
Picture = str | Path | Image.Image | np.ndarray | Tensor


def as_picture(source: Picture, recenter: bool = True, say: Say | None = None) -> Tensor:
    """The object in a picture as straight RGBA [4,S,S] in [0,1]; see `reconstruct` for what may be given, `load_picture` for the rest.

    Raises ValueError in one line for an array or tensor of another shape, type or range, and as `load_picture`.
    """
    if isinstance(source, Tensor):
        return _checked(source)
    if isinstance(source, (np.ndarray, Image.Image)):
        return object_in(_opened(source, "picture"), "picture", recenter, say)
    return load_picture(source, recenter, say)


def as_pictures(sources: Sequence[Picture], elevations: Sequence[float], recenter: bool = True, say: Say | None = None) -> list[Tensor]:
    """One object in several pictures, each as of `as_picture`, of one size where their cameras are equally high.

    Those at elevations (degrees) within `SAME_ELEVATION` of one another are framed together (`preparation.prepared_together`), others
    each for itself. Tensors are taken as they are. Raises ValueError as `as_picture`.
    """
    if len(sources) <= 1:
        return [as_picture(source, recenter, say) for source in sources]
    done: dict[int, Tensor] = {index: _checked(source) for index, source in enumerate(sources) if isinstance(source, Tensor)}
    opened = {index: _named(source, index) for index, source in enumerate(sources) if not isinstance(source, Tensor)}
    while left := [index for index in opened if index not in done]:
        group = [index for index in left if abs(elevations[index] - elevations[left[0]]) <= SAME_ELEVATION]
        if len(group) == 1:
            picture, name, notes = opened[group[0]]
            done[group[0]] = object_in(picture, name, recenter, say, notes)
            continue
        found = []
        for index in group:
            picture, name, notes = opened[index]
            check_sides(picture, name)
            try:
                found.append(separated(picture))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            if say and (said := [*notes, *([found[-1].done] if found[-1].done else [])]):
                say(f"{name}: {'; '.join(said)}")
        images, together = prepared_together(found, recenter)
        if say and together:
            say(f"{', '.join(opened[index].name for index in group)}: {together}")
        done |= {index: squared(image) for index, image in zip(group, images, strict=True)}
    return [done[index] for index in range(len(sources))]


class _Opened(NamedTuple):
    """A picture, what it is called, and what was said of it."""

    picture: Image.Image
    name: str
    notes: list[str]


def _named(source: str | Path | Image.Image | np.ndarray, index: int) -> _Opened:
    if isinstance(source, (str, Path)):
        path, notes = user_path(source), []
        return _Opened(read_image(path, notes.append), str(path), notes)
    return _Opened(_opened(source, f"picture {index + 1}"), f"picture {index + 1}", [])


def _checked(source: Tensor) -> Tensor:
    if source.ndim != 3 or source.shape[0] != 4 or source.shape[1] != source.shape[2] or not source.numel():
        raise ValueError(f"picture: expected a tensor [4,S,S], got {list(source.shape)}")
    if source.dtype == torch.uint8:
        return source.float() / 255
    _check_range(source.dtype.is_floating_point, source.min(), source.max(), source.dtype)
    return source.detach().float().clamp(0, 1)


def _opened(source: np.ndarray | Image.Image, name: str) -> Image.Image:
    """An array or a PIL picture as RGB or RGBA."""
    if isinstance(source, np.ndarray):
        if source.ndim != 3 or source.shape[2] not in (3, 4):
            raise ValueError(f"picture: expected an array [H,W,3] or [H,W,4], got {list(source.shape)}")
        if source.dtype != np.uint8:
            _check_range(source.dtype.kind == "f", source.min(initial=0), source.max(initial=0), source.dtype)
            source = np.rint(np.clip(source.astype(np.float32), 0, 1) * 255).astype(np.uint8)
        source = Image.fromarray(source)
    return to_8_bit(source, name, source.format)


def _check_range(is_float: bool, least: Any, most: Any, kind: object) -> None:
    """Raise ValueError for numbers that are neither bytes nor floats in [0,1]; what lies a little outside of these is rounding."""
    if not is_float or not -RANGE_TOLERANCE <= float(least) <= float(most) <= 1 + RANGE_TOLERANCE:
        what = f"values from {float(least):.4g} to {float(most):.4g}" if is_float else str(kind)
        raise ValueError(f"picture: expected uint8, or floats in [0, 1], got {what}; convert it first")


def load_picture(path: str | Path, recenter: bool = True, say: Say | None = None) -> Tensor:
    """The object at `path` as straight RGBA [4,S,S] in [0,1], padded to a square; cut out and centred where it is not yet.

    See `preparation.prepared`; without `recenter` the object stays where it is. `say` is told in one line what was done, if anything.
    Raises FileNotFoundError or ValueError in one line for what is not a picture or holds no object.
    """
    path = user_path(path)
    notes: list[str] = []
    return object_in(read_image(path, notes.append), str(path), recenter, say, notes)


def object_in(
    picture: Image.Image,
    name: str,
    recenter: bool = True,
    say: Say | None = None,
    notes: Sequence[str] = (),
    model: str | Matting = AUTO,
) -> Tensor:
    """As `load_picture`, of an RGB or RGBA picture called `name`, cut out by `model`; `notes` were made of it already."""
    check_sides(picture, name)
    try:
        picture, done = prepared(picture, model, recenter)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if say and (said := [*notes, *([done] if done else [])]):
        say(f"{name}: {'; '.join(said)}")
    return squared(picture)


def check_sides(picture: Image.Image, name: str) -> None:
    """Raises ValueError in one line for a picture of too few pixels."""
    if min(picture.size) < MIN_SIDE:
        raise ValueError(
            f"{name}: expected at least {MIN_SIDE}x{MIN_SIDE} pixels, got {picture.width}x{picture.height}; take a larger picture"
        )


def squared(picture: Image.Image) -> Tensor:
    """An RGBA picture as a tensor [4,S,S] in [0,1], in the middle of a transparent square of at most `MAX_SIDE` pixels."""
    side = max(picture.size)
    square = Image.new("RGBA", (side, side), (255, 255, 255, 0))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    if side > MAX_SIDE:
        square = square.resize((MAX_SIDE, MAX_SIDE), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(square, dtype=np.float32) / 255).permute(2, 0, 1).contiguous()


def caption_beside(path: str | Path) -> str | None:
    """The sentence in `foo_caption.txt` for a picture `foo_rgba.*`, or None. Raises ValueError for a file that is not UTF-8 text."""
    path = user_path(path)
    caption = path.with_name(f"{path.stem.removesuffix('_rgba')}_caption.txt")
    if not path.stem.endswith("_rgba") or not caption.is_file():
        return None
    try:
        return " ".join(caption.read_text(encoding="utf-8").split()) or None
    except UnicodeDecodeError:
        raise ValueError(f"{caption}: expected a sentence in UTF-8; mend the file or pass prompt=...") from None
