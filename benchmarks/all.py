"""The headline table: what a run and each of its parts take on this machine, and how close the parts are to their floors.

    python -m benchmarks.all [key=value ...] [--only NAME ...] [--device cuda cpu] [--seconds 75] [--out results.json]

Rows appear as they are measured, and Ctrl-C keeps those that are there. On a GPU its rows come first, then those of the CPU with what is
left of the seconds; what they are too few for is told as not measured. Whole runs are those of the first device. Each part's outputs are
compared with a plain version on a small case before it is timed. Times are medians of single calls (10th to 90th percentile).

A floor is the part's least bytes, exponentials or products at the speeds that the line above the table tells, which are measured on this
machine when the script starts; on a CPU, bytes that a cache can hold are copied there. The scripts that the parts come from
(benchmarks/README.md) tell more.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch

from benchmarks import (
    extract_fields,
    fit_step,
    gaussian_raster,
    hash_grid,
    mesh_fit,
    mesh_raster,
    micro_prior,
    stages,
    uv_unwrap,
    volume,
)
from benchmarks.rows import Bench, Row, Speeds
from benchmarks.timing import write_json
from microdreamer.core.command import INTERRUPTED, Parser, exit_code
from microdreamer.core.machine import describe, provenance
from microdreamer.kernels import extension

Measure = Callable[..., Iterator[Row]]  # of a Bench


def on(cpu: Measure, cuda: Measure) -> Measure:
    """A scene for each device: what takes a GPU a millisecond takes two cores seconds."""
    return lambda bench: (cuda if bench.on_gpu else cpu)(bench)


PARTS: dict[str, Measure] = {
    "field": on(
        partial(extract_fields.headline, counts=(2000,), resolution=64),
        partial(extract_fields.headline, counts=(5000, 20_000, 100_000), resolution=128),
    ),
    "gaussians": on(
        partial(gaussian_raster.headline, counts=(5000,), views=4, size=128),
        partial(gaussian_raster.headline, counts=(5000, 21_500), views=7, size=256),
    ),
    "fit": on(
        partial(fit_step.headline, counts=(5000,), views=4, size=128),
        partial(fit_step.headline, counts=(5000, 21_500), views=7, size=256),
    ),
    "mesh": on(
        partial(mesh_raster.headline, face_counts=(2000, 50_000), views=4, size=256, texels=1024),
        partial(mesh_raster.headline, face_counts=(2000, 50_000), views=8, size=512, texels=1024),
    ),
    "mesh_fit": on(
        partial(mesh_fit.headline, faces=50_000, views=4, size=256, texels=1024),
        partial(mesh_fit.headline, faces=50_000, views=8, size=512, texels=1024),
    ),
    "hash_grid": on(
        partial(hash_grid.headline, count=1 << 16, grid="geometry"),
        partial(hash_grid.headline, count=1 << 20, grid="geometry"),
    ),
    "neural_field": on(
        partial(volume.headline, grid="micro", views=4, size=32, samples=256),
        partial(volume.headline, grid="published", views=8, size=64, samples=512),
    ),
    "prior": micro_prior.headline,
    "unwrap": partial(uv_unwrap.headline, faces=50_000, resolution=1024),
    "run": stages.headline_cold,
    "warm_run": stages.headline_warm,
}
RUNS = {"run", "warm_run"}  # which take words of main.py
ON_ONE_DEVICE = {"unwrap", *RUNS}  # the CPU's beside a GPU: the same, or what nobody waits for
NEEDS_NO_KERNELS = {"prior", *RUNS}
PACKAGES = {
    "mcubes": "PyMCubes",
    "imageio_ffmpeg": "imageio-ffmpeg",
    "cv2": "opencv-python-headless",
}  # where a module is not called as what is installed
BUSY = 0.5  # load of each processor before the first row
SECONDS_OF_A_ROW = 0.006  # as a share of all seconds
COLUMNS = ("what", "device", "median", "10 % to 90 %", "floor", "floor / median")


@dataclass
class Table:
    """The rows so far, told as they come."""

    rows: list[Row] = field(default_factory=list)
    missing: list[dict[str, str]] = field(default_factory=list)
    wrong: bool = False  # whether something failed that a package or more time would not mend

    def begin(self) -> None:
        print(f"| {' | '.join(COLUMNS)} |\n{'| --- ' * len(COLUMNS)}|", flush=True)

    def add(self, row: Row) -> None:
        self.rows.append(row)
        print(line(row), flush=True)

    def miss(self, name: str, device: str, reason: str, wrong: bool = False) -> None:
        self.missing.append({"name": name, "device": device, "reason": reason})
        self.wrong |= wrong
        print(f"| {name} | {device} | not measured: {reason} |{' |' * (len(COLUMNS) - 3)}", flush=True)

    def as_json(self) -> dict[str, object]:
        return {"rows": [row.as_json() for row in self.rows], "missing": self.missing}


def figures(*milliseconds: float) -> str:
    """Three digits each, all of the whole ones, with one unit: ms where the largest is below a second."""
    scale, unit = (1e-3, "s") if max(milliseconds) >= 1000 else (1.0, "ms")
    values = (scale * value for value in milliseconds)
    return f"{' to '.join(f'{value:.0f}' if value >= 100 else f'{value:#.3g}' for value in values)} {unit}"


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def line(row: Row) -> str:
    timing = row.timing
    spread = figures(timing.p10, timing.p90) if len(timing.durations) > 1 else "one call"
    floor = f"{figures(row.floor_ms)}, {row.floor_of.replace('_', ' ')}" if row.floor_ms and row.floor_of else "-"
    return f"| {row.name} | {row.device} | {figures(timing.median)} | {spread} | {floor} | {percent(row.share)} |"


def measure(table: Table, name: str, bench: Bench, words: Sequence[str] = ()) -> None:
    """The rows of one part, of whole runs with `words`; where it cannot be measured, why."""
    if name not in NEEDS_NO_KERNELS and not extension.available(bench.device):
        table.miss(name, bench.device, f"no compiled kernels; {extension.BUILD_HINT}")
        return
    try:
        for row in PARTS[name](bench, words) if name in RUNS else PARTS[name](bench):
            table.add(row)
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        table.miss(name, bench.device, f"pip install {PACKAGES.get(module, module)}")
    except (Exception, SystemExit) as error:  # what fails must not cost the other rows
        told = str(error).strip().splitlines() or [type(error).__name__]
        table.miss(name, bench.device, told[0], wrong=True)


def load_line() -> str | None:
    """That others use the processors, where they do: times and floors are then not those of this machine alone."""
    if not hasattr(os, "getloadavg"):
        return None
    load, processors = os.getloadavg()[0], os.cpu_count() or 1
    if load < BUSY * processors:
        return None
    return f"Other programs use this machine (load {load:.1f}, {processors} processors): on a quiet one times are shorter."


def run(options: argparse.Namespace) -> int:
    deadline = time.monotonic() + options.seconds
    document: dict[str, dict[str, dict]] = {"machines": {}, "speeds": {}}
    table = Table()
    ended = 0
    if told := load_line():
        print(told, flush=True)
    extension.keep_freed_memory()  # as the commands do
    try:
        for device in options.device:
            header = provenance(device)
            speeds = Speeds.measured(device)
            document["machines"][device], document["speeds"][device] = header, asdict(speeds)
            print(f"{describe(header)}\n{device}: {speeds}\n", flush=True)
            table.begin()
            bench = Bench(device, speeds, SECONDS_OF_A_ROW * options.seconds)
            for name in options.only or PARTS:
                if name in ON_ONE_DEVICE and device != options.device[0]:
                    continue
                if time.monotonic() > deadline:
                    table.miss(name, device, f"the time was up; --seconds {2 * options.seconds:.0f}, or --only {name}")
                else:
                    measure(table, name, bench, options.words)
                write_json(options.out, document | table.as_json())  # what is done stays, should a part take the process down
            print(flush=True)
    except KeyboardInterrupt:
        print("\nstopped: these are the rows that were there", file=sys.stderr)
        ended = INTERRUPTED
    write_json(options.out, document | table.as_json())
    return ended or int(table.wrong)


def parse(words: list[str] | None) -> argparse.Namespace:
    parser = Parser("benchmarks.all", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="key=value", help="for the whole runs, as of main.py")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=PARTS, help=", ".join(PARTS))
    parser.add_argument("--device", nargs="+", choices=("cpu", "cuda"), help="default: all that this machine has, the GPU first")
    parser.add_argument("--seconds", type=float, default=75, help="for all of it (default: 75)")
    parser.add_argument("--out", type=Path, help="also write JSON here")
    options = parser.parse_args(words)
    if options.seconds <= 0:
        parser.error(f"--seconds {options.seconds:g}: expected a number above 0")
    if "cuda" in (options.device or ()) and not torch.cuda.is_available():
        parser.error("--device cuda: this machine has no CUDA device, or this PyTorch does not see it")
    options.device = options.device or ["cuda"] * torch.cuda.is_available() + ["cpu"]
    return options


def main(words: list[str] | None = None) -> int:
    return exit_code("benchmarks.all", lambda: run(parse(words)))


if __name__ == "__main__":
    sys.exit(main())
