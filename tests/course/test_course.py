"""The course runs: every chapter's command on a small case, what the chapters rest on, and the plots."""

import csv
import json
import re
import sqlite3
import time
from pathlib import Path

import pytest
import torch
from conftest import DEVICES
from PIL import Image

from benchmarks.course import nsys, originals, plots
from benchmarks.course.__main__ import main
from benchmarks.course.floor import pairs_of_plain
from benchmarks.course.program import GRID, OTHERS, SWITCHED, SwitchedClock, amdahl
from benchmarks.course.scene import PLAIN, Scene, operations, time_in_turn
from microdreamer.kernels import course, extension

ROOT = Path(__file__).resolve().parents[2]
needs_kernels = pytest.mark.skipif(not extension.load(), reason="the compiled kernels are not built")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """`ran(chapter, device)` -> what its command writes; each is run once."""
    folder, done = tmp_path_factory.mktemp("course"), {}

    def run(chapter, device="cpu"):
        if (chapter, device) not in done:
            path = folder / f"{chapter}_{device}.json"
            main([chapter, "--small", "--device", device, "--out", str(path)])
            done[chapter, device] = json.loads(path.read_text())
        return done[chapter, device]

    return run


@needs_kernels
@pytest.mark.parametrize("device", DEVICES)
def test_profile_shows_where_the_time_goes(ran, device):
    plain, kernels = ran("profile", device)["versions"].values()
    by_name = [{row["name"]: row for row in rows} for rows in (plain, kernels)]
    name = "gaussians.extraction.extract_fields"
    assert by_name[0]["mesh"]["total_s"] > by_name[0][name]["total_s"] > by_name[1][name]["total_s"] > 0
    assert any("aten::" in name and "extract_fields" in name for name in by_name[0])


@needs_kernels
@pytest.mark.parametrize("device", DEVICES)
def test_floor_is_below_what_is_measured(ran, device):
    found = ran("floor", device)
    assert found["floor_ms"]["exponentials"] < found["milliseconds"]["library"] < found["milliseconds"][PLAIN]
    amounts = {row["what"].partition(":")[0]: row["ms"] for row in found["rows"][:3]}
    assert set(amounts) == {"bytes", "exponentials", "operations"} and min(amounts.values()) > 0


@needs_kernels
@pytest.mark.parametrize("device", DEVICES)
def test_every_step_of_the_weights_has_its_share_of_the_floor(ran, device):
    found = ran("op", device)["weights"]
    assert [row["version"] for row in found["rows"]] == [PLAIN, *course.WEIGHT_STEPS, "library"]
    for row in found["rows"]:
        least = max(found["floor_ms"].values())
        assert row["floor_percent"] == pytest.approx(100 * least / row["median_ms"]) and row["difference"] < 1e-4
    covered = {row["variant"]: row for row in found["coverage"]}
    assert all(set(covered[step].values()) == {step, "passes"} for step in course.WEIGHT_STEPS)
    assert covered["wrong_launch"]["1024 pairs"] == "passes" and "232 of 1000" in covered["wrong_launch"]["1000 pairs"]


@needs_kernels
@pytest.mark.parametrize("device", DEVICES)
def test_every_mistake_is_found_by_a_check(ran, device):
    found = ran("op", device)
    rows = {row["variant"]: row for row in found["rows"]}
    assert rows["culled"]["twin"] == rows["culled"]["opcheck"] == "passes" and "gradcheck passes" in found["op"]["gradient"]
    assert rows["wrong_grid"]["opcheck"] == "passes" and "differs from the twin" in rows["wrong_grid"]["twin"]
    assert rows["wrong_input"]["twin"] == "passes" and "mutated" in rows["wrong_input"]["opcheck"]
    if device == "cpu":  # on a GPU these two are compute-sanitizer's to find
        assert "differs from the twin" in rows["wrong_barrier"]["twin"] and "invalid write" in rows["wrong_bound"]["twin"]


@needs_kernels
@pytest.mark.parametrize("device", DEVICES)
def test_every_step_has_its_share_of_the_floor(ran, device):
    found = ran("kernels", device)
    assert [row["version"] for row in found["rows"]] == [PLAIN, *course.STEPS, "library"]
    for row in found["rows"]:
        assert row["floor_percent"] == pytest.approx(100 * found["floor_ms"] / row["median_ms"]) and 0 < row["difference"] < 1e-4


@needs_kernels
@pytest.mark.parametrize("device", DEVICES)
def test_a_step_of_the_fit_takes_fewer_operations_each_time(ran, device):
    counts = {row["what"]: row["operations"] for row in ran("step", device)["rows"]}
    assert counts["view by view"] > counts["all views"] and counts["Adam, one launch"] < 10
    assert counts["Adam, spelt out"] > 5 * counts["Adam, one launch"]


@needs_kernels
@pytest.mark.parametrize("device", DEVICES)
def test_the_program_is_told_by_phase(ran, device):
    found = ran("program", device)
    before, after = found["runs"].values()
    assert {"prior", "fit", "mesh", "total"} <= set(before) == set(after)
    assert list(found["parts"]) == [GRID, OTHERS] and before["mesh"] >= before[GRID] + before[OTHERS]
    assert before[GRID] > after[GRID] > 0 and before[OTHERS] > after[OTHERS] > 0
    for part, told in found["parts"].items():
        assert told == pytest.approx({"share": before[part] / before["total"], "times": before[part] / after[part]})
    assert "input=''" in found["launcher"]["merged without a look"] and found["launcher"]["this project's"] == "input='photo_rgba.png'"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_told(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["floor", "--device", "cuda"])
    assert stopped.value.code == 2 and "--device cuda: not on this machine; pass --device cpu" in capsys.readouterr().err


# ---- What the chapters rest on ----


def test_amdahls_law():
    assert amdahl((0.5, float("inf"))) == 2 and amdahl((1.0, 1650)) == pytest.approx(1650) and amdahl((0.0, 1650)) == 1
    assert amdahl((0.5, 2)) == pytest.approx(4 / 3) and amdahl((0.5, 2), (0.25, 4)) == pytest.approx(16 / 9)


def test_all_that_the_switches_change_is_counted():
    """By the sources: functions that ask for a switch, and where the mesh phase has them from."""
    switched = {
        (path.stem, function)
        for path in (ROOT / "microdreamer" / "kernels").glob("*.py")
        for function in re.findall(r"^def (\w+)\((?:(?!^def ).)*use_compiled\([^)]*\"USE_CUDA", path.read_text(), re.MULTILINE | re.DOTALL)
    }
    counted = {("gaussian_field", "extract_fields")} | {
        (getattr(module, name).__module__.rpartition(".")[2], name) for module, name in SWITCHED
    }
    assert switched == counted


def test_a_call_within_a_counted_call_is_the_outer_ones():
    clock = SwitchedClock(torch.device("cpu"), 16)
    inner = clock.timed(OTHERS, lambda: time.sleep(0.01))
    clock.timed(GRID, inner)()
    assert clock.seconds[GRID] >= 0.01 and clock.seconds[OTHERS] == 0
    inner()
    assert clock.seconds[OTHERS] >= 0.01


def test_what_is_compared_is_timed_in_turn():
    order = []
    calls = {name: lambda name=name, spin=spin: (order.append(name), sum(range(spin))) for name, spin in (("few", 10), ("many", 300_000))}
    found = time_in_turn(calls, "cpu", repeats=4, warm_up=1)
    assert order[-8:] == ["few", "many"] * 4 and list(found) == ["few", "many"]
    assert len(found["few"].durations) == 4 and found["few"].median < found["many"].median


def test_operations_are_counted():
    x = torch.zeros(3)
    assert operations(lambda: x + 1) == 1 and operations(lambda: [x.add_(1) for _ in range(5)]) == 5 and operations(lambda: None) == 0


def test_pairs_are_those_that_the_loop_evaluates(monkeypatch):
    from microdreamer.kernels import gaussian_field

    scene, seen = Scene("cpu", small=True), []
    compute = gaussian_field.gaussian_3d_coeff
    monkeypatch.setattr(gaussian_field, "gaussian_3d_coeff", lambda xyzs, covs: (seen.append(len(xyzs)), compute(xyzs, covs))[1])
    scene.version(PLAIN)()
    assert sum(seen) == pairs_of_plain(scene) and len(seen) <= scene.num_blocks**3


def test_the_originals_figure_is_the_product_of_its_factors():
    *parts, (_, together) = originals.factors()
    product = 1.0
    for _, times in parts:
        product *= times
    assert product == pytest.approx(together) and together == pytest.approx(originals.REPORTED["A10G, kernel alone"], rel=0.01)
    assert parts[0][1] == pytest.approx(originals.REPORTED["T4"], rel=0.01)
    coefficients = originals.COEFFICIENTS_MS
    assert coefficients["PyTorch, reported as CPU"] / coefficients["kernel"] == pytest.approx(2250)  # a hundred times what was reported


@needs_kernels
def test_plots_are_drawn(ran, tmp_path, monkeypatch):
    files = []
    for chapter in plots.DRAWN:
        files.append(tmp_path / f"{chapter}.json")
        files[-1].write_text(json.dumps(ran(chapter)))
    monkeypatch.setattr("sys.argv", ["plots", *map(str, files), "--folder", str(tmp_path)])
    plots.main()
    for chapter in plots.DRAWN:
        assert Image.open(tmp_path / f"course_{chapter}_cpu.png").size[0] > 800


@pytest.mark.parametrize(("text", "told"), [(None, "No such file"), ("no JSON", "Expecting value"), ("{}", "expected figures of op")])
def test_files_that_cannot_be_drawn_are_told(text, told, tmp_path, monkeypatch, capsys):
    if text is not None:
        (tmp_path / "figures.json").write_text(text)
    monkeypatch.setattr("sys.argv", ["plots", str(tmp_path / "figures.json"), "--folder", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        plots.main()
    assert stopped.value.code == 2 and told in capsys.readouterr().err and not list(tmp_path.glob("*.png"))


@pytest.fixture
def export(tmp_path):
    """As nsys exports it: two phases, in the first two ranges of a name; names inline and by number; a kernel that runs late."""
    with sqlite3.connect(tmp_path / "report.sqlite") as database:
        database.executescript("""
            create table StringIds (id integer, value text);
            create table NVTX_EVENTS (start integer, end integer, text text, textId integer, domainId integer);
            create table CUPTI_ACTIVITY_KIND_RUNTIME (start integer, end integer, correlationId integer);
            create table CUPTI_ACTIVITY_KIND_KERNEL (start integer, end integer, correlationId integer);
            insert into StringIds values (7, 'grid');
            insert into NVTX_EVENTS values (0, 100, 'mesh', null, 0), (10, 50, null, 7, 0), (60, 70, null, 7, null),
                (200, 300, 'mesh', null, 0), (240, null, 'a mark', null, 0),
                (-9, -5, 'a library''s', null, 1), (65, 69, 'a library''s', null, 1);
            insert into CUPTI_ACTIVITY_KIND_RUNTIME values (5, 8, 0), (12, 15, 1), (65, 69, 2), (80, 81, 3), (210, 212, 4);
            insert into CUPTI_ACTIVITY_KIND_KERNEL values (14, 34, 1), (150, 155, 2), (81, 82, 3), (212, 262, 4);
        """)
    database.close()
    return tmp_path / "report.sqlite"


def test_kernels_belong_to_the_ranges_that_started_them(export, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["nsys", str(export), str(tmp_path / "nsys.csv")])
    nsys.main()
    with (tmp_path / "nsys.csv").open(encoding="utf-8") as file:
        found = [[float(cell) if cell[0].isdigit() else cell for cell in row.values()] for row in csv.DictReader(file)]
    assert found == [
        [1, "mesh", 1, 1e-7, 3, 8e-9, 26e-9],
        [1, "grid", 2, 5e-8, 2, 7e-9, 25e-9],
        [2, "mesh", 1, 1e-7, 1, 2e-9, 5e-8],
    ]
    monkeypatch.setattr("sys.argv", ["nsys", str(tmp_path / "none.sqlite"), str(tmp_path / "no.csv")])
    with pytest.raises(SystemExit):
        nsys.main()
    assert "no such file" in capsys.readouterr().err and not (tmp_path / "no.csv").exists()
