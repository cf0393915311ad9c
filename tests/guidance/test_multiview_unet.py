"""The network of MVDream and ImageDream: the published structure, the reference implementation's numbers, what mixes views."""

import dataclasses
import json

import pytest
import torch
from conftest import DEVICES
from safetensors.torch import load_file

from microdreamer.guidance.published.inference import ChannelsLastGroupNorm, for_inference
from microdreamer.guidance.published.layers import timestep_embedding
from microdreamer.guidance.published.multiview_unet import MultiViewUNet, MultiViewUNetConfig


def golden(parity, name):
    """(network with the golden weights, golden tensors)"""
    from safetensors import safe_open

    path = parity(f"priors/mvunet_{name}_io.safetensors")
    with safe_open(path, "pt") as file:
        config = MultiViewUNetConfig(**json.loads(file.metadata()["config"]))
    network = MultiViewUNet(config).eval().requires_grad_(False)
    weights = load_file(parity(f"priors/mvunet_{name}_weights.safetensors"))
    network.load_state_dict({key: tensor.float() for key, tensor in weights.items()})
    return network, load_file(path)


@pytest.fixture(autouse=True)
def full_float32(monkeypatch):
    """Convolutions on a GPU in float32 rather than TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def assert_equal(actual, expected):
    """Within 1e-5 (on a GPU, which sums in another order, 5e-5) of the largest expected value."""
    worst = float((actual.cpu() - expected).abs().max()) / float(expected.abs().max())
    assert worst < (5e-5 if actual.is_cuda else 1e-5), worst


def record_outputs(network):
    """What the parts of the network gave in its last call."""
    found = {}
    parts = {
        "time_embed": network.time_embed,
        "camera_embed": network.camera_embed,
        "input_blocks.1": network.input_blocks[1][-1],
        "middle_block": network.middle_block[-1],
        "output_blocks.0": network.output_blocks[0][-1],
    }
    for name, part in parts.items():
        part.register_forward_hook(lambda _module, _inputs, output, name=name: found.__setitem__(name, output))
    return found


@pytest.mark.parametrize("device", DEVICES)
def test_mvdream_equals_the_reference(parity, device):
    network, tensors = golden(parity, "mvdream")
    network, inputs = network.to(device), {key: tensor.to(device) for key, tensor in tensors.items()}
    found = record_outputs(network)
    context = network.embed_context(inputs["in.context"])
    cameras = network.camera_embed(inputs["in.camera"])
    noise = network(inputs["in.x"], inputs["in.timesteps"], context, cameras, num_frames=4)
    for name, output in found.items():
        assert_equal(output, tensors[f"mid.{name}"])
    assert_equal(noise, tensors["out.eps"])
    assert_equal(network(inputs["in.x"], inputs["in.timesteps"], context, None, 4), tensors["out.eps_no_camera"])
    assert_equal(network(inputs["in.x"], inputs["in.timesteps"], context, cameras, 1), tensors["out.eps_num_frames_1"])


@pytest.mark.parametrize("device", DEVICES)
def test_imagedream_equals_the_reference(parity, device):
    network, tensors = golden(parity, "imagedream")
    network, inputs = network.to(device), {key: tensor.to(device) for key, tensor in tensors.items()}
    found = record_outputs(network)
    assert_equal(network.image_embed(inputs["in.ip"]), tensors["mid.image_embed"])
    context = network.embed_context(inputs["in.context"], inputs["in.ip"])
    cameras = network.camera_embed(inputs["in.camera"])
    x = inputs["in.x"].clone()
    noise = network(x, inputs["in.timesteps"], context, cameras, num_frames=5, pixel_latents=inputs["in.ip_img"])
    assert torch.equal(x, inputs["in.x"])  # the caller's latents stay as they are
    for name, output in found.items():
        assert_equal(output, tensors[f"mid.{name}"])
    assert_equal(noise, tensors["out.eps"])
    replaced = network(tensors["mid.x_after_pixel_control"].to(device), inputs["in.timesteps"], context, cameras, 5)
    torch.testing.assert_close(replaced, noise)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("winograd", [False, True])
def test_the_form_for_inference_equals_the_reference_and_keeps_the_keys(parity, device, monkeypatch, winograd):
    monkeypatch.setattr("microdreamer.guidance.published.inference.WINOGRAD_CHANNELS", 1)
    monkeypatch.setattr("microdreamer.guidance.published.inference.WINOGRAD_SIDE", 2)
    network, tensors = golden(parity, "mvdream")
    keys = list(network.state_dict())
    network, inputs = for_inference(network.to(device), winograd), {key: tensor.to(device) for key, tensor in tensors.items()}
    assert list(network.state_dict()) == keys
    seen = []
    for module in network.modules():
        if isinstance(module, ChannelsLastGroupNorm):
            module.register_forward_hook(lambda _module, given, out: seen.append((given[0], out)))
    context, cameras = network.embed_context(inputs["in.context"]), network.camera_embed(inputs["in.camera"])
    assert_equal(network(inputs["in.x"], inputs["in.timesteps"], context, cameras, num_frames=4), tensors["out.eps"])
    assert seen and all(tensor.is_contiguous(memory_format=torch.channels_last) for pair in seen for tensor in pair)


@pytest.mark.parametrize("name", ["mvdream", "imagedream"])
def test_published_checkpoints_have_the_same_keys(parity, name):
    manifest = json.loads(parity(f"priors/manifest_{name}_unet.json").read_text())
    fields = {key: value for key, value in manifest["config_json"].items() if not key.startswith("_")}
    with torch.device("meta"):
        network = MultiViewUNet(MultiViewUNetConfig(**fields))
    shapes = {key: list(tensor.shape) for key, tensor in network.state_dict().items()}
    assert shapes == {key: shape for key, (shape, _) in manifest["state_dict"].items()}
    assert sum(parameter.numel() for parameter in network.parameters()) == manifest["num_parameters"]


TINY = MultiViewUNetConfig(
    model_channels=32, channel_mult=(1, 2), num_res_blocks=1, num_head_channels=16, context_dim=48, transformer_depth=2
)


def heads_by_width(**fields):
    """{width: heads} of the attention layers of a network of two widths, 32 and 64."""
    with torch.device("meta"):
        network = MultiViewUNet(dataclasses.replace(TINY, **fields))
    return {block.norm1.normalized_shape[0]: (block.attn1.heads, block.attn2.heads) for block in network.blocks}


def test_heads_by_their_width_or_by_their_number():
    assert heads_by_width(num_head_channels=16) == {32: (2, 2), 64: (4, 4)}
    assert heads_by_width(num_head_channels=-1, num_heads=4) == {32: (4, 4), 64: (4, 4)}
    assert heads_by_width(num_head_channels=32, num_heads=4) == {32: (1, 1), 64: (2, 2)}
    assert MultiViewUNetConfig().heads_of(1280) == 20
    with pytest.raises(ValueError, match="num_heads=5: expected a divisor of 32, the width of a layer"):
        heads_by_width(num_head_channels=-1, num_heads=5)
    with pytest.raises(ValueError, match="num_head_channels=48: expected a divisor of 32"):
        heads_by_width(num_head_channels=48)


def test_the_number_of_heads_reaches_the_attention(tiny):
    x, t, text = torch.randn(4, 4, 8, 8), torch.full((4,), 300.0), torch.randn(1, 5, 48)
    twin = MultiViewUNet(dataclasses.replace(TINY, num_head_channels=-1, num_heads=2)).eval()
    twin.load_state_dict(tiny.state_dict())
    moved = (twin(x, t, twin.embed_context(text), None, 4) - tiny(x, t, tiny.embed_context(text), None, 4)).abs().max()
    assert float(moved) > 1e-5  # the same weights, of which the wider layer makes 2 heads rather than 4


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return MultiViewUNet(TINY).eval().requires_grad_(False)


def test_views_see_each_other_and_objects_do_not(tiny):
    x, t, text = torch.randn(8, 4, 8, 8), torch.full((8,), 500.0), torch.randn(1, 5, 48)
    cameras = tiny.camera_embed(torch.randn(8, 16))
    noise = tiny(x, t, tiny.embed_context(text), cameras, 4)
    changed = x.clone()
    changed[1] += 1
    moved = (tiny(changed, t, tiny.embed_context(text), cameras, 4) - noise).abs().amax(dim=(1, 2, 3))
    assert float(moved[:4].min()) > 1e-4  # view 1 changes its whole object
    assert float(moved[4:].max()) == 0


def test_order_of_views_does_not_matter(tiny):
    x, t, context = torch.randn(4, 4, 8, 8), torch.full((4,), 300.0), tiny.embed_context(torch.randn(1, 5, 48))
    cameras, order = tiny.camera_embed(torch.randn(4, 16)), [2, 0, 3, 1]
    there = tiny(x, t, context, cameras, 4)[order]
    torch.testing.assert_close(there, tiny(x[order], t, context, cameras[order], 4), rtol=0, atol=1e-5)


def test_a_row_of_text_serves_consecutive_latents(tiny):
    x, t, text = torch.randn(8, 4, 8, 8), torch.full((8,), 300.0), torch.randn(2, 5, 48)
    short = tiny(x, t, tiny.embed_context(text), None, 4)
    repeated = tiny(x, t, tiny.embed_context(text.repeat_interleave(4, dim=0)), None, 4)
    torch.testing.assert_close(short, repeated, rtol=0, atol=1e-5)
    assert float((short - tiny(x, t, tiny.embed_context(text.flip(0)), None, 4)).abs().max()) > 1e-4


def test_image_tokens_are_refused_where_they_mean_nothing(tiny):
    with pytest.raises(ValueError, match="this network takes no image tokens"):
        tiny.embed_context(torch.randn(1, 5, 48), torch.randn(1, 3, 1280))


def test_timestep_embedding_is_cosines_then_sines():
    embedded = timestep_embedding(torch.tensor([0.0, 7.0]), 6)
    assert embedded[0].tolist() == [1, 1, 1, 0, 0, 0]
    torch.testing.assert_close(embedded[1, 4], torch.sin(torch.tensor(7 * 10000 ** (-1 / 3))))
