"""The picture of a run: what is said of it, what recenter=false keeps, paths as users type them."""

import numpy as np
import pytest
import torch
from made_pictures import disc
from PIL import Image

from microdreamer.pipeline.pictures import as_picture, caption_beside, load_picture


def small_disc(side: int = 200) -> Image.Image:
    """A disc of 52 pixels in the upper left corner of a transparent picture."""
    image = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    image.paste(Image.fromarray(disc(64)))
    return image


def test_what_was_done_is_said_in_one_line(tmp_path):
    path = tmp_path / "a.png"
    small_disc().save(path)
    said = []
    picture = load_picture(path, say=said.append)
    assert picture.shape == (4, 512, 512) and float(picture[3, 256, 256]) == 1
    assert len(said) == 1 and said[0].startswith(f"{path}: the object filled 26% of") and "\n" not in said[0]
    kept = load_picture(path, recenter=False, say=said.append)
    assert len(said) == 1 and np.array_equal(np.round(kept.permute(1, 2, 0).numpy() * 255), np.asarray(small_disc()))


def test_notes_of_the_reader_come_first(tmp_path):
    frames = [Image.new("RGBA", (64, 64), (0, 0, 0, 0)), Image.fromarray(disc(64))]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    said = []
    load_picture(tmp_path / "a.webp", say=said.append)
    assert said == [f"{tmp_path / 'a.webp'}: frame 2 taken, the first with something in it"]


@pytest.mark.parametrize("form", ["path", "picture", "array"])
def test_every_form_of_a_picture_is_prepared_alike(tmp_path, form):
    image = small_disc()
    image.save(tmp_path / "a.png")
    given = {"path": tmp_path / "a.png", "picture": image, "array": np.asarray(image)}[form]
    said = []
    assert as_picture(given, say=said.append).shape == (4, 512, 512) and len(said) == 1
    assert as_picture(given, recenter=False, say=said.append).shape == (4, 200, 200) and len(said) == 1


def test_home_in_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    Image.fromarray(disc(64)).save(tmp_path / "a_rgba.png")
    (tmp_path / "a_caption.txt").write_text("an orange disc\n")
    assert load_picture("~/a_rgba.png").shape == (4, 64, 64)
    assert caption_beside("~/a_rgba.png") == "an orange disc"


def straight(picture: np.ndarray, dtype: type, scale: float) -> np.ndarray:
    return (picture / 255 * scale).astype(dtype)


@pytest.mark.parametrize(
    "given",
    [
        lambda a: straight(a, np.float32, 1),
        lambda a: straight(a, np.float64, 1) * 1.02 - 0.01,  # as a filter that sharpens leaves it
        lambda a: torch.from_numpy(a.copy()).permute(2, 0, 1),
        lambda a: torch.from_numpy(straight(a, np.float16, 1)).permute(2, 0, 1),
    ],
)
def test_numbers_of_a_known_range_are_the_picture(given):
    picture = disc(64)
    found = as_picture(given(picture), recenter=False).permute(1, 2, 0).numpy() * 255
    assert np.abs(found - picture).max() <= 3


@pytest.mark.parametrize(
    "given, got",
    [
        (lambda a: straight(a, np.float32, 255), "values from 0 to 255"),
        (lambda a: straight(a, np.uint16, 65535), "uint16"),
        (lambda a: straight(a, np.int64, 255), "int64"),
        (lambda a: np.full_like(a, np.nan, dtype=np.float32), "values from nan to nan"),
        (lambda a: torch.from_numpy(straight(a, np.float32, 255)).permute(2, 0, 1), "values from 0 to 255"),
        (lambda a: torch.from_numpy(straight(a, np.int64, 255)).permute(2, 0, 1), "torch.int64"),
    ],
)
def test_numbers_of_another_range_are_refused_and_not_made_white(given, got):
    with pytest.raises(ValueError, match=rf"picture: expected uint8, or floats in \[0, 1\], got {got}; convert it first"):
        as_picture(given(disc(64)))


def test_a_picture_of_sixteen_bits_is_scaled_and_not_cut_off():
    image = Image.fromarray((disc(64)[..., 0].astype(np.uint16)) * 257)
    assert image.mode.startswith("I;16")
    grey = np.asarray(Image.fromarray(disc(64)[..., 0]))
    found = as_picture(image, recenter=False)
    seen = found[3].numpy() > 0.99
    assert np.abs(found[0].numpy()[seen] * 255 - grey[seen]).max() <= 1
