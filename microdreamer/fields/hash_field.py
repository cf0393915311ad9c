"""A small neural field of density and colour, and volume renders of it whose samples lie only where there is something.

It starts from a density that is known already, on a grid, and learns what to change. Volume rendering is plain PyTorch with a fixed
number of samples a ray, spread over the parts of the ray that are not empty.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from microdreamer.fields.activations import TruncatedExp
from microdreamer.fields.perceptron import Perceptron
from microdreamer.gaussians.extraction import DensityField
from microdreamer.kernels.adam import Adam
from microdreamer.kernels.hash_grid import HashGrid, HashGridSpec


class Start(NamedTuple):
    """What is known before the fit: log density [R,R,R] of `field`'s nodes, and which cells around them [R,R,R] are not empty."""

    field: DensityField
    log_density: Tensor
    occupied: Tensor


class NeuralField(nn.Module):
    """Density and colour of points in the world: two hash grids, each before a network of two layers without biases."""

    def __init__(self, start: Start, grid: HashGridSpec, hidden: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.start = start
        self.density_grid, self.color_grid = HashGrid(grid, generator), HashGrid(grid, generator)
        self.density_network = Perceptron((grid.width, hidden, 1), generator)
        self.color_network = Perceptron((grid.width, hidden, 3), generator)

    def density(self, points: Tensor) -> Tensor:
        """[P] per half side of the box at world positions [P,3]; none where the start is empty."""
        learnt = self.density_network(self.density_grid(self._unit(points)))[:, 0]
        field = self.start.field
        known = field._replace(values=self.start.log_density).at(points)
        is_occupied = _nearest(self.start.occupied, field, points)
        return TruncatedExp.apply(known + learnt) * is_occupied

    def color(self, points: Tensor) -> Tensor:
        """[P,3] in [0,1] at world positions [P,3]."""
        return self.color_network(self.color_grid(self._unit(points))).sigmoid()

    def _unit(self, points: Tensor) -> Tensor:
        return ((points - self.start.field.center) * self.start.field.scale + 1) / 2

    def make_optimizer(self, grid_lr: float, network_lr: float) -> Adam:
        groups = [
            {"params": [self.density_grid.params, self.color_grid.params], "lr": grid_lr},
            {"params": [*self.density_network.parameters(), *self.color_network.parameters()], "lr": network_lr},
        ]
        return Adam(groups, eps=1e-15)


def _nearest(values: Tensor, field: DensityField, points: Tensor) -> Tensor:
    """`values` [R,R,R] at the grid's nodes nearest to world positions [...,3]; zero outside of the grid."""
    resolution = len(values)
    index = (((points - field.center) * field.scale + 1) * (0.5 * (resolution - 1))).round().long()
    inside = ((index >= 0) & (index < resolution)).all(-1)
    x, y, z = index.clamp(0, resolution - 1).unbind(-1)
    return values.view(-1)[(x * resolution + y) * resolution + z] * inside


# ---- Rays and volume rendering ----


class Rays(NamedTuple):
    """N rays: origins, unit directions [N,3]; what they should show: color [N,3], premultiplied by alpha [N]."""

    origins: Tensor
    directions: Tensor
    color: Tensor
    alpha: Tensor

    def __getitem__(self, index: Tensor) -> Rays:
        return Rays(*(tensor[index] for tensor in tuple(self)))


def composite(density: Tensor, color: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Colour [N,3], premultiplied, and alpha [N] of rays with `density` [N,S] and `color` [N,S,3] over pieces of `lengths` [N,S].

    Max, "Optical models for direct volume rendering" (1995): the share of a piece is its opacity times what passes before it.
    """
    depth = density * lengths
    passed = torch.exp(-(depth.cumsum(1) - depth))
    weights = passed * -torch.expm1(-depth)
    return (weights[..., None] * color).sum(1), weights.sum(1)


def box_range(origins: Tensor, directions: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave a box: distances [N], both the same for a ray that misses it."""
    safe = torch.where(directions.abs() > 1e-9, directions, torch.full_like(directions, 1e-9))
    one, other = (low - origins) / safe, (high - origins) / safe
    near = torch.minimum(one, other).amax(-1).clamp_min(0)
    far = torch.maximum(one, other).amin(-1)
    return near, torch.maximum(near, far)


def place_samples(
    start: Start, origins: Tensor, directions: Tensor, samples: int, bins: int, jitter: Tensor | float = 0.5
) -> tuple[Tensor, Tensor]:
    """Distances [N,S] of samples spread evenly over the parts of rays that are not empty, and the length [N] each stands for.

    Distances are the world's, the length is in half sides of the start's box. Emptiness is looked up at `bins` places of each ray;
    `jitter` [N,S] in [0,1) moves samples within their pieces.
    """
    half = 1 / start.field.scale
    near, far = box_range(origins, directions, start.field.center - half, start.field.center + half)
    step = (far - near) / bins
    middles = near[:, None] + step[:, None] * (torch.arange(bins, device=origins.device) + 0.5)
    full = _nearest(start.occupied, start.field, origins[:, None] + middles[..., None] * directions[:, None])
    before = full.cumsum(1)  # [N,bins]
    total = before[:, -1:]
    wanted = (torch.arange(samples, device=origins.device) + jitter) / samples * total
    wanted = wanted.expand(len(origins), samples).contiguous()
    chosen = torch.searchsorted(before, wanted, right=True).clamp_max(bins - 1)
    within = wanted - (before - full).gather(1, chosen)
    length = total[:, 0] * step * start.field.scale / samples
    return near[:, None] + step[:, None] * (chosen + within.clamp(0, 1)), length


def render_rays(
    field: NeuralField, origins: Tensor, directions: Tensor, samples: int, bins: int, jitter: Tensor | float = 0.5
) -> tuple[Tensor, Tensor]:
    """Premultiplied colour [N,3] and alpha [N] of rays through the field."""
    distances, length = place_samples(field.start, origins, directions, samples, bins, jitter)
    points = (origins[:, None] + distances[..., None] * directions[:, None]).reshape(-1, 3)
    shape = distances.shape
    return composite(field.density(points).reshape(shape), field.color(points).reshape(*shape, 3), length[:, None].expand(shape))


@torch.no_grad()
def field_values(field: NeuralField, resolution: int, chunk: int = 1 << 18) -> DensityField:
    """The field's density at the nodes of a grid over the start's box."""
    box = field.start.field
    nodes = torch.linspace(-1, 1, resolution, device=box.values.device)
    values = box.values.new_zeros(resolution**3)
    index = torch.arange(resolution, device=box.values.device)
    for x in range(0, resolution, max(1, chunk // resolution**2)):
        slab = index[x : x + max(1, chunk // resolution**2)]
        grid = torch.stack(torch.meshgrid(nodes[slab], nodes, nodes, indexing="ij"), dim=-1).reshape(-1, 3)
        points = grid / box.scale + box.center
        full = _nearest(field.start.occupied, box, points).nonzero()[:, 0]
        values[full + x * resolution**2] = field.density(points[full])
    return DensityField(values.reshape(resolution, resolution, resolution), box.center, box.scale)
