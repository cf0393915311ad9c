"""3DConv-net against its definition: modulated weights made for each sentence, and how points read the grid."""

import dataclasses
import math

import pytest
import torch
from small_generators import SPECS, sentences, small
from torch.nn.functional import conv3d

from microdreamer.generators.conv3d import (
    Conv3dGenerator,
    Conv3dSpec,
    EqualizedLinear,
    MappingNetwork,
    StyledConvolution,
    ToVoxels,
    upsample,
)

SPEC = SPECS["conv3d"]


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def test_linear_layers_are_scaled_where_they_are_used():
    layer = EqualizedLinear(6, 5, bias=0.5, generator=drawn())
    x = torch.randn(3, 6)
    torch.testing.assert_close(layer(x), x @ (layer.weight / math.sqrt(6)).T + 0.5)


@pytest.mark.parametrize("up", [False, True])
def test_styled_convolution_is_that_of_each_sentences_modulated_weights(up):
    side = 6
    layer = StyledConvolution(4, 5, 7, side, up, drawn()).double()
    with torch.no_grad():
        layer.noise_strength.fill_(0.3)
        layer.bias.normal_(generator=drawn(1))
    r = side // 2 if up else side
    x, w, noise = torch.randn(3, 4, r, r, r).double(), torch.randn(3, 7).double(), torch.randn(3, 1, side, side, side).double()
    found = layer(x, w, noise)
    for index in range(3):
        style = layer.affine(w)[index]
        weight = layer.weight * style[None, :, None, None, None]
        weight = weight / (weight.square().sum((1, 2, 3, 4), keepdim=True) + 1e-8).sqrt()
        torch.testing.assert_close(weight.square().sum((1, 2, 3, 4)), torch.ones(5).double(), rtol=1e-6, atol=0)
        y = conv3d(x[index : index + 1], weight, padding=1)
        y = upsample(y) if up else y
        y = y + 0.3 * noise[index] + layer.bias[:, None, None, None]
        y = torch.where(y > 0, y, 0.2 * y) * math.sqrt(2)
        torch.testing.assert_close(found[index : index + 1], y)


def test_layers_are_clamped_and_first_deaf_to_noise():
    layer = StyledConvolution(2, 2, 3, 4, False, drawn())
    x, w, noise = torch.randn(1, 2, 4, 4, 4), torch.randn(1, 3), torch.randn(1, 1, 4, 4, 4)
    assert torch.equal(layer(x, w, noise), layer(x, w))  # at the start
    with torch.no_grad():
        layer.noise_strength.fill_(1e4)
    loud = layer(x, w, noise).detach()
    assert float(loud.max()) == 256 and float(loud.min()) == -256


def test_to_voxels_is_modulated_but_not_demodulated():
    layer = ToVoxels(4, 3, 7, drawn()).double()
    x, w = torch.randn(2, 4, 2, 2, 2).double(), torch.randn(2, 7).double()
    style = layer.affine(w) / 2
    torch.testing.assert_close(layer(x, w), torch.einsum("oi,bi,bixyz->boxyz", layer.weight[:, :, 0, 0, 0], style, x))


def test_upsampling_keeps_corners_and_ramps():
    ramp = torch.linspace(-1, 1, 4)[:, None, None].expand(1, 1, 4, 4, 4)
    torch.testing.assert_close(upsample(ramp), torch.linspace(-1, 1, 8)[:, None, None].expand(1, 1, 8, 8, 8))


def test_noise_enters_by_its_direction_alone():
    network = MappingNetwork(SPEC, drawn())
    z, text = torch.randn(2, SPEC.noise_width), torch.randn(2, SPEC.text_width)
    x = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for layer in network.layers:
        x = layer(x)
        x = torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)
    torch.testing.assert_close(network(z, text), network.embed(torch.cat([x, text], dim=1)))  # text comes last, and as it is
    torch.testing.assert_close(network(z, text), network(5 * z, text))
    assert (network(z, text) - network(z, 2 * text)).abs().max() > 1e-2  # text by its size too


def test_points_read_the_grid_in_its_axes():
    """A grid that says where its voxels are: x along the last axis, z along the first; nothing outside of it."""
    generator = small(SPEC)
    ramp = (torch.arange(16) + 0.5) / 8 - 1  # centres of 16 voxels from -1 to 1
    z, y, x = torch.meshgrid(ramp, ramp, ramp, indexing="ij")
    grid = torch.stack([x, y, z], dim=-1)[None]
    grids = torch.stack([grid, 2 * grid])
    points = 0.9 * (2 * torch.rand(2, 50, 3) - 1)
    torch.testing.assert_close(generator.encode(points, grids), points * torch.tensor([1.0, 2.0])[:, None, None], rtol=0, atol=1e-5)
    assert not generator.encode(torch.full((2, 1, 3), 1.2), grids).any()


def test_grid_has_the_resolution_of_its_blocks():
    generator = small(SPEC)
    text = sentences(generator, 2)
    assert generator.condition(text).shape == (2, 1, 16, 16, 16, 8) and generator.spec.resolution == 16
    assert Conv3dGenerator(dataclasses.replace(SPEC, channels=(16, 12))).condition(text).shape == (2, 1, 8, 8, 8, 8)


def test_grids_of_all_resolutions_are_added():
    synthesis = small(SPEC).space_generator.synthesis
    w = torch.randn(2, SPEC.style_width)
    parts = []
    for layer in (synthesis.first_block.torgb, *(block.torgb for block in synthesis.blocks)):
        layer.register_forward_hook(lambda module, given, result: parts.append(result))
    grid = synthesis(w)
    assert [part.shape[-1] for part in parts] == [4, 8, 16]
    torch.testing.assert_close(grid, upsample(upsample(parts[0]) + parts[1]) + parts[2])


def test_voxels_have_biases_between_the_convolutions_of_blocks_up_to_a_resolution():
    synthesis = small(SPEC).space_generator.synthesis
    for block, has_bias in zip(synthesis.blocks, (True, False), strict=True):  # 8, 16
        assert (block.const_bias is not None) == has_bias
        passed = {}
        block.conv0.register_forward_hook(lambda module, given, result, passed=passed: passed.update(left=result))
        block.conv1.register_forward_pre_hook(lambda module, given, passed=passed: passed.update(entered=given[0]))
        synthesis(torch.randn(2, SPEC.style_width))
        between = passed["entered"] - passed["left"]
        expected = block.const_bias.expand_as(between) if has_bias else torch.zeros_like(between)
        torch.testing.assert_close(between, expected, rtol=0, atol=1e-5)


def test_noise_of_layers_is_heard_where_it_is_drawn():
    space = small(SPEC).space_generator
    z, text = torch.randn(2, SPEC.noise_width), torch.randn(2, SPEC.text_width)
    kept = space(z, text)
    own = [layer.noise_const for layer in space.modules() if isinstance(layer, StyledConvolution)]
    again = space(z, text, [noise.expand(2, 1, -1, -1, -1) for noise in own])
    torch.testing.assert_close(again, kept)
    for index in range(len(own)):
        changed = [noise.expand(2, 1, -1, -1, -1) + (layer == index) for layer, noise in enumerate(own)]
        assert (space(z, text, changed) - kept).abs().max() > 1e-4


def test_the_largest_librarys_net_doubles_channels_from_32_on():
    spec = dataclasses.replace(SPEC, channels=Conv3dSpec.channels, channel_multiplier=2)
    assert spec.widths == {4: 512, 8: 512, 16: 512, 32: 512, 64: 256, 128: 128}
