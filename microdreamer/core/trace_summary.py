"""Which ranges, operations and kernels of a torch.profiler trace took longest, as a short table."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from typing import NamedTuple

ROWS = 12
ON_CPU = ("user_annotation", "cpu_op")
ON_GPU = ("kernel", "gpu_memcpy", "gpu_memset")


class Row(NamedTuple):
    """Seconds of all calls of a range, of an operation within one range, or of a kernel.

    `own` leaves out what ran in ranges and operations inside; in `total` a name inside itself counts once. An operation directly inside
    itself is no other call: PyTorch hands it on, as from autograd to the device.
    """

    kind: str  # range, operation or kernel
    name: str
    within: str  # the innermost range around an operation, or nothing
    calls: int
    total: float
    own: float


def rows(events: Iterable[dict]) -> list[Row]:
    """Add up the events of a trace in Chrome's format, whose times are microseconds."""
    sums: dict[tuple[str, str, str], list[float]] = collections.defaultdict(lambda: [0, 0.0, 0.0])
    threads: dict[tuple, list[dict]] = collections.defaultdict(list)
    for event in events:
        category = event.get("cat")
        if category in ON_CPU:
            threads[event["pid"], event["tid"]].append(event)
        elif category in ON_GPU:
            _add(sums["kernel", event["name"], ""], event["dur"], event["dur"])
    for thread in threads.values():
        thread.sort(key=lambda event: (event["ts"], -event["dur"]))
        around: list[tuple[float, tuple[str, str, str]]] = []  # (end, key) of what the present event is inside, outermost first
        for event in thread:
            while around and around[-1][0] <= event["ts"]:
                around.pop()
            keys = [key for _, key in around]
            if event["cat"] == "user_annotation":
                key = ("range", event["name"], "")
            else:
                key = ("operation", event["name"], next((name for kind, name, _ in reversed(keys) if kind == "range"), ""))
            handed_on = key[0] == "operation" and keys[-1:] == [key]
            _add(sums[key], 0.0 if key in keys else event["dur"], event["dur"], calls=0 if handed_on else 1)
            if keys:
                sums[keys[-1]][2] -= event["dur"]
            around.append((event["ts"] + event["dur"], key))
    return [Row(*key, int(calls), total / 1e6, own / 1e6) for key, (calls, total, own) in sums.items()]


def _add(entry: list[float], total: float, own: float, calls: int = 1) -> None:
    entry[0] += calls
    entry[1] += total
    entry[2] += own


def summary(events: Iterable[dict]) -> str:
    """The ranges by their total time, operations and kernels by their own, the longest dozen of each."""
    found = rows(events)
    lines = []
    for kind, order in (("range", "total"), ("operation", "own"), ("kernel", "own")):
        longest = sorted((row for row in found if row.kind == kind), key=lambda row: -getattr(row, order))[:ROWS]
        if longest:
            lines.append(f"{'total s':>9} {'own s':>9} {'calls':>7}  {kind}s by {order} time")
        for row in longest:
            place = f" in {row.within}" if row.within else ""
            lines.append(f"{row.total:9.3f} {row.own:9.3f} {row.calls:7d}  {row.name[:80]}{place}")
    return "\n".join(lines)
