"""The course runs: every chapter's command on a small case, its pages' questions and figures, and its plots."""

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

from benchmarks.course import nsys, originals, pages, plots
from benchmarks.course.__main__ import CHAPTERS, main
from benchmarks.course.floor import pairs_of_plain
from benchmarks.course.program import GRID, OTHERS, SWITCHED, SwitchedClock, amdahl
from benchmarks.course.scene import PLAIN, Scene, kind_of, operations, time_in_turn
from benchmarks.switches import course_table
from microdreamer.kernels import course, extension

ROOT = Path(__file__).resolve().parents[2]
COURSE = ROOT / "docs" / "course"
PAGES = sorted(COURSE.glob("[1-6]_*.md"))
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


@pytest.fixture
def export(tmp_path):
    """As nsys exports it: two phases, in the first two ranges of a name; names inline and by number; a kernel that runs late."""
    with sqlite3.connect(tmp_path / "report.sqlite") as database:
        database.executescript("""
            create table StringIds (id integer, value text);
            create table NVTX_EVENTS (start integer, end integer, text text, textId integer);
            create table CUPTI_ACTIVITY_KIND_RUNTIME (start integer, end integer, correlationId integer);
            create table CUPTI_ACTIVITY_KIND_KERNEL (start integer, end integer, correlationId integer);
            insert into StringIds values (7, 'grid');
            insert into NVTX_EVENTS values (0, 100, 'mesh', null), (10, 50, null, 7), (60, 70, null, 7), (200, 300, 'mesh', null),
                (240, null, 'a mark', null);
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


# ---- The pages ----


@pytest.mark.parametrize("mark", pages.evidence())
def test_pages_show_what_the_evidence_holds(mark):
    document = pages.evidence()[mark]
    assert mark == f"{'cpu' if kind_of(document) == 'cpu' else 'gpu'} {document['chapter']}" and not document["small"]
    assert re.fullmatch("[0-9a-f]{7,12}", document["commit"]) and document["command"].startswith(
        f"python -m benchmarks.course {document['chapter']} --device"
    )
    text = (COURSE / f"{CHAPTERS.index(document['chapter']) + 1}_{document['chapter']}.md").read_text(encoding="utf-8")
    assert pages.with_output(text, mark, pages.shown(document)) == text


NCU = {  # page: the evidence, the kernel of each row, and what each column is in and of
    "4_kernels.md": (
        "ncu.csv",
        {
            "brute_force": "brute_force_kernel",
            "prepared": ":prepared_kernel",
            "shared": "staged_kernel<0",
            "culled": "staged_kernel<1",
            "library: marks": "mark_tiles_kernel",
            "library: sums": "accumulate_kernel",
        },
        {
            "ms": (1e6, "gpu__time_duration.sum"),
            "instructions of warps, millions": (1e6, "smsp__inst_executed.sum"),
            "from memory, MB": (1e6, "dram__bytes.sum"),
            "from the L2 cache, MB": (1e6, "lts__t_bytes.sum"),
            "busy, %": (1, "sm__throughput.avg.pct_of_peak_sustained_elapsed"),
            "warps there, %": (1, "sm__warps_active.avg.pct_of_peak_sustained_active"),
            "registers": (1, "launch__registers_per_thread"),
        },
    ),
}


@pytest.mark.parametrize("name", NCU)
def test_tables_of_counts_are_what_nsight_compute_counted(name):
    evidence, kernels, columns = NCU[name]
    with (COURSE / "evidence" / evidence).open(encoding="utf-8") as file:
        counted = [(row["Kernel Name"], row["Metric Name"], float(row["Metric Value"].replace(",", ""))) for row in csv.DictReader(file)]
    text = (COURSE / name).read_text(encoding="utf-8").partition("<!-- ncu -->")[2]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in re.search(r"(\|.*\n)+", text)[0].splitlines()]
    assert table[0] == ["kernel", *columns] and [row[0] for row in table[2:]] == list(kernels)
    for row in table[2:]:
        for cell, (unit, metric) in zip(row[1:], columns.values(), strict=True):
            (value,) = {value for kernel, counting, value in counted if kernels[row[0]] in kernel and counting == metric}
            digits = len(cell.partition(".")[2])
            assert abs(float(cell) - value / unit) <= 0.5001 * 10**-digits, (row[0], metric, cell, value)


def agrees(cell, value):
    """That a figure in a page is `value` to the digits that it has."""
    told = re.search(r"\d[\d.]*", cell)[0]
    return abs(float(told) - value) <= 0.5001 * 10 ** -len(told.partition(".")[2])


@pytest.mark.parametrize("kind", ["gpu", "cpu"])
def test_the_first_page_is_of_the_evidence(kind):
    found = pages.evidence()
    kernels, step, op = found[f"{kind} kernels"], found[f"{kind} step"], found[f"{kind} op"]["weights"]
    weights = {row["version"]: row["median_ms"] for row in op["rows"]}
    grid = {row["version"]: row["median_ms"] for row in kernels["rows"]}
    steps = {row["what"]: row["median_ms"] for row in step["rows"] if "view" in row["what"]}
    fastest = min(steps.values())
    expected = {
        "density grid, in plain PyTorch": (grid[PLAIN], grid["library"], kernels["floor_ms"]),
        "the same as the obvious kernel": (grid["brute_force"], grid["library"], kernels["floor_ms"]),
        "a step of the fit, view by view": (steps["view by view"], fastest, step["floor_ms"]),
    }
    many = "20 million" if kind == "gpu" else "a million"
    expected[f"{many} weights of a Gaussian, in plain PyTorch"] = (weights[PLAIN], weights["library"], max(op["floor_ms"].values()))
    if f"{kind} program" in found:
        before, after = found[f"{kind} program"]["runs"].values()
        program = "`main.py`, picture to mesh" + " (`total_steps=3 mesh_resolution=64`)" * (kind == "cpu")
        expected[program] = (before["total"], after["total"], after["total"] - after[GRID])
    text = (COURSE / "README.md").read_text(encoding="utf-8").partition(f"On a {kind.upper()} (")[2].partition("\n\nOn a")[0]
    rows = {cells[0]: cells[1:] for line in re.findall(r"^\| (.*) \|$", text, re.MULTILINE) if (cells := line.split(" | "))}
    for name, (before, now, floor) in expected.items():
        told = rows[name]
        assert agrees(told[0], before) and agrees(told[2], now) and agrees(told[3], floor), (name, told)
        assert abs(float(told[4].split()[0]) / (now / floor) - 1) < 0.03 and told[4].endswith(" floors"), (name, told)


def test_the_headline_table_is_of_its_evidence():
    document = json.loads((COURSE / "evidence" / "headline.json").read_text(encoding="utf-8"))
    assert course_table(document["rows"], 5000) in (COURSE / "6_program.md").read_text(encoding="utf-8")


def test_output_goes_to_its_mark():
    page = "a\n<!-- cpu op -->\nOn the CPU:\n\n    old\n\n    older\n\n<!-- gpu op -->\nOn the GPU:\n\n    other\n\nb\n"
    assert pages.with_output(page, "cpu op", "    new\n") == page.replace("    old\n\n    older\n", "    new\n")
    with pytest.raises(ValueError, match="no output at <!-- cpu step -->"):
        pages.with_output(page, "cpu step", "    new\n")


def test_there_is_a_page_for_every_chapter_with_its_command_a_question_and_an_answer():
    assert [page.stem.partition("_")[2] for page in PAGES] == list(CHAPTERS)
    for page, chapter in zip(PAGES, CHAPTERS, strict=True):
        text = page.read_text(encoding="utf-8")
        assert f"    python -m benchmarks.course {chapter}\n" in text, page.name
        assert "**Question.**" in text and "**Answer.**" in text, page.name
        assert re.search(r"\d{4}-\d\d-\d\d, .*commit [0-9a-f]{7,12}", text), f"{page.name}: no output with date and commit"


def test_ranges_that_the_pages_name_exist():
    """In text and in outputs: `module.function` of the package, with the decorator that makes it a range."""
    rooms = "|".join(path.name for path in (ROOT / "microdreamer").iterdir() if path.is_dir())
    named = set()
    for page in [*PAGES, ROOT / "docs" / "profiling.md"]:
        named |= set(re.findall(rf"(?<![\w./])((?:{rooms})\.[a-z_]\w*(?:\.\w+)+)", page.read_text(encoding="utf-8")))
    assert {"gaussians.extraction.extract_fields", "gaussians.model.GaussianModel.render", "meshes.cleaning.simplify"} <= named
    for name in named:
        parts = name.split(".")
        module = next(
            ROOT.joinpath("microdreamer", *parts[:end])
            for end in range(len(parts) - 1, 0, -1)
            if ROOT.joinpath("microdreamer", *parts[:end]).with_suffix(".py").is_file()
        )
        assert re.search(rf"@profiler\.function\n\s*def {parts[-1]}\(", module.with_suffix(".py").read_text()), name
