"""The Triplane-Transformer against its definition: attention, what text can and cannot say, and how points read the planes."""

import dataclasses

import pytest
import torch
from small_generators import SPECS, points_of, sentences, small

from microdreamer.generators.triplane_transformer import Attention, TriplaneTransformer

LOCAL, GLOBAL = SPECS["triplane_local"], SPECS["triplane_global"]


def test_attention_is_its_definition():
    layer = Attention(12, 5, heads=3).double()
    x, context = torch.randn(2, 4, 12).double(), torch.randn(2, 6, 5).double()
    heads = []
    for head in range(3):
        rows = slice(4 * head, 4 * head + 4)
        q, k, v = x @ layer.to_q.weight[rows].T, context @ layer.to_k.weight[rows].T, context @ layer.to_v.weight[rows].T
        heads.append((q @ k.mT / 2).softmax(-1) @ v)
    torch.testing.assert_close(layer(x, context), layer.to_out[0](torch.cat(heads, dim=-1)))


def normed(x, norm):
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight + norm.bias


def gelu(x):
    return x * (1 + torch.erf(x / 2**0.5)) / 2


def test_a_layer_reads_text_then_the_planes_then_thinks():
    layer = small(LOCAL).double().space_generator.layers[1]
    x, text = torch.randn(2, 5, LOCAL.width).double(), torch.randn(2, 4, LOCAL.text_width).double()
    found = layer(x, text)
    x = x + layer.cross_attn(normed(x, layer.norm1), text)
    x = x + layer.self_attn(normed(x, layer.norm2), normed(x, layer.norm2))
    x = x + layer.mlp[3](gelu(layer.mlp[0](normed(x, layer.norm3))))
    torch.testing.assert_close(found, x)


def test_a_sentence_of_one_token_stands_among_the_planes_for_each_layer_anew():
    space = small(GLOBAL).double().space_generator
    text = torch.randn(2, GLOBAL.text_width).double()
    token = space.proj(text)[:, None]
    x = space.pos_embed.expand(2, -1, -1)
    for layer in space.layers:
        x = torch.cat([token, x], dim=1)
        x = x + layer.self_attn(normed(x, layer.norm2), normed(x, layer.norm2))
        x = x + layer.mlp[3](gelu(layer.mlp[1](gelu(normed(x, layer.norm3)))))
        x = x[:, 1:]
    torch.testing.assert_close(space.tokens(text), x)


def test_the_order_of_the_texts_tokens_is_only_in_their_embeddings():
    generator = small(LOCAL)
    text = sentences(generator, 2)
    torch.testing.assert_close(generator.condition(text[:, torch.randperm(7)]), generator.condition(text), rtol=1e-5, atol=1e-5)


def test_padding_is_read_like_any_token():
    generator = small(LOCAL)
    text = sentences(generator, 2)
    padded = torch.cat([text, torch.ones(2, 3, text.shape[-1])], dim=1)
    assert (generator.condition(padded) - generator.condition(text)).abs().max() > 1e-3


@pytest.mark.parametrize("spec", [LOCAL, GLOBAL], ids=["local", "global"])
def test_layers_follow_each_other(spec):
    generator = small(spec)
    space, text = generator.space_generator, sentences(generator, 2)
    assert torch.equal(space.tokens(text, 0), space.pos_embed.expand(2, -1, -1))
    assert torch.equal(space.tokens(text, spec.layers), space.tokens(text))
    assert space.tokens(text).shape == (2, 3 * spec.token_side**2, spec.width)


def test_tokens_become_squares_of_texels():
    """A token's four texels lie where it lies, row by row, plane after plane."""
    space = small(LOCAL).space_generator
    side, text = LOCAL.token_side, sentences(small(LOCAL), 1)
    planes = space(text)
    tokens = space.norm(space.tokens(text))[0].reshape(3, side, side, -1)
    for plane, row, column in ((0, 0, 0), (1, 2, 3), (2, 3, 1)):
        expected = torch.einsum("w,wchv->chv", tokens[plane, row, column], space.deconv.weight)
        found = planes[0, plane, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_points_read_the_planes_in_their_axes():
    """Planes that say where their texels are: (x,y), (x,z), (z,y), the first along the width; nothing outside of them."""
    generator = small(LOCAL)
    ramp = (torch.arange(16) + 0.5) / 8 - 1
    height, width = torch.meshgrid(ramp, ramp, indexing="ij")
    planes = torch.stack([width, height], dim=-1).expand(1, 3, 16, 16, 2)
    planes = torch.cat([planes, 2 * planes])
    points = 0.9 * (2 * torch.rand(2, 50, 3) - 1)
    x, y, z = points.unbind(-1)
    expected = torch.stack([x, y, x, z, z, y], dim=-1) * torch.tensor([1.0, 2.0])[:, None, None]
    torch.testing.assert_close(generator.encode(points, planes), expected, rtol=0, atol=1e-5)
    assert not generator.encode(torch.full((2, 1, 3), 1.2), planes).any()


def test_outside_of_the_planes_shapes_are_the_ball():
    generator = small(LOCAL)
    cache = generator.condition(sentences(generator, 2))
    where = points_of(2) + 5.0
    torch.testing.assert_close(generator.sdf(where, cache), where.norm(dim=-1) - LOCAL.sphere_bias)


def test_one_seed_makes_one_network_and_leaves_the_others_alone():
    before = torch.random.get_rng_state()
    first, again = (TriplaneTransformer(LOCAL, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first.state_dict()[name], tensor) for name, tensor in again.state_dict().items())
    positions = TriplaneTransformer(dataclasses.replace(LOCAL, width=96), torch.Generator().manual_seed(1)).space_generator.pos_embed
    assert float(positions.detach().std()) == pytest.approx(96**-0.5, rel=0.05)
