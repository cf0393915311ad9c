"""Backgrounds and materials against golden tensors, and what they promise of colours, axes and draws."""

import math

import numpy as np
import pytest
import torch
from conftest import DEVICES
from safetensors.torch import load_file

from microdreamer.fields import published
from microdreamer.fields.backgrounds import EnvironmentBackground, SolidBackground, TexturedBackground, with_replacements
from microdreamer.fields.materials import NoMaterial, PointLightDiffuse, Shading, ShadingPolicy
from microdreamer.kernels.hash_grid import HashGridSpec, hash_grid_encode

GRID = HashGridSpec(levels=4, features=2, log2_table_size=8, base_resolution=4, growth=1.6)


def directions_of(shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, 3, generator=draw), dim=-1)


# The colours of the golden for harmonics are 3e-5 from what its own encoding and weights give in float64.
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("encoding", "tolerance"), [("sh3", 4e-5), ("hash", 1e-6)])
def test_environment_goldens(parity, encoding, tolerance, device):
    data = np.load(parity(f"generators/background_env_{encoding}.npz"))
    data = {name: torch.from_numpy(value).to(device) for name, value in data.items()}
    state = load_file(parity(f"generators/background_env_{encoding}.weights.safetensors"))
    background = EnvironmentBackground(encoding, grid=GRID, axes="threestudio")
    background.load_published(state, prefix="")
    background.to(device)
    colors = background(published.out_of_axes(data["dirs"], "threestudio"))
    torch.testing.assert_close(colors, data["color"], rtol=0, atol=tolerance)
    hidden = data["enc"].double()
    for number in (0, 2, 4):
        hidden = (hidden.relu() if number else hidden) @ state[f"network.layers.{number}.weight"].double().to(device).T
    torch.testing.assert_close(colors, hidden.sigmoid().float(), rtol=0, atol=1e-6)
    draws = data["aug_draw"][:, 0, 0]
    replaced = with_replacements(colors, draws, torch.ones(2, dtype=torch.bool, device=device))
    assert torch.equal(replaced, data["aug_color"])


@pytest.mark.parametrize("encoding", ["sh3", "hash"])
def test_environment_is_a_colour_of_the_direction(encoding):
    background = EnvironmentBackground(encoding, torch.Generator().manual_seed(0), grid=GRID)
    directions = directions_of((2, 4, 5))
    colors = background(directions)
    assert colors.shape == directions.shape and (colors > 0).all() and (colors < 1).all()
    torch.testing.assert_close(background(directions[1, 2]), colors[1, 2])
    again = EnvironmentBackground(encoding, torch.Generator().manual_seed(0), grid=GRID)
    assert torch.equal(again(directions), colors)
    assert sum(len(group) for group in background.parameter_groups().values()) == len(list(background.parameters()))


def test_foreign_backgrounds_change_nothing():
    background = EnvironmentBackground("sh3", axes="threestudio")
    state = {f"background.{name}": tensor + 1 for name, tensor in background.state_dict().items()}
    table = "background.encoding.encoding.encoding.params"
    before = background.network.layers[0].weight.clone()
    with pytest.raises(ValueError, match='encoding="hash"'):
        background.load_published(state | {table: torch.zeros(8)})
    with pytest.raises(ValueError, match=r"without background.network.layers.4.weight"):
        background.load_published({name: tensor for name, tensor in state.items() if "layers.4" not in name})
    with pytest.raises(ValueError, match='axes="threestudio"'):
        EnvironmentBackground("sh3").load_published(state)
    assert torch.equal(background.network.layers[0].weight, before)
    background.load_published(state | {table: torch.zeros(0)})
    assert torch.equal(background.network.layers[0].weight, before + 1)


def test_solid_background():
    directions = directions_of((2, 3))
    background = SolidBackground((0.25, 0.5, 1.0), learned=True)
    assert torch.equal(background(directions), torch.tensor([0.25, 0.5, 1.0]).expand(2, 3, 3))
    background(directions).sum().backward()
    assert torch.equal(background.color.grad, torch.full((3,), 6.0))
    assert not SolidBackground(0.5).color.requires_grad
    with pytest.raises(ValueError, match="red, green and blue from 0 to 1"):
        SolidBackground((0, 0, 2))


def test_textured_background_lies_around_the_field():
    background = TexturedBackground(4, 8, torch.Generator().manual_seed(0))
    colors = background.texture[0].detach().sigmoid()  # [3,4,8]

    def towards(azimuth, polar):
        azimuth, polar = math.radians(azimuth), math.radians(polar)  # from +Z to +X, and from +Y down
        return torch.tensor([math.sin(polar) * math.sin(azimuth), math.cos(polar), math.sin(polar) * math.cos(azimuth)])

    for row in range(4):
        for column in range(8):
            seen = background(towards(45 * (column + 0.5), 45 * (row + 0.5)))
            torch.testing.assert_close(seen, colors[:, row, column], rtol=0, atol=1e-4)
    # Around the seam, no jump.
    left, right = background(towards(-0.01, 80)), background(towards(0.01, 80))
    torch.testing.assert_close(left, right, rtol=0, atol=1e-3)
    assert torch.isfinite(background(torch.tensor([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]]))).all()
    with pytest.raises(ValueError, match="at least 2 texels"):
        TexturedBackground(1, 8)


@pytest.mark.parametrize("encoding", ["sh3", "hash"])
def test_environment_by_hand(encoding):
    background = EnvironmentBackground(encoding, torch.Generator().manual_seed(0), grid=GRID).double()
    directions = directions_of((7,)).double()
    x, y, z = directions.T.numpy()
    if encoding == "sh3":
        a, b, c = math.sqrt(3 / math.pi) / 2, math.sqrt(15 / math.pi) / 2, math.sqrt(5 / math.pi) / 4
        rows = [np.full(7, 0.5 / math.sqrt(math.pi)), -a * y, a * z, -a * x]
        rows += [b * x * y, -b * y * z, c * (3 * z * z - 1), -b * x * z, b / 2 * (x * x - y * y)]
        encoded = np.stack(rows, axis=1)
    else:
        background.encoding.forward = lambda points: hash_grid_encode(points, background.encoding.params, GRID, compiled=False)
        encoded = background.encoding((directions + 1) / 2).detach().numpy()
    for number, layer in enumerate(background.network.layers[::2]):
        encoded = (np.maximum(encoded, 0) if number else encoded) @ layer.weight.detach().numpy().T
    np.testing.assert_allclose(background(directions).detach().numpy(), 1 / (1 + np.exp(-encoded)), rtol=1e-9)


def test_replacements_are_of_their_views():
    colors = torch.rand(3, 2, 2, 3, requires_grad=True)
    draws = torch.rand(3, 3)
    shown = with_replacements(colors, draws, torch.tensor([True, False, True]))
    assert torch.equal(shown[1], colors[1]) and torch.equal(shown[2], draws[2].expand(2, 2, 3))
    shown.sum().backward()
    assert torch.equal(colors.grad.sum((1, 2, 3)), torch.tensor([0.0, 12.0, 0.0]))


# ---- Materials ----


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mode", ["albedo", "textureless", "diffuse"])
@pytest.mark.parametrize("ambient", [0.1, 0.6])
def test_point_light_goldens(parity, mode, ambient, device):
    data = {name: torch.from_numpy(value).to(device) for name, value in np.load(parity("generators/point_light_material.npz")).items()}
    surface = (data["features"], data["positions"], data["normal"], data["light_positions"])
    colors = PointLightDiffuse()(*surface, Shading(mode, 1 - ambient))
    torch.testing.assert_close(colors, data[f"{mode}_ambient{ambient}"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", range(6))
def test_training_draws_of_the_golden(parity, case, device):
    data = {name: torch.from_numpy(value).to(device) for name, value in np.load(parity("generators/point_light_material.npz")).items()}
    draws = torch.ones(3, dtype=torch.float64)
    given = data[f"train_{case}_draws"]
    draws[: len(given)] = given
    shading = ShadingPolicy()(5000, draws)
    surface = (data["features"], data["positions"], data["normal"], data["light_positions"])
    torch.testing.assert_close(PointLightDiffuse()(*surface, shading), data[f"train_{case}_color"], rtol=1e-5, atol=1e-6)


def test_ambient_only_steps_of_the_golden(parity):
    for step, is_ambient in np.load(parity("generators/point_light_material.npz"))["ambient_only_schedule"].tolist():
        shading = ShadingPolicy()(int(step), torch.tensor([0.5, 0.0, 0.9]))
        assert (shading.mode == "albedo") == bool(is_ambient)


def test_shading_policy():
    policy = ShadingPolicy(ambient_only_steps=10)
    assert policy(9, torch.tensor([0.5, 0.0, 0.0])).mode == "albedo"
    assert policy(10, torch.tensor([0.25, 0.8, 0.0])).mode == "albedo"
    assert policy(10, torch.tensor([0.25, 0.7, 0.4])) == Shading("textureless", 0.25)
    assert policy(10, torch.tensor([0.25, 0.7, 0.6])) == Shading("diffuse", 0.25)
    assert ShadingPolicy(0, soft_shading=False, diffuse=0.5)(0, torch.tensor([0.25, 0.0, 0.9])) == Shading("diffuse", 0.5)


def test_light_falls_with_the_cosine():
    angles = torch.linspace(0, np.pi, 7)
    normals = torch.stack([angles.sin(), torch.zeros(7), angles.cos()], dim=-1)
    positions = torch.zeros(7, 3)
    lights = torch.tensor([0.0, 0.0, 2.0]).expand(7, 3)
    features = torch.zeros(7, 3)
    shown = PointLightDiffuse()(features, positions, normals, lights, Shading("textureless", 0.75))
    torch.testing.assert_close(shown, (0.25 + 0.75 * angles.cos().clamp_min(0))[:, None].expand(7, 3))
    both = PointLightDiffuse()(features, positions, normals, lights, Shading("diffuse", 0.75))
    torch.testing.assert_close(both, 0.5 * shown)
    torch.testing.assert_close(PointLightDiffuse()(features), NoMaterial()(features))


def test_wrong_materials_are_told():
    with pytest.raises(ValueError, match="expected positions, normals and light_positions"):
        PointLightDiffuse()(torch.zeros(2, 3), shading=Shading("diffuse", 0.5))
    with pytest.raises(ValueError, match="shading 'phong': expected one of albedo, textureless, diffuse"):
        PointLightDiffuse()(torch.zeros(2, 3), shading=Shading("phong"))
    with pytest.raises(ValueError, match="expected one of sigmoid"):
        NoMaterial("tanh")
