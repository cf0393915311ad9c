"""What is behind generated shapes: for each sentence its own, or for all the same."""

import pytest
import torch
from conftest import DEVICES
from small_generators import BACKGROUNDS, GRID, TEXT_WIDTH, lively
from torch.nn.functional import normalize

from microdreamer.fields import published
from microdreamer.fields.backgrounds import EnvironmentBackground
from microdreamer.generators.backgrounds import PromptBackground, SharedBackground
from microdreamer.kernels.hash_grid import hash_grid_encode


def directions_of(*shape):
    return normalize(torch.randn(*shape, 3, generator=torch.Generator().manual_seed(0)), dim=-1)


@pytest.mark.parametrize("device", DEVICES)
def test_each_sentence_has_its_own(device):
    background = BACKGROUNDS["prompt"]().to(device)
    text, directions = torch.randn(3, TEXT_WIDTH, device=device), directions_of(1, 4, 5).expand(3, 4, 5, 3).to(device)
    colors = background(directions, background.condition(text))
    assert colors.shape == (3, 4, 5, 3) and ((colors > 0) & (colors < 1)).all()
    assert min((colors[a] - colors[b]).abs().max() for a, b in ((0, 1), (0, 2), (1, 2))) > 1e-2
    for index in range(3):
        alone = background(directions[index : index + 1], background.condition(text[index : index + 1]))
        tolerance = 0.0 if device == "cpu" else 1e-5
        torch.testing.assert_close(colors[index : index + 1], alone, rtol=tolerance, atol=tolerance)


def test_colors_are_their_definition():
    background = BACKGROUNDS["prompt"]()
    directions = directions_of(2, 9)
    first, second = cache = background.condition(torch.randn(2, TEXT_WIDTH))
    colors = background(directions, cache)
    for index in range(2):
        encoded = hash_grid_encode((directions[index] + 1) / 2, background.encoding.params, GRID, compiled=False)
        torch.testing.assert_close(colors[index], ((encoded @ first[index]).relu() @ second[index]).sigmoid())


def test_shared_is_the_environment_for_all():
    background = BACKGROUNDS["shared"]()
    directions = directions_of(1, 9).expand(3, 9, 3)
    cache = background.condition(torch.randn(3, TEXT_WIDTH))
    colors = background(directions, cache)
    assert torch.equal(colors[0], colors[1]) and torch.equal(colors[0], colors[2])
    environment = EnvironmentBackground("sh3", torch.Generator().manual_seed(1))
    assert torch.equal(colors[:1], environment(directions[:1]))


def test_color_activation_is_that_of_the_object_where_asked():
    plain, wide = (
        SharedBackground("sh3", torch.Generator().manual_seed(1), color_activation=name) for name in ("sigmoid", "sigmoid_mipnerf")
    )
    directions = directions_of(2, 9)
    torch.testing.assert_close(wide(directions), 1.002 * plain(directions) - 0.001)


def test_published_axes():
    ours, theirs = (
        lively(PromptBackground(TEXT_WIDTH, torch.Generator().manual_seed(1), grid=GRID, axes=axes)) for axes in ("project", "threestudio")
    )
    text, directions = torch.randn(2, TEXT_WIDTH), directions_of(2, 9)
    expected = ours(directions, ours.condition(text))
    torch.testing.assert_close(theirs(published.out_of_axes(directions, "threestudio"), theirs.condition(text)), expected)


def test_directions_of_other_sentences_are_refused():
    background = BACKGROUNDS["prompt"]()
    with pytest.raises(ValueError, match=r"as many rows of each, got \[2, 3\]"):
        background(directions_of(2, 9), background.condition(torch.randn(3, TEXT_WIDTH)))
