"""The neural field against golden tensors, closed forms, float64 gradients, and published names of parameters."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from conftest import DEVICES, relative_l2
from safetensors.torch import load_file
from torch.utils.checkpoint import checkpoint

from microdreamer.fields import published
from microdreamer.fields.activations import COLOR_ACTIVATIONS, DENSITY_ACTIVATIONS
from microdreamer.fields.backgrounds import EnvironmentBackground
from microdreamer.fields.implicit_volume import ImplicitVolume, ImplicitVolumeSpec
from microdreamer.kernels import extension
from microdreamer.kernels.hash_grid import HashGridSpec, hash_grid_encode, hash_grid_slope

GRID = HashGridSpec(levels=4, features=2, log2_table_size=8, base_resolution=4, growth=1.6)
SMALL = ImplicitVolumeSpec(GRID, hidden=16)


def rough_volume(spec=SMALL, dtype=torch.float32, device="cpu"):
    """A field whose grid says something: at first it holds values of +-1e-4."""
    volume = ImplicitVolume(spec, torch.Generator().manual_seed(1)).to(device, dtype)
    with torch.no_grad():
        volume.encoding.params *= 1e4
    if dtype == torch.float64:  # the op is for float32
        volume.encoding.forward = lambda points, **_: hash_grid_encode(points, volume.encoding.params, spec.grid, compiled=False)
        volume.encoding.slope = lambda points, v: hash_grid_slope(points, volume.encoding.params, v, spec.grid, compiled=False)
    return volume


def points_in_box(count=64, dtype=torch.float32, device="cpu", seed=0):
    draw = torch.Generator().manual_seed(seed)
    return (1.9 * torch.rand(count, 3, generator=draw, dtype=torch.float64) - 0.95).to(device, dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("name", "density_bias", "density_activation"),
    [("magic3d", "blob_magic3d", "softplus"), ("dreamfusion", "blob_dreamfusion", "trunc_exp"), ("const", -1.0, "softplus")],
)
def test_goldens(parity, name, density_bias, density_activation, device):
    data = {
        key: torch.from_numpy(value).to(device)
        for key, value in np.load(parity("generators/implicit_volume_small.npz")).items()
        if key != "hash_levels"
    }
    spec = dataclasses.replace(
        SMALL, density_bias=density_bias, density_activation=density_activation, normals="finite_difference", axes="threestudio"
    )
    volume = ImplicitVolume(spec)
    volume.load_published(load_file(parity("generators/implicit_volume_small.weights.safetensors")), prefix="")
    volume.to(device)
    points = published.out_of_axes(data["points"], "threestudio")
    torch.testing.assert_close(volume.encoding((data["points"] + 1) / 2), data["enc"], rtol=1e-5, atol=1e-6)
    values = volume(points, with_normals=True)
    torch.testing.assert_close(values.density, data[f"{name}_density"][:, 0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(volume.density(points), values.density)
    torch.testing.assert_close(values.features, data[f"{name}_features"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(published.in_axes(values.normal, "threestudio"), data[f"{name}_normal"], rtol=0, atol=3e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_activations(parity, device):
    data = np.load(parity("generators/activations.npz"))
    for name, function in {**DENSITY_ACTIVATIONS, **COLOR_ACTIVATIONS}.items():
        x = torch.from_numpy(data["x"]).to(device).requires_grad_()
        y = function(x)
        y.sum().backward()
        torch.testing.assert_close(y.detach().cpu(), torch.from_numpy(data[f"{name}_y"]), rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(x.grad.cpu(), torch.from_numpy(data[f"{name}_dy"]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("blob_magic3d", lambda r: 10 * (1 - r / 0.5)),
        ("blob_dreamfusion", lambda r: 5 * torch.exp(-(r**2) / 0.08)),
        (-1.0, lambda r: torch.full_like(r, -1.0)),
    ],
)
def test_a_new_field_is_its_bias(kind, expected):
    # The grid starts within 1e-4 and the network's weights below 1, so the sum of 8 x 16 products stays below 0.02.
    volume = ImplicitVolume(dataclasses.replace(SMALL, density_bias=kind, density_activation="exp"), torch.Generator().manual_seed(0))
    points = points_in_box()
    torch.testing.assert_close(volume.density(points).log(), expected(points.norm(dim=-1)), rtol=0, atol=0.02)
    if kind != -1.0:
        near = 0.3 * points  # farther out, one of the blobs is flatter than the grid
        normal = volume(near, with_normals=True).normal
        torch.testing.assert_close(normal, torch.nn.functional.normalize(near, dim=-1), rtol=0, atol=0.02)


def test_field_by_hand():
    volume = rough_volume(dtype=torch.float64)
    points = points_in_box(dtype=torch.float64)
    encoded = hash_grid_encode((points + 1) / 2, volume.encoding.params, GRID, compiled=False).detach().numpy()
    states = {name: tensor.numpy() for name, tensor in volume.state_dict().items()}

    def network(name):
        hidden = np.maximum(encoded @ states[f"{name}.layers.0.weight"].T, 0)
        return hidden @ states[f"{name}.layers.2.weight"].T

    bias = 10 * (1 - np.linalg.norm(points.numpy(), axis=1) / 0.5)
    values = volume(points)
    np.testing.assert_allclose(values.density.detach(), np.log1p(np.exp(network("density_network")[:, 0] + bias)), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(values.features.detach(), network("feature_network"), rtol=1e-9)


@pytest.mark.parametrize("normals", ["analytic", "finite_difference"])
@pytest.mark.parametrize("bias", ["blob_magic3d", "blob_dreamfusion", -1.0])
def test_normals_look_against_the_density_slope(normals, bias):
    volume = rough_volume(dataclasses.replace(SMALL, density_bias=bias, normals=normals, normal_step=1e-7), torch.float64)
    points = points_in_box(dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(volume.density(points).sum(), points)
    expected = -gradient / gradient.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(volume(points, with_normals=True).normal, expected, rtol=0, atol=1e-5)


def test_normals_at_the_box_do_not_leave_it():
    volume = rough_volume(dataclasses.replace(SMALL, normals="finite_difference"))
    corner = torch.tensor([[1.0, 1.0, 1.0]])
    assert torch.equal(volume(corner, with_normals=True).normal, torch.zeros(1, 3))  # all three neighbours are the corner itself


@pytest.mark.parametrize("bias", ["blob_magic3d", "blob_dreamfusion", -1.0])
def test_gradients_of_analytic_normals_are_right(bias):
    grid = HashGridSpec(levels=2, features=2, log2_table_size=4, base_resolution=2, growth=1.6)  # few parameters to move one by one
    spec = dataclasses.replace(SMALL, grid=grid, hidden=6, density_bias=bias, density_activation="trunc_exp")
    volume = rough_volume(spec, torch.float64)
    points = points_in_box(5, torch.float64).requires_grad_()
    parameters = dict(volume.named_parameters())

    def all_of(points, *tensors):
        values = torch.func.functional_call(volume, dict(zip(parameters, tensors, strict=True)), (points,), {"with_normals": True})
        return values.density.log(), values.features, values.normal

    tensors = [parameter.detach().clone().requires_grad_() for parameter in parameters.values()]
    assert torch.autograd.gradcheck(all_of, (points, *tensors), eps=1e-7, atol=1e-4)


def test_views_change_the_features_only():
    volume = rough_volume(dataclasses.replace(SMALL, dir_encoding="sh4"))
    points, directions = points_in_box(), torch.nn.functional.normalize(points_in_box(seed=1), dim=-1)
    front, back = volume(points, directions), volume(points, -directions)
    assert torch.equal(front.density, back.density) and torch.equal(front.density, volume.density(points))
    assert ((front.features - back.features).abs() > 1e-4).any(0).all()
    with pytest.raises(ValueError, match="dir_encoding=sh4: expected directions"):
        volume(points)


def test_draws_repeat():
    states = [ImplicitVolume(SMALL, torch.Generator().manual_seed(seed)).state_dict() for seed in (3, 3, 4)]
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]) and not torch.equal(tensor, states[2][name])
    bound = SMALL.hidden**-0.5
    last = states[0]["feature_network.layers.2.weight"]
    assert 0.8 * bound < float(last.abs().max()) <= bound


@pytest.mark.parametrize("device", DEVICES)
def test_without_gradients_the_values_are_the_same(device):
    volume = rough_volume(device=device)
    points = points_in_box(device=device)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            bare = volume(points, with_normals=True)
        for one, other in zip(bare, volume(points, with_normals=True), strict=True):
            assert not one.requires_grad and torch.equal(one, other)


@pytest.mark.parametrize("normals", ["analytic", "finite_difference"])
@pytest.mark.parametrize("device", DEVICES)
def test_recomputed_fields_have_the_same_gradients(normals, device):
    volume = rough_volume(dataclasses.replace(SMALL, normals=normals), device=device)
    points = points_in_box(device=device)

    def gradients(evaluate):
        values = evaluate(points)
        loss = values.density.log().sum() + values.features.square().sum() + (values.normal * points.exp()).sum()
        return torch.autograd.grad(loss, list(volume.parameters()))

    def evaluated(points):
        return volume(points, with_normals=True)

    kept = gradients(evaluated)
    recomputed = gradients(lambda points: checkpoint(evaluated, points, use_reentrant=False))
    for one, other in zip(kept, recomputed, strict=True):
        assert other.any() and relative_l2(one, other) < 1e-5


def test_the_op_and_plain_pytorch_train_alike():
    if not extension.available("cpu"):
        pytest.skip("no compiled cpu kernels")
    found = []
    for dtype in (torch.float32, torch.float64):
        volume, points = rough_volume(dtype=dtype), points_in_box(dtype=dtype)
        values = volume(points, with_normals=True)
        loss = values.density.mean() + values.features.square().mean() + (values.normal * points).sum()
        found.append(torch.autograd.grad(loss, list(volume.parameters())))
    for one, other in zip(*found, strict=True):
        assert relative_l2(one, other) < 1e-4


# ---- Published fields ----


def published_state(manifest):
    draw = torch.Generator().manual_seed(0)
    types = {"float32": torch.float32, "int32": torch.int32, "bool": torch.bool}
    state = {}
    for entry in manifest["entries"]:
        values = torch.rand(entry["shape"], generator=draw) - 0.5
        state[entry["key"]] = values.to(types[entry["dtype"]])
    state["geometry.bbox"] = torch.tensor([[-1.0] * 3, [1.0] * 3])
    return state


@pytest.mark.parametrize(("name", "encoding"), [("asd_sd_nerf", "hash"), ("asd_mv_nerf", "hash"), ("mvdream_sd21", "sh3")])
def test_published_checkpoints_load_to_the_last_key(parity, name, encoding):
    manifest = json.loads(parity(f"generators/manifests/nerf__{name}.json").read_text())
    state = published_state(manifest)
    volume = ImplicitVolume(ImplicitVolumeSpec(axes="threestudio"))
    background = EnvironmentBackground(encoding, axes="threestudio")
    volume.load_published(state)
    background.load_published(state)
    totals = manifest["parameter_totals"]
    assert sum(parameter.numel() for parameter in volume.parameters()) == totals["geometry"]
    assert sum(parameter.numel() for parameter in background.parameters()) == totals["background"]
    assert torch.equal(volume.encoding.params, state["geometry.encoding.encoding.encoding.params"])
    assert torch.equal(volume.density_network.layers[2].weight, state["geometry.density_network.layers.2.weight"])
    assert torch.equal(background.network.layers[4].weight, state["background.network.layers.4.weight"])


def small_published_state():
    volume = rough_volume()
    state = {theirs: volume.state_dict()[ours] for theirs, ours in published_names().items()}
    return {f"geometry.{name}": tensor for name, tensor in state.items()} | {"geometry.bbox": torch.tensor([[-1.0] * 3, [1.0] * 3])}


def published_names():
    networks = [f"{kind}_network.layers.{number}.weight" for kind in ("density", "feature") for number in (0, 2)]
    return {"encoding.encoding.encoding.params": "encoding.params", **{name: name for name in networks}}


def test_published_fields_stand_in_a_world_with_z_up():
    volume = ImplicitVolume(dataclasses.replace(SMALL, axes="threestudio"))
    volume.load_published(small_published_state())
    own = rough_volume()  # the same parameters, read in the project's axes
    right, up, front = torch.eye(3)[:, None]  # of the project: x, y, z
    torch.testing.assert_close(volume.density(front), own.density(torch.tensor([[1.0, 0.0, 0.0]])))
    torch.testing.assert_close(volume.density(right), own.density(torch.tensor([[0.0, 1.0, 0.0]])))
    torch.testing.assert_close(volume.density(up), own.density(torch.tensor([[0.0, 0.0, 1.0]])))
    points = points_in_box()
    turned = volume(published.out_of_axes(points, "threestudio"), with_normals=True).normal
    torch.testing.assert_close(published.in_axes(turned, "threestudio"), own(points, with_normals=True).normal)


def test_a_foreign_checkpoint_changes_nothing():
    volume = rough_volume(dataclasses.replace(SMALL, axes="threestudio"))
    before = {name: tensor.clone() for name, tensor in volume.state_dict().items()}
    good = small_published_state()
    short = {name: tensor for name, tensor in good.items() if "feature_network.layers.2" not in name}
    cases = [
        (short, "without geometry.feature_network.layers.2.weight"),
        (good | {"geometry.sdf_network.weight": torch.zeros(3)}, "with geometry.sdf_network.weight"),
        (good | {"geometry.encoding.encoding.encoding.params": torch.zeros(12)}, r"expected shape \[1664\], got \[12\]"),
        (good | {"geometry.bbox": torch.tensor([[-2.0] * 3, [2.0] * 3])}, "geometry.bbox: expected"),
        ({}, "without geometry.density_network"),
    ]
    for state, message in cases:
        with pytest.raises(ValueError, match=message):
            volume.load_published(state)
    with pytest.raises(ValueError, match='axes="threestudio"'):
        rough_volume().load_published(good)
    for name, tensor in volume.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"density_bias": "blob"}, "density_bias='blob': expected blob_magic3d, blob_dreamfusion or a number"),
        ({"density_activation": "tanh"}, "expected one of softplus"),
        ({"dir_encoding": "sh3"}, "dir_encoding='sh3'"),
        ({"normals": "pred"}, "expected one of analytic, finite_difference"),
        ({"axes": "up"}, "axes='up'"),
        ({"radius": 0.0}, "radius=0.0: expected a number above 0"),
    ],
)
def test_wrong_specs_are_told(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_half_precision_networks_give_a_full_density():
    volume = rough_volume()
    points = points_in_box()
    with torch.autocast("cpu", torch.bfloat16):
        values = volume(points, with_normals=True)
    assert {tensor.dtype for tensor in values} == {torch.float32}
    assert relative_l2(values.density.detach(), volume.density(points).detach()) < 0.02
