"""The main job, with a prior that knows the object: files, record, repeatability, Ctrl-C, and one line for every wrong input."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from fake_priors import OraclePrior, coloured_ellipsoid
from PIL import Image

from cam_utils import orbit_cameras
from microdreamer.distillation.schedules import plan_rounds
from microdreamer.gaussians.model import GaussianModel
from microdreamer.images import cutout
from microdreamer.images.reference import reference_view
from microdreamer.pipeline import commands, reconstruction
from microdreamer.pipeline.pictures import load_picture
from microdreamer.pipeline.progress import Progress

SMALL = [
    "total_steps=3",
    "denoise_steps=6",
    "init_steps=12",
    "steps_min=6",
    "steps_max=6",
    "num_pts=300",
    "densification_interval=10",
    "video_frames=4",
    "video_size=32",
    "mesh_resolution=32",
    "texture_size=128",
    "cfg=1",
    "eta=1",
]
ROOT = Path(__file__).resolve().parents[2]
MESH_FILES = {"a_model.obj", "a_model.mtl", "a_model_albedo.png", "a_model.glb"}
FILES = MESH_FILES | {"a_model.ply", "a.mp4", "a_views.png", "a.json"}


@pytest.fixture
def prior(monkeypatch):
    prior = OraclePrior(coloured_ellipsoid(), 32)
    monkeypatch.setattr(reconstruction, "load_prior", lambda *_: prior)
    return prior


@pytest.fixture
def picture(tmp_path, prior):
    """The object's front as an RGBA file."""
    shown = prior.truth.render(orbit_cameras(0, 0, width=48, height=48), torch.zeros(3))
    straight = shown.image / shown.alpha.clamp_min(1e-3)
    rgba = torch.cat([straight, shown.alpha], dim=1)[0].clamp(0, 1)
    path = tmp_path / "thing_rgba.png"
    Image.fromarray((rgba * 255).byte().permute(1, 2, 0).numpy()).save(path)
    return path


def run(tmp_path, *words, out="out", name="a"):
    return commands.make(["--quiet", f"outdir={tmp_path / out}", f"save_path={name}", *SMALL, *words])


def test_a_picture_becomes_files_that_others_read(tmp_path, picture, prior):
    assert run(tmp_path, f"input={picture}") == 0
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == FILES
    record = json.loads((out / "a.json").read_text())
    assert record["complete"] is True and record["rounds"] == 3 and record["optimiser_steps"] == 24
    assert record["prior_evaluations"] == prior.evaluations > 0
    assert record["input_view_psnr_db"] > 16
    assert set(record["seconds"]) == {"load", "prior", "fit", "mesh", "write", "video"}
    assert record["config"]["seed"] == 0 and record["config"]["input"] == str(picture)
    assert len(GaussianModel.load_ply(out / "a_model.ply")) == record["gaussians"] > 0
    for name in ("a_model.obj", "a_model.glb"):
        assert len(trimesh.load(out / name, force="mesh").faces) > 10
    assert Image.open(out / "a_views.png").size == (4 * 32 + 12, 2 * 32 + 4)


def test_gaussians_grow_and_learning_rates_follow_the_schedule(tmp_path, picture, monkeypatch):
    """Growth by a threshold that all pass, against none at all; and the rate of every global step before that step."""
    steps = []
    update = GaussianModel.update_learning_rate
    monkeypatch.setattr(GaussianModel, "update_learning_rate", lambda model, step: (steps.append(step), update(model, step)))
    counts = {}
    for name, end in (("grown", 20), ("plain", 0)):
        assert run(tmp_path, f"input={picture}", "densify_grad_threshold=1e-9", f"density_end_iter={end}", name=name) == 0
        counts[name] = json.loads((tmp_path / "out" / f"{name}.json").read_text())["gaussians"]
    assert counts["plain"] <= 300 < counts["grown"]
    assert steps == [*range(2, 14), *range(15, 21), *range(22, 28)] * 2


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path, picture):
    for out, seed in (("one", 5), ("two", 5), ("three", 6)):
        assert run(tmp_path, f"input={picture}", f"seed={seed}", out=out) == 0
    for name in ("a_model.ply", "a_model.obj", "a_model.mtl", "a_model.glb", "a_views.png"):
        one, two, three = ((tmp_path / out / name).read_bytes() for out in ("one", "two", "three"))
        assert one == two, name
        assert one != three or name == "a_model.mtl", name


def test_a_run_is_repeated_from_its_own_record(tmp_path, picture):
    assert run(tmp_path, f"input={picture}", "seed=3") == 0
    settings = json.loads((tmp_path / "out" / "a.json").read_text())["config"]
    config = tmp_path / "again.yaml"
    config.write_text(json.dumps(settings))  # JSON is YAML
    assert commands.make(["--quiet", f"--config={config}", f"outdir={tmp_path / 'again'}"]) == 0
    assert (tmp_path / "again" / "a_model.ply").read_bytes() == (tmp_path / "out" / "a_model.ply").read_bytes()


def test_a_prompt_alone_and_a_caption_beside_the_picture(tmp_path, picture, prior, monkeypatch):
    seen = []
    monkeypatch.setattr(prior, "condition", lambda *given: seen.append(given))
    assert run(tmp_path, "prompt=an egg, painted") == 0
    (tmp_path / "thing_caption.txt").write_text("a painted\n egg\n")
    assert run(tmp_path, f"input={picture}", out="two") == 0
    assert run(tmp_path, f"input={picture}", "prompt=mine", out="three", name="null") == 0
    assert [(given[0] is None, given[1]) for given in seen] == [(True, "an egg, painted"), (False, "a painted egg"), (False, "mine")]
    assert seen[1][0].shape == (4, 48, 48)
    assert json.loads((tmp_path / "out" / "a.json").read_text())["input_view_psnr_db"] is None
    assert (tmp_path / "three" / "thing_model.ply").exists()  # save_path=null: named after the picture


def test_a_photograph_is_cut_out_centred_and_a_wide_picture_padded(tmp_path, monkeypatch):
    photo = tmp_path / "photo.jpg"
    Image.new("RGB", (60, 40), (200, 30, 30)).save(photo)
    mask = np.zeros((40, 60), np.float32)
    mask[5:15, 5:25] = 1
    monkeypatch.setattr(cutout, "load_matting", lambda model: lambda rgb: mask)
    alpha = load_picture(photo)[3]
    rows, columns = (alpha > 0.5).any(1).nonzero()[:, 0], (alpha > 0.5).any(0).nonzero()[:, 0]
    side = len(alpha)
    assert abs(int(rows[0] + rows[-1] + 1) - side) <= 1 and abs(int(columns[0] + columns[-1] + 1) - side) <= 1
    assert len(columns) == pytest.approx(0.8 * side, abs=2) and len(rows) == pytest.approx(0.4 * side, abs=2)
    wide = Image.new("RGBA", (40, 20), (0, 0, 255, 0))
    wide.paste((0, 0, 255, 255), (15, 0, 40, 20))
    wide.paste((0, 0, 255, 255), (0, 8, 40, 20))
    wide.save(tmp_path / "wide.png")
    picture = load_picture(tmp_path / "wide.png", recenter=False)
    assert picture.shape == (4, 40, 40) and float(picture[3, :10].max()) == float(picture[3, 30:].max()) == 0
    reference = reference_view(picture, orbit_cameras(0, 0, width=20, height=20))
    assert float(reference.mask[0, 0, :4].max()) == 0 and float(reference.image[0, :, :4].min()) == 1
    torch.testing.assert_close(reference.image[0, :, 10, 10], torch.tensor([0.0, 0.0, 1.0]), rtol=0, atol=1e-6)


def test_time_left_adds_up_branches_and_steps(prior):
    rounds = plan_rounds(
        prior.schedule, total_steps=2, denoise_steps=4, t_start=0.9, t_end=0.2, inv_r=0.6, init_steps=3, steps_min=1, steps_max=1
    )
    progress = Progress(prior, rounds, guidance_scale=2.0)
    branches = sum(2 * len(turn.denoising) + max(len(turn.inversion) - 1, 0) for turn in rounds)
    progress._prior_seconds, prior.evaluations = 2.0, 2
    assert progress.seconds_left == pytest.approx((branches - 2) * 1.0 + 4 * 0.5)
    progress._fit_seconds, progress.fit_steps = 0.3, 3
    assert progress.seconds_left == pytest.approx((branches - 2) * 1.0 + 1 * 0.1)


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_leaves_what_is_done_marked_as_such(tmp_path, picture, prior, presses, capsys):
    predict, calls = prior.predict_noise, []

    def predict_and_press(*arguments):
        calls.append(1)
        if len(calls) >= 9:  # in the second round
            for _ in range(presses):
                signal.raise_signal(signal.SIGINT)
        return predict(*arguments)

    prior.predict_noise = predict_and_press
    before = signal.getsignal(signal.SIGINT)
    assert run(tmp_path, f"input={picture}") == 130
    assert signal.getsignal(signal.SIGINT) is before
    if presses == 2:
        assert not (tmp_path / "out").exists()
        return
    record = json.loads((tmp_path / "out" / "a.json").read_text())
    assert record["complete"] is False and record["rounds"] == 1 and record["optimiser_steps"] == 12
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES


def test_ctrl_c_before_the_first_fit_writes_nothing(tmp_path, picture, prior, capsys):
    predict = prior.predict_noise
    prior.predict_noise = lambda *arguments: (signal.raise_signal(signal.SIGINT), predict(*arguments))[1]
    assert run(tmp_path, f"input={picture}") == 130
    assert not (tmp_path / "out").exists()
    assert "nothing was written" in capsys.readouterr().err


def broken(tmp_path, name):
    """Paths of inputs that cannot work."""
    path = tmp_path / name
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 4), dtype=np.uint8)
    if name == "folder.png":
        path.mkdir()
    elif name == "text.png":
        path.write_text("no picture")
    elif name == "empty.png":
        path.touch()
    elif name == "truncated.png":
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:3000])
    elif name == "tiny.png":
        Image.fromarray(noise[:8, :8]).save(path)
    elif name == "invisible.png":
        noise[..., 3] = 0
        Image.fromarray(noise).save(path)
    return path


@pytest.mark.parametrize("name", ["missing.png", "folder.png", "text.png", "empty.png", "truncated.png", "tiny.png", "invisible.png"])
def test_a_wrong_picture_is_one_line_exit_code_2_and_no_file(tmp_path, prior, capsys, name):
    path = broken(tmp_path, name)
    assert run(tmp_path, f"input={path}") == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and message.startswith("main.py: ") and name in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to make"),
        (["prompt=  "], "nothing to make"),
        (["prompt=a", "inptu=b"], "nearest valid key is 'input'"),
        (["prompt=a", "--totalsteps=3"], "nearest valid key is 'total_steps'"),
        (["prompt=a", "save_path=../b"], "expected a plain name"),
        (["prompt=a", "save_path=" + "b" * 300], "expected a plain name"),
        (["prompt=a", "batch_size_min=5", "batch_size_max=7"], "multiple of 4 views"),
        (["prompt=a", "device=tpu"], "device=tpu"),
        (["prompt=a", "device=cuda:97"], "device=cuda:97"),
        (["prompt=a", "load=none.ply"], "none.ply"),
        (["prompt=a", "num_pts=2"], "at least 4"),
        (["prompt=a", "total_steps=1e3"], "expected a whole number"),
    ],
)
def test_wrong_words_are_one_line_exit_code_2_and_no_file(tmp_path, prior, capsys, words, message):
    assert run(tmp_path, *words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and message in said
    assert not (tmp_path / "out").exists()


def test_a_threshold_without_a_surface_still_leaves_the_gaussians(tmp_path, picture, capsys):
    assert run(tmp_path, f"input={picture}", "density_thresh=1000") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "choose a lower threshold" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES - {
        "a_model.obj",
        "a_model.mtl",
        "a_model_albedo.png",
        "a_model.glb",
    }


def test_an_output_folder_that_cannot_be_written_to_is_found_at_once(tmp_path, prior, capsys):
    (tmp_path / "out").touch()
    assert run(tmp_path, "prompt=a") == 2
    assert "choose another outdir" in capsys.readouterr().err and prior.evaluations == 0


@pytest.mark.parametrize("switch", ["USE_CUDA_GAUSS", "USE_CUDA_EXTRACT"])
def test_a_wrong_switch_is_found_at_once(tmp_path, prior, capsys, monkeypatch, switch):
    monkeypatch.setenv(switch, "2")
    assert run(tmp_path, "prompt=a") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{switch}=2: expected 0" in said
    assert not (tmp_path / "out").exists() and prior.evaluations == 0


@pytest.mark.parametrize("format", ["ply", "splat", "spz", "glb"])
def test_a_run_starts_from_saved_gaussians(tmp_path, prior, format):
    start = tmp_path / f"start.{format}"
    prior.truth.save(start, format)
    assert run(tmp_path, "prompt=a", f"load={start}", "total_steps=1", "init_steps=1") == 0
    assert json.loads((tmp_path / "out" / "a.json").read_text())["gaussians"] <= len(prior.truth)


@pytest.mark.parametrize(("wanted", "written"), [("spz", {"a_model.spz"}), ("all", {"a_model.splat", "a_model.spz", "a_splats.glb"})])
def test_gaussians_are_written_in_the_formats_asked_for(tmp_path, prior, wanted, written):
    assert run(tmp_path, "prompt=a", f"splat_format={wanted}", "total_steps=1", "init_steps=1") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES | written
    model = GaussianModel.load(tmp_path / "out" / "a_model.ply")
    for name in written:
        again = GaussianModel.load(tmp_path / "out" / name)
        assert len(again) == len(model)
        assert float((again.means.detach().mean(0) - model.means.detach().mean(0)).abs().max()) < 1e-4
    # A later run of that name without them leaves none of an earlier one.
    assert run(tmp_path, "prompt=a", "total_steps=1", "init_steps=1") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES


def test_start_up_does_without_the_compiler_of_pytorch():
    code = "import sys, microdreamer.pipeline.reconstruction, microdreamer.kernels.mesh_render; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], timeout=120).returncode == 0


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("Screenshot 2026-11-28 at 5.06\u202fPM.png", "Screenshot 2026-11-28 at 5.06 PM"),
        ("\u3000egg\u00a0one .png", "egg one"),
        (".hidden_rgba.png", "hidden"),
        ("family \U0001f468\u200d\U0001f469\u200d\U0001f467.png", "family \U0001f468\U0001f469\U0001f467"),
        ("caf\udce9.png", "caf\u00e9"),
    ],
)
def test_names_that_nobody_typed_are_made_fit(tmp_path, picture, name, result):
    try:
        picture.rename(tmp_path / name)
    except OSError:
        pytest.skip("this file system does not take the name")
    assert run(tmp_path, f"input={tmp_path / name}", "total_steps=1", "init_steps=1", "mesh_format=glb", name="null") == 0
    record = json.loads((tmp_path / "out" / f"{result}.json").read_text(encoding="utf-8"))
    assert record["config"]["input"] == str(tmp_path / name) and (tmp_path / "out" / f"{result}_model.glb").is_file()


def test_words_of_signs_alone_and_a_home_folder(tmp_path, prior, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ["total_steps=1", "init_steps=1", "mesh_format=glb", "save_path=null", "prompt=???"]
    assert commands.make(["--quiet", "outdir=~/made", *SMALL, *words]) == 0
    assert (tmp_path / "made" / "object.json").is_file()


def test_what_was_done_to_a_picture_is_told_unless_quiet(tmp_path, picture, capsys, caplog):
    small = Image.new("RGBA", (96, 96))
    small.paste(Image.open(picture).resize((24, 24)), (60, 60))
    small.save(tmp_path / "aside_rgba.png")
    words = [f"outdir={tmp_path / 'out'}", *SMALL, f"input={tmp_path / 'aside_rgba.png'}", "video_frames=0"]
    assert commands.make(words) == 0
    assert [m for m in caplog.messages if m.startswith(f"{tmp_path / 'aside_rgba.png'}: ")], caplog.messages
    caplog.clear()
    capsys.readouterr()
    assert commands.make(["--quiet", *words]) == 0
    assert caplog.messages == [] and capsys.readouterr() == ("", "")


def test_without_docstrings_and_assertions_the_files_are_the_same(tmp_path):
    """python -OO, on Gaussians, which need no prior."""
    coloured_ellipsoid().save_ply(tmp_path / "a.ply")
    words = [f"--from-splats={tmp_path / 'a.ply'}", "mesh_resolution=32", "texture_size=64", "video_frames=0", "device=cpu", "--quiet"]
    assert commands.refine([*words, f"outdir={tmp_path / 'plain'}"]) == 0
    command = [sys.executable, "-OO", ROOT / "main2.py", *words, f"outdir={tmp_path / 'stripped'}"]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    for name in ("a_refined.glb", "a_refined.obj", "a_refined_albedo.png", "a_refined_views.png"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "stripped" / name).read_bytes(), name
    told = subprocess.run([sys.executable, "-OO", ROOT / "main.py", "--help"], capture_output=True, text=True, check=True)
    assert "score-based iterative reconstruction" in told.stdout and "mesh_resolution=128" in told.stdout
