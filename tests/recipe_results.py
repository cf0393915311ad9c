"""Files, the second stage and profiling: what is seen where one of these keys has another value."""

import gzip
import importlib.machinery
import json
import shutil
import sys
import types

import numpy as np
import pytest
import torch
from fake_priors import DIM, OraclePrior
from PIL import Image
from recipe_bench import FIRST, SMALL, STILL, Witness, film, row

from microdreamer.batch import commands as batch_commands
from microdreamer.fields import conversion
from microdreamer.guidance.micro.prior import MicroPrior

# Files


@row("outdir", "save_path")
def _(bench, key):
    run = bench.first("save_path=hen")
    assert (run.folder / "hen_model.ply").is_file() and (run.folder / "hen.json").is_file() and not run.path(".json").exists()


@row("resume")
def _(bench):
    """Of a batch: what an earlier run has made is left alone."""
    pictures, words = bench.folder / "pictures", (*FIRST, *SMALL, "prompt=an egg")
    if not pictures.exists():
        pictures.mkdir()
        shutil.copy(bench.picture, pictures)
    folder = bench.folder / "batch"
    written = []
    for resume in ("false", "true", "false"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MicroPrior, "load", lambda *_: Witness(bench.truth))
            assert batch_commands.make(["--quiet", f"input={pictures}", f"outdir={folder}", f"resume={resume}", *words]) == 0
        written.append((folder / "thing.json").stat().st_mtime_ns)
    assert written[0] == written[1] != written[2]


@row("density_thresh")
def _(bench):
    low, high = (np.ptp(bench.first(f"load={bench.ply}", f"density_thresh={value}", *STILL).mesh.vertices, axis=0) for value in (0.01, 2))
    assert (high < low - 0.02).all()


@row("mesh_method")
def _(bench):
    def fit_field(*_):
        raise ValueError("this is the field")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversion, "fit_field", fit_field)
        assert "this is the field" in bench.first("mesh_method=field", fails=True).said
        assert bench.first("mesh_method=density").path("_model.glb").is_file()


@row("mesh_resolution", "mesh_faces")
def _(bench, key):
    def faces(*words):
        return len(bench.from_start(*STILL, *words).mesh.faces)

    assert faces("mesh_faces=100") <= 100 < faces() <= 600
    assert faces("mesh_faces=1000000", "mesh_resolution=64") > 2.5 * faces("mesh_faces=1000000")


@row("texture_size")
def _(bench):
    run = bench.first("texture_size=96")
    assert Image.open(run.path("_model_albedo.png")).size == (96, 96) and run.mesh.texture.shape == (96, 96, 3)


@row("material")
def _(bench):
    """A prior that says that all colours are DIM of what they seem; both stages take that out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OraclePrior, "tells_surfaces", True)
        first = [bench.first(*STILL, f"load={bench.ply}", f"material={name}") for name in ("shaded", "albedo")]
        words = (f"load={bench.ply}", "prompt=an egg", "iters_refine=0")
        second = [bench.second(*words, f"material={name}") for name in ("shaded", "albedo")]
    for shaded, albedo in (first, second):
        before, after = shaded.mesh.texture, albedo.mesh.texture
        painted = before.min(axis=2) < 0.95  # not the white between charts
        assert np.median(after[painted] / before[painted].clip(0.05)) == pytest.approx(DIM, abs=0.03)


@row("unwrap")
def _(bench):
    fake = types.ModuleType("xatlas")
    fake.__spec__ = importlib.machinery.ModuleSpec("xatlas", None)

    def parametrize(*_):
        raise ValueError("this is xatlas")

    fake.parametrize = parametrize
    fake.Atlas = fake.ChartOptions = fake.PackOptions = parametrize
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "xatlas", fake)
        assert "this is xatlas" in bench.first("unwrap=xatlas", fails=True).said


@row("mesh_format")
def _(bench):
    for kind, others in (("obj", [".glb"]), ("glb", [".obj", ".mtl", "_albedo.png"])):
        run = bench.first(f"mesh_format={kind}")
        assert run.path(f"_model.{kind}").is_file() and not any(run.path(f"_model{other}").exists() for other in others)


@row("video_frames", "video_size")
def _(bench, key):
    run = bench.first("video_frames=5", "video_size=48")
    assert film(run.path(".mp4")).shape == (5, 3, 48, 48)
    assert Image.open(run.path("_views.png")).size == (4 * 48 + 12, 2 * 48 + 4)
    assert not bench.first().path(".mp4").exists()


# Stage 2


@row("mesh")
def _(bench):
    mesh = bench.second(bench.cube(), "prompt=a box").mesh
    assert len(mesh.faces) == 12 and np.abs(mesh.vertices).max() == pytest.approx(0.4, abs=0.01)


@row("iters_refine", "refine_views", "refine_size", "refine_denoise_steps", "refine_strength", "refine_cfg")
def _(bench, key):
    words = ("iters_refine=2", "refine_views=4", "refine_size=40", "refine_denoise_steps=10", "refine_strength=0.5", "refine_cfg=2.5")
    seen = bench.second(bench.cube(), "prompt=a box", *words).prior.seen
    levels = OraclePrior(bench.truth).schedule.levels(10)[:5][::-1]
    assert [call.t for call in seen] == levels * 2
    assert {(len(call.cameras), call.cameras.width, call.scale) for call in seen} == {(4, 40, 2.5)}
    assert {len(call.cameras) for call in bench.second(bench.cube(), "prompt=a box").prior.seen} == {8}


@row("texture_lr", "refine_steps")
def _(bench, key):
    """A grey texture has logits of 0, which Adam's steps move by at most the rate each."""

    def texture(*words):
        return torch.from_numpy(bench.second(bench.cube(), "prompt=a box", *words).mesh.texture)

    grey = (texture("iters_refine=0") - 0.5).abs() < 0.01

    def reach(rate, steps):
        return float(texture(f"texture_lr={rate}", f"refine_steps={steps}")[grey].logit().abs().max())

    rounding = 0.01
    assert reach(0.1, 1) <= 0.1 + rounding and reach(0.4, 1) > 2 * reach(0.1, 1) and reach(0.1, 5) > 2 * reach(0.1, 1)


@row("train_geo", "geometry_steps", "geom_lr")
def _(bench, key):
    def vertices(*words):  # sorted, as files may have them in another order; no coordinate so seems to move farther than it did
        return np.sort(bench.second(*words).mesh.vertices, axis=0)

    if key == "geom_lr":  # in a round, of a mesh without Gaussians
        words = (bench.cube(), "prompt=a box", "train_geo=true")
        still, moved = (np.abs(vertices(*words, f"geom_lr={rate}")) for rate in (0, 0.01))
        assert np.ptp(still) < 1e-6 < 1e-3 < np.ptp(moved)
        return
    words = (f"load={bench.ply}",)
    still, none, one, six = (
        vertices(*words, *more)
        for more in (
            (),
            ("train_geo=true", "geometry_steps=0"),
            ("train_geo=true", "geometry_steps=1"),
            ("train_geo=true", "geometry_steps=6"),
        )
    )
    assert np.allclose(still, none, atol=1e-6)
    reach = [float(np.abs(moved - still).max()) for moved in (one, six)]
    assert 1e-4 < reach[0] <= 2.1e-3 and 2 * reach[0] < reach[1] <= 12.1e-3  # 2e-3 a step at most


# Profiling


@row("profiling.mode", "profiling.scope", "profiling.rounds")
def _(bench, key):
    def ranges(*words):
        run = bench.first("total_steps=4", "profiling.mode=torch", *words)
        (path,) = (run.folder / "a_trace").iterdir() if (run.folder / "a_trace").is_dir() else run.folder.glob("*trace*/*")
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
        return {event["name"] for event in events if event.get("cat") == "user_annotation"}

    broad, fine = ranges("profiling.rounds=3"), ranges("profiling.rounds=1", "profiling.scope=function")
    assert {"round 1", "round 2", "round 3", "prior", "fit"} <= broad and "round 4" not in broad
    assert "round 1" in fine and "round 2" not in fine
    assert any(name.endswith("ddim_sample") for name in fine) and not any(name.endswith("ddim_sample") for name in broad)
    assert not list(bench.first().folder.glob("*trace*"))
