"""What all chapters measure: the density grid of one set of Gaussians, on this machine's device."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.extract_fields import device_floor_ms, floors, object_like_gaussians, plain
from benchmarks.timing import Timing, time_calls
from microdreamer.kernels import FIELD_BLOCKS, FIELD_RELAX_RATIO, course
from microdreamer.kernels.extension import switched
from microdreamer.kernels.gaussian_field import extract_fields

BYTES_OF_A_GAUSSIAN = 40  # mean, covariance and opacity: ten floats
PLAIN, LIBRARY = "plain PyTorch", "library"


@dataclass(frozen=True)
class Scene:
    """N Gaussians of a torus with a ball, and the grid: `resolution` points and `num_blocks` blocks a side."""

    device: str
    small: bool  # seconds rather than minutes, for tests: what it shows is true, its times mean little

    @property
    def count(self) -> int:
        return 300 if self.small else 5000 if self.device == "cuda" else 2000

    @property
    def resolution(self) -> int:
        return 32 if self.small else 128 if self.device == "cuda" else 64

    @property
    def num_blocks(self) -> int:
        return 4 if self.small else FIELD_BLOCKS

    @property
    def repeats(self) -> int:
        return 2 if self.small else 50 if self.device == "cuda" else 5

    @property
    def gaussians(self) -> tuple[Tensor, Tensor, Tensor]:
        return object_like_gaussians(self.count, self.device)

    @property
    def grid(self) -> tuple[int, int, float]:
        return self.resolution, self.num_blocks, FIELD_RELAX_RATIO

    def __str__(self) -> str:
        return f"{self.count} Gaussians, {self.resolution}^3 points, {self.num_blocks} blocks a side, {self.device}"

    def floor_ms(self) -> dict[str, float]:
        """Milliseconds below which the grid cannot be had here: to move its bytes, and to compute its exponentials."""
        _, covs, opacities = self.gaussians
        return device_floor_ms(floors(covs, opacities, self.resolution), self.device, clock=time.process_time)

    def version(self, name: str) -> Callable[[], Tensor]:
        """The grid by plain PyTorch, by the library, or by a step of the course."""
        arguments = (*self.gaussians, *self.grid)
        if name == PLAIN:
            return lambda: plain(*arguments)
        if name == LIBRARY:
            return lambda: library(*arguments)
        return lambda: course.extract_fields(*arguments, variant=name)

    def time(self, name: str) -> Timing:
        slow = name == PLAIN or (name == "brute_force" and self.device == "cpu")
        return time_here(self.version(name), self.device, 1 if slow else self.repeats, warm_up=0 if slow else 3)


def library(*arguments: Any) -> Tensor:
    """The library's kernel, whatever the environment asks for."""
    with switched(USE_CUDA_EXTRACT="1"):
        return extract_fields(*arguments)


def time_here(call: Callable[[], object], device: str, repeats: int, warm_up: int = 3) -> Timing:
    """On the CPU by the processor's time, which other programs on the machine hardly change; the course runs on one thread there."""
    return time_calls(call, device, repeats, warm_up, clock=time.process_time)


def time_in_turn(calls: dict[str, Callable[[], object]], device: str, repeats: int, warm_up: int = 3) -> dict[str, Timing]:
    """`time_here` of calls that are held against each other: each once, `repeats` times over, so that other programs meet all alike."""
    for call in calls.values():
        time_here(call, device, 1, warm_up)
    turns = [{name: time_here(call, device, 1, warm_up=0) for name, call in calls.items()} for _ in range(repeats)]
    return {name: Timing(tuple(sorted(turn[name].least for turn in turns))) for name in calls}


@contextlib.contextmanager
def one_thread(device: str) -> Iterator[None]:
    """On the CPU, PyTorch and the kernels keep to one thread while the block runs."""
    threads = torch.get_num_threads()
    try:
        if device == "cpu":
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)


class OperationCounter(TorchDispatchMode):
    """Counts the operations that PyTorch dispatches while it is active; views, which compute nothing, too."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def operations(call: Callable[[], object]) -> int:
    with OperationCounter() as counter:
        call()
    return counter.count


def kind_of(document: dict) -> str:
    """Of the device that a chapter's figures are from: cpu or cuda. Told by its name, in which a CPU has its threads."""
    return "cpu" if "threads" in document["device"] else "cuda"


def table(columns: tuple[str, ...], rows: list[tuple]) -> str:
    """Columns as wide as their longest cell: the first is left-aligned, the others are figures."""
    cells = [columns, *(tuple(cell if isinstance(cell, str) else figure(cell) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    )


def figure(value: float | None) -> str:
    """Three digits, all of the whole ones."""
    return "-" if value is None else f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
