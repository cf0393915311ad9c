"""The pages of docs/course: outputs, tables and sentences are those of the evidence, and what they name exists."""

import csv
import json
import re
from pathlib import Path

import pytest

from benchmarks.course import pages
from benchmarks.course.__main__ import CHAPTERS
from benchmarks.course.program import GRID, amdahl
from benchmarks.course.scene import PLAIN, kind_of
from benchmarks.switches import course_table
from microdreamer.kernels.course import WEIGHT_STEPS

ROOT = Path(__file__).resolve().parents[2]
COURSE = ROOT / "docs" / "course"
PAGES = sorted(COURSE.glob("[1-6]_*.md"))


@pytest.mark.parametrize("mark", pages.evidence())
def test_pages_show_what_the_evidence_holds(mark):
    document = pages.evidence()[mark]
    assert mark == f"{'cpu' if kind_of(document) == 'cpu' else 'gpu'} {document['chapter']}" and not document["small"]
    assert re.fullmatch("[0-9a-f]{7,12}", document["commit"]) and document["command"].startswith(
        f"python -m benchmarks.course {document['chapter']} --device"
    )
    text = (COURSE / f"{CHAPTERS.index(document['chapter']) + 1}_{document['chapter']}.md").read_text(encoding="utf-8")
    assert pages.with_output(text, mark, pages.shown(document)) == text


def test_the_first_chapter_shows_what_nsight_systems_recorded():
    text = (COURSE / pages.NSYS[0]).read_text(encoding="utf-8")
    assert pages.with_output(text, "nsys", pages.nsys_shown()) == text


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
    "3_op.md": (
        "ncu_weights.csv",
        {step: f"{step}_kernel" for step in WEIGHT_STEPS},
        {
            "ms": (1e6, "gpu__time_duration.sum"),
            "from memory, MB": (1e6, "dram__bytes.sum"),
            "memory busy, %": (1, "dram__throughput.avg.pct_of_peak_sustained_elapsed"),
            "reads of warps, millions": (1e6, "l1tex__t_requests_pipe_lsu_mem_global_op_ld.sum"),
            "sectors read, millions": (1e6, "l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum"),
            "instructions of warps, millions": (1e6, "smsp__inst_executed.sum"),
            "in double, millions": (1e6, "smsp__inst_executed_pipe_fp64.sum"),
            "busy, %": (1, "sm__throughput.avg.pct_of_peak_sustained_elapsed"),
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
    before, after = found[f"{kind} program"]["runs"].values()
    program = "`main.py`, picture to mesh" + " (`total_steps=3 mesh_resolution=64`)" * (kind == "cpu")
    expected[program] = (before["total"], after["total"], after["total"] - after[GRID])
    text = (COURSE / "README.md").read_text(encoding="utf-8").partition(f"On a {kind.upper()} (")[2].partition("\n\nOn a")[0]
    rows = {cells[0]: cells[1:] for line in re.findall(r"^\| (.*) \|$", text, re.MULTILINE) if (cells := line.split(" | "))}
    for name, (before, now, floor) in expected.items():
        told = rows[name]
        assert agrees(told[0], before) and agrees(told[2], now) and agrees(told[3], floor), (name, told)
        assert abs(float(told[4].split()[0]) / (now / floor) - 1) < 0.03 and told[4].endswith(" floors"), (name, told)


def grid_of(kind):
    rows = {row["version"]: row["median_ms"] for row in pages.evidence()[f"{kind} kernels"]["rows"]}
    return rows[PLAIN], rows["library"]


def totals_of(kind):
    return tuple(run["total"] for run in pages.evidence()[f"{kind} program"]["runs"].values())


def by_the_grid(kind):
    """How many times as fast the grid became, the program by that, and at the most."""
    part = pages.evidence()[f"{kind} program"]["parts"][GRID]
    return part["times"], amdahl((part["share"], part["times"])), amdahl((part["share"], float("inf")))


def profiled(kind, *names):
    rows = next(iter(pages.evidence()[f"{kind} profile"]["versions"].values()))
    return tuple(next(row["total_s"] for row in rows if row["name"] == name) for name in names)


def recorded(name):
    """Of the plain version: seconds, kernels that the host started, seconds for which they ran, seconds that starting took."""
    with pages.NSYS[1].open(encoding="utf-8") as file:
        row = next(row for row in csv.DictReader(file) if row["phase"] == "1" and row["range"] == name)
    return tuple(float(row[column]) for column in ("kernels", "seconds", "kernels_s", "launching_s"))


def by_all_switched(kind):
    return amdahl(*((part["share"], part["times"]) for part in pages.evidence()[f"{kind} program"]["parts"].values()))


def coverage_of_floor(kind, version):
    return next(row["floor_percent"] for row in pages.evidence()[f"{kind} op"]["weights"]["rows"] if row["version"] == version)


NUMBER = r"(\d+(?: \d{3})*(?:\.\d+)?)"
SENTENCES = [  # page, a sentence with its figures as #, and those figures of the evidence
    ("summary.md", "On one thread of a CPU the grid took # ms and takes #,", lambda: grid_of("cpu")),
    ("summary.md", "takes #, and the program took # s and takes #. On a GPU", lambda: (grid_of("cpu")[1], *totals_of("cpu"))),
    (
        "summary.md",
        "On a GPU the grid took # ms and takes #, and the program took # s and takes #.",
        lambda: (*grid_of("gpu"), *totals_of("gpu")),
    ),
    (
        "summary.md",
        "On one thread a grid # times as fast makes a program # times as fast, and one in no time at all # times.",
        lambda: by_the_grid("cpu"),
    ),
    ("summary.md", "On the GPU the first kernel is at # % of the floor", lambda: (coverage_of_floor("gpu", "naive"),)),
    (
        "1_profile.md",
        "on the CPU `gaussians.extraction.extract_fields` is # of its # seconds",
        lambda: profiled("cpu", "gaussians.extraction.extract_fields", "mesh"),
    ),
    (
        "6_program.md",
        "# times as fast a grid makes # times as fast a program, and an infinitely fast one #. The program became # times as fast",
        lambda: (*by_the_grid("cpu"), totals_of("cpu")[0] / totals_of("cpu")[1]),
    ),
    (
        "6_program.md",
        "So a grid # times as fast makes a program # times as fast, and no grid can make it faster than that. "
        "That it became # times as fast",
        lambda: (*by_the_grid("gpu")[:2], totals_of("gpu")[0] / totals_of("gpu")[1]),
    ),
    ("6_program.md", "With both the law says #;", lambda: (by_all_switched("gpu"),)),
    (
        "summary.md",
        "On a GPU # times as fast makes # times; the program became # times as fast",
        lambda: (*by_the_grid("gpu")[:2], totals_of("gpu")[0] / totals_of("gpu")[1]),
    ),
    (
        "1_profile.md",
        "In the plain `extract_fields` Python starts # kernels in # s. They run for # s; in the other half the GPU has nothing to do. "
        "Starting them takes the host # s",
        lambda: recorded("gaussians.extraction.extract_fields"),
    ),
]


@pytest.mark.parametrize(("name", "sentence", "figures"), SENTENCES, ids=lambda value: value if isinstance(value, str) else "")
def test_sentences_tell_the_figures_of_the_evidence(name, sentence, figures):
    text = " ".join((COURSE / name).read_text(encoding="utf-8").split())
    told = re.search(re.escape(sentence).replace(re.escape("#"), NUMBER), text)
    assert told, f"{name}: not found: {sentence}"
    expected = figures()
    assert len(told.groups()) == len(expected)
    assert all(agrees(cell.replace(" ", ""), value) for cell, value in zip(told.groups(), expected, strict=True)), (told.groups(), expected)


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
