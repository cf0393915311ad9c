"""What learns, behind one face: a field with its optimiser, Gaussians with theirs and their growth, or a generator with its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor

from cam_utils import Cameras
from microdreamer.core.unfilled import without_first_values
from microdreamer.distillation import regularisers
from microdreamer.fields.backgrounds import EnvironmentBackground, SolidBackground
from microdreamer.fields.implicit_volume import ImplicitVolume, ImplicitVolumeSpec
from microdreamer.fields.materials import PointLightDiffuse, ShadingPolicy
from microdreamer.fields.volume_model import Draws, FieldRendering, VolumeModel, VolumeSettings
from microdreamer.gaussians import LearningRates
from microdreamer.gaussians.model import GaussianModel
from microdreamer.pipeline.launch.config import GENERATORS, LaunchConfig
from microdreamer.pipeline.launch.generator_learner import GeneratorLearner
from microdreamer.pipeline.launch.learning import (
    Learner,
    ModuleLearner,
    counted_regularisers,
    grid_of,
    regularisation,
    share_gradients,
    with_numbers,
)

GROW_FROM, GROW_UNTIL, GROW_EVERY = 50, 0.6, 50  # Gaussians: step, share of the run, steps


def depth_variance(rendering: FieldRendering) -> Tensor:
    """Variance of the distance of what each ray sees, [V,1,H,W]: of its samples' by their shares of its opacity."""
    assert rendering.detail is not None  # a training render
    samples, weights = rendering.detail.samples, rendering.detail.weights
    share = weights / rendering.alpha.reshape(-1).clamp_min(1e-5)[samples.ray]
    empty = weights.new_zeros(rendering.alpha.numel())
    mean = empty.index_add(0, samples.ray, share * samples.middle)
    return empty.index_add(0, samples.ray, share * (samples.middle - mean[samples.ray]).square()).view_as(rendering.alpha)


class FieldLearner(ModuleLearner):
    """A field by volume rendering, whose parts have learning rates of their own."""

    is_captured = True

    def __init__(self, config: LaunchConfig, generator: torch.Generator, device: torch.device) -> None:
        system, geometry = config.system, config.system.geometry
        self.regularised = counted_regularisers(config)
        spec = ImplicitVolumeSpec(
            grid=grid_of(geometry),
            radius=geometry.radius,
            hidden=geometry.n_neurons,
            density_activation=geometry.density_activation,
            density_bias=0.0 if geometry.density_bias == "none" else geometry.density_bias,
            blob_height=geometry.blob_scale,
            blob_size=geometry.blob_std,
            dir_encoding=geometry.dir_encoding,
            normals="analytic" if geometry.normal_type == "none" else geometry.normal_type,
        )
        chosen = system.background
        background = SolidBackground(chosen.color) if chosen.type == "solid" else EnvironmentBackground(chosen.encoding, generator)
        settings = VolumeSettings(
            samples_per_ray=system.renderer.num_samples_per_ray,
            radius=geometry.radius,
            grid_resolution=system.renderer.grid_resolution,
            random_background=chosen.random_aug_prob if chosen.random_aug else 0.0,
            share_background=chosen.share_aug_bg,
            normals=geometry.normal_type != "none",
            recompute=system.use_recompute,
            half_precision=config.trainer.precision == "16-mixed",
        )
        material, chosen = None, system.material
        if chosen.type == "point_light":
            material = PointLightDiffuse()
        shading = ShadingPolicy(chosen.ambient_only_steps, chosen.diffuse_prob, chosen.textureless_prob, chosen.soft_shading)
        field = ImplicitVolume(spec, generator)
        self.model = VolumeModel(field, background, settings, generator, material=material, shading=shading).to(device).train()
        rates = system.optimizer
        groups = self.model.parameter_groups(
            {
                "encoding": rates.lr_encoding,
                "density_network": rates.lr_density,
                "feature_network": rates.lr_feature,
                "background": rates.lr_background,
            }
        )
        groups = [group | {"params": trained} for group in groups if (trained := [p for p in group["params"] if p.requires_grad])]
        self.learn(groups, rates, device)

    def prepare(self, step: int) -> bool:
        return self.model.refresh(step)

    def draw(self, views: int, size: int) -> tuple[Tensor, ...]:
        return tuple(self.model.draw(views, size, size))

    def render(self, cameras: Cameras, background: Tensor | float | None, draws: Sequence[Tensor]) -> FieldRendering:
        return self.model.render(cameras, background, Draws(*draws) if draws else None)

    def regularise(self, rendering: FieldRendering, weights: Tensor) -> Tensor:
        """The sum of the regularisers that count, by `weights`, one for each of REGULARISERS."""
        detail, alpha = rendering.detail, rendering.alpha
        assert detail is not None  # a training render
        terms = {
            "sparsity": lambda: regularisers.sparsity(alpha),
            "opaque": lambda: regularisers.opaque(alpha),
            "orient": lambda: regularisers.orient(detail.weights, cast(Tensor, detail.normals), cast(Tensor, detail.directions), alpha),
            "z_variance": lambda: regularisers.z_variance(depth_variance(rendering), alpha),
        }
        return regularisation(self.regularised, weights, terms)


class GaussianLearner:
    """Gaussians by splatting, their Adam, and their growth where gradients are large."""

    is_captured = True

    def __init__(self, config: LaunchConfig, generator: torch.Generator, device: torch.device) -> None:
        self.regularised = counted_regularisers(config)
        self.generator, self.max_steps = generator, config.trainer.max_steps
        self.grad_threshold = config.system.geometry.densify_grad_threshold
        self.background = config.system.background.color
        self.model = GaussianModel.initial_ball(config.system.geometry.num_pts, generator=generator, device=device)
        self._make_optimizer()

    def _make_optimizer(self) -> None:
        self._optimizer = self.model.make_optimizer(LearningRates(position_lr_max_steps=self.max_steps))

    def prepare(self, step: int) -> bool:
        self.model.update_learning_rate(step)
        if not GROW_FROM <= step <= GROW_UNTIL * self.max_steps or step % GROW_EVERY:
            return False
        self.model.densify_and_prune(grad_threshold=self.grad_threshold, generator=self.generator)
        return True

    def draw(self, views: int, size: int) -> tuple[Tensor, ...]:
        return ()

    def render(self, cameras: Cameras, background: Tensor | float | None, draws: Sequence[Tensor]) -> Any:
        return self.model.render(cameras, self.background if background is None else background)

    def regularise(self, rendering: Any, weights: Tensor) -> Tensor:
        """The sum of the regularisers of opacity that count; the configuration allows no others."""
        terms = {"sparsity": lambda: regularisers.sparsity(rendering.alpha), "opaque": lambda: regularisers.opaque(rendering.alpha)}
        return regularisation(self.regularised, weights, terms)

    def update(self, rendering: Any) -> None:
        share_gradients(list(self.model.parameters()))
        self.model.record_statistics(rendering)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def state(self) -> dict[str, Any]:
        statistics = {"gradient_sum": self.model.gradient_sum, "gradient_hits": self.model.gradient_hits}
        return {"model": self.model.state_dict(), "statistics": statistics, "optimizer": self._optimizer.state_dict()}

    def load_model(self, state: Mapping[str, Any]) -> None:
        self.model = GaussianModel(state["model"]).to(self.model.device)

    def load(self, state: Mapping[str, Any]) -> None:
        self.load_model(state)
        self._make_optimizer()
        self._optimizer.load_state_dict(with_numbers(state["optimizer"]))
        for name, values in state["statistics"].items():
            getattr(self.model, name).copy_(values)


def make_learner(
    config: LaunchConfig, generator: torch.Generator, device: torch.device, text_width: int | None = None, unfilled: bool = False
) -> Learner:
    """What the configuration asks for; text_width: of sentences' embeddings, for generators. unfilled: weights follow, so that networks
    get no first values.

    Raises ValueError for values that do not fit together.
    """
    kind = config.system.geometry.type
    if kind == "gaussians":
        return GaussianLearner(config, generator, device)
    with without_first_values() if unfilled else nullcontext():
        if kind in GENERATORS:
            assert text_width is not None
            return GeneratorLearner(config, generator, device, text_width)
        return FieldLearner(config, generator, device)
