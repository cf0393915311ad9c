"""Where an object lies in its picture: measured, and put in the middle of a square."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from microdreamer.images.alpha import VISIBLE

SIZE, BORDER_RATIO = 512, 0.2  # of a cut-out: pixels a side, and the share of them left free
LEAST_FILL, MOST_FILL = 0.5, 0.95  # of the square's side: an object as large as this and
OFF_CENTRE = 0.05  # of the side, no further from the middle, and
LEAST_MARGIN = 0.01  # of the side, no nearer to the border, is framed
HEIGHT_TOLERANCE = 1.25  # between heights of one object from several sides, which perspective makes: a near side looks larger
SAME_SIDE = 1.02  # between sizes that count as equal


def visible_box(image: Image.Image) -> tuple[int, int, int, int]:
    """Left, top, right, bottom (right and bottom excluded) of what an RGBA picture shows. Raises ValueError where that is nothing."""
    visible = np.asarray(image.getchannel("A")) > VISIBLE
    rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    if rows.size == 0:
        raise ValueError(f"expected a picture with something visible in it, got alpha of at most {VISIBLE} of 255 everywhere")
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def why_not_framed(image: Image.Image) -> str | None:
    """None where the object of an RGBA picture, padded to a square, is framed; else what is wrong, for a message.

    Framed: its box's longer side is 50 % to 95 % of the square's, its middle lies within 5 % of the side of the square's, and there
    is 1 % of the side all around it.
    """
    left, top, right, bottom = visible_box(image)
    side = max(image.size)
    fill = max(right - left, bottom - top) / side
    off = max(abs(left + right - image.width), abs(top + bottom - image.height)) / (2 * side)
    padding = (side - image.width) / 2, (side - image.height) / 2
    margin = min(left + padding[0], image.width - right + padding[0], top + padding[1], image.height - bottom + padding[1])
    if not LEAST_FILL <= fill <= MOST_FILL:
        return f"the object filled {fill:.0%} of the picture's side"
    if off > OFF_CENTRE:
        return f"the object lay {off:.0%} of the picture's side off its middle"
    if margin < LEAST_MARGIN * side:
        return "the object touched the picture's border"
    return None


def common_height(images: Sequence[Image.Image], anyway: bool = False, size: int = SIZE, border_ratio: float = BORDER_RATIO) -> int | None:
    """The height in pixels that one object has to have in all of several RGBA pictures, taken from around it at one elevation.

    The largest at which each box's longer side is at most round(size * (1 - border_ratio)) pixels. None, unless `anyway`, where all are
    framed and agree already: their boxes are equally high within `HEIGHT_TOLERANCE`, and not each scaled to its own longer side.
    """
    boxes = [visible_box(image) for image in images]
    shares = [(bottom - top) / max(image.size) for image, (_, top, _, bottom) in zip(images, boxes, strict=True)]
    longer = [max(right - left, bottom - top) for left, top, right, bottom in boxes]
    longer_shares = [side / max(image.size) for side, image in zip(longer, images, strict=True)]
    agree = max(shares) <= HEIGHT_TOLERANCE * min(shares) and max(longer_shares) > SAME_SIDE * min(longer_shares)
    equal = max(shares) <= SAME_SIDE * min(shares)
    if not anyway and (agree or equal) and not any(map(why_not_framed, images)):
        return None
    most = round(size * (1 - border_ratio))
    return max(1, round(min(most * (bottom - top) / side for (_, top, _, bottom), side in zip(boxes, longer, strict=True))))


def recentre(image: Image.Image, size: int = SIZE, border_ratio: float = BORDER_RATIO, height: int | None = None) -> Image.Image:
    """The visible part of an RGBA picture, centred in a transparent square of `size` pixels.

    Its box becomes `height` pixels high; without one, its longer side becomes round(size * (1 - border_ratio)) pixels. Raises ValueError
    where nothing is visible.
    """
    left, top, right, bottom = visible_box(image)
    scale = round(size * (1 - border_ratio)) / max(right - left, bottom - top) if height is None else height / (bottom - top)
    width, height = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    part = image.crop((left, top, right, bottom)).convert("RGBa")
    if (factor := int(0.25 / scale)) > 1:  # averages first what a longer filter would do slowly
        part = part.reduce(factor)
    scaled = Image.fromarray(_resample(np.asarray(part), width, height))
    canvas = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    canvas.paste(scaled, ((size - width) // 2, (size - height) // 2))
    return canvas


def _resample(premultiplied: np.ndarray, width: int, height: int) -> np.ndarray:
    """Straight RGBA uint8 [height,width,4] from premultiplied [h,w,4], by Lanczos.

    In floats: the filter overshoots at edges in colours and alpha alike, so their ratio is right before either is clipped.
    """
    channels = [Image.fromarray(premultiplied[..., c].astype(np.float32)) for c in range(4)]
    red, green, blue, alpha = (np.asarray(channel.resize((width, height), Image.Resampling.LANCZOS)) for channel in channels)
    colours = np.dstack([red, green, blue]) * (255 / np.maximum(alpha, 0.5))[..., None]
    return np.round(np.clip(np.dstack([colours, alpha]), 0, 255)).astype(np.uint8)
