"""Batches on a Ray cluster of this machine: the same results as one process, whoever is killed on the way."""

import functools
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from batch_bench import WORDS, config_for, oracle, results, write_bad_pictures, write_pictures

pytest.importorskip("ray")
import ray

from microdreamer.batch.pictures import Item, items_of
from microdreamer.batch.ray import main, run_fleet
from microdreamer.batch.run import run
from microdreamer.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PATHS = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sends signals")


def load_and_tell(folder, config):
    """The prior; the process that holds it is named in a file."""
    (Path(folder) / f"{os.getpid()}").touch()
    return oracle()


@pytest.fixture(scope="module")
def cluster():
    environment = {"PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1"}
    ray.init(num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": environment})
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Four pictures and two bad files, and the results of one process."""
    folder = tmp_path_factory.mktemp("whole")
    prior = oracle()
    write_bad_pictures(write_pictures(folder / "in", prior, ("a", "b", "c", "d")))
    config = config_for(folder / "in", folder / "out")
    run(items_of(config.input, config.outdir), config, prior)
    return folder


def test_two_workers_make_what_one_process_makes(cluster, whole, tmp_path):
    config = config_for(whole / "in", tmp_path / "out")
    report = run_fleet(items_of(config.input, config.outdir), config, load=functools.partial(load_and_tell, tmp_path))
    assert report.summary == "4 of 6 pictures done, 2 failed"
    assert results(tmp_path / "out") == results(whole / "out")
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["pictures"]
    assert [row["name"] for row in rows] == ["a", "b", "broken", "c", "d", "text"] and "damaged" in rows[2]["message"]
    assert len([path for path in tmp_path.iterdir() if path.name.isdecimal()]) == 2  # each with a prior of its own


def test_a_worker_that_is_killed_loses_nothing(cluster, whole, tmp_path):
    config, killed = config_for(whole / "in", tmp_path / "out"), []

    def kill_one(report, row):
        if not killed:
            killed.append(int(next(path.name for path in tmp_path.iterdir() if path.name.isdecimal())))
            os.kill(killed[0], signal.SIGKILL)

    items = items_of(config.input, config.outdir)
    report = run_fleet(items, config, load=functools.partial(load_and_tell, tmp_path), on_row=kill_one)
    assert report.summary == "4 of 6 pictures done, 2 failed" and killed
    assert results(tmp_path / "out") == results(whole / "out")
    assert len([path for path in tmp_path.iterdir() if path.name.isdecimal()]) >= 2


def test_a_stop_leaves_the_rest_for_the_next_run(cluster, whole, tmp_path):
    config, done = config_for(whole / "in", tmp_path / "out", resume=True), []
    words = {"load": functools.partial(load_and_tell, tmp_path), "on_row": lambda report, row: done.append(row.name)}
    items = items_of(config.input, config.outdir)
    first = run_fleet(items, config, should_stop=lambda: len(done) >= 2, **words)
    assert first.count("waiting") > 0 and json.loads((tmp_path / "out" / "report.json").read_text())["counts"]["waiting"] > 0
    last = run_fleet(items, config, **words)
    assert last.count("done") == 4 and sum(row.resumed for row in last.rows) >= first.count("done")
    assert results(tmp_path / "out") == results(whole / "out")


def fail_to_load(config):
    raise UserError("the weights are not there")


def test_where_no_worker_can_start_one_line_says_why(cluster, whole, tmp_path):
    config = config_for(whole / "in", tmp_path / "out")
    with pytest.raises(UserError, match="the weights are not there") as caught:
        run_fleet(items_of(config.input, config.outdir), config, load=fail_to_load)
    assert "\n" not in str(caught.value)


class Stub:
    """A worker whose pictures take a while and nothing else."""

    def __init__(self, config, load):
        pass

    def ready(self):
        return True

    def make(self, item):
        time.sleep(0.02)
        return {"status": "done"}


@pytest.mark.slow
def test_ten_thousand_pictures_keep_the_workers_busy(cluster, tmp_path):
    config = config_for(tmp_path, tmp_path / "out")
    items = [Item(Path(f"{number}.png"), str(number)) for number in range(10_000)]
    times, memory = [], []

    def note(report, row):
        times.append(time.perf_counter())
        if len(times) in (1000, 10_000):
            memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

    report = run_fleet(items, config, workers=2, worker_class=Stub, on_row=note)
    took, ideal = times[-1] - times[0], 10_000 * 0.02 / 2
    print(f"{took:.1f} s from the first picture to the last, ideal {ideal:.1f} s; driver {memory[0]:.0f} to {memory[1]:.0f} MiB")
    assert report.count("done") == 10_000 and took < 1.3 * ideal and memory[1] - memory[0] < 100


@pytest.mark.slow
def test_a_driver_that_is_killed_is_resumed(whole, tmp_path):
    """The program itself, with the prior that ships; its cluster is its own."""
    words = [sys.executable, "-m", "microdreamer.batch.ray", f"input={whole / 'in'}", f"outdir={tmp_path / 'out'}", "resume=true", *WORDS]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL, env=environment)
    end = time.monotonic() + 120
    while not list((tmp_path / "out").glob("?.json")):
        assert time.monotonic() < end and first.poll() is None
        time.sleep(0.05)
    first.kill()
    first.wait()
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and "4 of 6 pictures done" in done.stderr and "by an earlier run" in done.stderr
    assert {path.name for path in (tmp_path / "out").glob("*_model.glb")} == {f"{name}_model.glb" for name in "abcd"}


@pytest.mark.parametrize(
    ("words", "message"),
    [(["input=none/*.png"], "no pictures match"), ([], "expected input="), (["input=.", "workers=0"], "workers=0"), (["cpus=x"], "cpus=x")],
)
def test_wrong_words_are_one_line(words, message, capsys):
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
