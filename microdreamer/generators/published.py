"""Checkpoints of ScaleDreamer's multi-prompt systems: a generator, its background and how sharp its surfaces are, in one state_dict."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import Tensor

from microdreamer.fields.published import BOX, check_box
from microdreamer.fields.volsdf import inverse_deviation
from microdreamer.generators.backgrounds import PromptBackground, SharedBackground
from microdreamer.generators.base import ShapeGenerator

GEOMETRY, BACKGROUND, RENDERER = "geometry.", "background.", "renderer."
DEVIATION = f"{RENDERER}variance._inv_std"


def load_system(state: Mapping[str, Tensor], generator: ShapeGenerator, background: PromptBackground | SharedBackground) -> Tensor:
    """Fill `generator` and `background` from a system's state_dict; returns the sharpness that its shapes are rendered with.

    Every tensor must have its place, and every place its tensor: ValueError names those that do not, and nothing is changed then.
    """
    places = (GEOMETRY, BACKGROUND, RENDERER + BOX, DEVIATION)
    strange = sorted(name for name in state if not name.startswith(places))
    if strange or DEVIATION not in state:
        raise ValueError(
            f"published system: expected {GEOMETRY}*, {BACKGROUND}* and {DEVIATION}, "
            + (f"got {', '.join(strange)} too" if strange else f"got none of the name {DEVIATION}")
        )
    check_box(state, RENDERER, generator.spec.radius)
    copy.deepcopy(background).load_published(state, BACKGROUND)  # would it fit?
    generator.load_published(state, GEOMETRY)
    background.load_published(state, BACKGROUND)
    return inverse_deviation(state[DEVIATION])
