"""The second look along rays: golden tensors, a closed form, and edges that stay in order."""

import numpy as np
import pytest
import torch
from conftest import DEVICES

from microdreamer.fields.importance_sampling import importance_sampling


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["det", "jit"])
def test_goldens(parity, kind, device):
    data = {
        name: torch.from_numpy(value).to(device) for name, value in np.load(parity("generators/importance_sampling_derived.npz")).items()
    }
    jitter = data["jitter_per_ray"][:, 0] if kind == "jit" else None
    samples, edges = importance_sampling(data["edges"], data["cdf"], int(data["n"]), jitter)
    torch.testing.assert_close(samples, data[f"{kind}_samples"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(edges, data[f"{kind}_intervals"], rtol=1e-5, atol=1e-6)


def test_an_even_distribution_gives_even_intervals():
    edges = torch.linspace(2, 6, 9, dtype=torch.float64).expand(3, -1)
    samples, found = importance_sampling(edges, (edges - 2) / 4, 10)
    torch.testing.assert_close(found, torch.linspace(2, 6, 11, dtype=torch.float64).expand(3, -1))
    torch.testing.assert_close(samples, (found[:, 1:] + found[:, :-1]) / 2)


def test_samples_follow_the_distribution():
    # The distribution t^2 on [0,1], whose inverse is the root; its straight pieces are 1/4000 long.
    edges = torch.linspace(0, 1, 4001, dtype=torch.float64)[None]
    samples, _ = importance_sampling(edges, edges**2, 100)
    torch.testing.assert_close(samples, ((torch.arange(100) + 0.5) / 100).sqrt()[None].double(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("jitter", [None, 0.0, 1.0])
def test_edges_stay_in_order_and_within(jitter):
    draw = torch.Generator().manual_seed(0)
    edges = torch.rand(50, 17, generator=draw).cumsum(1)
    steps = torch.rand(50, 16, generator=draw) * (torch.rand(50, 16, generator=draw) > 0.6)  # many flat pieces, some rays all flat
    cdf = torch.cat([torch.zeros(50, 1), steps.cumsum(1)], dim=1)
    cdf[:3] = 0
    _, found = importance_sampling(edges, cdf, 12, None if jitter is None else torch.full((50,), jitter))
    assert torch.isfinite(found).all()
    assert (found[:, 1:] >= found[:, :-1]).all()
    assert (found[:, 0] >= edges[:, 0]).all() and (found[:, -1] <= edges[:, -1]).all()


def test_wrong_shapes_are_told():
    with pytest.raises(ValueError, match=r"expected the same shape \[N,B\+1\]"):
        importance_sampling(torch.zeros(2, 5), torch.zeros(2, 4), 3)
    with pytest.raises(ValueError, match="count=1"):
        importance_sampling(torch.zeros(2, 5), torch.zeros(2, 5), 1)
