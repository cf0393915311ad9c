"""Which sentences of a library a pass of training shows, what networks read of them, and how far each still is."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from microdreamer.core.files import atomic_write
from microdreamer.core.transfer import send
from microdreamer.generators.library import PromptLibrary, sentences_of_step


class Store(Protocol):
    """Sentences by number: `generators.sentence_store.SentenceStore`."""

    width: int

    def text(self, indices: Sequence[int], kind: str, device: torch.device) -> Tensor: ...
    def condition(self, indices: Sequence[int]) -> object: ...


class SentenceFeed:
    """A library's training sentences in passes: each comes once in an epoch, whose order is drawn from `seed` and the epoch's number.

    `store` holds `library.sentences`. For each sentence the pull is kept, the length of the gradient of its pictures: how much the
    prior would change them.
    """

    def __init__(self, library: PromptLibrary, store: Store, seed: int, device: torch.device) -> None:
        self.library, self.store, self.seed = library, store, seed
        self._pull = torch.zeros(2, len(library.train), device=device)  # sums since the last report, and their counts
        self._latest = torch.full((len(library.train),), torch.nan)
        row = {sentence: index for index, sentence in enumerate(library.sentences)}
        self._rows = [row[sentence] for sentence in library.train]

    @property
    def width(self) -> int:
        return self.store.width

    def of_pass(self, pass_: int, count: int) -> list[int]:
        """The `count` training sentences of a pass, by number."""
        return sentences_of_step(len(self.library.train), count, pass_, self.seed)

    def condition(self, chosen: Sequence[int]) -> object:
        """What the prior is told of these training sentences, one for each group of views."""
        return self.store.condition([self._rows[index] for index in chosen])

    def embeddings(self, chosen: Sequence[int], kind: str, device: torch.device) -> tuple[Tensor, Tensor]:
        """What a generator that reads `kind` of text reads of these training sentences, and one vector of each."""
        rows = [self._rows[index] for index in chosen]
        pooled = self.store.text(rows, "global", device)
        return (pooled if kind == "global" else self.store.text(rows, kind, device)), pooled

    def note(self, chosen: Sequence[int], gradient: Tensor) -> None:
        """Remember the gradient [V,3,H,W] of the pictures of these sentences."""
        pull = gradient.detach().reshape(len(chosen), -1).norm(dim=1)
        where = send(torch.tensor(chosen), gradient.device)
        self._pull.index_add_(1, where, torch.stack([pull, torch.ones_like(pull)]))

    def report(self, path: Path, writes: bool) -> None:
        """Write the pull of each sentence since the last report, the farthest first; all processes call it, one of them `writes`."""
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(self._pull)
        pull, count = self._pull.cpu().clone()
        self._pull.zero_()
        self._latest = torch.where(count > 0, pull / count.clamp_min(1), self._latest)
        if not writes:
            return
        order = self._latest.nan_to_num(-1).argsort(descending=True, stable=True).tolist()
        with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["pull", "sentence"])
            writer.writerows([f"{float(self._latest[index]):.4g}", self.library.train[index]] for index in order)
