"""Several pictures of one object with any prior: with one that takes one picture a condition for each, and each view led by the pictures
nearest to it.

A prior's own world has its picture at azimuth 0. For a picture elsewhere the cameras are turned by its azimuth, so that the prior sees
them from where that picture is the front.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from cam_utils import Cameras, orbit_direction
from microdreamer.core.transfer import send
from microdreamer.guidance.base import Prior, classifier_free
from microdreamer.guidance.wrapped import WrappedPrior
from microdreamer.images.reference import PosedPicture

if TYPE_CHECKING:
    from microdreamer.guidance.micro.network import Surfaces

NEARNESS = 20.0  # degrees farther off by which a picture has 1/e of the say


def conditioned(
    prior: Prior,
    pictures: Sequence[PosedPicture],
    prompt: str | None = None,
    negative_prompt: str | None = None,
    elevation: float = 0.0,
) -> tuple[Prior, object]:
    """The prior to ask, and what it makes of the pictures and the sentence: the one place where pictures become a condition.

    Without a picture (then `elevation` is that of the views), or with one at azimuth 0, that is `prior` and its own condition; also with
    as many as it takes at once (`Prior.references`) if one of them is at azimuth 0. Raises ValueError for what it cannot take.
    """
    if not pictures:
        return prior, prior.condition(None, prompt, negative_prompt, elevation)
    front = next((one for one in pictures if one.azimuth == 0), pictures[0])
    if 1 < len(pictures) <= prior.references:
        others = [one._replace(azimuth=one.azimuth - front.azimuth) for one in pictures if one is not front]
        conditions = (prior.condition(front.picture, prompt, negative_prompt, front.elevation, others=others),)
        places = ((front.elevation, front.azimuth),)
    else:
        conditions = tuple(prior.condition(one.picture, prompt, negative_prompt, one.elevation) for one in pictures)
        places = tuple((one.elevation, one.azimuth) for one in pictures)
    if len(conditions) == 1 and places[0][1] == 0:
        return prior, conditions[0]
    return NearestPictures(prior), PosedConditions(conditions, places)


class PosedConditions(NamedTuple):
    """What a prior makes of each picture, and the (elevation, azimuth) of its camera, in degrees."""

    conditions: tuple[object, ...]
    places: tuple[tuple[float, float], ...]


class NearestPictures(WrappedPrior):
    """A prior that is led by several pictures: its conditional noise in each view is that of the pictures' conditions, by `nearness`.

    A guided call is one branch for each picture and the null one.
    """

    def __init__(self, prior: Prior) -> None:
        super().__init__(prior)
        self.tells_surfaces = prior.tells_surfaces
        self._last: tuple[Cameras | None, tuple[Cameras, ...], Tensor | None] = (None, (), None)  # what `_seen_from` made of which cameras

    def condition(
        self, image: Tensor | None = None, prompt: str | None = None, negative_prompt: str | None = None, elevation: float = 0.0
    ) -> object:
        """Of one picture, for the prior beneath; see `conditioned` for several."""
        return self.prior.condition(image, prompt, negative_prompt, elevation)

    def predict_noise(self, latents: Tensor, t: int, cameras: Cameras, condition: PosedConditions, guidance_scale: float | None) -> Tensor:
        if guidance_scale is None:
            return self.prior.predict_noise(latents, t, cameras, condition.conditions[0], None)
        turned, shares = self._seen_from(cameras, condition.places)
        parts = [self.prior.predict_noise(latents, t, *seen, 1.0) for seen in zip(turned, condition.conditions, strict=True)]
        led = torch.einsum("vr,rv...->v...", shares.to(parts[0].dtype), torch.stack(parts))
        if guidance_scale == 1:
            return led
        return classifier_free(self.prior.predict_noise(latents, t, cameras, condition.conditions[0], None), led, guidance_scale)

    def predict_surfaces(self, latents: Tensor, t: int, cameras: Cameras, condition: PosedConditions) -> tuple[Tensor, Surfaces]:
        """Each view is told by the picture that is nearest to it: surfaces of several in one would lie between them."""
        turned, shares = self._seen_from(cameras, condition.places)
        told = [self.prior.predict_surfaces(latents, t, *seen) for seen in zip(turned, condition.conditions, strict=True)]
        nearest, views = shares.argmax(dim=1), torch.arange(len(cameras), device=shares.device)

        def chosen(*parts: Tensor) -> Tensor:
            return torch.stack(parts)[nearest, views]

        surfaces = [own for _, own in told]
        names = [field.name for field in dataclasses.fields(surfaces[0])]
        fields = {name: chosen(*(getattr(own, name) for own in surfaces)) for name in names}
        return chosen(*(pictures for pictures, _ in told)), dataclasses.replace(surfaces[0], **fields)

    def _seen_from(self, cameras: Cameras, places: Sequence[tuple[float, float]]) -> tuple[tuple[Cameras, ...], Tensor]:
        """The cameras as each picture's condition has them, and the pictures' shares in each view."""
        before, turned, shares = self._last
        if before is not cameras or shares is None:
            turned = tuple(cameras.turned(azimuth) for _, azimuth in places)
            shares = send(nearness(cameras, places), cameras.device)
            self._last = cameras, turned, shares
        return turned, shares


def nearness(cameras: Cameras, places: Sequence[tuple[float, float]]) -> Tensor:
    """How much each of R pictures at (elevation, azimuth) has to say about each of V views, [V,R]: shares that add up to 1 and fall
    with the angle between the two cameras."""
    elevation, azimuth = torch.tensor(places, dtype=torch.float64).unbind(1)
    views = orbit_direction(cameras.elevation.double().cpu(), cameras.azimuth.double().cpu())
    angle = torch.rad2deg(torch.acos((views @ orbit_direction(elevation, azimuth).T).clamp(-1, 1)))
    return torch.softmax(-angle / NEARNESS, dim=1).float()
