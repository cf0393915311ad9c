"""A prior that knows the object: every answer is what its true views ask for, so that what is still missed is the fit's fault."""

from __future__ import annotations

import torch
from torch import Tensor

from cam_utils import Cameras
from microdreamer.guidance.base import Prior
from microdreamer.shapes.packed import PackedMeshes
from microdreamer.shapes.render import over_white, render_views


class TruePrior(Prior):
    """Stands in for `prior`: its levels, sizes and demands on cameras, but the views of object `index` of `meshes` for answers.

    The noise in latents x at level t is (x - sqrt(a) x0) / sqrt(1 - a) with the true views' latents x0, whatever it was conditioned
    on, so that sampling from any level ends at the truth. `meshes` are on the prior's device.
    """

    def __init__(self, prior: Prior, meshes: PackedMeshes, index: int):
        super().__init__()
        self.prior, self.meshes, self.index = prior, meshes, index
        for name in ("name", "resolution", "views", "azimuth_spacing", "shared_elevation", "schedule", "accepts", "device", "dtype"):
            setattr(self, name, getattr(prior, name))
        self._seen: tuple[Cameras, Tensor] | None = None  # cameras last asked for, and the latents of what they see

    def condition(self, image: Tensor | None = None, prompt: str | None = None, negative_prompt=None, elevation: float = 0.0) -> None:
        self.check_condition(image, prompt)

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.prior.encode(images, generator)

    def decode(self, latents: Tensor) -> Tensor:
        return self.prior.decode(latents)

    def latent_shape(self, views: int) -> tuple[int, ...]:
        return self.prior.latent_shape(views)

    @torch.no_grad()
    def predict_noise(self, latents: Tensor, t: int, cameras: Cameras, condition: object, guidance_scale: float | None) -> Tensor:
        self.check_cameras(cameras)
        self.evaluations += 1 if guidance_scale in (None, 1.0) else 2
        if self._seen is None or self._seen[0] is not cameras:
            views = over_white(render_views(self.meshes, self.index, cameras.resized(self.resolution, self.resolution)))
            self._seen = cameras, self.encode(views)
        alpha = self.schedule.alpha(t)
        return (latents - alpha**0.5 * self._seen[1]) / (1 - alpha) ** 0.5
