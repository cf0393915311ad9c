"""Networks made for a file's weights: nothing is drawn first, and what is in no file is noticed."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from microdreamer.core.unfilled import assign, unfilled, without_first_values


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 2), nn.BatchNorm1d(2)
        self.words = nn.Parameter(nn.init.normal_(torch.empty(4, 2)))


def test_nothing_is_drawn_and_the_weights_are_the_files():
    source, before = Network(), torch.get_rng_state()
    with unfilled():
        network = Network()
    assert torch.equal(torch.get_rng_state(), before) and all(parameter.is_meta for parameter in network.parameters())
    state = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in source.state_dict().items()}
    assign(network, state, "cpu")
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, state[name].to(tensor.dtype)) and tensor.dtype == source.state_dict()[name].dtype
        assert tensor.data_ptr() != state[name].data_ptr()  # which may be pages of a file


def test_other_threads_and_later_networks_have_their_first_values():
    with unfilled():
        Network()
    network = Network()
    assert not network.words.is_meta and network.linear.weight.std() > 0


def test_what_no_file_gives_is_an_error():
    with unfilled():
        network = Network()
        network.register_buffer("ramp", torch.arange(3.0), persistent=False)
    with pytest.raises(ValueError, match="Network: ramp is in no file of weights"):
        assign(network, Network().state_dict(), "cpu")


def test_what_a_network_draws_by_hand_is_left_out_where_weights_follow():
    class Drawn(nn.Module):
        def __init__(self, draws):
            super().__init__()
            self.table = nn.Parameter(torch.rand(5, 3, generator=draws))
            self.noise = nn.Parameter(torch.randn(*(2, 2), generator=draws).double())
            self.linear = nn.Linear(3, 2)
            with torch.no_grad():
                self.linear.weight.uniform_(-1, 1, generator=draws)
            self.register_buffer("ramp", torch.arange(3.0), persistent=False)

    draws, source = torch.Generator().manual_seed(0), Drawn(torch.Generator().manual_seed(0))
    before, everywhere = draws.get_state(), torch.get_rng_state()
    with without_first_values():
        network = Drawn(draws)
    assert torch.equal(draws.get_state(), before) and torch.equal(torch.get_rng_state(), everywhere)
    assert [p.dtype for p in network.parameters()] == [p.dtype for p in source.parameters()] and torch.equal(network.ramp, source.ramp)
    network.load_state_dict(source.state_dict())
    for actual, expected in zip(network.parameters(), source.parameters(), strict=True):
        assert torch.equal(actual, expected)
    assert torch.equal(Drawn(draws).table, source.table)  # drawn again after the block


NO_DRAW = """
import sys
import torch
from microdreamer.guidance import load_prior
def refuse(self, *_, **__):
    raise AssertionError("a loaded network was initialised first")
torch.Tensor.normal_ = torch.Tensor.uniform_ = refuse
load_prior(*sys.argv[1:])
print(sorted({"diffusers", "transformers", "torch._dynamo", "sympy"} & set(sys.modules)))
"""


@pytest.mark.parametrize("name", ["micro", "stable_zero123", "mvdream", "imagedream", "stable_diffusion"])
def test_loading_a_prior_draws_nothing_and_imports_no_library_of_networks(tiny_checkpoint, name):
    words = [name] if name == "micro" else [name, str(tiny_checkpoint(name))]
    done = subprocess.run([sys.executable, "-c", NO_DRAW, *words], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
