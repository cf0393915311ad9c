"""Hyper-iNGP against its definition: how the predicted numbers become networks, and what of them is a sentence's own."""

import dataclasses

import pytest
import torch
from small_generators import SPECS, in_float64, points_of, sentences, small

from microdreamer.generators.hyper_ingp import HyperIngp, HyperIngpSpec, HyperNetwork, run_network
from microdreamer.kernels.hash_grid import hash_grid_encode


def test_outputs_are_cut_head_by_head_and_layer_by_layer():
    network = HyperNetwork(5, 4, [(3, 2, 1), (3, 4)])
    with torch.no_grad():
        network.layers[-1].weight.zero_()
        network.layers[-1].bias.copy_(torch.arange(20.0))
        (first, second), (other,) = network(torch.randn(2, 5))
    assert torch.equal(first, torch.arange(6.0).reshape(3, 2).expand(2, 3, 2))
    assert torch.equal(second, torch.tensor([[6.0], [7.0]]).expand(2, 2, 1))
    assert torch.equal(other, torch.arange(8.0, 20.0).reshape(3, 4).expand(2, 3, 4))


@pytest.mark.parametrize("hidden_layers", [1, 2, 3])
def test_hidden_layers(hidden_layers):
    """Only the first has no bias; each is normalised, then SiLU."""
    network = HyperNetwork(5, 4, [(3, 1)], hidden_layers, torch.Generator().manual_seed(0))
    biased = [module.bias is not None for module in network.layers if isinstance(module, torch.nn.Linear)]
    assert biased == [False] + [True] * hidden_layers
    x = text = torch.randn(2, 5)
    for linear in [module for module in network.layers if isinstance(module, torch.nn.Linear)][:-1]:
        x = linear(x)
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        x = x * x.sigmoid()
    torch.testing.assert_close(network(text)[0][0].flatten(1), network.layers[-1](x))


def test_initial_weights_have_xaviers_deviation():
    network = HyperNetwork(400, 300, [(30, 30)], generator=torch.Generator().manual_seed(0))
    for linear in (network.layers[0], network.layers[-1]):
        outputs, inputs = linear.weight.shape
        assert float(linear.weight.detach().std()) == pytest.approx((2 / (inputs + outputs)) ** 0.5, rel=0.02)
    assert not network.layers[-1].bias.any()


def test_networks_run_as_perceptrons_do():
    matrices = torch.randn(2, 4, 3), torch.randn(2, 3, 2)
    points = torch.randn(2, 6, 4)
    for index in range(2):
        expected = (points[index] @ matrices[0][index]).clamp_min(0) @ matrices[1][index]
        torch.testing.assert_close(run_network(matrices, points)[index], expected)


def test_field_is_its_definition():
    generator = in_float64(small(SPECS["hyper_ingp"]))
    text, where = sentences(generator, 2).double(), points_of(2).double()
    cache = generator.condition(text)
    sdf, features = generator.field(where, cache)
    for index in range(2):
        encoded = hash_grid_encode((where[index] + 2) / 4, generator.encoding.params, generator.spec.grid, compiled=False)
        w0, w1, w2, w3 = (matrix[index] for matrix in (*cache.sdf, *cache.features))
        raw = (encoded @ w0).relu() @ w1
        torch.testing.assert_close(sdf[index], raw[:, 0] + where[index].square().sum(-1).sqrt() - 0.5)
        torch.testing.assert_close(features[index], (encoded @ w2).relu() @ w3)


def test_a_spec_makes_the_same_network_twice():
    """The original's settings grew by a layer each time that a network was made of them."""
    spec: HyperIngpSpec = SPECS["hyper_ingp"]
    before = dataclasses.asdict(spec)
    shapes = [{name: tensor.shape for name, tensor in HyperIngp(spec).state_dict().items()} for _ in range(2)]
    assert shapes[0] == shapes[1] and dataclasses.asdict(spec) == before
