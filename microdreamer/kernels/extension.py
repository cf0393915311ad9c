"""Finds and loads the compiled extension, and decides per call between it and the plain-PyTorch twins.

Every op is used in the same way: its module calls `register` when it is imported, with the op's shapes and gradient, and asks
`use_compiled` in each call.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from microdreamer.core.errors import KernelsError

log = logging.getLogger(__name__)

BUILD_HINT = "build it with `pip install --no-build-isolation -e .` (or `./install_extensions.sh`)"

_lock = threading.RLock()
_waiting: list[Callable[[], None]] = []  # registrations that the library must be loaded for


def built_file(folder: Path, capability: str) -> Path | None:
    """The extension in `folder` for a processor of this capability, as torch.backends.cpu.get_cpu_capability names it; None: never built.

    setup.py builds one for every processor of an architecture, `_C`, and on x86-64 one with AVX2 and FMA, `_C_avx2`.
    """
    stems = ("_C_avx2", "_C") if capability in ("AVX2", "AVX512") else ("_C",)
    found = (path for stem in stems for suffix in (".so", ".pyd") for path in sorted(folder.glob(f"{stem}.*")) if path.suffix == suffix)
    return next(found, None)


@functools.cache
def _load_once() -> bool:
    path = built_file(Path(__file__).parent, torch.backends.cpu.get_cpu_capability())
    if path is None:
        return False
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise KernelsError(f"{path.name} does not load ({error}); {BUILD_HINT}") from error
    return True


def load() -> bool:
    """Load the built extension once; registers `torch.ops.microdreamer.*`. Returns False if it was never built.

    Which of its files is a matter of the processor, and of ATEN_CPU_CAPABILITY, by which PyTorch chooses among its own kernels.
    Raises KernelsError if the file is there but does not load (built for another PyTorch, for instance).
    """
    with _lock:
        loaded = _load_once()
        while loaded and _waiting:
            _waiting.pop(0)()
    return loaded


class Gradient(NamedTuple):
    """How autograd differentiates an op: `backward` and `save`, as torch.library.register_autograd takes them."""

    backward: Callable[..., Any]
    save: Callable[..., None] | None = None


def register(op: str, fake: Callable[..., Any], gradient: Gradient | None = None) -> None:
    """Attach to microdreamer::`op` its shapes for torch.compile (`fake`) and its gradient, now or once the library is loaded.

    Raises KernelsError then if the library has no such op: it was built from older sources.
    """

    def attach() -> None:
        if not hasattr(torch.ops.microdreamer, op):
            raise KernelsError(f"the built kernels are older than these sources, they lack {op}; {BUILD_HINT}")
        torch.library.register_fake(f"microdreamer::{op}", fake)
        if gradient is not None:
            torch.library.register_autograd(f"microdreamer::{op}", gradient.backward, setup_context=gradient.save)

    with _lock:
        _waiting.append(attach)
        if _load_once.cache_info().currsize:
            load()


def gradient_by_twin(twin: Callable[..., Tensor | tuple[Tensor, ...]]) -> Gradient:
    """The gradient of an op that is made for inference: evaluate `twin`, which takes its arguments in the same order, again."""

    def save(ctx, inputs, output):
        ctx.rest = [None if isinstance(value, Tensor) else value for value in inputs]
        ctx.save_for_backward(*(value if isinstance(value, Tensor) else None for value in inputs))

    def backward(ctx, *v_outputs):
        given = len(ctx.needs_input_grad)  # the dispatcher leaves out arguments at the end that have their defaults
        needed = zip(ctx.saved_tensors[:given], ctx.rest[:given], ctx.needs_input_grad, strict=True)
        with torch.enable_grad():
            values = [rest if tensor is None else tensor.detach().requires_grad_(wanted) for tensor, rest, wanted in needed]
            outputs = twin(*values)
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        used = [(output, v_output) for output, v_output in zip(outputs, v_outputs, strict=True) if v_output is not None]
        wanted = [value for value in values if isinstance(value, Tensor) and value.requires_grad]
        differentiated, v_differentiated = zip(*used, strict=True)
        found = iter(torch.autograd.grad(differentiated, wanted, v_differentiated, allow_unused=True))
        return tuple(next(found) if isinstance(value, Tensor) and value.requires_grad else None for value in values)

    return Gradient(backward, save)


def available(device: torch.device | str) -> bool:
    """Whether a compiled kernel exists for tensors on `device`."""
    if not load():
        return False
    kind = torch.device(device).type
    return kind == "cpu" or (kind == "cuda" and torch.ops.microdreamer.built_with_cuda())


@functools.cache
def _say_once(message: str) -> None:
    log.warning(message)


def _constant_when_compiling(function: Callable) -> Callable:
    """Decorator: torch.compile calls `function` once and takes its answer for a constant, instead of tracing into library loading.

    This mark is all that torch.compiler.assume_constant_result leaves on a function; that decorator itself imports
    torch._dynamo, which takes as long as importing torch.
    """
    function._dynamo_marked_constant = True
    return function


@_constant_when_compiling
def use_compiled(device: torch.device | str, switch: str | None = None, asked: bool | None = None) -> bool:
    """Compiled kernel or plain PyTorch for tensors on `device`?

    `asked` is the caller's `compiled` argument: True demands the kernel, False the twin, None takes the kernel where there is one.
    `switch` names an environment variable that asks in its stead, read at every call: `1`, `0` or unset. Raises KernelsError where the
    kernel is demanded and not there, ValueError for another value of the variable.
    """
    demand = "compiled=True"
    if switch is not None:
        value = os.environ.get(switch, "")
        if value not in ("", "0", "1"):
            raise ValueError(f"{switch}={value}: expected 0 (plain PyTorch), 1 (compiled kernel) or unset (the best there is)")
        asked, demand = (value == "1" if value else None), f"{switch}={value}"
    if asked is False:
        return False
    if available(device):
        return True
    kind = torch.device(device).type
    if asked:
        raise KernelsError(f"{demand} but there is no compiled {kind} kernel; {BUILD_HINT}")
    _say_once(f"no compiled {kind} kernels: running the plain-PyTorch versions, which are slower; {BUILD_HINT}")
    return False


@contextlib.contextmanager
def switched(**variables: str) -> Iterator[None]:
    """Environment variables set while the block runs: `with switched(USE_CUDA_GAUSS="0"): ...`.

    They belong to the process: other threads see them too.
    """
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def keep_freed_memory() -> bool:
    """Let this process keep the memory that its CPU tensors free, rather than ask the system for fresh pages at each operation.

    A tenth of the micro prior's time on the CPU. It holds for everything in the process and cannot be undone, so it is for programs of
    their own to call, once, at their start; importing or using this package never does. Returns whether it took effect: not without
    the extension, nor where the C library is not glibc.
    """
    return load() and torch.ops.microdreamer.keep_freed_memory()


def _report() -> int:
    """Say which kernels this environment has; exit code 1 if it has none."""
    if not load():
        print(f"kernels: none built, the plain-PyTorch versions will run, slower; {BUILD_HINT}")
        return 1
    has_cuda = torch.ops.microdreamer.built_with_cuda()
    name = next(Path(path).name for path in torch.ops.loaded_libraries if Path(path).parent == Path(__file__).parent)
    print(f"kernels: built for {'CPU and CUDA ' + str(torch.version.cuda) if has_cuda else 'CPU'}, PyTorch {torch.__version__}; {name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(_report())
