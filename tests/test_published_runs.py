"""main.py with every configuration of a published prior: the original's values, and a few rounds with miniature networks."""

import json
from pathlib import Path

import pytest
import torch
import trimesh
from PIL import Image

import main
from config import load_config
from distillation.schedules import plan_rounds
from gs_renderer import GaussianModel
from guidance.presets import PRESETS
from guidance.schedule import NoiseSchedule

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
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
]


@pytest.mark.parametrize(("name", "run"), PUBLISHED_RUNS.items())
def test_configurations_have_the_published_values(parity, name, run):
    golden = json.loads(parity("priors/sir_schedules.json").read_text())[run]
    config = load_config(CONFIGS / f"{name}.yaml", [])
    for key, value in golden["config"].items():
        assert getattr(config, key) == value, key
    rounds = plan_rounds(NoiseSchedule.scaled_linear(), **main.select(config, main.PLAN_KEYS))
    assert sum(turn.network_calls for turn in rounds) == golden["nfe_total"]
    assert sum(len(turn.steps) for turn in rounds) == golden["optimizer_steps"]


@pytest.fixture
def picture(tmp_path):
    """A disc as RGBA with a caption beside it."""
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    inside = (rows**2 + columns**2 < 0.6).float()
    rgba = torch.stack([inside, inside * 0.4, inside * 0.1, inside])
    path = tmp_path / "disc_rgba.png"
    Image.fromarray((rgba * 255).byte().permute(1, 2, 0).numpy()).save(path)
    (tmp_path / "disc_caption.txt").write_text("an orange disc")
    return path


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem != "micro"))
def test_every_configuration_runs_end_to_end(tmp_path, picture, tiny_checkpoint, name):
    config = load_config(CONFIGS / f"{name}.yaml", FEW_ROUNDS)
    given = "prompt=an orange disc" if "text" in name else f"input={picture}"
    words = [f"--config={CONFIGS / name}.yaml", f"prior_path={tiny_checkpoint(config.prior)}", given, f"outdir={tmp_path}", "save_path=a"]
    assert main.main(["--quiet", "device=cpu", *words, *FEW_ROUNDS]) == 0
    record = json.loads((tmp_path / "a.json").read_text())
    rounds = plan_rounds(NoiseSchedule.scaled_linear(), **main.select(config, main.PLAN_KEYS))
    up = sum(max(len(turn.inversion) - 1, 0) for turn in rounds)
    assert record["prior_evaluations"] == up + 2 * sum(len(turn.denoising) for turn in rounds)
    assert record["config"]["prior"] == config.prior and (record["input_view_psnr_db"] is None) == ("text" in name)
    # the caption beside the picture is for priors that read
    assert record["config"]["prompt"] == (None if "123" in config.prior else "an orange disc")
    assert len(GaussianModel.load_ply(tmp_path / "a_model.ply")) == record["gaussians"] > 0
    assert len(trimesh.load(tmp_path / "a_model.glb", force="mesh").faces) > 10


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem != "micro"))
def test_without_weights_there_is_one_line(monkeypatch, picture, capsys, name):
    monkeypatch.setattr("guidance.presets.in_cache", lambda _: None)
    given = "prompt=an orange disc" if "text" in name else f"input={picture}"
    assert main.main([f"--config={CONFIGS / name}.yaml", "device=cpu", given]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    prior = load_config(CONFIGS / f"{name}.yaml", []).prior
    assert (
        error.startswith("main.py: no weights of the")
        and f"download_models.py {prior} fetches" in error
        and PRESETS[prior].licence in error
    )


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
    assert main.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_suffix_reaches_the_prior_and_not_the_record(tmp_path, tiny_checkpoint, monkeypatch):
    from guidance.mvdream import MVDreamPrior

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
    assert main.main(["--quiet", "device=cpu", "save_path=a", f"outdir={tmp_path}", *words, *FEW_ROUNDS, "total_steps=1"]) == 0
    assert seen == ["a red car, 3d asset"]
    assert json.loads((tmp_path / "a.json").read_text())["config"]["prompt"] == "a red car"
