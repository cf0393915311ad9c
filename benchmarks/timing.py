"""What the benchmarks share: durations of single calls, CUDA graphs, memory, the machine's speed, and writing figures.

header = provenance(device)  # of core.machine: {"date": ..., "device": ..., "torch": ..., "commit": ..., "command": ...}
print(describe(header))
timing = time_calls(lambda: op(x), device, repeats=100)
print(f"{timing.median:.3f} ms ({timing.p10:.3f} to {timing.p90:.3f})")
write_json(options.out, header | {"rows": [timing.as_row()]})
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from microdreamer.core.cuda_graphs import capture
from microdreamer.core.cuda_graphs import warm_up as run_before
from microdreamer.core.files import atomic_write
from microdreamer.core.trace_summary import ON_GPU


@dataclass(frozen=True)
class Timing:
    """Durations of single calls in milliseconds, in ascending order."""

    durations: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.durations)

    @property
    def least(self) -> float:
        return self.durations[0]

    @property
    def most(self) -> float:
        return self.durations[-1]

    @property
    def p10(self) -> float:
        return self.durations[len(self.durations) // 10]

    @property
    def p90(self) -> float:
        return self.durations[len(self.durations) * 9 // 10]

    def as_row(self) -> dict[str, float]:
        """The figures under the names that the JSON files use."""
        figures = {f"{name}_ms": getattr(self, name) for name in ("median", "least", "p10", "p90", "most")}
        return figures | {"repeats": len(self.durations)}


def time_calls(
    call: Callable[[], object], device: torch.device | str, repeats: int, warm_up: int = 3, clock: Callable[[], float] = time.perf_counter
) -> Timing:
    """Time `repeats` single calls after `warm_up` that are not counted, on the CPU by `clock`, which tells seconds.

    On a GPU the device is idle when a call begins, and events enclose all that the call puts on the current stream, the
    gaps in which it waits for the host included. Raises ValueError for repeats < 1.
    """
    if repeats < 1:
        raise ValueError(f"repeats: expected 1 or more, got {repeats}")
    for _ in range(warm_up):
        call()
    if torch.device(device).type == "cuda":
        return Timing(tuple(sorted(_cuda_milliseconds(call) for _ in range(repeats))))
    return Timing(tuple(sorted(_host_milliseconds(call, clock) for _ in range(repeats))))


def _cuda_milliseconds(call: Callable[[], object]) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def _host_milliseconds(call: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    call()
    return 1e3 * (clock() - start)


def captured(call: Callable[[], object], warm_up: int = 3) -> Callable[[], None]:
    """`call` as a CUDA graph; returns its replay. Raises RuntimeError where something in `call` waits for the device."""
    device = torch.device("cuda")
    run_before(call, device, warm_up)
    graph, _ = capture(call, device)
    return graph.replay


def busy_milliseconds(call: Callable[[], object], repeats: int = 3) -> float | None:
    """Milliseconds for which the GPU works during one call: the durations of its kernels, copies and fills, added up.

    The profiler's figures, so without launches and gaps. None where the profiler sees no kernel (it needs CUPTI). They are read from
    the trace file, as PyTorch's own sums take ten times as long where there are many kernels.
    """
    call()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for _ in range(repeats):
            call()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    return sum(event["dur"] for event in events if event.get("cat") in ON_GPU) / 1e3 / repeats or None


def peak_mib(call: Callable[[], object], device: torch.device | str) -> float | None:
    """MiB of PyTorch's GPU memory that a call takes at most, beyond what was taken before it. None on the CPU, where nobody counts."""
    if torch.device(device).type != "cuda":
        return None
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def bytes_per_millisecond(device: torch.device | str, clock: Callable[[], float] = time.perf_counter, total: int | None = None) -> float:
    """What the device's memory moves at best: bytes read plus bytes written of copying a tensor larger than its caches, or one with which
    they are `total`, which caches may hold."""
    numbers = 1 << (28 if torch.device(device).type == "cuda" else 25) if total is None else total // 8
    source = torch.zeros(numbers, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / time_calls(lambda: target.copy_(source), device, repeats=10, clock=clock).least


def exponentials_per_millisecond(device: torch.device | str, clock: Callable[[], float] = time.perf_counter) -> float | None:
    """Exponentials of float32 where memory does not matter: on the CPU PyTorch's, from values in the cache of each thread; on a GPU those
    of the special function units, in a kernel that does little else. None where PyTorch cannot compile that kernel."""
    if torch.device(device).type == "cuda":
        return _gpu_exponentials_per_millisecond(torch.device(device))
    values = -torch.rand(torch.get_num_threads() << 14)
    result = torch.empty_like(values)
    return len(values) / time_calls(lambda: torch.exp(values, out=result), device, repeats=300, clock=clock).least


def _gpu_exponentials_per_millisecond(device: torch.device) -> float | None:
    chain, count = 1024, 1 << 21  # enough threads to hide how long one exponential takes
    code = f"template <typename T> T chained(T x) {{ for (int i = 0; i < {chain}; ++i) x = __expf(-x); return x; }}"
    try:
        chained = torch.cuda.jiterator._create_jit_fn(code)
        values = torch.rand(count, device=device)
        return chain * count / time_calls(lambda: chained(values), device, repeats=5).least
    except (RuntimeError, AttributeError):  # no run-time compiler beside this PyTorch
        return None


def products_per_millisecond(device: torch.device | str, dtype: torch.dtype = torch.float32) -> float:
    """Multiplications, each with its addition, of a matrix product that is large enough to be at its best."""
    side = 8192 if torch.device(device).type == "cuda" else 1024
    left, right = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    return side**3 / time_calls(lambda: left @ right, device, repeats=10).least


def stop_where_they_differ(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor], tolerance: float) -> None:
    """An op's results against its twin's, by the relative L2 norm of the difference: what is wrong is not timed."""
    for got, want in zip(found, expected, strict=True):
        error = float((got - want).detach().norm() / want.detach().norm())
        if not error < tolerance:
            raise SystemExit(f"op and plain PyTorch differ by {error:.1e}: not timed")


def write_json(path: Path | None, document: dict[str, Any]) -> None:
    """Write the figures as JSON, whole or not at all; nothing where no path was asked for."""
    if path is None:
        return
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
