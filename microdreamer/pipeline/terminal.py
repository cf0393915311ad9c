"""What the commands show on a terminal."""

from __future__ import annotations

import contextlib
import sys
import time

from tqdm import tqdm

from microdreamer.pipeline.progress import Update

LINES_EVERY = 15.0  # seconds between two lines, where there is no terminal
BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} so far{postfix}"


class Bar:
    """A bar while a run goes on, and one line for each phase that has ended; nothing where `quiet`."""

    def __init__(self, quiet: bool, heading: str = "") -> None:
        """heading: a line to print once everything is loaded, before the long part."""
        self._quiet, self._heading = quiet, heading
        self._bar: tqdm | None = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, update: Update) -> None:
        """What a run tells."""
        if self._quiet:
            return
        if update.finished:
            with contextlib.nullcontext() if self._bar is None else self._bar.external_write_mode(file=sys.stderr):
                print(f"{update.phase}: {update.seconds:.1f} s", file=sys.stderr, flush=True)
                if update.phase == "load" and self._heading:
                    print(self._heading, file=sys.stderr, flush=True)
            return
        if self._bar is None:
            self._bar = tqdm(total=1.0, disable=None, bar_format=BAR)  # None: shown on a terminal only
        self._bar.set_description_str(update.note.partition(",")[0] or update.phase, refresh=False)
        left = "" if update.seconds_left is None else f"{tqdm.format_interval(update.seconds_left)} left"
        self._bar.set_postfix_str(left + "".join(update.note.partition(",")[1:]), refresh=False)
        self._bar.update(max(update.fraction - self._bar.n, 0.0))


class Steps:
    """`name`: how many of `total` steps of a loop are done, on the standard error. Call `step` after each.

    A bar on a terminal; elsewhere, as in a log, a line now and then, and one at the end.
    """

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.done = name, total, 0
        self._began = self._told = time.monotonic()
        self._bar = tqdm(total=total, desc=name) if sys.stderr.isatty() else None

    def step(self) -> None:
        self.done += 1
        if self._bar is not None:
            self._bar.update()
            if self.done == self.total:
                self._bar.close()
            return
        now = time.monotonic()
        if now - self._told >= LINES_EVERY or self.done == self.total:
            self._told, spent = now, now - self._began
            left = f", {tqdm.format_interval(spent / self.done * (self.total - self.done))} left" if self.done < self.total else ""
            print(f"{self.name}: {self.done}/{self.total}, {tqdm.format_interval(spent)} so far{left}", file=sys.stderr, flush=True)
