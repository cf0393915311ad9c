"""A generator as a representation: what is rendered of several sentences at once, and where gradients go."""

import pytest
import torch

from cam_utils import orbit_cameras
from microdreamer.fields.backgrounds import SolidBackground
from microdreamer.generators.text_to_shape import Draws, TextToShape, VolsdfSettings
from tests.small_generators import BACKGROUNDS, SPECS, sentences, small

SETTINGS = VolsdfSettings(proposals=24, samples=12)
ALL = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def model_of(spec, background: str = "shared", settings: VolsdfSettings = SETTINGS) -> TextToShape:
    return TextToShape(small(spec), BACKGROUNDS[background](), settings, torch.Generator().manual_seed(5))


def cameras_of(sentences: int, size: int = 12):
    return orbit_cameras(-20.0, [0.0, 90.0, 180.0, 270.0] * sentences, 5.0, fov_y=49.1, width=size, height=size)


def pooled_of(count: int) -> torch.Tensor:
    return torch.randn(count, 20, generator=torch.Generator().manual_seed(6))


def render(model: TextToShape, rows, draws: Draws | None = None):
    text = sentences(model.geometry, 3)[rows]
    shapes = model.condition(text, pooled_of(3)[rows], () if draws is None else draws.geometry)
    return model.render(cameras_of(len(text)), shapes, None, draws)


@ALL
@pytest.mark.parametrize("background", BACKGROUNDS)
@torch.no_grad()
def test_several_sentences_are_rendered_as_each_alone(spec, background):
    model = model_of(spec, background)
    together = render(model, [0, 1, 2])
    for index in range(3):
        alone = render(model, [index])
        assert torch.equal(together.image[4 * index : 4 * index + 4], alone.image)
        assert torch.equal(together.alpha[4 * index : 4 * index + 4], alone.alpha)
    assert not torch.equal(together.image[:4], together.image[4:8])


@ALL
def test_with_gradients_and_in_parts_is_the_same_picture(spec, monkeypatch):
    model = model_of(spec)
    whole = render(model, [0, 1])
    monkeypatch.setattr("microdreamer.generators.text_to_shape.CHUNK_RAYS", {"cpu": 100, "cuda": 100})
    with torch.no_grad():
        parts = render(model, [0, 1])
    assert whole.detail is not None and parts.detail is None and parts.normal is None
    torch.testing.assert_close(parts.image, whole.image.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parts.depth, whole.depth.detach(), rtol=1e-5, atol=1e-5)


@ALL
def test_computing_again_gives_the_same_gradients(spec):
    found = []
    for recompute in (False, True):
        model = model_of(spec, settings=VolsdfSettings(proposals=24, samples=12, recompute=recompute))
        draws = model.draw(2, 8, 12)
        rendering = render(model, [0, 1], draws)
        (rendering.image.square().sum() + rendering.detail.gradient.square().mean()).backward()
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_draws_repeat_and_reach_the_picture():
    first, again = (model_of(SPECS["conv3d"]) for _ in range(2))
    draws, same, other = first.draw(2, 8, 12), again.draw(2, 8, 12), first.draw(2, 8, 12)
    for one, two in zip(draws[:4] + draws.geometry, same[:4] + same.geometry, strict=True):
        assert torch.equal(one, two)
    with torch.no_grad():
        assert not torch.equal(render(first, [0, 1], draws).image, render(first, [0, 1], other).image)
        behind = draws._replace(replaced=torch.ones(8, dtype=torch.bool), color=torch.full((8, 3), 0.25))
        seen = render(first, [0, 1], behind)
    corner = seen.image[:, :, 0, 0] - 0.25 * (1 - seen.alpha[:, :, 0, 0])
    assert seen.alpha[:, 0, 0, 0].max() < 0.01 and corner.abs().max() < 0.01


def test_a_shape_of_a_batch_is_a_representation():
    model = model_of(SPECS["triplane_local"])
    text = sentences(model.geometry, 3)
    with torch.no_grad():
        shapes = model.condition(text)
        one = model.shape(shapes, 1)
        seen = one.render(cameras_of(1), 1.0)
        torch.testing.assert_close(seen.image, model.render(cameras_of(3), shapes, 1.0).image[4:8], rtol=1e-5, atol=1e-6)
    assert seen.normal.shape == seen.image.shape and (seen.normal.norm(dim=1) <= 1 + 1e-5).all()
    inside, outside = one.sdf(torch.tensor([[0.0, 0.0, 0.0], [1.9, 1.9, 1.9]]))
    assert inside < 0 < outside
    assert one.color(torch.zeros(2, 3)).shape == (2, 3)


def test_a_solid_background_shows_beside_the_shape():
    model = TextToShape(small(SPECS["hyper_ingp"]), SolidBackground(0.5), SETTINGS)
    with torch.no_grad():
        seen = render(model, [0])
    torch.testing.assert_close(seen.image[:, :, 0, 0], torch.full((4, 3), 0.5), rtol=0, atol=0.01)


def test_views_that_do_not_divide_among_sentences_are_refused():
    model = model_of(SPECS["hyper_ingp"])
    with pytest.raises(ValueError, match="4 views of 3 shapes"):
        model.render(cameras_of(1), model.condition(sentences(model.geometry, 3)))


@pytest.mark.parametrize("values", [{"proposals": 0}, {"samples": 0}, {"sharpness": 0.0}, {"random_background": 1.5}])
def test_settings_out_of_range_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        VolsdfSettings(**values)
