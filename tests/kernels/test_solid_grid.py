"""Solids on a grid: SciPy's voids and distances on every device."""

import numpy as np
import pytest
import torch
from conftest import DEVICES
from scipy import ndimage

from microdreamer.kernels import extension, solid_grid
from microdreamer.kernels.solid_grid import UNREACHED, fill_voids, signed_distance, signed_distance_reference

compiled = pytest.mark.skipif(not extension.available("cpu"), reason="no kernels were built")


def blobs(*sides, share=0.4, smooth=1.5, seed=0):
    noise = np.random.default_rng(seed).standard_normal(sides)
    smoothed = ndimage.gaussian_filter(noise, smooth)
    return torch.from_numpy(smoothed > np.quantile(smoothed, 1 - share))


SOLIDS = {
    "blobs": blobs(30, 41, 25),
    "foam": blobs(20, 20, 20, share=0.8, smooth=0.5),
    "labyrinth": blobs(24, 24, 24, share=0.65, smooth=0.0),
    "flat": blobs(1, 9, 30),
    "point": torch.nn.functional.pad(torch.ones(1, 1, 1, dtype=torch.bool), (3, 9, 4, 4, 20, 5)),
    "shell": torch.nn.functional.pad(torch.zeros(6, 6, 6, dtype=torch.bool), (1,) * 6, value=True),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("fill", [fill_voids, solid_grid._fill_by_sweeps])
@pytest.mark.parametrize("name", SOLIDS)
def test_voids_are_those_of_scipy(name, fill, device):
    expected = ndimage.binary_fill_holes(SOLIDS[name].numpy())
    assert np.array_equal(fill(SOLIDS[name].to(device)).cpu().numpy(), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("inside", [False, True])
def test_a_grid_of_one_kind_stays_as_it_is(inside, device):
    solid = torch.full((4, 5, 6), inside, device=device)
    assert torch.equal(fill_voids(solid), solid)
    assert torch.equal(solid_grid._fill_by_sweeps(solid), solid)
    assert (signed_distance(solid) == (UNREACHED if inside else -UNREACHED)).all()
    assert (signed_distance_reference(solid) == (UNREACHED if inside else -UNREACHED)).all()


@compiled
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SOLIDS)
def test_distances_are_those_of_scipy(name, device):
    solid = SOLIDS[name]
    expected = ndimage.distance_transform_edt(solid.numpy()) - ndimage.distance_transform_edt(~solid.numpy())
    found = signed_distance(solid.to(device)).cpu()
    torch.testing.assert_close(found, torch.from_numpy(expected).float(), atol=1e-5, rtol=1e-6)


@compiled
@pytest.mark.parametrize("device", DEVICES)
def test_the_op_is_registered_right(device):
    signed_distance(SOLIDS["flat"])
    torch.library.opcheck(torch.ops.microdreamer.signed_squared_distance, (SOLIDS["flat"].to(device),))


@pytest.mark.parametrize("switch", [pytest.param("1", marks=compiled), "0"])
def test_what_is_no_mask_is_refused(monkeypatch, switch):
    monkeypatch.setenv("USE_CUDA_EXTRACT", switch)
    for wrong in (torch.zeros(4, 4, dtype=torch.bool), torch.zeros(4, 4, 4)):
        with pytest.raises(ValueError, match="inside: expected"):
            signed_distance(wrong)
