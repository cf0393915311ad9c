"""Framing: where an object lies in its picture, and the geometry of putting it in the middle."""

import numpy as np
import pytest
from made_pictures import box_of, disc
from PIL import Image

from microdreamer.images.framing import common_height, recentre, why_not_framed


@pytest.mark.parametrize("size, border_ratio", [(512, 0.2), (256, 0.0), (100, 0.5)])
@pytest.mark.parametrize("place", [(3, 5, 63, 35), (100, 0, 120, 149), (0, 0, 150, 150)])
def test_recentre_puts_the_box_in_the_middle(place, size, border_ratio):
    image = Image.new("RGBA", (150, 150), (0, 0, 0, 0))
    image.paste((200, 10, 10, 255), place)
    left, top, right, bottom = box_of(result := recentre(image, size, border_ratio))
    assert result.size == (size, size) and result.mode == "RGBA"
    longer = round(size * (1 - border_ratio))
    width, height = place[2] - place[0], place[3] - place[1]
    assert max(right - left, bottom - top) == longer
    assert abs((right - left) - width * longer / max(width, height)) <= 1
    assert abs((bottom - top) - height * longer / max(width, height)) <= 1
    assert abs(left - (size - right)) <= 1 and abs(top - (size - bottom)) <= 1


def test_recentre_keeps_every_row_and_column():
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (10, 10, 18, 18))
    image.paste((0, 255, 0, 255), (17, 17, 18, 18))  # the last pixel of the box
    result = np.asarray(recentre(image, 8, 0.0))
    assert np.array_equal(result, np.asarray(image)[10:18, 10:18])


@pytest.mark.parametrize("size", [37, 200])
def test_recentre_has_no_dark_halo(size):
    result = np.asarray(recentre(Image.fromarray(disc()), size), float)
    seen = result[..., 3] > 40
    assert np.abs(result[seen][:, :3] - [240, 140, 20]).max() <= 4


def test_recentre_refuses_an_invisible_picture():
    with pytest.raises(ValueError, match="alpha of at most 12 of 255 everywhere"):
        recentre(Image.new("RGBA", (5, 5), (255, 255, 255, 10)))


def test_recentre_of_one_pixel_and_of_a_line():
    assert box_of(recentre(Image.new("RGBA", (1, 1), (1, 2, 3, 255)), 10, 0.2)) == (1, 1, 9, 9)
    assert recentre(Image.new("RGBA", (3000, 1), (1, 2, 3, 255)), 64).getchannel("A").getextrema()[1] > 0


def square_with_a_box(left: int, top: int, right: int, bottom: int, size: tuple[int, int] = (200, 200)) -> Image.Image:
    image = Image.new("RGBA", size, (0, 0, 0, 0))
    image.paste((200, 10, 10, 255), (left, top, right, bottom))
    return image


@pytest.mark.parametrize(
    "box, reason",
    [
        ((20, 20, 180, 180), None),  # as process.py frames
        ((50, 50, 150, 150), None),  # 50 %
        ((51, 51, 150, 150), "filled 50% of"),
        ((5, 50, 195, 150), None),  # 95 %
        ((4, 50, 195, 150), "filled 96% of"),
        ((0, 0, 200, 200), "filled 100% of"),
        ((30, 20, 190, 180), None),  # 5 % off
        ((31, 20, 191, 180), "lay 6% of the picture's side off its middle"),
        ((20, 9, 180, 169), "lay 6% of"),
        ((2, 40, 184, 160), None),  # a margin of 1 %
        ((1, 40, 183, 160), "touched the picture's border"),
        ((40, 18, 160, 200), "touched the picture's border"),
    ],
)
def test_framed_or_not(box, reason):
    found = why_not_framed(square_with_a_box(*box))
    assert (found is None) if reason is None else (reason in found)


def test_framing_is_that_of_the_picture_padded_to_a_square():
    assert "filled 100%" in why_not_framed(square_with_a_box(0, 0, 200, 100, (200, 100)))
    assert why_not_framed(square_with_a_box(20, 0, 180, 100, (200, 100))) is None


@pytest.mark.parametrize("size, border_ratio", [(512, 0.2), (256, 0.1), (300, 0.45)])
def test_what_recentre_makes_is_framed(size, border_ratio):
    assert why_not_framed(recentre(square_with_a_box(3, 150, 40, 190), size, border_ratio)) is None


def test_one_object_is_equally_high_in_all_pictures():
    """A long thing seen from its end and from its side, each scaled to its own longer side as process.py does."""
    end, side = square_with_a_box(20, 20, 180, 180), square_with_a_box(20, 70, 180, 130)
    height = common_height([end, side], size=200)
    assert height == 60
    for image, width in ((end, 60), (side, 160)):
        left, top, right, bottom = box_of(recentre(image, 200, height=height))
        assert (right - left, bottom - top) == (width, 60) and abs(left + right - 200) <= 1 and abs(top + bottom - 200) <= 1


def test_pictures_that_agree_stay_and_photographs_do_not():
    """Renders from one distance: a near side looks a little larger. Cut out of photographs nothing is known of their distances."""
    near, far = square_with_a_box(25, 30, 175, 170), square_with_a_box(40, 35, 160, 165)
    assert common_height([near, far]) is None
    assert common_height([near, far], anyway=True, size=200) == 149
    assert common_height([near, square_with_a_box(0, 30, 120, 170)]) is not None  # touches the border


def test_pictures_of_other_sizes_are_compared_by_their_share():
    small = square_with_a_box(25, 30, 175, 170)
    assert common_height([small, small.resize((800, 800), Image.Resampling.NEAREST)]) is None
