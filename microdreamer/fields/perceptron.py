"""The small network without biases that turns an encoding into what a field says of a point."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from microdreamer.kernels.perceptron import fits_kernel, perceptron

Layer = TypeVar("Layer", bound=nn.Module)


def undrawn(kind: type[Layer], *sizes: int, **options: Any) -> Layer:
    """A layer of PyTorch's whose initial values the caller draws: it takes none from the global generator."""
    layer: Any = nn.utils.skip_init(kind, *sizes, device=torch.get_default_device(), **options)
    return layer


class Perceptron(nn.Module):
    """Linear layers without biases and ReLU between them: [..., widths[0]] -> [..., widths[-1]].

    Weights start even in +-1/sqrt(inputs), as torch.nn.Linear's do, drawn from `generator` layer by layer. Their names,
    `layers.0.weight`, `layers.2.weight`, ..., are those of published fields.
    """

    def __init__(self, widths: Sequence[int], generator: torch.Generator | None = None) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            linear = undrawn(nn.Linear, inputs, outputs, bias=False)
            with torch.no_grad():
                linear.weight.copy_((2 * torch.rand(outputs, inputs, generator=generator) - 1) / math.sqrt(inputs))
            layers += [linear, nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)

    def with_slope(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """For one output: what `forward` gives for features [N,I], and how it changes with each of them, [N,I].

        The chain rule written out: both are differentiable like any other result, without a graph inside of a graph.
        """
        inputs = []
        for layer in self.layers:
            inputs.append(features)
            features = layer(features)
        slope = torch.ones_like(features)
        for layer, given in zip(reversed(self.layers), reversed(inputs), strict=True):
            slope = slope @ layer.weight if isinstance(layer, nn.Linear) else slope * (given > 0)
        return features, slope


def ask_together(networks: Sequence[Perceptron], features: Tensor) -> list[Tensor]:
    """What several networks say of the same features [N,I]: each [N,O].

    In half precision, that is under autocast, networks with one hidden layer are one, and one kernel where there is one for it: their
    hidden units stand side by side, and each output listens to those of its own network. Its answers are float32.
    """
    hidden = [network.layers[0].weight for network in networks]
    outputs = [network.layers[-1].weight for network in networks]
    widths = features.shape[1], sum(map(len, hidden)), sum(map(len, outputs))
    fuses = (
        torch.is_autocast_enabled(features.device.type)
        and all(len(network.layers) == 3 for network in networks)
        and fits_kernel(features.device, *widths)
    )
    if not fuses:
        return [network(features) for network in networks]
    with torch.autocast(features.device.type, enabled=False):
        second = outputs[0] if len(networks) == 1 else torch.block_diag(*outputs)
        first = hidden[0] if len(networks) == 1 else torch.cat(hidden)
        return list(perceptron(features, first, second, compiled=True).split([len(weight) for weight in outputs], dim=1))
