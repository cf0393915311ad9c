"""What the priors of the Stable Diffusion family share: an autoencoder, a schedule, guidance, and batches that fit into memory."""

from __future__ import annotations

import abc
import dataclasses
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cam_utils import Cameras
from microdreamer.core import profiler
from microdreamer.core.cuda_graphs import GraphedFunction, GraphedGradient
from microdreamer.core.transfer import send
from microdreamer.guidance.base import CONDITIONAL, NULL, Branch, Prior, asked, classifier_free
from microdreamer.guidance.names import PRECISIONS
from microdreamer.guidance.published.autoencoder import Autoencoder
from microdreamer.guidance.published.inference import for_inference
from microdreamer.guidance.samplers import normal
from microdreamer.guidance.schedule import NoiseSchedule
from microdreamer.images.reference import on_white

Made = TypeVar("Made")

LOG_VARIANCES = (-30.0, 20.0)  # of the autoencoder's posterior, as it was trained
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

# Memory of one call beyond the weights, in bytes per latent pixel and byte of the data type. The tensors of the full-size networks
# take 8 400 and 61 000 of it; the rest is for the libraries' workspaces. benchmarks/priors.py measures both.
NETWORK_BYTES = 16_000
AUTOENCODER_BYTES = 100_000
# With a gradient the encoder keeps 172 000 values per latent pixel, above all what enters and leaves norms; the rest is for the way back.
GRADIENT_BYTES = 300_000
CPU_MEMORY = 8 * 2**30  # bytes a call may take on the CPU unless told


@dataclasses.dataclass(frozen=True)
class Parts:
    """Where the modules of a prior are and in which type: half precision on a GPU unless told, float32 on the CPU."""

    device: torch.device
    dtype: torch.dtype
    memory: int | None = None  # bytes that one call may take beyond the weights; None: a quarter of what is free

    @classmethod
    def choose(cls, device: torch.device | str, precision: str = PRECISIONS[0], memory_gib: float | None = None) -> Parts:
        """precision: auto, float32, float16 or bfloat16. Raises ValueError for half precision on the CPU, which is far slower there."""
        device = torch.device(device)
        if precision == "auto":
            precision = "float16" if device.type == "cuda" else "float32"
        if device.type == "cpu" and precision != "float32":
            raise ValueError(f"precision={precision}: the CPU computes in float32; pass precision=auto")
        return cls(device, getattr(torch, precision), None if memory_gib is None else int(memory_gib * 2**30))


def picture_on_white(image: Tensor, size: int) -> Tensor:
    """Straight RGBA [4,H,W] on a white background as [1,3,size,size]."""
    return F.interpolate(on_white(image[None].float()), (size, size), mode="bilinear", antialias=True).clamp(0, 1)


def clip_pixels(images: Tensor, size: int) -> Tensor:
    """Square pictures [B,3,S,S] in [0,1] as CLIP's encoders take them: bicubic to `size`, mean and deviation removed."""
    images = F.interpolate(images, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
    return (images - images.new_tensor(CLIP_MEAN)[:, None, None]) / images.new_tensor(CLIP_STD)[:, None, None]


class _GradientOutOfUnits(torch.autograd.Function):
    """x in the given type; its gradient, which arrives in units of `scale`, in float32 as it is. See `_GradientInUnits`."""

    @staticmethod
    def forward(ctx, x: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.scale, ctx.dtype = scale, x.dtype
        return x.to(dtype)

    @staticmethod
    def backward(ctx, v_x: Tensor) -> tuple[Tensor, None, None]:
        return v_x.to(ctx.dtype) * ctx.scale, None, None


class _GradientInUnits(torch.autograd.Function):
    """x in float32; its gradient in x's type and in units of its largest value in each picture, which is left in `scale`.

    Half precision has few small numbers, and a gradient may be of any size: divided by the number of views, multiplied by a weight.
    """

    @staticmethod
    def forward(ctx, x: Tensor, scale: Tensor) -> Tensor:
        ctx.scale, ctx.dtype = scale, x.dtype
        return x.to(torch.promote_types(x.dtype, torch.float32))

    @staticmethod
    def backward(ctx, v_x: Tensor) -> tuple[Tensor, None]:
        ctx.scale.copy_(v_x.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny))
        return (v_x / ctx.scale).to(ctx.dtype), None


class _GraphedEncoding(torch.autograd.Function):
    """The encoder's posterior [B,2C,h,w] of pictures, forward and backward by graphs.

    Launched one by one, the encoder's kernels take the host several times as long as the GPU. Gradients travel in units of the largest
    value of each picture, as in `_GradientInUnits`.
    """

    @staticmethod
    def forward(ctx, x: Tensor, prior: LatentPrior) -> Tensor:
        ctx.prior = prior
        ctx.save_for_backward(x)
        out, ctx.token = prior.encoder_with_gradient.forward(x.to(prior.dtype))
        return out.float()

    @staticmethod
    def backward(ctx, v_out: Tensor) -> tuple[Tensor, None]:
        (x,), prior = ctx.saved_tensors, ctx.prior
        scale = v_out.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        v_x = prior.encoder_with_gradient.backward(x.to(prior.dtype), (v_out / scale).to(prior.dtype), ctx.token)
        return v_x.float() * scale, None


class LatentPrior(Prior):
    """Noise prediction on the latents of Stable Diffusion's autoencoder, with classifier-free guidance."""

    def __init__(self, network: nn.Module, autoencoder: Autoencoder | None, side: int, memory: int | None = None):
        """side: latent pixels a side that the network was trained with; memory: bytes of one call (None: a quarter of what is free)."""
        super().__init__()
        self.network, self.autoencoder, self.side = network, autoencoder, side
        weight = next(network.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        self.schedule = NoiseSchedule.scaled_linear()
        self.scaling, self.channels, downscale = 0.18215, 4, 8
        if autoencoder is not None:
            config = autoencoder.config
            self.scaling, self.channels = config.scaling_factor, config.latent_channels
            downscale = 2 ** (len(config.block_out_channels) - 1)
        self.resolution = side * downscale
        if self.device.type == "cuda":
            for module in (network, autoencoder):
                if module is not None:
                    for_inference(module)
        if memory is None:
            # The graphs of network, encoder and decoder keep what their calls take, so each may take a quarter.
            memory = torch.cuda.mem_get_info(self.device)[0] // 4 if self.device.type == "cuda" else CPU_MEMORY
        pixels = side**2 * self.dtype.itemsize
        self.max_latents = max(memory // (NETWORK_BYTES * pixels), 1)  # of one network call
        self.max_pictures = max(memory // (AUTOENCODER_BYTES * pixels), 1)  # of one call of the autoencoder
        self.max_pictures_with_gradient = max(memory // (GRADIENT_BYTES * pixels), 1)
        turns = threading.Lock()  # of the network, whose layers hand each other what they share
        self.call = GraphedFunction(self._noise, turns)
        self.call_keeping = GraphedFunction(lambda x, t, *tensors: self._network(x, t, tensors), turns)
        self.call_sharing = GraphedFunction(lambda x, t, features, *tensors: self._network(x, t, tensors, features)[0], turns)
        self.call_encoder = GraphedFunction(self._posterior)
        self.encoder_with_gradient = GraphedGradient(self._posterior)
        self.call_decoder = GraphedFunction(lambda latents: self.autoencoder.decode(latents))
        self._last: tuple[Cameras | None, object] = (None, None)
        self._seen: Cameras | None = None  # the cameras last checked

    @abc.abstractmethod
    def _network(self, x: Tensor, t: Tensor, tensors: Sequence[Tensor], features: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One call of the network as a function of tensors alone, which graphs may replay: noise and deep features, or those given."""

    def _noise(self, x: Tensor, t: Tensor, *tensors: Tensor) -> Tensor:
        return self._network(x, t, tensors)[0]

    @abc.abstractmethod
    def _batch(self, branches: Sequence[Branch], cameras: Cameras, condition: object, key: Hashable) -> Tensor:
        """Noise of all branches in one call of the network, by `_evaluate`: [branches * V,...] in float32."""

    def _evaluate(self, key: Hashable, x: Tensor, t: Tensor, *tensors: Tensor) -> Tensor:
        """The network's answer, with the deep features of an earlier call of the same `key` where this thread's evaluations share them."""
        if self.features is None or key is None:
            return self.call(x, t, *tensors)

        def whole() -> tuple[Tensor, Tensor]:
            return self.call_keeping(x, t, *tensors)

        return self.features.answer(key, whole, lambda features: self.call_sharing(x, t, features, *tensors))

    @property
    def frames(self) -> int:
        """Latents that a group of `views` costs in a batch: more where it carries the picture along."""
        return self.views

    def latent_shape(self, views: int) -> tuple[int, ...]:
        return views, self.channels, self.side, self.side

    @profiler.function
    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A sample of the encoder's posterior (its mean where there is no generator), times the scaling factor."""
        parts = []
        encode = self._encode_with_gradient if torch.is_grad_enabled() and images.requires_grad else self._encode
        for part in encode(images.to(self.device)):
            mean, log_variance = part.chunk(2, dim=1)
            if generator is not None:
                deviation = (0.5 * log_variance.clamp(*LOG_VARIANCES)).exp()
                mean = mean + deviation * normal(mean.shape, generator, self.device)
            parts.append(mean * self.scaling)
        return torch.cat(parts)

    def _encode(self, images: Tensor) -> Iterator[Tensor]:
        """Means and log-variances [B,2C,h,w] of the encoder's posterior, for as many pictures at a time as fit into memory."""
        for part in images.split(self.max_pictures):
            yield self.call_encoder((part * 2 - 1).to(self.dtype)).float()

    def _encode_with_gradient(self, images: Tensor) -> Iterator[Tensor]:
        """As `_encode`, differentiable. Where not all activations fit into memory, those of a part are computed again for its gradient."""
        several = len(images) > self.max_pictures_with_gradient
        for part in images.split(self.max_pictures_with_gradient):
            if self.device.type == "cuda":
                yield _GraphedEncoding.apply(part * 2 - 1, self)
                continue
            scale = torch.ones(len(part), 1, 1, 1, device=self.device)
            x = _GradientOutOfUnits.apply(part * 2 - 1, scale, self.dtype)
            out = checkpoint(self.call_encoder, x, use_reentrant=False) if several else self.call_encoder(x)
            yield _GradientInUnits.apply(out, scale)

    def _posterior(self, x: Tensor) -> Tensor:
        """Means and log-variances [B,2C,h,w] of the encoder for pictures in [-1,1]."""
        return self.autoencoder.encode(x)

    @profiler.function
    def decode(self, latents: Tensor) -> Tensor:
        parts = (self.call_decoder(part.to(self.dtype) / self.scaling) for part in latents.split(self.max_pictures))
        return torch.cat([part.float() for part in parts]) * 0.5 + 0.5

    @torch.no_grad()
    @profiler.function
    def predict_noise(self, latents: Tensor, t: int, cameras: Cameras, condition: object, guidance_scale: float | None) -> Tensor:
        if self._seen is not cameras:
            self.check_cameras(cameras)
            self._seen = cameras
        if guidance_scale in (None, 1.0):
            told = NULL if guidance_scale is None else CONDITIONAL
            return self.predict_each([Branch(latents, t, told)], cameras, condition)[0]
        return classifier_free(*self.predict_branches(latents, t, cameras, condition), guidance_scale)

    @torch.no_grad()
    @profiler.function
    def predict_each(self, branches: Sequence[Branch], cameras: Cameras, condition: object) -> list[Tensor]:
        for branch in branches:
            self.check_told(branch.told)
            if len(branch.latents) != len(cameras):
                raise ValueError(f"{len(branch.latents)} latents and {len(cameras)} cameras: expected as many")
        self.evaluations += len(branches)
        groups = len(cameras) // self.views
        if len(branches) * groups * self.frames <= self.max_latents:
            return list(self._batch(branches, cameras, condition, asked(branches, condition)).chunk(len(branches)))
        step = max(self.max_latents // self.frames, 1)
        parts = [slice(start, start + step) for start in range(0, groups, step)]
        return [torch.cat([self._one_part(branch, cameras, condition, part) for part in parts]) for branch in branches]

    def _one_part(self, branch: Branch, cameras: Cameras, condition: object, groups: slice) -> Tensor:
        """Noise of one branch of some of the groups."""
        views = slice(groups.start * self.views, groups.stop * self.views)
        levels = self.group_levels(branch.t, len(branch.latents))[groups]
        told = branch.told[views] if isinstance(branch.told, Tensor) else branch.told
        key = asked([branch], condition, groups.start)
        return self._batch([Branch(branch.latents[views], levels, told)], cameras[views], self._condition_of(condition, groups), key)

    def _condition_of(self, condition: object, groups: slice) -> object:
        """What holds for some of the groups of a condition that may be one of several; see `join`."""
        return condition

    def _levels(self, branches: Sequence[Branch]) -> Tensor:
        """Levels of all that a call of the network evaluates, `frames` for each group."""
        levels = [float(level) for branch in branches for level in self.group_levels(branch.t, len(branch.latents))]
        if len(set(levels)) == 1:
            return torch.full((len(levels) * self.frames,), levels[0], device=self.device)
        return send(torch.tensor(levels).repeat_interleave(self.frames), self.device)

    def once(self, cameras: Cameras, make: Callable[[Cameras], Made]) -> Made:
        """make(cameras), computed once for the cameras of consecutive calls."""
        if self._last[0] is not cameras:
            self._last = cameras, make(cameras)
        return self._last[1]
