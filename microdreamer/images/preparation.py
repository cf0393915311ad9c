"""From a picture as people have it to the object that a run starts from: cut out where needed, framed where needed."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from microdreamer.images.cutout import AUTO, CutOut, Matting, separated
from microdreamer.images.framing import BORDER_RATIO, SIZE, common_height, recentre, why_not_framed


def prepared(picture: Image.Image, model: str | Matting = AUTO, recenter: bool = True) -> tuple[Image.Image, str | None]:
    """The object of a picture as straight RGBA, and in one line what was done to get there, or None for nothing.

    A picture whose alpha is no cut-out loses its background. With `recenter`, what was cut out, and a cut-out that is not framed
    (`framing.why_not_framed`), is put in the middle of a square. Raises ValueError where there is no object.
    """
    found = separated(picture, model)
    said = [found.done] if found.done else []
    reason = why_not_framed(found.image)
    if not recenter or not (found.background_removed or reason):
        return found.image, "; ".join(said) or None
    if not found.background_removed:
        said.append(f"{reason} (recenter=false leaves it there)")
    said.append(f"centred, at {1 - BORDER_RATIO:.0%} of the side")
    return recentre(found.image), "; ".join(said)


def prepared_together(found: Sequence[CutOut], recenter: bool = True) -> tuple[list[Image.Image], str | None]:
    """One object cut out of several pictures, taken from around it at one elevation: equally high in all, and what was done in a line.

    Without `recenter`, and where all are framed cut-outs whose heights agree (`framing.common_height`), they stay as they are.
    """
    images = [one.image for one in found]
    height = common_height(images, any(one.background_removed for one in found)) if recenter else None
    if height is None:
        return images, None
    return [recentre(image, height=height) for image in images], f"centred, the object {height / SIZE:.0%} of the side high in each picture"
