"""Sentences as numbers, apart from the priors that read them: what text towers give, and what a generator reads of it.

A tower reads a fixed number of places; a shorter sentence leaves padding after it. The padding's states are kept with the rest: they
depend on the sentence, which they attend to, and the networks read them unmasked, as they did in training.
"""

from __future__ import annotations

import abc
import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

GLOBAL, LOCAL = "global", "local"  # what is read of a sentence: its one vector, or a vector for each place
KINDS = (GLOBAL, LOCAL)
BATCH = 64  # sentences of one call of a tower
REMEMBERED = 4096  # sentences whose words are looked up (and complained about) once


class SentenceStates(NamedTuple):
    """Of S sentences: pooled [S,C], and of each the states of all places, [L,C]."""

    pooled: Tensor
    tokens: list[Tensor]

    def text(self, kind: str) -> Tensor:
        """What a generator reads, [S,C] for "global" and [S,L,C] for "local": float32, through the float16 in which stores keep it."""
        states = self.pooled if check_kind(kind) == GLOBAL else torch.stack(self.tokens)
        return states.half().float()


def check_kind(kind: str) -> str:
    """Raises ValueError for a kind that is not in KINDS."""
    if kind not in KINDS:
        raise ValueError(f"kind={kind}: expected one of {', '.join(KINDS)}")
    return kind


class SentenceEncoder(abc.ABC):
    """A text tower with its words. On the CPU a sentence's states do not depend on those it comes with, to the last bit."""

    width: int  # C, of pooled and of every place
    length: int  # places, padding included
    device: torch.device

    def encode(self, sentences: Sequence[str], batch: int = BATCH) -> SentenceStates:
        """States of `sentences`, on the encoder's device, of `batch` at a time. Raises ValueError for a sentence of unknown words alone."""
        parts = [self.states(sentences[start : start + batch]) for start in range(0, len(sentences), batch)]
        return SentenceStates(torch.cat([pooled for pooled, _ in parts]), [row for _, rows in parts for row in rows])

    @abc.abstractmethod
    def states(self, sentences: Sequence[str | None]) -> tuple[Tensor, Tensor]:
        """(pooled [S,C], all places [S,L,C]) in one go; None is the empty sentence."""

    @functools.cached_property
    def identity(self) -> str:
        """A digest of everything that decides what comes out."""
        return self._identity()

    @abc.abstractmethod
    def _identity(self) -> str: ...


def digest(module: nn.Module, *told: Any) -> str:
    """Of a module's weights and whatever of JSON it is used with."""
    found = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for name, tensor in sorted(module.state_dict().items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def distinct(sentences: Iterable[str]) -> tuple[list[str], list[int]]:
    """(the sentences without repeats, for each that was given its place among them)."""
    places: dict[str, int] = {}
    where = [places.setdefault(sentence, len(places)) for sentence in sentences]
    return list(places), where
