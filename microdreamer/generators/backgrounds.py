"""What rays see behind a generated shape: one environment for all sentences, or one for each.

Both are conditioned like generators: `condition(text) -> cache`, then colours of directions. Loading is that of `fields.backgrounds`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from microdreamer.core.rows import per_row
from microdreamer.fields import published
from microdreamer.fields.activations import COLOR_ACTIVATIONS, activation
from microdreamer.fields.backgrounds import EnvironmentBackground
from microdreamer.generators.hyper_ingp import HyperNetwork, Matrices, run_network
from microdreamer.kernels.hash_grid import HashGrid, HashGridSpec

# 16 levels of the same 16^3 vertices: surely not meant, but what the published networks were trained with.
PUBLISHED_GRID = HashGridSpec(levels=16, features=2, log2_table_size=19, base_resolution=16, growth=1.0)


class SharedBackground(EnvironmentBackground):
    """One environment behind every sentence's shape."""

    def condition(self, text: Tensor) -> tuple[()]:
        return ()

    def forward(self, directions: Tensor, cache: tuple[()] = ()) -> Tensor:
        return per_row(super().forward, directions)


class PromptBackground(nn.Module):
    """An environment for each sentence: a hash grid for all, before a network whose weights are predicted from the text.

    Unit directions [B,...,3] -> colours [B,...,3] in [0,1]. `axes` as in `GeneratorSpec`; initial values are drawn from `generator`
    (on the CPU).
    """

    def __init__(
        self,
        text_width: int = 1024,
        generator: torch.Generator | None = None,
        *,
        grid: HashGridSpec = PUBLISHED_GRID,
        hyper_hidden: int = 64,
        hidden: int = 64,
        axes: str = "project",
        color_activation: str = "sigmoid",
    ) -> None:
        super().__init__()
        published.check_axes(axes)
        self.axes = axes
        self.encoding = HashGrid(grid, generator)
        self.hypernet = HyperNetwork(text_width, hyper_hidden, [(grid.width, hidden, 3)], generator=generator)
        self._activation = activation(color_activation, COLOR_ACTIVATIONS)

    def condition(self, text: Tensor) -> Matrices:
        """The networks of the sentences of embeddings [B,text_width]."""
        return per_row(lambda text: self.hypernet(text)[0], text)

    def forward(self, directions: Tensor, cache: Matrices) -> Tensor:
        return per_row(self._colors, directions, cache)

    def _colors(self, directions: Tensor, cache: Matrices) -> Tensor:
        flat = published.in_axes(directions, self.axes).reshape(-1, 3)
        encoded = self.encoding((flat + 1) / 2).reshape(len(directions), -1, self.encoding.spec.width)
        return self._activation(run_network(cache, encoded)).reshape(directions.shape)

    def load_published(self, state: Mapping[str, Tensor], prefix: str = "background.") -> None:
        """As `EnvironmentBackground.load_published`."""
        if self.axes == "project":
            raise ValueError('axes="project": published backgrounds stand in a world with z up; make this one with axes="threestudio"')
        published.load_published(self, state, prefix, published.names_of(self))
