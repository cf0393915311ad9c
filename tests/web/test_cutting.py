"""The cut-out of the page: the same as a run's, and what can be corrected about it."""

import numpy as np
import pytest
import torch
from batch_bench import oracle, view_of
from PIL import Image, ImageDraw, ImageFilter

from microdreamer.core.errors import UserError
from microdreamer.images.cutout import GRABCUT, load_matting
from microdreamer.pipeline.pictures import load_picture
from microdreamer.web.cutting import KEEP_ALPHA, cut, shifted


@pytest.fixture
def photo(tmp_path):
    """A red disc on a grey ground, off the middle."""
    image = Image.new("RGB", (120, 90), (190, 190, 195))
    ImageDraw.Draw(image).ellipse((20, 20, 70, 70), fill=(200, 30, 30))
    image.filter(ImageFilter.GaussianBlur(2)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def alpha_of(found):
    return np.asarray(found.image)[..., 3]


def test_the_automatic_cut_out_is_that_of_a_run(tmp_path):
    view_of(oracle()).save(tmp_path / "a_rgba.png")
    found = cut(tmp_path / "a_rgba.png")
    wanted = load_picture(tmp_path / "a_rgba.png")
    assert found.image.mode == "RGBA" and found.image.size == tuple(wanted.shape[1:])
    pixels = torch.from_numpy(np.asarray(found.image).copy()).permute(2, 0, 1) / 255
    assert (pixels - wanted).abs().max() <= 0.5 / 255 + 1e-6


def test_colours_find_the_disc_and_it_comes_to_the_middle(photo):
    found = cut(photo, "colours (GrabCut)")
    rows, columns = np.nonzero(alpha_of(found) > 127)
    side = found.image.width
    assert found.image.height == side and abs(rows.mean() - side / 2) < 0.03 * side and abs(columns.mean() - side / 2) < 0.03 * side
    assert np.asarray(found.image)[side // 2, side // 2, 0] > 150 and "background removed" in found.said and "photo" not in found.said
    still = cut(photo, "colours (GrabCut)", recenter=False)
    rows, columns = np.nonzero(alpha_of(still) > 127)
    assert still.image.size == (120, 120) and abs(columns.mean() - 45) < 3 and abs(rows.mean() - (45 + 15)) < 3


def test_a_lower_threshold_keeps_more(photo):
    areas = [alpha_of(cut(photo, "network", threshold, False)).sum(dtype=float) for threshold in (0.1, 0.5, 0.9)]
    assert areas[0] > areas[1] > areas[2] > 0
    rgb = np.zeros((4, 4, 3), np.uint8)
    ramp = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
    for threshold in (0.2, 0.5, 0.7):
        moved = shifted(lambda _: ramp, threshold)(rgb)
        assert ((moved > 0.5) == (ramp > threshold)).all() and moved.min() == 0 and moved.max() == 1
    matting = load_matting(GRABCUT)
    assert shifted(matting, 0.5) is matting


def test_alpha_is_kept_as_it_is_where_that_is_wanted(tmp_path):
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[8:40, 8:40] = (10, 200, 30, 90)  # haze, which would not count as a cut-out
    Image.fromarray(pixels).save(tmp_path / "haze.png")
    found = cut(tmp_path / "haze.png", KEEP_ALPHA, recenter=False)
    assert (np.asarray(found.image) == pixels).all()


@pytest.mark.parametrize(
    ("name", "way", "threshold", "message"),
    [
        ("text.png", "automatic", 0.5, "not a picture"),
        ("none.png", "automatic", 0.5, "no such file"),
        ("photo.png", KEEP_ALPHA, 0.5, "no alpha to keep"),
        ("photo.png", "by magic", 0.5, "expected one of automatic"),
        ("photo.png", "network", 1.5, "between 0 and 1"),
        ("plain.png", "colours (GrabCut)", 0.5, "no object found"),
    ],
)
def test_what_cannot_be_cut_out_is_one_line_without_a_folder(photo, tmp_path, name, way, threshold, message):
    (tmp_path / "text.png").write_text("no picture")
    Image.new("RGB", (64, 64), "white").save(tmp_path / "plain.png")
    with pytest.raises(UserError, match=message) as caught:
        cut(tmp_path / name, way, threshold)
    assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value) and "process.py" not in str(caught.value)
