"""What every diffusion prior offers: condition it once, then encode, predict noise, decode."""

from __future__ import annotations

import abc
import threading

import torch
from torch import Tensor

from cam_utils import Cameras
from microdreamer.guidance.names import PRIORS
from microdreamer.guidance.schedule import NoiseSchedule

MAX_SPACING_ERROR = 1.0  # degrees by which cameras may miss a prior's fixed azimuth spacing


def classifier_free(noise_null: Tensor, noise_cond: Tensor, scale: float) -> Tensor:
    """Guided noise `null + scale (cond - null)` (Ho and Salimans 2022, equation 6 with w = scale - 1)."""
    return torch.lerp(noise_null, noise_cond, scale)


class Prior(abc.ABC):
    """A diffusion model that knows what objects look like from `views` sides at once.

    Subclasses set the attributes below and implement `condition`, `encode`, `decode` and `predict_noise`. Cameras follow
    `cam_utils`: azimuth 0 is the front (for a picture: the side it shows), elevation is positive from below.
    """

    name: str  # a key of PRIORS
    resolution: int  # pixels: pictures are [V,3,resolution,resolution]
    views: int  # views of one object that are denoised together; a batch holds whole groups of them
    azimuth_spacing: float | None  # degrees between the views of a group, or None if they may stand anywhere
    shared_elevation: bool  # whether the views of a group must have one elevation
    schedule: NoiseSchedule
    accepts: frozenset[str]  # of "image" and "prompt"
    device: torch.device
    dtype: torch.dtype = torch.float32  # in which it multiplies

    def __init__(self) -> None:
        self._counts = threading.local()  # several runs may share a prior, each in its thread

    @property
    def evaluations(self) -> int:
        """Network branches evaluated so far from this thread; a guided call is two."""
        return getattr(self._counts, "evaluations", 0)

    @evaluations.setter
    def evaluations(self, count: int) -> None:
        self._counts.evaluations = count

    @abc.abstractmethod
    def condition(
        self,
        image: Tensor | None = None,  # [4,H,W], straight (not premultiplied) RGBA in [0,1]
        prompt: str | None = None,
        negative_prompt: str | None = None,
        elevation: float = 0.0,  # degrees at which the picture was taken
    ) -> object:
        """Prepare whatever of picture and prompt is there for `predict_noise`. Implementations start with `check_condition`."""

    @abc.abstractmethod
    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Pictures [V,3,R,R] in [0,1] -> latents [V,...]; `generator` serves encoders that sample."""

    @abc.abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Latents [V,...] -> pictures [V,3,R,R]; values may leave [0,1] a little."""

    @abc.abstractmethod
    def predict_noise(self, latents: Tensor, t: int, cameras: Cameras, condition: object, guidance_scale: float | None) -> Tensor:
        """Noise in `latents` [V,...] at level `t`, V a multiple of `views` whose groups of neighbours show one object.

        guidance_scale None: the unconditional score alone; 1: the conditional alone; each evaluates one branch. Any other
        scale combines both with `classifier_free`. Implementations add the branches they evaluate to `evaluations`.
        """

    @abc.abstractmethod
    def latent_shape(self, views: int) -> tuple[int, ...]:
        """Shape of the latents of `views` pictures."""

    def check_condition(self, image: Tensor | None, prompt: str | None) -> None:
        """Raises ValueError for what this prior cannot be conditioned on, naming the priors that can, or for a wrong picture."""
        for kind, word, given in (("image", "a picture", image is not None), ("prompt", "a prompt", bool(prompt))):
            if given and kind not in self.accepts:
                able = ", ".join(sorted(name for name, accepts in PRIORS.items() if kind in accepts)) or "none"
                raise ValueError(f"the {self.name} prior does not take {word}; priors that do: {able}")
        if image is not None and (image.ndim != 3 or image.shape[0] != 4):
            raise ValueError(f"picture of shape {tuple(image.shape)}: expected RGBA, [4,H,W]")

    def check_cameras(self, cameras: Cameras) -> None:
        """Raises ValueError for a batch of cameras that this prior was not made for."""
        if len(cameras) == 0 or len(cameras) % self.views:
            raise ValueError(f"{len(cameras)} views: the {self.name} prior takes a multiple of {self.views}")
        azimuth, elevation = cameras.azimuth.reshape(-1, self.views), cameras.elevation.reshape(-1, self.views)
        if self.azimuth_spacing is not None:
            miss = (azimuth.diff(dim=1) - self.azimuth_spacing + 180).remainder(360) - 180
            if miss.numel() and float(miss.abs().max()) > MAX_SPACING_ERROR:
                raise ValueError(f"azimuths {azimuth.tolist()}: the {self.name} prior takes views {self.azimuth_spacing:g} degrees apart")
        if self.shared_elevation and float((elevation - elevation[:, :1]).abs().max()) > MAX_SPACING_ERROR:
            raise ValueError(f"elevations {elevation.tolist()}: the {self.name} prior takes one elevation per group of {self.views} views")
