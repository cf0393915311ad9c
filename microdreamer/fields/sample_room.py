"""Lists of samples of a fixed length: how long they are made, when they grow and shrink, and what fills them up."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

SPARE = 1.5  # times as many samples as were counted find room
MULTIPLE = 4096  # of which a length is one
SPREAD = 1.2207440846057596  # the root of x^4 = x + 1


def _roomy(most: int) -> int:
    return math.ceil((SPARE * most + 1) / MULTIPLE) * MULTIPLE


@dataclasses.dataclass
class Room:
    """For one number of rays: lengths of the lists of marched and of visible samples, and the most [2] that they lately were to hold."""

    lengths: list[int]
    most: Tensor

    @classmethod
    def for_totals(cls, totals: Tensor) -> Room:
        """Room for so many samples [2] and some more; waits for the device."""
        return cls([_roomy(total) for total in totals.tolist()], totals.clone())

    def note(self, totals: Tensor) -> None:
        """Remember how many samples [2] there were, without waiting for the device."""
        torch.maximum(self.most, totals, out=self.most)

    def grow(self) -> bool:
        """Double lists that were too short; whether there were any."""
        before = list(self.lengths)
        for index, most in enumerate(self.most.tolist()):
            while self.lengths[index] < most:
                self.lengths[index] = max(2 * self.lengths[index], MULTIPLE)
        return self.lengths != before

    def shrink(self) -> bool:
        """Shorten lists of which less than a third was lately used, and forget what was used; whether there were any.

        Lists that were not used at all stay: they cost nothing, and may be again.
        """
        before, most = list(self.lengths), self.most.tolist()
        if any(most):
            self.lengths = [min(length, _roomy(2 * used)) for length, used in zip(self.lengths, most, strict=True)]
        self.most.zero_()
        return self.lengths != before


def scattered(count: int, radius: float, device: torch.device) -> Tensor:
    """Points [count,3] all over the box [-radius, radius]^3, where entries that only fill up a list are evaluated.

    At one place, the additions of their gradients would wait for each other. Roberts, "The unreasonable effectiveness of quasirandom
    sequences" (2018): multiples of the powers of 1 / SPREAD, modulo 1.
    """
    index = torch.arange(count, device=device)
    return torch.stack([(index * SPREAD**-power % 1 * 2 - 1) * radius for power in (1, 2, 3)], dim=1)
