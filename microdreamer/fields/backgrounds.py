"""What rays see that leave a field's box: one colour, or a colour of the direction that is learnt.

A background maps unit directions [...,3] to colours [...,3] in [0,1].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from microdreamer.fields import published
from microdreamer.fields.activations import COLOR_ACTIVATIONS, activation
from microdreamer.fields.perceptron import Perceptron
from microdreamer.kernels.hash_grid import HashGrid, HashGridSpec
from microdreamer.kernels.spherical_harmonics import sh_basis

PUBLISHED_GRID = HashGridSpec(levels=4, features=2, log2_table_size=19, base_resolution=4, growth=4.0)  # finest 256
SH3_DEGREE = 2  # three bands, nine harmonics
HIDDEN = 16  # width of the network's two hidden layers
ENCODINGS = ("sh3", "hash")
NETWORK_NAMES = {name: name for name in ("network.layers.0.weight", "network.layers.2.weight", "network.layers.4.weight")}


class SolidBackground(nn.Module):
    """One colour in all directions; `learned` makes it a parameter."""

    def __init__(self, color: Sequence[float] | float = 1.0, learned: bool = False) -> None:
        super().__init__()
        color = torch.as_tensor(color, dtype=torch.float32).expand(3).clone()
        if not ((color >= 0) & (color <= 1)).all():
            raise ValueError(f"color={color.tolist()}: expected red, green and blue from 0 to 1")
        self.color = nn.Parameter(color, requires_grad=learned)

    def forward(self, directions: Tensor) -> Tensor:
        return self.color.clamp(0, 1).expand(directions.shape)


class TexturedBackground(nn.Module):
    """A learnt picture of `height` x `width` texels around the field: width runs once around +Y from +Z over +X, height from above to
    below, as cameras count azimuth and see elevation. Colours are blended of four texels; the first column follows the last."""

    def __init__(self, height: int = 64, width: int = 128, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if height < 2 or width < 2:
            raise ValueError(f"height={height}, width={width}: expected at least 2 texels each way")
        self.texture = nn.Parameter(torch.randn(1, 3, height, width, generator=generator))  # before the sigmoid

    def forward(self, directions: Tensor) -> Tensor:
        x, y, z = directions.unbind(-1)
        height, width = self.texture.shape[2:]
        column = torch.atan2(x, z) / (2 * math.pi) % 1 * width  # 0 and width are the border between the last column and the first
        row = torch.acos(y.clamp(-1, 1)) / math.pi * height
        around = torch.cat([self.texture[..., -1:], self.texture, self.texture[..., :1]], dim=-1)
        places = torch.stack([2 * (column + 1) / (width + 2) - 1, 2 * row / height - 1], dim=-1).reshape(1, 1, -1, 2)
        colors = nn.functional.grid_sample(around, places, padding_mode="border", align_corners=False)
        return colors[0, :, 0].T.sigmoid().reshape(directions.shape)


class EnvironmentBackground(nn.Module):
    """A colour for every direction by a small network, behind harmonics of three bands (`sh3`) or a hash grid (`hash`).

    The neural environment map of threestudio. Initial values are drawn from `generator` (on the CPU); `axes` as in
    `ImplicitVolumeSpec`.
    """

    def __init__(
        self,
        encoding: str = "sh3",
        generator: torch.Generator | None = None,
        *,
        grid: HashGridSpec = PUBLISHED_GRID,
        axes: str = "project",
        color_activation: str = "sigmoid",
    ) -> None:
        super().__init__()
        if encoding not in ENCODINGS:
            raise ValueError(f"encoding={encoding!r}: expected one of {', '.join(ENCODINGS)}")
        published.check_axes(axes)
        self.axes = axes
        self.encoding = HashGrid(grid, generator) if encoding == "hash" else None
        width = grid.width if encoding == "hash" else (SH3_DEGREE + 1) ** 2
        self.network = Perceptron((width, HIDDEN, HIDDEN, 3), generator)
        self._activation = activation(color_activation, COLOR_ACTIVATIONS)

    def forward(self, directions: Tensor) -> Tensor:
        flat = published.in_axes(directions.reshape(-1, 3), self.axes)
        encoded = sh_basis(flat, SH3_DEGREE) if self.encoding is None else self.encoding((flat + 1) / 2)
        return self._activation(self.network(encoded).to(directions.dtype)).reshape(directions.shape)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The parameters by the names that learning rates go by."""
        groups = {"network": list(self.network.parameters())}
        return groups if self.encoding is None else {"encoding": list(self.encoding.parameters()), **groups}

    def load_published(self, state: Mapping[str, Tensor], prefix: str = "background.") -> None:
        """Take the parameters of a published environment from its system's state_dict.

        All of them must be there and fit; nothing is changed otherwise. Raises ValueError for those that do not, and for a background
        whose axes are the project's: published ones stand in a world with z up.
        """
        if self.axes == "project":
            raise ValueError('axes="project": published backgrounds stand in a world with z up; make this one with axes="threestudio"')
        table = prefix + published.PUBLISHED_TABLE
        if self.encoding is not None:
            names = {published.PUBLISHED_TABLE: "encoding.params", **NETWORK_NAMES}
        elif table in state and state[table].numel():
            raise ValueError(
                f'{table}: expected no values for harmonics, got {state[table].numel()}; make the background with encoding="hash"'
            )
        else:
            names, state = NETWORK_NAMES, {name: tensor for name, tensor in state.items() if name != table}
        published.load_published(self, state, prefix, names)


def with_replacements(colors: Tensor, replacements: Tensor, is_replaced: Tensor) -> Tensor:
    """colors [V,H,W,3] of V views, the views where is_replaced [V] (bool) with the colour replacements [V,3] throughout.

    Random colours in training keep a field from hiding in its background, or from leaning on it. One row of draws is expanded over all
    views (a colour that the batch shares).
    """
    return torch.where(is_replaced[:, None, None, None], replacements[:, None, None], colors)
