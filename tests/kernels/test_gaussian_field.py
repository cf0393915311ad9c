"""Gaussian weights and the density grid: against goldens, against float64, and the switches against each other."""

import numpy as np
import pytest
import torch
from conftest import DEVICES, relative_l2

from microdreamer.kernels import extension
from microdreamer.kernels.gaussian_field import extract_fields, extract_fields_reference, gaussian_3d_coeff, gaussian_3d_coeff_reference

needs_kernels = pytest.mark.skipif(not extension.load(), reason="the compiled kernels are not built")

# Kinds of offset and covariance in gaussian_coeff.npz and the largest error allowed against float64. The ill-conditioned kinds (2:
# one sigma 100 to 1000 times smaller, 4: sigmas of 1 to 50, 5: one sigma zero) cost a float32 formula its digits; the compiled
# kernels work in double and do not need the wider ones.
PLAIN_TOLERANCE = {0: 1e-5, 1: 0.0, 2: 0.05, 3: 1e-6, 4: 2e-3, 5: 2e-3, 6: 2e-6}


def covariances(scales: torch.Tensor, rotations: torch.Tensor) -> torch.Tensor:
    """R S S^T R^T packed, computed in float64; scales [N,3], rotations [N,4] wxyz of any length."""
    w, x, y, z = torch.nn.functional.normalize(rotations.double(), dim=-1).unbind(-1)
    matrix = torch.stack(
        [
            *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
            *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
            *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
        ],
        dim=-1,
    ).reshape(-1, 3, 3)
    spread = matrix * scales.double()[:, None]
    full = spread @ spread.mT
    return full[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]


def random_set(
    count: int, device: str = "cpu", smallest: float = 0.01, largest: float = 0.05
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Means, covariances and opacities of ordinary Gaussians, float32."""
    means = torch.rand(count, 3) * 1.8 - 0.9
    scales = smallest * (largest / smallest) ** torch.rand(count, 3)
    covs = covariances(scales, torch.randn(count, 4)).float()
    return means.to(device), covs.to(device), (0.02 + 0.98 * torch.rand(count)).to(device)


def golden_field_inputs(golden: dict) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    opacities = torch.from_numpy(golden["opacity_logit"]).sigmoid().squeeze(1)
    kept = opacities > 0.005
    means = (torch.from_numpy(golden["xyz"]) - torch.from_numpy(golden["center"])) * torch.tensor(golden["scale"])
    return means[kept], torch.from_numpy(golden["cov6"])[kept], opacities[kept]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("function", [gaussian_3d_coeff, gaussian_3d_coeff_reference])
def test_coeff_matches_float64_goldens(parity, device, function):
    golden = np.load(parity("kernels/gaussian_coeff.npz"))
    weights = function(torch.from_numpy(golden["xyz"]).to(device), torch.from_numpy(golden["cov6"]).to(device)).cpu().numpy()
    error = np.abs(weights - golden["weight_f64"])
    for group, plain_tolerance in PLAIN_TOLERANCE.items():
        compiled = function is gaussian_3d_coeff and extension.available(device)
        tolerance = min(plain_tolerance, 1e-6) if compiled else plain_tolerance
        assert error[golden["group"] == group].max() <= tolerance, f"group {group}"


@pytest.mark.parametrize("device", DEVICES)
def test_coeff_matches_reference_goldens(parity, device):
    golden = np.load(parity("kernels/gaussian_coeff.npz"))
    well_conditioned = np.isin(golden["group"], [0, 1, 3, 6])
    weights = gaussian_3d_coeff(torch.from_numpy(golden["xyz"]).to(device), torch.from_numpy(golden["cov6"]).to(device)).cpu().numpy()
    assert np.abs(weights - golden["weight"])[well_conditioned].max() <= 1e-5


@pytest.mark.parametrize("device", DEVICES)
def test_coeff_of_modelled_covariances(parity, device):
    golden = np.load(parity("priors/gaussians.npz"))
    covs = covariances(torch.from_numpy(golden["cov.scale"]), torch.from_numpy(golden["cov.quat_wxyz_unnormalised"])).float()
    np.testing.assert_allclose(covs, golden["cov.cov6_mod1"], atol=1e-6)
    weights = gaussian_3d_coeff(torch.from_numpy(golden["coeff.xyz"]).to(device), torch.from_numpy(golden["cov.cov6_mod1"]).to(device))
    np.testing.assert_allclose(weights.cpu(), golden["coeff.weight"], atol=1e-5)


@needs_kernels
@pytest.mark.parametrize("device", DEVICES)
def test_coeff_gradients(device):
    xyzs = (torch.randn(24, 3, dtype=torch.float64) * 0.05).to(device).requires_grad_()
    covs = covariances(0.02 + 0.08 * torch.rand(24, 3), torch.randn(24, 4)).to(device).requires_grad_()
    assert torch.autograd.gradcheck(gaussian_3d_coeff, (xyzs, covs), eps=1e-7, atol=1e-4)
    v_weights = torch.randn(24, dtype=torch.float64, device=device)
    expected = torch.autograd.grad(gaussian_3d_coeff_reference(xyzs, covs), (xyzs, covs), v_weights)
    actual = torch.autograd.grad(gaussian_3d_coeff(xyzs, covs), (xyzs, covs), v_weights)
    for got, wanted in zip(actual, expected, strict=True):
        assert relative_l2(got, wanted) < 1e-10


@pytest.mark.parametrize("device", DEVICES)
def test_weights_that_vanish_have_zero_gradient(device):
    xyzs = torch.tensor([[50.0, 0.0, 0.0], [0.1, 0.1, 0.1]], device=device, requires_grad=True)
    covs = torch.tensor([[1e-4, 0, 0, 1e-4, 0, 1e-4], [1.0, 0, 0, 1.0, 0, -1.0]], device=device, requires_grad=True)
    weights = gaussian_3d_coeff(xyzs, covs)
    assert weights[0] == 0
    weights.sum().backward()
    assert xyzs.grad[0].abs().max() == 0 and covs.grad[0].abs().max() == 0
    assert xyzs.grad.isfinite().all() and covs.grad.isfinite().all()


@needs_kernels
@pytest.mark.parametrize("device", DEVICES)
def test_registration(device):
    xyzs = (torch.randn(5, 3) * 0.05).to(device)
    means, covs, opacities = random_set(5, device)
    ops = torch.ops.microdreamer
    torch.library.opcheck(ops.gaussian_3d_coeff.default, (xyzs, covs))
    torch.library.opcheck(ops.gaussian_3d_coeff.default, (xyzs.requires_grad_(), covs.clone().requires_grad_()))
    torch.library.opcheck(ops.gaussian_3d_coeff_bwd.default, (xyzs.detach(), covs, torch.randn(5, device=device)))
    torch.library.opcheck(ops.extract_fields.default, (means, covs, opacities, 16, 4, 1.5))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["regular", "edge"])
def test_field_matches_goldens(parity, device, name):
    """Within 1e-4, except for voxels of the edge set where the golden itself is that far from float64 (near-singular members)."""
    golden = dict(np.load(parity(f"kernels/extract_fields_{name}.npz")))
    inputs = [value.to(device) for value in golden_field_inputs(golden)]
    low = extract_fields(*inputs, int(golden["res_lo"])).cpu().numpy()
    assert (np.abs(low - golden["occ_lo"]) - golden["occ_lo_abs_err"].astype(np.float32)).max() <= 1e-4
    high = extract_fields(*inputs, 128).cpu().numpy()
    error = np.abs(high.ravel()[golden["occ_hi_index"]] - golden["occ_hi_value"])
    assert (error > 1e-4).sum() <= (0 if name == "regular" else 100)
    for axis, letter in enumerate("xyz"):
        np.testing.assert_allclose(high.sum(axis), golden[f"occ_hi_sum_{letter}"], atol=2e-4 if name == "regular" else 0.03)


@needs_kernels
@pytest.mark.parametrize("device", DEVICES)
def test_field_of_the_edge_set_matches_float64(parity, device):
    inputs = [value.to(device) for value in golden_field_inputs(dict(np.load(parity("kernels/extract_fields_edge.npz"))))]
    expected = extract_fields_reference(*(value.double() for value in inputs), 64)
    # What is promised. A flat Gaussian's determinant cancels to a few of a double's digits, so that products added in one rounding or
    # in two (a processor with fused multiply-adds, or none) differ by 3e-5 here.
    assert (extract_fields(*inputs, 64) - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("switches", ["compiled", "compiled coefficients only", "plain"])
def test_field_of_raw_parameters(parity, device, switches, monkeypatch):
    golden = np.load(parity("priors/gaussians.npz"))
    if switches != "compiled":
        monkeypatch.setenv("USE_CUDA_EXTRACT", "0")
    if switches == "plain":
        monkeypatch.setenv("USE_CUDA_GAUSS", "0")
    opacities = torch.from_numpy(golden["field.raw_opacity"]).sigmoid().squeeze(1)
    kept = opacities > 0.005
    scale = float(golden["field.scale"])
    means = (torch.from_numpy(golden["field.raw_xyz"]) - torch.from_numpy(golden["field.center"])) * scale
    covs = covariances(torch.from_numpy(golden["field.raw_scaling"]).exp() * scale, torch.from_numpy(golden["field.raw_rotation"])).float()
    resolution, num_blocks = golden["field.resolution_blocks"].tolist()
    field = extract_fields(means[kept].to(device), covs[kept].to(device), opacities[kept].to(device), resolution, num_blocks)
    np.testing.assert_allclose(field.cpu(), golden["field.occ"], atol=1e-5)


@needs_kernels
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "resolution, num_blocks, relax_ratio",
    [(48, 6, 1.5), (64, 16, 1.5), (20, 4, 0.5), (30, 5, 0.0), (24, 1, 1.5), (9, 9, 3.0), (21, 3, 1.5), (2, 1, 1.5)],
)
def test_field_matches_plain_version(device, resolution, num_blocks, relax_ratio):
    """Block edges that are and are not whole tiles of the kernels, and grids that are not whole tiles."""
    sets = [random_set(60, device), random_set(12, device, 0.1, 1.0), random_set(8, device, 1e-3, 5e-3)]
    means, covs, opacities = (torch.cat(parts) for parts in zip(*sets, strict=True))
    arguments = (resolution, num_blocks, relax_ratio)
    expected = extract_fields_reference(means.double(), covs.double(), opacities.double(), *arguments)
    actual = extract_fields(means, covs, opacities, *arguments)
    assert (actual - expected).abs().max() < 2e-5 * max(1.0, float(expected.max()))
    assert actual.max() > 0.01 or resolution == 2


@needs_kernels
@pytest.mark.parametrize("device", DEVICES)
def test_degenerate_members(device):
    """Needles, sheets, points, planes without thickness and indefinite matrices, against the definition in float64."""
    count = 6
    shapes = {
        "needle": ([0.15, 0.003, 0.003], 1e-4),
        "sheet": ([0.05, 0.05, 5e-4], 1e-4),
        "thin sheet": ([0.05, 0.05, 5e-5], 2e-3),
        "point": ([1e-5, 1e-5, 1e-5], 1e-4),
        "huge": ([2.0, 3.0, 1.0], 1e-4),
        "plane": ([0.1, 0.1, 0.0], 1e-4),
    }
    for name, (scales, tolerance) in shapes.items():
        means, _, opacities = random_set(count, device)
        covs = covariances(torch.tensor(scales).expand(count, 3), torch.randn(count, 4)).float().to(device)
        expected = extract_fields_reference(means.double(), covs.double(), opacities.double(), 32, 4)
        actual = extract_fields(means, covs, opacities, 32, 4)
        assert (actual - expected).abs().max() < tolerance * max(1.0, float(expected.max())), name
    indefinite = torch.tensor([[0.01, 0, 0, -0.02, 0, 0.03], [0, 0, 0, 0, 0, 0], [0.01, 0.02, 0, 0.01, 0, 0.01]], device=device)
    means, opacities = torch.zeros(3, 3, device=device), torch.ones(3, device=device)
    expected = extract_fields_reference(means.double(), indefinite.double(), opacities.double(), 32, 4)
    assert (extract_fields(means, indefinite, opacities, 32, 4) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("device", DEVICES)
def test_cull_is_strict_and_per_block(device):
    """A wide Gaussian at the origin fills exactly the blocks whose widened box holds it."""
    covs = torch.tensor([[4.0, 0, 0, 4.0, 0, 4.0]], device=device)
    field = extract_fields(torch.zeros(1, 3, device=device), covs, torch.ones(1, device=device), 32, 8, relax_ratio=1.0)
    # Block 2 ends at -1 + 11 * 2/31 = -0.29, too far from 0 for a margin of 0.25.
    axis = torch.linspace(-1, 1, 32)
    reached = [b for b in range(8) if axis[4 * b] - 0.25 < 0 < axis[4 * b + 3] + 0.25]
    assert reached == [3, 4]
    occupied = (field > 0).nonzero().cpu()
    assert occupied.min() == 4 * reached[0] and occupied.max() == 4 * reached[-1] + 3
    assert len(occupied) == (4 * len(reached)) ** 3


@pytest.mark.parametrize("device", DEVICES)
def test_small_sets(device):
    none = torch.zeros(0, device=device)
    assert extract_fields(none.reshape(0, 3), none.reshape(0, 6), none, 16, 4).abs().max() == 0
    assert gaussian_3d_coeff(none.reshape(0, 3), none.reshape(0, 6)).shape == (0,)
    outside = torch.tensor([[5.0, 0.0, 0.0]], device=device)
    cov = torch.tensor([[0.01, 0, 0, 0.01, 0, 0.01]], device=device)
    assert extract_fields(outside, cov, torch.ones(1, device=device), 16, 4).max() == 0
    on_a_point = torch.full((1, 3), -1.0, device=device)
    assert extract_fields(on_a_point, cov, torch.ones(1, device=device), 16, 4)[0, 0, 0] == 1
    assert extract_fields(on_a_point, cov, torch.zeros(1, device=device), 16, 4).max() == 0


@pytest.mark.parametrize("device", DEVICES)
def test_same_bits_twice_whatever_the_thread_count(device):
    inputs = random_set(500, device)
    first = extract_fields(*inputs, 64)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        second = extract_fields(*inputs, 64)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(first, second)


@pytest.mark.parametrize("device", DEVICES)
def test_axes_permute_with_the_grid(device):
    means, covs, opacities = random_set(100, device)
    field = extract_fields(means, covs, opacities, 32, 4)
    swapped = extract_fields(means[:, [2, 1, 0]], covs[:, [5, 4, 2, 3, 1, 0]], opacities, 32, 4)
    assert (field - swapped.permute(2, 1, 0)).abs().max() < 1e-5


@pytest.mark.parametrize("switch", ["0", ""])
def test_bad_arguments(switch, monkeypatch):
    monkeypatch.setenv("USE_CUDA_EXTRACT", switch)
    monkeypatch.setenv("USE_CUDA_GAUSS", switch)
    means, covs, opacities = random_set(4)
    with pytest.raises(ValueError, match="num_blocks: expected a divisor of the resolution 30, got 4"):
        extract_fields(means, covs, opacities, 30, 4)
    with pytest.raises(ValueError, match="resolution: expected 2 to 1024, got 1"):
        extract_fields(means, covs, opacities, 1, 1)
    with pytest.raises(ValueError, match="relax_ratio: expected 0 or more"):
        extract_fields(means, covs, opacities, 32, 4, -1.0)
    with pytest.raises(ValueError, match=r"covs: expected shape \[4, 6\]"):
        extract_fields(means, covs[:, :5], opacities, 32, 4)
    with pytest.raises(ValueError, match=r"opacities: expected shape \[4\]"):
        extract_fields(means, covs, opacities[:, None], 32, 4)
    for position in range(3):
        spoilt = [means.clone(), covs.clone(), opacities.clone()]
        spoilt[position].view(-1)[1] = float("nan")
        with pytest.raises(ValueError, match="expected finite values, got NaN or infinity"):
            extract_fields(*spoilt, 32, 4)
    with pytest.raises(ValueError, match="covs"):
        gaussian_3d_coeff(means, covs[:2])
    with pytest.raises(ValueError, match="covs"):
        gaussian_3d_coeff(means, covs.double())


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_not_finite_is_found_wherever_it_is(dtype):
    """In every place of a tensor, and only that: the largest and the smallest numbers are finite."""
    limits = torch.finfo(dtype)
    extremes = torch.tensor([[limits.max, -limits.max, limits.tiny], [limits.smallest_normal / 4, -0.0, 0.0]], dtype=dtype)
    covs = torch.eye(3, dtype=dtype)[[0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]].expand(len(extremes), -1).contiguous()
    assert gaussian_3d_coeff(extremes, covs).tolist() == [0.0, 1.0]
    for value in (float("nan"), -float("nan"), float("inf"), -float("inf")):
        for position in range(covs.numel()):
            spoilt = covs.clone()
            spoilt.view(-1)[position] = value
            with pytest.raises(ValueError, match="covs: expected finite values"):
                gaussian_3d_coeff(torch.zeros(2, 3, dtype=dtype), spoilt)


@pytest.mark.parametrize("switch", ["USE_CUDA_EXTRACT", "USE_CUDA_GAUSS"])
def test_a_kernel_that_is_asked_for_and_not_there_is_an_error(switch, monkeypatch):
    monkeypatch.setattr(extension, "available", lambda _: False)
    means, covs, opacities = random_set(4)
    calls = {
        "USE_CUDA_EXTRACT": lambda: extract_fields(means, covs, opacities, 32, 4),
        "USE_CUDA_GAUSS": lambda: gaussian_3d_coeff(means, covs),
    }
    plain = calls[switch]()
    monkeypatch.setenv(switch, "1")
    with pytest.raises(RuntimeError, match=f"{switch}=1 but there is no compiled cpu kernel; build it with"):
        calls[switch]()
    monkeypatch.setenv(switch, "0")
    torch.testing.assert_close(calls[switch](), plain)


@needs_kernels
def test_coeff_refuses_nan_on_the_cpu():
    with pytest.raises(ValueError, match="xyzs: expected finite values"):
        gaussian_3d_coeff(torch.full((1, 3), float("nan")), torch.ones(1, 6))
