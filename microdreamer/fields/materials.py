"""From a field's features to colour."""

from __future__ import annotations

from torch import Tensor, nn

from microdreamer.fields.activations import COLOR_ACTIVATIONS, activation


class NoMaterial(nn.Module):
    """The features are the colour, by way of an activation: [P,3] in [0,1]."""

    needs_normals = False

    def __init__(self, color_activation: str = "sigmoid") -> None:
        super().__init__()
        self._activation = activation(color_activation, COLOR_ACTIVATIONS)

    def forward(
        self, features: Tensor, positions: Tensor | None = None, normals: Tensor | None = None, light_positions: Tensor | None = None
    ) -> Tensor:
        return self._activation(features[..., :3])
