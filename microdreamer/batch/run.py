"""A batch: many pictures, one prior, one process. What goes wrong with one is a line in the report, and the rest goes on."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from microdreamer.batch.pictures import Item
from microdreamer.batch.report import DONE, FAILED, WAITING, Report, Row, rows_of, write_thumbnail
from microdreamer.batch.resuming import digest_of, same_result, whole_record
from microdreamer.core.errors import UserError, memory_error, one_line, user_errors
from microdreamer.core.files import user_path
from microdreamer.core.machine import choose_device
from microdreamer.core.overhearing import overheard
from microdreamer.guidance.base import Prior
from microdreamer.pipeline.config import Config
from microdreamer.pipeline.progress import Update
from microdreamer.pipeline.reconstruction import prior_for, reconstruct, with_inputs
from microdreamer.pipeline.results import STAGE_1, check_switches, result_stem, write_preview

log = logging.getLogger(__name__)
WRITING = 100  # times what it took to write the report, that pass before it is written again
FAULT = "a fault of the program, please report it"


class Abandoned(Exception):
    """Whoever called asked to stop; the picture in work is left for another run."""


OnStep = Callable[[Report, Row, Update], None]  # the batch, the picture in work, and how far it is
OnRow = Callable[[Report, Row], None]  # the batch, and a picture that has just been done, has failed, or was done before


def run(
    items: Sequence[Item],
    config: Config,
    prior: Prior | None = None,
    *,
    on_step: OnStep | None = None,
    on_row: OnRow | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Report:
    """Make the result of every picture as `config.outdir/NAME...`, each as `reconstruct` makes it alone; the report of it.

    prior: None takes the one that the configuration names, loaded once, and only if there is something to do. With `config.resume`,
    results that are there already (`resuming.whole_record`) are left as they are. The report is written as pictures get done. Once
    `should_stop` says so, what is not done yet stays waiting: no partial result is written. Raises UserError for a prior or device
    that cannot be had, and where the report cannot be written.
    """
    report = Report(user_path(config.outdir), same_result(config), rows_of(items))
    pairs = list(zip(items, report.rows, strict=True))
    with user_errors():
        for item, row in pairs if config.resume else []:
            if not should_stop() and find(item, row, config) and on_row:
                on_row(report, row)
        writer = Writer(report)
        waiting = [pair for pair in pairs if pair[1].status == WAITING]
        if waiting and not should_stop():
            device = choose_device(config.device) if prior is None else prior.device
            check_switches(config, device)
            prior = prior or prior_for(config, device)
            for item, row in waiting:
                try:
                    with overheard(row.notes.append):
                        make_one(item, row, config, prior, lambda update, row=row: on_step and on_step(report, row, update), should_stop)
                except Abandoned:
                    break
                writer.write_soon()
                if on_row:
                    on_row(report, row)
        report.write()
    return report


class Writer:
    """Writes the report now, and again when asked, except where that would take more than a hundredth of the time."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._write()

    def _write(self) -> None:
        start = time.monotonic()
        self._report.write()
        self._ended = time.monotonic()
        self._took = self._ended - start

    def write_soon(self) -> None:
        if time.monotonic() - self._ended >= WRITING * self._took:
            self._write()


def _own(item: Item, config: Config) -> Config:
    """The configuration of one picture. Raises ValueError for a caption beside it that is no text."""
    return with_inputs(dataclasses.replace(config, input=item.text, save_path=item.name), None, None)


def find(item: Item, row: Row, config: Config) -> bool:
    """Fill the row from the result of an earlier run, if there is one that a new one would repeat."""
    try:
        own = _own(item, config)
        stem = result_stem(own)
        record = whole_record(stem, own, item.pictures)
    except ValueError:  # to be told when its turn comes
        return False
    if record is None:
        return False
    row.resumed = True
    _fill(row, record, stem, item.picture)
    return True


def make_one(
    item: Item, row: Row, config: Config, prior: Prior, on_progress: Callable[[Update], Any], should_stop: Callable[[], bool]
) -> None:
    """Make the result and fill the row, or say in it why that is not possible. Raises Abandoned."""

    def stop() -> bool:
        if should_stop():
            raise Abandoned
        return False

    stop()
    start = time.perf_counter()
    try:
        own = _own(item, config)
        path = user_path(item.picture)
        digest = digest_of(item.pictures)
        preview = (lambda guess: write_preview(own, guess)) if own.preview else None
        result = reconstruct(config=own, prior=prior, on_progress=on_progress, should_stop=stop, on_preview=preview)
        result.record["input_sha256"] = digest
        stem = result.save(on_progress=on_progress)
        if result.no_mesh:
            raise UserError(f"everything was written but the mesh: {result.no_mesh}")
        row.seconds = round(time.perf_counter() - start, 2)
        _fill(row, result.record, stem, path)
    except Abandoned:
        raise
    except Exception as error:
        row.status, row.message = FAILED, _why(error)
        if row.message.startswith(FAULT):
            log.debug("%s", item.text, exc_info=True)
        row.thumbnail = write_thumbnail(user_path(config.outdir) / item.name, user_path(item.picture), None)


def _fill(row: Row, record: dict[str, Any], stem: Path, picture: Path) -> None:
    row.gaussians, row.input_view_psnr_db = record["gaussians"], record["input_view_psnr_db"]
    row.files = [path.name for suffix in STAGE_1 if (path := Path(f"{stem}{suffix}")).is_file()]
    row.thumbnail = write_thumbnail(stem, picture, Path(f"{stem}_views.png"))
    row.status = DONE


def _why(error: Exception) -> str:
    """What went wrong with one picture, in one line."""
    if ran_out := memory_error(error):
        return f"{ran_out}; lower num_pts, texture_size, mesh_resolution or batch_size_max"
    if isinstance(error, (ValueError, OSError)):
        return one_line(error)
    return f"{FAULT}: {type(error).__name__}: {one_line(error)}"
