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

from microdreamer.core import profiler
from microdreamer.distillation.schedules import Round
from microdreamer.guidance import Prior


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
            with profiler.phase(name):
                try:
                    yield
                finally:
                    if self._device.type == "cuda":
                        torch.cuda.synchronize(self._device)
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        if announce:
            self.announce(name)

    def announce(self, name: str) -> None:
        if not self._quiet and name in self.seconds:
            print(f"{name}: {self.seconds[name]:.1f} s", file=sys.stderr, flush=True)


class Progress:
    """The bar over all rounds, which also times their two halves, marks each for profilers and passes on Ctrl-C between steps.

    What is left is told from the mean time of the prior's branches and of the optimiser's steps so far, which differ widely.
    """

    def __init__(
        self,
        prior: Prior,
        rounds: Sequence[Round],
        guidance_scale: float,
        phases: Phases | None = None,
        interrupt: Interrupt | None = None,
        quiet: bool = True,
    ) -> None:
        self.phases = phases or Phases(prior.device)
        self.rounds_done = 0
        self.fit_steps = 0  # optimiser steps done
        self._prior, self._rounds, self._interrupt = prior, len(rounds), interrupt or Interrupt()
        self._evaluations = prior.evaluations  # the ones of earlier runs do not count
        guided = sum(len(turn.denoising) for turn in rounds) if guidance_scale != 1 else 0
        self._all_branches = sum(turn.network_calls for turn in rounds) + guided
        self._all_steps = sum(len(turn.steps) for turn in rounds)
        self._prior_seconds = self._fit_seconds = 0.0
        self._loss = ""
        self._range = contextlib.ExitStack()  # the round's, for profilers
        self._bar = tqdm(
            total=1.0,
            disable=quiet or None,  # None: shown on a terminal only
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed} so far{postfix}",
        )
        self._ticked = time.perf_counter()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._range.close()
        self._bar.close()

    @property
    def evaluations(self) -> int:
        """Branches of the prior evaluated in this run."""
        return self._prior.evaluations - self._evaluations

    @property
    def seconds_left(self) -> float:
        """Estimate for the rounds; before the first optimiser step only a guess."""
        branch = self._prior_seconds / max(self.evaluations, 1)
        step = self._fit_seconds / self.fit_steps if self.fit_steps else branch / 2
        return (self._all_branches - self.evaluations) * branch + (self._all_steps - self.fit_steps) * step

    def start_round(self, turn: Round) -> None:
        self._range.enter_context(profiler.one_round(turn.index))
        self._ticked = time.perf_counter()
        self._bar.set_description_str(f"round {turn.index + 1}/{self._rounds}", refresh=False)

    def end_round(self, loss: float) -> None:
        self._range.close()
        self.rounds_done += 1
        self._loss = f", loss {loss:.1f}"

    def after_prior_step(self, _step: int, _total: int, _metrics: dict[str, float]) -> None:
        self._prior_seconds += self._lap()
        self._show()

    def after_fit_step(self, _step: int, _total: int, _metrics: dict[str, float]) -> None:
        self.fit_steps += 1
        self._fit_seconds += self._lap()
        self._show()

    def _lap(self) -> float:
        now = time.perf_counter()
        seconds, self._ticked = now - self._ticked, now
        return seconds

    def _show(self) -> None:
        spent, left = self._prior_seconds + self._fit_seconds, self.seconds_left
        self._bar.set_postfix_str(f"{tqdm.format_interval(left)} left{self._loss}", refresh=False)
        self._bar.total = spent + left
        self._bar.update(max(spent - self._bar.n, 0.0))
        self._interrupt.check()
