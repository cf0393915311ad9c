"""What every diffusion prior offers: condition it once, then encode, predict noise, decode."""

from __future__ import annotations

import abc
import contextlib
import threading
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from cam_utils import Cameras
from microdreamer.core.transfer import send
from microdreamer.guidance.names import PRIORS, SENTENCE_ENCODERS
from microdreamer.guidance.schedule import NoiseSchedule
from microdreamer.guidance.sentences import SentenceEncoder
from microdreamer.guidance.shortcuts import FeatureCache

if TYPE_CHECKING:
    from microdreamer.guidance.micro.network import Surfaces

MAX_SPACING_ERROR = 1.0  # degrees by which cameras may miss a prior's fixed azimuth spacing


def classifier_free(noise_null: Tensor, noise_cond: Tensor, scale: float) -> Tensor:
    """Guided noise `null + scale (cond - null)` (Ho and Salimans 2022, equation 6 with w = scale - 1)."""
    return torch.lerp(noise_null, noise_cond, scale)


NULL, CONDITIONAL = "null", "conditional"  # what a branch of guidance is told: nothing (or the negative prompt), or the condition


class Branch(NamedTuple):
    """One evaluation of the network for all views, as `Prior.predict_each` takes several of."""

    latents: Tensor  # [V,...]
    t: int | Sequence[int]  # the level of all views, or of each group of `views`
    told: str | Tensor = CONDITIONAL  # or NULL; or rows [V,5] that mix the sentences of a prior that is told `by_direction`


def asked(branches: Sequence[Branch], condition: object, part: int = 0) -> Hashable:
    """By what evaluations know each other while they share features: what their branches are told. None: no other will be like this one."""
    told = tuple(branch.told for branch in branches)
    return None if any(isinstance(one, Tensor) for one in told) else (told, id(condition), part)


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
    references: int = 1  # most pictures of one object; where it is more, `condition` takes those after the first as `others`
    tells_surfaces: bool = False  # whether `predict_surfaces` answers
    by_direction: bool = False  # whether its conditions hold a null sentence and one for each of `directions.DIRECTIONS`
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

    @contextlib.contextmanager
    def sharing_features(self, interval: int) -> Iterator[None]:
        """Within the block, and this thread, `interval` consecutive evaluations of the same branches share the network's deep features.

        A prior whose network has none evaluates everything.
        """
        before, self._counts.features = self.features, FeatureCache(interval) if interval > 1 else None
        try:
            yield
        finally:
            self._counts.features = before

    @property
    def features(self) -> FeatureCache | None:
        """What this thread's evaluations share, if they do."""
        return getattr(self._counts, "features", None)

    @abc.abstractmethod
    def condition(
        self,
        image: Tensor | None = None,  # [4,H,W], straight (not premultiplied) RGBA in [0,1]
        prompt: str | None = None,
        negative_prompt: str | None = None,
        elevation: float = 0.0,  # degrees at which the picture was taken
    ) -> object:
        """Prepare whatever of picture and prompt is there for `predict_noise`. Implementations start with `check_condition`."""

    def check_objects(self, objects: int, groups: int) -> None:
        """Raises ValueError where a condition of several objects meets another number of groups."""
        if objects not in (1, groups):
            raise ValueError(f"{objects} conditions for {groups} groups of {self.views} views: expected 1, or one for each")

    def join(self, conditions: Sequence[object]) -> object:
        """One condition of several, one for each group of the views that it is used with. Raises ValueError where a prior cannot."""
        raise ValueError(f"the {self.name} prior takes one condition for all views of a call")

    def sentence_encoder(self) -> SentenceEncoder:
        """The text tower that this prior reads sentences with. Raises ValueError where it has none of its own."""
        raise ValueError(f"the {self.name} prior gives no embeddings of sentences; priors that do: {', '.join(SENTENCE_ENCODERS)}")

    def condition_each(self, prompts: Sequence[str], negative_prompt: str | None = None) -> object:
        """One condition of several sentences, one for each group of views: what `join` makes of each one's `condition`.

        Priors with a text tower do it in one go, the null half once, without waiting for the device.
        """
        return self.join([self.condition(prompt=prompt, negative_prompt=negative_prompt) for prompt in prompts])

    @abc.abstractmethod
    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Pictures [V,3,R,R] in [0,1] -> latents [V,...]; `generator` serves encoders that sample.

        Differentiable in the pictures where gradients are on and they want one.
        """

    @abc.abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Latents [V,...] -> pictures [V,3,R,R]; values may leave [0,1] a little."""

    @abc.abstractmethod
    def predict_noise(self, latents: Tensor, t: int, cameras: Cameras, condition: object, guidance_scale: float | None) -> Tensor:
        """Noise in `latents` [V,...] at level `t`, V a multiple of `views` whose groups of neighbours show one object.

        guidance_scale None: the unconditional score alone; 1: the conditional alone; each evaluates one branch. Any other
        scale combines both with `classifier_free`. Implementations add the branches they evaluate to `evaluations`.
        """

    def predict_surfaces(self, latents: Tensor, t: int, cameras: Cameras, condition: object) -> tuple[Tensor, Surfaces]:
        """What the conditional branch makes of `latents` [V,...] at level t: pictures [V,3,R,R] in about [0,1], and surfaces.

        Level -1 is that of clean latents. The surfaces [V,...,R,R] are in units of the scene as the prior's own cameras see it (at
        distance RADIUS, with a field of view of FOV_Y): `depth` along the camera's axis; `coverage` and `albedo` in about [0,1].
        Raises ValueError where not `tells_surfaces`.
        """
        raise ValueError(f"the {self.name} prior tells colours alone, not surfaces")

    @torch.no_grad()
    def predict_each(self, branches: Sequence[Branch], cameras: Cameras, condition: object) -> list[Tensor]:
        """Noise in the latents of each branch, [V,...] in float32; in one network call where the prior can, which then takes all levels.

        Without gradient. Levels may differ between branches and between groups. Unlike `predict_noise` this does not look at the
        cameras (reading them would wait for a GPU in every step): whoever calls it has `check_cameras` look at the first ones.
        Raises ValueError where a number of levels is not that of the groups, or `told` is not for this prior.
        """
        return [self._predict_one(branch, cameras, condition) for branch in branches]

    def predict_branches(
        self, latents: Tensor, t: int | Sequence[int], cameras: Cameras, condition: object, told: str | Tensor = CONDITIONAL
    ) -> tuple[Tensor, Tensor]:
        """The null and the conditional noise of `latents`, which `classifier_free` combines; see `predict_each`."""
        null, conditional = self.predict_each([Branch(latents, t, NULL), Branch(latents, t, told)], cameras, condition)
        return null, conditional

    def _predict_one(self, branch: Branch, cameras: Cameras, condition: object) -> Tensor:
        """By `predict_noise`, level by level."""
        self.check_told(branch.told)
        scale = None if branch.told == NULL else 1.0
        levels = self.group_levels(branch.t, len(branch.latents))
        if len(set(levels)) == 1:
            return self.predict_noise(branch.latents, levels[0], cameras, condition, scale)
        counted = self.evaluations
        parts = []
        for group, t in enumerate(levels):
            views = slice(group * self.views, (group + 1) * self.views)
            parts.append(self.predict_noise(branch.latents[views], t, cameras[views], condition, scale))
        self.evaluations = counted + 1  # the groups of a batch count once, however many calls they take
        return torch.cat(parts)

    def check_told(self, told: str | Tensor) -> None:
        """Raises ValueError for rows of weights where there are no sentences by direction to mix."""
        if isinstance(told, Tensor) and not self.by_direction:
            raise ValueError(f"the {self.name} prior has one sentence for all directions, so there are none to mix; stable_diffusion has")

    def group_levels(self, t: int | Sequence[int], count: int) -> list[int]:
        """The level of each group of `count` views. Raises ValueError for another number of levels."""
        groups = count // self.views
        levels = [t] * groups if isinstance(t, int) else [int(level) for level in t]
        if len(levels) != groups:
            raise ValueError(f"{len(levels)} levels for {groups} groups of {self.views} views: expected as many")
        return levels

    def view_alphas(self, t: int | Sequence[int], latents: Tensor) -> Tensor:
        """The schedule's alpha for each of `latents` [V,...], float32 and shaped to multiply them; t of all views or of each group."""
        levels = self.group_levels(t, len(latents))
        alphas = torch.tensor([self.schedule.alpha(level) for level in levels], dtype=torch.float64).repeat_interleave(self.views)
        return send(alphas.float(), latents.device).view(-1, *[1] * (latents.ndim - 1))

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

    def check_sentence(self, sentence: str) -> None:  # noqa: B027 - most priors read whatever there is
        """Raises ValueError, in one line, for a sentence of which this prior understands nothing."""

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
