"""What a long run shows and obeys: a progress bar, seconds per phase, and Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from types import FrameType

import torch
from tqdm import tqdm

from distillation.schedules import Round
from guidance import Prior

BRANCH_COST = 8.0  # optimiser steps that one evaluated branch of a prior takes as long as; only the bar's ETA depends on it


class Stopped(Exception):
    """Ctrl-C was pressed; raised between two steps, where everything is whole."""


class Interrupt:
    """While entered, the first Ctrl-C only asks: `check` raises `Stopped` at the next step. The second one ends the program."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> Interrupt:
        self._previous = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        print("\nstopping after this step; Ctrl-C again ends at once", file=sys.stderr, flush=True)

    def check(self) -> None:
        if self.requested:
            raise Stopped


class Phases:
    """Seconds per phase of a run, in order; a phase that is entered again adds up."""

    def __init__(self, device: torch.device, quiet: bool = True) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device
        self._quiet = quiet

    @contextlib.contextmanager
    def __call__(self, name: str, announce: bool = True) -> Iterator[None]:
        """Time the block and, unless `announce` is false, print one line about it."""
        start = time.perf_counter()
        try:
            yield
        finally:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        if announce:
            self.announce(name)

    def announce(self, name: str) -> None:
        if not self._quiet and name in self.seconds:
            print(f"{name}: {self.seconds[name]:.1f} s", file=sys.stderr, flush=True)


class Progress:
    """The bar over all rounds, which also times their two halves and passes on Ctrl-C between steps."""

    def __init__(
        self, prior: Prior, rounds: Sequence[Round], guidance_scale: float, phases: Phases, interrupt: Interrupt, quiet: bool
    ) -> None:
        self.phases = phases
        self.rounds_done = 0
        self.fit_steps = 0  # optimiser steps done
        self._prior, self._rounds, self._interrupt = prior, len(rounds), interrupt
        self._evaluations = prior.evaluations  # the ones of earlier runs do not count
        branches = 1 if guidance_scale == 1 else 2
        calls = sum(turn.network_calls + (branches - 1) * len(turn.denoising) for turn in rounds)
        self._bar = tqdm(
            total=calls * BRANCH_COST + sum(len(turn.steps) for turn in rounds),
            disable=quiet,
            mininterval=0.5,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed} so far, {remaining} left{postfix}",
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    @property
    def evaluations(self) -> int:
        """Branches of the prior evaluated in this run."""
        return self._prior.evaluations - self._evaluations

    def start_round(self, turn: Round) -> None:
        self._bar.set_description_str(f"round {turn.index + 1}/{self._rounds}")

    def end_round(self, loss: float) -> None:
        self.rounds_done += 1
        self._bar.set_postfix_str(f"loss {loss:.1f}")

    def after_prior_step(self, _step: int, _total: int, _metrics: dict[str, float]) -> None:
        self._tick()

    def after_fit_step(self, _step: int, _total: int, _metrics: dict[str, float]) -> None:
        self.fit_steps += 1
        self._tick()

    def _tick(self) -> None:
        done = self.evaluations * BRANCH_COST + self.fit_steps
        self._bar.update(done - self._bar.n)
        self._interrupt.check()
