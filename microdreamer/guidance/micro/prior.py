"""The micro prior: the project's own multi-view diffusion model, shipped in weights/micro_prior (see its model card)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cam_utils import FOV_Y, RADIUS, Cameras
from microdreamer.core import profiler
from microdreamer.core.ahead import in_background
from microdreamer.core.machine import load_libraries
from microdreamer.core.rows import map_tensors, per_row
from microdreamer.core.transfer import send
from microdreamer.core.unfilled import unfilled
from microdreamer.guidance.base import CONDITIONAL, NULL, Branch, Prior, asked, classifier_free
from microdreamer.guidance.checkpoints import complete, load_sharded
from microdreamer.guidance.micro.attention import Attention
from microdreamer.guidance.micro.network import (
    PATCH,
    SLOTS,
    Conv3x3,
    MultiViewNetwork,
    ReferenceCache,
    Surfaces,
    camera_features,
    pixel_rays,
)
from microdreamer.guidance.micro.sentences import MicroSentenceEncoder, read_folder
from microdreamer.guidance.micro.vocabulary import Vocabulary
from microdreamer.guidance.schedule import NoiseSchedule
from microdreamer.images.reference import on_white

LOG_SNR_SHIFT, MIN_LOG_SNR = -4.0, -14.0
# Sampling ends here and takes the network's clean views there. A network with a skip, which has 64 channels for the 48 values of a pixel
# block, leaves more noise than it removes above -2; shape and colour are settled below about -4. One without goes on.
END_WITH_SKIP, END = -2.0, 4.0
CLEANEST = 8.0  # log-SNR of the least noise in training: that of clean latents


@dataclasses.dataclass(frozen=True)
class MicroCondition:
    """Reference caches of one object, or of one for each group of views, for each thing that a branch may be told."""

    halves: dict[str, ReferenceCache]  # NULL and CONDITIONAL
    has_image: tuple[bool, ...]  # of each object
    _joined: dict[tuple[str, ...], ReferenceCache] = dataclasses.field(default_factory=dict)

    def cache(self, told: tuple[str, ...]) -> ReferenceCache:
        """Of a batch of branches that are told these."""
        if told not in self._joined:
            self._joined[told] = _cache_map(_cat, *_as_many_slots([self.halves[one] for one in told]))
        return self._joined[told]


def _as_many_slots(caches: Sequence[ReferenceCache]) -> list[ReferenceCache]:
    """The caches with the references of each over and over until all have as many."""
    tokens = [cache.reference[0][0].shape[1] for cache in caches]

    def with_slots(cache: ReferenceCache, times: int) -> ReferenceCache:
        return dataclasses.replace(cache, reference=map_tensors(lambda part: part.repeat(1, times, 1, 1), cache.reference))

    return [cache if own == max(tokens) else with_slots(cache, max(tokens) // own) for cache, own in zip(caches, tokens, strict=True)]


def _cat(*parts: Tensor) -> Tensor:
    return torch.cat(parts)


def _cache_map(function: Callable[..., Tensor], *caches: ReferenceCache) -> ReferenceCache:
    reference, text = (map_tensors(function, *(getattr(cache, name) for cache in caches)) for name in ("reference", "text"))
    return ReferenceCache(reference, text, function(*(cache.pooled for cache in caches)))


class MicroPrior(Prior):
    """Four views 90 degrees apart at one elevation, 128x128 pixels, from a picture, a sentence, both or nothing.

    Latents are pictures in [-1,1]. The network was trained for cameras at distance 2 with a vertical field of view of 49.1
    degrees; cameras elsewhere are taken to be there.
    """

    name = "micro"
    views = 4
    azimuth_spacing = 90.0
    shared_elevation = True
    accepts = frozenset({"image", "prompt"})

    def __init__(self, network: MultiViewNetwork, vocabulary: Vocabulary, dtype: torch.dtype = torch.float32):
        """dtype: bfloat16 multiplies in it, as training did, and adds up in float32; the shipped weights are exact in either."""
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.dtype = dtype
        for module in network.modules():
            if isinstance(module, (nn.Linear, Conv3x3, Attention)):  # what autocast would convert again in each call
                module.to(dtype)
        self.vocabulary = vocabulary
        self._sentences = MicroSentenceEncoder(network.text, vocabulary, dtype)
        self._null: tuple[str | None, ReferenceCache | None] = (None, None)  # the last negative prompt, and what became of it
        self.resolution, self.references = network.config.resolution, network.config.references
        self.tells_surfaces = network.config.geometry
        self.device = next(network.parameters()).device
        self.schedule = NoiseSchedule.shifted_cosine(LOG_SNR_SHIFT, MIN_LOG_SNR, END_WITH_SKIP if network.config.skip else END)

    @classmethod
    def load(cls, path: Path | str | None = None, device: torch.device | str = "cpu", precision: str = "float32") -> MicroPrior:
        """Read config.json and the weights of a folder (default: the shipped one). precision: see `choose_dtype`.

        Raises FileNotFoundError or ValueError in one line for a folder that is not a whole, matching checkpoint.
        """
        dtype = choose_dtype(torch.device(device), precision)
        libraries = in_background(lambda: load_libraries(device, dtype))
        folder, config, vocabulary = read_folder(path)
        with unfilled():
            network = MultiViewNetwork(config)
        prior = cls(complete(network, load_sharded(folder), folder, device), vocabulary, dtype)
        libraries.join()
        return prior

    def latent_shape(self, views: int) -> tuple[int, ...]:
        return views, 3, self.resolution, self.resolution

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return images * 2 - 1

    def decode(self, latents: Tensor) -> Tensor:
        return latents * 0.5 + 0.5

    def _cache(self, pictures: Sequence[Tensor], tokens: Tensor, azimuth: Sequence[float], elevation_up: Sequence[float]) -> ReferenceCache:
        """Of one object's pictures [4,H,W] and where they were taken from, in degrees; none: of a white one from azimuth 0."""
        side, count = self.resolution // PATCH, 1 if len(pictures) < 2 else SLOTS
        turn, up = (torch.zeros(1, count, device=self.device) for _ in range(2))
        images = torch.ones(1, count, 3, self.resolution, self.resolution, device=self.device)
        present = torch.full_like(up, float(len(pictures) > 0))
        for slot in range(count if pictures else 0):
            number = slot % len(pictures)
            turn[0, slot], up[0, slot] = azimuth[number], elevation_up[number]
            image = on_white(pictures[number].to(self.device)[None])
            size = (self.resolution, self.resolution)
            images[0, slot] = (F.interpolate(image, size, mode="bilinear", antialias=True, align_corners=False) * 2 - 1)[0]
        camera = camera_features(turn, up, is_reference=True, known=present, present=present)
        with self._autocast():
            return self.network.encode_reference(images, pixel_rays(turn, up, RADIUS, tan_half(), side), camera, tokens)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    @torch.no_grad()
    @profiler.function
    def condition(
        self,
        image: Tensor | None = None,
        prompt: str | None = None,
        negative_prompt: str | None = None,
        elevation: float = 0.0,
        others: Sequence[tuple[Tensor, float, float]] = (),
    ) -> MicroCondition:
        """`others`: more pictures of the object, each as (RGBA, elevation, azimuth from the first picture's camera), in degrees.

        Raises ValueError for more pictures than `references`.
        """
        pictures = ([] if image is None else [image]) + [picture for picture, _, _ in others]
        for picture in pictures or [None]:
            self.check_condition(picture, prompt)
        if others and image is None:
            raise ValueError("other pictures without the first one, whose camera they are told from")
        if len(pictures) > self.references:
            raise ValueError(f"{len(pictures)} pictures: these weights of the micro prior take at most {self.references}")
        turns, elevations = [0.0] + [turn for _, _, turn in others], [elevation] + [own for _, own, _ in others]
        tokens = self._sentences.tokens([self._sentences.understood(prompt)])
        conditional = self._cache(pictures, tokens, turns, [-one for one in elevations])
        null = self._cache([], self._sentences.tokens([self._sentences.understood(negative_prompt)]), [], [])
        return MicroCondition({NULL: null, CONDITIONAL: conditional}, (len(pictures) > 0,))

    def check_sentence(self, sentence: str) -> None:
        self._sentences.check(sentence)

    def sentence_encoder(self) -> MicroSentenceEncoder:
        return self._sentences

    @torch.no_grad()
    @profiler.function
    def condition_each(self, prompts: Sequence[str], negative_prompt: str | None = None) -> MicroCondition:
        """Only the captions are encoded: without a picture every reference is that of the null half."""
        count = len(prompts)
        pooled, tokens = self._sentences.states(prompts)
        with self._autocast():
            text = per_row(self.network.text_keys, tokens)
        null = _cache_map(lambda part: part.expand(count, *part.shape[1:]), self._null_of(negative_prompt))
        return MicroCondition({NULL: null, CONDITIONAL: ReferenceCache(null.reference, text, pooled)}, (False,) * count)

    def _null_of(self, negative_prompt: str | None) -> ReferenceCache:
        told, cache = self._null
        if cache is None or told != negative_prompt:
            cache = self._cache([], self._sentences.tokens([negative_prompt]), [], [])
            self._null = negative_prompt, cache
        return cache

    def join(self, conditions: Sequence[MicroCondition]) -> MicroCondition:
        halves = {told: _cache_map(_cat, *_as_many_slots([one.halves[told] for one in conditions])) for told in (NULL, CONDITIONAL)}
        return MicroCondition(halves, tuple(has for one in conditions for has in one.has_image))

    def _clean(
        self, branches: Sequence[Branch], cameras: Cameras, condition: MicroCondition, geometry: bool = False
    ) -> list[Tensor] | tuple[Tensor, Surfaces]:
        """The clean views [V,3,R,R] of each branch, in one network call; with `geometry` those of all in one, and their surfaces."""
        count, groups = len(branches), len(cameras) // self.views
        self.evaluations += count
        for branch in branches:
            self.check_told(branch.told)
        noisy = torch.cat([branch.latents.unflatten(0, (groups, self.views)) for branch in branches])
        azimuth = cameras.azimuth.reshape(groups, -1).repeat(count, 1)
        up = -cameras.elevation.reshape(groups, -1).repeat(count, 1)
        self.check_objects(len(condition.has_image), groups)
        objects = condition.has_image if len(condition.has_image) > 1 else condition.has_image * groups
        has_image = torch.tensor([float(has and branch.told == CONDITIONAL) for branch in branches for has in objects])
        present = send(has_image.to(azimuth.dtype), self.device)[:, None].expand_as(azimuth)
        rays = pixel_rays(azimuth, up, RADIUS, tan_half(), self.resolution // PATCH)
        camera = camera_features(azimuth, up, is_reference=False, known=torch.ones_like(up), present=present)
        levels = [level for branch in branches for level in self.group_levels(branch.t, len(branch.latents))]
        log_snr = send(torch.tensor([min(self.schedule.log_snr(level), CLEANEST) for level in levels]), self.device)
        cache = condition.cache(tuple(branch.told for branch in branches))
        if len(condition.has_image) < groups:
            cache = _cache_map(lambda part: part.repeat_interleave(groups, dim=0), cache)
        with self._autocast():
            if geometry:
                return self.network.denoise(noisy, log_snr, rays, camera, cache, geometry)
            clean = self._answer(asked(branches, condition), noisy, log_snr, rays, camera, cache)
        return [part.flatten(0, 1) for part in clean.chunk(count)]

    def _answer(self, key: Hashable, *inputs: Any) -> Tensor:
        """The network's clean views, with the deep features of an earlier call of this key where evaluations share them."""
        if self.features is None or key is None:
            return self.network.denoise(*inputs)

        def whole() -> tuple[Tensor, Tensor]:
            return self.network.denoise_with_features(*inputs)

        return self.features.answer(key, whole, lambda features: self.network.denoise_with_features(*inputs, features)[0])

    @torch.no_grad()
    def predict_clean(self, latents: Tensor, t: int, cameras: Cameras, condition: MicroCondition, guidance_scale: float | None) -> Tensor:
        """The clean views that `predict_noise` implies, before any rounding through the noise."""
        self.check_cameras(cameras)
        if guidance_scale in (None, 1.0):
            told = NULL if guidance_scale is None else CONDITIONAL
            return self._clean([Branch(latents, t, told)], cameras, condition)[0]
        conditional, null = self._clean([Branch(latents, t, CONDITIONAL), Branch(latents, t, NULL)], cameras, condition)
        return classifier_free(null, conditional, guidance_scale)

    @torch.no_grad()
    def predict_surfaces(self, latents: Tensor, t: int, cameras: Cameras, condition: MicroCondition) -> tuple[Tensor, Surfaces]:
        self.check_cameras(cameras)
        if not self.tells_surfaces:
            raise ValueError("these weights of the micro prior tell colours alone, not surfaces")
        clean, surfaces = self._clean([Branch(latents, t, CONDITIONAL)], cameras, condition, geometry=True)
        told = surfaces.in_scene()
        return self.decode(clean.flatten(0, 1)), Surfaces(*(part.flatten(0, 1) for part in (told.depth, told.coverage, told.albedo)))

    @profiler.function
    def predict_noise(self, latents: Tensor, t: int, cameras: Cameras, condition: MicroCondition, guidance_scale: float | None) -> Tensor:
        # The noise is affine in the clean views, so guiding either is the same.
        clean = self.predict_clean(latents, t, cameras, condition, guidance_scale)
        alpha = self.schedule.alpha(t)
        return (latents - alpha**0.5 * clean) / (1 - alpha) ** 0.5

    @torch.no_grad()
    @profiler.function
    def predict_each(self, branches: Sequence[Branch], cameras: Cameras, condition: MicroCondition) -> list[Tensor]:
        noise = []
        for branch, clean in zip(branches, self._clean(branches, cameras, condition), strict=True):
            alpha = self.view_alphas(branch.t, branch.latents)
            noise.append((branch.latents - alpha.sqrt() * clean) / (1 - alpha).sqrt())
        return noise


# Values of ONEDNN_MAX_CPU_ISA, which keeps PyTorch's products to older instructions, that leave out those of bfloat16.
WITHOUT_BFLOAT16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}


def choose_dtype(device: torch.device, precision: str) -> torch.dtype:
    """What the micro prior multiplies in. auto: bfloat16 on a CPU with AVX-512's products of it, float32 elsewhere.

    On other CPUs bfloat16 is many times slower than float32; on a GPU the network's time is launches. Raises ValueError
    for float16, which the network was not trained in, and for bfloat16 on a GPU.
    """
    if precision == "auto":
        supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)  # no public name tells; some versions may lack this one
        allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() not in WITHOUT_BFLOAT16
        has_products = device.type == "cpu" and supported() and allowed
        return torch.bfloat16 if has_products else torch.float32
    if precision == "bfloat16" and device.type == "cpu":
        return torch.bfloat16
    if precision != "float32":
        raise ValueError(f"precision={precision}: the micro prior computes in float32, or in bfloat16 on the CPU; pass precision=auto")
    return torch.float32


def tan_half() -> float:
    """Tangent of half the field of view that the network was trained with."""
    return float(torch.tan(torch.deg2rad(torch.tensor(FOV_Y / 2, dtype=torch.float64))))
