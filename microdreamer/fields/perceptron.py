"""The small network without biases that turns an encoding into what a field says of a point."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Perceptron(nn.Module):
    """Linear layers without biases and ReLU between them: [..., widths[0]] -> [..., widths[-1]].

    Weights start even in +-1/sqrt(inputs), as torch.nn.Linear's do, drawn from `generator` layer by layer. Their names,
    `layers.0.weight`, `layers.2.weight`, ..., are those of published fields.
    """

    def __init__(self, widths: Sequence[int], generator: torch.Generator | None = None) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            linear = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=False)
            with torch.no_grad():
                linear.weight.copy_((2 * torch.rand(outputs, inputs, generator=generator) - 1) / math.sqrt(inputs))
            layers += [linear, nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)

    def with_tangents(self, features: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` gives for features [N,I], and how it changes along `tangents` [N,D,I] of them: [N,O] and [N,D,O].

        Both are differentiable in everything, by first derivatives of what is computed here.
        """
        for layer in self.layers:
            if isinstance(layer, nn.ReLU):
                tangents = tangents * (features > 0)[:, None]
                features = features.relu()
            else:
                features, tangents = layer(features), layer(tangents)
        return features, tangents
