"""Stable Diffusion 2.1: a sentence -> one picture. It knows no cameras: the sentence says from where the object is seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from cam_utils import Cameras
from microdreamer.core.transfer import send
from microdreamer.guidance.base import NULL, Branch
from microdreamer.guidance.directions import DIRECTIONS, directions
from microdreamer.guidance.published.latent import LatentPrior, Parts
from microdreamer.guidance.published.presets import find_checkpoint
from microdreamer.guidance.published.pretrained import load_part
from microdreamer.guidance.published.text import TextEncoder
from microdreamer.guidance.sentences import distinct


@dataclasses.dataclass(frozen=True)
class StableDiffusionCondition:
    """States of the negative prompt [P,L,C] and of the prompt with each of DIRECTIONS [P,4,L,C]: P is 1, or one for each picture."""

    null: Tensor
    views: Tensor


class StableDiffusionPrior(LatentPrior):
    """Pictures of 512x512 pixels that know nothing of each other; for distillation more than for reconstruction."""

    name = "stable_diffusion"
    views = 1
    azimuth_spacing = None
    shared_elevation = False
    accepts = frozenset({"prompt"})
    by_direction = True

    def __init__(
        self,
        network: nn.Module,
        autoencoder: nn.Module | None = None,
        text_encoder: TextEncoder | None = None,
        memory: int | None = None,
    ):
        super().__init__(network, autoencoder, network.config.sample_size, memory)
        self.text_encoder = text_encoder
        self._null: tuple[str | None, Tensor | None] = (None, None)  # the last negative prompt, and its states

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
        return self.condition_each([prompt or ""], negative_prompt)

    def sentence_encoder(self) -> TextEncoder:
        return self.text_encoder

    @torch.no_grad()
    def condition_each(self, prompts: Sequence[str], negative_prompt: str | None = None) -> StableDiffusionCondition:
        if not all(prompts):
            raise ValueError('the stable_diffusion prior needs a sentence: pass prompt="..."')
        told, null = self._null
        if null is None or told != negative_prompt:
            null = self.text_encoder(negative_prompt)
            self._null = negative_prompt, null
        different, where = distinct(prompts)  # views of one object share a sentence
        views = self.text_encoder(*(f"{prompt}, {direction}" for prompt in different for direction in DIRECTIONS))
        views = views.unflatten(0, (-1, len(DIRECTIONS)))
        if len(different) < len(prompts):
            views = views[send(torch.tensor(where), views.device)]
        return StableDiffusionCondition(null.expand(len(prompts), -1, -1), views)

    def _network(self, x: Tensor, t: Tensor, tensors: Sequence[Tensor], features: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.network.with_features(x, t, tensors[0], features)

    def join(self, conditions: Sequence[StableDiffusionCondition]) -> StableDiffusionCondition:
        return StableDiffusionCondition(torch.cat([one.null for one in conditions]), torch.cat([one.views for one in conditions]))

    def _condition_of(self, condition: StableDiffusionCondition, groups: slice) -> StableDiffusionCondition:
        if len(condition.null) == 1:
            return condition
        return StableDiffusionCondition(condition.null[groups], condition.views[groups])

    def _states(self, told: str | Tensor, cameras: Cameras, condition: StableDiffusionCondition) -> Tensor:
        """What the cross-attention of each view reads, [V,L,C]."""
        count = len(cameras)
        null, by_direction = condition.null.expand(count, -1, -1), condition.views.expand(count, -1, -1, -1)
        if isinstance(told, Tensor):
            return torch.einsum("vk,vklc->vlc", told.to(null), torch.cat([null[:, None], by_direction], dim=1))
        if told == NULL:
            return null
        seen = self.once(cameras, lambda cameras: directions(cameras.elevation, cameras.azimuth))
        return by_direction.take_along_dim(seen.view(-1, 1, 1, 1), dim=1)[:, 0]

    def _batch(self, branches: Sequence[Branch], cameras: Cameras, condition: StableDiffusionCondition, key: Hashable) -> Tensor:
        self.check_objects(len(condition.null), len(cameras))
        states = torch.cat([self._states(branch.told, cameras, condition) for branch in branches]).to(self.device, self.dtype)
        x = torch.cat([branch.latents for branch in branches]).to(self.dtype)
        return self._evaluate(key, x, self._levels(branches), states).float()
