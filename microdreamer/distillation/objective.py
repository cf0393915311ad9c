"""Objectives of score distillation: renders and cameras in, a loss to differentiate out. They know a prior, not what was rendered.

Chance is drawn from one generator on the CPU, whose state is the whole state of an objective: levels, noise and what an encoder samples. A
step waits for a GPU nowhere.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from cam_utils import Cameras
from microdreamer.core import profiler
from microdreamer.core.transfer import send
from microdreamer.distillation import annealing, prompts
from microdreamer.distillation.annealing import Schedule
from microdreamer.distillation.asd import asd_loss, shifted_timestep
from microdreamer.distillation.sds import WEIGHTINGS, Loss, sds_loss, x0_sds_loss
from microdreamer.guidance.base import CONDITIONAL, Prior
from microdreamer.guidance.directions import THRESHOLDS, Thresholds


class Objective(Protocol):
    condition: object  # of the prior; may change between calls

    def __call__(self, images: Tensor, cameras: Cameras, step: int, epoch: int = 0) -> Loss:
        """The loss of renders [V,3,S,S] in [0,1] from `cameras` at an optimiser step; differentiable in the renders."""

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


@dataclasses.dataclass(frozen=True)
class DistillationSettings:
    """What all objectives share; the names are threestudio's. Schedules are numbers or lists, see `annealing`.

    guidance_scale: of classifier-free guidance, 1 is none; min_step_percent, max_step_percent: the levels that are drawn, as fractions of
    the prior's, both ends included; one_level: all groups of views at one level (True), or each at its own. Raises ValueError for what
    is out of range.
    """

    guidance_scale: float = 7.5
    min_step_percent: Schedule = 0.02
    max_step_percent: Schedule = 0.98
    one_level: bool = False

    def __post_init__(self) -> None:
        for name in ("min_step_percent", "max_step_percent"):
            lowest, highest = annealing.bounds(name, getattr(self, name))
            if not 0 <= lowest <= highest < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected fractions of the levels, from 0 to below 1")

    def window(self, levels: int, step: int, epoch: int = 0) -> tuple[int, int]:
        """Lowest and highest of a prior's levels that are drawn at this step. Raises ValueError where there is none."""
        low, high = (annealing.value(schedule, step, epoch) for schedule in (self.min_step_percent, self.max_step_percent))
        if low > high:
            raise ValueError(f"min_step_percent={low:g} at step {step}: expected at most max_step_percent={high:g}")
        return int(levels * low), int(levels * high)


@dataclasses.dataclass(frozen=True)
class GradientSettings(DistillationSettings):
    """Of objectives that are gradients: weighting_strategy, a key of `sds.WEIGHTINGS`; grad_clip: largest magnitude of its values in
    latents, before they are divided by the number of views."""

    weighting_strategy: str = "sds"
    grad_clip: Schedule | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weighting_strategy not in WEIGHTINGS:
            raise ValueError(f"weighting_strategy={self.weighting_strategy}: expected one of {', '.join(WEIGHTINGS)}")
        if self.grad_clip is not None and annealing.bounds("grad_clip", self.grad_clip)[0] <= 0:
            raise ValueError(f"grad_clip={self.grad_clip}: expected positive values")

    def clip(self, step: int, epoch: int) -> float | None:
        return None if self.grad_clip is None else annealing.value(self.grad_clip, step, epoch)


@dataclasses.dataclass(frozen=True)
class SDSSettings(GradientSettings):
    """Of DreamFusion, whose guidance of 100 counts from the conditional prediction."""

    guidance_scale: float = 101.0


@dataclasses.dataclass(frozen=True)
class X0SDSSettings(DistillationSettings):
    """Of MVDream; recon_std_rescale: share of the way back to the conditional prediction's contrast, 0 to 1 (0.3 where floaters appear)."""

    guidance_scale: float = 50.0
    recon_std_rescale: float = 0.5
    one_level: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.recon_std_rescale <= 1:
            raise ValueError(f"recon_std_rescale={self.recon_std_rescale}: expected 0 to 1")


@dataclasses.dataclass(frozen=True)
class ASDSettings(GradientSettings):
    """Of ScaleDreamer; plus_ratio: how much later the second level is, as a share of the way from the lowest; plus_random: anything up to
    that; guidance_perp_neg: strength of Perp-Neg, which is for priors with several sentences (0: none)."""

    plus_ratio: float = 0.1
    plus_random: bool = True
    guidance_perp_neg: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.plus_ratio <= 1:
            raise ValueError(f"plus_ratio={self.plus_ratio}: expected 0 to 1")
        if self.guidance_perp_neg > 0:
            raise ValueError(f"guidance_perp_neg={self.guidance_perp_neg}: expected 0 or less, such as -0.5")


class Distillation(abc.ABC):
    """What the objectives share: renders to latents, and the draws of levels and noise."""

    def __init__(
        self,
        prior: Prior,
        condition: object,
        settings: DistillationSettings,
        generator: torch.Generator,
        thresholds: Thresholds = THRESHOLDS,
    ) -> None:
        """condition: of `prior.condition`; generator: on the CPU; thresholds: of directions, for priors that are told by them.

        Raises ValueError for settings that the prior cannot follow.
        """
        if getattr(settings, "guidance_perp_neg", 0) and not prior.by_direction:
            raise ValueError(
                f"guidance_perp_neg is for priors with a sentence for each direction (stable_diffusion); {prior.name} has one for all"
            )
        self.prior, self.condition, self.settings, self.generator = prior, condition, settings, generator
        self.thresholds = thresholds
        self._checked = False

    @profiler.function
    def __call__(self, images: Tensor, cameras: Cameras, step: int, epoch: int = 0) -> Loss:
        """See `Objective`. Raises ValueError for cameras that the prior was not made for (on a GPU in the first step alone)."""
        if len(images) != len(cameras):
            raise ValueError(f"{len(images)} pictures and {len(cameras)} cameras: expected as many")
        if not self._checked or cameras.device.type == "cpu":
            self.prior.check_cameras(cameras)
            self._checked = True
        low, high = self.settings.window(self.prior.schedule.timesteps, step, epoch)
        groups = len(images) // self.prior.views
        drawn = torch.randint(low, high + 1, (1 if self.settings.one_level else groups,), generator=self.generator).expand(groups)
        x = self.prior.encode(resize(images.to(self.prior.device), self.prior.resolution), self.generator)
        noise = send(torch.randn(x.shape, generator=self.generator), x.device)
        loss, metrics = self._loss(x, cameras, drawn, low, noise, step, epoch)
        return Loss(loss, {**metrics, "t": drawn.float().mean(), "min_step": torch.tensor(low), "max_step": torch.tensor(high)})

    @abc.abstractmethod
    def _loss(self, x: Tensor, cameras: Cameras, t: Tensor, low: int, noise: Tensor, step: int, epoch: int) -> Loss:
        """Of latents x [V,...] at levels t [G] (on the CPU) from `low` up."""

    def _told(self, cameras: Cameras) -> str | Tensor:
        """What the conditional branch is told of these views."""
        return prompts.view_words(cameras, self.thresholds) if self.prior.by_direction else CONDITIONAL

    def state_dict(self) -> dict[str, Tensor]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.generator.set_state(state["generator"].cpu())


class SDS(Distillation):
    """Score distillation sampling: `sds.sds_loss` at drawn levels."""

    settings: SDSSettings

    def _loss(self, x: Tensor, cameras: Cameras, t: Tensor, low: int, noise: Tensor, step: int, epoch: int) -> Loss:
        chosen = self.settings
        return sds_loss(
            self.prior,
            x,
            cameras,
            self.condition,
            t.tolist(),
            noise,
            guidance_scale=chosen.guidance_scale,
            weighting=chosen.weighting_strategy,
            grad_clip=chosen.clip(step, epoch),
            told=self._told(cameras),
        )


class X0SDS(Distillation):
    """Distance to the clean picture that the prior sees: `sds.x0_sds_loss` at drawn levels."""

    settings: X0SDSSettings

    def _loss(self, x: Tensor, cameras: Cameras, t: Tensor, low: int, noise: Tensor, step: int, epoch: int) -> Loss:
        chosen = self.settings
        return x0_sds_loss(
            self.prior,
            x,
            cameras,
            self.condition,
            t.tolist(),
            noise,
            guidance_scale=chosen.guidance_scale,
            recon_std_rescale=chosen.recon_std_rescale,
            told=self._told(cameras),
        )


class ASD(Distillation):
    """Asynchronous score distillation: `asd.asd_loss` at drawn levels and later ones."""

    settings: ASDSettings

    def _loss(self, x: Tensor, cameras: Cameras, t: Tensor, low: int, noise: Tensor, step: int, epoch: int) -> Loss:
        chosen = self.settings
        u = torch.rand(len(t), generator=self.generator) if chosen.plus_random else None
        if u is not None and chosen.one_level:
            u = u[:1].expand(len(t))
        later = shifted_timestep(t, chosen.plus_ratio, low, u, self.prior.schedule.timesteps - 1)
        perp = None
        if chosen.guidance_perp_neg:
            perp = prompts.perp_neg(cameras, chosen.guidance_perp_neg, self.thresholds)
        return asd_loss(
            self.prior,
            x,
            cameras,
            self.condition,
            t.tolist(),
            later.tolist(),
            noise,
            guidance_scale=chosen.guidance_scale,
            weighting=chosen.weighting_strategy,
            grad_clip=chosen.clip(step, epoch),
            told=self._told(cameras),
            perp=perp,
        )


def resize(images: Tensor, size: int) -> Tensor:
    """Square pictures [V,3,S,S] at `size` pixels a side, differentiable: bilinear, and without aliasing where they shrink."""
    if images.shape[-1] == size:
        return images
    shrinks = images.shape[-1] > size
    return F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=shrinks)
