"""Seconds, bytes and memory of keeping a library's embeddings, with random states in the place of a text tower's.

    python -m benchmarks.sentence_store [--sentences 100000] [--kind global] [--per-step 8] [--folder FOLDER] [--out results.json]

Writes the file (making the states is not counted), opens it again, which reads and checks all of it, and reads random batches as a
step of training does, to the CPU; what is read is compared with what was given. Memory is what the process holds for itself (on Linux),
over what it held before: pages of the mapped file are the system's, which takes them back when it needs them.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.timing import Timing, time_calls, write_json
from microdreamer.core.machine import describe, provenance
from microdreamer.generators.sentence_store import SentenceStore
from microdreamer.guidance.sentences import BATCH, KINDS, SentenceEncoder


class RandomEncoder(SentenceEncoder):
    """A batch of random states over and over, a little different for every sentence, whose number is its text."""

    device = torch.device("cpu")

    def __init__(self, width: int, length: int) -> None:
        self.width, self.length = width, length
        self.pool = torch.randn(BATCH, length, width, generator=torch.Generator().manual_seed(0))
        self.seconds = 0.0  # spent in here

    def _identity(self) -> str:
        return f"random states {self.width} {self.length}"

    def states(self, sentences: Sequence[str | None]) -> tuple[Tensor, Tensor]:
        start = time.perf_counter()
        numbers = torch.tensor([int(sentence or 0) for sentence in sentences])
        rows = self.pool[numbers % BATCH]
        rows[:, :, 0] = (numbers // BATCH)[:, None]  # float16 holds whole numbers up to 2048
        self.seconds += time.perf_counter() - start
        return rows[:, 0], rows


class Nobody:
    """A prior that is never asked anything."""

    name = "benchmark"

    def condition_each(self, prompts: Sequence[str], negative_prompt: str | None = None) -> None:
        return None


def own_mib() -> float:
    """MiB of memory that this process has for itself; nan where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")), float("nan"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sentences", type=int, default=100_000)
    parser.add_argument("--kind", choices=KINDS, default=KINDS[0])
    parser.add_argument("--width", type=int, default=1024, help="of a vector; the default is Stable Diffusion 2.1's, like that of --places")
    parser.add_argument("--places", type=int, default=77, help="of a sentence, padding included")
    parser.add_argument("--per-step", type=int, default=8, help="sentences that are read at once")
    parser.add_argument("--repeats", type=int, default=200, help="batches to read")
    parser.add_argument("--folder", type=Path, help="where to write, and leave nothing; default: a temporary folder")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()

    header = provenance("cpu")
    print(f"{describe(header)}\n{options.sentences} sentences, {options.kind}, {options.places} places of {options.width} values")
    encoder = RandomEncoder(options.width, options.places)
    sentences = [str(number) for number in range(options.sentences)]
    encoder.encode(sentences[:BATCH]).text(options.kind)
    before, most = own_mib(), 0.0

    def watch(done: int, total: int) -> None:
        nonlocal most
        most = max(most, own_mib() - before)

    def opened() -> SentenceStore:
        return SentenceStore.open(sentences, Nobody(), None, folder, watch, kinds=(options.kind,), encoder=encoder)

    def batches(store: SentenceStore) -> Timing:
        draws = random.Random(0)

        def draw() -> list[int]:
            return draws.choices(range(len(store)), k=options.per_step)

        picked = draw()
        if not torch.equal(store.text(picked, options.kind, "cpu"), encoder.encode([str(n) for n in picked]).text(options.kind)):
            raise SystemExit("what was read is not what was kept: not timed")
        read = time_calls(lambda: store.text(draw(), options.kind, "cpu"), "cpu", options.repeats)
        watch(0, 0)
        return read

    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        encoder.seconds, start = 0.0, time.perf_counter()
        size = opened().bytes(options.kind)
        wrote, made = time.perf_counter(), encoder.seconds
        read = batches(opened())
        start_check = time.perf_counter()
        opened()
        row = {"megabytes": size / 1e6, "write_s": wrote - start - made, "check_s": time.perf_counter() - start_check, "own_mib": most}
    print(f"{'MB':>9} {'write s':>8} {'check s':>8} {'memory MiB':>11} {'read ms':>8} {'p90':>8}")
    print(f"{row['megabytes']:9.1f} {row['write_s']:8.1f} {row['check_s']:8.1f} {most:11.0f} {read.median:8.3f} {read.p90:8.3f}")
    shape = {
        "sentences": options.sentences,
        "kind": options.kind,
        "width": options.width,
        "places": options.places,
        "per_step": options.per_step,
    }
    write_json(options.out, header | shape | {"rows": [row | read.as_row()]})


if __name__ == "__main__":
    main()
