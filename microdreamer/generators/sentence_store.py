"""A library's sentences as training needs them: embeddings for the generator from one file, conditions for the prior's guidance.

Embeddings are made once, in batches, and kept in a file that is mapped into memory, so what is held does not grow with the library.
Conditions are made anew in each step by the prior's own text tower: what guidance reads of a sentence is hundreds of times larger
than what a generator does (docs/corpora.md has the numbers), while the tower takes about a hundredth of the work of a step.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from microdreamer.core.errors import UserError
from microdreamer.core.files import atomic_write
from microdreamer.core.transfer import send
from microdreamer.guidance.base import Prior
from microdreamer.guidance.sentences import BATCH, GLOBAL, SentenceEncoder, check_kind, distinct

log = logging.getLogger(__name__)

OnProgress = Callable[[int, int], None]  # sentences encoded, of all
MAGIC = b"microdreamer sentences 1\n"
HEADER = 4096  # bytes: the magic, an object of JSON, blanks
DTYPE = np.dtype("<f2")
CHECKED_AT_ONCE = 1 << 24  # bytes


class SentenceStore:
    """Of sentences in their order; what stands twice among them is kept once. Open it with `open`."""

    def __init__(self, sentences: Sequence[str], prior: Prior, negative_prompt: str | None, folder: Path, encoder: SentenceEncoder) -> None:
        self.sentences, self.prior, self.negative_prompt = tuple(sentences), prior, negative_prompt
        self.folder, self.encoder = folder, encoder
        self.width, self.length = encoder.width, encoder.length
        self.distinct, where = distinct(self.sentences)
        told = [MAGIC.decode(), encoder.identity, self.distinct]
        self.digest = hashlib.sha256(json.dumps(told, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()
        self._where = np.array(where, dtype=np.int32)
        self._mapped: dict[str, np.memmap] = {}

    @classmethod
    def open(
        cls,
        sentences: Sequence[str],
        prior: Prior,
        negative_prompt: str | None,
        folder: str | Path,
        on_progress: OnProgress | None = None,
        *,
        kinds: Sequence[str] = (GLOBAL,),
        encoder: SentenceEncoder | None = None,
    ) -> SentenceStore:
        """The store of `sentences`, with files in `folder` of the embeddings of `kinds` (those that generators read: `generator.text`).

        What is not there yet is encoded, by the prior's text tower or by `encoder`. A file's name is a digest of the sentences and
        the tower, and it takes its place whole, so that processes and runs may share a folder; each that finds none encodes. A file
        that is cut, damaged or something else under that name is written anew: it holds nothing that cannot be made again.
        Raises UserError where the disk has no room, ValueError for a prior without a text tower or of which no sentence can be read.
        """
        if not sentences:
            raise ValueError("no sentences to keep: expected at least one")
        store = cls(sentences, prior, negative_prompt, Path(folder), encoder or prior.sentence_encoder())
        store.condition([0])  # raises: a prior that takes no sentence, a negative prompt that it cannot read
        for kind in kinds:
            store._open(check_kind(kind), on_progress)
        return store

    def __len__(self) -> int:
        return len(self.sentences)

    def text(self, indices: Sequence[int], kind: str, device: torch.device | str) -> Tensor:
        """What a generator reads of the sentences of these numbers: "global" [P,C], "local" [P,L,C] with all places; float32.

        The host does not wait for the device. A kind that the store was not opened with is opened now.
        """
        rows = np.asarray(self._open(check_kind(kind), None)[self._where[list(indices)]])
        return send(torch.from_numpy(rows), device).float()

    def condition(self, indices: Sequence[int]) -> object:
        """For `Prior.predict_each` with as many groups of views: sentences and negative prompt as the prior reads them."""
        return self.prior.condition_each([self.sentences[index] for index in indices], self.negative_prompt)

    def path(self, kind: str) -> Path:
        """The file of a kind of embeddings."""
        return self.folder / f"{self.prior.name}-{kind}-{self.digest[:24]}.sentences"

    def bytes(self, kind: str) -> int:
        """How large that file is."""
        return HEADER + math.prod(self._shape(kind)) * DTYPE.itemsize

    def _shape(self, kind: str) -> tuple[int, ...]:
        places = () if kind == GLOBAL else (self.length,)
        return len(self.distinct), *places, self.width

    def _open(self, kind: str, on_progress: OnProgress | None) -> np.memmap:
        if kind not in self._mapped:
            path = self.path(kind)
            fault = self._fault(kind)
            if fault:
                if path.exists():
                    log.warning("%s: %s; it is written anew", path, fault)
                self._write(kind, on_progress)
            self._mapped[kind] = np.memmap(path, DTYPE, "r", HEADER, self._shape(kind))
        return self._mapped[kind]

    def _header(self, kind: str, content: str) -> bytes:
        told = {"digest": self.digest, "kind": kind, "shape": self._shape(kind), "dtype": DTYPE.str, "sha256": content}
        return (MAGIC + json.dumps(told).encode()).ljust(HEADER)

    def _fault(self, kind: str) -> str | None:
        """What is wrong with the file, or None. The whole of it is read, a part at a time."""
        try:
            file = self.path(kind).open("rb")
        except FileNotFoundError:
            return "not there"
        with file:
            header = file.read(HEADER)
            if not header.startswith(MAGIC):
                return "not a file of sentences"
            size = self.path(kind).stat().st_size
            if size != self.bytes(kind):
                return f"has {size} bytes of {self.bytes(kind)}"
            found = hashlib.sha256()
            while part := file.read(CHECKED_AT_ONCE):
                found.update(part)
        return None if header == self._header(kind, found.hexdigest()) else "its content is not what was written"

    def _write(self, kind: str, on_progress: OnProgress | None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        needed, free = self.bytes(kind), shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(
                f"{self.folder}: embeddings of {len(self.distinct)} sentences take {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free; "
                "make room or name another folder"
            )
        written, content = 0, hashlib.sha256()
        with atomic_write(self.path(kind)) as temporary, temporary.open("wb") as file:
            file.write(bytes(HEADER))
            for start in range(0, len(self.distinct), BATCH):
                part = self.encoder.encode(self.distinct[start : start + BATCH]).text(kind)
                data = part.cpu().numpy().astype(DTYPE).tobytes()
                content.update(data)
                file.write(data)
                written += len(part)
                if on_progress:
                    on_progress(written, len(self.distinct))
            file.seek(0)
            file.write(self._header(kind, content.hexdigest()))
