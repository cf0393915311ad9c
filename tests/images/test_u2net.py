"""U^2-Net-p: the map of the published network, as onnxruntime computed it from the published file; shapes; weights that are damaged."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from microdreamer.images import u2net
from microdreamer.images.u2net import SIDE, U2Net, load_u2net, saliency_map

# onnxruntime 1.32's map of `waves(strength)`: its sum, and its entries at rows 100, 140, 180, 220 and columns 100, 140, 180, 220.
PUBLISHED = {
    0.1: (911.1, [[0.001, 0.003, 0.052, 0.034], [0.001, 0.004, 0.072, 0.025], [0.035, 0.005, 0.020, 0.003], [0.085, 0.004, 0.006, 0.001]]),
    0.3: (17096.2, [[0.688, 1.0, 1.0, 0.544], [0.845, 0.998, 1.0, 0.656], [0.777, 0.999, 1.0, 0.375], [0.197, 0.723, 0.742, 0.092]]),
}


def waves(strength: float) -> torch.Tensor:
    """A normalised picture [1,3,320,320] of waves with a rectangle that stands out by `strength`: hard, so that the map is not 0 or 1."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    waves = (0.6 * np.sin(10 * x + 3 * y * x + 2 * y * y), np.sin(4 * x + 11 * y * x + y * y), np.sin(2 * x + 5 * x * y + 13 * y * y))
    picture = np.stack(waves)
    picture[:, 80:230, 100:220] += strength * np.array([1, -0.5, 0.7])[:, None, None]
    return torch.from_numpy(picture.astype(np.float32))[None]


@pytest.mark.parametrize("strength", PUBLISHED)
def test_map_is_that_of_the_published_network(strength):
    total, entries = PUBLISHED[strength]
    with torch.inference_mode():
        found = load_u2net()(waves(strength))[0, 0].numpy()
    # float16 weights move the sums by 2.6 % and 1.1 %; corners that are aligned, or one dilation of another size, by 40 % and more.
    assert found.sum() == pytest.approx(total, rel=0.04)
    error = np.abs(found[100:221:40, 100:221:40] - entries)
    assert error.mean() < 0.03 and error.max() < 0.15


def test_weights_are_the_published_ones_to_half_precision(shared_data):
    onnx = pytest.importorskip("onnx")
    from scripts.convert_u2netp import convolutions_in_order

    graph = onnx.load(shared_data("weights/u2netp.onnx")).graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    shipped = load_file(u2net.WEIGHTS)
    names = convolutions_in_order(U2Net())
    steps = [node for node in graph.node if node.op_type == "Conv"]
    assert len(names) == len(steps) and len(shipped) == 2 * len(names)
    for name, step in zip(names, steps, strict=True):
        for key, value in zip(("weight", "bias"), step.input[1:], strict=True):
            assert np.array_equal(shipped[f"{name}.{key}"].numpy(), arrays[value].astype(np.float16)), name


def test_it_has_the_size_that_the_paper_gives():
    assert sum(parameter.numel() for parameter in U2Net().parameters()) == 1_125_485  # 1.13 M, 4.7 MB in float32 (table 5)
    assert u2net.WEIGHTS.stat().st_size < 2.4e6


def test_shrinking_rounds_up_so_that_any_size_works():
    with torch.inference_mode():
        assert U2Net()(torch.zeros(2, 3, 37, 50)).shape == (2, 1, 37, 50)


def test_brightness_of_the_whole_does_not_matter():
    rgb = np.full((120, 90, 3), (40, 60, 50), np.uint8)
    rgb[30:80, 20:60] = (120, 20, 20)
    dark = saliency_map(rgb // 2)
    assert dark.shape == (SIDE, SIDE)
    assert np.abs(dark - saliency_map(rgb)).mean() < 0.01
    assert dark[150, 150] > 0.9 and dark[10, 10] < 0.1


@pytest.mark.parametrize("damage", ["missing", "cut short"])
def test_damaged_weights_are_named(tmp_path, monkeypatch, damage):
    path = tmp_path / "u2netp.safetensors"
    if damage == "cut short":
        path.write_bytes(u2net.WEIGHTS.read_bytes()[:1000])
    monkeypatch.setattr(u2net, "WEIGHTS", path)
    load_u2net.cache_clear()
    try:
        with pytest.raises(
            ValueError, match=r"u2netp\.safetensors: the weights of the cut-out cannot be read .*restore the file"
        ) as caught:
            load_u2net()
    finally:
        load_u2net.cache_clear()
    assert "\n" not in str(caught.value)
