"""The picture that a run starts from: read, cut out where needed, squared; and as the reference view of a fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cam_utils import Cameras
from microdreamer.core.files import user_path
from microdreamer.distillation.sir import Reference
from microdreamer.images.preparation import prepared
from microdreamer.images.reading import read_image

MIN_SIDE = 16  # pixels; less shows no object
MAX_SIDE = 1024  # pixels; no prior sees more, and a phone's picture would cost seconds a resize


def load_picture(path: str | Path, recenter: bool = True, say: Callable[[str], None] | None = None) -> Tensor:
    """The object at `path` as straight RGBA [4,S,S] in [0,1], padded to a square; cut out and centred where it is not yet.

    See `preparation.prepared`; without `recenter` the object stays where it is. `say` is told in one line what was done, if anything.
    Raises FileNotFoundError or ValueError in one line for what is not a picture or holds no object.
    """
    path = user_path(path)
    done: list[str] = []
    picture = read_image(path, done.append)
    if min(picture.size) < MIN_SIDE:
        raise ValueError(
            f"{path}: expected at least {MIN_SIDE}x{MIN_SIDE} pixels, got {picture.width}x{picture.height}; take a larger picture"
        )
    try:
        picture, prepared_by = prepared(picture, recenter=recenter)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    done += [prepared_by] if prepared_by else []
    if say and done:
        say(f"{path}: {'; '.join(done)}")
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


def reference_view(picture: Tensor, camera: Cameras) -> Reference:
    """The RGBA picture [4,S,S] on white and its mask, at the size of `camera` (one view) and on its device."""
    rgba = picture[None].to(camera.device)
    white = rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:]
    size = (camera.height, camera.width)
    image, mask = (F.interpolate(layer, size, mode="bilinear", antialias=True).clamp(0, 1) for layer in (white, rgba[:, 3:]))
    return Reference(camera, image, mask)
