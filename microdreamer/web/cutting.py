"""The cut-out that a run of the page starts from, made before the run, so that it can be looked at and corrected."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from microdreamer.core.errors import UserError, user_errors
from microdreamer.images.cutout import AUTO, EMBEDDED, GRABCUT, Matting, load_matting
from microdreamer.images.framing import recentre
from microdreamer.images.reading import read_image
from microdreamer.pipeline.pictures import object_in, squared
from microdreamer.web.orders import check_picture, decoding

# How an object is told from its background, by what the page calls it.
KEEP_ALPHA = "keep my alpha"
WAYS = {"automatic": AUTO, "network": EMBEDDED, "colours (GrabCut)": GRABCUT, KEEP_ALPHA: None}
MIDDLE = 0.5  # threshold that changes nothing


class Cut(NamedTuple):
    """A square RGBA picture, and what was done to get there, in a line (may be empty)."""

    image: Image.Image
    said: str


def cut(path: Path, way: str = "automatic", threshold: float = MIDDLE, recenter: bool = True) -> Cut:
    """The object in the picture at `path`.

    way: a key of WAYS. threshold: in (0,1), of how sure it is that a pixel belongs to the object; lower ones keep more. Raises UserError
    in one line, in which the file has no folder.
    """
    try:
        with user_errors():
            if way not in WAYS:
                raise ValueError(f"{way}: expected one of {', '.join(WAYS)}")
            if not 0 < threshold < 1:
                raise ValueError(f"threshold={threshold}: expected a number between 0 and 1")
            check_picture(path)
            with decoding:
                return _cut(path, WAYS[way], threshold, recenter)
    except UserError as error:
        raise UserError(str(error).replace(f"{path.parent}/", "").replace("--model of process.py", "way of cutting it out")) from None


def _cut(path: Path, model: str | None, threshold: float, recenter: bool) -> Cut:
    said: list[str] = []
    picture = read_image(path, said.append)
    if model is None:
        if picture.mode != "RGBA":
            raise ValueError(f"{path}: has no alpha to keep; choose another way of cutting it out")
        rgba = squared(recentre(picture) if recenter else picture)
    else:
        rgba = object_in(picture, path.name, recenter, said.append, model=shifted(load_matting(model), threshold))
    pixels = np.rint(rgba.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    return Cut(Image.fromarray(pixels, "RGBA"), "; ".join(said).replace(f"{path.name}: ", ""))


def shifted(matting: Matting, threshold: float) -> Matting:
    """The same, with the half of its alpha where `threshold` of it was: a ramp through there that is as wide as it can be."""
    if threshold == MIDDLE:
        return matting
    width = 2 * min(threshold, 1 - threshold)
    return lambda rgb: np.clip((matting(rgb) - threshold) / width + 0.5, 0, 1).astype(np.float32)
