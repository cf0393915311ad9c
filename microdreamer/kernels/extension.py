"""Finds and loads the compiled extension, and decides per call between it and the plain-PyTorch twins."""

import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch

log = logging.getLogger(__name__)

BUILD_HINT = "build it with `pip install --no-build-isolation -e .` (or `./install_extensions.sh`)"


@functools.cache
def load() -> bool:
    """Load `kernels/_C*.so` once; registers `torch.ops.microdreamer.*`. Returns False if it was never built.

    Raises RuntimeError if the file is there but does not load (built for another PyTorch, for instance).
    """
    found = sorted(Path(__file__).parent.glob("_C*.so")) + sorted(Path(__file__).parent.glob("_C*.pyd"))
    if not found:
        return False
    try:
        torch.ops.load_library(str(found[0]))
    except OSError as error:
        raise RuntimeError(f"{found[0].name} does not load ({error}); {BUILD_HINT}") from error
    return True


def available(device: torch.device | str) -> bool:
    """Whether a compiled kernel exists for tensors on `device`."""
    if not load():
        return False
    kind = torch.device(device).type
    return kind == "cpu" or (kind == "cuda" and bool(torch.ops.microdreamer.built_with_cuda()))


@functools.cache
def _say_once(message: str) -> None:
    log.warning(message)


def use_compiled(device: torch.device | str, switch: str | None = None, register: Callable[[], None] | None = None) -> bool:
    """Compiled kernel or plain PyTorch for tensors on `device`?

    `switch` names an environment variable, read at every call: unset takes the compiled kernel where there is one,
    `0` the plain-PyTorch twin, `1` the compiled kernel or a RuntimeError. Any other value is a ValueError. `register` is called
    before a compiled kernel is chosen: what attaches shapes and gradients to the ops, which must do so once.
    """
    value = os.environ.get(switch, "") if switch else ""
    if value not in ("", "0", "1"):
        raise ValueError(f"{switch}={value}: expected 0 (plain PyTorch), 1 (compiled kernel) or unset (the best there is)")
    if value == "0":
        return False
    if available(device):
        if register:
            register()
        return True
    kind = torch.device(device).type
    if value == "1":
        raise RuntimeError(f"{switch}=1 but there is no compiled {kind} kernel; {BUILD_HINT}")
    _say_once(f"no compiled {kind} kernels: running the plain-PyTorch versions, which are slower; {BUILD_HINT}")
    return False


def constant_when_compiling(function: Callable) -> Callable:
    """Decorator: torch.compile calls `function` once and takes its answer for a constant, instead of tracing into library loading.

    This mark is all that torch.compiler.assume_constant_result leaves on a function; that decorator itself imports
    torch._dynamo, which takes as long as importing torch.
    """
    function._dynamo_marked_constant = True
    return function


def takes_op(device: str, compiled: bool | None, what: str) -> bool:
    """Whether a call runs the compiled op: `compiled` as asked, None for wherever there is one.

    Raises RuntimeError, naming `what`, where it is asked for and not there.
    """
    if compiled and not available(device):
        raise RuntimeError(f"no compiled {device} {what}; {BUILD_HINT}")
    return use_compiled(device) if compiled is None else compiled


def _report() -> int:
    """Say which kernels this environment has; exit code 1 if it has none."""
    if not load():
        print(f"kernels: none built, the plain-PyTorch versions will run, slower; {BUILD_HINT}")
        return 1
    has_cuda = bool(torch.ops.microdreamer.built_with_cuda())
    print(f"kernels: built for {'CPU and CUDA ' + str(torch.version.cuda) if has_cuda else 'CPU'}, PyTorch {torch.__version__}")
    return 0


if __name__ == "__main__":
    raise SystemExit(_report())
