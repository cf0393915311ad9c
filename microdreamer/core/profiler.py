"""Ranges on a profiler's timeline, by phase, by round and by function, and the trace that torch.profiler writes (docs/profiling.md).

    with profiler.session("torch", "function"):     # the programs open one from profiling.mode, .scope and .rounds
        profiler.write_to(folder)
        with profiler.phase("mesh"):
            ...

    @profiler.function                              # a range around each call, in scope "function" alone
    def extract_mesh(...): ...

Outside of a session nothing is imported, recorded or written, and a decorated function costs one comparison more.
The module is not called `profiling`: Python 3.15 has a standard package of that name.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import inspect
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch

from microdreamer.core.errors import one_line
from microdreamer.core.files import atomic_write, try_writing
from microdreamer.core.profiler_settings import ROUNDS, SCOPES
from microdreamer.core.trace_summary import summary

PACKAGE = "microdreamer."  # left out of the names of ranges

P = ParamSpec("P")
R = TypeVar("R")


class TraceError(ValueError):
    """A trace cannot be recorded or written; the message is one line that says why and what to do."""


class _Recording:
    """One torch.profiler trace in the making."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.seen = 0  # rounds that began
        self.folder: Path | None = None
        self.profile = make_profile(torch.cuda.is_available())
        self.profile.start()

    def pause(self, paused: bool) -> None:
        # PyTorch warns of mixed-up tracks unless every kind of device is named.
        kinds = torch.profiler.ProfilerActivity
        self.profile.toggle_collection_dynamic(not paused, [kinds.CPU, kinds.CUDA, kinds.XPU])


# What opens a range of a name; None where there is nothing to show it.
_phase_range: Callable[[str], AbstractContextManager[object]] | None = None
_function_range: Callable[[str], AbstractContextManager[object]] | None = None
_recording: _Recording | None = None


@contextlib.contextmanager
def session(mode: str, scope: str = SCOPES[0], rounds: int = ROUNDS, quiet: bool = True) -> Iterator[None]:
    """Show the ranges of the block to Nsight Systems (`nvtx`) or record a trace of it (`torch`); `none` does nothing.

    A trace is written when the block ends without an error, if `write_to` was called in it, and unless `quiet` a summary is
    printed. It records the first `rounds` of `one_round` and everything outside of rounds, as all of a run would be too large
    to look at. Raises TraceError where the trace cannot be recorded or written.
    """
    global _phase_range, _function_range, _recording
    if mode == "none":
        yield
        return
    if mode == "torch":
        _recording = _Recording(rounds)
        _phase_range = torch.profiler.record_function
    else:
        _phase_range = _nvtx_range
    _function_range = _phase_range if scope == "function" else None
    ended = _recording
    try:
        yield
    except BaseException:
        if ended:
            ended.profile.stop()
        raise
    else:
        if ended:
            _finish(ended, quiet)
    finally:
        _phase_range = _function_range = _recording = None


@contextlib.contextmanager
def _nvtx_range(name: str) -> Iterator[None]:
    import nvtx

    nvtx.push_range(name)
    try:
        yield
    finally:
        nvtx.pop_range()


def phase(name: str) -> AbstractContextManager[object]:
    """A range of this name around the block, in both scopes."""
    return contextlib.nullcontext() if _phase_range is None else _phase_range(name)


@contextlib.contextmanager
def one_round(index: int) -> Iterator[None]:
    """A range around round `index` (from 0) of a run; a trace leaves it out beyond the number of rounds it may record."""
    recording = _recording
    left_out = recording if recording is not None and index >= recording.rounds else None
    if recording:
        recording.seen += 1
    if left_out:
        left_out.pause(True)
    try:
        with phase(f"round {index + 1}"):
            yield
    finally:
        if left_out:
            left_out.pause(False)


def function(wrapped: Callable[P, R]) -> Callable[P, R]:
    """Decorator: a range called module.function around each call, in scope "function". Not for generators, whose calls do nothing."""
    if inspect.isgeneratorfunction(inspect.unwrap(wrapped)):
        raise TypeError(f"{wrapped.__qualname__}: the call of a generator function returns before anything is done")
    module = wrapped.__module__
    if module == "__main__":
        module = Path(inspect.unwrap(wrapped).__code__.co_filename).stem
    name = f"{module.removeprefix(PACKAGE)}.{wrapped.__qualname__}"

    @functools.wraps(wrapped)
    def ranged(*args: P.args, **kwargs: P.kwargs) -> R:
        # torch.compile takes the second test for a constant: no range gets into what it compiles.
        if _function_range is None or torch.compiler.is_compiling():
            return wrapped(*args, **kwargs)
        with _function_range(name):
            return wrapped(*args, **kwargs)

    return ranged


def write_to(folder: Path) -> None:
    """The trace, if one is being recorded, goes to this folder. Raises TraceError if it cannot be written to; makes nothing yet."""
    if _recording is None:
        return
    try:
        try_writing(folder / "trace")
    except OSError as error:
        raise TraceError(f"{folder}: cannot hold the trace ({error.strerror}); remove it, or choose another outdir or save_path") from None
    _recording.folder = folder


# ---- torch.profiler's traces ----


def make_profile(with_cuda: bool, **options: Any) -> torch.profiler.profile:
    """A torch.profiler of the CPU and, if wanted, CUDA, not started. Raises TraceError where this PyTorch has none."""
    if not torch.profiler.kineto_available():
        raise TraceError("this PyTorch was built without its profiler (Kineto); install one from PyPI, or pass profiling.mode=none or nvtx")
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or it tells of each start and stop
    kinds = torch.profiler.ProfilerActivity
    return torch.profiler.profile(activities=[kinds.CPU, kinds.CUDA] if with_cuda else [kinds.CPU], **options)


def write_trace(profile: torch.profiler.profile, folder: Path) -> tuple[Path, list[dict]]:
    """Write what a stopped `profile` recorded, whole or not at all, and return the file and its events.

    The name, `<host>_<process>.<time>.pt.trace.json.gz`, is what TensorBoard's plugin looks for in any folder below its logdir;
    Perfetto opens the same file. A profile can be written once. Raises TraceError.
    """
    path = folder / f"{socket.gethostname()}_{os.getpid()}.{time.time_ns()}.pt.trace.json.gz"
    try:
        with atomic_write(path) as temporary:
            plain = temporary.with_suffix(".json")
            try:
                profile.export_chrome_trace(str(plain))
                # Reading it back also finds a file cut short: where the disk is full, the export does not say so.
                events = json.loads(plain.read_bytes())["traceEvents"]
                with plain.open("rb") as source, gzip.open(temporary, "wb", compresslevel=6) as target:
                    shutil.copyfileobj(source, target)
            finally:
                plain.unlink(missing_ok=True)
    except json.JSONDecodeError:
        raise TraceError(f"{path}: the trace could not be written whole; free space on that disk") from None
    except (OSError, RuntimeError) as error:
        raise TraceError(f"{path}: the trace could not be written ({one_line(error)}); the results of the run are not affected") from error
    return path, events


def _finish(recording: _Recording, quiet: bool) -> None:
    recording.profile.stop()
    if recording.folder is None:
        return
    path, events = write_trace(recording.profile, recording.folder)
    if torch.cuda.is_initialized() and not any(event.get("cat") == "kernel" for event in events):
        print(f"{path}: no GPU kernel was recorded: another profiler has the GPU, or its counters are for administrators", file=sys.stderr)
    if not quiet:
        rounds = f", {min(recording.rounds, recording.seen)} of {recording.seen} rounds recorded" if recording.seen else ""
        print(f"{summary(events)}\ntrace: {path} ({path.stat().st_size / 2**20:.1f} MiB{rounds})", file=sys.stderr)
