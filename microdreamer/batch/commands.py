"""What main.py and `microdreamer make` run: one picture and/or sentence, or, where `input=` names many pictures, a batch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tqdm import tqdm

from microdreamer.batch.pictures import items_of, names_many
from microdreamer.core.command import Interrupt
from microdreamer.core.errors import UserError, user_errors
from microdreamer.pipeline import commands
from microdreamer.pipeline.config import Config

if TYPE_CHECKING:
    from microdreamer.batch.report import Report, Row
    from microdreamer.guidance.base import Prior
    from microdreamer.pipeline.progress import Update


def make(words: Sequence[str], program: str = "main.py") -> int:
    """Stage 1 from words to files, of one picture or many; returns the exit code."""
    return commands.make(words, program, run)


def run(config: Config, quiet: bool) -> int:
    """One run, or a batch where the input is many pictures or is to be resumed. Raises UserError."""
    if names_many(config.input) or config.resume:
        return run_batch(config, quiet)
    return commands.run_make(config, quiet)


def run_batch(config: Config, quiet: bool, prior: Prior | None = None) -> int:
    """A batch to files, with a bar on the way; 2 where a picture failed, 130 or 143 where Ctrl-C or SIGTERM stopped it."""
    if not config.input:
        raise UserError("resume=true: expected pictures to go on with; pass input=folder/, a list or a pattern")
    if config.save_path:
        raise UserError(
            f"save_path={config.save_path}: results of a batch are named after their pictures; outdir=FOLDER sets where they go"
        )
    items = items_of(config.input, config.outdir)
    from microdreamer.batch.report import FAILED, STEM, WAITING
    from microdreamer.batch.run import run as run_all
    from microdreamer.core.files import try_writing, user_path

    folder = user_path(config.outdir)
    with user_errors():
        try_writing(folder / f"{STEM}.json")
    if not quiet:
        print(commands.config_line(config), file=sys.stderr, flush=True)
    with BatchBar(quiet, len(items)) as bar, Interrupt() as interrupt:
        report = run_all(items, config, prior, on_step=bar.step, on_row=bar.row, should_stop=interrupt)
    failed = report.count(FAILED)
    if not quiet or failed:
        print(f"{report.summary}; see {folder / STEM}.html", file=sys.stderr)
    return interrupt.exit_code if report.count(WAITING) else 2 if failed else 0


class BatchBar:
    """A bar over all pictures, and a line for each that is done or has failed; of `quiet` ones only those that have failed."""

    def __init__(self, quiet: bool, total: int) -> None:
        self._quiet, self._done = quiet, 0
        hide = True if quiet else None  # None: shown on a terminal only
        layout = "{desc}{percentage:3.0f}%|{bar}| {elapsed} so far, {remaining} left"
        self._bar = tqdm(total=float(total), disable=hide, bar_format=layout)

    def __enter__(self) -> BatchBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def step(self, report: Report, row: Row, update: Update) -> None:
        """Somewhere within a picture; its mesh and files, after the rounds, count as none of it."""
        self._bar.set_description_str(f"{self._done + 1}/{len(report.rows)} {row.name}, {update.note or update.phase}: ", refresh=False)
        self._bar.update(max(self._done + 0.95 * update.fraction - self._bar.n, 0.0))

    def row(self, report: Report, row: Row) -> None:
        """A picture's turn is over."""
        self._done += 1
        self._bar.update(self._done - self._bar.n)
        if row.message:
            tqdm.write(f"{row.name}: failed: {row.message}", file=sys.stderr)
        elif not self._quiet:
            tqdm.write(f"{row.name}: {'there already' if row.resumed else f'{row.seconds:.1f} s'}", file=sys.stderr)
