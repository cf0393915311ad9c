"""ImageDream: a picture, with a sentence or without, -> four views (Wang and Shi 2023, arXiv 2312.02201), with the pixel controller.

A fifth view carries the picture: the network sees its clean latents there at every step, and what it predicts for it is dropped.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from microdreamer.guidance.published.latent import Parts, clip_pixels, picture_on_white
from microdreamer.guidance.published.multiview_unet import MultiViewUNet
from microdreamer.guidance.published.mvdream import MultiViewCondition, MultiViewPrior
from microdreamer.guidance.published.presets import find_checkpoint
from microdreamer.guidance.published.pretrained import load_part
from microdreamer.guidance.published.text import TextEncoder


class ImageDreamPrior(MultiViewPrior):
    """Four views 90 degrees apart at one elevation, 256x256 pixels; azimuth 0 is the side that the picture shows."""

    name = "imagedream"
    accepts = frozenset({"image", "prompt"})

    def __init__(
        self,
        network: MultiViewUNet,
        autoencoder: nn.Module | None = None,
        text_encoder: TextEncoder | None = None,
        image_encoder: nn.Module | None = None,
        memory: int | None = None,
    ):
        super().__init__(network, autoencoder, text_encoder, memory)
        self.image_encoder = image_encoder

    @property
    def frames(self) -> int:
        return self.views + 1

    @classmethod
    def load(cls, path: Path | str | None, parts: Parts) -> ImageDreamPrior:
        """From a folder in the published layout, owner/name@revision, or (None) the preset. Raises FileNotFoundError or ValueError."""
        folder = find_checkpoint(cls.name, path)
        network = load_part(folder / "unet", "MultiViewUNetModel", parts.device, parts.dtype)
        if not network.config.ip_dim:
            raise ValueError(f"{folder}: not an ImageDream checkpoint (no ip_dim); pass prior=mvdream")
        autoencoder = load_part(folder / "vae", "AutoencoderKL", parts.device, parts.dtype)
        image_encoder = load_part(folder / "image_encoder", "CLIPVisionModel", parts.device, parts.dtype)
        return cls(network, autoencoder, TextEncoder.load(folder, parts), image_encoder, parts.memory)

    def image_tokens(self, picture: Tensor) -> Tensor:
        """All tokens after the last but one block of the image encoder, [1,257,1280], of a picture [1,3,S,S] in [0,1]."""
        pixels = clip_pixels(picture, self.image_encoder.config.image_size).to(self.dtype)
        return self.image_encoder.tokens(pixels, leave_out=1)

    @torch.no_grad()
    def condition(
        self, image: Tensor | None = None, prompt: str | None = None, negative_prompt: str | None = None, elevation: float = 0.0
    ) -> MultiViewCondition:
        """The null half: the negative prompt, image tokens of zeros (before the resampler) and a fifth view of zeros.

        The picture's latents are the mean of the encoder's posterior, so that runs do not differ before their first step.
        """
        self.check_condition(image, prompt)
        if image is None:
            raise ValueError("the imagedream prior needs a picture: pass input=picture.png")
        picture = picture_on_white(image.to(self.device), self.resolution)
        tokens, latents = self.image_tokens(picture), self.encode(picture)
        text = self.text_encoder(negative_prompt, prompt)
        return self.embed(text, torch.cat([torch.zeros_like(tokens), tokens]), torch.cat([torch.zeros_like(latents), latents]))
