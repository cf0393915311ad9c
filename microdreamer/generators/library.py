"""Prompt libraries: the sentences that a generator learns, those it is watched with and those it is tested with, and who comes when.

A library is a JSON object of three lists of strings, `train`, `val` and `test`. Some ship in configs/corpora, see docs/corpora.md.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from microdreamer.core.errors import UserError, one_line
from microdreamer.core.files import user_path
from microdreamer.core.paths import shipped_folder

SPLITS = ("train", "val", "test")
LIBRARIES = ("MG15", "DF415", "AT2520", "DL17k", "micro", "micro_8")  # that ship
# Those that do not ship, and where their file comes from.
DOWNLOADS = {"CP100k": "https://github.com/theEricMa/ScaleDreamer, load/cap3d_100k_prompt_library.json"}
_HALF = re.compile("[\ud800-\udfff]")  # of a pair; JSON can hold one alone, UTF-8 cannot
FORM = "a library is a JSON object of three lists of sentences, train, val and test"


@dataclasses.dataclass(frozen=True)
class PromptLibrary:
    """Sentences as they stand in the file, stray spaces and repeats included."""

    name: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    digest: str  # of the three lists

    @functools.cached_property
    def sentences(self) -> tuple[str, ...]:
        """All sentences of the three lists, each once."""
        return tuple(dict.fromkeys(self.train + self.val + self.test))

    @property
    def repeats(self) -> int:
        """How many entries of `train` have come before."""
        return len(self.train) - len(set(self.train))

    @property
    def seen(self) -> int:
        """How many entries of `test` are among `train`."""
        trained = set(self.train)
        return sum(sentence in trained for sentence in self.test)

    def __str__(self) -> str:
        repeats = f" ({self.repeats} of them repeats)" if self.repeats else ""
        counts = f"{len(self.train)} sentences to train{repeats}, {len(self.val)} to validate, {len(self.test)} to test"
        return f"{self.name}: {counts}, {self.seen} of which are trained"


def load_library(name: str | Path) -> PromptLibrary:
    """The library of LIBRARIES called `name`, or that of a file. Raises UserError for what is no library, in one line."""
    path = _find(name)
    try:
        stored = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"library={name}: {one_line(error)}; {FORM}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON in UTF-8 ({one_line(error)[:120]}); {FORM}") from error
    if not isinstance(stored, dict):
        raise UserError(f"{path}: expected an object, got {_kind(stored)}; {FORM}")
    lists = {split: _sentences(stored, split, path) for split in SPLITS}
    canonical = json.dumps(lists, ensure_ascii=False, sort_keys=True).encode()
    return PromptLibrary(path.stem, **lists, digest=hashlib.sha256(canonical).hexdigest())


def _find(name: str | Path) -> Path:
    """The file of a library; it may be missing if `name` is a path."""
    shipped = shipped_folder("configs") / "corpora" / f"{name}.json"
    if str(name) in LIBRARIES:
        return shipped
    if str(name) in DOWNLOADS:
        if shipped.is_file():
            return shipped
        raise UserError(f"library={name} does not ship; fetch {DOWNLOADS[str(name)]}, and name its path or put it at {shipped}")
    path = user_path(name)
    if not path.exists():
        raise UserError(f"library={name}: neither a file nor one of {', '.join((*LIBRARIES, *DOWNLOADS))}; {FORM}")
    return path


def _sentences(stored: dict[str, Any], split: str, path: Path) -> tuple[str, ...]:
    if split not in stored:
        raise UserError(f"{path}: no list {split!r}, only {', '.join(map(repr, stored)) or 'nothing'}; {FORM}"[:400])
    values = stored[split]
    if not isinstance(values, list):
        raise UserError(f"{path}: {split!r} is {_kind(values)}, expected a list; {FORM}")
    if not values:
        raise UserError(f"{path}: {split!r} is empty, expected at least one sentence; {FORM}")
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise UserError(f"{path}: entry {index} of {split!r} is {_kind(value)}, expected a string; {FORM}")
        if not value.strip():
            raise UserError(f"{path}: entry {index} of {split!r} is blank, expected a sentence; take it out")
        if _HALF.search(value):
            raise UserError(f"{path}: entry {index} of {split!r} has half a character, {ascii(value)[:80]}; write it anew")
    return tuple(values)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def sentences_of_step(count: int, per_step: int, step: int, seed: int) -> list[int]:
    """Which of `count` sentences the optimiser's step number `step` (from 0) takes, `per_step` of them.

    Every sentence comes once in an epoch, in an order drawn from (seed, epoch) alone; epochs run on across steps. So all processes
    know the whole batch, whatever their number, and a run that is resumed goes on where it was. Raises ValueError for counts below 1.
    """
    if count < 1 or per_step < 1 or step < 0:
        raise ValueError(f"{per_step} of {count} sentences in step {step}: expected at least one of each, and a step from 0")
    places = range(step * per_step, (step + 1) * per_step)
    return [int(_order(count, place // count, seed)[place % count]) for place in places]


@functools.lru_cache(maxsize=4)
def _order(count: int, epoch: int, seed: int) -> np.ndarray:
    """A permutation of range(count), the same in every version of NumPy: it promises so of raw streams, not of `permutation`."""
    keys = np.random.PCG64(np.random.SeedSequence([seed % 2**64, epoch])).random_raw(count)
    return np.argsort(keys, kind="stable")
