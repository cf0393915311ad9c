"""From a picture as people have it to the object that a run starts from: cut out where needed, framed where needed."""

from __future__ import annotations

from PIL import Image

from microdreamer.images.cutout import AUTO, Matting, separated
from microdreamer.images.framing import BORDER_RATIO, recentre, why_not_framed


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
