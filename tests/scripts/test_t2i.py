"""The strip of views straight from a prior."""

import numpy as np
import pytest
import torch
from PIL import Image

from cam_utils import orbit_cameras
from microdreamer.guidance import load_prior
from microdreamer.guidance.samplers import ddim_sample
from scripts import t2i


def strip(path):
    return np.asarray(Image.open(path)).astype(int)


@pytest.fixture
def draw(tmp_path, tiny_checkpoint):
    def run(*words, prior="mvdream", out="a.png"):
        code = t2i.main(["--device=cpu", *words, f"--prior={prior}", f"--prior_path={tiny_checkpoint(prior)}", f"--out={tmp_path / out}"])
        return code, tmp_path / out

    return run


def test_the_strip_holds_what_the_prior_samples(draw, tiny_checkpoint):
    code, path = draw("a red car", "--steps=3", "--elevation=20", "--azimuth_start=30", "--guidance=3", "--seed=5", "--negative=blue")
    assert code == 0
    prior = load_prior("mvdream", str(tiny_checkpoint("mvdream")))
    cameras = orbit_cameras(-20, [30, 120, 210, 300])
    condition = prior.condition(None, "a red car, 3d asset", "blue")
    levels = prior.schedule.levels(3)[::-1]
    latents = ddim_sample(prior, (4, 4, 8, 8), cameras, condition, levels, 3.0, 0.0, torch.Generator().manual_seed(5))
    views = (prior.decode(latents).clamp(0, 1) * 255).round().int().permute(0, 2, 3, 1).numpy()
    for index, view in enumerate(views):
        shown = strip(path)[:, index * 68 : index * 68 + 64]
        assert np.abs(shown - view).max() <= 1


def test_seed_number_of_views_and_picture_change_the_strip(draw, tmp_path):
    one = strip(draw("a cup", "--steps=2", out="1.png")[1])
    assert np.array_equal(one, strip(draw("a cup", "--steps=2", out="2.png")[1]))
    assert not np.array_equal(one, strip(draw("a cup", "--steps=2", "--seed=1", out="3.png")[1]))
    assert strip(draw("a cup", "--steps=2", "--num_frames=6", out="4.png")[1]).shape == (64, 6 * 64 + 5 * 4, 3)
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[4:28, 4:28] = 200, 120, 60, 255
    Image.fromarray(rgba).save(tmp_path / "p.png")
    code, path = draw("a cup", "--steps=2", f"--image={tmp_path / 'p.png'}", prior="imagedream", out="5.png")
    assert code == 0 and strip(path).shape == (64, 4 * 64 + 12, 3)


def test_the_shipped_prior_draws_without_any_download(tmp_path):
    assert t2i.main(["a red car", "--steps=2", "--guidance=1", "--device=cpu", f"--out={tmp_path / 'a.png'}"]) == 0
    assert strip(tmp_path / "a.png").shape == (128, 4 * 128 + 12, 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to draw"),
        (["a cup", "--num_frames=0"], "expected 1 to 64"),
        (["a cup", "--image=none.png"], "none.png"),
        (["a cup", "--steps=0"], "0 denoising steps"),
        (["a cup", "--device=tpu"], "not on this machine"),
    ],
)
def test_wrong_words_are_one_line(draw, capsys, words, message):
    assert draw(*words)[0] == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
