"""From pictures as people have them to a framed object: what is moved, what stays, and the line that says so."""

import numpy as np
import pytest
from made_pictures import box_of, toy_mask, toy_picture
from PIL import Image

from microdreamer.images.preparation import prepared


def jug(place: tuple[int, int], side: int = 150, canvas: tuple[int, int] = (256, 256)) -> Image.Image:
    """A cut-out jug whose picture of `side` pixels lies at `place` in a transparent canvas."""
    mask = toy_mask(side)
    part = toy_picture(np.full((side, side, 3), 128, np.uint8), mask)
    part.putalpha(Image.fromarray(np.round(mask * 255).astype(np.uint8)))
    image = Image.new("RGBA", canvas, (0, 0, 0, 0))
    image.paste(part, place)
    return image


def is_centred(image: Image.Image) -> bool:
    left, top, right, bottom = box_of(image)
    return abs(left + right - image.width) <= 2 and abs(top + bottom - image.height) <= 2


def test_a_framed_cut_out_stays_as_it_is_and_nothing_is_said():
    picture = jug((-40, -46), side=340)
    result, said = prepared(picture)
    assert said is None and np.array_equal(np.asarray(result), np.asarray(picture))


@pytest.mark.parametrize("picture", [jug((0, 0)), jug((60, 60), 80), jug((-75, -75), 300, (161, 161))], ids=["off", "small", "trimmed"])
def test_what_is_not_framed_is_centred_at_its_size(picture):
    result, said = prepared(picture)
    left, top, right, bottom = box_of(result)
    assert result.size == (512, 512) and is_centred(result) and abs(max(right - left, bottom - top) - 410) <= 5
    assert "recenter=false leaves it there" in said and said.endswith("centred, at 80% of the side") and "\n" not in said
    kept, said = prepared(picture, recenter=False)
    assert said is None and np.array_equal(np.asarray(kept), np.asarray(picture))


def test_a_photograph_loses_its_background_and_is_centred():
    photo = toy_picture(np.full((200, 200, 3), 150, np.uint8), toy_mask(200))
    result, said = prepared(photo, "embedded")
    assert is_centred(result) and said == "background removed; centred, at 80% of the side"
    kept, said = prepared(photo, "embedded", recenter=False)
    assert kept.size == (200, 200) and kept.mode == "RGBA" and said == "background removed"


def test_the_pictures_that_ship_stay_as_they_are():
    from test_test_data import CUT_OUTS

    for path in CUT_OUTS:
        with Image.open(path) as picture:
            result, said = prepared(picture)
        assert said is None and np.array_equal(np.asarray(result), np.asarray(Image.open(path))), path


def test_an_invisible_picture_is_refused():
    with pytest.raises(ValueError, match="something visible"):
        prepared(Image.new("RGBA", (64, 64), (255, 255, 255, 10)))
