"""Edges of cut-outs: colours without the background's share."""

import numpy as np
from made_pictures import toy_mask

from microdreamer.images.edges import decontaminate


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
