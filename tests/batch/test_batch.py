"""A batch: the results are those of single runs, one picture's failure is a line, and another run goes on where one ended."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from batch_bench import SMALL, WORDS, config_for, oracle, results, view_of, write_bad_pictures, write_pictures

import microdreamer
from microdreamer.batch import commands
from microdreamer.batch.pictures import items_of
from microdreamer.batch.run import run
from microdreamer.pipeline import reconstruction

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def prior():
    return oracle()


@pytest.fixture(scope="module")
def made(prior, tmp_path_factory):
    """A folder of three pictures (`in`) and the results of a batch of them (`out`)."""
    folder = tmp_path_factory.mktemp("made")
    write_pictures(folder / "in", prior)
    report = batch(folder, prior)
    assert report.summary == "3 of 3 pictures done"
    return folder


@pytest.fixture
def copy(made, tmp_path):
    """The same, to change."""
    return Path(shutil.copytree(made, tmp_path / "copy"))


def batch(folder, prior, source="in", **more):
    calls = {key: more.pop(key) for key in ("on_row", "should_stop") if key in more}
    config = config_for(folder / source, folder / "out", **more)
    return run(items_of(config.input, config.outdir), config, prior, **calls)


def made_again(report):
    return [row.name for row in report.rows if row.status == "done" and not row.resumed]


def test_results_are_those_of_single_runs(made, prior, tmp_path):
    for name in "abc":
        config = config_for(made / "in" / f"{name}_rgba.png", tmp_path)
        microdreamer.reconstruct(config=config, prior=prior).save()
    assert results(tmp_path) == results(made / "out")


def test_the_report_tells_of_each_picture(made):
    report = json.loads((made / "out" / "report.json").read_text())
    assert report["counts"] == {"done": 3, "failed": 0, "waiting": 0} and report["config"]["total_steps"] == SMALL["total_steps"]
    for row in report["pictures"]:
        record = json.loads((made / "out" / f"{row['name']}.json").read_text())
        assert row["gaussians"] == record["gaussians"] > 0 and row["input_view_psnr_db"] == record["input_view_psnr_db"] > 10
        assert {f"{row['name']}_model.glb", f"{row['name']}.json"} <= set(row["files"]) and row["seconds"] > 0
        assert all((made / "out" / file).is_file() for file in [*row["files"], row["thumbnail"]])
    page = (made / "out" / "report.html").read_text()
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(links) == sum(len(row["files"]) + 1 for row in report["pictures"])
    assert all((made / "out" / link).is_file() for link in links)


def test_one_pictures_failure_is_a_line_and_the_rest_goes_on(copy, prior, monkeypatch, capsys):
    write_bad_pictures(copy / "in")
    monkeypatch.setattr(reconstruction, "load_prior", lambda *_: prior)
    out = copy / "new"
    assert commands.make(["--quiet", f"input={copy / 'in'}", f"outdir={out}", *WORDS]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines[:2]] == ["broken", "text"] and len(lines) == 3
    assert "3 of 5 pictures done, 2 failed" in lines[2]
    rows = {row["name"]: row for row in json.loads((out / "report.json").read_text())["pictures"]}
    assert {name for name, row in rows.items() if row["status"] == "failed"} == {"broken", "text"}
    assert "damaged or cut short" in rows["broken"]["message"] and "not a picture" in rows["text"]["message"]
    assert results(out) == results(copy / "out")
    assert not [path for path in out.rglob("*") if path.name.startswith((".", "broken", "text"))]


def test_a_fault_of_the_program_with_one_picture_does_not_stop_the_rest(copy, prior, monkeypatch):
    condition = prior.condition
    calls = []

    def faulty(*words):
        calls.append(words)
        if len(calls) == 2:
            raise KeyError("wheel")
        return condition(*words)

    monkeypatch.setattr(prior, "condition", faulty)
    report = batch(copy, prior)
    assert [row.status for row in report.rows] == ["done", "failed", "done"]
    assert report.rows[1].message == "a fault of the program, please report it: KeyError: 'wheel'"
    assert results(copy / "out")["a_model.ply"]


def test_memory_that_runs_out_for_one_picture_is_a_line(copy, prior, monkeypatch):
    monkeypatch.setattr(prior, "condition", lambda *_: (_ for _ in ()).throw(MemoryError()))
    report = batch(copy, prior)
    assert {row.status for row in report.rows} == {"failed"} and "memory" in report.rows[0].message and "lower" in report.rows[0].message


def test_whole_results_are_left_alone_and_no_prior_is_loaded_for_them(copy, monkeypatch):
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in (copy / "out").glob("[abc]*")}
    monkeypatch.setattr(reconstruction, "load_prior", lambda *_: pytest.fail("no prior is needed"))
    report = batch(copy, None, resume=True)
    assert report.summary == "3 of 3 pictures done (3 by an earlier run)"
    assert before == {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in (copy / "out").glob("[abc]*")}


@pytest.mark.parametrize("harm", ["cut short", "changed", "removed", "no record", "half a record", "another picture", "another caption"])
def test_a_result_that_is_not_whole_or_not_of_this_picture_is_made_again(copy, made, prior, harm):
    file, record, picture = copy / "out" / "b_model.glb", copy / "out" / "b.json", copy / "in" / "b_rgba.png"
    whole = results(copy / "out")
    if harm == "cut short":
        file.write_bytes(file.read_bytes()[:-1])
    elif harm == "changed":
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif harm == "removed":
        (copy / "out" / "b_views.png").unlink()
    elif harm == "no record":
        record.unlink()
    elif harm == "half a record":
        record.write_text(record.read_text()[:200])
    elif harm == "another picture":
        view_of(prior, 200).save(picture)
    else:
        (copy / "in" / "b_caption.txt").write_text("a blue car")
    report = batch(copy, prior, resume=True)
    assert made_again(report) == ["b"] and report.count("done") == 3
    if not harm.startswith("another"):
        assert results(copy / "out") == whole


def test_another_configuration_makes_all_again_and_another_place_does_not(copy, prior):
    assert made_again(batch(copy, prior, resume=True, seed=1)) == ["a", "b", "c"]
    moved = copy.with_name("moved")
    copy.rename(moved)
    assert made_again(batch(moved, prior, resume=True, seed=1)) == []
    previewed = batch(moved, prior, resume=True, seed=1, preview=True)  # whoever has the result needs no preview of it
    assert all(row.resumed for row in previewed.rows) and previewed.count("done") == 3
    assert made_again(batch(moved, prior, resume=False, seed=1)) == ["a", "b", "c"]


def test_pictures_that_failed_are_tried_again(copy, prior):
    write_bad_pictures(copy / "in")
    assert [row.name for row in batch(copy, prior).rows if row.status == "failed"] == ["broken", "text"]
    view_of(prior, 10).save(copy / "in" / "broken.png")
    report = batch(copy, prior, resume=True)
    assert made_again(report) == ["broken"] and report.count("failed") == 1


def test_a_stop_leaves_whole_results_and_a_report(copy, made, prior):
    shutil.rmtree(copy / "out")
    asked = []

    def stop():
        asked.append(1)
        return len(asked) > 20

    report = batch(copy, prior, should_stop=stop)
    assert report.count("waiting") > 0 and report.count("done") + report.count("waiting") == 3
    told = json.loads((copy / "out" / "report.json").read_text())
    assert told["counts"] == {"done": report.count("done"), "failed": 0, "waiting": report.count("waiting")}
    found, whole = results(copy / "out"), results(made / "out")
    assert found.items() < whole.items() and {name[0] for name in found} == {row.name for row in report.rows if row.status == "done"}
    assert made_again(batch(copy, prior, resume=True)) == [row.name for row in report.rows if row.status == "waiting"]
    assert results(copy / "out") == whole


@pytest.mark.skipif(os.name == "nt", reason="sends a signal")
def test_ctrl_c_ends_a_batch_with_130(copy, prior, monkeypatch, capsys):
    shutil.rmtree(copy / "out")
    monkeypatch.setattr(reconstruction, "load_prior", lambda *_: prior)
    row = commands.BatchBar.row

    def interrupt(bar, *words):
        row(bar, *words)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(commands.BatchBar, "row", interrupt)
    assert commands.make(["--quiet", f"input={copy / 'in'}", f"outdir={copy / 'out'}", *WORDS]) == 130
    assert json.loads((copy / "out" / "report.json").read_text())["counts"] == {"done": 1, "failed": 0, "waiting": 2}


def test_names_of_files_are_text_in_the_page_never_markup(tmp_path, prior):
    name = '<img src=x onerror="alert(1)">&'
    write_pictures(tmp_path / "in", prior, (name,))
    (tmp_path / "in" / "<b>bad.png").write_text("none")
    report = batch(tmp_path, prior)
    page = (tmp_path / "out" / "report.html").read_text()
    assert report.count("done") == 1 and "&lt;b&gt;bad" in page
    assert not re.search(r"<img src=x|onerror=\"|<b>", page)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resume=true"], "expected pictures to go on with"),
        (["resume=true", "prompt=a car"], "expected pictures to go on with"),
        (["input={}/in", "save_path=a"], "named after their pictures"),
        (["input={}/none/*.png"], "no pictures match"),
        (["input={0}/in", "outdir={0}/in"], "choose another outdir"),
        (["input={}/in", "outdir={}/in/a_rgba.png"], "a_rgba.png"),
        (["input={}/in", "device=cuda:99"], "not on this machine"),
        (["input={}/in", "prior_path=none"], "none"),
    ],
)
def test_what_holds_for_all_pictures_is_told_before_any(copy, words, message, capsys):
    before = sorted(copy.rglob("*"))
    given = [word.format(copy, copy) for word in words]
    if not any(word.startswith("outdir") for word in given):
        given.append(f"outdir={copy}/new")
    assert commands.make(["--quiet", *[word for word in WORDS if not word.startswith("device")], *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not [path for path in set(copy.rglob("*")) - set(before) if not path.match("new") and not path.match("report.*")]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks")
@pytest.mark.parametrize("kills", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_a_batch_that_is_killed_again_and_again_ends_with_the_same_results(tmp_path, kills):
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "tests/batch/killed_batch.py", str(tmp_path), "--kills", str(kills)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    print(counts)
    assert counts["killed"] == kills and counts["same"] == counts["results"] > 0


def test_a_list_makes_one_object_of_several_pictures_and_goes_on_with_it(copy, prior):
    (copy / "in" / "list.txt").write_text("a_rgba.png,b_rgba.png\nc_rgba.png,missing.png\n")
    shutil.rmtree(copy / "out")
    report = batch(copy, prior, "in/list.txt", azimuth="0,60")
    assert [(row.name, row.status) for row in report.rows] == [("a", "done"), ("c", "failed")] and "missing.png" in report.rows[1].message
    assert report.rows[0].picture == f"{copy}/in/a_rgba.png,{copy}/in/b_rgba.png" and "a_cameras.jpg" in report.rows[0].files
    record = json.loads((copy / "out" / "a.json").read_text())
    assert len(set(record["input_sha256"])) == 2 and [camera["azimuth"] for camera in record["cameras"]] == [0.0, 60.0]
    assert made_again(batch(copy, prior, "in/list.txt", azimuth="0,60", resume=True)) == []
    view_of(prior, 70.0).save(copy / "in" / "b_rgba.png")  # one of the two changes
    assert made_again(batch(copy, prior, "in/list.txt", azimuth="0,60", resume=True)) == ["a"]
