"""The course's steps of gaussian_3d_coeff agree with its twin at every count, and the launch that is too short is found by that."""

import pytest
import torch
from conftest import DEVICES, assert_gradients_repeat, relative_l2

from benchmarks.course.weights import FEW, coverage, flat_pairs, pairs
from microdreamer.kernels import extension
from microdreamer.kernels.course import WEIGHT_MISTAKES, WEIGHT_STEPS, gaussian_3d_coeff
from microdreamer.kernels.gaussian_field import gaussian_3d_coeff as library
from microdreamer.kernels.gaussian_field import gaussian_3d_coeff_reference

pytestmark = pytest.mark.skipif(not extension.load(), reason="the compiled kernels are not built")
OP = "course_gaussian_3d_coeff"


def off_by(variant, xyzs, covs):
    expected = gaussian_3d_coeff_reference(xyzs.double(), covs.double())
    return float((gaussian_3d_coeff(xyzs, covs, variant) - expected).abs().max()) if len(xyzs) else 0.0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", WEIGHT_STEPS)
def test_every_step_computes_every_weight(variant, device):
    """Whole blocks and not, whole groups of a thread and not; nothing of what was in that memory before is left."""
    for count in (1, 3, 4, 255, 256, 257, 1000, 1024, 4097):
        assert coverage(variant, count, device) == "passes"
    assert gaussian_3d_coeff(*pairs(0, device), variant).shape == (0,)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", WEIGHT_STEPS)
def test_every_step_matches_the_twin(variant, device):
    xyzs, covs = pairs(FEW, device)
    assert off_by(variant, xyzs, covs) < 2e-5
    assert off_by(variant, xyzs.double(), covs.double()) < 1e-12
    assert gaussian_3d_coeff(xyzs, covs, variant).dtype == torch.float32


@pytest.mark.parametrize("device", DEVICES)
def test_only_the_step_in_double_takes_flat_gaussians(device):
    """The lesson of the float steps: in the chapter's sample they are right to five digits, here they are not."""
    xyzs, covs = flat_pairs(FEW, device)
    assert off_by("naive", xyzs, covs) < 1e-6 and torch.equal(gaussian_3d_coeff(xyzs, covs), library(xyzs, covs))
    assert all(off_by(variant, xyzs, covs) > 1e-3 for variant in WEIGHT_STEPS[1:])
    assert all(off_by(variant, xyzs.double(), covs.double()) < 1e-6 for variant in WEIGHT_STEPS)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", WEIGHT_STEPS)
def test_every_step_takes_far_offsets_and_indefinite_covariances(variant, device):
    xyzs = torch.tensor([[50.0, 0, 0], [0.1, 0.1, 0.2], [0.0, 0, 0]] * 5, device=device)
    covs = torch.tensor([[1e-4, 0, 0, 1e-4, 0, 1e-4], [1.0, 0, 0, 1.0, 0, -1.0], [0.01, 0, 0, 0.02, 0, 0.03]] * 5, device=device)
    assert gaussian_3d_coeff(xyzs, covs, variant).tolist() == [0.0, 0.0, 1.0] * 5


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", WEIGHT_STEPS)
def test_every_step_takes_tensors_that_begin_between_16_bytes(variant, device):
    xyzs, covs = pairs(1001, device)
    for first in (1, 2, 3):
        assert torch.equal(gaussian_3d_coeff(xyzs[first:], covs[first:], variant)[:16], gaussian_3d_coeff(xyzs, covs, variant)[first:][:16])
        assert off_by(variant, xyzs[first:], covs[first:]) < 2e-5


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", WEIGHT_STEPS)
def test_every_step_has_gradients(variant, device):
    xyzs, covs = (part.double().requires_grad_() for part in pairs(10, device))
    assert torch.autograd.gradcheck(lambda *leaves: gaussian_3d_coeff(*leaves, variant), (xyzs, covs), eps=1e-7, atol=1e-4)
    v_weights = torch.randn(10, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).to(device)
    found, expected = (
        torch.autograd.grad(function(xyzs, covs), (xyzs, covs), v_weights)
        for function in (lambda *leaves: gaussian_3d_coeff(*leaves, variant), library)
    )
    assert all(relative_l2(a, b) < 1e-10 for a, b in zip(found, expected, strict=True))
    assert_gradients_repeat(lambda: torch.autograd.grad(gaussian_3d_coeff(xyzs, covs, variant), (xyzs, covs), v_weights))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", WEIGHT_STEPS)
def test_every_step_is_what_its_schema_says(variant, device):
    op = getattr(torch.ops.microdreamer, OP).default
    xyzs, covs = pairs(300, device)
    torch.library.opcheck(op, (xyzs, covs, variant))
    torch.library.opcheck(op, (xyzs.requires_grad_(), covs.requires_grad_(), variant))


# ---- The mistake ----


@pytest.mark.parametrize("device", DEVICES)
def test_a_launch_that_is_too_short_is_found_where_the_last_block_is_not_full(device):
    (wrong,) = WEIGHT_MISTAKES
    assert coverage(wrong, 1024, device) == "passes"  # whole blocks: nobody notices
    assert coverage(wrong, 1000, device) == "232 of 1000 weights were never written, the first of them number 768"
    assert coverage(wrong, 255, device) == "255 of 255 weights were never written, the first of them number 0"


def test_values_that_are_wrong_are_told_too(monkeypatch):
    monkeypatch.setattr("benchmarks.course.weights.course.gaussian_3d_coeff", lambda xyzs, covs, variant: library(1.1 * xyzs, covs))
    assert coverage("naive", 1000, "cpu").startswith("differs from the twin by 0.0")
    assert not torch.are_deterministic_algorithms_enabled()


# ---- What it stands beside ----


def test_bad_arguments_are_told():
    xyzs, covs = pairs(10, "cpu")
    with pytest.raises(ValueError, match="variant: expected one of naive, fused, shared, vectorised, wrong_launch, got tiled"):
        gaussian_3d_coeff(xyzs, covs, "tiled")
    with pytest.raises(ValueError, match=r"covs: expected shape \[10, 6\] .*, got \[9, 6\]"):
        gaussian_3d_coeff(xyzs, covs[:9])
    with pytest.raises(ValueError, match="xyzs: expected float32 or float64, got Half"):
        gaussian_3d_coeff(xyzs.half(), covs.half())
    with pytest.raises(ValueError, match="covs: expected Float, got Double"):
        gaussian_3d_coeff(xyzs, covs.double())
