"""The first guess of a run: what the rounds start from, and what the preview shows, whole or not at all."""

import errno
import os
import signal

import numpy as np
import pytest
import torch
from fake_priors import OraclePrior, coloured_ellipsoid, tiny_micro_prior
from PIL import Image
from recipe_bench import FIRST, SMALL

import microdreamer
from cam_utils import orbit_cameras
from microdreamer.batch import commands as batch_commands
from microdreamer.gaussians.model import PARAMETERS, GaussianModel
from microdreamer.guidance.micro.prior import MicroPrior
from microdreamer.pipeline import commands, results
from microdreamer.pipeline.config import load_config
from microdreamer.pipeline.first_guess import first_guess

WORDS = ("--quiet", *FIRST, *SMALL, "prompt=an egg", "save_path=a")
PREVIEW = {"a_preview.png", "a_preview.ply"}


def make(folder, *words):
    return commands.make([*WORDS, f"outdir={folder}", *words])


def names(folder):
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


# ---- The guess ----


@pytest.mark.parametrize("words", [(), ("radius=4", "fovy=35"), ("elevation=-30",)])
def test_the_guess_looks_like_the_object_from_where_the_runs_cameras_stand(surface_prior, words):
    """The prior sees every camera as its own; what fills a third of its pictures fills a third of the run's."""
    config = load_config(None, [*words, "num_pts=1500"])
    guess = first_guess(config, surface_prior, None)
    assert 700 < len(guess) <= 1500
    own = orbit_cameras(config.eye_level, [0.0, 60.0, 180.0], width=64, height=64)
    runs = orbit_cameras(config.eye_level, [0.0, 60.0, 180.0], config.radius, fov_y=config.fovy, width=64, height=64)
    with torch.no_grad():
        shown, seen = surface_prior.truth.render(own), guess.render(runs)
    inside, guessed = shown.alpha > 0.5, seen.alpha > 0.5
    assert float((inside & guessed).sum() / (inside | guessed).sum()) > 0.8
    assert float((shown.image - seen.image).abs().mean()) < 0.03


def test_a_start_from_the_prior_is_near_the_object_before_any_round_and_is_counted(surface_prior, tmp_path):
    short = ("total_steps=1", "denoise_steps=1", "init_steps=1", "position_lr_init=0", "position_lr_final=0")
    assert make(tmp_path, "start=prior", *short) == 0
    model = GaussianModel.load(tmp_path / "a_model.ply")
    assert share_inside(model) < 0.1 and 300 < len(model) <= 600
    assert make(tmp_path / "ball", "start=ball", *short) == 0
    from_ball = GaussianModel.load(tmp_path / "ball" / "a_model.ply")
    assert share_inside(from_ball) > 0.2 and len(from_ball) > 500
    results_of = [microdreamer.reconstruct(prompt="an egg", prior=surface_prior, config=small(start=start)) for start in ("ball", "prior")]
    counts = [result.record["prior_evaluations"] for result in results_of]
    assert counts[1] == counts[0] + 1


def share_inside(model):
    """Of its Gaussians, that are well within the ellipsoid, behind its surface."""
    with torch.no_grad():
        return float(((model.means / torch.tensor([0.35, 0.25, 0.55])).norm(dim=1) < 0.9).float().mean())


def small(**more):
    return {"total_steps": 1, "denoise_steps": 1, "init_steps": 1, "video_frames": 0, "mesh_resolution": 16, "texture_size": 64, **more}


@pytest.mark.parametrize("asked", ["start=prior", "--preview", "material=albedo"])
@pytest.mark.parametrize("kind", ["oracle", "micro"])
def test_weights_without_surfaces_are_one_line(monkeypatch, tmp_path, capsys, asked, kind):
    blind = OraclePrior(coloured_ellipsoid(), 32) if kind == "oracle" else tiny_micro_prior()
    monkeypatch.setattr(MicroPrior, "load", lambda *_: blind)
    words = WORDS if kind == "oracle" else [*WORDS, "prompt=a red car"]
    assert commands.make([*words, f"outdir={tmp_path / 'out'}", asked]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "not surfaces" in said and asked.lstrip("-") in said
    assert not (tmp_path / "out").exists() and not blind.evaluations


def test_auto_starts_from_the_prior_only_where_it_can(surface_prior, tmp_path):
    for tells, same in ((True, "prior"), (False, "ball")):
        surface_prior.tells_surfaces = True
        assert make(tmp_path / same, f"start={same}") == 0
        surface_prior.tells_surfaces = tells
        assert make(tmp_path / "auto", "start=auto") == 0
        assert (tmp_path / "auto" / "a_model.ply").read_bytes() == (tmp_path / same / "a_model.ply").read_bytes()


def test_two_things_to_start_from_are_refused(surface_prior, tmp_path, capsys):
    surface_prior.truth.save(tmp_path / "egg.ply")
    assert make(tmp_path / "out", f"load={tmp_path / 'egg.ply'}", "start=prior") == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "out").exists()
    assert make(tmp_path / "out", f"load={tmp_path / 'egg.ply'}", "start=auto") == 0


def test_a_prior_that_sees_nothing_is_one_line(surface_prior, tmp_path, capsys):
    surface_prior.truth.opacity_logits.data.fill_(-8.0)
    assert make(tmp_path / "out", "start=prior") == 2
    assert "too few for an object" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_small_network_with_surfaces_runs_through(monkeypatch, tmp_path):
    """Its weights are random, so that what it draws is noise; all that is asked of it fits together."""
    network = tiny_micro_prior(geometry=True, relative_cameras=True)
    monkeypatch.setattr(MicroPrior, "load", lambda *_: network)
    with torch.no_grad():
        network.network.geometry_head.bias.view(5, -1)[1] += 1.0  # covered
    assert commands.make([*WORDS, "prompt=a red car", f"outdir={tmp_path}", "start=prior", "--preview", "material=albedo"]) in (0, 2)
    assert names(tmp_path) >= PREVIEW


# ---- The preview ----


def test_a_preview_is_part_of_the_result_and_changes_nothing_else(surface_prior, tmp_path):
    assert make(tmp_path / "plain") == 0 and make(tmp_path / "shown", "--preview") == 0
    plain, shown = names(tmp_path / "plain"), names(tmp_path / "shown")
    assert shown - plain == PREVIEW and plain < shown
    for name in plain - {"a.json"}:
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "shown" / name).read_bytes()
    assert GaussianModel.load(tmp_path / "shown" / "a_preview.ply").means.abs().max() < 0.65
    assert Image.open(tmp_path / "shown" / "a_preview.png").size == Image.open(tmp_path / "shown" / "a_views.png").size
    assert make(tmp_path / "shown") == 0  # without: the earlier one would seem to belong to this result
    assert names(tmp_path / "shown") == plain


def test_the_preview_is_there_before_the_rounds(surface_prior, tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(commands, "config_line", lambda config: "")
    predict = surface_prior.predict_noise

    def look(*given):
        found.append(names(tmp_path))
        return predict(*given)

    monkeypatch.setattr(surface_prior, "predict_noise", look)
    assert make(tmp_path, "preview=true", "start=prior") == 0
    assert found[0] == PREVIEW


def test_the_library_hands_the_guess_over_and_keeps_it(surface_prior, tmp_path):
    given = []
    result = microdreamer.reconstruct(prompt="an egg", prior=surface_prior, config=small(start="prior"), on_preview=given.append)
    (guess,) = given
    assert all(torch.equal(getattr(guess, name), getattr(result.guess, name)) for name in PARAMETERS)
    guess.means.data.zero_()  # one's own
    assert float(result.guess.means.detach().abs().max()) > 0.3 and float(result.gaussians.means.detach().abs().max()) > 0.3
    stem = result.save(tmp_path, "b")
    again = GaussianModel.load(f"{stem}_preview.ply")
    assert torch.equal(again.means, result.guess.means)
    assert set(result.record) and "b_preview.ply" in (tmp_path / "b.json").read_text()
    assert microdreamer.reconstruct(prompt="an egg", prior=surface_prior, config=small(start="prior")).guess is None


def test_each_picture_of_a_batch_has_its_preview(surface_prior, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    shown = surface_prior.truth.render(orbit_cameras(0, 0, width=48, height=48), torch.zeros(3))
    rgba = torch.cat([shown.image / shown.alpha.clamp_min(1e-3), shown.alpha], dim=1)[0].clamp(0, 1)
    for name in ("one", "two"):
        Image.fromarray((rgba * 255).byte().permute(1, 2, 0).numpy()).save(pictures / f"{name}_rgba.png")
    words = [word for word in WORDS if not word.startswith("save_path")]
    assert batch_commands.make([*words, f"input={pictures}", f"outdir={tmp_path / 'out'}", "--preview"]) == 0
    assert {f"{name}_preview.{kind}" for name in ("one", "two") for kind in ("ply", "png")} <= names(tmp_path / "out")


def test_a_full_disk_leaves_the_earlier_result_and_no_half_preview(surface_prior, tmp_path, capsys, monkeypatch):
    assert make(tmp_path) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write = results.write_sheet

    def full(path, *given, **more):
        if "preview" in str(path):
            write(path, *given, **more)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, *given, **more)

    monkeypatch.setattr(results, "write_sheet", full)
    capsys.readouterr()
    assert make(tmp_path, "--preview", "seed=7") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "No space left" in said
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_while_the_preview_is_written(surface_prior, tmp_path, capsys, monkeypatch, times):
    """Once: it becomes whole, and the run stops. Twice: nothing of it is left."""
    write = results.write_sheet

    def interrupted(path, *given, **more):
        write(path, *given, **more)
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(results, "write_sheet", interrupted)
    assert make(tmp_path / "out", "--preview") == 130
    said = capsys.readouterr().err
    if times == 1:
        assert names(tmp_path / "out") == PREVIEW and "only its preview was written" in said
        Image.open(tmp_path / "out" / "a_preview.png").load()
        assert len(GaussianModel.load(tmp_path / "out" / "a_preview.ply")) > 100
    else:
        assert names(tmp_path / "out") == set() and np.all([ord(c) < 128 for c in said])
