"""Stable Diffusion 2.1: a sentence -> one picture. It knows no cameras: the sentence says from where the object is seen."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from cam_utils import Cameras
from microdreamer.guidance.directions import DIRECTIONS, directions
from microdreamer.guidance.published.latent import CONDITIONAL, NULL, LatentPrior, Parts
from microdreamer.guidance.published.presets import find_checkpoint
from microdreamer.guidance.published.pretrained import load_part
from microdreamer.guidance.published.text import TextEncoder


@dataclasses.dataclass(frozen=True)
class StableDiffusionCondition:
    """States of the negative prompt [1,L,C] and of the prompt with each of DIRECTIONS [4,L,C]."""

    null: Tensor
    views: Tensor


class StableDiffusionPrior(LatentPrior):
    """Pictures of 512x512 pixels that know nothing of each other; for distillation more than for reconstruction."""

    name = "stable_diffusion"
    views = 1
    azimuth_spacing = None
    shared_elevation = False
    accepts = frozenset({"prompt"})

    def __init__(
        self,
        network: nn.Module,
        autoencoder: nn.Module | None = None,
        text_encoder: TextEncoder | None = None,
        memory: int | None = None,
    ):
        super().__init__(network, autoencoder, network.config.sample_size, memory)
        self.text_encoder = text_encoder

    @classmethod
    def load(cls, path: Path | str | None, parts: Parts) -> StableDiffusionPrior:
        """From a folder in the published layout, owner/name@revision, or (None) the preset. Raises FileNotFoundError or ValueError."""
        folder = find_checkpoint(cls.name, path)
        network = load_part(folder / "unet", "UNet2DConditionModel", parts.device, parts.dtype)
        autoencoder = load_part(folder / "vae", "AutoencoderKL", parts.device, parts.dtype)
        return cls(network, autoencoder, TextEncoder.load(folder, parts), parts.memory)

    @torch.no_grad()
    def condition(
        self, image: Tensor | None = None, prompt: str | None = None, negative_prompt: str | None = None, elevation: float = 0.0
    ) -> StableDiffusionCondition:
        self.check_condition(image, prompt)
        if not prompt:
            raise ValueError('the stable_diffusion prior needs a sentence: pass prompt="..."')
        states = self.text_encoder(negative_prompt, *(f"{prompt}, {direction}" for direction in DIRECTIONS))
        return StableDiffusionCondition(states[:1], states[1:])

    def _network(self, x: Tensor, t: Tensor, *tensors: Tensor) -> Tensor:
        return self.network(x, t, encoder_hidden_states=tensors[0], return_dict=False)[0]

    def _branches(self, latents: Tensor, t: int, cameras: Cameras, condition: StableDiffusionCondition, branches: slice) -> Tensor:
        count = branches.stop - branches.start
        seen = self.once(cameras, lambda cameras: directions(cameras.elevation, cameras.azimuth))
        halves = {NULL: condition.null.expand(len(latents), -1, -1), CONDITIONAL: condition.views[seen]}
        states = torch.cat([halves[branch] for branch in range(branches.start, branches.stop)]).to(self.device, self.dtype)
        x = latents.to(self.dtype).repeat(count, 1, 1, 1)
        return self.call(x, self._levels(t, len(x)), states).float()
