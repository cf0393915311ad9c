"""Small fields that volume rendering is tested with."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from microdreamer.kernels.hash_grid import HashGrid, HashGridSpec


class Values(NamedTuple):
    density: Tensor
    features: Tensor
    normal: Tensor | None


class Ball(nn.Module):
    """A ball around the origin of one density and one colour, whose normals point outwards."""

    def __init__(self, radius: float = 0.5, density: float = 50.0, color: tuple[float, float, float] = (0.8, 0.3, 0.1)) -> None:
        super().__init__()
        self.radius = radius
        self.level = nn.Parameter(torch.tensor(density))
        self.logits = nn.Parameter(torch.tensor(color).logit())

    def density(self, points: Tensor) -> Tensor:
        return self.level * (points.norm(dim=1) < self.radius)

    def forward(self, points: Tensor, directions: Tensor | None = None, with_normals: bool = False) -> Values:
        normal = nn.functional.normalize(points, dim=1) if with_normals else None
        return Values(self.density(points), self.logits.expand(len(points), 3), normal)


class SmallField(nn.Module):
    """A hash grid before two small networks, dense around the origin at the start."""

    def __init__(self, spec: HashGridSpec | None = None, hidden: int = 16, generator: torch.Generator | None = None) -> None:
        super().__init__()
        generator = generator or torch.Generator().manual_seed(0)
        spec = spec or HashGridSpec(levels=6, features=2, log2_table_size=12, base_resolution=8, growth=1.5)
        self.encoding = HashGrid(spec, generator)
        self.density_network = nn.Sequential(nn.Linear(spec.width, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, 1, bias=False))
        self.feature_network = nn.Sequential(nn.Linear(spec.width, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, 3, bias=False))
        with torch.no_grad():
            for parameter in [*self.density_network.parameters(), *self.feature_network.parameters()]:
                parameter.uniform_(-0.5, 0.5, generator=generator)

    def _encode(self, points: Tensor) -> Tensor:
        return self.encoding((points + 1) / 2)

    def _density(self, points: Tensor, encoded: Tensor) -> Tensor:
        return nn.functional.softplus(self.density_network(encoded)[:, 0] + 10 * (1 - points.norm(dim=1) / 0.5))

    def density(self, points: Tensor) -> Tensor:
        return self._density(points, self._encode(points))

    def forward(self, points: Tensor, directions: Tensor | None = None, with_normals: bool = False) -> Values:
        encoded = self._encode(points)
        normal = nn.functional.normalize(points, dim=1) if with_normals else None
        return Values(self._density(points, encoded), self.feature_network(encoded), normal)


class Plain(nn.Module):
    """A background of one colour, which learns."""

    def __init__(self, color: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> None:
        super().__init__()
        self.color = nn.Parameter(torch.tensor(color))

    def forward(self, directions: Tensor) -> Tensor:
        return self.color.expand_as(directions)
