"""What the project's commands share: one parser, one way to end, one way to be stopped. Needs no PyTorch."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from microdreamer.core.console import accept_any_text
from microdreamer.core.errors import UserError, memory_error, one_line

SPINS = 5000  # of a waiting thread, some 20 ns each
COLLECT_AFTER = 10_000  # new objects: at Python's 700 garbage is looked for hundreds of times while modules are imported
INTERRUPTED = 130  # exit code of a command that Ctrl-C ended


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are UserErrors, so that they end as all others do."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"command line: {message} (see --help)")


def exit_code(program: str, work: Callable[[], int], smaller: str = "take a smaller input") -> int:
    """What `work` returns; 2 for anything the user can mend (one line says what), 130 after Ctrl-C.

    smaller: what to do where memory runs out, which is one of these too.
    """
    accept_any_text()
    wait_briefly()
    gc.set_threshold(COLLECT_AFTER)
    logging.basicConfig(format=f"{program}: %(message)s", level=logging.WARNING)
    try:
        return work()
    except UserError as error:
        print(f"{program}: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: stopped", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if (ran_out := memory_error(error)) is None:
            raise
        print(f"{program}: {ran_out}; {smaller}", file=sys.stderr)
        return 2


def wait_briefly() -> None:
    """Have threads that wait for one another sleep after about a tenth of a millisecond, so that several programs can share the processors.

    Left alone, GNU's OpenMP, which PyTorch brings on Linux, lets them spin for 6 ms; it reads this when it is loaded, so this must come
    before PyTorch. What the environment says already stays. Results do not depend on it (docs/usage.md, "Several runs at once on a CPU").
    """
    if "torch" not in sys.modules and not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)


class Interrupt:
    """While entered, the first Ctrl-C or SIGTERM only asks (`requested`), so that what is done can be written; the second ends the program.

    Outside of the main thread, where Python takes no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number)
        print("\nstopping after this step; Ctrl-C again ends at once", file=sys.stderr, flush=True)

    def __call__(self) -> bool:
        """Whether to stop: what a run asks between two steps."""
        return self.requested is not None

    @property
    def exit_code(self) -> int:
        """That of a program which the signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + int(self.requested or signal.SIGINT)
