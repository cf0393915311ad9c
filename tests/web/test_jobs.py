"""The queue of jobs: order, bounds, cancelling, what is told of failures, sweeping."""

import threading
import time

import pytest

from microdreamer.core.errors import Stopped, UserError
from microdreamer.web import jobs as module
from microdreamer.web.jobs import ENDED, Full, Jobs, Unknown


@pytest.fixture
def started():
    """`started(work, **bounds)` -> Jobs in a folder of the test's own, closed at its end."""
    made = []

    def start(work, folder, **bounds):
        made.append(Jobs(work, folder, **bounds))
        return made[-1]

    yield start
    for jobs in made:
        jobs.close(5)


def until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


def ended(jobs, *ids):
    until(lambda: all(jobs.state(id).status in ENDED for id in ids))
    return [jobs.state(id) for id in ids]


class Gate:
    """Work that waits at a gate, in whose order it came."""

    def __init__(self):
        self.open, self.seen, self.at_once, self.most = threading.Event(), [], 0, 0
        self._lock = threading.Lock()

    def __call__(self, job):
        with self._lock:
            self.seen.append(job.request)
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        try:
            while not self.open.wait(0.005):
                if job.should_stop():
                    raise Stopped
            path = job.folder / "made.txt"
            path.write_text(f"{job.request}")
            return {"made.txt": path}
        finally:
            with self._lock:
                self.at_once -= 1


def test_jobs_run_in_the_order_in_which_they_came_one_at_a_time(started, tmp_path):
    gate = Gate()
    jobs = started(gate, tmp_path)
    ids = [jobs.submit(number).id for number in range(8)]
    until(lambda: gate.seen)
    assert [jobs.state(id).ahead for id in ids] == [0, 0, 1, 2, 3, 4, 5, 6] and jobs.waiting == 7
    gate.open.set()
    states = ended(jobs, *ids)
    assert [state.status for state in states] == ["done"] * 8 and gate.seen == list(range(8)) and gate.most == 1
    assert [jobs.file(id, "made.txt").read_text() for id in ids] == [str(number) for number in range(8)]
    assert all(state.fraction == 1 and state.files == ("made.txt",) for state in states)


def test_as_many_run_at_once_as_there_are_workers(started, tmp_path):
    gate = Gate()
    jobs = started(gate, tmp_path, workers=3)
    ids = [jobs.submit(number).id for number in range(6)]
    until(lambda: gate.at_once == 3)
    gate.open.set()
    ended(jobs, *ids)
    assert gate.most == 3 and sorted(gate.seen) == list(range(6))


def test_a_full_queue_says_so_and_leaves_no_folder(started, tmp_path):
    gate = Gate()
    jobs = started(gate, tmp_path, most_waiting=2)
    first = jobs.submit(0)
    until(lambda: gate.seen)
    ids = [first.id, jobs.submit(1).id, jobs.submit(2).id]
    with pytest.raises(Full, match="2 jobs are waiting"):
        jobs.submit(3, {"picture": b"x"})
    assert {path.name for path in tmp_path.iterdir()} == set(ids)
    gate.open.set()
    assert [state.status for state in ended(jobs, *ids)] == ["done"] * 3


def test_none_of_many_that_come_at_once_is_lost_or_done_twice(started, tmp_path):
    gate = Gate()
    gate.open.set()
    jobs = started(gate, tmp_path, workers=2, most_waiting=1000)
    ids, lock = [], threading.Lock()

    def submit(number):
        for part in range(10):
            state = jobs.submit((number, part))
            with lock:
                ids.append(state.id)

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {state.status for state in ended(jobs, *ids)} == {"done"}
    assert sorted(gate.seen) == [(number, part) for number in range(20) for part in range(10)]


def test_a_waiting_job_and_a_running_one_are_cancelled(started, tmp_path):
    gate = Gate()
    jobs = started(gate, tmp_path)
    ids = [jobs.submit(number).id for number in range(3)]
    until(lambda: gate.seen)
    assert jobs.cancel(ids[1]).status == "cancelled" and jobs.waiting == 1
    jobs.cancel(ids[0])
    assert ended(jobs, ids[0])[0].status == "cancelled"
    gate.open.set()
    assert ended(jobs, ids[2])[0].status == "done" and gate.seen == [0, 2]
    assert jobs.cancel(ids[2]).status == "done"  # too late
    assert jobs.state(ids[0]).files == ()


def test_failures_are_told_in_one_line_without_the_machines_folders(started, tmp_path, caplog):
    def work(job):
        if job.request == "user":
            raise UserError(f"{job.folder}/picture: the picture is damaged")
        if job.request == "memory":
            raise MemoryError
        raise KeyError("secret")

    jobs = started(work, tmp_path)
    user, memory, fault = ended(jobs, *[jobs.submit(kind).id for kind in ("user", "memory", "fault")])
    assert {user.status, memory.status, fault.status} == {"failed"}
    assert user.error == "picture: the picture is damaged" and "memory" in memory.error
    assert fault.error == "a fault of the program (KeyError); its log has the details"
    assert "secret" in caplog.text and "Traceback" in caplog.text


@pytest.mark.parametrize(
    "name", ["../made.txt", "/etc/passwd", "..", "", ".", "picture", "made.txt/", "made.txt\0", "%2e%2e/made.txt", "Made.txt"]
)
def test_only_files_on_the_list_are_handed_out(started, tmp_path, name):
    gate = Gate()
    gate.open.set()
    jobs = started(gate, tmp_path)
    id = jobs.submit(1, {"picture": b"private"}).id
    ended(jobs, id)
    with pytest.raises(Unknown):
        jobs.file(id, name)
    for other in ("..", "", id.upper() + "0", f"../{tmp_path.name}/{id}", "made.txt"):
        with pytest.raises(Unknown):
            jobs.state(other)


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "..", "."])
def test_files_of_a_job_have_plain_names(started, tmp_path, name):
    jobs = started(Gate(), tmp_path / "jobs")
    with pytest.raises(ValueError, match="plain name"):
        jobs.submit(1, {name: b"x"})
    assert list((tmp_path / "jobs").iterdir()) == [] and [path.name for path in tmp_path.iterdir()] == ["jobs"]


def test_what_work_returns_from_outside_its_folder_is_not_handed_out(started, tmp_path):
    (tmp_path / "secret").write_text("secret")

    def work(job):
        (job.folder / "link").symlink_to(tmp_path / "secret")
        return {"a": tmp_path / "secret", "b": job.folder / ".." / ".." / "secret", "c": job.folder / "link"}

    jobs = started(work, tmp_path / "jobs")
    (state,) = ended(jobs, jobs.submit(1).id)
    assert state.status == "done" and state.files == ()


def test_progress_is_told(started, tmp_path):
    gate, told = Gate(), threading.Event()

    def work(job):
        job.told("fit", "round 1/2", 0.5, 12.0, b"png")
        told.set()
        job.told("fit", "round 2/2", 0.75, 6.0)
        return gate(job)

    jobs = started(work, tmp_path)
    id = jobs.submit(1).id
    until(told.is_set)
    until(lambda: jobs.state(id).note == "round 2/2")
    state = jobs.state(id)
    assert (state.status, state.phase, state.fraction, state.seconds_left) == ("running", "fit", 0.75, 6.0)
    assert jobs.preview(id) == b"png"  # the newest that there was
    gate.open.set()
    last = ended(jobs, id)[0]
    assert last.version > state.version and last.seconds_left is None and last.seconds > 0


def test_old_results_are_swept_by_age(started, tmp_path, monkeypatch):
    gate = Gate()
    gate.open.set()
    jobs = started(gate, tmp_path, keep_seconds=100)
    old = jobs.submit(1).id
    ended(jobs, old)
    now = time.monotonic()
    monkeypatch.setattr(module.time, "monotonic", lambda: now + 90)
    new = jobs.submit(2).id
    until(lambda: jobs.state(new).status == "done")
    monkeypatch.setattr(module.time, "monotonic", lambda: now + 110)
    jobs.sweep()
    assert [state.id for state in jobs.states()] == [new] and not (tmp_path / old).exists() and (tmp_path / new).exists()
    with pytest.raises(Unknown, match="swept"):
        jobs.file(old, "made.txt")


def test_the_oldest_results_are_swept_when_all_are_too_large(started, tmp_path):
    def work(job):
        (job.folder / "large").write_bytes(bytes(1000))
        return {"large": job.folder / "large"}

    earlier = tmp_path / ("a" * 32)  # of a program that ended
    earlier.mkdir()
    (earlier / "large").write_bytes(bytes(1000))
    (tmp_path / "mine").mkdir()  # not a job's: left alone
    (tmp_path / "mine" / "large").write_bytes(bytes(5000))
    jobs = started(work, tmp_path, keep_bytes=3500)
    ids = []
    for number in range(5):
        ids.append(jobs.submit(number).id)
        ended_or_gone = [id for id in ids if id in {state.id for state in jobs.states()}]
        until(lambda: jobs.states()[-1].status == "done")
    jobs.sweep()
    assert [state.id for state in jobs.states()] == ids[2:] and ended_or_gone
    assert {path.name for path in tmp_path.iterdir()} == {"mine", *ids[2:]}


def test_a_running_job_is_never_swept(started, tmp_path):
    gate = Gate()
    jobs = started(gate, tmp_path, keep_seconds=0, keep_bytes=0)
    id = jobs.submit(1, {"picture": bytes(100)}).id
    until(lambda: gate.seen)
    jobs.sweep()
    assert jobs.state(id).status == "running" and (tmp_path / id / "picture").exists()


def test_a_job_that_comes_while_folders_are_swept_is_not_swept(started, tmp_path, monkeypatch):
    """At every point between the look at the folders and their removal."""
    gate = Gate()
    jobs = started(gate, tmp_path, keep_seconds=0, keep_bytes=0)
    look, ids = jobs._folders, []

    def look_and_submit():
        ids.append(jobs.submit("before").id)
        yield from list(look())
        ids.append(jobs.submit("after").id)

    monkeypatch.setattr(jobs, "_folders", look_and_submit)
    jobs.sweep()
    assert [jobs.state(id).status in ("queued", "running") for id in ids] == [True, True]
    assert {path.name for path in tmp_path.iterdir()} == set(ids)


def test_closing_ends_everything(started, tmp_path):
    gate = Gate()
    jobs = started(gate, tmp_path)
    ids = [jobs.submit(number).id for number in range(3)]
    until(lambda: gate.seen)
    jobs.close(5)
    assert [jobs.state(id).status for id in ids] == ["cancelled"] * 3
    with pytest.raises(Full):
        jobs.submit(3)
    assert not [thread for thread in jobs._threads if thread.is_alive()]
