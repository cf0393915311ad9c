"""A neural field as a representation: what `GaussianModel` is for Gaussians, `render(cameras, background)` of a field in a box.

Rays go through the occupied cells of the box, a pass without gradients finds the samples that show, and the field is evaluated at
those. On a GPU their lists have a fixed length, so that nothing waits for the device and a training step can be a CUDA graph.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cam_utils import Cameras, rays
from microdreamer.core import profiler
from microdreamer.fields.occupancy import OccupancyGrid
from microdreamer.kernels.volume import Samples, composite, keep_visible, march_rays

REFRESH_EVERY = 16  # optimiser steps between updates of the grid
MIN_TRANSMITTANCE = 1e-4  # of light up to a sample, below which it is left out
SPARE = 1.5  # how many times the samples of its first step a list has room for
ROOM = 4096  # a list's length is a multiple of
CHUNK_RAYS = 1 << 14  # rays of a render without gradients at a time
CHUNK_POINTS = 1 << 18  # and points


class Values(Protocol):
    """density [P]; features [P,F], raw; normal [P,3], where asked for."""

    @property
    def density(self) -> Tensor: ...
    @property
    def features(self) -> Tensor: ...
    @property
    def normal(self) -> Tensor | None: ...


class Geometry(Protocol):
    """What a field must offer; `ImplicitVolume` does."""

    def density(self, points: Tensor) -> Tensor: ...
    def __call__(self, points: Tensor, directions: Tensor | None = None, with_normals: bool = False) -> Values: ...


@dataclasses.dataclass(frozen=True)
class VolumeSettings:
    """How a field is rendered. Raises ValueError for a value out of range.

    samples_per_ray: steps that the box's diagonal is long; radius: half its side; grid_resolution: cells of the occupancy grid a side;
    random_background: share of training images whose background is a colour drawn for each image, or, with `share_background`, one for
    all; normals: whether they are rendered; recompute: evaluate the field again in the backward pass rather than keep what it needs.
    """

    samples_per_ray: int = 512
    radius: float = 1.0
    grid_resolution: int = 32
    near: float = 0.0
    random_background: float = 0.5
    share_background: bool = False
    normals: bool = False
    recompute: bool = False

    def __post_init__(self) -> None:
        if self.samples_per_ray < 1:
            raise ValueError(f"samples_per_ray={self.samples_per_ray}: expected at least 1")
        if not 0 <= self.random_background <= 1:
            raise ValueError(f"random_background={self.random_background}: expected a share from 0 to 1")
        if not self.near >= 0:
            raise ValueError(f"near={self.near}: expected a distance of at least 0")

    @property
    def step_size(self) -> float:
        return 2 * math.sqrt(3) * self.radius / self.samples_per_ray


class Draws(NamedTuple):
    """What a training render draws: jitter [V*H*W] in [0,1), and the colours [V,3] of backgrounds that replace the field's where
    replaced [V] is 1, else 0."""

    jitter: Tensor
    replaced: Tensor
    color: Tensor

    def to(self, device: torch.device) -> Draws:
        return Draws(*(tensor.to(device, non_blocking=True) for tensor in self))


class Detail(NamedTuple):
    """What regularisers look at: the samples, their weights [M], normals [M,3] (None where not asked for) and rays' directions [M,3]."""

    samples: Samples
    weights: Tensor
    normals: Tensor | None
    directions: Tensor


class FieldRendering(NamedTuple):
    """image [V,3,H,W] in [0,1]; alpha [V,1,H,W]; depth [V,1,H,W]: sum of weight * distance along the ray; normal [V,3,H,W]: sum of
    weight * unit normal in the world, None where not asked for; detail: None for a render without gradients, which is done in parts."""

    image: Tensor
    alpha: Tensor
    depth: Tensor
    normal: Tensor | None
    detail: Detail | None


@dataclasses.dataclass
class _Room:
    """The lengths of the lists of marched and of visible samples, for one number of rays, and the most [2] that there ever were."""

    lengths: list[int]
    most: Tensor


class _RayValues(NamedTuple):
    color: Tensor  # [N,3], premultiplied
    alpha: Tensor
    depth: Tensor
    normal: Tensor | None


class VolumeModel(nn.Module):
    """A field in the box [-radius, radius]^3, its occupancy grid and its background network.

    `geometry` gives density, features and normals at points; `background` gives colours [...,3] for directions [...,3]. In training mode
    rays are jittered and backgrounds replaced by random colours; the draws come from `generator`, which lives on the CPU and whose state
    belongs to the state dict.
    """

    def __init__(
        self,
        geometry: nn.Module,
        background: nn.Module,
        settings: VolumeSettings | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.geometry, self.background = geometry, background
        self.settings = settings or VolumeSettings()
        self.occupancy = OccupancyGrid(self.settings.grid_resolution, self.settings.radius)
        self.generator = generator or torch.Generator().manual_seed(0)
        self._rooms: dict[int, _Room] = {}

    @property
    def device(self) -> torch.device:
        return self.occupancy.values.device

    # ---- Rendering ----

    def draw(self, views: int, height: int, width: int) -> Draws:
        """The random numbers of one training render, on the model's device."""
        settings, generator = self.settings, self.generator
        jitter = torch.rand(views * height * width, generator=generator)
        images = 1 if settings.share_background else views
        replaced = (torch.rand(images, generator=generator) < settings.random_background).float().expand(views)
        color = torch.rand(images, 3, generator=generator).expand(views, 3)
        return Draws(jitter, replaced, color).to(self.device)

    @profiler.function
    def render(self, cameras: Cameras, background: Tensor | float | None = None, draws: Draws | None = None) -> FieldRendering:
        """All views of `cameras` in one differentiable call.

        `background` is a grey value, [3] or [V,3] in [0,1], or None for the field's own. `draws` are those of `draw`, which training
        mode calls itself where none are given; a step that is to be captured as a CUDA graph takes them from outside. Without gradients
        the picture is rendered in parts of bounded memory.
        """
        views, height, width = len(cameras), cameras.height, cameras.width
        if self.training and draws is None:
            draws = self.draw(views, height, width)
        origins, directions = (value.reshape(-1, 3) for value in rays(cameras))
        jitter = None if draws is None else draws.jitter
        detail = None
        if torch.is_grad_enabled():
            found, detail = self._render_rays(origins, directions, jitter, self._room(origins, directions, jitter))
        else:
            found = self._render_in_parts(origins, directions, jitter)
        behind = self._behind(directions.view(views, height, width, 3), background, draws)

        def picture(values: Tensor) -> Tensor:
            return values.reshape(views, height, width, -1).permute(0, 3, 1, 2)

        alpha = picture(found.alpha)
        image = picture(found.color) + (1 - alpha) * behind
        return FieldRendering(image, alpha, picture(found.depth), None if found.normal is None else picture(found.normal), detail)

    def _behind(self, directions: Tensor, background: Tensor | float | None, draws: Draws | None) -> Tensor:
        """Colours [V,3,H,W], or what broadcasts to them, behind the field."""
        if background is None:
            own = self.background(directions).permute(0, 3, 1, 2)
            return own if draws is None else torch.lerp(own, draws.color[:, :, None, None], draws.replaced[:, None, None, None])
        return torch.as_tensor(background, dtype=directions.dtype, device=directions.device).expand(len(directions), 3)[:, :, None, None]

    def _render_in_parts(self, origins: Tensor, directions: Tensor, jitter: Tensor | None) -> _RayValues:
        parts = []
        for first in range(0, len(origins), CHUNK_RAYS):
            part = slice(first, first + CHUNK_RAYS)
            parts.append(self._render_rays(origins[part], directions[part], None if jitter is None else jitter[part], None)[0])
        return _RayValues(*(None if values[0] is None else torch.cat(values) for values in zip(*parts, strict=True)))

    def _render_rays(self, origins: Tensor, directions: Tensor, jitter: Tensor | None, room: _Room | None) -> tuple[_RayValues, Detail]:
        samples, totals = self._visible(origins, directions, jitter, room)
        if room is not None:
            torch.maximum(room.most, totals, out=room.most)
        along = directions[samples.ray]
        points = torch.addcmul(origins[samples.ray], along, samples.middle[:, None])
        density, color, normal = self._shaded(points, along)
        channels = color if normal is None else torch.cat([color, normal], dim=1)
        found = composite(density, channels, samples)
        values = _RayValues(found.features[:, :3], found.alpha, found.depth, None if normal is None else found.features[:, 3:])
        return values, Detail(samples, found.weights, normal, along)

    def _shaded(self, points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Density [P], colour [P,3] and, where wanted, normals [P,3]."""

        def evaluate(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
            values = self.geometry(points, directions, with_normals=self.settings.normals)
            return values.density.float(), values.features[:, :3].sigmoid().float(), values.normal

        if not torch.is_grad_enabled():
            parts = [evaluate(*part) for part in zip(points.split(CHUNK_POINTS), directions.split(CHUNK_POINTS), strict=True)]
            density, color, normal = zip(*parts, strict=True)
            return torch.cat(density), torch.cat(color), torch.cat(normal) if self.settings.normals else None
        if self.settings.recompute:
            return checkpoint(evaluate, points, directions, use_reentrant=False, preserve_rng_state=False)
        return evaluate(points, directions)

    @torch.no_grad()
    def _visible(self, origins: Tensor, directions: Tensor, jitter: Tensor | None, room: _Room | None) -> tuple[Samples, Tensor]:
        """The samples that show, with room in a list of its length; and how many [2] were marched and how many show."""
        settings = self.settings
        marched_length, visible_length = (None, None) if room is None else room.lengths
        marched = march_rays(
            origins,
            directions,
            self.occupancy.occupied,
            radius=settings.radius,
            step=settings.step_size,
            capacity=marched_length,
            jitter=jitter,
            near=settings.near,
        )
        density = self._density(marched.positions(origins, directions))
        visible = keep_visible(
            marched, density, min_alpha=self.occupancy.threshold, min_transmittance=MIN_TRANSMITTANCE, capacity=visible_length
        )
        return visible, torch.stack([marched.total, visible.total])

    @torch.no_grad()
    def _density(self, points: Tensor) -> Tensor:
        if len(points) <= CHUNK_POINTS:
            return self.geometry.density(points).float()
        return torch.cat([self.geometry.density(part).float() for part in points.split(CHUNK_POINTS)])

    def _room(self, origins: Tensor, directions: Tensor, jitter: Tensor | None) -> _Room | None:
        """Room for the samples of so many rays; measured, which waits for the device, where there was no such number before."""
        if self.device.type == "cpu":
            return None
        if len(origins) not in self._rooms:
            _, totals = self._visible(origins, directions, jitter, None)
            self._rooms[len(origins)] = _Room([math.ceil((SPARE * total + 1) / ROOM) * ROOM for total in totals.tolist()], totals)
        return self._rooms[len(origins)]

    # ---- Training ----

    def refresh(self, step: int) -> bool:
        """Before optimiser step `step`: every 16 steps update the grid and look whether the lists of samples were long enough.

        True where a list has grown: what was captured as a CUDA graph must be captured anew.
        """
        if step % REFRESH_EVERY:
            return False
        self.occupancy.update(self._density, step, self.settings.step_size, self.generator)
        return self._grow()

    def _grow(self) -> bool:
        grown = False
        for room in self._rooms.values():
            for index, most in enumerate(room.most.tolist()):
                while room.lengths[index] < most:
                    room.lengths[index] *= 2
                    grown = True
        return grown

    def parameter_groups(self, lrs: dict[str, float]) -> list[dict[str, Any]]:
        """Groups for an optimiser, of the parts that `lrs` names a learning rate for.

        Parts: encoding, density_network and feature_network of the geometry; background. Raises ValueError for another name.
        """
        parts = {name: getattr(self.geometry, name, None) for name in ("encoding", "density_network", "feature_network")}
        parts["background"] = self.background
        unknown = lrs.keys() - parts.keys()
        if unknown:
            raise ValueError(f"learning rates for {', '.join(sorted(unknown))}: expected {', '.join(parts)}")
        groups = [{"name": name, "params": list(_parameters(parts[name])), "lr": lr} for name, lr in lrs.items()]
        return [group for group in groups if group["params"]]

    def get_extra_state(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state(), "rooms": {rays: list(room.lengths) for rays, room in self._rooms.items()}}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"].cpu())
        self._rooms = {
            rays: _Room(list(lengths), torch.zeros(2, dtype=torch.int32, device=self.device)) for rays, lengths in state["rooms"].items()
        }


def _parameters(part: nn.Module | nn.Parameter | None) -> Iterator[nn.Parameter]:
    if isinstance(part, nn.Parameter):
        yield part
    elif part is not None:
        yield from part.parameters()
