"""Networks that turn a sentence into a shape in one pass: what they share, and how their shapes are rendered.

"ScaleDreamer: Scalable Text-to-3D Synthesis with Asynchronous Score Distillation" (Ma et al., 2024). A generator reads the embedding
of a sentence once and keeps what it made of it, weights, voxels or planes, in a *cache*; a query reads the cache at points p,

    sdf(p) = distance head(encoding(p)) + |p| - sphere_bias,    features(p) = feature head(encoding(p)),

negative inside, so that every shape starts as a ball. B sentences go through together, each with points of its own: leading
dimension B of embeddings, caches and points [B,P,3]. Views of one shape are just more points.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from microdreamer.core.rows import per_row
from microdreamer.fields import published
from microdreamer.fields.activations import COLOR_ACTIVATIONS, activation

Cache = TypeVar("Cache")
Head = Callable[[Tensor], Tensor]
TEXT_SHAPES = {"global": "[B,{width}], one vector a sentence", "local": "[B,T,{width}], a vector a token"}


@dataclasses.dataclass(frozen=True)
class GeneratorSpec:
    """What all generators are told; the defaults are the published ones. Raises ValueError for a value out of range."""

    text_width: int = 1024  # of the sentence's embedding
    radius: float = 2.0  # of the box [-radius, radius]^3
    sphere_bias: float = 0.8  # radius of the ball that shapes start as
    color_activation: str = "sigmoid"  # from features to colours
    axes: str = "project"  # of the world that shapes stand in; threestudio: z up, as published generators have it

    def __post_init__(self) -> None:
        activation(self.color_activation, COLOR_ACTIVATIONS)
        published.check_axes(self.axes)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not isinstance(value, bool) and not value > 0:
                raise ValueError(f"{field.name}={value}: expected a number above 0")


class FieldValues(NamedTuple):
    """Of P points in each of B shapes: signed distances sdf [B,P], negative inside; features [B,P,3] before any activation."""

    sdf: Tensor
    features: Tensor


class ShapeGenerator(nn.Module, abc.ABC, Generic[Cache]):
    """One network for all sentences.

    A subclass says what it makes of text (`_condition`), of points (`encode`) and of their encodings (`heads`); what it keeps of a
    batch of sentences, its cache, is as `core.rows` has it.
    """

    text: str = "global"  # what it reads of a sentence: "global", its one vector, or "local", one for each token

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__()
        self.spec = spec
        self._color = activation(spec.color_activation, COLOR_ACTIVATIONS)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """What the network leaves to chance for `count` sentences, on the device of `generator`: nothing, unless it says otherwise."""
        return ()

    def condition(self, text: Tensor, draws: Sequence[Tensor] = ()) -> Cache:
        """What the network makes of B sentences: embeddings [B,C] where `self.text` is "global", [B,T,C] where it is "local".

        draws: those of `draw`, as in training; without, what is left to chance is the same for every sentence, whatever the batch.
        Raises ValueError for embeddings of another shape.
        """
        width = self.spec.text_width
        if text.dim() != (2 if self.text == "global" else 3) or text.shape[-1] != width:
            raise ValueError(f"text: expected embeddings {TEXT_SHAPES[self.text].format(width=width)}, got shape {list(text.shape)}")
        return per_row(self._condition, text, tuple(draws))

    def field(self, points: Tensor, cache: Cache) -> FieldValues:
        """Distances and features at points [B,P,3] of the world; differentiable. Raises ValueError for points of another shape."""
        return per_row(self._field, self._checked(points), cache)

    def sdf(self, points: Tensor, cache: Cache) -> Tensor:
        """Distances [B,P] alone."""
        return per_row(self._distances, self._checked(points), cache)

    def color(self, features: Tensor) -> Tensor:
        """Colours [...,3] of features [...,3]."""
        return self._color(features)

    def load_published(self, state: Mapping[str, Tensor], prefix: str = "geometry.") -> None:
        """Take the parameters of a generator published by ScaleDreamer from its system's state_dict.

        All of its tensors must be there and fit; nothing is changed otherwise. Raises ValueError for those that do not, for another
        box, and for a generator whose axes are the project's: published ones stand in a world with z up.
        """
        names = published.names_of(self)
        published.load_published_field(self, state, prefix, names, axes=self.spec.axes, radius=self.spec.radius)

    @abc.abstractmethod
    def _condition(self, text: Tensor, draws: tuple[Tensor, ...]) -> Cache: ...

    @abc.abstractmethod
    def encode(self, points: Tensor, cache: Cache) -> Tensor:
        """[B,P,F] at points [B,P,3], which the box holds at [-1,1]^3, in the generator's axes."""

    @abc.abstractmethod
    def heads(self, cache: Cache) -> tuple[Head, Head]:
        """The networks from encodings [B,P,F] to what distances from the ball are, [B,P,1], and to features [B,P,3]."""

    @staticmethod
    def _checked(points: Tensor) -> Tensor:
        if points.dim() != 3 or points.shape[-1] != 3:
            raise ValueError(f"points: expected shape [B,P,3], points of each sentence, got {list(points.shape)}")
        return points

    def _encoded(self, points: Tensor, cache: Cache) -> Tensor:
        return self.encode(published.in_axes(points, self.spec.axes) / self.spec.radius, cache)

    def _field(self, points: Tensor, cache: Cache) -> FieldValues:
        encoded = self._encoded(points, cache)
        distance_head, feature_head = self.heads(cache)
        return FieldValues(self._from_ball(points, distance_head(encoded)), feature_head(encoded))

    def _distances(self, points: Tensor, cache: Cache) -> Tensor:
        return self._from_ball(points, self.heads(cache)[0](self._encoded(points, cache)))

    def _from_ball(self, points: Tensor, raw: Tensor) -> Tensor:
        return raw[..., 0] + points.norm(dim=-1) - self.spec.sphere_bias


class GeneratedField(Generic[Cache]):
    """The shapes of a cache as `fields.volsdf.render_volsdf` renders them: rays [B,N,3] look at one shape each, all views in N.

    recompute: evaluate points again in the backward pass rather than keep what that needs.
    """

    def __init__(self, generator: ShapeGenerator[Cache], cache: Cache, recompute: bool = False) -> None:
        self.generator, self.cache, self.recompute = generator, cache, recompute

    def sdf(self, points: Tensor) -> Tensor:
        return self._call(self.generator.sdf, points)

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        values = self._call(self.generator.field, points)
        return values.sdf, self.generator.color(values.features)

    def _call(self, function: Callable[..., Any], points: Tensor) -> Any:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(function, points, self.cache, use_reentrant=False)
        return function(points, self.cache)
