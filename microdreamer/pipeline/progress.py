"""How far a run is: seconds per phase, steps done, an estimate of what is left. Whoever called is told, and may ask it to stop.

Nothing here prints or takes signals: `on_progress` and `should_stop` are the caller's, and are called from the thread of the run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from microdreamer.core import profiler
from microdreamer.core.errors import Stopped
from microdreamer.distillation.schedules import Round
from microdreamer.guidance.base import Prior
from microdreamer.guidance.shortcuts import NO_SHORTCUTS, Shortcuts


@dataclasses.dataclass(frozen=True)
class Update:
    """What `on_progress` is told after each step and at each end of a phase.

    phase: load, preview, prior, fit, mesh, refine, write or video; finished: whether it ended, after `seconds` in all. fraction: the share
    [0,1] of the rounds (or of the refinement's steps) that is done, by time; seconds_left: an estimate for the rest of them, or
    None. note: what is being done, in words. preview: renders the object as it is now, [1,3,S,S] in [0,1]; costs one render.
    """

    phase: str
    seconds: float
    finished: bool = False
    fraction: float = 0.0
    seconds_left: float | None = None
    note: str = ""
    preview: Callable[[], Tensor] | None = None


OnProgress = Callable[[Update], None]
ShouldStop = Callable[[], bool]


def _silent(_: Update) -> None:
    """For callers who do not want to know."""


def _never() -> bool:
    return False


class Watch:
    """The caller's two functions, and the seconds of each phase in order; a phase that is entered again adds up."""

    def __init__(self, device: torch.device, on_progress: OnProgress | None = None, should_stop: ShouldStop | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self.tell = on_progress or _silent
        self._should_stop = should_stop or _never
        self._device = device

    def check(self) -> None:
        """Raise Stopped where the caller wants the run to stop."""
        if self._should_stop():
            raise Stopped

    @contextlib.contextmanager
    def phase(self, name: str, announce: bool = True) -> Iterator[None]:
        """Time the block and, unless `announce` is false, tell its end."""
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
        """Tell that a phase is over."""
        if name in self.seconds:
            self.tell(Update(name, self.seconds[name], finished=True))


class Progress:
    """The rounds of one reconstruction: times their two halves, marks each for profilers, tells and asks the caller between steps.

    What is left is told from the mean time of the prior's branches and of the optimiser's steps so far, which differ widely.
    """

    def __init__(
        self,
        prior: Prior,
        rounds: Sequence[Round],
        guidance_scale: float,
        watch: Watch | None = None,
        preview: Callable[[], Tensor] | None = None,
        shortcuts: Shortcuts = NO_SHORTCUTS,
    ) -> None:
        self.watch = watch or Watch(prior.device)
        self.rounds_done = 0
        self.fit_steps = 0  # optimiser steps done
        self._prior, self._rounds, self._preview = prior, len(rounds), preview
        self._evaluations = prior.evaluations  # the ones of earlier runs do not count
        guided = sum(shortcuts.scale_at(t, prior.schedule, guidance_scale) != 1 for turn in rounds for t in turn.denoising)
        self._all_branches = sum(turn.network_calls for turn in rounds) + guided
        self._all_steps = sum(len(turn.steps) for turn in rounds)
        self._prior_seconds = self._fit_seconds = 0.0
        self._note = self._loss = ""
        self._range = contextlib.ExitStack()  # the round's, for profilers
        self._ticked = time.perf_counter()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._range.close()

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
        self._note = f"round {turn.index + 1}/{self._rounds}"

    def end_round(self, loss: float) -> None:
        self._range.close()
        self.rounds_done += 1
        self._loss = f", loss {loss:.1f}"

    def after_prior_step(self, _step: int, _total: int, _metrics: dict[str, float]) -> None:
        self._prior_seconds += self._lap()
        self._tell("prior", self._prior_seconds)

    def after_fit_step(self, _step: int, _total: int, _metrics: dict[str, float]) -> None:
        self.fit_steps += 1
        self._fit_seconds += self._lap()
        self._tell("fit", self._fit_seconds)

    def _lap(self) -> float:
        now = time.perf_counter()
        seconds, self._ticked = now - self._ticked, now
        return seconds

    def _tell(self, phase: str, seconds: float) -> None:
        spent, left = self._prior_seconds + self._fit_seconds, self.seconds_left
        fraction = spent / max(spent + left, 1e-9)
        self.watch.tell(Update(phase, seconds, False, fraction, left, self._note + self._loss, self._preview))
        self.watch.check()
