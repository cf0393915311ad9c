"""Cut-outs: the embedded method on made and real pictures, the choice of model with a stand-in for rembg, refusals."""

import sys
import types

import numpy as np
import pytest
from PIL import Image, ImageDraw

from microdreamer.images import cutout
from microdreamer.images.cutout import cut_out, decontaminate, embedded_alpha, load_matting
from microdreamer.images.saliency import saliency, superpixels

skimage_data = pytest.importorskip("skimage.data")  # brick, grass, gravel, astronaut, coffee, cat and rocket come with the package


def toy_mask(side: int = 256) -> np.ndarray:
    """A made object's silhouette: a jug with a handle that one can look through."""
    mask = Image.new("L", (side * 4, side * 4), 0)
    draw = ImageDraw.Draw(mask)
    unit = side * 4 / 16
    draw.ellipse([8.5 * unit, 5 * unit, 12.5 * unit, 10 * unit], fill=255)
    draw.ellipse([9.3 * unit, 6 * unit, 11.6 * unit, 9 * unit], fill=0)
    draw.rounded_rectangle([4 * unit, 4 * unit, 10 * unit, 12.5 * unit], radius=unit, fill=255)
    return np.asarray(mask.resize((side, side), Image.Resampling.BOX), dtype=np.float32) / 255


def toy_picture(background: np.ndarray, mask: np.ndarray) -> Image.Image:
    """The jug, lit from the left and painted in two colours, before `background`."""
    side = len(mask)
    y, x = np.mgrid[:side, :side] / side
    paint = np.where((y < 0.5)[..., None], np.array([205, 60, 40]), np.array([235, 190, 60]))
    lit = paint * (1.1 - 0.7 * x)[..., None]
    backdrop = np.asarray(Image.fromarray(background).convert("RGB").resize((side, side)), dtype=np.float32)
    return Image.fromarray((backdrop * (1 - mask[..., None]) + lit * mask[..., None]).clip(0, 255).astype(np.uint8))


def iou(alpha: np.ndarray, truth: np.ndarray) -> float:
    found, expected = alpha > 0.5, truth > 0.5
    return float((found & expected).sum() / (found | expected).sum())


def alpha_of(image: Image.Image) -> np.ndarray:
    return np.asarray(image.getchannel("A"), dtype=np.float32) / 255


@pytest.mark.parametrize("texture", ["brick", "grass", "gravel"])
def test_embedded_finds_a_made_object_before_a_real_texture(texture):
    mask = toy_mask()
    result = cut_out(toy_picture(getattr(skimage_data, texture)(), mask), "embedded")
    assert result.mode == "RGBA" and result.size == (256, 256)
    assert iou(alpha_of(result), mask) > 0.93


def test_embedded_keeps_a_handle_open_and_edges_soft():
    mask = toy_mask()
    y = np.linspace(120, 190, 256)[:, None, None]
    alpha = embedded_alpha(np.asarray(toy_picture((y * np.ones((1, 256, 3))).astype(np.uint8), mask)))
    assert iou(alpha, mask) > 0.97
    assert alpha[120, 168] < 0.05  # inside the handle
    assert 100 < ((alpha > 0.05) & (alpha < 0.95)).sum() < 3000
    assert np.abs(alpha - mask).mean() < 0.01


def test_embedded_is_repeatable_and_does_not_depend_on_resolution():
    mask = toy_mask(640)
    large = toy_picture(skimage_data.grass(), mask)
    first, second = (alpha_of(cut_out(large, "embedded")) for _ in range(2))
    assert np.array_equal(first, second)
    small = alpha_of(cut_out(large.resize((320, 320), Image.Resampling.BOX), "embedded"))
    assert iou(np.kron(small, np.ones((2, 2))), first) > 0.95


@pytest.mark.parametrize("name, floor", [("composite_1", 0.85), ("composite_2", 0.97), ("composite_3", 0.96), ("composite_4", 0.8)])
def test_embedded_on_composites_with_true_masks(shared_data, name, floor):
    picture = Image.open(shared_data(f"images/with_background/{name}.png"))
    truth = Image.open(shared_data(f"images/with_background/{name}_mask.png"))
    assert iou(alpha_of(cut_out(picture, "embedded")), np.asarray(truth) / 255) > floor


def test_embedded_finds_the_cup_and_its_saucer():
    alpha = alpha_of(cut_out(Image.fromarray(skimage_data.coffee()), "embedded"))
    assert alpha[200, 270] > 0.9 and alpha[300, 180] > 0.9  # the coffee, the saucer's rim
    assert alpha[20, 20] < 0.1 and alpha[380, 30] < 0.1  # the table


def test_picture_with_alpha_comes_back_as_it_is():
    image = Image.new("RGBA", (4, 4), (10, 20, 30, 128))
    assert np.array_equal(np.asarray(cut_out(image)), np.asarray(image))


def test_edges_lose_the_background_colour():
    mask = toy_mask()
    rgb = np.zeros((256, 256, 3), np.float32)
    rgb[:] = mask[..., None] * np.array([220, 60, 40]) + (1 - mask[..., None]) * np.array([20, 60, 230])
    soft = (mask > 0) & (mask < 1)
    colours = decontaminate(np.round(rgb).astype(np.uint8), mask)
    error = np.abs(colours[soft].astype(float) - [220, 60, 40])
    assert np.abs(rgb[soft] - [220, 60, 40]).max(axis=1).mean() > 50  # what there was to take away
    assert error.mean() < 3
    assert np.array_equal(colours[mask == 1], np.round(rgb).astype(np.uint8)[mask == 1])
    assert not colours[mask == 0][:100].any()


def test_saliency_is_high_on_the_object_only():
    mask = toy_mask(128) > 0.5
    lab = np.where(mask[..., None], np.array([50.0, 60, 40]), np.array([70.0, 0, 0])).astype(np.float32)
    values = saliency(lab)
    assert values.shape == mask.shape and values.min() >= 0 and values.max() <= 1
    assert values[mask].mean() > 0.9 and values[~mask].mean() < 0.1


def test_superpixels_are_numbered_without_gaps():
    labels = superpixels(np.random.default_rng(0).uniform(0, 100, (37, 61, 3)).astype(np.float32), count=50)
    assert labels.shape == (37, 61) and np.array_equal(np.unique(labels), np.arange(labels.max() + 1))


@pytest.mark.parametrize("colour", [(0, 0, 0), (128, 128, 128), (255, 255, 255)])
def test_picture_of_one_colour_is_refused(colour):
    with pytest.raises(ValueError, match="pass an RGBA picture"):
        cut_out(Image.new("RGB", (64, 48), colour), "embedded")


def test_tiny_picture_is_refused():
    with pytest.raises(ValueError, match=r"at least 16x16 pixels to cut out, got 1x1"):
        cut_out(Image.new("RGB", (1, 1)), "embedded")


@pytest.mark.parametrize("shape", [(16, 16), (17, 400), (300, 16)])
def test_odd_shapes_work(shape):
    rgb = np.full((*shape, 3), 200, np.uint8)
    rgb[shape[0] // 4 : -(shape[0] // 4), shape[1] // 4 : -(shape[1] // 4)] = (200, 30, 30)
    assert embedded_alpha(rgb).shape == shape


@pytest.mark.parametrize(
    "region, message",
    [
        (np.s_[:1, :5], "no object found.*0.1%.*--model"),
        (np.s_[:, :], "no background found.*100.0%"),
        (np.s_[:45, :], None),
    ],
)
def test_implausible_masks_are_refused(region, message):
    alpha = np.zeros((64, 64), np.float32)
    alpha[region] = 1
    picture = Image.new("RGB", (64, 64), (90, 90, 90))
    if message is None:
        assert cut_out(picture, lambda rgb: alpha).mode == "RGBA"
    else:
        with pytest.raises(ValueError, match=message):
            cut_out(picture, lambda rgb: alpha)


def test_object_all_around_the_border_is_refused():
    alpha = np.ones((64, 64), np.float32)
    alpha[10:-10, 10:-10] = 0
    with pytest.raises(ValueError, match="touches 100% of the picture's border"):
        cut_out(Image.new("RGB", (64, 64)), lambda rgb: alpha)


@pytest.fixture
def rembg_stand_in(monkeypatch):
    """A module with rembg's two functions: knows u2net, marks the middle of the picture."""
    module = types.ModuleType("rembg")

    def new_session(name):
        if name != "u2net":
            raise ValueError(f"No session class found for model '{name}'")
        return "session"

    def remove(image, session, only_mask):
        assert session == "session" and only_mask
        mask = Image.new("L", image.size, 0)
        mask.paste(255, (image.width // 4, image.height // 4, image.width * 3 // 4, image.height * 3 // 4))
        return mask

    module.new_session, module.remove = new_session, remove
    monkeypatch.setitem(sys.modules, "rembg", module)
    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    return module


@pytest.fixture
def without_rembg(monkeypatch):
    monkeypatch.setattr(cutout.importlib.util, "find_spec", lambda name: None)
    for name in ("rembg", "onnxruntime"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.parametrize("model", ["auto", "u2net"])
def test_rembg_is_used_where_it_can_be_had(rembg_stand_in, capsys, model):
    alpha = alpha_of(cut_out(Image.new("RGB", (40, 20), (200, 100, 50)), model))
    assert alpha[5:15, 10:30].min() == 1 and alpha.sum() == 200
    assert capsys.readouterr().err == ""


def test_auto_says_that_rembg_is_missing(without_rembg, capsys):
    assert load_matting("auto") is embedded_alpha
    assert capsys.readouterr().err == "cut-out: embedded method (rembg is not installed: pip install 'microdreamer-optimized[rembg]')\n"


def test_auto_says_that_the_model_cannot_be_fetched(rembg_stand_in, capsys):
    def no_network(name):
        raise ConnectionError("name resolution failed\nlong traceback")

    rembg_stand_in.new_session = no_network
    assert load_matting("auto") is embedded_alpha
    assert capsys.readouterr().err.count("\n") == 1


def test_named_model_without_rembg_is_an_error(without_rembg):
    with pytest.raises(ValueError, match=r"--model u2net: rembg is not installed: pip install .*; or pass --model embedded"):
        load_matting("u2net")


def test_unknown_model_is_an_error(rembg_stand_in):
    with pytest.raises(ValueError, match=r"--model u3net: rembg could not load 'u3net' \(No session class found.*check its name"):
        load_matting("u3net")


def test_failure_inside_rembg_is_not_swallowed(rembg_stand_in):
    def broken(image, session, only_mask):
        raise RuntimeError("out of memory")

    rembg_stand_in.remove = broken
    with pytest.raises(RuntimeError, match="out of memory"):
        cut_out(Image.new("RGB", (40, 40)), "auto")


def test_process_loads_rembg_once_and_writes_what_it_cut_out(rembg_stand_in, tmp_path):
    from microdreamer.pipeline import cutouts as process

    for name in ("one.png", "two.jpg"):
        Image.new("RGB", (40, 20), (200, 100, 50)).save(tmp_path / name)
    sessions, new_session = [], rembg_stand_in.new_session
    rembg_stand_in.new_session = lambda name: sessions.append(name) or new_session(name)
    assert process.main([str(tmp_path), "--out", str(tmp_path / "cut"), "--model", "u2net", "--no-recenter"]) == 0
    assert sessions == ["u2net"]
    for name in ("one_rgba.png", "two_rgba.png"):
        rgba = np.asarray(Image.open(tmp_path / "cut" / name))
        assert rgba.shape == (20, 40, 4) and rgba[5:15, 10:30, 3].min() == 255 and (rgba[..., 3] > 0).sum() == 200
        assert np.abs(rgba[10, 20, :3].astype(int) - (200, 100, 50)).max() <= 3
    assert process.main([str(tmp_path / "one.png"), "--model", "u2net", "--size", "64", "--border_ratio", "0.5"]) == 0
    alpha = np.asarray(Image.open(tmp_path / "one_rgba.png").getchannel("A"))
    assert alpha.shape == (64, 64) and (alpha > 128).any(axis=0).sum() == 32 and (alpha > 128).any(axis=1).sum() == 16
