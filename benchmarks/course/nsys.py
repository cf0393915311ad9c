"""What Nsight Systems recorded, by range: how long, how many kernels the host started in it, and how long host and GPU took for these.

    nsys profile --trace=cuda,nvtx -o report python -m benchmarks.course.once mesh.plain mesh.kernels
    nsys export --type sqlite -o report.sqlite report.nsys-rep
    python -m benchmarks.course.nsys report.sqlite docs/course/evidence/nsys.csv

A phase is an outermost range, and they are numbered in their order; a row is all ranges of one name in one of them. A kernel belongs to
the ranges in which the host started it, whenever it ran. torch.profiler's table tells the same of operations; this costs less for each.
Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import bisect
import csv
import itertools
import sqlite3
from collections.abc import Iterator
from pathlib import Path

COLUMNS = ("phase", "range", "calls", "seconds", "kernels", "launching_s", "kernels_s")
RANGES = """select e.start, e.end, coalesce(e.text, s.value) from NVTX_EVENTS e left join StringIds s on s.id = e.textId
    where e.end is not null and coalesce(e.domainId, 0) = 0 order by e.start, e.end desc"""  # libraries have domains of their own
LAUNCHES = """select r.start, r.end - r.start, k.end - k.start from CUPTI_ACTIVITY_KIND_RUNTIME r
    join CUPTI_ACTIVITY_KIND_KERNEL k on k.correlationId = r.correlationId order by r.start"""


def rows(source: sqlite3.Connection) -> Iterator[dict[str, float | str]]:
    """Of each phase its range names, in the order in which they first begin. Times in an export are nanoseconds."""
    launches = source.execute(LAUNCHES).fetchall()
    starts = [start for start, _, _ in launches]
    asked, busy = (list(itertools.accumulate((row[column] for row in launches), initial=0)) for column in (1, 2))
    found: dict[tuple[int, str], dict[str, float | str]] = {}
    phase, phase_end = 0, -1
    for start, end, name in source.execute(RANGES):
        if start >= phase_end:
            phase, phase_end = phase + 1, end
        row = found.setdefault((phase, name), dict.fromkeys(COLUMNS, 0) | {"phase": phase, "range": name})
        first, last = bisect.bisect_left(starts, start), bisect.bisect_left(starts, end)
        amounts = (1, (end - start) / 1e9, last - first, (asked[last] - asked[first]) / 1e9, (busy[last] - busy[first]) / 1e9)
        for column, amount in zip(COLUMNS[2:], amounts, strict=True):
            row[column] += amount
    yield from found.values()


def write(source: sqlite3.Connection, target: Path) -> None:
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()} for row in rows(source)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path, help="SQLite file of nsys export")
    parser.add_argument("csv", type=Path)
    options = parser.parse_args()
    if not options.export.is_file():
        parser.error(f"{options.export}: no such file; `nsys export --type sqlite` writes it")
    source = sqlite3.connect(f"{options.export.resolve().as_uri()}?mode=ro", uri=True)
    try:
        write(source, options.csv)
    except sqlite3.Error as error:
        parser.error(f"{options.export}: {error}; expected an export of a report with --trace=cuda,nvtx")
    print(options.csv.read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
