"""Rows of the headline table: how long a part takes on this machine, and how long it would take at the machine's best speed.

    bench = Bench("cpu", Speeds.measured("cpu"), seconds=0.5)
    row = bench.row("hash grid, forward", lambda: hash_grid_encode(points, table, spec), bytes=least_bytes)
    row.timing.median, row.floor_ms, row.floor_of  # milliseconds, milliseconds, "bytes"

A floor counts work that no program can leave out (bytes that go in or come out, exponentials and products that the result depends on) and
divides it by what this device reaches where it does nothing else. It leaves out what launches cost and what is worked out on the way, so
that it is below the time; how far below is the point.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.timing import Timing, bytes_per_millisecond, exponentials_per_millisecond, products_per_millisecond, time_calls

MOST_REPEATS, FEWEST_REPEATS = 100, 3
SLOW = 10  # calls that take so many times a row's seconds are made once
SMALLEST_COPY, LARGEST_COPY = 1 << 20, 1 << 28  # bytes; on a CPU, what lies between may be in a cache


@dataclass(frozen=True)
class Speeds:
    """What a device does in a millisecond where it does nothing else, measured on it. None where it cannot be measured.

    bytes: read and written, of a copy that no cache holds. exponentials: of float32, their arguments in cache or registers. products:
    multiplications with the addition that follows, of a large matrix product, in float32 and in bfloat16.
    """

    device: str
    bytes: float
    exponentials: float | None
    products: float
    bfloat16_products: float

    @classmethod
    def measured(cls, device: str) -> Speeds:
        products = [products_per_millisecond(device, dtype) for dtype in (torch.float32, torch.bfloat16)]
        return cls(device, bytes_per_millisecond(device), exponentials_per_millisecond(device), *products)

    def floors(self, **work: float) -> dict[str, float]:
        """Milliseconds that each kind of work takes at least."""
        known = {kind: self.bytes_at(amount) if kind == "bytes" else getattr(self, kind) for kind, amount in work.items()}
        return {kind: work[kind] / speed for kind, speed in known.items() if speed}

    def bytes_at(self, total: float) -> float:
        """Of a copy that moves so many bytes or, rather, the power of two below: on a CPU a cache may hold them."""
        if self.device == "cuda" or total > LARGEST_COPY:
            return self.bytes
        size = 1 << max(int(total), SMALLEST_COPY).bit_length() - 1
        return max(self.bytes, bytes_in_cache(self.device, size))

    def __str__(self) -> str:
        exponentials = "-" if self.exponentials is None else f"{self.exponentials / 1e6:.3g}"
        return (
            f"copies {self.bytes / 1e6:.3g} GB/s, exponentials {exponentials} G/s, products of float32 {2 * self.products / 1e9:.3g} and "
            f"of bfloat16 {2 * self.bfloat16_products / 1e9:.3g} TFLOP/s"
        )


@dataclass(frozen=True)
class Row:
    """One line: a part, its durations, and the floor below them (`floor_of`: the kind of work that takes longest), where there is one."""

    name: str
    device: str
    timing: Timing
    floor_ms: float | None = None
    floor_of: str | None = None

    @property
    def share(self) -> float | None:
        """Floor over median: 1 is a part that cannot become faster."""
        return None if self.floor_ms is None else self.floor_ms / self.timing.median

    def as_json(self) -> dict[str, object]:
        floor = {"floor_ms": self.floor_ms, "floor_of": self.floor_of, "share_of_floor": self.share}
        return {"name": self.name, "device": self.device, **self.timing.as_row(), **floor}


@dataclass(frozen=True)
class Bench:
    """Where rows are measured, and for how long: the calls of one row go on for `seconds`, or are one if that takes longer."""

    device: str
    speeds: Speeds
    seconds: float

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    def row(self, name: str, call: Callable[[], object], **work: float) -> Row:
        """`call`, timed; work: what it cannot leave out, by kind (see `Speeds`)."""
        return self.timed(name, time_for(self.seconds, call, self.device), **work)

    def timed(self, name: str, timing: Timing, **work: float) -> Row:
        """A row of durations that are known already."""
        floors = self.speeds.floors(**work)
        if not floors:
            return Row(name, self.device, timing)
        kind = max(floors, key=floors.__getitem__)
        return Row(name, self.device, timing, floors[kind], kind)


@functools.cache
def bytes_in_cache(device: str, total: int) -> float:
    return bytes_per_millisecond(device, total=total)


def time_for(seconds: float, call: Callable[[], object], device: str) -> Timing:
    """As many calls as fit into the seconds, 3 to 100, after a warm-up; where they are too few for one, it is the only one."""

    def once() -> float:
        started = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    first = once()
    if first > SLOW * seconds:
        return Timing((1e3 * first,))
    again = once()  # the first one loads libraries and takes memory
    if again > seconds:
        return Timing((1e3 * again,))
    return time_calls(call, device, max(FEWEST_REPEATS, min(MOST_REPEATS, int(seconds / again))), warm_up=0)
