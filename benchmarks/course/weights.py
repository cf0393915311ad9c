"""gaussian_3d_coeff step by step: each checked at every place, timed, and held against the floor. The first half of chapter 3's figures."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.course.scene import LIBRARY, PLAIN, Scene, table, time_in_turn
from benchmarks.extract_fields import device_floor_ms, object_like_gaussians
from benchmarks.timing import busy_milliseconds
from microdreamer.kernels import course
from microdreamer.kernels.course import WEIGHT_MISTAKES, WEIGHT_STEPS
from microdreamer.kernels.extension import switched
from microdreamer.kernels.gaussian_field import gaussian_3d_coeff, gaussian_3d_coeff_reference

BYTES_OF_A_PAIR = 40  # an offset, a covariance, a weight: ten floats
FEW = 2000
COUNTS = (1024, 1000)  # whole blocks of 256, and not
TOLERANCE = 1e-4  # float32 cancels in the determinant of a flat Gaussian, of which a scene has some


def pairs(count: int, device: str) -> tuple[Tensor, Tensor]:
    """Offsets [N,3] of about a standard deviation, and the covariances [N,6] of a fitted object's Gaussians; beyond a million, again."""
    different = min(count, 1_000_000)
    offsets = 0.02 * torch.randn(different, 3, generator=torch.Generator().manual_seed(1))
    again = -(-count // max(different, 1))
    covs = object_like_gaussians(different, device)[1]
    return offsets.to(device).repeat(again, 1)[:count], covs.repeat(again, 1)[:count]


def flat_pairs(count: int, device: str) -> tuple[Tensor, Tensor]:
    """The same with Gaussians a thousandth as thick as they are wide, at offsets within them."""
    generator = torch.Generator().manual_seed(3)
    rotations = torch.linalg.qr(torch.randn(count, 3, 3, generator=generator, dtype=torch.float64)).Q
    scales = torch.tensor([0.02, 0.02, 2e-5], dtype=torch.float64)
    spread = rotations * scales
    covs = (spread @ spread.mT)[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]
    offsets = (spread @ torch.randn(count, 3, 1, generator=generator, dtype=torch.float64)).squeeze(-1)
    return offsets.float().to(device), covs.float().to(device)


@contextlib.contextmanager
def fresh_memory_is_nan() -> Iterator[None]:
    """While the block runs, PyTorch fills what it allocates without a value; what nobody writes then shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def coverage(variant: str, count: int, device: str) -> str:
    """`passes` where each of `count` weights is written and the twin's, else what is wrong."""
    xyzs, covs = pairs(count, device)
    with fresh_memory_is_nan():
        weights = course.gaussian_3d_coeff(xyzs, covs, variant)
    if missing := weights.isnan().nonzero().flatten().tolist():
        return f"{len(missing)} of {count} weights were never written, the first of them number {missing[0]}"
    return agreement(weights, xyzs, covs)


def coverage_in_used_memory(variant: str, count: int, device: str) -> str:
    """The same as a hasty test has it: right after a right call, whose result is freed where this one's is then taken from."""
    xyzs, covs = pairs(count, device)
    course.gaussian_3d_coeff(xyzs, covs, WEIGHT_STEPS[0])
    return agreement(course.gaussian_3d_coeff(xyzs, covs, variant), xyzs, covs)


def agreement(weights: Tensor, xyzs: Tensor, covs: Tensor) -> str:
    difference = difference_from_twin(weights, xyzs, covs)
    return "passes" if difference <= TOLERANCE else f"differs from the twin by {difference:.2g}"


def difference_from_twin(weights: Tensor, xyzs: Tensor, covs: Tensor) -> float:
    return float((weights - gaussian_3d_coeff_reference(xyzs.double(), covs.double())).abs().max())


def call_of(version: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The weights by plain PyTorch, by the library, or by a step of the course."""
    if version == PLAIN:
        return gaussian_3d_coeff_reference
    if version == LIBRARY:
        return library
    return lambda xyzs, covs: course.gaussian_3d_coeff(xyzs, covs, version)


def library(xyzs: Tensor, covs: Tensor) -> Tensor:
    """The library's kernel, whatever the environment asks for."""
    with switched(USE_CUDA_GAUSS="1"):
        return gaussian_3d_coeff(xyzs, covs)


def count_of(scene: Scene) -> int:
    """More than caches hold, and on a GPU so many that a launch is no matter."""
    return 3000 if scene.small else 20_000_000 if scene.device == "cuda" else 1_000_000


def floor_ms(count: int, device: str) -> dict[str, float]:
    """Milliseconds below which `count` weights cannot be had here."""
    return device_floor_ms({"bytes": BYTES_OF_A_PAIR * count, "exponentials": count}, device, clock=time.process_time)


def run(scene: Scene) -> dict:
    """The figures of the steps, and what the coverage check says of them and of a launch that is too short."""
    count = count_of(scene)
    xyzs, covs = pairs(count, scene.device)
    flat = flat_pairs(FEW, scene.device)
    floors = floor_ms(count, scene.device)
    calls = {version: functools.partial(call_of(version), xyzs, covs) for version in (PLAIN, *WEIGHT_STEPS, LIBRARY)}
    differences = {version: difference_from_twin(call(), xyzs, covs) for version, call in calls.items()}
    for version, difference in differences.items():
        if not difference <= TOLERANCE:
            raise SystemExit(f"{version}: differs from float64 by {difference:.1g}; expected at most {TOLERANCE}")
    rows = []
    for version, timing in time_in_turn(calls, scene.device, 2 if scene.small else 20).items():
        busy = busy_milliseconds(calls[version]) if scene.device == "cuda" else timing.median
        rows.append({"version": version, **timing.as_row(), "kernels_ms": busy, "difference": differences[version]})
        rows[-1]["flat_difference"] = difference_from_twin(call_of(version)(*flat), *flat)
        rows[-1]["times_plain"] = rows[0]["median_ms"] / timing.median
        rows[-1]["floor_percent"] = 100 * max(floors.values()) / timing.median
    covered = [
        {"variant": variant} | {f"{few} pairs": coverage(variant, few, scene.device) for few in COUNTS}
        for variant in (*WEIGHT_STEPS, *WEIGHT_MISTAKES)
    ]
    hasty = {variant: coverage_in_used_memory(variant, COUNTS[-1], scene.device) for variant in WEIGHT_MISTAKES}
    return {"count": count, "floor_ms": floors, "rows": rows, "coverage": covered, "hasty": hasty}


def tell(found: dict, kind: str) -> Iterator[str]:
    yield f"\ngaussian_3d_coeff of {found['count']} pairs, {kind}"
    columns = ("version", "call, ms", "kernels, ms", "times plain", "% of the floor", "difference", "of flat ones")
    keys = ("median_ms", "kernels_ms", "times_plain", "floor_percent")
    yield table(
        columns,
        [
            (row["version"], *(row[key] for key in keys), *(f"{row[key]:.0e}" for key in ("difference", "flat_difference")))
            for row in found["rows"]
        ],
    )
    floors = ", ".join(f"{name} {value:.3g} ms" for name, value in found["floor_ms"].items())
    yield f"\nThe floor: {floors}. 100 % would be a call that takes no longer. Differences are from float64."
    yield "\nIs every weight written, and the twin's?"
    yield table(tuple(found["coverage"][0]), [tuple(row.values()) for row in found["coverage"]])
    for variant, said in found["hasty"].items():
        yield f"{variant} of {COUNTS[-1]} pairs, in memory that a right call has just left: {said}"
