"""MVDream: a sentence -> four views 90 degrees apart (Shi et al. 2023, arXiv 2308.16512)."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from cam_utils import Cameras
from microdreamer.core.rows import join_rows, map_tensors, per_row
from microdreamer.guidance.base import CONDITIONAL, NULL, Branch
from microdreamer.guidance.published.latent import LatentPrior, Parts
from microdreamer.guidance.published.layers import KeysValues
from microdreamer.guidance.published.multiview_unet import Context, MultiViewUNet
from microdreamer.guidance.published.presets import find_checkpoint
from microdreamer.guidance.published.pretrained import load_part
from microdreamer.guidance.published.text import TextEncoder

FRONT = 90.0  # degrees: these networks see an object's front from this azimuth, counted as `cam_utils` does


def camera_matrices(cameras: Cameras) -> Tensor:
    """The 16 numbers that the networks are told of each view, [V,16]: its pose in Blender's axes, on the unit sphere.

    The object is turned by `FRONT` about the vertical, so that azimuth 0 shows what the networks take for the front.
    """
    pose = cameras.camera_to_world
    # 90 degrees about +Y, (x, y, z) -> (z, y, -x), and then Blender's axes, (x, y, z) -> (x, -z, y): together (z, x, y).
    pose[:, :3] = pose[:, :3].roll(1, dims=1)
    pose[:, :3, 3] /= pose[:, :3, 3].norm(dim=-1, keepdim=True) + 1e-8
    return pose.flatten(1)


@dataclasses.dataclass(frozen=True)
class MultiViewCondition:
    """Projected text (and image) tokens of what a branch may be told, NULL or CONDITIONAL, and the picture's latents [P,C,h,w] for each.

    Their first dimension P is 1, or one for each group of views.
    """

    contexts: dict[str, Context]
    pixel_latents: dict[str, Tensor] | None = None
    _joined: dict[tuple[str, ...], Context] = dataclasses.field(default_factory=dict)

    def context(self, told: tuple[str, ...]) -> Context:
        """Of a batch of branches that are told these: always the same tensors."""
        if told not in self._joined:
            self._joined[told] = join_rows([self.contexts[one] for one in told])
        return self._joined[told]


def _rows(context: Context, rows: slice) -> Context:
    return map_tensors(lambda part: part[rows], context)


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
        self._null: tuple[str | None, Context | None] = (None, None)  # the last negative prompt, and what the network reads of it

    def sentence_encoder(self) -> TextEncoder:
        return self.text_encoder

    def _network(self, x: Tensor, t: Tensor, tensors: Sequence[Tensor], features: Tensor | None = None) -> tuple[Tensor, Tensor]:
        camera_embedding, *rest = tensors
        per_block = 4 if self.network.config.ip_dim else 2
        blocks, rest = rest[: per_block * len(self.network.blocks)], rest[per_block * len(self.network.blocks) :]
        context = tuple(KeysValues(*blocks[i : i + per_block], *[None] * (4 - per_block)) for i in range(0, len(blocks), per_block))
        pixel_latents = rest[0] if rest else None
        return self.network.with_features(x, t, context, camera_embedding, self.frames, pixel_latents, features)

    @torch.no_grad()
    def embed(self, text: Tensor, image_tokens: Tensor | None = None, pixel_latents: Tensor | None = None) -> MultiViewCondition:
        """Everything that stays the same during a run: text [2,L,C], image tokens [2,I,1280], pixel latents [2,4,h,w], null first."""
        halves = (part if part is None else part.to(self.device, self.dtype) for part in (text, image_tokens))
        both = self.network.embed_context(*halves)
        rows = {NULL: slice(0, 1), CONDITIONAL: slice(1, 2)}
        if pixel_latents is not None:
            pixel_latents = {told: pixel_latents[row].to(self.device, self.dtype) for told, row in rows.items()}
        return MultiViewCondition({told: _rows(both, row) for told, row in rows.items()}, pixel_latents)

    def join(self, conditions: Sequence[MultiViewCondition]) -> MultiViewCondition:
        contexts = {told: join_rows([one.contexts[told] for one in conditions]) for told in (NULL, CONDITIONAL)}
        pixels = None
        if conditions[0].pixel_latents is not None:
            pixels = {told: torch.cat([one.pixel_latents[told] for one in conditions]) for told in contexts}
        return MultiViewCondition(contexts, pixels)

    def _condition_of(self, condition: MultiViewCondition, groups: slice) -> MultiViewCondition:
        if len(condition.contexts[NULL][0].keys) == 1:
            return condition
        contexts = {told: _rows(context, groups) for told, context in condition.contexts.items()}
        pixels = condition.pixel_latents and {told: latents[groups] for told, latents in condition.pixel_latents.items()}
        return MultiViewCondition(contexts, pixels)

    def _embed_cameras(self, cameras: Cameras) -> Tensor:
        matrices = camera_matrices(cameras)
        if self.frames > self.views:  # the view that carries the picture has a camera of zeros
            grouped = matrices.unflatten(0, (-1, self.views))
            matrices = torch.cat([grouped, torch.zeros_like(grouped[:, :1])], dim=1).flatten(0, 1)
        return self.network.camera_embed(matrices.to(self.device, self.dtype))

    def _batch(self, branches: Sequence[Branch], cameras: Cameras, condition: MultiViewCondition, key: Hashable) -> Tensor:
        groups, told = len(cameras) // self.views, tuple(branch.told for branch in branches)
        self.check_objects(len(condition.contexts[NULL][0].keys), groups)
        camera_embedding = self.once(cameras, self._embed_cameras).repeat(len(branches), 1)
        x = torch.cat([branch.latents for branch in branches]).to(self.dtype).unflatten(0, (-1, self.views))
        pixels = []
        if condition.pixel_latents is not None:
            x = torch.cat([x, torch.zeros_like(x[:, :1])], dim=1)
            pixels = [torch.cat([condition.pixel_latents[one].expand(groups, -1, -1, -1) for one in told])]
        context = [part for block in condition.context(told) for part in block if part is not None]
        noise = self._evaluate(key, x.flatten(0, 1), self._levels(branches), camera_embedding, *context, *pixels)
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
        return self.condition_each([prompt or ""], negative_prompt)

    @torch.no_grad()
    def condition_each(self, prompts: Sequence[str], negative_prompt: str | None = None) -> MultiViewCondition:
        if not all(prompts):
            raise ValueError('the mvdream prior needs a sentence: pass prompt="..."')
        told, null = self._null
        if null is None or told != negative_prompt:
            null = self._context(self.text_encoder(negative_prompt))
            self._null = negative_prompt, null
        null = map_tensors(lambda part: part.expand(len(prompts), *part.shape[1:]), null)
        return MultiViewCondition({NULL: null, CONDITIONAL: self._context(self.text_encoder(*prompts))})

    def _context(self, text: Tensor) -> Context:
        """Keys and values of texts [P,L,C]."""
        return per_row(self.network.embed_context, text.to(self.device, self.dtype))
