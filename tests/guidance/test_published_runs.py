"""main.py and main2.py with every configuration of a published prior: the original's values, and a few rounds with miniature networks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from microdreamer.distillation.schedules import plan_rounds
from microdreamer.gaussians.model import GaussianModel
from microdreamer.guidance.published.latent import LatentPrior
from microdreamer.guidance.published.presets import PRESETS
from microdreamer.guidance.schedule import NoiseSchedule
from microdreamer.meshes.files import read_mesh
from microdreamer.metrics.meshes import asset_faults
from microdreamer.pipeline import commands, reconstruction
from microdreamer.pipeline.config import SCHEMA, load_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PUBLISHED_RUNS = {"image_sai": "image_sai", "zero123xl": "image_sai", "imagedream": "imagedream", "text_mv": "text_mv_completed"}
FEW_ROUNDS = [
    "total_steps=3",
    "denoise_steps=4",
    "init_steps=3",
    "steps_min=2",
    "steps_max=2",
    "num_pts=400",
    "ref_size=48",
    "densification_interval=4",
    "density_thresh=null",
    "mesh_resolution=32",
    "video_frames=2",
    "video_size=32",
    "texture_size=64",
]
REFINED = {"image_sai": 1, "zero123xl": 1, "imagedream": 3, "text_mv": 50}  # rounds of retouching
REFINED_ALIKE = {  # in every configuration of the original, or in its code
    "refine_views": 8,
    "refine_steps": 30,
    "refine_size": 512,
    "refine_denoise_steps": 50,
    "refine_strength": 0.8,
    "refine_cfg": 2.0,
    "texture_lr": 0.2,
    "train_geo": False,
    "geom_lr": 1e-4,
}
FEW_REFINEMENTS = ["iters_refine=2", "refine_steps=2", "refine_size=48", "refine_denoise_steps=5"]


@pytest.mark.parametrize(("name", "run"), PUBLISHED_RUNS.items())
def test_configurations_have_the_published_values(parity, name, run):
    golden = json.loads(parity("priors/sir_schedules.json").read_text())[run]
    config = load_config(CONFIGS / f"{name}.yaml", [])
    for key, value in golden["config"].items():
        assert getattr(config, key) == value, key
    rounds = plan_rounds(NoiseSchedule.scaled_linear(), **reconstruction.select(config, reconstruction.PLAN_KEYS))
    assert sum(turn.network_calls for turn in rounds) == golden["nfe_total"]
    assert sum(len(turn.steps) for turn in rounds) == golden["optimizer_steps"]


@pytest.mark.parametrize("name", REFINED)
def test_configurations_have_the_published_values_of_the_second_stage(name):
    config = load_config(CONFIGS / f"{name}.yaml", [])
    expected = {**REFINED_ALIKE, "iters_refine": REFINED[name]}
    assert {key: getattr(config, key) for key in expected} == expected


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A disc as RGBA with a caption beside it."""
    tmp_path = tmp_path_factory.mktemp("picture")
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    inside = (rows**2 + columns**2 < 0.6).float()
    rgba = torch.stack([inside, inside * 0.4, inside * 0.1, inside])
    path = tmp_path / "disc_rgba.png"
    Image.fromarray((rgba * 255).byte().permute(1, 2, 0).numpy()).save(path)
    (tmp_path / "disc_caption.txt").write_text("an orange disc")
    return path


PUBLISHED = sorted(name for name, path in SCHEMA.shipped().items() if load_config(path, []).prior != "micro")


@pytest.fixture(scope="module", params=PUBLISHED)
def stage_1(request, picture, tiny_checkpoint, tmp_path_factory):
    """(name of the configuration, words of a run that main.py has made under the name `a`, its folder)."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    given = "prompt=an orange disc" if "text" in name else f"input={picture}"
    checkpoint = tiny_checkpoint(load_config(CONFIGS / f"{name}.yaml", []).prior)
    words = [f"--config={CONFIGS / name}.yaml", f"prior_path={checkpoint}", given, f"outdir={folder}", "save_path=a", *FEW_ROUNDS]
    words = ["--quiet", "device=cpu", *words]
    assert commands.make(words) == 0
    return name, words, folder


def test_every_configuration_runs_end_to_end(stage_1):
    name, _, folder = stage_1
    config = load_config(CONFIGS / f"{name}.yaml", FEW_ROUNDS)
    record = json.loads((folder / "a.json").read_text())
    rounds = plan_rounds(NoiseSchedule.scaled_linear(), **reconstruction.select(config, reconstruction.PLAN_KEYS))
    up = sum(max(len(turn.inversion) - 1, 0) for turn in rounds)
    assert record["prior_evaluations"] == up + 2 * sum(len(turn.denoising) for turn in rounds)
    assert record["config"]["prior"] == config.prior and (record["input_view_psnr_db"] is None) == ("text" in name)
    # the caption beside the picture is for priors that read
    assert record["config"]["prompt"] == (None if "123" in config.prior else "an orange disc")
    assert len(GaussianModel.load_ply(folder / "a_model.ply")) == record["gaussians"] > 0
    assert len(trimesh.load(folder / "a_model.glb", force="mesh").faces) > 10


def test_the_second_stage_follows_with_every_configuration(stage_1, monkeypatch):
    _, words, folder = stage_1
    seen = []
    predict = LatentPrior.predict_noise
    monkeypatch.setattr(
        LatentPrior, "predict_noise", lambda self, *given: (seen.append((self, given[1], given[2])), predict(self, *given))[1]
    )
    assert commands.refine([*words, *FEW_REFINEMENTS, "elevation=-10"]) == 0
    record = json.loads((folder / "a_refined.json").read_text())
    assert record["complete"] and record["prior_evaluations"] == 2 * len(seen)
    assert [t for _, t, _ in seen] == [1, 1]  # of five levels the lowest, in each of two rounds
    turns = []
    for prior, _, cameras in seen:
        assert prior.name == record["config"]["prior"]
        assert torch.allclose(cameras.elevation, torch.tensor(-10.0))
        first, *steps = cameras.azimuth.remainder(360).sort().values.diff(prepend=torch.zeros(1)).tolist()
        assert steps == pytest.approx([45] * 7, abs=1e-3)
        turns.append(first)
        if prior.views == 4:  # neighbours in the batch are denoised together, a quarter turn apart
            assert cameras.azimuth.reshape(2, 4).diff(dim=1).remainder(360).tolist() == [[pytest.approx(90, abs=1e-3)] * 3] * 2
    assert turns[0] != turns[1]
    coarse, refined = (read_mesh(folder / f"a_{kind}.glb") for kind in ("model", "refined"))
    np.testing.assert_allclose(np.sort(refined.vertices, axis=0), np.sort(coarse.vertices, axis=0), atol=1e-6)
    assert float(np.abs(refined.texture - coarse.texture).mean()) > 1e-3
    assert asset_faults(refined.vertices, refined.faces, refined.normals, refined.uvs, refined.uv_faces, refined.texture) == []


@pytest.mark.parametrize("program", ["main", "main2"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_without_weights_there_is_one_line(monkeypatch, picture, tmp_path, capsys, name, program):
    monkeypatch.setattr("microdreamer.guidance.published.presets.in_cache", lambda _: None)
    given = "prompt=an orange disc" if "text" in name else f"input={picture}"
    words = [f"--config={CONFIGS / name}.yaml", "device=cpu", given, f"outdir={tmp_path / 'out'}"]
    assert {"main": commands.make, "main2": commands.refine}[program](words) == 2
    error = capsys.readouterr().err
    prior = load_config(CONFIGS / f"{name}.yaml", []).prior
    preset = PRESETS[prior]
    assert error.count("\n") == 1 and error.startswith(f"{program}.py: no weights of the {prior} prior")
    assert f"download_models.py {prior} fetches {preset.megabytes / 1000:.1f} GB" in error and preset.licence in error
    assert all(f"{part} {size} MB" in error for part, size in preset.parts.items())
    assert not (tmp_path / "out").exists()
    if program == "main":  # users find it there
        assert f"| `{name}.yaml` | `{error.strip()}` |" in (CONFIGS.parent / "docs" / "priors.md").read_text()


@pytest.mark.parametrize(
    ("prior", "words", "message"),
    [
        (
            "stable_zero123",
            ["prompt=a red car"],
            "stable_zero123 prior does not take a prompt; priors that do: imagedream, micro, mvdream",
        ),
        ("zero123_xl", ["PICTURE", "negative_prompt=ugly"], "the zero123_xl prior does not read: remove negative_prompt"),
        ("imagedream", ["prompt=a red car"], "the imagedream prior needs a picture"),
        ("mvdream", ["PICTURE", "prompt=a red car"], "the mvdream prior does not take a picture; priors that do: imagedream, micro"),
        ("mvdream", ["prompt=a red car", "batch_size_min=5", "batch_size_max=6"], "the mvdream prior takes a multiple of 4 views"),
        ("mvdream", ["prompt=a red car", "precision=float16"], "precision=float16: the CPU computes in float32"),
    ],
)
def test_what_a_prior_cannot_do_is_one_line(tmp_path, picture, tiny_checkpoint, capsys, prior, words, message):
    words = [f"input={picture}" if word == "PICTURE" else word for word in words]
    arguments = ["--quiet", "device=cpu", f"prior={prior}", f"prior_path={tiny_checkpoint(prior)}", f"outdir={tmp_path}", *words]
    assert commands.make(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_suffix_reaches_the_prior_and_not_the_record(tmp_path, tiny_checkpoint, monkeypatch):
    from microdreamer.guidance.published.mvdream import MVDreamPrior

    seen = []
    original = MVDreamPrior.condition
    monkeypatch.setattr(MVDreamPrior, "condition", lambda self, *given: (seen.append(given[1]), original(self, *given))[1])
    words = [
        "prior=mvdream",
        f"prior_path={tiny_checkpoint('mvdream')}",
        "prompt=a red car",
        "prompt_suffix=, 3d asset",
        f"outdir={tmp_path}",
    ]
    assert commands.make(["--quiet", "device=cpu", "save_path=a", f"outdir={tmp_path}", *words, *FEW_ROUNDS, "total_steps=1"]) == 0
    assert seen == ["a red car, 3d asset"]
    assert json.loads((tmp_path / "a.json").read_text())["config"]["prompt"] == "a red car"


def test_the_fast_schedule_is_image_sai_in_fewer_calls():
    """Other rounds, everything else alike; as many optimiser steps, so that the Gaussians are fitted as long."""
    plain, fast = (load_config(CONFIGS / f"{name}.yaml", []) for name in ("image_sai", "image_sai_fast"))
    schedule = {"eta", "inv_r", "denoise_steps", "total_steps", "init_steps", "steps_min", "steps_max"}
    differing = {key for key in vars(plain) if getattr(plain, key) != getattr(fast, key)}
    assert differing == schedule
    rounds, fewer = (
        plan_rounds(NoiseSchedule.scaled_linear(), **reconstruction.select(config, reconstruction.PLAN_KEYS)) for config in (plain, fast)
    )
    calls, fewer_calls = (sum(turn.network_calls for turn in turns) for turns in (rounds, fewer))
    assert 5 * fewer_calls < calls
    assert sum(len(turn.steps) for turn in fewer) >= sum(len(turn.steps) for turn in rounds)
