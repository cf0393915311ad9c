"""Adan: the published trajectories, its formula in float64, and that it goes on where it was left."""

import json

import numpy as np
import pytest
import torch

from microdreamer.generators.adan import Adan


def trajectory(start, gradients, **settings):
    parameter = torch.nn.Parameter(start.clone())
    optimizer, places = Adan([parameter], **settings), []
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
        places.append(parameter.detach().clone())
    return torch.stack(places)


@pytest.mark.parametrize("case", ["cfg", "wd"])
def test_published_trajectories(parity, case):
    data = np.load(parity("generators/adan.npz"))
    settings = json.loads(str(data[f"{case}_setting"]))
    settings["betas"] = tuple(settings["betas"])
    found = trajectory(torch.as_tensor(data["start"]), torch.as_tensor(data["grads"]), **settings)
    torch.testing.assert_close(found, torch.as_tensor(data[f"{case}_trajectory"]), rtol=1e-5, atol=1e-6)


def test_the_formula_in_float64():
    draw = torch.Generator().manual_seed(0)
    start, gradients = torch.randn(4, 3, generator=draw, dtype=torch.float64), torch.randn(7, 4, 3, generator=draw, dtype=torch.float64)
    (b1, b2, b3), rate, eps, decay = (0.9, 0.8, 0.95), 0.02, 1e-8, 0.1
    x, m, v, n, last, expected = start.clone(), 0.0, 0.0, 0.0, gradients[0], []
    for k, g in enumerate(gradients, 1):
        d, last = g - last, g
        m, v, n = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * d, b3 * n + (1 - b3) * (g + b2 * d) ** 2
        x = x - rate * (m / (1 - b1**k) + b2 * v / (1 - b2**k)) / ((n / (1 - b3**k)).sqrt() + eps)
        x = x / (1 + rate * decay)
        expected.append(x)
    found = trajectory(start, gradients, lr=rate, betas=(b1, b2, b3), eps=eps, weight_decay=decay)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-12, atol=1e-12)


def test_it_goes_on_from_its_state():
    gradients = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    whole = trajectory(torch.zeros(5), gradients)[-1]
    first = torch.nn.Parameter(torch.zeros(5))
    optimizer = Adan([first])
    for gradient in gradients[:3]:
        first.grad = gradient.clone()
        optimizer.step()
    second = torch.nn.Parameter(first.detach().clone())
    resumed = Adan([second])
    resumed.load_state_dict(optimizer.state_dict())
    for gradient in gradients[3:]:
        second.grad = gradient.clone()
        resumed.step()
    assert torch.equal(second.detach(), whole)


def test_a_parameter_without_gradient_stays():
    moved, still = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = Adan([moved, still])
    moved.grad = torch.ones(2)
    optimizer.step()
    assert (moved < 1).all() and torch.equal(still.detach(), torch.ones(2))


@pytest.mark.parametrize(
    "settings", [{"betas": (0.9, 0.9)}, {"betas": (0.9, 0.9, 1.0)}, {"lr": -1.0}, {"eps": -1.0}, {"weight_decay": -1.0}]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Adan([torch.nn.Parameter(torch.zeros(1))], **settings)
