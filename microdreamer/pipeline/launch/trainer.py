"""The training loop of launch.py: draw views (of a library: sentences too), render, ask the objective, learn; or, with SIR, repair and fit
in rounds.

All chance of a step comes from one generator that is set from the seed and the step, so that a run that goes on from a checkpoint
draws what the unbroken one would have drawn.
"""

from __future__ import annotations

import dataclasses
import gc
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cam_utils import Cameras, orbit_cameras
from microdreamer.core import profiler
from microdreamer.core.cuda_graphs import GraphedHalves
from microdreamer.distillation import sir
from microdreamer.distillation.annealing import milestone
from microdreamer.distillation.objective import ASD, SDS, X0SDS, ASDSettings, Objective, SDSSettings, X0SDSSettings
from microdreamer.distillation.schedules import Round, plan_rounds
from microdreamer.distillation.view_sampling import Draws as ViewDraws
from microdreamer.distillation.view_sampling import ViewRanges, place_views
from microdreamer.guidance.base import Prior
from microdreamer.guidance.directions import Thresholds
from microdreamer.images.reference import Reference
from microdreamer.pipeline.launch.config import LaunchConfig
from microdreamer.pipeline.launch.generator_learner import GeneratorLearner
from microdreamer.pipeline.launch.learners import make_learner
from microdreamer.pipeline.launch.learning import Learner, weights_at
from microdreamer.pipeline.launch.sentence_feed import SentenceFeed

SIR_KEYS = ("total_steps", "denoise_steps", "t_start", "t_end", "inv_r", "init_steps", "steps_min", "steps_max", "steps_schedule")
WHITE = 1.0  # behind the picture
PUBLISHED_THRESHOLDS = Thresholds(30, 30, 60)  # degrees: of front, back and overhead views, in all of the published configurations


def reseed(generator: torch.Generator, *numbers: int) -> None:
    """Set a generator from several numbers, so that near ones give unlike draws (the finaliser of splitmix64)."""
    mixed = 0
    for number in numbers:
        mixed = (mixed + number + 0x9E3779B97F4A7C15) & (1 << 64) - 1
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = ((mixed ^ mixed >> shift) * factor) & (1 << 64) - 1
        mixed ^= mixed >> 31
    generator.manual_seed(mixed & (1 << 63) - 1)


def view_ranges(config: LaunchConfig) -> ViewRanges:
    data = config.data
    return ViewRanges(
        elevation_range=tuple(data.elevation_range),
        camera_distance_range=tuple(data.camera_distance_range),
        fovy_range=tuple(data.fovy_range),
        n_view=data.n_view,
        relative_radius=data.relative_radius,
    )


def middle_view(config: LaunchConfig) -> tuple[float, float]:
    """Distance and vertical field of view, in degrees, in the middle of those of training."""
    data = config.data
    distance, fov_y = sum(data.camera_distance_range) / 2, sum(data.fovy_range) / 2
    return distance / math.tan(math.radians(fov_y / 2)) if data.relative_radius else distance, fov_y


def make_objective(config: LaunchConfig, prior: Prior, condition: object, generator: torch.Generator) -> Objective | None:
    """The objective that the configuration names; None for SIR, which has rounds instead. Raises ValueError for wrong values."""
    chosen = config.system.guidance
    shared: dict[str, Any] = {
        "guidance_scale": chosen.guidance_scale,
        "min_step_percent": chosen.min_step_percent,
        "max_step_percent": chosen.max_step_percent,
    }
    weighted = {"weighting_strategy": chosen.weighting_strategy, "grad_clip": chosen.grad_clip or None}
    if chosen.objective == "x0sds":
        settings = X0SDSSettings(**shared, recon_std_rescale=chosen.recon_std_rescale)
        return X0SDS(prior, condition, settings, generator, PUBLISHED_THRESHOLDS)
    if chosen.objective == "sds":
        return SDS(prior, condition, SDSSettings(**shared, **weighted), generator, PUBLISHED_THRESHOLDS)
    if chosen.objective == "asd":
        own = {"plus_ratio": chosen.plus_ratio, "plus_random": chosen.plus_random, "guidance_perp_neg": chosen.guidance_perp_neg}
        return ASD(prior, condition, ASDSettings(**shared, **weighted, **own), generator, PUBLISHED_THRESHOLDS)
    return None


@dataclasses.dataclass(frozen=True)
class Shard:
    """Which part of each batch this process renders: groups rank, rank + world, ..."""

    rank: int = 0
    world: int = 1


ALONE = Shard()


class Trainer:
    """One run: `step(n)` for n = 0, 1, ...; with SIR `round(k)` for k = 0, 1, ..."""

    def __init__(
        self,
        config: LaunchConfig,
        prior: Prior,
        condition: object,
        picture: Callable[[int], Reference] | None = None,
        shard: Shard = ALONE,
        sentences: SentenceFeed | None = None,
    ) -> None:
        """picture: the reference view at a size in pixels; sentences: of a library, in place of one condition.

        Raises ValueError for what does not fit together.
        """
        self.config, self.prior, self.condition, self.shard, self.device = config, prior, condition, shard, prior.device
        self.sentences = sentences
        self.generator = torch.Generator()
        reseed(self.generator, config.seed)
        self.ranges = view_ranges(config)
        self.objective = make_objective(config, prior, condition, self.generator)
        self.rounds: list[Round] = []
        if self.objective is None:
            self.rounds = plan_rounds(prior.schedule, **{key: getattr(config.system.sir, key) for key in SIR_KEYS})
            # What learning rates and growth follow.
            schedule = dataclasses.replace(config.trainer, max_steps=sum(len(turn.steps) for turn in self.rounds))
            config = dataclasses.replace(config, trainer=schedule)
        self.learner = make_learner(config, self.generator, self.device, sentences and sentences.width)
        self._picture, self._references = picture, {}
        for count in config.data.batch_size:
            if self.objective and (count // config.data.n_view) % shard.world:
                raise ValueError(
                    f"data.batch_size={count}: {count // config.data.n_view} groups do not divide among {shard.world} processes"
                )
            if count // shard.world % prior.views:
                raise ValueError(f"data.batch_size={count}: the {prior.name} prior takes a multiple of {prior.views} views in each process")
        if self.objective:
            prior.check_cameras(self.cameras(0))
        self._share, self._is_last = 1.0, True
        self._graphs = GraphedHalves(self._render, self._learn, self.device)
        if not self.learner.is_captured or config.trainer.accumulate_grad_batches > 1:
            self._graphs.enabled = False

    # ---- What a step shows ----

    def size(self, step: int) -> int:
        """Pixels a side of the renders of a step."""
        return milestone(self.config.data.size, self.config.data.resolution_milestones, step)

    def views(self, step: int) -> int:
        """Views of a step, of all processes."""
        return milestone(self.config.data.batch_size, self.config.data.resolution_milestones, step)

    def cameras(self, step: int) -> Cameras:
        """This process's views of a step; all processes draw the same batch."""
        views = self.views(step)
        draws = ViewDraws.take(views // self.ranges.n_view, self.generator)
        cameras = place_views(self.ranges, draws, self.size(step))
        if self.shard.world > 1:
            groups = torch.arange(views).view(-1, self.ranges.n_view)
            cameras = cameras[groups[self.shard.rank :: self.shard.world].reshape(-1)]
        return cameras.to(self.device)

    def reference(self, size: int) -> Reference | None:
        """The picture as a view of `size` pixels a side, where there is one."""
        if self._picture is None:
            return None
        if size not in self._references:
            self._references[size] = self._picture(size)
        return self._references[size]

    # ---- Score distillation ----

    @profiler.function
    def step(self, step: int) -> dict[str, Tensor]:
        """One optimiser step; its metrics are tensors, which wait for a GPU only when they are read."""
        reseed(self.generator, self.config.seed, step, 0)
        if self.learner.prepare(step):
            self._reset()
        found = [self._pass(step, index) for index in range(self.config.trainer.accumulate_grad_batches)]
        return found[0] if len(found) == 1 else {name: torch.stack([one[name].float() for one in found]).mean(0) for name in found[0]}

    def _pass(self, step: int, index: int) -> dict[str, Tensor]:
        """One of the passes whose gradients add up to a step's; the last of them learns."""
        passes = self.config.trainer.accumulate_grad_batches
        self._share, self._is_last = 1 / passes, index == passes - 1
        place = (step, 0) if index == 0 else (step, 0, index)
        if index:
            reseed(self.generator, self.config.seed, *place)
        cameras = self.cameras(step)
        reseed(self.generator, self.config.seed, step, 1 + self.shard.rank, *place[2:])
        self._now = cameras, self.reference(cameras.height)
        rows = self._tell(step * passes + index, len(cameras))
        draws = self.learner.draw(len(cameras), cameras.height)
        if self._now[1] is not None:
            draws += self.learner.draw(1, cameras.height)
        inputs = (cameras.world_to_camera, cameras.intrinsics, *draws)
        shown = self._graphs.begin(*inputs)
        assert self.objective is not None  # SIR has rounds instead
        found = self.objective(shown.requires_grad_(), cameras, step)
        (gradient,) = torch.autograd.grad(self.config.system.loss.lambda_guidance * found.loss, shown)
        if self.sentences is not None:
            self.sentences.note(rows, gradient)
        weights = weights_at(self.config, step, self.device)
        rest = self._graphs.end(gradient, weights)
        return {**found.metrics, "loss_guidance": found.loss.detach(), "loss_rest": rest}

    def _tell(self, pass_: int, views: int) -> list[int]:
        """Tell objective and learner of which sentences this process's views of a pass are: one for each group of them."""
        if self.sentences is None:
            return []
        groups = views // self.ranges.n_view
        rows = self.sentences.of_pass(pass_, groups * self.shard.world)[self.shard.rank :: self.shard.world]
        assert self.objective is not None and isinstance(self.learner, GeneratorLearner)  # they alone learn libraries, and have no rounds
        self.objective.condition = self.sentences.condition(rows)
        self.learner.tell(*self.sentences.embeddings(rows, self.learner.model.geometry.text, self.device))
        return rows

    def _reset(self) -> None:
        """Capture anew; what the earlier graphs held goes back to the device, as lists of other lengths need other memory."""
        self._graphs.reset()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def close(self) -> None:
        """Let graphs go: processes that shared gradients within them cannot part before."""
        self._reset()
        gc.collect()

    def _render(self, world_to_camera: Tensor, intrinsics: Tensor, *draws: Tensor) -> tuple[Any, Tensor]:
        """What `_learn` goes on from, and the picture."""
        cameras = dataclasses.replace(self._now[0], world_to_camera=world_to_camera, intrinsics=intrinsics)
        rendering = self.learner.render(cameras, None, self._split(draws)[0])
        return (rendering, draws), rendering.image

    def _split(self, draws: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """The draws of the views, and those of the picture's view."""
        own = len(draws) if self._now[1] is None else len(draws) // 2
        return draws[:own], draws[own:]

    def _learn(self, rendered: Any, gradient: Tensor, weights: Tensor) -> Tensor:
        """Learn from the renders' gradient and from what else the loss holds; returns the value of that."""
        rendering, draws = rendered
        rest = rendering.image.new_zeros(())
        if self.learner.regularised:
            rest = rest + self.learner.regularise(rendering, weights)
        if self._now[1] is not None:
            rest = rest + self._reference_loss(self._now[1], self._split(draws)[1])
        (self._share * ((rendering.image * gradient).sum() + rest)).backward()
        if self._is_last:
            self.learner.update(rendering)
        return rest.detach()

    def _reference_loss(self, reference: Reference, draws: Sequence[Tensor]) -> Tensor:
        """Squared differences of colour and mask to the picture, from where it was taken."""
        seen, loss = self.learner.render(reference.camera, WHITE, draws), self.config.system.loss
        color, mask = F.mse_loss(seen.image, reference.image), F.mse_loss(seen.alpha, reference.mask)
        return loss.ref_loss * color + loss.ref_mask_loss * mask

    # ---- Iterative reconstruction ----

    def round(self, index: int, on_step: Callable[[int], None] = lambda step: None) -> float:
        """One round of SIR; returns the last loss of its fit. `on_step` is told each optimiser step."""
        turn, settings = self.rounds[index], self.config.system
        reseed(self.generator, self.config.seed, index, 0)
        size, count = self.size(turn.steps.start), self.views(turn.steps.start)
        cameras = sir.draw_cameras(self.prior, self._view_range(size, count), self.generator, from_front=turn.starts_from_noise)
        with torch.no_grad():
            renders = self.learner.render(cameras, WHITE, self.learner.draw(len(cameras), size)).image
        targets = sir.repair(
            self.prior, renders, cameras, self.condition, turn, settings.guidance.guidance_scale, settings.sir.eta, self.generator
        )
        reference = self.reference(size)
        shown = _WithDraws(self.learner, len(cameras) + (reference is not None), size)
        fitter = sir.Fitter(
            shown,
            reference,
            torch.full((3,), WHITE, device=self.device),
            self.learner.update,
            weight=settings.loss.lambda_guidance,
            ref_loss=settings.sir.ref_loss,
            ref_mask_loss=settings.sir.ref_mask_loss,
        )

        def before(step: int) -> None:
            reseed(self.generator, self.config.seed, step, 2)
            shown.draw()

        def after(step: int) -> bool:
            on_step(step)
            return self.learner.prepare(step)

        return fitter.fit(cameras, targets, turn, before_step=before, after_step=after)

    def _view_range(self, size: int, count: int) -> sir.ViewRange:
        """Where SIR's views stand; its elevations are cam_utils', positive from below."""
        low, high = self.config.data.elevation_range
        radius, fov_y = middle_view(self.config)
        elevation = self.config.elevation
        return _WithinRange(-elevation, elevation - high, elevation - low, radius, fov_y, size, fewest=count, most=count)


class _WithinRange(sir.ViewRange):
    """Views that keep to the range that is asked for, wherever the picture was taken."""

    def offsets(self) -> tuple[float, float]:
        return self.min_ver, self.max_ver


class _WithDraws:
    """A learner as a representation whose random numbers lie in place, where a captured step finds them."""

    def __init__(self, learner: Learner, views: int, size: int) -> None:
        self._learner, self._views, self._size = learner, views, size
        self._draws = tuple(drawn.clone(memory_format=torch.contiguous_format) for drawn in learner.draw(views, size))

    def draw(self) -> None:
        for kept, new in zip(self._draws, self._learner.draw(self._views, self._size), strict=True):
            kept.copy_(new)

    def render(self, cameras: Cameras, background: Tensor | float) -> Any:
        return self._learner.render(cameras, background, self._draws)


def film_cameras(config: LaunchConfig, count: int, size: int, device: torch.device, views: Sequence[int] | None = None) -> Cameras:
    """`count` cameras around the object, no two the same, or some of them by number."""
    data = config.data
    azimuth = [360.0 * k / count for k in (range(count) if views is None else views)]
    return orbit_cameras(
        -data.eval_elevation, azimuth, data.eval_camera_distance, fov_y=data.eval_fovy, width=size, height=size, device=device
    )
