"""Where the cameras of several pictures stand, drawn as seen from above: which way azimuths count is seen at a glance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from microdreamer.images.reference import PosedPicture, on_white
from microdreamer.images.writing import to_bytes

SIZE, ORBIT, THUMBNAIL, MIDDLE = 720, 236, 128, 180  # px: the plan, its circle, the pictures and the object in the middle
QUARTERS = {0: "front", 90: "right", 180: "back", 270: "left"}
GREY, BLUE = (150, 150, 150), (30, 90, 180)


def draw_plan(pictures: Sequence[PosedPicture], above: torch.Tensor | None = None) -> Image.Image:
    """The plan: the front is at the bottom, azimuths grow to the right. above [1,3,S,S] in [0,1]: the object from above, front down."""
    canvas = Image.new("RGB", (SIZE, SIZE), "white")
    draw, centre = ImageDraw.Draw(canvas), SIZE / 2
    if above is not None:
        middle = Image.fromarray(to_bytes(above)[0]).resize((MIDDLE, MIDDLE))
        canvas.paste(middle, (round(centre - MIDDLE / 2), round(centre - MIDDLE / 2)))
    draw.ellipse([centre - ORBIT, centre - ORBIT, centre + ORBIT, centre + ORBIT], outline=GREY, width=2)
    for azimuth, name in QUARTERS.items():
        _write(draw, _place(azimuth, 0.58 * ORBIT), f"{azimuth}°\n{name}", GREY)
    for number, one in enumerate(pictures, 1):
        x, y = _place(one.azimuth, ORBIT)
        draw.line([(x, y), _place(one.azimuth, 0.86 * ORBIT)], fill=BLUE, width=3)  # which way it looks
        white = to_bytes(on_white(one.picture[None].cpu()))[0]
        small = Image.fromarray(np.ascontiguousarray(white)).resize((THUMBNAIL, THUMBNAIL))
        left, top = round(x - THUMBNAIL / 2), round(y - THUMBNAIL / 2)
        canvas.paste(small, (left, top))
        draw.rectangle([left, top, left + THUMBNAIL, top + THUMBNAIL], outline=BLUE, width=2)
        up = "" if one.elevation == 0 else f", {abs(one.elevation):g}° {'above' if one.elevation < 0 else 'below'}"
        _write(draw, (x, top + THUMBNAIL + 14), f"{number}: {one.azimuth:g}°{up}", BLUE)
    return canvas


def _place(azimuth: float, distance: float) -> tuple[float, float]:
    angle = math.radians(azimuth)
    return SIZE / 2 + distance * math.sin(angle), SIZE / 2 + distance * math.cos(angle)


def _write(draw: ImageDraw.ImageDraw, place: tuple[float, float], words: str, colour: tuple[int, int, int]) -> None:
    draw.text(place, words, fill=colour, anchor="mm", font=ImageFont.load_default(18), align="center")
