"""The headline table: its rows in small, its floors, what it does where something is missing, wrong or cut short."""

import json
import sys
from functools import partial

import pytest
import torch
from conftest import DEVICES

from benchmarks import (
    all as headline,
)
from benchmarks import (
    extract_fields,
    fit_step,
    gaussian_raster,
    hash_grid,
    mesh_fit,
    mesh_raster,
    micro_prior,
    rows,
    stages,
    uv_unwrap,
    volume,
)
from benchmarks.rows import Bench, Row, Speeds
from benchmarks.timing import Timing
from microdreamer.kernels import extension

SPEEDS = Speeds("cpu", bytes=1e6, exponentials=1e5, products=1e7, bfloat16_products=2e7)
SMALL = {
    "field": (partial(extract_fields.headline, counts=[50], resolution=32), "bytes exponentials"),
    "gaussians": (partial(gaussian_raster.headline, counts=[50], views=1, size=32), "bytes"),
    "fit": (partial(fit_step.headline, counts=[50], views=2, size=32), "bytes"),
    "mesh": (partial(mesh_raster.headline, face_counts=[300], views=1, size=32, texels=32), "bytes"),
    "mesh_fit": (partial(mesh_fit.headline, faces=300, views=1, size=32, texels=32), "bytes"),
    "hash_grid": (partial(hash_grid.headline, count=500, grid="small"), "bytes"),
    "neural_field": (partial(volume.headline, grid="micro", views=1, size=12, samples=64), "products"),
}


def row(name="a part", milliseconds=(2.0,), floor=None):
    return Row(name, "cpu", Timing(tuple(milliseconds)), floor, floor and "bytes")


# ---- Floors ----


@pytest.mark.parametrize("device", DEVICES)
def test_speeds_are_those_of_a_machine(device):
    speeds = Speeds.measured(device)
    assert speeds.bytes > 1e5 and speeds.products > 1e5 and speeds.bfloat16_products > 1e4
    assert speeds.exponentials is None or speeds.exponentials > 1e4
    assert speeds.bytes_at(1 << 21) >= speeds.bytes


def test_the_floor_is_the_work_that_takes_longest():
    bench = Bench("cpu", SPEEDS, 0.0)
    found = bench.timed("a part", Timing((4.0,)), exponentials=2e5, products=1e7)
    assert found.floor_of == "exponentials" and found.floor_ms == 2.0 and found.share == 0.5
    assert bench.timed("a part", Timing((4.0,)), products=3e7).floor_ms == 3.0
    without = bench.timed("a part", Timing((4.0,)))
    assert without.floor_ms is without.floor_of is without.share is None


def test_what_a_device_does_not_tell_is_no_floor():
    bench = Bench("cpu", Speeds("cpu", 1e6, None, 1e7, 1e7), 0.0)
    assert bench.timed("a part", Timing((4.0,)), exponentials=2e5).floor_ms is None


def test_bytes_that_fit_into_a_cache_are_copied_there(monkeypatch):
    asked = []
    monkeypatch.setattr(rows, "bytes_in_cache", lambda device, total: asked.append(total) or 4e6)
    assert SPEEDS.floors(bytes=3 << 20) == {"bytes": (3 << 20) / 4e6}
    assert SPEEDS.floors(bytes=10) == {"bytes": 10 / 4e6} and asked == [2 << 20, 1 << 20]
    assert SPEEDS.bytes_at(1 << 30) == 1e6 and len(asked) == 2


def test_a_copy_is_not_faster_than_its_own_floor():
    bench = Bench("cpu", Speeds.measured("cpu"), 0.5)
    source = torch.rand(1 << 25)  # no cache holds it
    target = torch.empty_like(source)
    found = bench.row("copy", lambda: target.copy_(source), bytes=2 * source.nbytes)
    assert 0.2 < found.floor_ms / found.timing.median < 1.5  # the same work twice, on a machine that others use


def test_products_are_not_faster_than_their_floor():
    bench = Bench("cpu", Speeds.measured("cpu"), 0.2)
    side = 1024
    left, right = torch.rand(side, side), torch.rand(side, side)
    found = bench.row("product", lambda: left @ right, products=side**3)
    assert found.floor_of == "products" and 0.1 < found.share < 1.5


def test_calls_are_as_many_as_the_seconds_allow():
    calls = []
    assert len(rows.time_for(10.0, lambda: calls.append(1), "cpu").durations) == rows.MOST_REPEATS
    few = []
    assert len(rows.time_for(1e-9, lambda: few.append(sum(range(1000))), "cpu").durations) == 1 and len(few) <= 2


# ---- Rows ----


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("part", SMALL)
def test_rows_of_a_part(part, device):
    if not extension.available(device):
        pytest.skip(f"no compiled {device} kernels")
    make, kinds = SMALL[part]
    found = list(make(Bench(device, Speeds.measured(device), 0.01)))
    assert found and len({row.name for row in found}) == len(found)
    for row in found:
        assert row.device == device and row.timing.median > 0 and row.floor_ms > 0 and row.floor_of in kinds.split()
        assert row.share < 1, f"{row.name} in {row.timing.median} ms, below its floor of {row.floor_ms} ms"


def test_a_guided_evaluation_is_two_branches():
    guided, branch = micro_prior.headline(Bench("cpu", Speeds("cpu", 1e6, None, 1e9, 1e9), 0.01))
    assert guided.floor_ms == pytest.approx(2 * branch.floor_ms, rel=0.05) and guided.floor_ms > 0


def test_unwrapping_is_a_row(monkeypatch):
    pytest.importorskip("mcubes")
    monkeypatch.setattr(uv_unwrap, "VOLUME", 48)
    (found,) = uv_unwrap.headline(Bench("cpu", SPEEDS, 0.01), 1000, 256)
    assert found.timing.median > 0 and found.floor_of == "bytes"


QUICK = ("total_steps=1", "denoise_steps=1", "init_steps=2", "num_pts=300", "cfg=1", "eta=1", "texture_size=64", "mesh_resolution=32")


def test_whole_runs_are_rows():
    bench = Bench("cpu", SPEEDS, 0.01)
    whole, before = stages.headline_cold(bench, [*QUICK, "video_frames=0"])
    assert 0 < before.timing.median < whole.timing.median and whole.floor_ms is None
    assert whole.name.endswith(f"new process ({' '.join(QUICK)} video_frames=0)")
    (warm,) = stages.headline_warm(bench, [*QUICK, "video_frames=0"], warm_runs=1)
    assert 0 < warm.timing.median < whole.timing.median  # imports and load are no part of it


def test_a_package_that_a_run_lacks_is_a_missing_package():
    lacking = stages.failure(1, "Traceback\n  line\nModuleNotFoundError: No module named 'imageio_ffmpeg'\n")
    assert isinstance(lacking, ModuleNotFoundError) and lacking.name == "imageio_ffmpeg"
    assert isinstance(stages.failure(2, "main.py: no\n"), SystemExit) and isinstance(stages.failure(-9, ""), SystemExit)


def test_words_go_to_the_whole_runs_alone(monkeypatch, capsys):
    asked = []
    of(monkeypatch, run=lambda bench, words: asked.append(words) or iter([row()]), other=lambda bench: iter([row()]))
    assert headline.main(["video_frames=0", "seed=1", "--device", "cpu"]) == 0
    assert asked == [["video_frames=0", "seed=1"]]


def test_a_run_that_fails_says_why():
    with pytest.raises(SystemExit, match=r"main\.py ended with 2: .*nonsense"):
        list(stages.headline_cold(Bench("cpu", SPEEDS, 0.01), ["nonsense=1"]))


# ---- The table ----


def of(monkeypatch, **parts):
    monkeypatch.setattr(headline, "PARTS", parts)
    monkeypatch.setattr(headline, "NEEDS_NO_KERNELS", set(parts))
    monkeypatch.setattr(Speeds, "measured", lambda device: SPEEDS)


def test_the_table_is_markdown_and_json_alike(monkeypatch, tmp_path, capsys):
    known = [row("a part", range(1, 101), floor=10.1), row("a run", (19_000.0,))]
    of(monkeypatch, one=lambda bench: iter(known))
    assert headline.main(["--device", "cpu", "--out", str(tmp_path / "all.json")]) == 0
    printed = capsys.readouterr().out
    assert "| a part | cpu | 50.5 ms | 11.0 to 91.0 ms | 10.1 ms, bytes | 20 % |" in printed
    assert "| a run | cpu | 19.0 s | one call | - | - |" in printed
    document = json.loads((tmp_path / "all.json").read_text())
    assert document["rows"] == [each.as_json() for each in known] and document["missing"] == []
    assert document["rows"][0]["median_ms"] == 50.5 and document["rows"][0]["share_of_floor"] == pytest.approx(0.2)
    assert {"date", "device", "torch", "commit", "command"} <= set(document["machines"]["cpu"])
    assert document["speeds"]["cpu"]["bytes"] == SPEEDS.bytes


def test_a_package_that_is_missing_is_told_and_costs_nothing_else(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "mcubes", None)
    of(monkeypatch, unwrap=headline.PARTS["unwrap"], other=lambda bench: iter([row("other")]))
    assert headline.main(["--device", "cpu", "--out", str(tmp_path / "all.json")]) == 0
    assert "| unwrap | cpu | not measured: pip install PyMCubes |" in capsys.readouterr().out
    document = json.loads((tmp_path / "all.json").read_text())
    assert [each["name"] for each in document["rows"]] == ["other"] and document["missing"][0]["name"] == "unwrap"


def test_a_part_that_is_wrong_is_told_in_the_exit_code(monkeypatch, capsys):
    def wrong(bench):
        raise SystemExit("op and plain PyTorch differ by 1.0e-01: not timed")
        yield

    of(monkeypatch, wrong=wrong, other=lambda bench: iter([row("other")]))
    assert headline.main(["--device", "cpu"]) == 1
    printed = capsys.readouterr().out
    assert "not measured: op and plain PyTorch differ" in printed and "| other | cpu |" in printed


def test_without_kernels_the_build_is_named(monkeypatch, capsys):
    of(monkeypatch, field=lambda bench: iter([row()]))
    monkeypatch.setattr(headline, "NEEDS_NO_KERNELS", set())
    monkeypatch.setattr(extension, "available", lambda device: False)
    assert headline.main(["--device", "cpu"]) == 0
    assert extension.BUILD_HINT in capsys.readouterr().out


def test_ctrl_c_keeps_what_is_there(monkeypatch, tmp_path, capsys):
    def stopped(bench):
        yield row("first")
        raise KeyboardInterrupt

    of(monkeypatch, one=stopped, two=lambda bench: pytest.fail("went on"))
    assert headline.main(["--device", "cpu", "--out", str(tmp_path / "all.json")]) == 130
    said = capsys.readouterr()
    assert "| first | cpu |" in said.out and "stopped" in said.err
    assert [each["name"] for each in json.loads((tmp_path / "all.json").read_text())["rows"]] == ["first"]


def test_a_busy_machine_is_told(monkeypatch):
    monkeypatch.setattr(headline.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(headline.os, "getloadavg", lambda: (1.9, 9.0, 9.0), raising=False)
    assert headline.load_line() is None
    monkeypatch.setattr(headline.os, "getloadavg", lambda: (8.04, 0.0, 0.0), raising=False)
    assert headline.load_line().startswith("Other programs use this machine (load 8.0, 4 processors)")


def test_parts_that_the_seconds_are_too_few_for_are_told(monkeypatch, capsys):
    times = iter([0.0, 0.0, 11.0])
    of(monkeypatch, one=lambda bench: iter([row("one")]), two=lambda bench: pytest.fail("begun"))
    monkeypatch.setattr(headline.time, "monotonic", lambda: next(times))
    assert headline.main(["--device", "cpu", "--seconds", "10"]) == 0
    assert "| two | cpu | not measured: the time was up; --seconds 20, or --only two |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "fields"], "--only: invalid choice: 'fields' (choose from"),
        (["--seconds", "0"], "--seconds 0: expected a number above 0"),
        (["--device", "tpu"], "--device: invalid choice: 'tpu'"),
    ],
)
def test_a_wrong_word_is_one_line(capsys, words, said):
    assert headline.main(words) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and error.startswith("benchmarks.all: ")
