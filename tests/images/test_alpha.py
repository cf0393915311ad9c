"""Alpha that is a cut-out and alpha that is not, on both sides of each limit of the rule; haze."""

import numpy as np
import pytest
from made_pictures import alpha_of, iou, toy_mask, toy_picture
from PIL import Image, ImageDraw

from microdreamer.images.alpha import haze_of, why_no_cut_out, without_haze
from microdreamer.images.cutout import cut_out, separated

SIDE = 200


def rounded(radius: float, width: int = SIDE, height: int = SIDE, canvas: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    """Alpha of a rounded rectangle in the middle of a canvas (width, height)."""
    mask = Image.new("L", (canvas[0] * 4, canvas[1] * 4), 0)
    left, top = (canvas[0] - width) * 2, (canvas[1] - height) * 2
    ImageDraw.Draw(mask).rounded_rectangle([left, top, left + width * 4 - 1, top + height * 4 - 1], radius * 4, fill=255)
    return np.asarray(mask.resize(canvas, Image.Resampling.BOX))


def columns_hidden(share: float) -> np.ndarray:
    """Alpha that hides a share of the picture at its left, ragged so that it is no rectangle."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    return np.where(x < share * (1 + 0.8 * np.sin(6 * np.pi * y)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("share, is_cut_out", [(0.03, False), (0.045, False), (0.056, True), (0.3, True)])
def test_share_that_is_hidden(share, is_cut_out):
    assert (why_no_cut_out(columns_hidden(share)) is None) == is_cut_out


@pytest.mark.parametrize("share, is_cut_out", [(0.03, False), (0.09, False), (0.12, True), (0.4, True)])
def test_share_of_the_border_that_is_hidden(share, is_cut_out):
    alpha = np.full((SIDE, SIDE), 255, np.uint8)
    alpha[60:140, 60:140] = 0  # a hole
    alpha[: round((4 * SIDE * share - 16) / 2), :8] = alpha[: round((4 * SIDE * share - 16) / 2), -8:] = 0  # and 16 of the first row
    reason = why_no_cut_out(alpha)
    assert (reason is None) == is_cut_out
    assert is_cut_out or "of the picture's border" in reason


@pytest.mark.parametrize("radius", [3, 10, 25, 50, 80, 100])
def test_rounded_corners_up_to_a_disc_are_windows(radius):
    assert why_no_cut_out(rounded(radius)) is not None
    assert why_no_cut_out(rounded(min(radius, 60), 200, 120)) is not None  # between bars


def test_ellipse_and_faded_border_are_windows():
    y, x = np.mgrid[:120, :SIDE]
    ellipse = np.where(np.hypot((x - 99.5) / 100, (y - 59.5) / 60) < 1, 255, 0).astype(np.uint8)
    assert why_no_cut_out(ellipse) is not None
    distance = np.minimum(np.minimum(x, 199 - x), np.minimum(y, 119 - y))
    assert why_no_cut_out(np.clip(distance * 255 / 20, 0, 255).astype(np.uint8)) is not None


@pytest.mark.parametrize("width, is_cut_out", [(150, True), (186, True), (194, False)])
def test_a_rectangle_is_a_window_only_where_it_spans_the_picture(width, is_cut_out):
    assert (why_no_cut_out(rounded(10, width, 100)) is None) == is_cut_out


@pytest.mark.parametrize("trimmed", [False, True])
def test_objects_are_cut_outs(trimmed):
    alpha = np.round(toy_mask() * 255).astype(np.uint8)
    if trimmed:
        rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
        alpha = alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert why_no_cut_out(alpha) is None


@pytest.mark.parametrize("low, high, is_cut_out", [(200, 256, False), (0, 256, False), (128, 129, False), (254, 256, False), (0, 12, True)])
def test_noise_is_no_cut_out_and_no_object(low, high, is_cut_out):
    noise = np.random.default_rng(0).integers(low, high, (SIDE, SIDE)).astype(np.uint8)
    assert (why_no_cut_out(noise) is None) == is_cut_out  # all hidden: framing says that there is nothing


@pytest.mark.parametrize("strength", [3, 40])
def test_haze_around_an_object_goes(strength):
    mask = np.round(toy_mask() * 255).astype(np.uint8)
    assert haze_of(mask) == 0
    hazy = np.maximum(mask, np.random.default_rng(0).integers(0, strength + 1, mask.shape)).astype(np.uint8)
    picture = Image.fromarray(np.dstack([np.full((*mask.shape, 3), 90, np.uint8), hazy]), "RGBA")
    found = separated(picture)
    assert found.done == f"alpha of up to {strength} of 255 around the object removed" and not found.background_removed
    cleaned = np.asarray(found.image.getchannel("A"))
    assert cleaned[mask == 0].max() == 0 and cleaned[mask == 255].min() == 255
    assert np.array_equal(without_haze(mask, 0), mask)


def test_a_soft_glow_whose_border_is_clean_stays():
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    glow = np.clip(255 - 3 * np.hypot(x, y), 0, 255).astype(np.uint8)
    picture = Image.fromarray(np.dstack([np.full((SIDE, SIDE, 3), 90, np.uint8), glow]), "RGBA")
    found = separated(picture)
    assert found.done is None and np.array_equal(np.asarray(found.image), np.asarray(picture))


def jug_before_a_wall(alpha: np.ndarray) -> tuple[Image.Image, np.ndarray]:
    mask = toy_mask(SIDE)
    wall = np.linspace(120, 190, SIDE)[:, None, None] * np.ones((1, SIDE, 3))
    picture = toy_picture(wall.astype(np.uint8), mask)
    picture.putalpha(Image.fromarray(alpha))
    return picture, mask


@pytest.mark.parametrize("kind", ["nearly opaque", "rounded", "disc", "faded", "noise", "noise of all strengths", "rotated"])
def test_background_is_removed_where_alpha_is_no_cut_out(kind):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    alpha = {
        "nearly opaque": rng.integers(254, 256, (SIDE, SIDE)),
        "rounded": rounded(20),
        "disc": rounded(100),
        "faded": np.clip(np.minimum(np.minimum(x, 199 - x), np.minimum(y, 199 - y)) * 13, 0, 255),
        "noise": rng.integers(200, 256, (SIDE, SIDE)),
        "noise of all strengths": rng.integers(0, 256, (SIDE, SIDE)),
        "rotated": np.where(x + y * 0.06 < 8, 0, 255),
    }[kind].astype(np.uint8)
    picture, mask = jug_before_a_wall(alpha)
    found = separated(picture, "embedded")
    assert found.background_removed and "so it is no cut-out: background removed" in found.done
    assert iou(alpha_of(found.image), mask) > 0.95


def test_alpha_is_kept_where_the_picture_holds_no_other_object():
    picture = Image.new("RGBA", (SIDE, SIDE), (200, 30, 30, 255))
    picture.putalpha(Image.fromarray(rounded(20)))
    found = separated(picture, lambda rgb: np.ones(rgb.shape[:2], np.float32))
    assert not found.background_removed and found.done.endswith("of the picture: alpha kept")
    assert np.array_equal(np.asarray(found.image), np.asarray(picture))
    with pytest.raises(ValueError, match="no background found"):  # nothing is hidden: there is nothing to keep
        cut_out(Image.new("RGBA", (SIDE, SIDE), (200, 30, 30, 254)), lambda rgb: np.ones(rgb.shape[:2], np.float32))


def test_what_was_hidden_stays_hidden_and_does_not_show_to_the_network():
    picture, _ = jug_before_a_wall(rounded(20))
    pixels = np.array(picture)
    pixels[pixels[..., 3] == 0] = (255, 0, 255, 0)
    seen = []

    def everything_but_a_frame(rgb: np.ndarray) -> np.ndarray:
        seen.append(rgb)
        alpha = np.zeros(rgb.shape[:2], np.float32)
        alpha[: SIDE // 2, : SIDE // 2] = 1
        return alpha

    result = cut_out(Image.fromarray(pixels, "RGBA"), everything_but_a_frame)
    assert result.getpixel((0, 0))[3] == 0 and result.getpixel((50, 50))[3] == 255
    assert np.abs(seen[0][0, 0].astype(int) - 120).max() < 30  # the wall's colour, not magenta
