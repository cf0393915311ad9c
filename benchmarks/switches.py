"""Every setting of USE_CUDA_GAUSS and USE_CUDA_EXTRACT on every device of this machine, on the same input, in one table.

    python -m benchmarks.switches [--counts 5000 20000 100000] [--resolution 128] [--out results.json]

`density field` is what the mesh is made of: the sum of N Gaussians on a grid (extract_fields). USE_CUDA_EXTRACT=1 takes the kernel
that does all of it, weights included, so USE_CUDA_GAUSS then changes nothing; USE_CUDA_GAUSS=1 alone puts the kernel of the
weights into the loop over blocks that Python runs. Brute force to culled are the steps of docs/course to that kernel; brute force, one
thread for each voxel that goes through all Gaussians, is the design of the course project that this repository continues, written again.
`weights` is gaussian_3d_coeff alone, on N pairs of an offset and a Gaussian. `mesh` is main.py's mesh phase without writing files.

The last table is the course's: one number of Gaussians, a row a version, devices side by side, and beside them what the course project
reported of its own programs and machines (their figures, not measured here).

*Whole call*: from tensors on the host to the result on the host, copies included. *Kernels*: the time for which the GPU works, as
PyTorch's profiler sees it. On the CPU nothing is copied and both are the same. *CPU* is the processor with tensors on the CPU.

Before a call is timed its result is compared with plain PyTorch's in float64; the run ends where they disagree (fields: 1e-4
of the largest value or of 1; weights: 1e-3, as float32 cancels in the determinant of a flat Gaussian; mesh: 1e-3 of the volume,
against plain PyTorch in float32). That call is the warm-up; then follow
as many as fit into --seconds, at most 100, but where that first call alone takes longer it is the only one and is what is told.
What the density field cannot go below is told by benchmarks/extract_fields.py.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.course import originals
from benchmarks.course.scene import figure
from benchmarks.extract_fields import TOLERANCE, object_like_gaussians
from benchmarks.timing import Timing, busy_milliseconds, time_calls, write_json
from microdreamer.core.machine import describe, provenance
from microdreamer.gaussians.model import GaussianModel
from microdreamer.kernels import FIELD_BLOCKS, FIELD_RELAX_RATIO, course, extension
from microdreamer.kernels.extension import switched
from microdreamer.kernels.gaussian_field import extract_fields, extract_fields_reference, gaussian_3d_coeff, gaussian_3d_coeff_reference
from microdreamer.pipeline.asset import make_mesh
from microdreamer.pipeline.config import Config

SWITCHES = ("USE_CUDA_GAUSS", "USE_CUDA_EXTRACT")
VERSIONS = {("0", "0"): "plain PyTorch", ("1", "0"): "kernel of the weights", ("0", "1"): "fused kernel", ("1", "1"): "fused kernel"}
STEPS = {name.replace("_", " "): name for name in course.STEPS}  # of the course, as rows are called
MOST_REPEATS = 100
COLUMNS = (
    "what",
    "N",
    "device",
    "version",
    *SWITCHES,
    "whole call, ms",
    "kernels, ms",
    "times PyTorch, same device",
    "times PyTorch, CPU",
    "largest difference",
)
FIELD, WEIGHTS, MESH = "density field", "weights", "mesh"
TOLERANCES = {FIELD: TOLERANCE, WEIGHTS: 1e-3, MESH: 1e-3}


@dataclass(frozen=True)
class Case:
    """One row to be: what is computed, from how many Gaussians, on which device and by which way."""

    what: str
    count: int
    device: str
    version: str
    gauss: str = ""
    extract: str = ""

    @property
    def is_plain(self) -> bool:
        return self.version == VERSIONS["0", "0"]

    def reason_to_skip(self, slow_counts: list[int]) -> str | None:
        """Why this row cannot be made here or is not made by default, or None."""
        if self.device == "cuda" and not torch.cuda.is_available():
            return "this machine has no CUDA device, or this PyTorch does not see it"
        if not self.is_plain and not extension.available(self.device):
            return f"no compiled {self.device} kernels; {extension.BUILD_HINT}"
        is_slow = self.extract == "0" or self.version in STEPS
        if self.what == FIELD and self.device == "cpu" and is_slow and self.count not in slow_counts:
            return f"takes minutes on the CPU; add --slow-counts {self.count}"
        return None


def cases(what: str, counts: list[int], devices: list[str]) -> Iterator[Case]:
    for count, device in itertools.product(counts, devices):
        if what == WEIGHTS:  # one switch, and no loop to fuse with
            yield from (Case(what, count, device, VERSIONS[gauss, "0"], gauss) for gauss in "01")
            continue
        yield from (Case(what, count, device, version, *values) for values, version in VERSIONS.items())
        if what == FIELD:
            yield from (Case(what, count, device, version) for version in STEPS)


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Table:
    """The rows so far; a speed-up is told against the plain row of the same job."""

    def __init__(self, seconds: float) -> None:
        self.rows: list[dict] = []
        self._budget = seconds

    def add(self, case: Case, call: Callable[[], object], kernels: Callable[[], object] | None, check: Callable[[object], float]) -> None:
        """Check and time `call`, and on a GPU the work of `kernels`, which starts from tensors on the device."""
        synchronise()
        started = time.perf_counter()
        result = call()
        synchronise()
        first = time.perf_counter() - started
        difference = check(result)
        tolerance = TOLERANCES[case.what]
        if not difference <= tolerance:
            raise SystemExit(f"{case}: differs from plain PyTorch by {difference:.2g}; expected at most {tolerance}")
        if first > self._budget:
            timing = Timing((1e3 * first,))
        else:  # by the host's clock, as results end on the host
            timing = time_calls(call, "cpu", repeats=min(MOST_REPEATS, int(self._budget / first)), warm_up=0)
        busy = timing.median
        if case.device == "cuda":
            busy = kernels and busy_milliseconds(kernels, repeats=1 if first > 0.1 else 10)
        row = {"what": case.what, "N": case.count, "device": case.device, "version": case.version}
        row |= {name: value or None for name, value in zip(SWITCHES, (case.gauss, case.extract), strict=True)}
        row |= {"largest_difference": difference, "kernels_ms": busy, **timing.as_row()}
        row |= {"times_same_device": self._speed_up(row, case.device), "times_cpu": self._speed_up(row, "cpu")}
        self.rows.append(row)
        print(self.line(row), flush=True)

    def _speed_up(self, row: dict, device: str) -> float | None:
        plain = {"what": row["what"], "N": row["N"], "device": device, "version": VERSIONS["0", "0"]}
        for other in (*self.rows, row):
            if all(other[key] == value for key, value in plain.items()):
                return other["median_ms"] / row["median_ms"]
        return None

    @staticmethod
    def line(row: dict) -> str:
        whole = figure(row["median_ms"])
        if row["repeats"] > 1:
            whole += f" ({figure(row['p10_ms'])} to {figure(row['p90_ms'])})"
        told = [whole, *(figure(row[name]) for name in ("kernels_ms", "times_same_device", "times_cpu"))]
        told.append(f"{row['largest_difference']:.1e}")
        cells = [row["what"], str(row["N"]), row["device"], row["version"], *(row[name] or "-" for name in SWITCHES), *told]
        return f"| {' | '.join(cells)} |"


def course_table(rows: list[dict], count: int) -> str:
    """The course's table of the density field of `count` Gaussians."""

    def told(version: str, device: str, key: str) -> float | None:
        found = (row for row in rows if (row["what"], row["N"], row["version"], row["device"]) == (FIELD, count, version, device))
        return next((row[key] for row in found), None)

    theirs = originals.FIELD_MS
    beside = {
        VERSIONS["0", "0"]: f"{theirs['Python']:.0f} (T4)",
        next(
            iter(STEPS)
        ): f"{theirs['T4, kernel']} (T4), {theirs['A10G, kernel']} (A10G), kernel alone {theirs['A10G, kernel alone']} (A10G)",
    }
    columns = (
        "version",
        "CPU, whole call, ms",
        "GPU, whole call, ms",
        "GPU, kernels, ms",
        "times PyTorch, GPU",
        "the course project's, ms: theirs",
    )
    lines = [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    for version in (VERSIONS["0", "0"], VERSIONS["1", "0"], *STEPS, VERSIONS["1", "1"]):
        figures = (
            told(version, "cpu", "median_ms"),
            *(told(version, "cuda", key) for key in ("median_ms", "kernels_ms", "times_same_device")),
        )
        lines.append(f"| {version} | {' | '.join(map(figure, figures))} | {beside.get(version, '-')} |")
    return "\n".join(lines)


def largest_difference(reference: Tensor) -> Callable[[Tensor], float]:
    """Of a result from float64 `reference`, as a share of its largest value or, where that is below 1, absolute."""
    largest = max(1.0, float(reference.max()))
    return lambda result: float((result.cpu().double() - reference).abs().max()) / largest


def add_fields(table: Table, wanted: list[Case], resolution: int, reference_device: str) -> None:
    """Rows of the density field of one number of Gaussians."""
    host = object_like_gaussians(wanted[0].count, "cpu")
    grid = (resolution, FIELD_BLOCKS, FIELD_RELAX_RATIO)
    with switched(USE_CUDA_GAUSS="0"):
        check = largest_difference(extract_fields_reference(*(part.to(reference_device).double() for part in host), *grid).cpu())
    for case in wanted:
        on_device = [part.to(case.device) for part in host]
        step = STEPS.get(case.version)
        function = functools.partial(course.extract_fields, variant=step) if step else extract_fields

        def whole(function=function, device=case.device) -> Tensor:
            return function(*(part.to(device) for part in host), *grid).cpu()

        def kernels(function=function, on_device=on_device) -> Tensor:
            return function(*on_device, *grid)

        with switched(USE_CUDA_GAUSS=case.gauss, USE_CUDA_EXTRACT=case.extract):
            table.add(case, whole, kernels, check)


def add_weights(table: Table, wanted: list[Case]) -> None:
    """Rows of gaussian_3d_coeff on one number of pairs: an offset of about a standard deviation each."""
    _, covs, _ = object_like_gaussians(wanted[0].count, "cpu")
    offsets = 0.02 * torch.randn(len(covs), 3, generator=torch.Generator().manual_seed(1))
    check = largest_difference(gaussian_3d_coeff_reference(offsets.double(), covs.double()))
    for case in wanted:
        offsets_there, covs_there = offsets.to(case.device), covs.to(case.device)

        def whole(device=case.device) -> Tensor:
            return gaussian_3d_coeff(offsets.to(device), covs.to(device)).cpu()

        def kernels(offsets=offsets_there, covs=covs_there) -> Tensor:
            return gaussian_3d_coeff(offsets, covs)

        with switched(USE_CUDA_GAUSS=case.gauss):
            table.add(case, whole, kernels, check)


def opaque_object(count: int, device: str) -> GaussianModel:
    """Gaussians on the surface of a torus with a ball, as wide as their neighbours are far, that have a surface to extract."""
    means, _, _ = object_like_gaussians(count, "cpu")
    model = GaussianModel.from_points(0.5 * means, means.clamp(0, 1), device=device)
    with torch.no_grad():
        model.opacity_logits.fill_(2.0)
    return model


def volume(mesh) -> float:
    corners = mesh.vertices.astype(np.float64)[mesh.faces]
    return abs(float(np.linalg.det(corners).sum()) / 6)


def add_meshes(table: Table, wanted: list[Case], resolution: int) -> None:
    """Rows of main.py's mesh phase (without writing files) of one number of Gaussians."""
    config = Config(mesh_resolution=resolution)
    expected: dict[str, float] = {}  # the volume, of the first row of a device
    for case in wanted:
        model = opaque_object(case.count, case.device)

        def phase(model=model):
            return make_mesh(config, model, None)

        def check(mesh, device=case.device) -> float:
            return abs(volume(mesh) / expected.setdefault(device, volume(mesh)) - 1)

        with switched(USE_CUDA_GAUSS=case.gauss, USE_CUDA_EXTRACT=case.extract):
            table.add(case, phase, None, check)


def load_libraries(device: str, for_meshes: bool) -> None:
    """Let everything run once on little: contexts, libraries and imports are no part of what is timed."""
    for gauss, extract in VERSIONS:
        if "1" in (gauss, extract) and not extension.available(device):
            continue
        with switched(USE_CUDA_GAUSS=gauss, USE_CUDA_EXTRACT=extract):
            extract_fields(*object_like_gaussians(100, device), FIELD_BLOCKS, FIELD_BLOCKS, FIELD_RELAX_RATIO).cpu()
    if for_meshes:
        make_mesh(Config(mesh_resolution=2 * FIELD_BLOCKS, texture_size=64), opaque_object(400, device), None)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", help="numbers of Gaussians (default: 5000 20000 100000; without a GPU 1000 2000)")
    parser.add_argument("--resolution", type=int, help=f"grid points a side, a multiple of {FIELD_BLOCKS} (default: 128; without a GPU 64)")
    parser.add_argument(
        "--slow-counts",
        type=int,
        nargs="*",
        help="counts for Python's loop and the course's steps on the CPU (default: 5000; without a GPU all)",
    )
    parser.add_argument("--pairs", type=int, nargs="*", default=[1 << 20], help="numbers of pairs of the weights alone")
    parser.add_argument("--mesh", action=argparse.BooleanOptionalAction, help="main.py's mesh phase too (default: if there is a GPU)")
    parser.add_argument("--mesh-count", type=int, default=20_000, help="Gaussians of the mesh phase")
    parser.add_argument("--devices", nargs="+", choices=("cpu", "cuda"), default=["cpu", "cuda"])
    parser.add_argument("--seconds", type=float, default=2.0, help="for the repeats of a row")
    parser.add_argument("--out", type=Path, help="also write JSON here")
    options = parser.parse_args()
    on_gpu = "cuda" in options.devices and torch.cuda.is_available()
    options.counts = options.counts or ([5_000, 20_000, 100_000] if on_gpu else [1_000, 2_000])
    options.resolution = options.resolution or (128 if on_gpu else 64)
    if options.resolution % FIELD_BLOCKS:
        parser.error(f"--resolution {options.resolution}: expected a multiple of {FIELD_BLOCKS}")
    if options.slow_counts is None:
        options.slow_counts = [5_000] if on_gpu else options.counts
    options.mesh_devices = [device for device in options.devices if device == ("cuda" if on_gpu else "cpu")]
    if options.mesh is False or (options.mesh is None and not on_gpu):
        options.mesh_devices = []
    return options


def main() -> None:
    options = arguments()
    devices = [device for device in options.devices if device == "cpu" or torch.cuda.is_available()]
    headers = {device: provenance(device) for device in devices}
    for device, header in headers.items():
        print(describe(header), flush=True)
        load_libraries(device, device in options.mesh_devices)
    print(
        f"Field and mesh: {options.resolution}^3 points, field in {FIELD_BLOCKS}^3 blocks. Whole call: median (10th to 90th percentile).\n"
    )
    print(f"| {' | '.join(COLUMNS)} |\n{'| --- ' * len(COLUMNS)}|")
    table, missing = Table(options.seconds), []

    def possible(what: str, counts: list[int], on: list[str]) -> Iterator[list[Case]]:
        """The rows that can be made, those of one count together; the others are noted."""
        for count in counts:
            wanted = []
            for case in cases(what, [count], on):
                reason = case.reason_to_skip(options.slow_counts)
                if reason is None:
                    wanted.append(case)
                else:
                    missing.append({"row": f"{what}, {case.version}, {case.device}", "N": count, "reason": reason})
            if wanted:
                yield wanted

    for wanted in possible(FIELD, options.counts, options.devices):
        add_fields(table, wanted, options.resolution, devices[-1])
    for wanted in possible(WEIGHTS, options.pairs, options.devices):
        add_weights(table, wanted)
    for wanted in possible(MESH, [options.mesh_count], options.mesh_devices):
        add_meshes(table, wanted, options.resolution)
    count = options.counts[0]
    print(f"\nThe density field of {count} Gaussians on {options.resolution}^3 points:\n\n{course_table(table.rows, count)}")
    if missing:
        print("\nNot measured:")
        print("\n".join(dict.fromkeys(f"- {entry['row']}: {entry['reason']}" for entry in missing)))
    document = {"machines": headers, "resolution": options.resolution, "num_blocks": FIELD_BLOCKS, "rows": table.rows, "missing": missing}
    write_json(options.out, document)


if __name__ == "__main__":
    main()
