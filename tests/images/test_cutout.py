"""Cut-outs: the embedded network on made and real pictures, the choice of model with a stand-in for rembg, refusals."""

import sys
import types

import numpy as np
import pytest
from made_pictures import alpha_of, iou, toy_mask, toy_picture
from PIL import Image

from microdreamer.images import cutout
from microdreamer.images.cutout import cut_out, embedded_alpha, load_matting
from microdreamer.images.grabcut import grabcut_alpha

skimage_data = pytest.importorskip("skimage.data")  # brick, grass, gravel, astronaut, coffee, cat and rocket come with the package


@pytest.mark.parametrize("texture", ["brick", "grass", "gravel"])
def test_embedded_finds_a_made_object_before_a_real_texture(texture):
    mask = toy_mask()
    result = cut_out(toy_picture(getattr(skimage_data, texture)(), mask), "embedded")
    assert result.mode == "RGBA" and result.size == (256, 256)
    assert iou(alpha_of(result), mask) > 0.92


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


@pytest.mark.parametrize("name, floor", [("composite_1", 0.8), ("composite_2", 0.98), ("composite_3", 0.98), ("composite_4", 0.98)])
def test_embedded_on_composites_with_true_masks(shared_data, name, floor):
    picture = Image.open(shared_data(f"images/with_background/{name}.png"))
    truth = Image.open(shared_data(f"images/with_background/{name}_mask.png"))
    assert iou(alpha_of(cut_out(picture, "embedded")), np.asarray(truth) / 255) > floor


def test_embedded_finds_the_cup_and_its_saucer():
    alpha = alpha_of(cut_out(Image.fromarray(skimage_data.coffee()), "embedded"))
    assert alpha[200, 270] > 0.9 and alpha[300, 180] > 0.9  # the coffee, the saucer's rim
    assert alpha[20, 20] < 0.1 and alpha[380, 30] < 0.1  # the table


@pytest.mark.parametrize("model", ["embedded", "grabcut"])
@pytest.mark.parametrize("colour", [(0, 0, 0), (128, 128, 128), (255, 255, 255)])
def test_picture_of_one_colour_is_refused(colour, model):
    with pytest.raises(ValueError, match="pass an RGBA picture"):
        cut_out(Image.new("RGB", (64, 48), colour), model)


def test_tiny_picture_is_refused():
    with pytest.raises(ValueError, match=r"at least 16x16 pixels to cut out, got 1x1"):
        cut_out(Image.new("RGB", (1, 1)), "embedded")


@pytest.mark.parametrize("shape", [(16, 16), (17, 400), (300, 16)])
def test_odd_shapes_work(shape):
    rgb = np.full((*shape, 3), 200, np.uint8)
    rgb[shape[0] // 4 : -(shape[0] // 4), shape[1] // 4 : -(shape[1] // 4)] = (200, 30, 30)
    assert embedded_alpha(rgb).shape == shape


@pytest.mark.parametrize("name, alpha", [("embedded", embedded_alpha), ("u2netp", embedded_alpha), ("grabcut", grabcut_alpha)])
def test_names_of_the_methods_that_ship(without_rembg, name, alpha):
    assert load_matting(name) is alpha


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


def test_auto_without_rembg_is_the_embedded_network_without_a_word(without_rembg, capsys, caplog):
    assert load_matting("auto") is embedded_alpha
    assert capsys.readouterr() == ("", "") and caplog.messages == []


def test_auto_says_that_the_model_cannot_be_fetched(rembg_stand_in, caplog):
    def no_network(name):
        raise ConnectionError("name resolution failed\nlong traceback")

    rembg_stand_in.new_session = no_network
    assert load_matting("auto") is embedded_alpha
    assert caplog.messages == [
        "cut-out: embedded network (rembg could not load 'u2net' (name resolution failed long traceback): check its name and the network)"
    ]


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
