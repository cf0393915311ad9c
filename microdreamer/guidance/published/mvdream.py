"""MVDream: a sentence -> four views 90 degrees apart (Shi et al. 2023, arXiv 2308.16512)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from cam_utils import Cameras
from microdreamer.guidance.published.latent import LatentPrior, Parts
from microdreamer.guidance.published.multiview_unet import Context, KeysValues, MultiViewUNet
from microdreamer.guidance.published.presets import find_checkpoint
from microdreamer.guidance.published.pretrained import load_part
from microdreamer.guidance.published.text import TextEncoder

FRONT = 90.0  # degrees: these networks see an object's front from this azimuth, counted as `cam_utils` does


def camera_matrices(cameras: Cameras) -> Tensor:
    """The 16 numbers that the networks are told of each view, [V,16]: its pose in Blender's axes, on the unit sphere.

    The object is turned by `FRONT` about the vertical, so that azimuth 0 shows what the networks take for the front.
    """
    to_front = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])  # by 90 degrees about +Y: +Z goes to +X
    to_blender = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # (x, y, z) -> (x, -z, y)
    pose = cameras.camera_to_world.clone()
    pose[:, :3] = (to_blender @ to_front).to(pose.device) @ pose[:, :3]
    pose[:, :3, 3] /= pose[:, :3, 3].norm(dim=-1, keepdim=True) + 1e-8
    return pose.flatten(1)


@dataclasses.dataclass(frozen=True)
class MultiViewCondition:
    """Projected text (and image) tokens by branches: null, conditional and both; pixel_latents [2,C,h,w] in that order."""

    contexts: dict[tuple[int, int], Context]
    pixel_latents: Tensor | None = None


class MultiViewPrior(LatentPrior):
    """What MVDream and ImageDream share: the network, the cameras, and groups of four views at one elevation."""

    views = 4
    azimuth_spacing = 90.0
    shared_elevation = True

    def __init__(
        self,
        network: MultiViewUNet,
        autoencoder: nn.Module | None = None,
        text_encoder: TextEncoder | None = None,
        memory: int | None = None,
    ):
        super().__init__(network, autoencoder, network.config.image_size, memory)
        self.text_encoder = text_encoder

    def _network(self, x: Tensor, t: Tensor, *tensors: Tensor) -> Tensor:
        camera_embedding, *rest = tensors
        per_block = 4 if self.network.config.ip_dim else 2
        blocks, rest = rest[: per_block * len(self.network.blocks)], rest[per_block * len(self.network.blocks) :]
        context = tuple(KeysValues(*(blocks[i : i + per_block] + [None] * (4 - per_block))) for i in range(0, len(blocks), per_block))
        pixel_latents = rest[0] if rest else None
        return self.network(x, t, context, camera_embedding, self.frames, pixel_latents)

    @torch.no_grad()
    def embed(self, text: Tensor, image_tokens: Tensor | None = None, pixel_latents: Tensor | None = None) -> MultiViewCondition:
        """Everything that stays the same during a run: text [2,L,C], image tokens [2,I,1280], pixel latents [2,4,h,w], null first."""
        halves = (part if part is None else part.to(self.device, self.dtype) for part in (text, image_tokens))
        both = self.network.embed_context(*halves)
        contexts = {(0, 2): both}
        for branch in range(2):
            contexts[branch, branch + 1] = tuple(
                KeysValues(*(part if part is None else part[branch : branch + 1] for part in block)) for block in both
            )
        return MultiViewCondition(contexts, None if pixel_latents is None else pixel_latents.to(self.device, self.dtype))

    def _embed_cameras(self, cameras: Cameras) -> Tensor:
        matrices = camera_matrices(cameras)
        if self.frames > self.views:  # the view that carries the picture has a camera of zeros
            grouped = matrices.unflatten(0, (-1, self.views))
            matrices = torch.cat([grouped, torch.zeros_like(grouped[:, :1])], dim=1).flatten(0, 1)
        return self.network.camera_embed(matrices.to(self.device, self.dtype))

    def _branches(self, latents: Tensor, t: int, cameras: Cameras, condition: MultiViewCondition, branches: slice) -> Tensor:
        count, groups = branches.stop - branches.start, len(latents) // self.views
        camera_embedding = self.once(cameras, self._embed_cameras).repeat(count, 1)
        x = latents.to(self.dtype).unflatten(0, (groups, self.views))
        pixels = []
        if condition.pixel_latents is not None:
            x = torch.cat([x, torch.zeros_like(x[:, :1])], dim=1)
            pixels = [condition.pixel_latents[branches].repeat_interleave(groups, dim=0)]
        x = x.flatten(0, 1).repeat(count, 1, 1, 1)
        context = [part for block in condition.contexts[branches.start, branches.stop] for part in block if part is not None]
        noise = self.call(x, self._levels(t, len(x)), camera_embedding, *context, *pixels)
        return noise.float().unflatten(0, (-1, self.frames))[:, : self.views].flatten(0, 1)


class MVDreamPrior(MultiViewPrior):
    """Four views 90 degrees apart at one elevation, 256x256 pixels, from a sentence."""

    name = "mvdream"
    accepts = frozenset({"prompt"})

    @classmethod
    def load(cls, path: Path | str | None, parts: Parts) -> MVDreamPrior:
        """From a folder in the published layout, owner/name@revision, or (None) the preset. Raises FileNotFoundError or ValueError."""
        folder = find_checkpoint(cls.name, path)
        network = load_part(folder / "unet", "MultiViewUNetModel", parts.device, parts.dtype)
        if network.config.ip_dim:
            raise ValueError(f"{folder}: an ImageDream checkpoint; pass prior=imagedream")
        autoencoder = load_part(folder / "vae", "AutoencoderKL", parts.device, parts.dtype)
        return cls(network, autoencoder, TextEncoder.load(folder, parts), parts.memory)

    @torch.no_grad()
    def condition(
        self, image: Tensor | None = None, prompt: str | None = None, negative_prompt: str | None = None, elevation: float = 0.0
    ) -> MultiViewCondition:
        """The null half of guidance is the negative prompt; both halves know the cameras."""
        self.check_condition(image, prompt)
        if not prompt:
            raise ValueError('the mvdream prior needs a sentence: pass prompt="..."')
        return self.embed(self.text_encoder(negative_prompt, prompt))
