"""Which ranges, operations and kernels of a torch.profiler trace took longest, as a short table."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from typing import NamedTuple

ROWS = 12
ON_CPU = ("user_annotation", "cpu_op")
ON_GPU = ("kernel", "gpu_memcpy", "gpu_memset")


class Row(NamedTuple):
    """Seconds in all calls of a name; `own` leaves out what ran in ranges and operations within. `kind`: range, operation or kernel."""

    kind: str
    name: str
    calls: int
    total: float
    own: float


def rows(events: Iterable[dict]) -> list[Row]:
    """Sum up the events of a trace in Chrome's format (times in microseconds). A name within itself counts once in `total`."""
    found: dict[tuple[str, str], list[float]] = collections.defaultdict(lambda: [0, 0.0, 0.0])
    threads: dict[tuple, list[dict]] = collections.defaultdict(list)
    for event in events:
        category = event.get("cat")
        if category in ON_CPU:
            threads[event["pid"], event["tid"]].append(event)
        elif category in ON_GPU:
            _add(found["kernel", event["name"]], event["dur"], event["dur"])
    for thread in threads.values():
        thread.sort(key=lambda event: (event["ts"], -event["dur"]))
        around: list[dict] = []  # the events that the present one is within, outermost first
        for event in thread:
            while around and around[-1]["ts"] + around[-1]["dur"] <= event["ts"]:
                around.pop()
            key = _key(event)
            repeated = any(_key(outer) == key for outer in around)
            _add(found[key], 0.0 if repeated else event["dur"], event["dur"])
            if around:
                found[_key(around[-1])][2] -= event["dur"]
            around.append(event)
    return [Row(kind, name, int(calls), total / 1e6, own / 1e6) for (kind, name), (calls, total, own) in found.items()]


def _key(event: dict) -> tuple[str, str]:
    return "range" if event["cat"] == "user_annotation" else "operation", event["name"]


def _add(entry: list[float], total: float, own: float) -> None:
    entry[0] += 1
    entry[1] += total
    entry[2] += own


def summary(events: Iterable[dict]) -> str:
    """The ranges by their total time, operations and kernels by their own, the largest dozen of each."""
    found = rows(events)
    lines = []
    for kind, order in (("range", "total"), ("operation", "own"), ("kernel", "own")):
        longest = sorted((row for row in found if row.kind == kind), key=lambda row: -getattr(row, order))[:ROWS]
        if longest:
            lines.append(f"{'total s':>9} {'own s':>9} {'calls':>7}  {kind}s by {order} time")
            lines += [f"{row.total:9.3f} {row.own:9.3f} {row.calls:7d}  {row.name[:90]}" for row in longest]
    return "\n".join(lines)
