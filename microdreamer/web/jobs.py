"""Jobs that wait their turn: a bounded queue, one at a time a worker, cancelled or watched by whoever knows their id.

Knows nothing of pictures or of the web: what a job does is the caller's function. Each job has a folder of its own, named by its id, which
nobody can guess; the files of it that may be handed out are looked up by name in a list, never joined to a path. Folders are swept by age
and size.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import shutil
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from microdreamer.core.errors import Stopped, UserError, memory_error, one_line

log = logging.getLogger(__name__)

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
ENDED = frozenset({DONE, FAILED, CANCELLED})
SWEEP_SECONDS = 60.0
_ID = re.compile(r"[0-9a-f]{32}")


class Full(UserError):
    """As many jobs are waiting as may."""


class Unknown(UserError):
    """No such job, or no such file of it: never there, or swept."""


@dataclasses.dataclass(frozen=True)
class State:
    """A job at one moment.

    status: queued, running, done, failed or cancelled. ahead: how many come before it while it is queued. fraction [0,1] and
    seconds_left (None: not known) are of its running part; phase and note say in words what is being done. error: why it failed, in one
    line. notes: what there was to say of its input. files: the names of what it made. version grows with every change. seconds: how long
    it has been running, or ran.
    """

    id: str
    status: str
    ahead: int
    phase: str
    note: str
    fraction: float
    seconds_left: float | None
    seconds: float
    error: str | None
    notes: tuple[str, ...]
    files: tuple[str, ...]
    version: int


class Job:
    """What `work` is given: the request, the job's folder, and ways to tell how far it is.

    `told` may be called at any time; `notes` takes lines for the user; `should_stop` says whether somebody cancelled it.
    """

    def __init__(self, jobs: Jobs, request: Any, folder: Path, owner: str) -> None:
        self.id, self.request, self.folder, self.owner = folder.name, request, folder, owner
        self.preview: bytes | None = None  # the newest picture of the object, as a file of its own
        self.notes: list[str] = []
        self.files: dict[str, Path] = {}  # what may be handed out, by name
        self._jobs = jobs
        self._status = QUEUED
        self._error: str | None = None
        self._phase, self._note, self._fraction, self._seconds_left = "", "", 0.0, None
        self._begun: float | None = None
        self._ended: float | None = None
        self._cancelled = False
        self._version = 0

    def should_stop(self) -> bool:
        return self._cancelled

    def told(
        self, phase: str, note: str = "", fraction: float = 0.0, seconds_left: float | None = None, preview: bytes | None = None
    ) -> None:
        """How far the work is; `preview` replaces the picture of it where there is one."""
        with self._jobs.lock:
            self._phase, self._note, self._fraction, self._seconds_left = phase, note, fraction, seconds_left
            self.preview = preview or self.preview
            self._version += 1


Work = Callable[[Job], Mapping[str, Path]]


class Jobs:
    """The queue and its workers.

    work: does a job in a worker's thread and returns the files that it made, in the job's folder, by the names to hand them out by. A
    UserError is the one-line reason of a failure, Stopped or a cancelled job is no failure, and of anything else the user is told that it
    is a fault of the program, with the details in the log. folder: made where it is missing; folders of jobs of earlier programs in it are
    swept with the rest. most_waiting, keep_seconds, keep_bytes: of jobs that wait, and of ended jobs' folders.
    """

    def __init__(
        self,
        work: Work,
        folder: str | Path,
        workers: int = 1,
        most_waiting: int = 20,
        keep_seconds: float = 24 * 3600.0,
        keep_bytes: int = 4 << 30,
    ) -> None:
        self.lock = threading.RLock()
        self.folder = Path(folder).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.most_waiting = most_waiting
        self._work, self._keep_seconds, self._keep_bytes = work, keep_seconds, keep_bytes
        self._jobs: dict[str, Job] = {}
        self._queue: deque[Job] = deque()
        self._filling: set[str] = set()  # ids of jobs that are not in the queue yet
        self._wake = threading.Condition(self.lock)
        self._closed, self._closing = False, threading.Event()
        self._sweep_lock = threading.Lock()
        self._threads = [threading.Thread(target=self._serve, name=f"job worker {number}", daemon=True) for number in range(workers)]
        self._threads.append(threading.Thread(target=self._keep_sweeping, name="job sweeper", daemon=True))
        for thread in self._threads:
            thread.start()

    # ---- Asking ----

    def submit(
        self,
        request: Any,
        files: Mapping[str, bytes | Path] | None = None,
        owner: str = "",
        check: Callable[[Path], None] | None = None,
    ) -> State:
        """Queue a job, whose folder holds `files` (bytes, or files to copy) under plain names, once `check` has nothing against it.

        Raises Full, the UserError of `check`, and OSError for a full disk; nothing is left then.
        """
        with self.lock:  # before anything is written, and again below
            self._check_room()
        folder = self.folder / uuid.uuid4().hex
        job = Job(self, request, folder, owner)
        with self.lock:
            self._filling.add(job.id)
        try:
            folder.mkdir()
            for name, content in (files or {}).items():
                if Path(name).name != name or name in (".", ".."):
                    raise ValueError(f"{name}: expected a plain name")
                if isinstance(content, Path):
                    shutil.copyfile(content, folder / name)
                else:
                    (folder / name).write_bytes(content)
            if check:
                check(folder)
            with self.lock:
                self._check_room()
                self._jobs[job.id] = job
                self._queue.append(job)
                self._wake.notify()
                return self._state(job)
        except UserError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise type(error)(_without(folder, str(error))) from None
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            with self.lock:
                self._filling.discard(job.id)

    def _check_room(self) -> None:
        if self._closed or len(self._queue) >= self.most_waiting:
            raise Full(f"{len(self._queue)} jobs are waiting, which is all that may; try again later")

    def state(self, id: str) -> State:
        """Raises Unknown."""
        with self.lock:
            return self._state(self._find(id))

    def states(self, owner: str | None = None) -> list[State]:
        """All jobs (of an owner) in the order in which they came."""
        with self.lock:
            return [self._state(job) for job in self._jobs.values() if owner in (None, job.owner)]

    def preview(self, id: str) -> bytes | None:
        """The newest picture of a job's object. Raises Unknown."""
        with self.lock:
            return self._find(id).preview

    def request(self, id: str) -> Any:
        """What was asked for. Raises Unknown."""
        with self.lock:
            return self._find(id).request

    def file(self, id: str, name: str) -> Path:
        """Where a file of an ended job lies. Raises Unknown for any name that is not in `State.files`."""
        with self.lock:
            path = self._find(id).files.get(name)
        if path is None:
            raise Unknown(f"job {id}: no file of that name")
        return path

    @property
    def waiting(self) -> int:
        with self.lock:
            return len(self._queue)

    def cancel(self, id: str) -> State:
        """Take a job out of the queue, or ask the one that runs to stop; nothing where it has ended. Raises Unknown."""
        with self.lock:
            job = self._find(id)
            job._cancelled = True
            if job._status == QUEUED:
                self._queue.remove(job)
                self._end(job, CANCELLED)
            return self._state(job)

    def close(self, seconds: float = 30.0) -> None:
        """Cancel everything and wait for the workers, at most so long."""
        with self.lock:
            self._closed = True
            for job in list(self._jobs.values()):
                if job._status not in ENDED:
                    self.cancel(job.id)
            self._wake.notify_all()
        self._closing.set()
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _find(self, id: str) -> Job:
        job = self._jobs.get(id)
        if job is None:
            raise Unknown("no such job; it may have been swept")
        return job

    def _state(self, job: Job) -> State:
        ahead = self._queue.index(job) if job._status == QUEUED else 0
        seconds = 0.0 if job._begun is None else (job._ended or time.monotonic()) - job._begun
        return State(
            job.id,
            job._status,
            ahead,
            job._phase,
            job._note,
            job._fraction,
            job._seconds_left,
            round(seconds, 2),
            job._error,
            tuple(job.notes),
            tuple(job.files),
            job._version,
        )

    # ---- Working ----

    def _serve(self) -> None:
        while True:
            with self.lock:
                while not self._queue and not self._closed:
                    self._wake.wait()
                if self._closed:
                    return
                job = self._queue.popleft()
                job._status, job._begun = RUNNING, time.monotonic()
                for other in (job, *self._queue):
                    other._version += 1
            status, error, files = self._outcome(job)
            with self.lock:
                job.files = files
                self._end(job, status, error)
            self.sweep()

    def _outcome(self, job: Job) -> tuple[str, str | None, dict[str, Path]]:
        try:
            files = {name: path for name, path in self._work(job).items() if path.resolve().is_relative_to(job.folder)}
        except Stopped:
            return CANCELLED, None, {}
        except Exception as error:
            if job._cancelled:
                return CANCELLED, None, {}
            return FAILED, self._reason(job, error), {}
        return (CANCELLED, None, {}) if job._cancelled else (DONE, None, files)

    def _reason(self, job: Job, error: Exception) -> str:
        """Why a job failed, in one line in which no folder of this machine is named."""
        if ran_out := memory_error(error):
            return f"{ran_out}; ask for less (fewer faces, a smaller texture, a faster preset)"
        if isinstance(error, UserError):
            return _without(job.folder, one_line(error))
        log.error("job %s failed", job.id, exc_info=error)
        return f"a fault of the program ({type(error).__name__}); its log has the details"

    def _end(self, job: Job, status: str, error: str | None = None) -> None:
        job._status, job._error, job._ended, job._seconds_left, job.preview = status, error, time.monotonic(), None, None
        if status == DONE:
            job._fraction = 1.0
        job._version += 1
        for other in self._queue:
            other._version += 1

    # ---- Sweeping ----

    def _keep_sweeping(self) -> None:
        self.sweep()
        while not self._closing.wait(SWEEP_SECONDS):
            self.sweep()

    def sweep(self) -> None:
        """Remove the folders of ended jobs that are too old and, the oldest first, as many as are needed to keep below the size."""
        with self._sweep_lock:
            folders, found = list(self._folders()), []  # first: whose job begins after that is not among them
            with self.lock:
                busy = self._filling | {job.id for job in self._jobs.values() if job._status not in ENDED}
            for folder in folders:
                if folder.name not in busy:
                    with contextlib.suppress(OSError):
                        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                        found.append((self._age(folder), size, folder))
            total = sum(size for _, size, _ in found)
            for age, size, folder in sorted(found, key=lambda entry: -entry[0]):
                if age <= self._keep_seconds and total <= self._keep_bytes:
                    break
                with self.lock:
                    self._jobs.pop(folder.name, None)
                shutil.rmtree(folder, ignore_errors=True)
                total -= size

    def _folders(self) -> Iterator[Path]:
        return (path for path in self.folder.iterdir() if _ID.fullmatch(path.name) and path.is_dir() and not path.is_symlink())

    def _age(self, folder: Path) -> float:
        """Seconds since a job ended; of one of an earlier program, since its folder was written to."""
        with self.lock:
            job = self._jobs.get(folder.name)
            if job is not None and job._ended is not None:
                return time.monotonic() - job._ended
        return time.time() - folder.stat().st_mtime


def _without(folder: Path, text: str) -> str:
    """A message in which the files of a folder go by their bare names."""
    return text.replace(f"{folder}{os.sep}", "").replace(str(folder), "")
