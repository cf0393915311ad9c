"""The generators against golden tensors of ScaleDreamer's networks: small ones, and full-size ones by their closed-form fills."""

import json
import zlib

import numpy as np
import pytest
import torch
from conftest import DEVICES
from safetensors.torch import load_file

from microdreamer.fields import published
from microdreamer.fields.normals import difference_gradient
from microdreamer.generators.backgrounds import PromptBackground
from microdreamer.generators.conv3d import Conv3dGenerator, Conv3dSpec
from microdreamer.generators.hyper_ingp import HyperIngp, HyperIngpSpec, HyperNetwork
from microdreamer.generators.triplane_transformer import TriplaneTransformer, TriplaneTransformerSpec
from microdreamer.kernels.hash_grid import HashGridSpec

TOLERANCE = 1e-5  # of the largest value
SLOPE_TOLERANCE = 3e-3  # of finite differences
on_all_devices = pytest.mark.parametrize("device", DEVICES)


def golden(path, device="cpu"):
    """The file's tensors; its texts are read as JSON where they are."""
    data = np.load(path)
    tensors = {name: torch.from_numpy(np.asarray(data[name])).to(device) for name in data.files if data[name].dtype.kind != "U"}
    return tensors, json.loads(str(data["config"])) if "config" in data.files else None


def assert_close(actual, expected, tolerance=TOLERANCE):
    """To `tolerance` of the largest value."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


@torch.no_grad()
def assert_field(generator, data, cache, tolerance=TOLERANCE):
    """Distances, features, slopes and normals at the golden's points, which are in the generator's axes."""
    shape = (len(data["points"]), -1)
    points = published.out_of_axes(data["points"], generator.spec.axes)
    sdf, features = generator.field(points, cache)
    assert_close(sdf, data["sdf"].reshape(shape), tolerance)
    assert_close(features, data["features"].reshape(*shape, 3), tolerance)
    slope = difference_gradient(lambda at: generator.sdf(at, cache), points, sdf, generator.spec.radius, data_step(data))
    slope = published.in_axes(slope, generator.spec.axes)
    assert_close(slope, data["sdf_grad"].reshape(*shape, 3), SLOPE_TOLERANCE)
    normal = torch.nn.functional.normalize(slope, dim=-1)
    torch.testing.assert_close(normal, data["normal"].reshape(*shape, 3), rtol=0, atol=SLOPE_TOLERANCE)


def data_step(data):
    return float(data["fd_eps"]) if "fd_eps" in data else 0.01


@torch.no_grad()
@on_all_devices
def test_hyper_ingp(parity, device):
    data, config = golden(parity("generators/hyper_ingp_small.npz"), device)
    grid = HashGridSpec(config["L"], 2, config["logT"], config["base"], config["s"])
    spec = HyperIngpSpec(config["c"], grid=grid, hyper_hidden=config["neurons"], hidden=config["h"], axes="threestudio")
    generator = HyperIngp(spec)
    generator.load_published(load_file(parity("generators/hyper_ingp_small.weights.safetensors")), prefix="")
    generator.to(device)
    cache = generator.condition(data["text_embed"])
    for name, matrix in zip(("sdf_w0", "sdf_w1", "feat_w0", "feat_w1"), (*cache.sdf, *cache.features), strict=True):
        assert_close(matrix, data[name])
    assert_close(generator.encode(data["points"] / config["radius"], cache), data["enc"])
    assert_field(generator, data, cache)


@torch.no_grad()
@on_all_devices
def test_hypernetwork_of_two_hidden_layers(parity, device):
    data, _ = golden(parity("generators/hypernet_two_hidden.npz"), device)
    network = HyperNetwork(20, 12, [(10, 7, 5), (10, 4)], hidden_layers=2)
    network.load_state_dict(load_file(parity("generators/hypernet_two_hidden.weights.safetensors")))
    (a0, a1), (b0,) = network.to(device)(data["text_embed"])
    for matrix, name in ((a0, "a0"), (a1, "a1"), (b0, "b0")):
        assert_close(matrix, data[name])


@torch.no_grad()
@on_all_devices
def test_prompt_background(parity, device):
    data, _ = golden(parity("generators/background_multiprompt_small.npz"), device)
    grid = HashGridSpec(levels=4, features=2, log2_table_size=8, base_resolution=6, growth=1.0)
    background = PromptBackground(20, grid=grid, hyper_hidden=12, hidden=10, axes="threestudio")
    background.load_published(load_file(parity("generators/background_multiprompt_small.weights.safetensors")), prefix="")
    background.to(device)
    directions = published.out_of_axes(data["dirs"], "threestudio")
    assert_close(background(directions, background.condition(data["text_embed"])), data["color"])


@torch.no_grad()
@on_all_devices
def test_conv3d(parity, device):
    data, config = golden(parity("generators/conv3d_small.npz"), device)
    spec = Conv3dSpec(
        config["c"],
        noise_width=config["z"],
        style_width=config["w"],
        mapping_layers=config["layers"],
        channels=tuple(config["ch"].values()),
        bias_resolution=config["bias_res"],
        voxel_channels=config["img"],
        hidden=config["n_neurons"],
        axes="threestudio",
    )
    generator = Conv3dGenerator(spec)
    generator.load_published(load_file(parity("generators/conv3d_small.weights.safetensors")), prefix="")
    space = generator.to(device).space_generator
    assert_close(space.mapping(data["z"], data["text_embed"]), data["ws"][:, 0])
    noises = [data[f"noise_{index:02}"] for index in range(len(space.synthesis.noise_sides))]
    assert_close(space(data["z"], data["text_embed"], noises), data["voxel_random_noise"])
    cache = space(data["z"], data["text_embed"])
    assert_close(cache, data["voxel_const_noise"])
    cache = cache.movedim(1, -1)[:, None]
    assert_close(generator.encode(data["points"] / config["radius"], cache), data["enc"])
    assert_field(generator, data, cache)
    assert (data["sdf"] - data["original_batched_sdf_is_wrong"]).abs().max() > 1e-2  # of which this is no repetition


@torch.no_grad()
@on_all_devices
@pytest.mark.parametrize("text", ["local", "global"])
def test_triplane_transformer(parity, text, device):
    data, config = golden(parity(f"generators/triplane_small_{text}.npz"), device)
    spec = TriplaneTransformerSpec(
        config["C"],
        text=text,
        width=config["D"],
        token_side=config["low"],
        layers=config["layers"],
        attention_heads=config["heads"],
        mlp_ratio=config["ratio"],
        plane_channels=config["dim"],
        hidden=config["n_neurons"],
        axes="threestudio",
    )
    generator = TriplaneTransformer(spec)
    generator.load_published(load_file(parity(f"generators/triplane_small_{text}.weights.safetensors")), prefix="")
    generator.to(device)
    for layer, expected in enumerate(data["tokens_after_layer"]):
        assert_close(generator.space_generator.tokens(data["text_embed"], layer + 1), expected)
    cache = generator.condition(data["text_embed"])
    assert_close(cache, data["triplane"].movedim(2, -1))
    assert_close(generator.encode(data["points"] / config["radius"], cache), data["enc"])
    assert_field(generator, data, cache)


# ---- Full size ----


def filled(path):
    """The state_dict that a fill file describes: element i of a tensor is a hash of i and of the tensor's name, scaled and moved."""
    fill = json.loads(path.read_text())
    state = {}
    for name, made in fill["tensors"].items():
        seed = zlib.crc32((fill["salt"] + name).encode())
        v = np.arange(int(np.prod(made["shape"])), dtype=np.uint64) * np.uint64(2654435761) + np.uint64(seed)
        v = v.astype(np.uint32)
        for shift, factor in ((16, 2246822519), (13, 3266489917)):
            v ^= v >> np.uint32(shift)
            v *= np.uint32(factor)
        v ^= v >> np.uint32(16)
        values = (v / 2.0**32 - 0.5) * 2 * made["scale"] + made["offset"]
        state[name] = torch.from_numpy(values.astype(np.float32)).reshape(made["shape"])
    return state


FULL_SIZE = {
    "hyper_ingp": (HyperIngp, HyperIngpSpec(axes="threestudio")),
    "conv3d": (Conv3dGenerator, Conv3dSpec(axes="threestudio")),
    "triplane": (TriplaneTransformer, TriplaneTransformerSpec(axes="threestudio")),
}


@pytest.mark.slow
@torch.no_grad()
@on_all_devices
@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size(parity, name, device):
    data, _ = golden(parity(f"generators/fullsize_{name}.npz"), device)
    make, spec = FULL_SIZE[name]
    generator = make(spec)
    state = filled(parity(f"generators/fullsize_{name}.fill.json"))
    state |= {key: value for key, value in generator.state_dict().items() if key.endswith("w_avg")}  # which nothing reads
    generator.load_published(state, prefix="")
    del state
    generator.to(device)
    text = data["text_embed"]
    if name == "conv3d":
        made = generator.space_generator(data["z"], text)
        cache = made.movedim(1, -1)[:, None]
    else:
        cache = generator.condition(text)
        made = cache.movedim(-1, 2) if name == "triplane" else None
    if name == "hyper_ingp":
        for kind, matrices in (("sdf", cache.sdf), ("feature", cache.features)):
            for index, matrix in enumerate(matrices):
                head = data[f"{kind}_weights_{index}_head"]
                assert_close(matrix.flatten()[: len(head)], head, 1e-4)
                assert_close(matrix.norm(), data[f"{kind}_weights_{index}_norm"], 1e-4)
    else:
        assert list(made.shape) == data["cache_shape"].tolist()
        assert_close(made.flatten()[data["cache_index"]], data["cache_value"], 1e-4)
        channels = made.movedim(1 if name == "conv3d" else 2, 0).flatten(1)
        assert_close(channels.mean(1), data["cache_channel_mean"], 1e-4)
        assert_close(channels.std(1), data["cache_channel_std"], 1e-4)
    assert_field(generator, data, cache, 1e-4)
