"""Regularisers: the references' values, and gradients that go the right way."""

import pytest
import torch
from toy_prior import golden_cases

from microdreamer.distillation import regularisers


def test_values_equal_the_reference(parity):
    golden, _ = golden_cases(parity("generators/losses.npz"))
    opacity = golden["opacity"]
    values = {
        "orient": regularisers.orient(golden["weights"][:, 0], golden["normal"], golden["t_dirs"], opacity),
        "sparsity": regularisers.sparsity(opacity),
        "opaque": regularisers.opaque(opacity),
        "z_variance": regularisers.z_variance(golden["z_variance"], opacity),
        "eikonal": regularisers.eikonal(golden["sdf_grad"]),
    }
    for name, value in values.items():
        assert float(value) == pytest.approx(float(golden[f"value_loss_{name}"]), rel=1e-5), name


def test_gradients_are_those_of_the_values():
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    opacity, normals = (draw(12) * 0.9 + 0.05).requires_grad_(), draw(20, 3).sub_(0.5).requires_grad_()
    directions, weights = draw(20, 3) - 0.5, draw(20)
    variance = draw(12).requires_grad_()
    for function, inputs in (
        (regularisers.sparsity, (opacity,)),
        (regularisers.opaque, (opacity,)),
        (lambda normals: regularisers.orient(weights, normals, directions, opacity.detach()), (normals,)),
        (lambda variance: regularisers.z_variance(variance, opacity.detach()), (variance,)),
        (regularisers.eikonal, (normals,)),
    ):
        assert torch.autograd.gradcheck(function, inputs)


def test_orientation_moves_normals_and_not_density():
    weights = torch.rand(5, requires_grad=True)
    normals = torch.nn.functional.normalize(torch.randn(5, 3), dim=1).requires_grad_()
    regularisers.orient(weights, normals, -normals.detach(), torch.ones(3)).backward()
    assert weights.grad is None and not normals.grad.any()  # all face the viewer
    regularisers.orient(weights, normals, normals.detach(), torch.ones(3)).backward()
    assert normals.grad.any()


def test_opaque_is_least_where_rays_are_decided():
    values = [float(regularisers.opaque(torch.tensor([opacity]))) for opacity in (0.0, 0.2, 0.5, 0.8, 1.0)]
    assert values[0] < values[1] < values[2] > values[3] > values[4] and values[0] == pytest.approx(values[4], rel=1e-3)


def test_empty_views_are_finite():
    nothing, samples = torch.zeros(4, requires_grad=True), torch.zeros(0)
    total = regularisers.orient(samples, torch.zeros(0, 3), torch.zeros(0, 3), nothing) + regularisers.z_variance(nothing, nothing)
    total = total + regularisers.sparsity(nothing) + regularisers.opaque(nothing)
    total.backward()
    assert bool(total.isfinite()) and bool(nothing.grad.isfinite().all())
