"""A neural radiance field: density and features of points in a box, from a hash grid and two small networks.

The field of MVDream-threestudio and of ScaleDreamer's single-prompt systems (threestudio's implicit volume; Mueller et al. 2022 for
the grid): density = activation(network(encoding) + bias(position)), where the bias draws a first blob around the origin
(Poole et al., "DreamFusion", 2022; Lin et al., "Magic3D", 2023). P is a number of points.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from microdreamer.fields import published
from microdreamer.fields.activations import DENSITY_ACTIVATIONS, activation
from microdreamer.fields.normals import STEP, difference_gradient, outward
from microdreamer.fields.perceptron import Perceptron, ask_together
from microdreamer.kernels.hash_grid import HashGrid, HashGridSpec
from microdreamer.kernels.spherical_harmonics import sh_basis

PUBLISHED_GRID = HashGridSpec(levels=16, features=2, log2_table_size=19, base_resolution=16, growth=1.447269237440378)  # finest 4096
BLOBS = {"blob_magic3d": (10.0, 0.5), "blob_dreamfusion": (5.0, 0.2)}  # height, and the size in the world
NORMALS = ("analytic", "finite_difference")
DIRECTIONS = {"none": 0, "sh4": 16}  # features of a view direction; four bands of harmonics
SH4_DEGREE = 3
SMALLEST_SQUARE = 1e-24  # under a root, which has no slope at zero
PUBLISHED_NAMES = {
    published.PUBLISHED_TABLE: "encoding.params",
    "density_network.layers.0.weight": "density_network.layers.0.weight",
    "density_network.layers.2.weight": "density_network.layers.2.weight",
    "feature_network.layers.0.weight": "feature_network.layers.0.weight",
    "feature_network.layers.2.weight": "feature_network.layers.2.weight",
}


@dataclasses.dataclass(frozen=True)
class ImplicitVolumeSpec:
    """The make of a field; the defaults are the published one's. Raises ValueError for a value out of range.

    `density_bias`: blob_magic3d, height (1 - |p| / size); blob_dreamfusion, height exp(-|p|^2 / (2 size^2)); or a number. None for
    `blob_height` and `blob_size` takes those of the blob's paper.
    """

    grid: HashGridSpec = PUBLISHED_GRID
    radius: float = 1.0  # of the box [-radius, radius]^3
    hidden: int = 64  # width of the networks' one hidden layer
    features: int = 3
    density_activation: str = "softplus"
    density_bias: str | float = "blob_magic3d"
    blob_height: float | None = None
    blob_size: float | None = None
    dir_encoding: str = "none"  # sh4: the features know the direction they are seen from
    normals: str = "analytic"
    normal_step: float = STEP  # of finite differences
    axes: str = "project"  # of the world that the grid was filled in; threestudio: z up, as published fields have it

    def __post_init__(self) -> None:
        activation(self.density_activation, DENSITY_ACTIVATIONS)
        published.check_axes(self.axes)
        if isinstance(self.density_bias, str) and self.density_bias not in BLOBS:
            raise ValueError(f"density_bias={self.density_bias!r}: expected {', '.join(BLOBS)} or a number")
        if self.dir_encoding not in DIRECTIONS:
            raise ValueError(f"dir_encoding={self.dir_encoding!r}: expected one of {', '.join(DIRECTIONS)}")
        if self.normals not in NORMALS:
            raise ValueError(f"normals={self.normals!r}: expected one of {', '.join(NORMALS)}")
        for name in ("radius", "hidden", "features", "normal_step"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected a number above 0")


class FieldValues(NamedTuple):
    """Of P points: density [P] per unit of length, features [P,F] before any activation, unit normals [P,3] or None."""

    density: Tensor
    features: Tensor
    normal: Tensor | None


class ImplicitVolume(nn.Module):
    """Density and features of points in the box of `spec`; initial values are drawn from `generator` (on the CPU).

    `encoding`, `density_network` and `feature_network` are its three groups of parameters. Everything is differentiable, normals
    too. Points that are not finite have values that are not numbers.
    """

    def __init__(self, spec: ImplicitVolumeSpec = ImplicitVolumeSpec(), generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.spec = spec
        width = spec.grid.width
        self.encoding = HashGrid(spec.grid, generator)
        self.density_network = Perceptron((width, spec.hidden, 1), generator)
        self.feature_network = Perceptron((width + DIRECTIONS[spec.dir_encoding], spec.hidden, spec.features), generator)
        self._activation = activation(spec.density_activation, DENSITY_ACTIVATIONS)

    @property
    def sees_directions(self) -> bool:
        """Whether features depend on the direction of view."""
        return self.spec.dir_encoding != "none"

    def encode(self, points: Tensor, used: Tensor | None = None) -> Tensor:
        """Features [P, grid.width] of points [P,3], in bfloat16 under autocast, whose networks would round them anyway.

        `used` [] int32: points from there on only fill the list up, and their values are finite and of no meaning.
        """
        return self._encode(published.in_axes(points, self.spec.axes), used)

    def density(self, points: Tensor, used: Tensor | None = None, encoded: Tensor | None = None) -> Tensor:
        """[P] per unit of length at points [P,3]; `used` as in `encode`, `encoded` what that gives for these points."""
        points = published.in_axes(points, self.spec.axes)
        (raw,) = ask_together([self.density_network], self._encode(points, used, encoded))
        return self._density(points, raw)

    def forward(
        self,
        points: Tensor,
        directions: Tensor | None = None,
        with_normals: bool = False,
        used: Tensor | None = None,
        encoded: Tensor | None = None,
    ) -> FieldValues:
        """Density, features and, where asked, normals at points [P,3].

        `directions` [P,3], unit vectors from the camera, are needed by a field with a `dir_encoding` (ValueError without) and ignored
        by others. `used` as in `encode`. `encoded`: what that gives for these points; it is differentiable as if it were computed here.
        """
        ours, points = points, published.in_axes(points, self.spec.axes)
        if with_normals and self.spec.normals == "analytic":
            encoded, density, slope = self._with_slope(points)
            normal = published.out_of_axes(outward(slope), self.spec.axes)
            return FieldValues(density, self._features(encoded, directions, points.dtype), normal)
        encoded = self._encode(points, used, encoded)
        if self.sees_directions:
            (raw,) = ask_together([self.density_network], encoded)
            features = self._features(encoded, directions, points.dtype)
        else:
            raw, features = ask_together([self.density_network, self.feature_network], encoded)
            features = features.to(points.dtype)
        density, normal = self._density(points, raw), None
        if with_normals:
            normal = outward(difference_gradient(self.density, ours, density, self.spec.radius, self.spec.normal_step))
        return FieldValues(density, features, normal)

    def bias(self, points: Tensor) -> Tensor | float:
        """What is added to the network's answer before the activation: [P] at points [P,3], or the same everywhere."""
        kind = self.spec.density_bias
        if not isinstance(kind, str):
            return kind
        height, size = self._blob
        if kind == "blob_magic3d":
            return torch.rsub(torch.linalg.vector_norm(points, dim=-1), height, alpha=height / size)
        return height * torch.exp(-points.square().sum(-1) / (2 * size**2))

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The parameters by the names that learning rates go by."""
        return {name: list(getattr(self, name).parameters()) for name in ("encoding", "density_network", "feature_network")}

    def load_published(self, state: Mapping[str, Tensor], prefix: str = "geometry.") -> None:
        """Take the parameters of a field published by threestudio, MVDream-threestudio or ScaleDreamer from its state_dict.

        All of the field's tensors must be there and fit; nothing is changed otherwise. Raises ValueError for those that do not, for
        another box, and for a field whose axes are the project's: published ones stand in a world with z up.
        """
        published.load_published_field(self, state, prefix, PUBLISHED_NAMES, axes=self.spec.axes, radius=self.spec.radius)

    @property
    def _blob(self) -> tuple[float, float]:
        height, size = BLOBS[self.spec.density_bias]
        given = self.spec.blob_height, self.spec.blob_size
        return (height if given[0] is None else given[0], size if given[1] is None else given[1])

    def _unit(self, points: Tensor) -> Tensor:
        return torch.add(points.new_full((), 0.5), points, alpha=0.5 / self.spec.radius)

    def _encode(self, points: Tensor, used: Tensor | None = None, encoded: Tensor | None = None) -> Tensor:
        """`encode` for points in the grid's axes, or that with its gradient where it is there already."""
        unit = self._unit(points)
        if encoded is not None:
            return self.encoding.known(encoded, unit, used=used)
        half = torch.is_autocast_enabled(points.device.type)
        return self.encoding(unit, half=half, used=used)

    def _density(self, points: Tensor, raw: Tensor) -> Tensor:
        return self._activation(raw[:, 0].to(points.dtype) + self.bias(points))

    def _features(self, encoded: Tensor, directions: Tensor | None, dtype: torch.dtype) -> Tensor:
        if self.sees_directions:
            if directions is None:
                raise ValueError(f"dir_encoding={self.spec.dir_encoding}: expected directions [P,3] with the points, got none")
            seen = sh_basis(published.in_axes(directions, self.spec.axes), SH4_DEGREE)
            encoded = torch.cat([encoded, seen.to(encoded.dtype)], dim=-1)
        return ask_together([self.feature_network], encoded)[0].to(dtype)

    def _with_slope(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encoding, density, and the slope [P,3] of what the activation is given, at points [P,3] in the grid's axes.

        Activations rise, so that slope looks where the density's own does, also where the activation is flat. The chain rule is written
        out: the slope is made of first derivatives and can itself be differentiated.
        """
        unit = self._unit(points)
        encoded = self.encoding(unit)
        raw, v_encoded = self.density_network.with_slope(encoded)
        slope = self.encoding.slope(unit, v_encoded.to(points.dtype)) / (2 * self.spec.radius)
        return encoded, self._density(points, raw), slope + self._bias_slope(points)

    def _bias_slope(self, points: Tensor) -> Tensor | float:
        kind = self.spec.density_bias
        if not isinstance(kind, str):
            return 0.0
        height, size = self._blob
        squared = points.square().sum(-1, keepdim=True)
        if kind == "blob_magic3d":
            return -height / size * points / squared.clamp_min(SMALLEST_SQUARE).sqrt()
        return -height / size**2 * points * torch.exp(-squared / (2 * size**2))
