"""What all generators promise: sentences of a batch do not meet, points do not either, and rendering keeps both promises."""

import dataclasses

import pytest
import torch
from conftest import DEVICES
from small_generators import BACKGROUNDS, MAKERS, SPECS, TEXT_WIDTH, in_float64, points_of, sentences, small
from torch.nn.functional import normalize

from microdreamer.core.rows import join_rows, per_row, take_row
from microdreamer.fields import published
from microdreamer.fields.volsdf import render_volsdf
from microdreamer.generators.base import GeneratedField, GeneratorSpec
from microdreamer.generators.conv3d import Conv3dSpec
from microdreamer.generators.hyper_ingp import HyperIngp, HyperIngpSpec
from microdreamer.generators.triplane_transformer import TriplaneTransformerSpec

ALL = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())


def same(actual, expected, device, rounding=1e-5):
    """Bit for bit on the CPU, to rounding elsewhere."""
    tolerance = 0.0 if device == "cpu" else rounding
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@ALL
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("points", [61, 256])
def test_a_batch_of_sentences_equals_each_alone(spec, device, points):
    generator = small(spec).to(device)
    text, where = sentences(generator, 4).to(device), points_of(4, points).to(device)
    cache = generator.condition(text)
    sdf, features = generator.field(where, cache)
    assert sdf.shape == (4, points) and features.shape == (4, points, 3)
    for index in range(4):
        alone = generator.condition(text[index : index + 1])
        same(take_row(cache, index), alone, device)
        found = generator.field(where[index : index + 1], alone)
        same(sdf[index : index + 1], found.sdf, device)
        same(features[index : index + 1], found.features, device)
    another = generator.field(where, generator.condition(text.flip(0)))
    assert (another.sdf - sdf).abs().max() > 1e-3 and (another.features - features).abs().max() > 1e-3  # text matters


@ALL
def test_points_are_independent(spec):
    generator = small(spec)
    where = points_of(2)
    cache = generator.condition(sentences(generator, 2))
    order = torch.randperm(where.shape[1])
    sdf, features = generator.field(where, cache)
    shuffled = generator.field(where[:, order], cache)
    torch.testing.assert_close(shuffled.sdf, sdf[:, order])
    torch.testing.assert_close(shuffled.features, features[:, order])
    torch.testing.assert_close(generator.sdf(where, cache), sdf)


@ALL
def test_gradients_stay_with_their_sentence(spec):
    generator = small(spec)
    text = sentences(generator, 3).requires_grad_()
    generator.field(points_of(3), generator.condition(text)).sdf[1].sum().backward()
    assert text.grad[1].abs().max() > 0
    assert not text.grad[0].any() and not text.grad[2].any()


@ALL
def test_gradients(spec):
    generator = in_float64(small(spec))
    text, where = sentences(generator, 2, tokens=3).double(), 0.5 * points_of(2, 5).double()
    assert torch.autograd.gradcheck(
        lambda text, where: generator.field(where, generator.condition(text)),
        (text.requires_grad_(), where.requires_grad_()),
        fast_mode=True,
    )


@ALL
def test_all_parameters_learn(spec):
    generator = small(spec)
    sdf, features = generator.field(points_of(2, 400), generator.condition(sentences(generator, 2)))
    (sdf.square().sum() + features.square().sum()).backward()
    assert [name for name, parameter in generator.named_parameters() if parameter.grad is None or not parameter.grad.any()] == []


@ALL
def test_published_axes(spec):
    """One network in two worlds: in the published one, up is z."""
    ours, theirs = small(spec), small(dataclasses.replace(spec, axes="threestudio"))
    text, where = sentences(ours, 2), points_of(2)
    expected = ours.field(where, ours.condition(text))
    found = theirs.field(published.out_of_axes(where, "threestudio"), theirs.condition(text))
    torch.testing.assert_close(found, expected)
    up = torch.tensor([0.0, 1.0, 0.0])
    assert torch.equal(published.in_axes(up, "threestudio"), torch.tensor([0.0, 0.0, 1.0]))


@ALL
def test_what_is_drawn_repeats_and_matters_only_where_there_is_chance(spec):
    generator = small(spec)
    text = sentences(generator, 2)

    def field(draws):
        return generator.field(points_of(2), generator.condition(text, draws)).sdf

    first, again, other = (field(generator.draw(2, torch.Generator().manual_seed(seed))) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert torch.equal(field(()), field(()))
    assert torch.equal(first, other) != isinstance(spec, Conv3dSpec)


def test_shapes_start_as_balls():
    generator = HyperIngp(SPECS["hyper_ingp"], torch.Generator().manual_seed(1))
    where = points_of(2)
    sdf = generator.sdf(where, generator.condition(sentences(generator, 2)))
    torch.testing.assert_close(sdf, where.norm(dim=-1) - 0.5, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("spec", "parameters"),
    [
        (HyperIngpSpec(), 12_948_464),
        (Conv3dSpec(), 88_686_923),
        (Conv3dSpec(channel_multiplier=2), 144_798_155),
        (TriplaneTransformerSpec(), 120_564_480),
    ],
)
def test_published_sizes(spec, parameters):
    with torch.device("meta"):
        generator = MAKERS[type(spec)](spec)
    assert sum(parameter.numel() for parameter in generator.parameters()) == parameters


# ---- Rendering ----


def rays_of(sentences, count=30, seed=5):
    """Rays [sentences,count,3] from a sphere of 3 around the origin to near it, others for each sentence."""
    draw = torch.Generator().manual_seed(seed)
    origins = 3 * normalize(torch.randn(sentences, count, 3, generator=draw), dim=-1)
    return origins, normalize(0.5 * torch.randn(sentences, count, 3, generator=draw) - origins, dim=-1)


@ALL
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("behind", BACKGROUNDS)
def test_sentences_rendered_together_equal_each_alone(spec, behind, device):
    generator, background = small(spec).to(device), BACKGROUNDS[behind]().to(device)
    text = sentences(generator, 2).to(device)
    summary = (text if text.dim() == 2 else text.mean(1)).contiguous()  # one vector for the background
    origins, directions = (rays.to(device) for rays in rays_of(2))

    def image(rows):
        field = GeneratedField(generator, generator.condition(text[rows]))
        seen = render_volsdf(field, origins[rows], directions[rows], radius=2.0, proposals=24, samples=12, with_normals=True)
        color = background(directions[rows], background.condition(summary[rows]))
        return seen.color + (1 - seen.alpha)[..., None] * color, seen.alpha, seen.depth, seen.gradient, seen.normal

    with torch.no_grad():
        together = image(slice(0, 2))
        assert (together[1] > 0.05).any() and (together[1] < 0.95).any()  # both, shape and background, are seen
        for index in range(2):
            for whole, alone in zip(together, image(slice(index, index + 1)), strict=True):
                same(whole[index : index + 1], alone, device, 1e-4)  # densities are steep, slopes differences over a thousandth


def test_rendered_colors_are_activated_features():
    generator = small(SPECS["triplane_local"])  # whose colours may pass [0,1] by a thousandth
    cache = generator.condition(sentences(generator, 2))
    where = points_of(2)
    sdf, colors = GeneratedField(generator, cache)(where)
    values = generator.field(where, cache)
    assert torch.equal(sdf, values.sdf)
    torch.testing.assert_close(colors, 1.002 * values.features.sigmoid() - 0.001)


# ---- Batches and what is wrong with them ----


def test_caches_come_apart_and_together():
    generator = small(SPECS["hyper_ingp"])
    cache = generator.condition(sentences(generator, 3))
    joined = join_rows([take_row(cache, index) for index in range(3)])
    assert type(joined) is type(cache)
    torch.testing.assert_close(joined, cache, rtol=0, atol=0)


def test_sentences_are_taken_one_by_one_on_the_cpu():
    seen = []
    result = per_row(lambda x: (seen.append(len(x)), 2 * x)[1], torch.arange(3.0))
    assert seen == [1, 1, 1] and torch.equal(result, torch.tensor([0.0, 2.0, 4.0]))
    assert per_row(lambda x: 2 * x, torch.zeros(0, 5)).shape == (0, 5)


@ALL
def test_wrong_shapes(spec):
    generator = small(spec)
    text = sentences(generator, 2)
    cache = generator.condition(text)
    with pytest.raises(ValueError, match=r"text: expected embeddings \[B,.*20.*\], .* got shape"):
        generator.condition(text[..., :7])
    with pytest.raises(ValueError, match="text: expected embeddings"):
        generator.condition(text[0])
    with pytest.raises(ValueError, match=r"points: expected shape \[B,P,3\].* got \[61, 3\]"):
        generator.field(points_of(2)[0], cache)
    with pytest.raises(ValueError, match=r"as many rows of each, got \[2, 3\]"):
        generator.field(points_of(3), cache)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"radius": 0.0}, r"radius=0.0: expected a number above 0"),
        ({"axes": "blender"}, "axes='blender': expected one of project, threestudio"),
        ({"color_activation": "relu"}, "activation 'relu': expected one of sigmoid"),
    ],
)
def test_wrong_specs(values, message):
    with pytest.raises(ValueError, match=message):
        GeneratorSpec(TEXT_WIDTH, **values)


def test_wrong_transformers():
    with pytest.raises(ValueError, match="width=20: expected a multiple of attention_heads=3"):
        TriplaneTransformerSpec(width=20, attention_heads=3)
    with pytest.raises(ValueError, match="text='both': expected one of global, local"):
        TriplaneTransformerSpec(text="both")
