"""Who shares an edge with whom in a triangle mesh: the one home of half-edges and their pairing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


def half_edges(faces: np.ndarray) -> np.ndarray:
    """The directed edges [3F,2] of faces [F,3]: half-edge k F + f runs from corner k of face f to the next corner."""
    return np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])


class Edges(NamedTuple):
    """The undirected edges of a mesh: ends [E,2], lower vertex first, in ascending order; numbers [3F]: the edge of each half-edge;
    sharing [E]: how many half-edges each has."""

    ends: np.ndarray
    numbers: np.ndarray
    sharing: np.ndarray

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """The two half-edges [P], [P] of each edge that has exactly two, in the order of the edges, the lower number first."""
        order = np.argsort(self.numbers, kind="stable")
        first = (np.cumsum(self.sharing) - self.sharing)[self.sharing == 2]
        return order[first], order[first + 1]


def edges_of(faces: np.ndarray) -> Edges:
    """The edges of faces [F,3], whose vertex numbers are not negative."""
    directed = np.sort(half_edges(faces).astype(np.int64, copy=False), axis=1)
    base = int(faces.max(initial=0)) + 1
    keys, numbers, sharing = np.unique(
        directed[:, 0] * base + directed[:, 1], return_inverse=True, return_counts=True
    )  # unique rows are slow
    return Edges(np.stack(np.divmod(keys, base), axis=1), numbers.reshape(-1), sharing)
