"""A network that turns sentences into shapes, as launch.py trains it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from cam_utils import Cameras
from microdreamer.core.rows import map_tensors
from microdreamer.distillation import regularisers
from microdreamer.fields.backgrounds import SolidBackground
from microdreamer.generators.backgrounds import PromptBackground, SharedBackground
from microdreamer.generators.base import ShapeGenerator
from microdreamer.generators.conv3d import Conv3dGenerator, Conv3dSpec
from microdreamer.generators.hyper_ingp import HyperIngp, HyperIngpSpec
from microdreamer.generators.text_to_shape import Draws, ShapeRendering, TextToShape, VolsdfSettings
from microdreamer.generators.triplane_transformer import TriplaneTransformer, TriplaneTransformerSpec
from microdreamer.pipeline.launch.config import LaunchConfig
from microdreamer.pipeline.launch.learning import (
    ModuleLearner,
    counted_regularisers,
    grid_of,
    regularisation,
)


class GeneratorLearner(ModuleLearner):
    """A network that turns sentences into shapes, and what stands behind them.

    Before a render it is told of which sentences (`tell`); `draw` then gives their embeddings with the random numbers.
    """

    def __init__(self, config: LaunchConfig, generator: torch.Generator, device: torch.device, text_width: int) -> None:
        """text_width: numbers of a sentence's embedding, of each of its words too."""
        system = config.system
        self.regularised = counted_regularisers(config)
        self.model = make_model(config, text_width, generator).to(device).train()
        rates = system.optimizer
        self.is_captured = rates.type != "adan"  # which counts its steps on the host
        self.half_precision = config.trainer.precision == "16-mixed" and device.type == "cuda"
        groups = [
            {"params": list(self.model.geometry.parameters()), "lr": rates.lr_geometry},
            {
                "params": [parameter for parameter in self.model.background.parameters() if parameter.requires_grad],
                "lr": rates.lr_background,
            },
        ]
        groups = [group for group in groups if group["params"]]
        self.learn(groups, rates, device)
        self._sentences: tuple[Tensor, Tensor] | None = None

    def tell(self, text: Tensor, pooled: Tensor) -> None:
        """The embeddings of the sentences of the next renders: what the generator reads, and one vector each."""
        self._sentences = text, pooled

    def prepare(self, step: int) -> bool:
        return False

    def draw(self, views: int, size: int) -> tuple[Tensor, ...]:
        assert self._sentences is not None  # `tell` comes first
        drawn = self.model.draw(len(self._sentences[0]), views, size)
        return (*self._sentences, *drawn[:4], *drawn.geometry)

    def render(self, cameras: Cameras, background: Tensor | float | None, draws: Sequence[Tensor]) -> ShapeRendering:
        text, pooled, jitter, fine_jitter, replaced, color, *of_geometry = draws
        chance = Draws(jitter, fine_jitter, replaced, color, tuple(of_geometry))
        with torch.autocast(text.device.type, torch.bfloat16, enabled=self.half_precision):
            shapes = self.model.condition(text, pooled, chance.geometry)
        return self.model.render(cameras, map_tensors(Tensor.float, shapes), background, chance)

    def regularise(self, rendering: ShapeRendering, weights: Tensor) -> Tensor:
        """The sum of the regularisers that count, by `weights`, one for each of REGULARISERS."""
        detail, alpha = rendering.detail, rendering.alpha
        assert detail is not None  # a training render
        terms = {
            "sparsity": lambda: regularisers.sparsity(alpha),
            "opaque": lambda: regularisers.opaque(alpha),
            "z_variance": lambda: regularisers.z_variance(detail.z_variance, detail.alpha),
            "eikonal": lambda: regularisers.eikonal(cast(Tensor, detail.gradient), detail.lengths > 0),
        }
        return regularisation(self.regularised, weights, terms)

    def state(self) -> dict[str, Any]:
        return {"text_width": self.model.geometry.spec.text_width, **super().state()}


def make_model(config: LaunchConfig, text_width: int, draws: torch.Generator, axes: str = "project") -> TextToShape:
    """The network that the configuration names with its background, in a world with these axes; random numbers come from `draws`.

    Raises ValueError for values that do not fit together.
    """
    system, chosen = config.system, config.system.background
    geometry = make_generator(config, text_width, draws, axes)
    background: SolidBackground | SharedBackground | PromptBackground
    if chosen.type == "solid":
        background = SolidBackground(chosen.color)
    elif chosen.type == "prompt":
        background = PromptBackground(text_width, draws, axes=axes)
    else:
        background = SharedBackground(chosen.encoding, draws, axes=axes, color_activation=system.generator.color_activation)
    settings = VolsdfSettings(
        proposals=system.renderer.num_proposals,
        samples=system.renderer.num_fine_samples,
        sharpness=system.renderer.sharpness,
        random_background=chosen.random_aug_prob if chosen.random_aug else 0.0,
        share_background=chosen.share_aug_bg,
        gradients="eikonal" in counted_regularisers(config),
        recompute=system.use_recompute,
    )
    return TextToShape(geometry, background, settings, draws)


def make_generator(config: LaunchConfig, text_width: int, draws: torch.Generator | None, axes: str = "project") -> ShapeGenerator:
    """The network that the configuration names; initial values from `draws`. Raises ValueError for values that do not fit together."""
    geometry, chosen = config.system.geometry, config.system.generator
    shared: dict[str, Any] = {
        "text_width": text_width,
        "radius": geometry.radius,
        "sphere_bias": chosen.sphere_bias,
        "color_activation": chosen.color_activation,
        "axes": axes,
    }
    if geometry.type == "hyper_ingp":
        spec = HyperIngpSpec(**shared, grid=grid_of(geometry), hyper_hidden=chosen.hyper_hidden, hidden=geometry.n_neurons)
        return HyperIngp(spec, draws)
    if geometry.type == "conv3d":
        widths = chosen.channels if isinstance(chosen.channels, list) else [chosen.channels]
        spec = Conv3dSpec(
            **shared,
            noise_width=chosen.noise_width,
            style_width=chosen.style_width,
            channels=tuple(widths),
            channel_multiplier=chosen.channel_multiplier,
            voxel_channels=chosen.plane_channels,
            hidden=geometry.n_neurons,
        )
        return Conv3dGenerator(spec, draws)
    spec = TriplaneTransformerSpec(
        **shared,
        text=chosen.text,
        width=chosen.width,
        token_side=chosen.token_side,
        layers=chosen.layers,
        attention_heads=chosen.attention_heads,
        plane_channels=chosen.plane_channels,
        hidden=geometry.n_neurons,
    )
    return TriplaneTransformer(spec, draws)
