"""Several pictures of one object: which they are, where their cameras stand, how large the object is in each, what is made of them."""

import dataclasses
import json
import logging

import numpy as np
import pytest
import torch
from fake_priors import OraclePrior, StubPrior, coloured_ellipsoid
from PIL import Image

import microdreamer
from cam_utils import orbit_cameras
from microdreamer import Config, UserError
from microdreamer.pipeline import commands
from microdreamer.pipeline.config import load_config
from microdreamer.pipeline.inputs import MOST_PICTURES, places_of, split_input
from microdreamer.pipeline.pictures import as_pictures
from microdreamer.pipeline.posing import found_azimuths
from microdreamer.pipeline.results import result_stem

SMALL = {
    "total_steps": 2,
    "denoise_steps": 4,
    "init_steps": 10,
    "steps_min": 4,
    "steps_max": 4,
    "num_pts": 200,
    "video_frames": 0,
    "video_size": 32,
    "mesh_resolution": 32,
    "texture_size": 64,
    "refine_size": 32,
    "refine_steps": 2,
    "iters_refine": 1,
}
SIDES = {"front": 0.0, "right": 90.0, "back": 180.0, "left": 270.0}


@pytest.fixture
def prior():
    return OraclePrior(coloured_ellipsoid(), 32)


@pytest.fixture
def files(prior, tmp_path):
    """The object's four sides as files, by name."""
    paths = {}
    for name, azimuth in SIDES.items():
        shown = prior.truth.render(orbit_cameras(0, azimuth, width=96, height=96), torch.zeros(3))
        rgba = torch.cat([shown.image / shown.alpha.clamp_min(1e-3), shown.alpha], dim=1)[0].clamp(0, 1)
        paths[name] = tmp_path / f"{name}.png"
        Image.fromarray((rgba * 255).byte().permute(1, 2, 0).numpy()).save(paths[name])
    return paths


# ---- Which pictures ----


def test_commas_separate_pictures_except_where_a_file_has_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png", "a, b.png", "x,y,z.png"):
        (tmp_path / name).touch()
    assert split_input("a.png") == ["a.png"]
    assert split_input("a.png,b.png") == ["a.png", "b.png"] == split_input("a.png, b.png")
    assert split_input("a, b.png") == ["a, b.png"]
    assert split_input("b.png,x,y,z.png,a.png") == ["b.png", "x,y,z.png", "a.png"]
    assert split_input("a, b.png,b.png") == ["a, b.png", "b.png"]
    assert split_input("none.png,b.png") == ["none.png", "b.png"]
    assert split_input("a.png,", tmp_path) == ["a.png", ""]
    assert split_input("a.png,b.png", tmp_path / "elsewhere") == ["a.png", "b.png"]


def test_a_result_is_named_after_the_first_picture(tmp_path):
    assert result_stem(Config(input=f"{tmp_path}/front_rgba.png,{tmp_path}/side.png", outdir="out")).name == "front"


# ---- Where their cameras stand ----


def test_azimuths_that_are_not_given_are_open_but_for_the_first():
    assert places_of(Config(), 1) == [(0.0, 0.0)]
    assert places_of(load_config(None, ["elevation=-10"]), 3) == [(-10.0, 0.0), (-10.0, None), (-10.0, None)]
    assert places_of(load_config(None, ["elevation=-10,5", "azimuth=20,-90"]), 2) == [(-10.0, 20.0), (5.0, -90.0)]
    assert places_of(load_config(None, ["azimuth=0,0", "elevation=0,-60"]), 2) == [(0.0, 0.0), (-60.0, 0.0)]
    assert load_config(None, ["azimuth=[0, 90]"]).azimuth == [0.0, 90.0] and load_config(None, ["elevation=5"]).elevation == 5.0


@pytest.mark.parametrize(
    ("words", "count", "message"),
    [
        (["azimuth=0,90,180"], 2, "azimuth=0,90,180: expected 2 numbers, one for each picture, got 3"),
        (["azimuth=0"], 2, "azimuth=0: expected 2 numbers, one for each picture, got 1"),
        (["azimuth=0,90"], 1, "azimuth=0,90: expected 1 numbers"),
        (["elevation=0,0,5"], 2, "elevation=0,0,5: expected 2 numbers"),
        (["azimuth=0,90"], 0, "azimuth=0,90: expected as many pictures in input=, got none"),
        (["azimuth=10,90,370"], None, "expected a number from -360 to 360, or several with commas between"),
        (["azimuth=0,90,-270"], 3, "azimuth=0,90,-270: pictures 2 and 3 are taken from the same place; leave one out"),
        (["azimuth=0,a"], None, "azimuth=0,a: expected a number from -360 to 360, or several with commas between"),
        (["elevation="], None, "elevation=: expected a number from -85 to 85, or several with commas between"),
        (["elevation=0,,0"], None, "elevation=0,,0: expected a number"),
        ([], 5, "5 pictures without azimuths: at most 4 can be told apart; pass azimuth=0,45,..."),
        ([], MOST_PICTURES + 1, f"{MOST_PICTURES + 1} pictures: expected at most {MOST_PICTURES} of one object"),
    ],
)
def test_what_does_not_fit_together_is_one_line(words, count, message):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        places_of(load_config(None, words), count)
    assert message in str(caught.value)


def test_cameras_are_found_by_what_the_prior_draws(prior, files, caplog):
    caplog.set_level(logging.INFO, logger="microdreamer")
    given = [files[name] for name in ("front", "left", "right")]
    result = microdreamer.reconstruct(given, config=SMALL, prior=prior)
    assert [camera["azimuth"] for camera in result.record["cameras"]] == [0.0, 270.0, 90.0]
    assert result.record["config"]["azimuth"] is None  # as given
    lines = [line for line in caplog.messages if "taken for" in line]
    assert "left.png: taken for the left side (azimuth 270)" in lines[0] and "right.png: taken for the right side (azimuth 90)" in lines[1]


def test_a_prior_that_takes_no_picture_says_so(files):
    class Reader(StubPrior):
        accepts = frozenset({"prompt"})

    for keys in ({}, {"azimuth": [0, 90]}):
        with pytest.raises(UserError, match="the micro prior does not take a picture"):
            microdreamer.reconstruct([files["front"], files["right"]], "an egg", SMALL | keys, prior=Reader(None))


# ---- How large the object is in each ----


def heights(pictures: list[torch.Tensor]) -> list[float]:
    return [float((picture[3] > 0.5).any(dim=1).float().mean()) for picture in pictures]


def test_an_object_is_equally_high_in_all_pictures_of_one_elevation():
    """A long thing seen from its end, close by, and from its side: as pictures that were framed one by one, and as they were taken."""

    def box(width: int, height: int, side: int = 200) -> Image.Image:
        image = Image.new("RGBA", (side, side), (0, 0, 0, 0))
        image.paste((200, 10, 10, 255), ((side - width) // 2, (side - height) // 2, (side + width) // 2, (side + height) // 2))
        return image

    end, long = box(160, 160), box(160, 60)
    said = []
    one, other = heights(as_pictures([end, long], [0.0, 5.0], say=said.append))
    assert one == pytest.approx(other, abs=0.01) == pytest.approx(0.3, abs=0.01)
    assert said == ["picture 1, picture 2: centred, the object 30% of the side high in each picture"]
    # from other elevations an object is not equally high: each is framed for itself
    one, other = heights(as_pictures([end, long], [0.0, -60.0]))
    assert one == pytest.approx(0.8) and other == pytest.approx(0.3)
    # and as told, they stay
    one, other = heights(as_pictures([end, box(80, 40)], [0.0, 0.0], recenter=False))
    assert one == pytest.approx(0.8) and other == pytest.approx(0.2)


def test_renders_that_agree_are_taken_as_they_are(prior, files):
    pictures = as_pictures([files["front"], files["right"]], [0.0, 0.0])
    for picture, name in zip(pictures, ("front", "right"), strict=True):
        assert np.array_equal((picture * 255).round().byte().permute(1, 2, 0).numpy(), np.asarray(Image.open(files[name])))
    tensor = pictures[0]
    assert torch.equal(as_pictures([tensor, files["right"]], [0.0, 0.0])[0], tensor)


# ---- What is made of them ----


def error(model, truth, azimuth: float) -> float:
    camera = orbit_cameras(0, azimuth, width=48, height=48)
    with torch.no_grad():
        return float((model.render(camera, 1.0).image - truth.render(camera, torch.ones(3)).image).abs().mean())


def test_each_picture_counts_in_fit_texture_and_refinement(prior, files, tmp_path):
    """Where the pictures alone are fitted, another one makes its own side right, in Gaussians, texture and refined mesh."""
    config = SMALL | {"lambda_sd": 0, "total_steps": 2, "init_steps": 150, "num_pts": 600, "iters_refine": 0, "density_end_iter": 0}
    results = {}
    for names in (("front",), ("front", "right")):
        keys = config | ({"azimuth": [SIDES[name] for name in names]})
        results[names] = microdreamer.reconstruct([files[name] for name in names], config=keys, prior=prior)
    one, two = results.values()
    assert error(two.gaussians, prior.truth, 90.0) < 0.85 * error(one.gaussians, prior.truth, 90.0)
    assert error(two.gaussians, prior.truth, 0.0) < 1.3 * error(one.gaussians, prior.truth, 0.0)
    assert len(two.inputs) == 2 and two.inputs[1].azimuth == 90.0
    refined = [microdreamer.refine(result, prior=prior) for result in (one, two)]
    assert [len(result.inputs) for result in refined] == [1, 2]
    assert error(refined[1].shown, prior.truth, 90.0) < 0.7 * error(refined[0].shown, prior.truth, 90.0)


def test_the_command_writes_a_plan_of_the_cameras(prior, files, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("microdreamer.pipeline.reconstruction.prior_for", lambda *_: prior)
    words = [f"{key}={value}" for key, value in SMALL.items()] + [f"outdir={tmp_path / 'out'}", "--quiet"]
    assert commands.make([f"input={files['front']},{files['right']}", "azimuth=0,90", "elevation=0,0", *words]) == 0
    record = json.loads((tmp_path / "out" / "front.json").read_text())
    assert record["cameras"] == [{"elevation": 0.0, "azimuth": 0.0}, {"elevation": 0.0, "azimuth": 90.0}]
    assert "front_cameras.jpg" in record["files"] and record["config"]["azimuth"] == [0.0, 90.0]
    plan = np.asarray(Image.open(tmp_path / "out" / "front_cameras.jpg")).astype(int)
    blue = (plan[..., 2] - plan[..., 0]) > 100
    rows, columns = np.nonzero(blue)
    size = len(plan)
    assert rows.max() > 0.85 * size and columns.max() > 0.85 * size  # front below, right on the right
    assert rows.min() > 0.3 * size and columns.min() > 0.3 * size  # nothing behind or on the left
    # another run of that name from one picture leaves no plan of an earlier one
    assert commands.make([f"input={files['front']}", *words]) == 0
    assert not (tmp_path / "out" / "front_cameras.jpg").exists()


@pytest.mark.parametrize("which", ["missing", "corrupt", "lengths", "same place"])
def test_what_cannot_be_used_is_one_line_and_leaves_nothing(prior, files, tmp_path, monkeypatch, capsys, which):
    monkeypatch.setattr("microdreamer.pipeline.reconstruction.prior_for", lambda *_: pytest.fail("the prior was loaded"))
    second, azimuths = files["right"], "0,90"
    if which == "missing":
        second, message = tmp_path / "none.png", "none.png: no such file"
    elif which == "corrupt":
        second.write_bytes(second.read_bytes()[:200])
        message = "right.png: the picture is damaged"
    elif which == "lengths":
        azimuths, message = "0,90,180", "azimuth=0,90,180: expected 2 numbers, one for each picture, got 3"
    else:
        azimuths, message = "0,360", "pictures 1 and 2 are taken from the same place"
    assert commands.make([f"input={files['front']},{second}", f"azimuth={azimuths}", f"outdir={tmp_path / 'out'}", "--quiet"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and message in said and not (tmp_path / "out").exists()


def test_configurations_are_not_changed(prior, files):
    config = dataclasses.replace(load_config(None, [f"{key}={value}" for key, value in SMALL.items()]), azimuth=[0.0, 90.0])
    before = dataclasses.asdict(config)
    microdreamer.reconstruct([str(files["front"]), str(files["right"])], config=config, prior=prior)
    assert dataclasses.asdict(config) == before


class KnowsTheOther(OraclePrior):
    """Draws nothing from the first picture, and the object's sides from any other one, each seen from the azimuth that it was taken at."""

    def __init__(self, truth, azimuths):
        super().__init__(truth, 32)
        self.azimuths = azimuths

    def condition(self, image=None, prompt=None, negative_prompt=None, elevation=0.0):
        return next(azimuth for picture, azimuth in self.azimuths if picture is image)

    def predict_noise(self, latents, t, cameras, condition, guidance_scale):
        if condition == 0:
            alpha = self.schedule.alpha(t)
            return (latents - alpha**0.5) / (1 - alpha) ** 0.5  # white
        return super().predict_noise(latents, t, cameras.turned(-condition), condition, guidance_scale)


@pytest.mark.parametrize("side", ["right", "back", "left"])
def test_what_is_drawn_from_another_picture_finds_its_azimuth(prior, files, side):
    pictures = as_pictures([files["front"], files[side]], [0.0, 0.0])
    asked = KnowsTheOther(prior.truth, list(zip(pictures, (0.0, SIDES[side]), strict=True)))
    assert found_azimuths(load_config("micro", []), asked, pictures, [0.0, 0.0]) == [0.0, SIDES[side]]
