"""Zero123-XL and Stable-Zero123: a picture and a camera relative to it -> one view (Liu et al. 2023, arXiv 2303.11328)."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from cam_utils import Cameras
from microdreamer.guidance.base import CONDITIONAL, NULL, Branch
from microdreamer.guidance.published.latent import LatentPrior, Parts, clip_pixels, picture_on_white
from microdreamer.guidance.published.presets import find_checkpoint
from microdreamer.guidance.published.pretrained import load_part


def camera_numbers(cameras: Cameras, elevation: float, stable: bool) -> Tensor:
    """[V,4]: elevation from the picture's (downwards, radians), sine and cosine of the azimuth, and what the variant wants fourth.

    elevation: degrees at which the picture was taken. Fourth is the picture's polar angle for Stable-Zero123 and for
    Zero123-XL the distance from the picture's, which is 0.
    """
    down, azimuth = torch.deg2rad(cameras.elevation - elevation), torch.deg2rad(cameras.azimuth)
    fourth = torch.full_like(down, 90 + elevation).deg2rad() if stable else torch.zeros_like(down)
    return torch.stack([down, azimuth.sin(), azimuth.cos(), fourth], dim=-1)


@dataclasses.dataclass(frozen=True)
class Zero123Condition:
    """The picture's CLIP embedding [1,C], its latents [1,4,h,w] before any scaling, and its elevation in degrees."""

    embedding: Tensor
    latents: Tensor
    elevation: float


class Zero123Prior(LatentPrior):
    """One view at a time from anywhere around the object, 256x256 pixels; views of a batch do not know of each other."""

    views = 1
    azimuth_spacing = None
    shared_elevation = False
    accepts = frozenset({"image"})

    def __init__(
        self,
        name: str,
        network: nn.Module,
        projection: nn.Module,
        autoencoder: nn.Module | None = None,
        image_encoder: nn.Module | None = None,
        memory: int | None = None,
    ):
        super().__init__(network, autoencoder, network.config.sample_size, memory)
        self.name, self.stable = name, name == "stable_zero123"
        self.projection, self.image_encoder = projection, image_encoder
        self._condition: Zero123Condition | None = None

    @classmethod
    def load(cls, name: str, path: Path | str | None, parts: Parts) -> Zero123Prior:
        """`zero123_xl` or `stable_zero123`, from a folder in the published layout, owner/name@revision, or (None) the preset.

        The two have the same tensors and differ in what the camera's fourth number means, so the name decides.
        """
        folder = find_checkpoint(name, path)
        classes = {
            "unet": "UNet2DConditionModel",
            "clip_camera_projection": "CLIPCameraProjection",
            "vae": "AutoencoderKL",
            "image_encoder": "CLIPVisionModelWithProjection",
        }
        return cls(name, *(load_part(folder / part, kind, parts.device, parts.dtype) for part, kind in classes.items()), parts.memory)

    @torch.no_grad()
    def condition(
        self, image: Tensor | None = None, prompt: str | None = None, negative_prompt: str | None = None, elevation: float = 0.0
    ) -> Zero123Condition:
        """The picture's latents are the mean of the encoder's posterior, as in training, so that runs do not differ before they start."""
        self.check_condition(image, prompt)
        if image is None:
            raise ValueError(f"the {self.name} prior needs a picture: pass input=picture.png")
        if negative_prompt:
            raise ValueError(f"the {self.name} prior does not read: remove negative_prompt")
        picture = picture_on_white(image.to(self.device), self.resolution)
        pixels = clip_pixels(picture, self.image_encoder.config.image_size).to(self.dtype)
        embedding = self.image_encoder(pixels)
        return Zero123Condition(embedding, self.encode(picture) / self.scaling, elevation)

    def _network(self, x: Tensor, t: Tensor, tensors: Sequence[Tensor], features: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.network.with_features(x, t, tensors[0], features)

    def tokens(self, cameras: Cameras, condition: Zero123Condition) -> Tensor:
        """The token that stands for picture and camera, [V,1,C]."""
        numbers = camera_numbers(cameras, condition.elevation, self.stable).to(self.device, self.dtype)
        embedding = condition.embedding.to(self.device, self.dtype).expand(len(cameras), -1)
        return self.projection(torch.cat([embedding, numbers], dim=-1))[:, None]

    def _batch(self, branches: Sequence[Branch], cameras: Cameras, condition: Zero123Condition, key: Hashable) -> Tensor:
        """The null half has a token of zeros (after the projection) and zeros for the picture's latents."""
        if condition is not self._condition:
            self._last, self._condition = (None, None), condition
        token = self.once(cameras, lambda cameras: self.tokens(cameras, condition))
        picture = condition.latents.to(self.device, self.dtype).expand(len(cameras), -1, -1, -1)
        halves = {CONDITIONAL: (picture, token), NULL: (picture * 0, token * 0)}
        x = torch.cat([torch.cat([branch.latents.to(self.dtype), halves[branch.told][0]], dim=1) for branch in branches])
        return self._evaluate(key, x, self._levels(branches), torch.cat([halves[branch.told][1] for branch in branches])).float()
