"""The rasteriser against golden tensors of the published one, against float64, and at the edges of its input."""

import numpy as np
import pytest
import torch
from conftest import DEVICES, relative_l2

from kernels import extension
from kernels.gaussian_raster import rasterize_gaussians

GOLDENS = [
    "raster_n500_sh0_128x128_white",
    "raster_n500_sh3_150x99_black",
    "raster_n500_rgb_128x128_white_mod07",
    "raster_n5000_sh0_128x128_white",
    "raster_n5000_sh3_101x77_black",
]
LEAVES = ("means", "scales", "rotations", "opacities")


def golden_case(path, device):
    """Keyword arguments of `rasterize_gaussians` whose leaves require gradients, and the file's arrays."""
    data = np.load(path)
    width, height = int(data["image_width"]), int(data["image_height"])

    def tensor(name):
        return torch.tensor(data[name], device=device)

    appearance = "colors" if "colors" in data else "shs"
    inputs = {name: tensor(name).requires_grad_() for name in (*LEAVES, appearance)}
    if appearance == "shs":
        inputs["sh"] = inputs.pop("shs")
    focal = [width / (2 * float(data["tanfovx"])), height / (2 * float(data["tanfovy"]))]
    inputs |= {
        "world_to_camera": tensor("viewmatrix").T[None].contiguous(),
        "intrinsics": torch.tensor([[*focal, width / 2, height / 2]], device=device),
        "background": tensor("bg"),
        "scale_modifier": float(data["scale_modifier"]),
        "means2d_offset": torch.zeros(1, len(data["means"]), 2, device=device, requires_grad=True),
        "sh_origin": tensor("campos")[None],  # the file's camera passes minus its eye
        "width": width,
        "height": height,
    }
    return inputs, data


def golden_gradients(data, device):
    expected = {name: data[f"grad_{name}"] for name in LEAVES}
    # The published gradient with respect to the scales leaves out the factor `scale_modifier`.
    expected["scales"] = expected["scales"] * data["scale_modifier"]
    expected["means2d_offset"] = data["grad_means2d"][None, :, :2]
    for file_name, name in (("grad_shs", "sh"), ("grad_colors", "colors")):
        if file_name in data:
            expected[name] = data[file_name]
    return {name: torch.tensor(value, device=device) for name, value in expected.items()}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "reference"])
@pytest.mark.parametrize("name", GOLDENS)
def test_goldens(parity, name, compiled, device):
    if compiled and not extension.available(device):
        pytest.skip("the extension is not built")
    if not compiled and "n5000" in name and device == "cpu":
        pytest.skip("the reference is slow; two sizes of it are enough")
    inputs, data = golden_case(parity(f"kernels/{name}.npz"), device)
    rendering = rasterize_gaussians(**inputs, compiled=compiled)
    for output in ("image", "alpha", "depth"):
        expected = torch.tensor(data[output], device=device)
        torch.testing.assert_close(getattr(rendering, output)[0], expected, rtol=0, atol=1e-4)
    assert torch.equal(rendering.radii[0].cpu(), torch.tensor(data["radii"]))

    weights = {key: torch.tensor(data[f"weight_{key}_q"], device=device) / 64 for key in ("image", "depth", "alpha")}
    sum((getattr(rendering, key) * weight).sum() for key, weight in weights.items()).backward()
    for key, expected in golden_gradients(data, device).items():
        assert relative_l2(inputs[key].grad, expected) < 1e-3, key
