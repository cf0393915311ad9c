"""A prior around another one: the same levels, sizes, cameras and latents, with answers of its own."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from microdreamer.guidance.base import Prior

TAKEN_OVER = ("name", "resolution", "views", "azimuth_spacing", "shared_elevation", "schedule", "accepts", "references", "device", "dtype")


class WrappedPrior(Prior):
    """Passes everything on to `prior` but `condition` and `predict_noise`, which subclasses give.

    One run's own; the prior beneath may serve others meanwhile. Its count of evaluations is that of the prior beneath.
    """

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = prior
        for name in TAKEN_OVER:
            setattr(self, name, getattr(prior, name))

    @property
    def evaluations(self) -> int:
        return self.prior.evaluations

    @evaluations.setter
    def evaluations(self, count: int) -> None:
        self.prior.evaluations = count

    def sharing_features(self, interval: int) -> AbstractContextManager[None]:
        return self.prior.sharing_features(interval)

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.prior.encode(images, generator)

    def decode(self, latents: Tensor) -> Tensor:
        return self.prior.decode(latents)

    def latent_shape(self, views: int) -> tuple[int, ...]:
        return self.prior.latent_shape(views)
