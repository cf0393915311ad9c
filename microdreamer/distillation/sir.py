"""Score-based iterative reconstruction: a prior repairs renders of the current guess, and the guess is fitted to the repaired views.

Wu et al. 2024, MicroDreamer (arXiv 2404.19525), algorithm 1. Everything here works on renders, cameras and a prior; the
representation is whatever has `render(cameras, background)`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from cam_utils import Cameras, concatenate, orbit_cameras
from microdreamer.core import profiler
from microdreamer.core.cuda_graphs import GraphedStep
from microdreamer.distillation import EVEN_VIEW, REF_LOSS, REF_MASK_LOSS, VIEWS, VIEWS_WEIGHT
from microdreamer.distillation.schedules import Round
from microdreamer.guidance.base import Prior
from microdreamer.guidance.names import FULL_NOISE
from microdreamer.guidance.samplers import OnStep, ddim_invert, ddim_sample, normal
from microdreamer.guidance.shortcuts import NO_SHORTCUTS, Shortcuts
from microdreamer.images.reference import Reference
from microdreamer.kernels import gaussian_fit

MAX_ELEVATION = 80  # degrees: no view is drawn closer to the poles


class Rendering(Protocol):
    @property
    def image(self) -> Tensor:
        """[V,3,H,W] in [0,1]."""

    @property
    def alpha(self) -> Tensor:
        """[V,1,H,W]."""


class Representation(Protocol):
    def render(self, cameras: Cameras, background: Tensor) -> Rendering: ...


@dataclasses.dataclass(frozen=True)
class ViewRange:
    """Where views are drawn: `elevation` of the picture and offsets `min_ver` to `max_ver` from it, all in degrees."""

    elevation: float
    min_ver: float
    max_ver: float
    radius: float
    fov_y: float
    size: int  # pixels a side
    even_view: bool = EVEN_VIEW  # spread the views evenly around the object
    fewest: int = VIEWS  # views of a round, and
    most: int = VIEWS

    def offsets(self) -> tuple[float, float]:
        """Lowest and highest elevation offset, after keeping views off the poles and within reach of the horizon's range."""
        low = max(min(self.min_ver, self.min_ver - self.elevation), -MAX_ELEVATION - self.elevation)
        high = min(max(self.max_ver, self.max_ver - self.elevation), MAX_ELEVATION - self.elevation)
        return low, high

    def counts(self, prior: Prior) -> list[int]:
        """How many views a round may have: the multiples of `prior.views` in [fewest, most]. Raises ValueError for none."""
        counts = [count for count in range(prior.views, self.most + 1, prior.views) if count >= self.fewest]
        if not counts:
            raise ValueError(
                f"batch_size_min={self.fewest}, batch_size_max={self.most}: the {prior.name} prior takes a multiple of {prior.views} views"
            )
        return counts

    def check(self, prior: Prior) -> None:
        """Raises ValueError for a range that is empty or a number of views that the prior cannot take."""
        if self.min_ver > self.max_ver:
            raise ValueError(f"min_ver={self.min_ver:g} is above max_ver={self.max_ver:g}")
        self.counts(prior)

    def cameras(self, elevation: Tensor | float, azimuth: Tensor | float, device: torch.device | str) -> Cameras:
        """Cameras at these elevations and azimuths with this distance, field of view and size."""
        return orbit_cameras(elevation, azimuth, self.radius, fov_y=self.fov_y, width=self.size, height=self.size, device=device)


def _draw(low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
    """`count` whole degrees in [low, high), or low itself where the range is empty."""
    low, high = round(low), max(round(high), round(low) + 1)
    return torch.randint(low, high, (count,), generator=generator).double()


def draw_cameras(prior: Prior, views: ViewRange, generator: torch.Generator, from_front: bool = False) -> Cameras:
    """Cameras around the object for one round, in whole groups of `prior.views`, as the prior wants its groups to stand.

    A prior with a fixed azimuth spacing gets that spacing, groups interleaved evenly; otherwise the views of the batch are
    spread evenly (`even_view`) or anywhere. A prior with shared elevation gets one elevation a group; otherwise each view
    has its own. `from_front` puts the first view at azimuth 0 and its group at the picture's elevation.
    Raises ValueError where no multiple of `prior.views` is allowed.
    """
    views.check(prior)
    counts = views.counts(prior)
    count = counts[int(torch.randint(len(counts), (), generator=generator))]
    groups, members = count // prior.views, prior.views
    low, high = views.offsets()
    if prior.azimuth_spacing is not None:
        starts = _draw(-180, -180 + prior.azimuth_spacing, groups, generator)
        if from_front:
            starts = starts - starts[0]
        if views.even_view:
            starts = starts[0] + prior.azimuth_spacing / groups * torch.arange(groups, dtype=torch.float64)
        azimuth = (starts[:, None] + prior.azimuth_spacing * torch.arange(members, dtype=torch.float64)).reshape(-1)
    elif views.even_view:
        start = _draw(-180, -180 + 360 // count, 1, generator)
        azimuth = (0 if from_front else start) + 360 // count * torch.arange(count, dtype=torch.float64)
    else:
        azimuth = _draw(-180, 180, count, generator)
    offset = _draw(low, high, groups if prior.shared_elevation else count, generator)
    if from_front:
        offset[0] = 0
    if prior.shared_elevation:
        offset = offset.repeat_interleave(members)
    return views.cameras(views.elevation + offset, (azimuth + 180).remainder(360) - 180, prior.device)


@torch.no_grad()
def refine_latents(
    prior: Prior,
    latents: Tensor,
    cameras: Cameras,
    condition: object,
    turn: Round,
    guidance_scale: float,
    eta: float,
    generator: torch.Generator | None = None,
    on_step: OnStep | None = None,
    temperature: float = FULL_NOISE,
    shortcuts: Shortcuts = NO_SHORTCUTS,
) -> Tensor:
    """The hybrid forward process and the way back (section 4.2): noise to t1, DDIM inversion to t2, guided denoising.

    latents [V,...] are encoded renders; in a round that starts from noise only their shape matters. All noise is `temperature` times
    the schedule's, as in `ddim_sample`.
    """
    noise = temperature * normal(latents.shape, generator, latents.device)
    if turn.starts_from_noise:
        noisy = noise
    else:
        noisy = prior.schedule.add_noise(latents, noise, turn.inversion[0])
        noisy = ddim_invert(prior, noisy, cameras, condition, turn.inversion, on_step, shortcuts)
    told = cameras, condition, turn.denoising, guidance_scale, eta, generator, on_step
    return ddim_sample(prior, noisy, *told, temperature=temperature, shortcuts=shortcuts)


@torch.no_grad()
@profiler.function
def repair(
    prior: Prior,
    renders: Tensor,
    cameras: Cameras,
    condition: object,
    turn: Round,
    guidance_scale: float,
    eta: float,
    generator: torch.Generator | None = None,
    on_step: OnStep | None = None,
    temperature: float = FULL_NOISE,
    shortcuts: Shortcuts = NO_SHORTCUTS,
) -> Tensor:
    """What the prior makes of `renders` [V,3,S,S] in [0,1]: pictures of the same shape and range to fit to."""
    if turn.starts_from_noise:
        latents = renders.new_empty(prior.latent_shape(len(renders)))
    else:
        latents = prior.encode(_resize(renders, prior.resolution), generator)
    told = cameras, condition, turn, guidance_scale, eta, generator, on_step
    latents = refine_latents(prior, latents, *told, temperature, shortcuts)
    return _resize(prior.decode(latents).clamp(0, 1), renders.shape[-1]).clamp(0, 1)


def smaller(size: int, shrink: int) -> int:
    """A side of `size` pixels shrunk `shrink` times."""
    return max(size // shrink, 1)


def _resize(images: Tensor, size: int) -> Tensor:
    return images if images.shape[-1] == size else F.interpolate(images, (size, size), mode="bilinear", antialias=True)


@profiler.function
def reconstruction_loss(
    rendering: Rendering, targets: Tensor, reference: Reference | None, weight: float, ref_loss: float, ref_mask_loss: float
) -> Tensor:
    """Sum of absolute differences to `targets` [V,3,S,S], per view, plus the reference's colour and squared mask differences.

    The rendering holds the V views and, where there is a reference, its view last.
    """
    weight = weight / len(targets)
    if reference is None:
        return gaussian_fit.reconstruction_loss(rendering.image, None, targets, None, None, weight)
    return gaussian_fit.reconstruction_loss(
        rendering.image, rendering.alpha, targets, reference.image, reference.mask, weight, ref_loss, ref_mask_loss
    )


class Fitter:
    """Fits a representation to repaired views, round after round; on a GPU a whole step is one CUDA graph.

    All views and the `reference` are rendered in one call. `learn(rendering)` follows each backward pass: it steps the optimiser,
    drops the gradients and does whatever else belongs to a step, in place and without waiting for the device.
    """

    def __init__(
        self,
        representation: Representation,
        reference: Reference | None,
        background: Tensor,
        learn: Callable[[Rendering], None],
        *,
        weight: float = VIEWS_WEIGHT,
        ref_loss: float = REF_LOSS,
        ref_mask_loss: float = REF_MASK_LOSS,
    ) -> None:
        self.representation, self.background, self.learn = representation, background, learn
        self.weights = {"weight": weight, "ref_loss": ref_loss, "ref_mask_loss": ref_mask_loss}
        self._references = {1: reference}  # by how many times they are shrunk
        self._graphed = GraphedStep(self._one_step, background.device)
        self._watched: tuple[Cameras, Cameras] | None = None  # cameras last given, and those with the reference's
        self._shrink = 1  # of these

    @property
    def graphs(self) -> bool:
        """Whether steps on a GPU are replayed from a graph (True unless set otherwise)."""
        return self._graphed.enabled

    @graphs.setter
    def graphs(self, enabled: bool) -> None:
        self._graphed.enabled = enabled

    @profiler.function
    def fit(
        self,
        cameras: Cameras,
        targets: Tensor,
        turn: Round,
        *,
        shrink: int = 1,
        before_step: Callable[[int], None] = lambda step: None,
        after_step: Callable[[int], bool] = lambda step: False,
        on_step: OnStep | None = None,
    ) -> float:
        """Fit to `targets` [V,3,S,S] (and the reference) for the optimiser steps of the round; returns the last loss.

        All of these and the renders are `shrink` times smaller a side, and a pixel weighs as much as those that it stands for.
        `before_step` and `after_step` take the global step: the one sets learning rates, the other says whether it has replaced
        the representation's tensors, by growing or pruning.
        """
        if shrink > 1:
            size = smaller(targets.shape[-1], shrink)
            cameras, targets = cameras.resized(size, size), F.interpolate(targets, (size, size), mode="area")
        loss = targets.new_zeros(())
        for done, step in enumerate(turn.steps, start=1):
            before_step(step)
            loss = self.step(cameras, targets, shrink)
            if after_step(step):
                self._graphed.reset()
            if on_step:
                on_step(done, len(turn.steps), {})
        return float(loss)  # read once a round: reading every step would hold up a GPU

    def step(self, cameras: Cameras, targets: Tensor, shrink: int = 1) -> Tensor:
        """One step on views that are shrunk already; returns its loss, a scalar tensor."""
        if self._watched is None or self._watched[0] is not cameras:
            reference = self._reference(shrink)
            self._watched = cameras, cameras if reference is None else concatenate([cameras, reference.camera])
            self._shrink = shrink
        watched = self._watched[1]
        return self._graphed(watched.world_to_camera, watched.intrinsics, targets)

    def _reference(self, shrink: int) -> Reference | None:
        whole = self._references[1]
        if shrink not in self._references and whole is not None:
            self._references[shrink] = whole.resized(smaller(whole.camera.width, shrink))
        return self._references.get(shrink)

    def _one_step(self, world_to_camera: Tensor, intrinsics: Tensor, targets: Tensor) -> Tensor:
        cameras = dataclasses.replace(self._watched[1], world_to_camera=world_to_camera, intrinsics=intrinsics)
        rendering = self.representation.render(cameras, self.background)
        weights = {name: self._shrink**2 * weight for name, weight in self.weights.items()}
        loss = reconstruction_loss(rendering, targets, self._reference(self._shrink), **weights)
        loss.backward()
        self.learn(rendering)
        return loss.detach()
