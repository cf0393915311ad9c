"""A neural field as a representation: what `GaussianModel` is for Gaussians, `render(cameras, background)` of a field in a box.

Rays go through the occupied cells of the box, a pass without gradients finds the samples that show, and the field is evaluated at
those. On a GPU their lists have a fixed length, so that nothing waits for the device and a training step can be a CUDA graph.
Sizes: V views of H x W pixels, N = V H W rays, M samples.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

from cam_utils import Cameras, rays
from microdreamer.core import profiler
from microdreamer.core.transfer import send
from microdreamer.fields.backgrounds import with_replacements
from microdreamer.fields.materials import NoMaterial, Shading, ShadingPolicy
from microdreamer.fields.occupancy import OccupancyGrid
from microdreamer.fields.sample_room import Room, scattered
from microdreamer.kernels.volume import Samples, composite, keep_visible, march_rays, take_rows

REFRESH_EVERY = 16  # optimiser steps between updates of the grid
SHRINK_EVERY = 512  # and after which lists of samples that are much too long become shorter
MIN_TRANSMITTANCE = 1e-4  # of light up to a sample, below which it is left out
CHUNK_RAYS = {"cpu": 1 << 14, "cuda": 1 << 17}  # rays of a render without gradients at a time, by kind of device
CHUNK_POINTS = {"cpu": 1 << 16, "cuda": 1 << 20}  # and points
LIGHT_DISTANCE = (0.8, 1.5)  # of lights from the origin, drawn evenly (Poole et al., "DreamFusion", 2022)


class Values(Protocol):
    """density [P]; features [P,F], raw; unit normals [P,3] where asked for."""

    @property
    def density(self) -> Tensor: ...
    @property
    def features(self) -> Tensor: ...
    @property
    def normal(self) -> Tensor | None: ...


class Geometry(Protocol):
    """What a field must offer; `ImplicitVolume` does. `parameter_groups` has parameters by the names that learning rates go by.

    `used` [] int32: points from there on only fill a list of fixed length up, their values may be any finite ones. A field may offer
    `encode(points, used)` [P,F], what it looks up before it computes; both functions then take it as `encoded`, and do not look it up
    again. And it may say, by `sees_directions`, that it does without directions.
    """

    def density(self, points: Tensor, used: Tensor | None = None) -> Tensor: ...
    def __call__(
        self, points: Tensor, directions: Tensor | None = None, with_normals: bool = False, used: Tensor | None = None
    ) -> Values: ...
    def parameter_groups(self) -> dict[str, list[nn.Parameter]]: ...


@dataclasses.dataclass(frozen=True)
class VolumeSettings:
    """How a field is rendered. Raises ValueError for a value out of range.

    samples_per_ray: steps that the box's diagonal is long; radius: half the box's side; grid_resolution: cells of the occupancy grid a
    side; near: distance where rays begin; random_background: share of training images whose background is a colour drawn for the
    image, or, with `share_background`, for all; normals: whether they are rendered; recompute: evaluate the field again in the backward
    pass rather than keep what that needs; half_precision: on a GPU, multiply in bfloat16 in the networks behind the grid.
    """

    samples_per_ray: int = 512
    radius: float = 1.0
    grid_resolution: int = 32
    near: float = 0.0
    random_background: float = 0.5
    share_background: bool = False
    normals: bool = False
    recompute: bool = False
    half_precision: bool = False

    def __post_init__(self) -> None:
        if self.samples_per_ray < 1:
            raise ValueError(f"samples_per_ray={self.samples_per_ray}: expected at least 1")
        if not 0 <= self.random_background <= 1:
            raise ValueError(f"random_background={self.random_background}: expected a share from 0 to 1")
        if not self.near >= 0:
            raise ValueError(f"near={self.near}: expected a distance of at least 0")

    @property
    def step_size(self) -> float:
        """Length of a step along a ray."""
        return 2 * math.sqrt(3) * self.radius / self.samples_per_ray


class Draws(NamedTuple):
    """What a training render draws; tensors alone, so that a captured step can be given new ones.

    jitter [N] in [0,1); the colours [V,3] of backgrounds that replace the field's where replaced [V] (bool) says so. For a material with
    light, zeros for others: lights [V,4], three normal numbers that move a light away from the camera, and its distance from the
    origin; shading [3]: the light's share, whether there is shading at all, and whether the surface is white.
    """

    jitter: Tensor
    replaced: Tensor
    color: Tensor
    lights: Tensor
    shading: Tensor


class Detail(NamedTuple):
    """What regularisers look at: the samples, their weights [M], normals [M,3] and rays' directions [M,3]; the latter two None where no
    normals are asked for."""

    samples: Samples
    weights: Tensor
    normals: Tensor | None
    directions: Tensor | None


class FieldRendering(NamedTuple):
    """image [V,3,H,W] in [0,1]; alpha [V,1,H,W]; depth [V,1,H,W]: sum of weight * distance along the ray; normal [V,3,H,W]: sum of
    weight * unit normal in the world, None where not asked for; detail: None for a render without gradients, which is done in parts."""

    image: Tensor
    alpha: Tensor
    depth: Tensor
    normal: Tensor | None
    detail: Detail | None


class _Rays(NamedTuple):
    """What each of N rays brings along; None for what a render does without."""

    origins: Tensor  # [N,3]
    directions: Tensor  # [N,3]
    jitter: Tensor | None  # [N]
    lights: Tensor | None  # [N,3] positions

    def part(self, chosen: slice) -> _Rays:
        return _Rays(*(None if tensor is None else tensor[chosen] for tensor in self))


class _Look(NamedTuple):
    """Of all rays: whether normals are wanted, and Draws.shading where there is a light."""

    normals: bool
    shading: Tensor | None

    @property
    def needs_normals(self) -> bool:
        return self.normals or self.shading is not None


class _Points(NamedTuple):
    """Where the geometry is asked, P points; None for what it does without. `used` and `encoded` as in `Geometry`."""

    points: Tensor  # [P,3]
    directions: Tensor | None  # [P,3]
    lights: Tensor | None  # [P,3] positions
    used: Tensor | None
    encoded: Tensor | None  # [P,F]

    def part(self, first: int, last: int) -> _Points:
        points, directions, lights, encoded = (
            None if tensor is None else tensor[first:last] for tensor in (self.points, self.directions, self.lights, self.encoded)
        )
        return _Points(points, directions, lights, None if self.used is None else self.used - first, encoded)


class _RayValues(NamedTuple):
    """What each of N rays sees of the field: colour [N,3] and normals [N,3] premultiplied, alpha and depth [N]."""

    color: Tensor
    alpha: Tensor
    depth: Tensor
    normal: Tensor | None


class VolumeModel(nn.Module):
    """A field in the box [-radius, radius]^3, its occupancy grid and its background.

    `geometry` (a `Geometry`) gives density, features and normals at points; `background` gives colours [...,3] for directions [...,3];
    `material` turns features into colour, in the light of `shading`. In training mode rays are jittered, backgrounds replaced by random
    colours, and lights drawn; the draws come from `generator`, which lives on the CPU and whose state is in the state dict.

    Call `refresh` before every optimiser step. Raises ValueError if geometry and settings speak of different boxes.
    """

    def __init__(
        self,
        geometry: nn.Module,
        background: nn.Module,
        settings: VolumeSettings | None = None,
        generator: torch.Generator | None = None,
        *,
        material: nn.Module | None = None,
        shading: ShadingPolicy | None = None,
    ) -> None:
        super().__init__()
        self.geometry, self.background = geometry, background
        self.material = material or NoMaterial()
        self.shading = shading or ShadingPolicy()
        self.settings = settings or VolumeSettings()
        radius = getattr(getattr(geometry, "spec", None), "radius", self.settings.radius)
        if radius != self.settings.radius:
            raise ValueError(f"radius={self.settings.radius}: expected {radius}, half the side of the field's box")
        self.occupancy = OccupancyGrid(self.settings.grid_resolution, self.settings.radius)
        self.generator = generator or torch.Generator().manual_seed(0)
        self.step = 0  # of the optimiser, as `refresh` was last told
        self._rooms: dict[int, Room] = {}  # by the number of rays

    @property
    def device(self) -> torch.device:
        return self.occupancy.values.device

    # ---- Rendering ----

    def draw(self, views: int, height: int, width: int) -> Draws:
        """The random numbers of one training render, on the model's device."""
        settings, generator = self.settings, self.generator
        jitter = torch.rand(views * height * width, generator=generator)
        images = 1 if settings.share_background else views
        replaced = (torch.rand(images, generator=generator) < settings.random_background).expand(views)
        color = torch.rand(images, 3, generator=generator).expand(views, 3)
        lights, shading = torch.zeros(views, 4), torch.zeros(3)
        if self.material.needs_normals:
            low, high = LIGHT_DISTANCE
            lights[:, :3] = torch.randn(views, 3, generator=generator)
            lights[:, 3] = low + (high - low) * torch.rand(views, generator=generator)
            chosen = self.shading(self.step, torch.rand(3, generator=generator))
            shading = torch.tensor([float(chosen.diffuse), chosen.mode != "albedo", chosen.mode == "textureless"])
        return Draws(*(send(tensor.contiguous(), self.device) for tensor in (jitter, replaced, color, lights, shading)))

    @profiler.function
    def render(
        self,
        cameras: Cameras,
        background: Tensor | float | None = None,
        draws: Draws | None = None,
        *,
        normals: bool | None = None,
    ) -> FieldRendering:
        """All views of `cameras` in one differentiable call.

        `background` is a grey value, [3] or [V,3] in [0,1], or None for the field's own. `draws` are those of `draw`, which training
        mode calls itself where none are given; a step that is captured as a CUDA graph takes them from outside. `normals` None is as
        the settings say. In evaluation and without gradients the pictures are rendered in parts, in bounded memory.
        """
        views, height, width = len(cameras), cameras.height, cameras.width
        if self.training and draws is None:
            draws = self.draw(views, height, width)
        origins, directions = (value.reshape(-1, 3) for value in rays(cameras))
        jitter, lights = None, None
        if draws is not None:
            jitter = draws.jitter
            if self.material.needs_normals:
                places = normalize(cameras.centers + draws.lights[:, :3], dim=-1) * draws.lights[:, 3:]
                lights = places.repeat_interleave(height * width, 0, output_size=len(origins))
        cast, detail = _Rays(origins, directions, jitter, lights), None
        look = _Look(self.settings.normals if normals is None else normals, None if lights is None else draws.shading)
        if torch.is_grad_enabled() or self.training:
            found, detail = self._render_rays(cast, look, self._room(cast))
        else:
            found = self._render_in_parts(cast, look)
        behind = self._behind(directions.view(views, height, width, 3), background, draws)

        def picture(values: Tensor) -> Tensor:
            return values.reshape(views, height, width, -1).permute(0, 3, 1, 2)

        alpha = picture(found.alpha)
        image = picture(found.color) + (1 - alpha) * behind
        return FieldRendering(image, alpha, picture(found.depth), None if found.normal is None else picture(found.normal), detail)

    def _behind(self, directions: Tensor, background: Tensor | float | None, draws: Draws | None) -> Tensor:
        """Colours [V,3,H,W], or what broadcasts to them, behind the field that rays with directions [V,H,W,3] go through."""
        if background is not None:
            if not isinstance(background, Tensor):
                background = torch.full((3,), float(background), device=directions.device)
            return background.to(directions).expand(len(directions), 3)[:, :, None, None]
        colors = self.background(directions)
        if draws is not None:
            colors = with_replacements(colors, draws.color, draws.replaced)
        return colors.permute(0, 3, 1, 2)

    def _render_in_parts(self, cast: _Rays, look: _Look) -> _RayValues:
        size = CHUNK_RAYS[self.device.type]
        starts = range(0, len(cast.origins), size)
        parts = [self._render_rays(cast.part(slice(first, first + size)), look, None)[0] for first in starts]
        return _RayValues(*(None if values[0] is None else torch.cat(values) for values in zip(*parts, strict=True)))

    def _render_rays(self, cast: _Rays, look: _Look, room: Room | None) -> tuple[_RayValues, Detail]:
        samples, totals, encoded = self._visible(cast, room, self._looks_up_once(look))
        if room is not None:
            room.note(totals)
        points, used = samples.positions(cast.origins, cast.directions), None
        if room is not None:
            used = samples.offsets[-1]
        if room is not None and look.needs_normals:
            points = torch.where(samples.length[:, None] > 0, points, scattered(len(points), self.settings.radius, points.device))
        along = lights = None
        if look.needs_normals or getattr(self.geometry, "sees_directions", True):
            along = cast.directions.index_select(0, samples.ray)
        if cast.lights is not None:
            lights = cast.lights.index_select(0, samples.ray)
        density, color, normal = self._evaluate(_Points(points, along, lights, used, encoded), look)
        found = composite(density, color if normal is None else torch.cat([color, normal], dim=1), samples)
        values = _RayValues(found.features[:, :3], found.alpha, found.depth, None if normal is None else found.features[:, 3:])
        return values, Detail(samples, found.weights, normal, along)

    def _looks_up_once(self, look: _Look) -> bool:
        """Whether what the search for visible samples looks up is kept for their colours: it takes memory, which `recompute` is to save."""
        wanted = torch.is_grad_enabled() and not self.settings.recompute and not look.needs_normals
        return wanted and hasattr(self.geometry, "encode")

    @torch.no_grad()
    def _visible(self, cast: _Rays, room: Room | None, keeps: bool = False) -> tuple[Samples, Tensor, Tensor | None]:
        """The samples that show, with room in a list of its length; how many [2] were marched and how many show; and what the geometry
        looks up at those that show, where `keeps` asks for it."""
        settings, occupancy = self.settings, self.occupancy
        lengths = (None, None) if room is None else room.lengths
        marched = march_rays(
            cast.origins,
            cast.directions,
            occupancy.occupied,
            radius=settings.radius,
            step=settings.step_size,
            capacity=lengths[0],
            jitter=cast.jitter,
            near=settings.near,
        )
        points, encoded = marched.positions(cast.origins, cast.directions), None
        used = None if room is None else marched.offsets[-1]
        if keeps:
            with self._autocast():
                encoded = self.geometry.encode(points, used)
                density = self.geometry.density(points, used, encoded).float()
        else:
            density = self._density(points, used)
        visible = keep_visible(marched, density, min_alpha=occupancy.threshold, min_transmittance=MIN_TRANSMITTANCE, capacity=lengths[1])
        totals = torch.stack([marched.total, visible.total])
        return visible, totals, None if encoded is None else take_rows(encoded, visible.source)

    @torch.no_grad()
    def _density(self, points: Tensor, used: Tensor | None = None) -> Tensor:
        """[P] at points [P,3]; not a number where the field is none. `used` as in `Geometry`."""
        size, parts = CHUNK_POINTS[points.device.type], []
        with self._autocast():
            for index, part in enumerate(points.split(size)):
                parts.append(self.geometry.density(part, None if used is None else used - index * size).float())
        return torch.cat(parts)

    def _autocast(self) -> torch.autocast:
        """Half precision where it is asked for, on a GPU; without the cache of weights, which a captured graph would not renew."""
        wanted = self.settings.half_precision and self.device.type == "cuda"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=wanted, cache_enabled=False)

    def _evaluate(self, at: _Points, look: _Look) -> tuple[Tensor, Tensor, Tensor | None]:
        """Density [P], colour [P,3] and, where wanted, normals [P,3], for gradients or in bounded memory."""
        if torch.is_grad_enabled():
            if self.settings.recompute:
                return checkpoint(self._evaluate_at, at, look, use_reentrant=False, preserve_rng_state=False)
            return self._evaluate_at(at, look)
        size = CHUNK_POINTS[self.device.type]
        parts = [self._evaluate_at(at.part(first, first + size), look) for first in range(0, max(len(at.points), 1), size)]
        density, color, normal = zip(*parts, strict=True)
        return torch.cat(density), torch.cat(color), None if normal[0] is None else torch.cat(normal)

    def _evaluate_at(self, at: _Points, look: _Look) -> tuple[Tensor, Tensor, Tensor | None]:
        known = {} if at.encoded is None else {"encoded": at.encoded}
        with self._autocast():
            values = self.geometry(at.points, at.directions, with_normals=look.needs_normals, used=at.used, **known)
        color = self.material(values.features)
        if at.lights is not None:
            share, is_shaded, is_white = look.shading
            lit = self.material(values.features, at.points, values.normal, at.lights, Shading("textureless", share))
            color = torch.lerp(color, torch.ones_like(color), is_white) * torch.lerp(torch.ones_like(lit), lit, is_shaded)
        normal = values.normal.float() if look.normals else None
        return values.density.float(), color.float(), normal

    def _room(self, cast: _Rays) -> Room | None:
        """Room for the samples of so many rays; measured, which waits for the device, where there was no such number before.

        None on the CPU, where the numbers of samples are known when their lists are made.
        """
        if self.device.type == "cpu":
            return None
        count = len(cast.origins)
        if count not in self._rooms:
            self._rooms[count] = Room.for_totals(self._visible(cast, None)[1])
        return self._rooms[count]

    # ---- Training ----

    def refresh(self, step: int) -> bool:
        """Before optimiser step `step`: every 16 steps update the grid and look whether the lists of samples are long enough.

        True where a list has changed its length: what was captured as a CUDA graph must be captured anew.
        """
        self.step = step
        if step % REFRESH_EVERY:
            return False
        self.occupancy.update(self._density, step, self.settings.step_size, self.generator)
        changed = [room.grow() for room in self._rooms.values()]
        if step and step % SHRINK_EVERY == 0:
            changed += [room.shrink() for room in self._rooms.values()]
        return any(changed)

    def parameter_groups(self, lrs: dict[str, float]) -> list[dict[str, Any]]:
        """Groups for an optimiser, of the parts that `lrs` names a learning rate for; parts that it does not name are not trained.

        Parts: those of the geometry's `parameter_groups` (encoding, density_network, feature_network), those of the background's, with
        "background." before their names, and "background" for what of it is not named apart. Raises ValueError for another name.
        """
        parts = dict(self.geometry.parameter_groups())
        inner = self.background.parameter_groups() if hasattr(self.background, "parameter_groups") else {}
        parts |= {f"background.{name}": parameters for name, parameters in inner.items()}
        apart = {id(parameter) for name in parts.keys() & lrs.keys() for parameter in parts[name]}
        parts["background"] = [parameter for parameter in self.background.parameters() if id(parameter) not in apart]
        if unknown := lrs.keys() - parts.keys():
            raise ValueError(f"learning rates for {', '.join(sorted(unknown))}: expected some of {', '.join(parts)}")
        return [{"name": name, "params": parts[name], "lr": lr} for name, lr in lrs.items() if parts[name]]

    def get_extra_state(self) -> dict[str, Any]:
        """The generator's state, and the lengths of the lists by the number of rays."""
        return {"generator": self.generator.get_state(), "rooms": {str(count): list(room.lengths) for count, room in self._rooms.items()}}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"].cpu())
        self._rooms = {
            int(count): Room(list(lengths), torch.zeros(2, dtype=torch.int32, device=self.device))
            for count, lengths in state["rooms"].items()
        }
