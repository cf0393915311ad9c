"""The commands of voxel_diffusion: the whole path, resuming, TensorBoard's files, and every error in one line with exit code 2."""

import gzip
import json

import numpy as np
import pytest
import torch
import trimesh

from microdreamer.voxel_diffusion import demo
from microdreamer.voxel_diffusion.__main__ import main

NETWORK = ["--T", "10", "--channels", "8", "--multipliers", "1", "2", "--batch", "4"]


def run(*words):
    return main([str(word) for word in words])


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def data(here):
    assert run("generate", "--size", 16, "--count", 6, "--quiet") == 0
    return here / "data/synthetic"


def train(*words):
    return run("train", *NETWORK, "--profiling", "", "--quiet", *words)


def fails(capsys, *words):
    """The one line that a command with bad input prints."""
    capsys.readouterr()
    assert run(*words) == 2
    output = capsys.readouterr()
    lines = output.err.splitlines()
    assert output.out == "" and len(lines) == 1 and lines[0].startswith("voxel_diffusion: "), output.err
    return lines[0].removeprefix("voxel_diffusion: ")


def test_the_whole_path(here, capsys):
    assert demo.main(["--out", "demo", "--steps", "8", "--size", "16", "--count", "8", "--samples", "3"]) == 0
    samples = np.load(here / "demo/samples_synth.npy")
    assert samples.shape == (3, 16, 16, 16) and samples.dtype == np.float32 and samples.min() >= 0 and samples.max() <= 1
    metrics = json.loads((here / "demo/results/metrics.json").read_text())
    assert metrics["generated"] == 3 and metrics["ground_truth"] == 8
    assert (here / "demo/results/metrics.txt").read_text() in capsys.readouterr().out
    names = {p.name for p in (here / "demo/view").iterdir()}
    assert "samples_synth_sheet.png" in names and any(name.endswith("_orbit.gif") for name in names)
    (trace,) = (here / "demo/profiling").glob("run/*/plugins/profile/*.pt.trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    assert any("conv" in event.get("name", "") for event in events)
    (here / "demo/.voxel_demo").unlink()
    assert demo.main(["--out", "demo"]) == 2  # a folder that is not a demo's is not replaced
    assert (here / "demo/samples_synth.npy").is_file()


@pytest.mark.parametrize("strategy", ["uniform", "adaptive", "fixed", "importance", "speed"])
def test_every_strategy_trains_and_samples(data, strategy):
    if strategy == "fixed":
        assert run("importance", *NETWORK, "--batches", 1, "--first", 2, "--quiet") == 0
    options = {"adaptive": ["--top", 3, "--every", 2, "--probe", 2], "fixed": ["--top", 3]}.get(strategy, [])
    assert train("--timesteps", strategy, "--steps", 4, *options) == 0
    checkpoint = f"outputs/{strategy}/checkpoint.pt"
    assert len(json.loads((data.parents[1] / f"outputs/{strategy}/losses.json").read_text())["losses"]) == 4
    assert run("sample", "--checkpoint", checkpoint, "--count", 2, "--steps", 2, "--method", "ddim", "--quiet") == 0
    assert run("sample", "--checkpoint", checkpoint, "--count", 1, "--trained-only", "--out", "few.npy", "--quiet") == 0
    assert np.load("few.npy").shape == (1, 16, 16, 16)


def test_names_of_the_course_project(here):
    assert run("gen_synthetic", "--size", 16, "--count", 3, "--quiet") == 0
    assert run("compute_timestep_importance", *NETWORK, "--batches", 1, "--first", 1, "--levels", 3, "--quiet") == 0
    for name, strategy in (("train_baseline", "uniform"), ("train_adaptive", "adaptive"), ("train_adaptive2", "fixed")):
        assert run(name, *NETWORK, "--steps", 1, "--profiling", "", "--quiet") == 0
        assert (here / f"outputs/{strategy}/checkpoint.pt").is_file()
    assert run("sample_corrected", "--count", 2, "--steps", 1, "--quiet") == 0
    assert run("evaluate_metrics", "--gen", "outputs/samples_synth.npy", "--gt-dir", "data/synthetic", "--output", "m.txt", "--quiet") == 0
    assert run("view_voxel", "--grids", "data/synthetic", "--index", 1, 2, "--quiet") == 0
    assert (here / "outputs/view/synthetic_0002.glb").is_file() and (here / "m.json").is_file()


def test_resumed_command_gives_the_losses_of_an_unbroken_one(data):
    options = ["--timesteps", "importance", "--decay", 9, "--augment"]
    assert train("--steps", 9, "--out", "whole", *options) == 0
    assert train("--steps", 4, "--out", "parts", *options) == 0
    assert train("--steps", 9, "--out", "parts", *options, "--resume") == 0
    whole, parts = (json.loads((data.parents[1] / name / "losses.json").read_text())["losses"] for name in ("whole", "parts"))
    assert len(whole) == 9 and whole == parts
    one, other = (torch.load(data.parents[1] / name / "checkpoint.pt", weights_only=True) for name in ("whole", "parts"))
    assert all(torch.equal(one["average"][name], other["average"][name]) for name in one["average"])


def test_ctrl_c_saves_and_says_so(data, monkeypatch):
    from microdreamer.voxel_diffusion.training import Trainer

    step = Trainer.step

    def pressed(self):
        import signal

        if self.steps == 2:
            signal.raise_signal(signal.SIGINT)
        return step(self)

    monkeypatch.setattr(Trainer, "step", pressed)
    assert train("--steps", 50) == 130
    assert torch.load("outputs/uniform/checkpoint.pt", weights_only=True)["steps"] == 3


def test_meshes_become_grids(here):
    trimesh.creation.box((1, 1, 1)).export(here / "box.stl")
    (here / "meshes").mkdir()
    trimesh.creation.icosphere(2).export(here / "meshes/ball.glb")
    assert run("generate", "--kind", "mesh", "--input", "box.stl", "meshes", "--size", 20, "--packed", "objects.npz", "--quiet") == 0
    assert run("view", "--grids", "objects.npz", "--index", 1, "--quiet") == 0
    assert train("--data", "objects.npz", "--steps", 1) == 0
    assert np.load("objects.npz")["names"].tolist() == ["box", "ball"]


def test_scalars_for_tensorboard_or_a_line(data, capsys, monkeypatch):
    """Without TensorBoard training goes on, and one line says how to get it."""
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert run("train", *NETWORK, "--steps", 1, "--no-profile") == 0
    lines = capsys.readouterr().err.splitlines()
    assert sum("pip install 'microdreamer-optimized[tensorboard]'" in line for line in lines) == 1


def test_loss_that_is_not_finite_ends_the_run(data, capsys):
    message = fails(capsys, "train", *NETWORK, "--profiling", "", "--quiet", "--rate", 1e30, "--warmup", 1, "--steps", 40)
    assert "the loss became" in message and "lower --rate" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train --top 11 --timesteps adaptive", "top=11: expected 1 to T=10"),
        ("train --timesteps fixed", "results/importance.json: no such file"),
        ("train --timesteps best", "invalid choice: 'best'"),
        ("train --data nowhere", "nowhere: no such file or folder"),
        ("train --patch 3", "size=16: expected a multiple of 6"),
        ("train --batch 0", "--batch 0"),
        ("train --rate 0", "--rate 0"),
        ("train --decay -1", "--decay -1: expected a number of steps"),
        ("train --steps 0", "--steps and --minutes"),
        ("train --T 1", "T=1: expected at least 2"),
        ("train --resume", "outputs/uniform/checkpoint.pt: no such checkpoint"),
        ("train --device tpu", "--device tpu"),
        ("train --bf16 --device cpu", "--bf16: needs a GPU"),
        ("train --stesp 3", "unrecognized arguments: --stesp 3"),
        ("generate", "data/synthetic: already holds"),
        ("generate --kind star --out new", "invalid choice: 'star'"),
        ("generate --count 0 --out new", "--count 0"),
        ("generate --size 4 --out new", "size=4"),
        ("generate --kind mesh --out new", "--kind mesh: name what to voxelise"),
        ("generate --kind mesh --input none.obj --out new", "none.obj: no such file"),
        ("generate --kind mesh --input data --out new", "data: no mesh in this folder"),
        ("sample --checkpoint none.pt", "none.pt: no such checkpoint"),
        ("sample --checkpoint data/synthetic/vox_0000.npy", "vox_0000.npy: not a checkpoint"),
        ("evaluate --gen none.npy", "none.npy: no such file"),
        ("evaluate --gen data/synthetic --output m.json", "--output m.json"),
        ("view --grids data/synthetic --index 6", "--index 6: data/synthetic holds grids 0 to 5"),
        ("importance --out importance.txt --batches 1 --first 0", "importance.txt: expected a name ending in .json"),
        ("", "the following arguments are required: command"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(data, capsys, words, message):
    root = data.parents[1]
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    # Options given twice count as given last, so what the case says comes after the small network.
    extra = {"train": [*NETWORK, "--profiling", "", "--quiet"], "importance": NETWORK}
    command, *rest = words.split() or [""]
    assert message in fails(capsys, *[command] * bool(words), *extra.get(command, []), *rest)
    assert {p: p.read_bytes() for p in root.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((16, 16, 8)), "vox_0003.npy: expected a grid [16, 16, 16], got [16, 16, 8]"),
        (np.full((16, 16, 16), np.nan), "vox_0003.npy: has values that are not finite"),
        (np.full((16, 16, 16), 2.0), "vox_0003.npy: has values from 2 to 2; expected 0 to 1"),
    ],
)
def test_bad_grids_are_named(data, capsys, array, message):
    np.save(data / "vox_0003.npy", array)
    assert message in fails(capsys, "train", *NETWORK, "--quiet")
    np.save("good.npy", np.zeros((1, 16, 16, 16), np.float32))
    assert message in fails(capsys, "evaluate", "--gen", "good.npy")


def test_empty_folder_and_grids_of_another_size(here, capsys):
    (here / "empty").mkdir()
    assert "empty: no grids in this folder" in fails(capsys, "train", "--data", "empty")
    np.save("small.npy", np.zeros((1, 8, 8, 8), np.float32))
    np.save("large.npy", np.zeros((1, 16, 16, 16), np.float32))
    message = fails(capsys, "evaluate", "--gen", "small.npy", "--gt-dir", "large.npy")
    assert "large.npy, grid 0: expected a grid [8, 8, 8], got [16, 16, 16]" in message


def test_existing_and_foreign_runs_are_left_alone(data, capsys):
    assert train("--steps", 2, "--decay", 0) == 0
    before = (data.parents[1] / "outputs/uniform/checkpoint.pt").read_bytes()
    message = fails(capsys, "train", *NETWORK, "--resume", "--steps", 4, "--quiet")
    assert "decay=0 there, 4 here" in message
    assert "there is a run already; pass --resume" in fails(capsys, "train", *NETWORK, "--quiet")
    message = fails(capsys, "train", *NETWORK, "--resume", "--schedule", "linear", "--quiet")
    assert "a checkpoint of another configuration" in message and "kind='cosine' there, 'linear' here" in message
    assert "steps=11: expected 1 to T=10" in fails(capsys, "sample", "--steps", 11, "--quiet")
    assert "--steps and --trained-only" in fails(capsys, "sample", "--steps", 2, "--trained-only")
    assert "eta=2" in fails(capsys, "sample", "--method", "ddim", "--eta", 2, "--quiet")
    assert (data.parents[1] / "outputs/uniform/checkpoint.pt").read_bytes() == before


def test_full_disk_keeps_what_was_there(data, capsys, monkeypatch):
    assert train("--steps", 2, "--decay", 0) == 0
    before = (data.parents[1] / "outputs/uniform/checkpoint.pt").read_bytes()

    def full(self, _):
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    message = fails(capsys, "train", *NETWORK, "--steps", 4, "--decay", 0, "--resume", "--profiling", "", "--quiet")
    assert message == "outputs/uniform/checkpoint.pt: No space left on device"
    monkeypatch.undo()
    assert (data.parents[1] / "outputs/uniform/checkpoint.pt").read_bytes() == before


def test_output_that_is_a_file(data, capsys):
    (data.parents[1] / "taken").write_text("here first")
    message = fails(capsys, "train", *NETWORK, "--out", "taken/run", "--profiling", "", "--quiet")
    assert "taken" in message and (data.parents[1] / "taken").read_text() == "here first"
