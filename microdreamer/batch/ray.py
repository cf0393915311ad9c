"""A batch on many machines (extra `ray`): `python -m microdreamer.batch.ray input=folder/ outdir=shared/results resume=true address=auto`.

Ray actors hold a prior each, on one GPU or some processor cores; the driver hands them pictures, a few ahead. A picture whose worker is
lost goes to another one; results take their places whole, so that one that is made twice is as if made once (docs/fleets.md).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

from microdreamer.batch.pictures import Item, items_of
from microdreamer.core.command import Interrupt, exit_code
from microdreamer.core.errors import UserError, one_line, user_errors
from microdreamer.pipeline.command_line import parse_command_line
from microdreamer.pipeline.config import Config

FLEET = """Many pictures on many machines, with Ray. Keys as for main.py (input and outdir lie where every machine reaches them), and

address   of the cluster: auto, or HOST:PORT; none starts one on this machine
workers   how many at most; default: one for each GPU, else as many as the cores allow
cpus      cores of a worker (default 1)
"""
AHEAD = 2  # pictures that a worker has at most: the one in work, and the next
TRIES = 3  # of a picture whose worker was lost
POLL_SECONDS = 0.5
STARTUP_SECONDS = 600  # that a worker may take to load its prior
MISSING = "the package ray is not installed: pip install 'microdreamer-optimized[ray]'"


class Worker:
    """What an actor does: it loads its prior once and makes one picture after the other."""

    def __init__(self, config: Config, load: Callable[[Config], Any] | None = None) -> None:
        self._config = config
        if load is not None:
            self._prior = load(config)
            return
        from microdreamer.core.machine import choose_device
        from microdreamer.pipeline.reconstruction import prior_for
        from microdreamer.pipeline.results import check_switches

        device = choose_device(config.device)
        check_switches(config, device)
        self._prior = prior_for(config, device)

    def ready(self) -> bool:
        return True

    def make(self, item: Item) -> dict[str, Any]:
        """The row of a picture. One that another worker had made meanwhile is found, not made again."""
        from microdreamer.batch.report import Row
        from microdreamer.batch.run import find, make_one
        from microdreamer.core.overhearing import overheard

        row = Row(item.text, item.name)
        if not (self._config.resume and find(item, row, self._config)):
            with overheard(row.notes.append):
                make_one(item, row, self._config, self._prior, lambda _: None, lambda: False)
        return dataclasses.asdict(row)


def run_fleet(
    items: Sequence[Item],
    config: Config,
    *,
    address: str | None = None,
    workers: int | None = None,
    cpus: int = 1,
    load: Callable[[Config], Any] | None = None,
    worker_class: type = Worker,
    on_row: Callable[[Any, Any], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Any:
    """As `batch.run.run`, on the workers of a Ray cluster; the report of it.

    address: of the cluster; None takes the one that Ray is connected to, or starts one here. load: makes the prior in each worker (None:
    the one that the configuration names). Raises UserError where no worker can start, or the report cannot be written.
    """
    import ray
    from ray.exceptions import RayActorError, RayTaskError

    from microdreamer.batch.report import FAILED, WAITING, Report, rows_of
    from microdreamer.batch.resuming import same_result
    from microdreamer.batch.run import Writer, find
    from microdreamer.core.files import user_path

    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False, include_dashboard=False)
    report = Report(user_path(config.outdir), same_result(config), rows_of(items))
    places = {item: index for index, item in enumerate(items)}
    with user_errors():
        for item, row in zip(items, report.rows, strict=True):
            if config.resume and find(item, row, config) and on_row:
                on_row(report, row)
        writer = Writer(report)
    queue = deque(item for item, row in zip(items, report.rows, strict=True) if row.status == WAITING)
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    actor = ray.remote(num_cpus=cpus, num_gpus=gpus)(worker_class)
    count = min(workers or _fitting(ray.cluster_resources(), cpus, gpus), len(queue))
    fleet = {handle: 0 for handle in (actor.remote(config, load) for _ in range(count))}  # and how many pictures each has
    in_work: dict[Any, tuple[Any, Item]] = {}
    lost: Counter[Item] = Counter()
    try:
        _wait_for_one(ray, fleet)
        while (queue or in_work) and not should_stop():
            for handle in sorted(fleet, key=fleet.__getitem__):
                while queue and fleet[handle] < AHEAD:
                    item = queue.popleft()
                    in_work[handle.make.remote(item)] = (handle, item)
                    fleet[handle] += 1
            done, _ = ray.wait(list(in_work), num_returns=1, timeout=POLL_SECONDS)
            for task in done:
                handle, item = in_work.pop(task)
                if handle in fleet:
                    fleet[handle] -= 1
                row = report.rows[places[item]]
                try:
                    vars(row).update(ray.get(task))
                except RayActorError as error:
                    if fleet.pop(handle, None) is not None:
                        fleet[actor.remote(config, load)] = 0
                    lost[item] += 1
                    if lost[item] < TRIES:
                        queue.appendleft(item)
                        continue
                    row.status, row.message = FAILED, f"its worker was lost {TRIES} times ({one_line(error)[:200]})"
                except RayTaskError as error:
                    row.status, row.message = FAILED, one_line(error.cause if isinstance(error.cause, Exception) else error)[:500]
                with user_errors():
                    writer.write_soon()
                if on_row:
                    on_row(report, row)
    finally:
        for handle in fleet:
            ray.kill(handle)
        with user_errors():
            report.write()
    return report


def _fitting(resources: dict[str, float], cpus: int, gpus: int) -> int:
    """How many workers the cluster has room for."""
    by_cores = int(resources.get("CPU", 1) // cpus)
    return max(1, min(by_cores, int(resources["GPU"])) if gpus else by_cores)


def _wait_for_one(ray: Any, fleet: dict[Any, int]) -> None:
    """Wait until a worker has its prior. Raises UserError with the reason where none can, or none starts."""
    if not fleet:
        return
    done, _ = ray.wait([handle.ready.remote() for handle in fleet], num_returns=1, timeout=STARTUP_SECONDS)
    if not done:
        raise UserError(f"no worker has started within {STARTUP_SECONDS} seconds; does the cluster have the cores and GPUs that one takes?")
    try:
        ray.get(done[0])
    except ray.exceptions.RayActorError as error:
        lines = str(error).strip().splitlines()
        raise UserError(f"a worker cannot start: {lines[-1].strip() if lines else 'it was lost'}") from None


def run(words: Sequence[str]) -> int:
    """From words to files; returns the exit code, as main.py's of a batch. Raises UserError."""
    own = {"address": None, "workers": None, "cpus": "1"}
    rest = []
    for word in words:
        key, equals, value = word.lstrip("-").partition("=")
        if equals and key in own:
            own[key] = value
        else:
            rest.append(word)
    numbers = {key: int(value) for key in ("workers", "cpus") if (value := own[key]) and value.isdecimal() and int(value) > 0}
    for key in ("workers", "cpus"):
        if own[key] is not None and key not in numbers:
            raise UserError(f"{key}={own[key]}: expected a whole number above 0")
    config, quiet = parse_command_line(rest, FLEET, "microdreamer.batch.ray")
    if not config.input or config.save_path:
        raise UserError("expected input=folder/, a list or a pattern, and no save_path: results are named after their pictures")
    if importlib.util.find_spec("ray") is None:
        raise UserError(MISSING)
    from microdreamer.batch.commands import BatchBar
    from microdreamer.batch.report import FAILED, STEM, WAITING

    items = items_of(config.input, config.outdir)
    with BatchBar(quiet, len(items)) as bar, Interrupt() as interrupt:
        report = run_fleet(items, config, address=own["address"], on_row=bar.row, should_stop=interrupt, **numbers)
    print(f"{report.summary}; see {report.folder / STEM}.html", file=sys.stderr)
    return interrupt.exit_code if report.count(WAITING) else 2 if report.count(FAILED) else 0


def main(arguments: Sequence[str]) -> int:
    """See `core.command.exit_code`."""
    return exit_code("microdreamer.batch.ray", lambda: run(arguments), "lower num_pts, texture_size or mesh_resolution")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
