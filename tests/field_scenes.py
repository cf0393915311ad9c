"""Small fields that volume rendering is tested with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from microdreamer.fields.backgrounds import EnvironmentBackground
from microdreamer.fields.implicit_volume import FieldValues, ImplicitVolume, ImplicitVolumeSpec
from microdreamer.fields.volume_model import VolumeModel, VolumeSettings
from microdreamer.kernels.hash_grid import HashGridSpec

SMALL_GRID = HashGridSpec(levels=5, features=2, log2_table_size=10, base_resolution=4, growth=1.6)


class Ball(nn.Module):
    """A ball of one density and one colour, whose normals point outwards."""

    def __init__(
        self,
        radius: float = 0.5,
        density: float = 50.0,
        color: tuple[float, float, float] = (0.8, 0.3, 0.1),
        center: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> None:
        super().__init__()
        self.radius = radius
        self.level = nn.Parameter(torch.tensor(density))
        self.logits = nn.Parameter(torch.tensor(color).logit())
        self.register_buffer("center", torch.tensor(center))

    def density(self, points: Tensor, used: Tensor | None = None) -> Tensor:
        return self.level * ((points - self.center).norm(dim=1) < self.radius)

    def forward(
        self, points: Tensor, directions: Tensor | None = None, with_normals: bool = False, used: Tensor | None = None
    ) -> FieldValues:
        normal = nn.functional.normalize(points - self.center, dim=1) if with_normals else None
        return FieldValues(self.density(points), self.logits.expand(len(points), 3), normal)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"level": [self.level], "color": [self.logits]}


def small_field(seed: int = 0, spec: ImplicitVolumeSpec | None = None, material: nn.Module | None = None, **settings) -> VolumeModel:
    """A hash grid before two small networks with a blob at the origin, over a learnt environment."""
    generator = torch.Generator().manual_seed(seed)
    geometry = ImplicitVolume(spec or ImplicitVolumeSpec(grid=SMALL_GRID, hidden=16), generator)
    settings = {"samples_per_ray": 64, "grid_resolution": 16} | settings
    return VolumeModel(geometry, EnvironmentBackground(generator=generator), VolumeSettings(**settings), generator, material=material)
