"""The objects that training draws from, on the device: meshes, captions as tokens, extreme points, and how often each is drawn."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from microdreamer.guidance.micro.vocabulary import Vocabulary
from microdreamer.shapes.geometry import PlacePainter
from microdreamer.shapes.packed import PackedMeshes
from microdreamer.training.micro_prior.mixing import Deformer

SUPPORT_DIRECTIONS = 64


@dataclasses.dataclass
class Bank:
    """All training objects on the device."""

    meshes: PackedMeshes
    tokens: Tensor  # [M, 3, T] int64; rows past an object's captions repeat
    support: Tensor  # [M, SUPPORT_DIRECTIONS, 3] vertices farthest in each of many directions
    cumulative: Tensor  # [M] float64, rising to 1: how often each object is drawn
    deformer: Deformer | None
    painter: PlacePainter | None = None  # where surfaces are to be told
    cumulative_alone: Tensor | None = None  # [M] float64, rising to 1: the same of samples that a caption alone tells

    @classmethod
    def build(
        cls,
        meshes: PackedMeshes,
        weights: Tensor,
        vocabulary: Vocabulary,
        length: int,
        device: torch.device | str,
        deform_seed: int | None = None,
        places: bool = False,
        alone: Tensor | None = None,
    ) -> Bank:
        """weights [M]: how often each object is drawn, of any sum. deform_seed: None leaves all shapes as they are.

        places: whether batches are to tell surfaces. alone [M]: how often each object is drawn where its caption is all that is told of
        it (None: as the others); objects of which it is not 0 keep their shape, as a word means the thing and not a bent one.
        """
        rows = []
        for captions in meshes.captions:
            encoded = [vocabulary.encode(caption, length)[0] for caption in captions[:3]] or [[0] * length]
            rows.append([encoded[k % len(encoded)] for k in range(3)])
        support = support_points(meshes).to(device)
        meshes = meshes.to(device)
        if deform_seed is not None:  # the deformer writes into its meshes; the caller's stay
            changed = ("vertices", "corner_normals", "corner_colors")
            meshes = dataclasses.replace(meshes, **{name: getattr(meshes, name).clone() for name in changed})
        still = None if alone is None else alone > 0
        deformer = None if deform_seed is None else Deformer(meshes, support, deform_seed, still)
        painter = PlacePainter(meshes) if places else None
        sums = rising(weights).to(device), None if alone is None else rising(alone).to(device)
        return cls(meshes, torch.tensor(rows, device=device), support, sums[0], deformer, painter, sums[1])

    def redraw(self, number: int) -> None:
        """The shapes `number` of the deformer, where there is one."""
        if self.deformer:
            self.deformer.redraw(number)
            if self.painter:
                self.painter.repaint()

    def draw(self, count: int, alone: Tensor | None = None) -> Tensor:
        """[count] numbers of objects; `alone` [count] bool: of which of them a caption is all that is told."""
        places = torch.rand(count, dtype=torch.float64, device=self.cumulative.device)

        def at(cumulative: Tensor) -> Tensor:
            return torch.searchsorted(cumulative, places, right=True).clamp(max=len(cumulative) - 1)

        if alone is None or self.cumulative_alone is None:
            return at(self.cumulative)
        return torch.where(alone, at(self.cumulative_alone), at(self.cumulative))


def rising(weights: Tensor) -> Tensor:
    """Running sums [M] of `weights`, float64, rising to 1."""
    sums = weights.double().cumsum(0)
    return sums / sums[-1]


def support_points(meshes: PackedMeshes) -> Tensor:
    """[M, SUPPORT_DIRECTIONS, 3]: for each object the vertex that reaches farthest in each of a spiral of directions."""
    k = torch.arange(SUPPORT_DIRECTIONS) + 0.5
    height, turn = 1 - 2 * k / SUPPORT_DIRECTIONS, k * math.pi * (3 - 5**0.5)
    ring = (1 - height**2).sqrt()
    directions = torch.stack([ring * turn.cos(), height, ring * turn.sin()], dim=0)
    points = []
    for first, last in zip(meshes.vertex_offset[:-1].tolist(), meshes.vertex_offset[1:].tolist(), strict=True):
        vertices = meshes.vertices[first:last]
        points.append(vertices[(vertices @ directions).argmax(dim=0)])
    return torch.stack(points)


def capped_weights(packs: Sequence[str], weights: Tensor, cap: float) -> Tensor:
    """`weights` [M], summing to 1, after packs that held more than the share `cap` were brought down to it.

    What they lose goes to the other packs in proportion. Where there are too few packs to hold to it, all get equal shares.
    """
    names = sorted(set(packs))
    owner = torch.tensor([names.index(name) for name in packs])
    shares = torch.zeros(len(names), dtype=torch.float64).index_add(0, owner, weights.double())
    own = weights.double() / shares[owner]
    shares = shares / shares.sum()
    capped = torch.zeros(len(names), dtype=torch.bool)
    cap = max(cap, 1 / len(names))
    while bool((shares[~capped] > cap + 1e-12).any()):
        capped |= shares > cap
        rest = 1 - cap * int(capped.sum())
        shares = torch.where(capped, cap, shares * (rest / shares[~capped].sum().clamp_min(1e-12)))
    return shares[owner] * own
