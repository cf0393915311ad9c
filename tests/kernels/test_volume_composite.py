"""Compositing of samples along rays against closed forms, its plain-PyTorch twin and float64 gradients."""

import math

import pytest
import torch
from conftest import relative_l2
from volume_scenes import BOTH, EACH, box_span, coefficients_for, need_compiled, outputs, random_samples, rays_at_box

from microdreamer.kernels.volume import Samples, composite, keep_visible, march_rays


@EACH
@BOTH
def test_a_slab_of_one_density(device, compiled):
    """However a ray is cut up, it sees alpha = 1 - exp(-density * length), and the depth of an exponential law."""
    if compiled:
        need_compiled(device)
    origins, directions = rays_at_box(200, device)
    full = torch.ones(4, 4, 4, dtype=torch.bool, device=device)
    enter, leave = box_span(origins, directions)
    density = 0.8
    expected = -torch.expm1(-density * (leave - enter))
    for step in (3.0, 0.2, 0.01):
        samples = march_rays(origins, directions, full, radius=1.0, step=step, jitter=torch.rand(200, device=device), compiled=compiled)
        found = composite(torch.full_like(samples.start, density), torch.ones_like(samples.start)[:, None], samples, compiled=compiled)
        torch.testing.assert_close(found.alpha.double(), expected, rtol=0, atol=2e-6)
        torch.testing.assert_close(found.features[:, 0], found.alpha, rtol=0, atol=1e-6)
    depth = enter * expected + (1 - (1 + density * (leave - enter)) * torch.exp(-density * (leave - enter))) / density
    torch.testing.assert_close(found.depth.double(), depth, rtol=0, atol=1e-4)  # of steps of 0.01


@EACH
@BOTH
def test_a_thin_opaque_shell_is_seen_at_its_depth(device, compiled):
    if compiled:
        need_compiled(device)
    origins, directions = rays_at_box(400, device)
    to_center = -(origins * directions).sum(1)
    miss = (origins.square().sum(1) - to_center**2).clamp_min(0)
    hits = miss < 0.3
    origins, directions = origins[hits], directions[hits]
    expected = to_center[hits] - (0.64 - miss[hits]).sqrt()  # a ball of radius 0.8
    full = torch.ones(4, 4, 4, dtype=torch.bool, device=device)
    step = 0.002
    samples = march_rays(origins, directions, full, radius=1.0, step=step, compiled=compiled)
    distance = samples.positions(origins, directions).norm(dim=1)
    density = torch.where((distance < 0.8) & (distance > 0.78), 1e5, 0.0)
    colors = torch.where(distance > 0.78, 1.0, 0.0)[:, None] * torch.tensor([0.2, 0.5, 0.7], device=device)
    found = composite(density, colors, samples, compiled=compiled)
    torch.testing.assert_close(found.alpha, torch.ones_like(found.alpha), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.depth, expected, rtol=0, atol=1.5 * step)
    torch.testing.assert_close(found.features, torch.tensor([[0.2, 0.5, 0.7]], device=device).expand(len(origins), 3), rtol=0, atol=1e-5)


@EACH
@BOTH
def test_a_piece_cut_in_two_changes_nothing(device, compiled):
    if compiled:
        need_compiled(device)
    samples, density, features = random_samples(device=device)
    share = 0.1 + 0.8 * torch.rand(len(samples.start), device=device)

    def halves(first, second):
        return torch.stack([first, second], dim=1).flatten(0, 1)

    split = Samples(
        samples.ray.repeat_interleave(2),
        halves(samples.start, samples.start + share * samples.length),
        halves(share * samples.length, (1 - share) * samples.length),
        2 * samples.offsets,
        2 * samples.total,
    )
    with torch.no_grad():
        once = composite(density, features, samples, compiled=compiled)
        twice = composite(density.repeat_interleave(2), features.repeat_interleave(2, 0), split, compiled=compiled)
    torch.testing.assert_close(twice.alpha, once.alpha, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(twice.features, once.features, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(twice.weights.view(-1, 2).sum(1), once.weights, rtol=1e-4, atol=1e-6)


@EACH
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    "names", [("features",), ("alpha",), ("depth",), ("weights",), ("features", "alpha"), ("features", "alpha", "depth", "weights")]
)
def test_composite_matches_float64(device, names, padded):
    need_compiled(device)
    samples, density, features = random_samples(300, device, capacity=12_000 if padded else None)
    coefficients = coefficients_for(samples, 4, device)
    found = composite(density, features, samples, compiled=True)
    exact_inputs = [tensor.detach().double().requires_grad_() for tensor in (density, features)]
    exact = composite(*exact_inputs, samples, compiled=False)
    for name in names:
        torch.testing.assert_close(getattr(found, name).double(), getattr(exact, name), rtol=1e-4, atol=1e-5)
    gradients = torch.autograd.grad(outputs(found, names, coefficients), [density, features], allow_unused=True, materialize_grads=True)
    expected = torch.autograd.grad(
        outputs(exact, names, {name: value.double() for name, value in coefficients.items()}), exact_inputs, materialize_grads=True
    )
    assert relative_l2(gradients[0], expected[0]) < 1e-5
    assert relative_l2(gradients[1], expected[1]) < 1e-5 or not expected[1].any()
    if padded:
        used = int(samples.total)
        assert not gradients[0][used:].any() and not gradients[1][used:].any() and not found.weights[used:].any()


def test_gradcheck_of_the_reference():
    samples, density, features = random_samples(6, dtype=torch.float64, capacity=130)
    assert 60 < int(samples.total) < 130

    def function(density, features):
        return tuple(composite(density, features, samples, compiled=False))

    assert torch.autograd.gradcheck(function, (density, features))
    assert torch.autograd.gradgradcheck(function, (density, features))


@EACH
def test_gradient_of_one_input_alone(device):
    need_compiled(device)
    samples, density, features = random_samples(device=device)
    coefficients = coefficients_for(samples, 4, device)
    names = ("features", "alpha", "depth", "weights")
    both = torch.autograd.grad(outputs(composite(density, features, samples), names, coefficients), [density, features])
    (of_density,) = torch.autograd.grad(outputs(composite(density, features.detach(), samples), names, coefficients), density)
    (of_features,) = torch.autograd.grad(outputs(composite(density.detach(), features, samples), names, coefficients), features)
    assert torch.equal(both[0], of_density) and torch.equal(both[1], of_features)


@EACH
def test_second_derivative_is_refused(device):
    need_compiled(device)
    samples, density, features = random_samples(device=device)
    (v_density,) = torch.autograd.grad(composite(density, features, samples, compiled=True).alpha.sum(), density, create_graph=True)
    with pytest.raises(RuntimeError, match="has no second derivative; pass compiled=False"):
        v_density.sum().backward()


@EACH
@BOTH
def test_densities_out_of_range(device, compiled):
    """Nothing from below zero or what is no number, everything from infinity; gradients stay finite."""
    if compiled:
        need_compiled(device)
    values = [float("nan"), -3.0, 2.0, float("inf"), 1.0, float("nan"), 1e30, -float("inf")]
    density = torch.tensor(values, device=device, requires_grad=True)
    features = torch.ones(8, 1, device=device, requires_grad=True)
    offsets = torch.tensor([0, 5, 8], dtype=torch.int32, device=device)
    start, length = torch.arange(8.0, device=device), torch.full((8,), 0.5, device=device)
    samples = Samples(torch.tensor([0] * 5 + [1] * 3, device=device), start, length, offsets, offsets[-1])
    found = composite(density, features, samples, compiled=compiled)
    expected = [0, 0, -math.expm1(-1), math.exp(-1), 0, 0, 1, 0]
    torch.testing.assert_close(found.weights, torch.tensor(expected, device=device), rtol=1e-6, atol=1e-7)
    gradients = torch.autograd.grad(found.depth.sum() + found.features.sum(), [density, features])
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert gradients[0][[0, 1, 3, 5, 6, 7]].abs().max() == 0 and gradients[0][2] != 0


@EACH
@BOTH
def test_no_samples_at_all(device, compiled):
    if compiled:
        need_compiled(device)
    for size in (0, 3):
        none = torch.zeros(size, device=device)
        offsets = torch.zeros(6, dtype=torch.int32, device=device)
        samples = Samples(none.long(), none, none, offsets, offsets[0])
        density, features = torch.full((size,), float("nan"), device=device), torch.ones(size, 3, device=device)
        found = composite(density.requires_grad_(), features.requires_grad_(), samples, compiled=compiled)
        assert found.features.shape == (5, 3) and not found.features.any() and not found.alpha.any() and not found.depth.any()
        gradients = torch.autograd.grad(found.features.sum() + found.alpha.sum() + found.weights.sum(), [density, features])
        assert gradients[0].shape == (size,) and not gradients[0].any() and not gradients[1].any()
        kept = keep_visible(samples, density, min_alpha=0.0, min_transmittance=0.0, compiled=compiled)
        assert len(kept.start) == 0 and kept.offsets.tolist() == [0] * 6
