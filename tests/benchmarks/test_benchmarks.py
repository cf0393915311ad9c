"""The benchmarks: what is timed, how it is summed up and named, that what is compared is equal, and that each script runs."""

import dataclasses
import functools
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DEVICES
from fake_priors import OraclePrior, coloured_ellipsoid
from PIL import Image

from benchmarks import (
    amortized,
    gaussian_raster,
    grid_sampling,
    hash_grid,
    mesh_extraction,
    mesh_fit,
    mesh_raster,
    mesh_render,
    micro_prior,
    scaling,
    sentence_store,
    stages,
    switches,
    texture,
    uv_unwrap,
    volume,
    winograd,
)
from benchmarks.timing import (
    Timing,
    busy_milliseconds,
    bytes_per_millisecond,
    captured,
    peak_mib,
    time_calls,
    write_json,
)
from cam_utils import orbit_cameras
from microdreamer.core.machine import describe
from microdreamer.evaluation import denoising_recall
from microdreamer.evaluation.image_to_3d import INPUT_ELEVATION
from microdreamer.kernels import extension
from microdreamer.kernels.extension import switched
from microdreamer.kernels.gaussian_field import extract_fields
from microdreamer.kernels.winograd import transform_weights
from microdreamer.pipeline.config import Config
from microdreamer.shapes.packed import load_packed
from microdreamer.shapes.render import over_white, render_views


@pytest.mark.parametrize("device", DEVICES)
def test_a_call_is_timed_after_the_warm_up(device):
    x = torch.rand(64, 64, device=device)
    calls = []
    timing = time_calls(lambda: calls.append(x @ x), device, repeats=5, warm_up=2)
    assert len(calls) == 7 and len(timing.durations) == 5
    assert 0 < timing.least <= timing.p10 <= timing.median <= timing.p90 <= timing.most


def test_slow_first_calls_do_not_count():
    waits = [0.05, 0.0, 0.0, 0.0]
    timing = time_calls(lambda: time.sleep(waits.pop(0)), "cpu", repeats=3, warm_up=1)
    assert timing.most < 50 and not waits


def test_durations_are_in_milliseconds():
    assert 20 <= time_calls(lambda: time.sleep(0.02), "cpu", repeats=1, warm_up=0).median < 200


def test_summary_of_known_durations():
    row = Timing(tuple(float(value) for value in range(1, 101))).as_row()
    assert row == {"median_ms": 50.5, "least_ms": 1.0, "p10_ms": 11.0, "p90_ms": 91.0, "most_ms": 100.0, "repeats": 100}


def test_no_repeats_is_an_error():
    with pytest.raises(ValueError, match="repeats: expected 1 or more, got 0"):
        time_calls(lambda: None, "cpu", repeats=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_a_captured_call_does_the_same_work_again():
    x = torch.zeros(3, device="cuda")
    replay = captured(lambda: x.add_(1), warm_up=2)  # capturing itself runs nothing
    replay()
    replay()
    assert x.tolist() == [4.0, 4.0, 4.0]


def test_json_is_written_only_where_asked_for(tmp_path):
    write_json(None, {"a": 1})
    write_json(tmp_path / "folder" / "out.json", {"a": 1})
    assert json.loads((tmp_path / "folder" / "out.json").read_text()) == {"a": 1}


def test_rasterisers_are_compared_parameter_by_parameter():
    leaves, cameras = gaussian_raster.ball_of_gaussians(60, "cpu"), gaussian_raster.ring(2, 32, "cpu")
    weight = torch.randn(2, 3, 32, 32)
    step, half = (gaussian_raster.our_step(leaves, cameras, scale * weight) for scale in (1.0, 0.5))
    found = gaussian_raster.difference(step, half, leaves)
    assert found["image"] == 0 and set(found["gradients"]) == set(leaves)
    for compared in found["gradients"].values():
        assert compared == pytest.approx({"relative_l2": 1.0, "norm_ratio": 2.0}, rel=1e-5)
    assert gaussian_raster.worst_gradient(found) == pytest.approx(1.0, rel=1e-5)


def test_compared_gradients_are_of_quaternions_of_any_length():
    leaves, cameras = gaussian_raster.ball_of_gaussians(60, "cpu"), gaussian_raster.ring(2, 32, "cpu")
    leaves["rotations"] = (3 * leaves["rotations"]).detach().requires_grad_()
    gaussian_raster.our_step(leaves, cameras, torch.randn(2, 3, 32, 32))()
    rotations, gradient = leaves["rotations"].detach(), leaves["rotations"].grad
    along = (rotations * gradient).sum(1) / rotations.norm(dim=1)  # lengthening a quaternion changes nothing
    assert float(gradient.norm()) > 0 and float(along.norm()) < 1e-5 * float(gradient.norm())


def test_switches_are_as_before_after_a_block(monkeypatch):
    monkeypatch.setenv("USE_CUDA_GAUSS", "1")
    monkeypatch.delenv("USE_CUDA_EXTRACT", raising=False)
    with pytest.raises(ZeroDivisionError), switched(USE_CUDA_GAUSS="0", USE_CUDA_EXTRACT=""):
        assert os.environ["USE_CUDA_GAUSS"] == "0" and os.environ["USE_CUDA_EXTRACT"] == ""
        1 / 0  # noqa: B018
    assert os.environ["USE_CUDA_GAUSS"] == "1" and "USE_CUDA_EXTRACT" not in os.environ


def test_memory_is_not_counted_on_the_cpu():
    assert peak_mib(lambda: torch.zeros(1000), "cpu") is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch counts the memory of GPUs")
def test_memory_of_a_call_is_its_own():
    kept = torch.zeros(1 << 20, device="cuda")  # what was there before does not count
    assert peak_mib(lambda: torch.zeros(4 << 20, device="cuda").add_(1), "cuda") == pytest.approx(16, abs=0.01)
    assert len(kept) == 1 << 20


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU to be busy")
def test_busy_time_leaves_out_the_host():
    x = torch.rand(2048, 2048, device="cuda")

    def call():
        time.sleep(0.05)
        x @ x

    busy = busy_milliseconds(call)
    if busy is None:
        pytest.skip("the profiler sees no kernels here (CUPTI is missing)")
    assert 0.01 < busy < 50 <= time_calls(call, "cuda", repeats=2, warm_up=1).median


def test_busy_time_adds_up_what_a_trace_tells_of_the_gpu(monkeypatch):
    class Profile:
        def __init__(self, activities):
            assert activities == [torch.profiler.ProfilerActivity.CUDA]

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def export_chrome_trace(self, path):
            kinds = {"kernel": 2000.0, "gpu_memcpy": 500.0, "gpu_memset": 500.0, "cpu_op": 7000.0, "cuda_runtime": 9000.0}
            events = [{"cat": kind, "dur": dur} for kind, dur in kinds.items()] + [{"ph": "M"}]
            Path(path).write_text(json.dumps({"traceEvents": events}))

    calls = []
    monkeypatch.setattr(torch.profiler, "profile", Profile)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert busy_milliseconds(lambda: calls.append(1), repeats=3) == 1.0 and len(calls) == 4


def test_direct_and_winograd_layers_are_one_layer(monkeypatch, tmp_path):
    document = run(monkeypatch, tmp_path, winograd, "--device", "cpu", "--layers", "4x64x32", "--samples", "2", "--repeats", "1")
    (row,) = document["rows"]
    assert max(row["errors"].values()) < 1e-6 and row["direct"]["median_us"] > 0
    weight = torch.randn(32, 64, 3, 3)
    monkeypatch.setattr(winograd, "transform_weights", lambda _: transform_weights(weight))
    with pytest.raises(SystemExit, match="winograd: differs from float32"):
        run(monkeypatch, tmp_path, winograd, "--device", "cpu", "--layers", "4x64x32", "--samples", "2", "--repeats", "1")


def test_a_guided_result_that_is_not_its_branches_is_not_timed(monkeypatch, tmp_path):
    monkeypatch.setattr(micro_prior, "classifier_free", lambda null, conditional, scale: conditional)
    monkeypatch.setattr(micro_prior, "time_calls", lambda *_: pytest.fail("timed"))
    for precision in ("float32", "bfloat16"):
        with pytest.raises(SystemExit, match="differs from its branches"):
            run(monkeypatch, tmp_path, micro_prior, "--repeats", "1", "--precision", precision)


# ---- Plots ----


def test_curves_take_the_rows_of_their_factor_and_leave_out_what_was_not_measured():
    rows = [
        {"factor": "views", "views": 1, "size": 64, "what": "ours", "median_ms": 2.0},
        {"factor": "views", "views": 4, "size": 64, "what": "ours", "median_ms": 5.0, "peak_mib": 0},
        {"factor": "size", "views": 1, "size": 128, "what": "ours", "median_ms": 7.0},
        {"factor": "views", "views": 4, "size": 64, "what": "peer", "failed": "out of memory"},
    ]
    assert scaling.curves(rows, "views", "median_ms") == {"ours": [(1, 2.0), (4, 5.0)]}
    assert scaling.curves(rows, "views", "peak_mib") == {}


# ---- The switches ----


def run(monkeypatch, tmp_path, module, *words):
    """What the script writes."""
    monkeypatch.setattr("sys.argv", [module.__name__, *words, "--out", str(tmp_path / "out.json")])
    module.main()
    return json.loads((tmp_path / "out.json").read_text())


SMALL_FIELDS = ("--counts", "60", "--resolution", "16", "--pairs", "500", "--seconds", "0.05")


def test_every_setting_of_the_switches_is_a_row(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(switches, "Config", functools.partial(Config, texture_size=64))
    words = ("--devices", "cpu", "--mesh", "--mesh-count", "100")
    document = run(monkeypatch, tmp_path, switches, *SMALL_FIELDS, *words)
    assert not [name for name in switches.SWITCHES if name in os.environ]
    rows = document["rows"]
    found = {(row["what"], row["USE_CUDA_GAUSS"], row["USE_CUDA_EXTRACT"]) for row in rows}
    assert {(what, *values) for what in ("density field", "mesh") for values in switches.VERSIONS} <= found
    assert {("weights", "0", None), ("weights", "1", None)} <= found
    assert [row["version"] for row in rows if row["what"] == "density field"][4:] == list(switches.STEPS) and len(rows) == 14
    assert all(row["largest_difference"] <= switches.TOLERANCES[row["what"]] for row in rows)
    for row in rows:
        plain = next(other for other in rows if other["what"] == row["what"])
        assert row["times_cpu"] == row["times_same_device"] == pytest.approx(plain["median_ms"] / row["median_ms"])
    printed = capsys.readouterr().out
    assert document["missing"] == [] and printed.count("| density field |") == 8
    headline = printed.partition("The density field of 60 Gaussians")[2]
    assert "| brute force |" in headline and "181.7 (T4), 21.36 (A10G)" in headline


def test_without_kernels_the_plain_rows_are_left_and_the_others_explained(monkeypatch, tmp_path):
    monkeypatch.setattr(extension, "available", lambda _: False)
    document = run(monkeypatch, tmp_path, switches, *SMALL_FIELDS, "--devices", "cpu")
    assert {(row["what"], row["version"]) for row in document["rows"]} == {(what, "plain PyTorch") for what in ("density field", "weights")}
    reasons = {entry["row"]: entry["reason"] for entry in document["missing"]}
    assert (
        extension.BUILD_HINT in reasons["density field, fused kernel, cpu"]
        and extension.BUILD_HINT in reasons["weights, kernel of the weights, cpu"]
    )


def test_a_kernel_that_computes_something_else_is_not_timed(monkeypatch, tmp_path):
    monkeypatch.setattr(switches, "extract_fields", lambda *arguments: extract_fields(*arguments) + 1e-3)
    with pytest.raises(SystemExit, match=r"differs from plain PyTorch by 0\.001"):
        run(monkeypatch, tmp_path, switches, *SMALL_FIELDS, "--devices", "cpu")


def test_slow_rows_are_left_out_unless_asked_for():
    loop = switches.Case("density field", 20_000, "cpu", "plain PyTorch", "0", "0")
    assert "add --slow-counts 20000" in loop.reason_to_skip([5000]) and loop.reason_to_skip([20_000]) is None
    assert dataclasses.replace(loop, what="weights").reason_to_skip([]) is None


@pytest.mark.gpu
@pytest.mark.skipif(not extension.available("cuda") or not torch.cuda.is_available(), reason="needs CUDA kernels and a GPU")
def test_the_table_holds_both_devices_and_the_steps_of_the_course(monkeypatch, tmp_path):
    document = run(monkeypatch, tmp_path, switches, *SMALL_FIELDS, "--slow-counts", "60", "--mesh", "--mesh-count", "400")
    rows = [row for row in document["rows"] if row["what"] == "density field"]
    assert {row["device"] for row in rows} == {"cpu", "cuda"} and rows[-1]["version"] == "culled"
    assert all(row["kernels_ms"] is None or row["kernels_ms"] <= 2 * row["most_ms"] for row in rows)
    assert all(row["times_cpu"] for row in rows) and {row["device"] for row in document["rows"] if row["what"] == "mesh"} == {"cuda"}


# ---- Scaling ----


def test_one_factor_varies_at_a_time_around_the_centre():
    centre = {"gaussians": 10, "size": 20, "views": 3}
    found = scaling.settings({"gaussians": [5], "size": [], "views": [1, 9]}, centre)
    assert [setting[factor] for factor, setting in found] == [5, 10, 20, 1, 3, 9]
    assert all(setting[other] == centre[other] for factor, setting in found for other in centre if other != factor)


def test_the_scene_covers_as_much_of_the_picture_with_more_gaussians():
    cameras, covered = gaussian_raster.ring(2, 64, "cpu"), []
    for count in (1000, 8000):
        leaves = gaussian_raster.ball_of_gaussians(count, "cpu") | {"colors": torch.zeros(count, 3, requires_grad=True)}
        picture = gaussian_raster.our_step(leaves, cameras, torch.zeros(2, 3, 64, 64))()
        covered.append(float((picture < 0.5).float().mean()))  # black on white
    assert covered[0] > 0.1 and covered[1] == pytest.approx(covered[0], rel=0.1)


@pytest.mark.parametrize("device", DEVICES)
def test_scaling_runs_and_draws(monkeypatch, tmp_path, device):
    words = ["--centre", "50", "24", "2", "--gaussians", "100", "--size", "32", "--views", "1", "--repeats", "2"]
    document = run(monkeypatch, tmp_path, scaling, "--device", device, *words, "--plot", str(tmp_path / "plot.png"))
    assert len({(row["factor"], row["gaussians"], row["size"], row["views"]) for row in document["rows"]}) == 6
    ours = [row for row in document["rows"] if row["what"].startswith("ours")]
    assert not [row["failed"] for row in ours if "failed" in row] and len(ours) == (12 if device == "cuda" else 6)
    assert len([row for row in document["rows"] if row["what"] == "floor"]) == 6
    assert Image.open(tmp_path / "plot.png").size[0] > 1000
    if device == "cuda":
        assert all(row["peak_mib"] > 0 for row in ours if row["what"] == "ours")


def test_a_peer_that_draws_something_else_is_not_timed():
    leaves, cameras = gaussian_raster.ball_of_gaussians(60, "cpu"), gaussian_raster.ring(2, 32, "cpu")
    weight = torch.randn(2, 3, 32, 32)
    step, half = (gaussian_raster.our_step(leaves, cameras, scale * weight) for scale in (1.0, 0.5))
    assert scaling.checked_gsplat(step, step, leaves)["image"] == 0
    with pytest.raises(RuntimeError, match="not timed"):
        scaling.checked_gsplat(step, half, leaves)


def test_the_floor_counts_what_must_move():
    leaves = gaussian_raster.ball_of_gaussians(10, "cpu")  # 14 numbers each
    assert gaussian_raster.least_bytes(leaves, torch.zeros(2, 3, 8, 8)) == 4 * (3 * 14 * 10 + 2 * 2 * 3 * 8 * 8)
    assert bytes_per_millisecond("cpu") > 1e5


# ---- Whole runs ----

OBJECTS = Path(__file__).resolve().parents[2] / "test_data" / "objects_small.npz"
QUICK = [
    *("total_steps=2", "denoise_steps=4", "init_steps=12", "steps_min=6", "steps_max=6", "num_pts=200", "cfg=1", "eta=1"),
    *("video_frames=2", "video_size=32", "mesh_resolution=32", "mesh_faces=600", "texture_size=64", "refine_size=32", "device=cpu"),
    *("refine_steps=2", "refine_denoise_steps=5", "refine_cfg=1", "geometry_steps=2", "refine_views=4", "iters_refine=1"),
]


@pytest.fixture
def oracle(monkeypatch):
    prior = OraclePrior(coloured_ellipsoid(), 32)
    monkeypatch.setattr(stages, "load_prior", lambda *_: prior)
    return prior


def test_whole_runs_are_timed_by_phase(monkeypatch, tmp_path, oracle, capsys):
    document = run(monkeypatch, tmp_path, stages, "--warm", "1", *QUICK)
    rows = {(row["stage"], row["phase"]): row for row in document["rows"]}
    for stage, phases in (("stage 1", ("load", "prior", "fit", "video", "mesh", "rest")), ("stage 2", ("mesh", "refine", "write", "rest"))):
        assert all(rows[stage, phase]["warm_s"] >= -1e-3 for phase in phases)
        parts = sum(row["warm_s"] for (of, phase), row in rows.items() if of == stage and phase not in ("total", "prior + fit"))
        assert parts == pytest.approx(rows[stage, "total"]["warm_s"], abs=0.01)
    whole = rows[stages.ASSET, "total"]
    assert whole["first_s"] == pytest.approx(sum(rows[stage, "total"]["first_s"] for stage in stages.STAGES))
    work = document["work"]
    assert work["stage 1"]["rounds"] == 2 and work["stage 1"]["optimiser_steps"] == 18
    assert work["stage 2"]["prior_evaluations"] == oracle.evaluations > 0  # those of the last run alone
    assert "| stage 1 | fit |" in capsys.readouterr().out


def test_an_object_s_true_views_take_the_place_of_what_is_drawn(tmp_path):
    meshes, prior = load_packed(OBJECTS), OraclePrior(coloured_ellipsoid(), 32)
    config = stages.of_object(Config(), meshes, str(tmp_path))
    with Image.open(config.input) as picture:
        alpha = np.asarray(picture)[..., 3]
        assert picture.mode == "RGBA" and 0.02 < (alpha > 127).mean() < 0.9 and config.elevation == INPUT_ELEVATION
    stages.show(prior, meshes)
    for azimuth in (0, 40):
        cameras = orbit_cameras(0.0, [azimuth + 90.0 * k for k in range(4)], width=64, height=64)
        noise = prior.predict_noise(torch.zeros(4, 3, 32, 32), 500, cameras, None, 1.0)
        assert prior.evaluations and noise.shape == (4, 3, 32, 32)
        expected = over_white(render_views(meshes, 0, cameras.resized(32, 32)))
        assert torch.equal(prior.decode(torch.zeros(4, 3, 32, 32)), expected)


def test_originals_stand_beside_what_they_measured():
    runs = [{("stage 1", "mesh"): 2.0, ("stage 1", "video"): 1.0}, {("stage 1", "mesh"): 1.0, ("stage 1", "video"): 1.0}]
    for method, figure in (("density", "17 to 24"), ("field", "79 to 93")):
        mesh, video = stages.rows_of(runs, Config(prior="stable_zero123", mesh_method=method))
        assert mesh["originals"] == figure and video["originals"] is None
    assert stages.rows_of(runs, Config(prior="micro"))[0]["originals"] is None


def test_runs_that_did_other_work_are_not_compared(monkeypatch, oracle):
    works = iter([{"stage 1": {"rounds": 2}}, {"stage 1": {"rounds": 1}}])
    monkeypatch.setattr(stages, "run_both", lambda *_: ({("stage 1", "total"): 1.0, ("stage 1", "load"): 0.1}, next(works)))
    with pytest.raises(SystemExit, match="runs differ in their work"):
        stages.measure(Config(), torch.device("cpu"), 1, ["stage 1"])


# ---- Every script ----

OBJECTS = str(Path(__file__).resolve().parents[2] / "test_data" / "objects_small.npz")
SMALL = {
    hash_grid: ["--device", "cpu", "--points", "500", "--grid", "small", "--repeats", "1"],
    grid_sampling: ["--device", "cpu", "--points", "500", "--cases", "small", "--repeats", "1"],
    mesh_extraction: [
        "--device",
        "cpu",
        "--resolution",
        "32",
        "--gaussians",
        "1000",
        "--faces",
        "2000",
        "--texture-size",
        "64",
        "--repeats",
        "1",
    ],
    mesh_fit: ["--device", "cpu", "--views", "1", "--size", "32", "--faces", "300", "--texture", "32", "--repeats", "1"],
    mesh_raster: ["--device", "cpu", "--views", "1", "--size", "32", "--faces", "300", "40", "--texture", "32", "--repeats", "1"],
    mesh_render: ["--device", "cpu", "--objects", OBJECTS, "--views", "2", "--size", "32", "--repeats", "1"],
    micro_prior: ["--repeats", "1"],
    sentence_store: ["--sentences", "70", "--kind", "local", "--width", "8", "--places", "3", "--repeats", "2"],
    texture: ["--device", "cpu", "--views", "1", "--size", "32", "--side", "32", "--cover", "0.4", "--repeats", "1"],
    gaussian_raster: ["--device", "cpu", "--gaussians", "50", "--views", "1", "--size", "32", "--repeats", "1"],
    uv_unwrap: ["--objects", OBJECTS, "--count", "1", "--faces", "1000", "--repeats", "1", "--methods", "charts"],
    volume: ["--device", "cpu", "--views", "1", "--size", "12", "--samples", "64", "--grid", "micro", "--repeats", "1"],
}


@pytest.mark.parametrize("script", SMALL, ids=lambda script: script.__name__.rpartition(".")[2])
def test_scripts_say_where_and_how_they_measured(monkeypatch, tmp_path, capsys, script):
    monkeypatch.setattr(micro_prior, "time_calls", functools.partial(time_calls, warm_up=0))
    monkeypatch.setattr(uv_unwrap, "VOLUME", 64)
    document = run(monkeypatch, tmp_path, script, *SMALL[script])
    assert {"date", "device", "torch", "command"} <= set(document) and document["rows"]
    assert describe({key: document[key] for key in ("date", "device", "torch", "command")}).split(",")[0] in capsys.readouterr().out
    measured = [value for row in document["rows"] for value in (row, *(part for part in row.values() if isinstance(part, dict)))]
    assert all(row["repeats"] >= 1 and row["least_ms"] <= row["median_ms"] <= row["most_ms"] for row in measured if "median_ms" in row)
    assert any("median_ms" in row for row in measured)


# ---- Networks of sentences ----


def amortized_bench(folder, *words):
    options = amortized.parser().parse_args(["report", "--out", str(folder), "--device", "cpu", *words])
    return amortized.Bench(options)


def test_sir_is_measured_on_whole_blocks_of_seen_sentences(tmp_path):
    whole, part = amortized_bench(tmp_path), amortized_bench(tmp_path, "--seen", "32")
    assert whole.seen() == list(whole.library.train) and len(whole.seen()) == 64
    (block, candidates), _ = denoising_recall.blocks_of(whole.library.train, amortized.CANDIDATES, 0)
    assert part.seen() == block == candidates  # those that networks are compared among too
    (again, among), *others = denoising_recall.blocks_of(part.seen(), amortized.CANDIDATES, 0)
    assert set(again) == set(among) == set(block) and not others


def test_the_report_says_how_many_sentences_sir_was_measured_on(tmp_path):
    scores = {name: {"recall_at_1": 0.5, "mean_rank": 2.0} for name in ("denoising", "calibrated")}
    write_json(tmp_path / "recall_sir.json", {"train": scores | {"sentences": 32}, "test": scores | {"sentences": 16}})
    for index, seconds in enumerate((2.0, 4.0)):
        write_json(tmp_path / f"sir_{index}.json", {"evaluations": 100, "seconds": seconds})
    row = amortized.report_of(tmp_path).splitlines()[2]
    assert row.startswith("| none | SIR, each sentence alone (32 and 16 of them) | 100 | 3.00 each | 0.500 | 0.500 | 2.0 |")
