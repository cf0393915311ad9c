"""Filling the texels between charts: nearest colours, exactly, on every device."""

import pytest
import torch
from conftest import DEVICES

from microdreamer.kernels import texture_padding
from microdreamer.kernels.texture_padding import fill_holes, nearest_filled

ON_DEVICES = pytest.mark.parametrize("device", DEVICES)


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
        monkeypatch.setattr(texture_padding, "_nearest_by_scipy", lambda mask: texture_padding._nearest_by_parts(mask, padding))
        monkeypatch.setattr(texture_padding, "PAIRS_PER_CHUNK", 500)
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
    with pytest.raises(ValueError, match=r"texture, mask: expected \[H,W,C\] and \[H,W\]"):
        fill_holes(torch.rand(4, 4, 3), torch.ones(4, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"mask: expected bool \[H,W\], got torch\.float32"):
        nearest_filled(torch.ones(4, 5))
    with pytest.raises(ValueError, match="padding: expected 0 or more"):
        nearest_filled(torch.ones(4, 5, dtype=torch.bool), padding=-1)
