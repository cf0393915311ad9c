"""A generator with what stands behind its shapes, as a representation: sentences in, then pictures of their shapes from any cameras.

Shapes are rendered as signed distance fields (`fields.volsdf`). Sizes: B sentences, V = B v views, those of one sentence together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cam_utils import Cameras, rays
from microdreamer.core import profiler
from microdreamer.core.rows import count_rows, take_row
from microdreamer.core.transfer import send
from microdreamer.fields.backgrounds import SolidBackground, with_replacements
from microdreamer.fields.volsdf import VolsdfRendering, integrate, propose, render_volsdf, surface_normal
from microdreamer.generators.backgrounds import PromptBackground, SharedBackground
from microdreamer.generators.base import GeneratedField, ShapeGenerator

EMPTY = 5e-4  # opacity of a ray in the first pass up to which the second is spared, where no gradients are wanted
CHUNK_RAYS = {"cpu": 1 << 12, "cuda": 1 << 15}  # of a sentence, in a render without gradients, by kind of device


@dataclasses.dataclass(frozen=True)
class VolsdfSettings:
    """How shapes are rendered; the defaults are ScaleDreamer's. Raises ValueError for a value out of range.

    proposals, samples: intervals of a ray's two passes; sharpness: of surfaces, see `fields.volsdf`; random_background: share of
    training images whose background is a colour drawn for the image, or, with `share_background`, for all; gradients: whether the
    distances' gradient is rendered in training, for its regularisers; recompute: evaluate the field again in the backward pass rather
    than keep what that needs.
    """

    proposals: int = 128
    samples: int = 64
    sharpness: float = 30.0
    random_background: float = 0.5
    share_background: bool = False
    gradients: bool = True
    recompute: bool = False

    def __post_init__(self) -> None:
        for name in ("proposals", "samples", "sharpness"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected a number above 0")
        if not 0 <= self.random_background <= 1:
            raise ValueError(f"random_background={self.random_background}: expected a share from 0 to 1")


class Draws(NamedTuple):
    """What a training render draws: both passes' jitter [V H W] in [0,1); the colours [V,3] of backgrounds that take the place of the
    network's where replaced [V] (bool) says so; and what the generator leaves to chance."""

    jitter: Tensor
    fine_jitter: Tensor
    replaced: Tensor
    color: Tensor
    geometry: tuple[Tensor, ...]


class Shapes(NamedTuple):
    """The caches of B sentences: of their shapes, and of what stands behind them."""

    geometry: Any
    background: Any


class ShapeRendering(NamedTuple):
    """image [V,3,H,W] in [0,1]; alpha, depth [V,1,H,W], depth weighted but not divided by alpha; normal [V,3,H,W], weighted unit
    normals, None where not asked for; detail: of all rays [B,v H W], None for a render without gradients, which is done in parts."""

    image: Tensor
    alpha: Tensor
    depth: Tensor
    normal: Tensor | None
    detail: VolsdfRendering | None


class _Seen(NamedTuple):
    """What rays [B,N] see: colour and normal [B,N,3] weighted, alpha and depth [B,N]."""

    color: Tensor
    alpha: Tensor
    depth: Tensor
    normal: Tensor | None


class TextToShape(nn.Module):
    """`generator` with `background`. Draws come from `draws`, a generator of random numbers on the CPU."""

    def __init__(
        self,
        geometry: ShapeGenerator,
        background: SharedBackground | PromptBackground | SolidBackground,
        settings: VolsdfSettings | None = None,
        draws: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.geometry, self.background = geometry, background
        self.settings = settings or VolsdfSettings()
        self.generator = draws or torch.Generator().manual_seed(0)

    @property
    def device(self) -> torch.device:
        return next(self.geometry.parameters()).device

    # ---- Sentences to shapes ----

    @profiler.function
    def condition(self, text: Tensor, pooled: Tensor | None = None, draws: Sequence[Tensor] = ()) -> Shapes:
        """Shapes of B sentences: `text` is what the generator reads of them, see `ShapeGenerator.condition`.

        pooled [B,C]: one vector a sentence, which a background of sentences reads; where None, `text`, which must then be that.
        """
        behind: Any = ()
        if isinstance(self.background, PromptBackground):
            behind = self.background.condition(text if pooled is None else pooled)
        return Shapes(self.geometry.condition(text, draws), behind)

    def shape(self, shapes: Shapes, index: int = 0) -> OneShape:
        """One of B shapes, as a representation of its own."""
        return OneShape(self, take_row(shapes, index))

    # ---- Shapes to pictures ----

    def draw(self, sentences: int, views: int, size: int) -> Draws:
        """The random numbers of one training render of `views` views in all, `size` pixels a side, on the model's device."""
        settings, generator = self.settings, self.generator
        jitter = torch.rand(2, views * size * size, generator=generator)
        images = 1 if settings.share_background else views
        replaced = (torch.rand(images, generator=generator) < settings.random_background).expand(views)
        color = torch.rand(images, 3, generator=generator).expand(views, 3)
        # Noise for every voxel would take the CPU longer than a step takes a GPU: it is drawn there, from a seed drawn here.
        seed = int(torch.randint(1 << 62, (1,), generator=generator))
        of_geometry = self.geometry.draw(sentences, torch.Generator(self.device).manual_seed(seed))
        return Draws(*(send(tensor.contiguous(), self.device) for tensor in (*jitter, replaced, color)), of_geometry)

    @profiler.function
    def render(
        self,
        cameras: Cameras,
        shapes: Shapes,
        background: Tensor | float | None = None,
        draws: Draws | None = None,
        *,
        normals: bool = False,
    ) -> ShapeRendering:
        """All views of all shapes in one differentiable call.

        `background` is a grey value, [3] or [V,3] in [0,1], or None for the model's own. In training mode with `draws` rays are
        jittered and backgrounds replaced. Without gradients the pictures are rendered in parts, in bounded memory; normals: whether
        they are rendered then, those of where rays end on the average. Raises ValueError where the views do not divide among the shapes.
        """
        views, height, width = len(cameras), cameras.height, cameras.width
        count = count_rows(shapes)
        if views % count:
            raise ValueError(f"{views} views of {count} shapes: expected as many of each")
        origins, directions = (value.reshape(count, -1, 3) for value in rays(cameras))
        field = GeneratedField(self.geometry, shapes.geometry, recompute=self.settings.recompute)
        jitter = None if draws is None else tuple(drawn.view(count, -1) for drawn in (draws.jitter, draws.fine_jitter))
        detail = None
        if torch.is_grad_enabled():
            detail = self._cast(field, origins, directions, jitter)
            found = _Seen(detail.color, detail.alpha, detail.depth, detail.normal)
        else:
            each = [self._in_parts(shapes.geometry, index, origins, directions, jitter, normals) for index in range(count)]
            found = _Seen(*(None if values[0] is None else torch.cat(values) for values in zip(*each, strict=True)))
        behind = self._behind(directions.view(count, -1, 3), shapes, background, draws, (views, height, width))

        def picture(values: Tensor) -> Tensor:
            return values.reshape(views, height, width, -1).permute(0, 3, 1, 2)

        alpha = picture(found.alpha)
        image = picture(found.color) + (1 - alpha) * behind
        return ShapeRendering(image, alpha, picture(found.depth), None if found.normal is None else picture(found.normal), detail)

    def _cast(self, field: GeneratedField, origins: Tensor, directions: Tensor, jitter: tuple[Tensor, ...] | None) -> VolsdfRendering:
        return render_volsdf(
            field,
            origins,
            directions,
            jitter=None if jitter is None else (jitter[0], jitter[1]),
            with_normals=self.settings.gradients,
            proposals=self.settings.proposals,
            samples=self.settings.samples,
            **self._shared,
        )

    @property
    def _shared(self) -> dict[str, float]:
        return {"sharpness": self.settings.sharpness, "radius": self.geometry.spec.radius}

    def _in_parts(
        self, cache: Any, index: int, origins: Tensor, directions: Tensor, jitter: tuple[Tensor, ...] | None, normals: bool
    ) -> _Seen:
        """What the rays of one of the shapes see, [1,N], a part of them at a time; only what a picture needs is kept."""
        field = GeneratedField(self.geometry, take_row(cache, index))
        parts = []
        for part in torch.arange(origins.shape[1], device=origins.device).split(CHUNK_RAYS[origins.device.type]):
            drawn = None if jitter is None else (jitter[0][index, part][None], jitter[1][index, part][None])
            parts.append(self._part(field, origins[index, part][None], directions[index, part][None], drawn, normals))
        return _Seen(*(None if values[0] is None else torch.cat(values, dim=1) for values in zip(*parts, strict=True)))

    def _part(
        self, field: GeneratedField, origins: Tensor, directions: Tensor, jitter: tuple[Tensor, Tensor] | None, normals: bool
    ) -> _Seen:
        """Of rays [1,N]; those that the first pass finds empty are left so."""
        counts = {"proposals": self.settings.proposals, "samples": self.settings.samples}
        proposed = propose(field, origins, directions, jitter=jitter, **counts, **self._shared)
        shows = (proposed.opacity[0] > EMPTY).nonzero()[:, 0]
        origins, directions = origins[:, shows], directions[:, shows]
        seen = integrate(field, origins, directions, proposed.edges[:, shows], **self._shared)
        normal = surface_normal(field, origins, directions, seen, self.geometry.spec.radius) if normals else None
        found, count = (seen.color, seen.alpha, seen.depth, normal), proposed.opacity.shape[1]
        return _Seen(*(None if part is None else part.new_zeros(1, count, *part.shape[2:]).index_copy_(1, shows, part) for part in found))

    def _behind(
        self, directions: Tensor, shapes: Shapes, background: Tensor | float | None, draws: Draws | None, shape: tuple[int, int, int]
    ) -> Tensor:
        """Colours [V,3,H,W], or what broadcasts to them, behind the shapes that rays [B,v H W,3] look at."""
        if background is not None:
            if not isinstance(background, Tensor):
                background = torch.full((3,), float(background), device=directions.device)
            return background.to(directions).expand(shape[0], 3)[:, :, None, None]
        if isinstance(self.background, PromptBackground):
            colors = self.background(directions, shapes.background)
        else:
            colors = self.background(directions)
        colors = colors.view(*shape, 3)
        if draws is not None:
            colors = with_replacements(colors, draws.color, draws.replaced)
        return colors.permute(0, 3, 1, 2)


class OneShape:
    """The shape of one sentence: `render(cameras, background)` as other representations have it, distances and colours at points."""

    def __init__(self, model: TextToShape, shapes: Shapes) -> None:
        self.model, self.shapes = model, shapes
        self.radius = model.geometry.spec.radius

    @property
    def device(self) -> torch.device:
        return self.model.device

    @torch.no_grad()
    def render(self, cameras: Cameras, background: Tensor | float | None = None, *, normals: bool = True) -> ShapeRendering:
        """Pictures from `cameras`, without gradients."""
        return self.model.render(cameras, self.shapes, background, normals=normals)

    @torch.no_grad()
    def sdf(self, points: Tensor) -> Tensor:
        """Signed distances [P], negative inside, at points [P,3]."""
        return self.model.geometry.sdf(points[None], self.shapes.geometry)[0]

    @torch.no_grad()
    def color(self, points: Tensor) -> Tensor:
        """Colours [P,3] in [0,1] at points [P,3]."""
        values = self.model.geometry.field(points[None], self.shapes.geometry)
        return self.model.geometry.color(values.features)[0]
