"""GrabCut from a saliency map, on made and real pictures."""

import numpy as np
import pytest
from made_pictures import alpha_of, iou, toy_mask, toy_picture
from PIL import Image

from microdreamer.images.cutout import cut_out
from microdreamer.images.grabcut import grabcut_alpha
from microdreamer.images.saliency import saliency, superpixels

skimage_data = pytest.importorskip("skimage.data")  # brick, grass, gravel, astronaut, coffee, cat and rocket come with the package


@pytest.mark.parametrize("texture", ["brick", "grass", "gravel"])
def test_grabcut_finds_a_made_object_before_a_real_texture(texture):
    mask = toy_mask()
    result = cut_out(toy_picture(getattr(skimage_data, texture)(), mask), "grabcut")
    assert result.mode == "RGBA" and result.size == (256, 256)
    assert iou(alpha_of(result), mask) > 0.93


def test_grabcut_keeps_a_handle_open_and_edges_soft():
    mask = toy_mask()
    y = np.linspace(120, 190, 256)[:, None, None]
    alpha = grabcut_alpha(np.asarray(toy_picture((y * np.ones((1, 256, 3))).astype(np.uint8), mask)))
    assert iou(alpha, mask) > 0.97
    assert alpha[120, 168] < 0.05  # inside the handle
    assert 100 < ((alpha > 0.05) & (alpha < 0.95)).sum() < 3000
    assert np.abs(alpha - mask).mean() < 0.01


def test_grabcut_is_repeatable_and_does_not_depend_on_resolution():
    mask = toy_mask(640)
    large = toy_picture(skimage_data.grass(), mask)
    first, second = (alpha_of(cut_out(large, "grabcut")) for _ in range(2))
    assert np.array_equal(first, second)
    small = alpha_of(cut_out(large.resize((320, 320), Image.Resampling.BOX), "grabcut"))
    assert iou(np.kron(small, np.ones((2, 2))), first) > 0.95


@pytest.mark.parametrize("name, floor", [("composite_1", 0.85), ("composite_2", 0.97), ("composite_3", 0.96), ("composite_4", 0.8)])
def test_grabcut_on_composites_with_true_masks(shared_data, name, floor):
    picture = Image.open(shared_data(f"images/with_background/{name}.png"))
    truth = Image.open(shared_data(f"images/with_background/{name}_mask.png"))
    assert iou(alpha_of(cut_out(picture, "grabcut")), np.asarray(truth) / 255) > floor


def test_grabcut_finds_the_cup_and_its_saucer():
    alpha = alpha_of(cut_out(Image.fromarray(skimage_data.coffee()), "grabcut"))
    assert alpha[200, 270] > 0.9 and alpha[300, 180] > 0.9  # the coffee, the saucer's rim
    assert alpha[20, 20] < 0.1 and alpha[380, 30] < 0.1  # the table


def test_saliency_is_high_on_the_object_only():
    mask = toy_mask(128) > 0.5
    lab = np.where(mask[..., None], np.array([50.0, 60, 40]), np.array([70.0, 0, 0])).astype(np.float32)
    values = saliency(lab)
    assert values.shape == mask.shape and values.min() >= 0 and values.max() <= 1
    assert values[mask].mean() > 0.9 and values[~mask].mean() < 0.1


def test_superpixels_are_numbered_without_gaps():
    labels = superpixels(np.random.default_rng(0).uniform(0, 100, (37, 61, 3)).astype(np.float32), count=50)
    assert labels.shape == (37, 61) and np.array_equal(np.unique(labels), np.arange(labels.max() + 1))


@pytest.mark.parametrize("shape", [(16, 16), (17, 400), (300, 16)])
def test_odd_shapes_work(shape):
    rgb = np.full((*shape, 3), 200, np.uint8)
    rgb[shape[0] // 4 : -(shape[0] // 4), shape[1] // 4 : -(shape[1] // 4)] = (200, 30, 30)
    assert grabcut_alpha(rgb).shape == shape
