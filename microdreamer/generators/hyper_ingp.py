"""Hyper-iNGP: one hash grid for all shapes, and for every sentence two small networks of its own, whose weights a network predicts.

The amortised text-to-3D of Lorraine et al., "ATT3D" (2023), with the multiresolution hash encoding of Mueller et al. (2022), as
ScaleDreamer (Ma et al., 2024) has it. The sentence reaches the hypernetwork only:

    distance = relu(e W0) W1,    features = relu(e W2) W3,    e = grid(point),    [W0, W1, W2, W3] = hypernetwork(text).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from microdreamer.fields.implicit_volume import PUBLISHED_GRID
from microdreamer.fields.perceptron import undrawn
from microdreamer.generators.base import GeneratorSpec, Head, ShapeGenerator
from microdreamer.kernels.hash_grid import HashGrid, HashGridSpec

Matrices = tuple[Tensor, ...]  # [B,inputs,outputs] each, of one network of every sentence


class HyperNetwork(nn.Module):
    """Text [B,text_width] -> the weights of one network without biases for each of `heads`, which are given by their widths.

    `hidden_layers` layers of `hidden` units, each followed by a layer norm and SiLU; the first has no bias. Its last layer's outputs
    are cut into the matrices, head by head and layer by layer, each row-major as [inputs, outputs]. Weights start normal with
    Xavier's deviation, biases at zero, drawn from `generator` (on the CPU).
    """

    def __init__(
        self,
        text_width: int,
        hidden: int,
        heads: Sequence[Sequence[int]],
        hidden_layers: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.shapes = [list(itertools.pairwise(widths)) for widths in heads]
        layers: list[nn.Module] = []
        for depth in range(hidden_layers):
            linear = _linear(hidden if depth else text_width, hidden, depth > 0, generator)
            layers += [linear, nn.LayerNorm(hidden), nn.SiLU()]
        outputs = sum(math.prod(shape) for shapes in self.shapes for shape in shapes)
        self.layers = nn.Sequential(*layers, _linear(hidden, outputs, True, generator))

    def forward(self, text: Tensor) -> list[Matrices]:
        weights = self.layers(text)
        cut = iter(weights.split([math.prod(shape) for shapes in self.shapes for shape in shapes], dim=1))
        return [tuple(next(cut).unflatten(1, shape) for shape in shapes) for shapes in self.shapes]


def run_network(matrices: Matrices, encoded: Tensor) -> Tensor:
    """Each sentence's own network, ReLU between its layers: [B,P,F] -> [B,P,outputs]."""
    for index, matrix in enumerate(matrices):
        encoded = torch.bmm(encoded.relu() if index else encoded, matrix)
    return encoded


class PromptNetworks(NamedTuple):
    """The cache: the two networks of every sentence."""

    sdf: Matrices
    features: Matrices


@dataclasses.dataclass(frozen=True)
class HyperIngpSpec(GeneratorSpec):
    """The make of a Hyper-iNGP; the defaults are the published one's. Raises ValueError for a value out of range."""

    sphere_bias: float = 0.5
    grid: HashGridSpec = PUBLISHED_GRID
    hyper_hidden: int = 64  # width of the hypernetwork's hidden layers
    hyper_layers: int = 1  # their number
    hidden: int = 64  # width of the predicted networks' hidden layer


class HyperIngp(ShapeGenerator[PromptNetworks]):
    """The generator of `spec`; initial values are drawn from `generator` (on the CPU)."""

    spec: HyperIngpSpec

    def __init__(self, spec: HyperIngpSpec = HyperIngpSpec(), generator: torch.Generator | None = None) -> None:
        super().__init__(spec)
        self.encoding = HashGrid(spec.grid, generator)
        heads = [(spec.grid.width, spec.hidden, outputs) for outputs in (1, 3)]
        self.hypernet = HyperNetwork(spec.text_width, spec.hyper_hidden, heads, spec.hyper_layers, generator)

    def _condition(self, text: Tensor, draws: tuple[Tensor, ...]) -> PromptNetworks:
        return PromptNetworks(*self.hypernet(text))

    def encode(self, points: Tensor, cache: PromptNetworks) -> Tensor:
        return self.encoding(((points + 1) / 2).flatten(0, 1)).unflatten(0, points.shape[:2])

    def heads(self, cache: PromptNetworks) -> tuple[Head, Head]:
        return functools.partial(run_network, cache.sdf), functools.partial(run_network, cache.features)


def _linear(inputs: int, outputs: int, bias: bool, generator: torch.Generator | None) -> nn.Linear:
    linear = undrawn(nn.Linear, inputs, outputs, bias=bias)
    nn.init.xavier_normal_(linear.weight, generator=generator)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear
