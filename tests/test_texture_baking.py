"""Scattering colours into a texture and filling its holes."""

import numpy as np
import pytest
import torch
from conftest import DEVICES

from kernels import texture_baking
from kernels.texture import texture
from kernels.texture_baking import METHODS, fill_holes, grid_put, nearest_filled

ON_DEVICES = pytest.mark.parametrize("device", DEVICES)


@ON_DEVICES
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", [0, 1, 2])
def test_grid_put_goldens(parity, case, method, device):
    data = np.load(parity("priors/grid_put.npz"))
    height, width, min_resolution = (int(size) for size in data[f"{case}.H_W_minres"])
    uv = (torch.tensor(data[f"{case}.coords_row_col"]).flip(-1) + 1) / 2
    values = torch.tensor(data[f"{case}.values"])
    sums, counts = grid_put(
        uv.to(device), values.to(device), height, width, method=method, min_resolution=min_resolution, align_corners=True
    )
    tolerance = {"rtol": 0, "atol": 1e-6 if device == "cpu" else 1e-5}  # on a GPU the sums are taken in any order
    torch.testing.assert_close(sums.cpu(), torch.tensor(data[f"{case}.{method}_sum"]), **tolerance)
    torch.testing.assert_close(counts.cpu(), torch.tensor(data[f"{case}.{method}_count"]), **tolerance)
    if method == "mipmap":
        normalised = torch.where(counts > 0, sums / counts.clamp_min(1e-12), 0.0)
        torch.testing.assert_close(normalised.cpu(), torch.tensor(data[f"{case}.mipmap_normalised"]), rtol=0, atol=1e-4)


@ON_DEVICES
@pytest.mark.parametrize("size", [(7, 12), (1, 5), (1, 1)])
def test_linear_put_is_the_transpose_of_the_texture_look_up(size, device):
    uv = torch.rand(60, 2, device=device, dtype=torch.float64) * 1.4 - 0.2
    values = torch.randn(60, 3, device=device, dtype=torch.float64)
    tex = torch.zeros(1, *size, 3, device=device, dtype=torch.float64, requires_grad=True)
    read = texture(tex, uv[None, None], filter="linear", wrap="clamp", compiled=False)
    (expected,) = torch.autograd.grad((read[0, 0] * values).sum(), tex)
    torch.testing.assert_close(grid_put(uv, values, *size, method="linear")[0], expected[0])
    nearest, counts = grid_put(uv, values, *size, method="nearest")
    read = texture(tex, uv[None, None], filter="nearest", wrap="clamp", compiled=False)
    (expected,) = torch.autograd.grad((read[0, 0] * values).sum(), tex)
    torch.testing.assert_close(nearest, expected[0])
    assert counts.sum() == 60


@ON_DEVICES
def test_texel_centres_come_back(device):
    """A picture put at its texel centres is the picture, with a count of 1."""
    colors = torch.rand(6, 9, 3, device=device)
    row, column = torch.meshgrid(torch.arange(6, device=device), torch.arange(9, device=device), indexing="ij")
    centres = torch.stack([(column + 0.5) / 9, (row + 0.5) / 6], -1)
    corners = torch.stack([column / 8, row / 5], -1)
    for uv, align in ((centres, False), (corners, True)):
        for method in METHODS:
            sums, counts = grid_put(uv.reshape(-1, 2), colors.reshape(-1, 3), 6, 9, method=method, align_corners=align, min_resolution=1)
            torch.testing.assert_close(sums, colors, rtol=0, atol=1e-5)
            torch.testing.assert_close(counts, torch.ones_like(counts), rtol=0, atol=1e-5)


@ON_DEVICES
def test_mipmap_fills_around_a_point_and_keeps_what_is_there(device):
    uv, value = torch.tensor([[0.3, 0.6]], device=device), torch.tensor([[1.0, 0.25]], device=device)
    fine, fine_counts = grid_put(uv, value, 64, 64, method="linear")
    sums, counts = grid_put(uv, value, 64, 64, method="mipmap", min_resolution=4)
    there = fine_counts > 0
    torch.testing.assert_close(sums[there[..., 0]], fine[there[..., 0]])
    assert (counts > 0).sum() > 10 * there.sum()
    filled = counts[..., 0] > 0
    torch.testing.assert_close((sums / counts)[filled], value.expand(int(filled.sum()), 2), rtol=1e-4, atol=1e-5)


@ON_DEVICES
def test_weights_and_points_that_are_nowhere(device):
    uv, values = torch.rand(50, 2, device=device), torch.rand(50, 3, device=device)
    weights = torch.rand(50, device=device)
    sums, counts = grid_put(uv, values, 8, 8, method="linear", weights=weights)
    torch.testing.assert_close(counts.sum(), weights.sum())
    torch.testing.assert_close(sums.sum((0, 1)), (weights[:, None] * values).sum(0))
    bad = torch.tensor([[float("nan"), 0.5], [0.5, float("inf")]], device=device)
    more = grid_put(torch.cat([uv, bad]), torch.cat([values, bad.new_full((2, 3), float("nan"))]), 8, 8, method="linear")
    torch.testing.assert_close(more, grid_put(uv, values, 8, 8, method="linear"))
    nothing = grid_put(uv[:0], values[:0], 8, 8)
    assert nothing[0].shape == (8, 8, 3) and not nothing[0].any() and not nothing[1].any()


def test_gradients_reach_values_and_weights():
    uv = torch.rand(9, 2, dtype=torch.float64)
    leaves = [torch.rand(9, 2, dtype=torch.float64, requires_grad=True), torch.rand(9, dtype=torch.float64, requires_grad=True)]
    assert torch.autograd.gradcheck(lambda v, w: grid_put(uv, v, 8, 8, weights=w, min_resolution=1), leaves)


@ON_DEVICES
def test_grid_put_repeats(device):
    uv, values = torch.rand(20000, 2, device=device), torch.randn(20000, 3, device=device)
    torch.use_deterministic_algorithms(device != "cpu")
    try:
        first, again = (grid_put(uv, values, 16, 16, method="linear")[0] for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(first, again)


# ---- Holes ----


def squared_distances(mask):
    """Of every texel to every filled one, by brute force: [H*W, filled]."""
    places = torch.stack(torch.meshgrid(*(torch.arange(side) for side in mask.shape), indexing="ij"), -1).reshape(-1, 2)
    return (places[:, None] - places[mask.cpu().flatten()]).square().sum(-1)


@ON_DEVICES
@pytest.mark.parametrize("way", ["chosen", "by parts"])
@pytest.mark.parametrize("padding", [None, 0, 1, 2.5, 6, 100])
@pytest.mark.parametrize("shape", [(17, 23), (1, 30), (30, 1), (40, 12)])
def test_nearest_filled_is_nearest(shape, padding, way, device, monkeypatch):
    if way == "by parts":  # what CUDA tensors take, here on any device
        monkeypatch.setattr(texture_baking, "_nearest_by_scipy", lambda mask: texture_baking._nearest_by_parts(mask, padding))
        monkeypatch.setattr(texture_baking, "PAIRS_PER_CHUNK", 500)
    for share in (0.02, 0.3, 1.0):
        mask = torch.rand(shape, device=device) < share
        mask[0, 0] = True
        index = nearest_filled(mask, padding).cpu()
        distances = squared_distances(mask)
        least = distances.min(1).values.reshape(shape)
        reached = least <= (torch.inf if padding is None else padding**2)
        itself = torch.arange(mask.numel()).reshape(shape)
        assert torch.equal(index[~reached], itself[~reached])
        assert mask.cpu().flatten()[index[reached]].all()
        places = torch.stack([index // shape[1] - itself // shape[1], index % shape[1] - itself % shape[1]], -1)
        assert torch.equal(places.square().sum(-1)[reached], least[reached])
        assert torch.equal(index[mask.cpu()], itself[mask.cpu()])


@ON_DEVICES
def test_fill_holes_spreads_colours_and_keeps_the_filled(device):
    colors = torch.rand(20, 24, 3, device=device, requires_grad=True)
    mask = torch.zeros(20, 24, dtype=torch.bool, device=device)
    mask[5:9, 6:10] = True
    mask[15, 20] = True
    full = fill_holes(colors, mask)
    assert torch.equal(full[mask], colors[mask])
    assert torch.equal(full[0, 0], colors[5, 6]) and torch.equal(full[19, 23], colors[15, 20])
    near = fill_holes(colors, mask, padding=2)
    assert torch.equal(near[7, 11], colors[7, 9]) and torch.equal(near[7, 12], colors[7, 12])
    (grad,) = torch.autograd.grad(full.sum(), colors)
    assert grad[~mask].abs().max() == 0 and grad.sum() == full.numel()


@ON_DEVICES
def test_textures_without_holes_or_without_anything(device):
    colors = torch.rand(5, 6, 3, device=device)
    for value in (True, False):
        assert torch.equal(fill_holes(colors, torch.full((5, 6), value, device=device)), colors)
        assert torch.equal(fill_holes(colors, torch.full((5, 6), value, device=device), padding=1), colors)
    empty = torch.zeros(0, 6, 3, device=device)
    assert fill_holes(empty, torch.zeros(0, 6, dtype=torch.bool, device=device)).shape == (0, 6, 3)


def test_errors_name_the_argument():
    uv, values = torch.rand(5, 2), torch.rand(5, 3)
    with pytest.raises(ValueError, match="method: expected one of nearest, linear, mipmap, got 'cubic'"):
        grid_put(uv, values, 4, 4, method="cubic")
    with pytest.raises(ValueError, match=r"uv, values: expected \[N,2\] and \[N,C\], got \[5, 2\] and \[4, 3\]"):
        grid_put(uv, values[:4], 4, 4)
    with pytest.raises(ValueError, match=r"weights: expected \[5\] like uv"):
        grid_put(uv, values, 4, 4, weights=torch.ones(5, 1))
    with pytest.raises(ValueError, match="expected at least 1x1"):
        grid_put(uv, values, 0, 4)
    with pytest.raises(ValueError, match=r"texture, mask: expected \[H,W,C\] and \[H,W\]"):
        fill_holes(torch.rand(4, 4, 3), torch.ones(4, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"mask: expected bool \[H,W\], got torch\.float32"):
        nearest_filled(torch.ones(4, 5))
    with pytest.raises(ValueError, match="padding: expected 0 or more"):
        nearest_filled(torch.ones(4, 5, dtype=torch.bool), padding=-1)
