"""Which cells of a field's box have something in them, learnt while the field is: rays need samples nowhere else.

The grid of Mueller et al., "Instant Neural Graphics Primitives" (2022), with the rules that score distillation of fields uses: cells
remember the largest opacity that a step through them had, and forget it slowly.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

DECAY = 0.95  # of what a cell remembers, at each time it is probed
THRESHOLD = 0.01  # optical depth of a step above which a cell is occupied, where the grid's mean is no less
WARM_UP = 256  # optimiser steps in which each update probes all cells; later a quarter, and as many of the occupied ones


class OccupancyGrid(nn.Module):
    """R^3 cells over the box [-radius, radius]^3, index x, y, z.

    values [R,R,R]: remembered density * step; occupied [R,R,R] bool. Everything is occupied until the first update.
    """

    values: Tensor
    occupied: Tensor

    def __init__(self, resolution: int = 32, radius: float = 1.0) -> None:
        super().__init__()
        if resolution < 1 or not radius > 0:
            raise ValueError(f"resolution={resolution}, radius={radius}: expected at least 1 and a positive number")
        self.radius = radius
        self.register_buffer("values", torch.zeros(resolution, resolution, resolution))
        self.register_buffer("occupied", torch.ones(resolution, resolution, resolution, dtype=torch.bool))

    @property
    def resolution(self) -> int:
        return len(self.values)

    @property
    def threshold(self) -> Tensor:
        """The optical depth of a step [] above which a cell is occupied, and the opacity below which a sample is left out."""
        return self.values.mean().clamp_max(THRESHOLD)

    @torch.no_grad()
    def update(self, density: Callable[[Tensor], Tensor], step: int, step_size: float, generator: torch.Generator | None = None) -> None:
        """Probe cells, each at a point drawn inside it, with `density` ([P,3] -> [P]); `step` is the optimiser's, `step_size` the rays'.

        `generator` lives on the CPU. Cells that two draws choose remember the larger density; what is not a number counts as none.
        """
        cells = self._choose(step, generator)
        inside = torch.rand(len(cells), 3, generator=generator).to(self.values.device)
        resolution = self.resolution
        corner = torch.stack([cells // resolution**2, cells // resolution % resolution, cells % resolution], dim=1)
        probed = density(((corner + inside) / resolution * 2 - 1) * self.radius).to(self.values.dtype).nan_to_num(0)
        values = self.values.view(-1)
        values[cells] = values[cells] * DECAY
        values.scatter_reduce_(0, cells, probed * step_size, "amax")
        torch.gt(self.values, self.threshold, out=self.occupied)

    def _choose(self, step: int, generator: torch.Generator | None) -> Tensor:
        count, device = self.values.numel(), self.values.device
        if step < WARM_UP:
            return torch.arange(count, device=device)
        share = max(count // 4, 1)
        uniform = torch.randint(count, (share,), generator=generator).to(device)
        occupied = self.occupied.view(-1).nonzero()[:, 0]
        if len(occupied) > share:
            occupied = occupied[torch.randint(len(occupied), (share,), generator=generator).to(device)]
        return torch.cat([uniform, occupied])

    def extra_repr(self) -> str:
        return f"resolution={self.resolution}, radius={self.radius:g}"
