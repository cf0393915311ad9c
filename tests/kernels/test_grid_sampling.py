"""Features read from planes and voxels: against their definition, the twin in plain PyTorch, float64 gradients, and at the edges."""

import functools
import itertools

import pytest
import torch
from conftest import DEVICES, assert_gradients_repeat, relative_l2

from microdreamer.core.cuda_graphs import capture, warm_up
from microdreamer.kernels import extension
from microdreamer.kernels.grid_sampling import sample_grids

PLANES = ((0, 1), (0, 2), (2, 1))
VOXELS = ((0, 1, 2),)
# name: (axes, shape of the grids of one of the batch)
CASES = {
    "planes": (PLANES, (3, 6, 5, 8)),
    "planes, odd channels": (PLANES, (3, 6, 5, 7)),
    "planes, more channels than a warp has lanes": (((1, 2),), (1, 4, 4, 132)),
    "voxels": (VOXELS, (1, 6, 5, 4, 8)),
    "voxels, odd channels": (VOXELS, (1, 6, 5, 4, 3)),
    "two voxels, other axes": (((2, 0, 1), (1, 1, 0)), (2, 3, 4, 5, 4)),
    "one texel": (PLANES, (3, 1, 1, 4)),
}
on_all_devices = pytest.mark.parametrize("device", DEVICES)
both_versions = pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "reference"])
all_cases = pytest.mark.parametrize("case", CASES)


def need_compiled(device):
    if not extension.available(device):
        pytest.skip(f"no compiled {device} kernels")


def made(case, count=200, batch=2, device="cpu", dtype=torch.float32, extent=1.3, seed=0):
    """Points, some outside of [-1,1]^3, grids, axes, and a weight for each feature."""
    axes, shape = CASES[case]
    draw = torch.Generator().manual_seed(seed)
    points = extent * (2 * torch.rand(batch, count, 3, generator=draw, dtype=torch.float64) - 1)
    grids = torch.randn(batch, *shape, generator=draw, dtype=torch.float64)
    weight = torch.randn(batch, count, shape[0] * shape[-1], generator=draw, dtype=torch.float64)
    points, grids, weight = (tensor.to(device, torch.float32).to(dtype) for tensor in (points, grids, weight))
    return points.requires_grad_(), grids.requires_grad_(), axes, weight


def defined(points, grids, axes):
    """The definition, texel by texel: each weighs what is left of 1 a texel's width away from the point, along every axis."""
    parts = []
    for index, of_grid in enumerate(axes):
        weights = torch.ones(*points.shape[:2], *[1] * len(of_grid), dtype=points.dtype)
        for place, axis in enumerate(of_grid):  # width first, which is the last of the texels' axes
            size = grids.shape[-2 - place]
            centres = (2 * torch.arange(size, dtype=points.dtype) + 1) / size - 1
            tent = (1 - (points[..., axis, None] - centres).abs() * size / 2).clamp_min(0)
            weights = weights * tent.reshape(*tent.shape[:2], *[1] * (len(of_grid) - 1 - place), size, *[1] * place)
        parts.append(torch.einsum("bpt,btc->bpc", weights.flatten(2), grids[:, index].flatten(1, -2)))
    return torch.cat(parts, dim=-1)


@both_versions
@on_all_devices
@all_cases
def test_definition(case, device, compiled):
    if compiled:
        need_compiled(device)
    points, grids, axes, _ = made(case)
    found = sample_grids(points.to(device), grids.to(device), axes, compiled=compiled)
    torch.testing.assert_close(found.cpu(), defined(points.double(), grids.double(), axes).float(), rtol=1e-5, atol=1e-5)


@on_all_devices
@all_cases
@pytest.mark.parametrize("extent", [0.9, 1.3, 50.0])
def test_op_matches_reference(case, device, extent):
    need_compiled(device)
    points, grids, axes, weight = made(case, count=3000, device=device, extent=extent)
    found = sample_grids(points, grids, axes, compiled=True)
    expected = sample_grids(points, grids, axes, compiled=False)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    exact = sample_grids(points.double(), grids.double(), axes)
    of_op, of_twin, of_float64 = (torch.autograd.grad((f * weight).sum(), [points, grids]) for f in (found, expected, exact))
    for got, want, true in zip(of_op, of_twin, of_float64, strict=True):
        # Points next to a texel's centre may be taken for ones on its other side: float32 against float32 there.
        assert relative_l2(got, want) < 1e-5 or relative_l2(got, true) < 1e-5


@all_cases
def test_gradients_of_the_reference(case):
    points, grids, axes, _ = made(case, count=4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda p, g: sample_grids(p, g, axes), (points, grids), eps=1e-7, fast_mode=True)


@both_versions
@pytest.mark.parametrize("case", ["planes", "voxels"])
def test_gradient_against_differences(case, compiled):
    """Along a line that stays within its cells, a feature is a polynomial, whose central difference is nearly exact."""
    if compiled:
        need_compiled("cpu")
    points, grids, axes, weight = made(case, count=300, extent=1.0)
    step, direction = 1e-3, torch.nn.functional.normalize(torch.randn(2, 300, 3), dim=-1)
    stays = torch.ones(2, 300, dtype=torch.bool)
    for of_grid in axes:
        for place, axis in enumerate(of_grid):
            ends = [((points.detach() + s * step * direction)[..., axis] + 1) * grids.shape[-2 - place] / 2 - 0.5 for s in (-1, 1)]
            stays &= ends[0].floor() == ends[1].floor()
    assert stays.sum() > 300
    (v_points,) = torch.autograd.grad((sample_grids(points, grids, axes, compiled=compiled) * weight).sum(), points)
    with torch.no_grad():
        ahead, behind = (defined(points.double() + s * step * direction, grids.double(), axes) for s in (1, -1))
    expected = ((ahead - behind) * weight).sum(-1) / (2 * step)
    torch.testing.assert_close((v_points * direction).sum(-1)[stays], expected[stays].float(), rtol=1e-3, atol=1e-2)


@on_all_devices
@pytest.mark.parametrize("case", ["planes", "voxels"])
def test_gradients_of_one_input_alone(case, device):
    need_compiled(device)
    points, grids, axes, weight = made(case, device=device)
    both = torch.autograd.grad((sample_grids(points, grids, axes, compiled=True) * weight).sum(), [points, grids])
    (of_points,) = torch.autograd.grad((sample_grids(points, grids.detach(), axes, compiled=True) * weight).sum(), points)
    (of_grids,) = torch.autograd.grad((sample_grids(points.detach(), grids, axes, compiled=True) * weight).sum(), grids)
    torch.testing.assert_close(both, (of_points, of_grids))


@on_all_devices
def test_neighbours_in_order_give_the_gradient_of_any_order(device):
    """Runs of points in one cell, of lengths that end anywhere, are added up before they reach the grid."""
    need_compiled(device)
    _, grids, axes, _ = made("planes", device=device)
    draw = torch.Generator().manual_seed(1)
    points = (torch.linspace(-1.1, 1.1, 1237)[:, None] * torch.randn(2, 1, 3, generator=draw)).to(device)
    weight = torch.randn(2, 1237, 24, generator=draw).to(device)
    weight[:, 100:300] = 0  # what only fills a list up
    order = torch.randperm(1237, generator=draw).to(device)
    gradients = [
        torch.autograd.grad((sample_grids(points[:, at], grids, axes, compiled=True) * weight[:, at]).sum(), grids)[0]
        for at in (slice(None), order)
    ]
    assert relative_l2(gradients[0], gradients[1]) < 1e-5


@on_all_devices
def test_a_batch_equals_each_alone(device):
    need_compiled(device)
    for case in ("planes", "voxels"):
        points, grids, axes, _ = made(case, batch=3, device=device)
        together = sample_grids(points, grids, axes, compiled=True)
        for index in range(3):
            alone = sample_grids(points[index : index + 1], grids[index : index + 1], axes, compiled=True)
            assert torch.equal(together[index : index + 1], alone)


@on_all_devices
@pytest.mark.parametrize("case", ["planes", "planes, odd channels", "voxels"])
def test_deterministic_repeats_bit_for_bit(case, device):
    need_compiled(device)
    points, grids, axes, weight = made(case, count=20_000, device=device)

    def gradients():
        return torch.autograd.grad((sample_grids(points, grids, axes, compiled=True) * weight).sum(), [points, grids])

    assert_gradients_repeat(gradients)


@on_all_devices
def test_many_contributions_to_one_texel(device):
    need_compiled(device)
    count = 30_000
    grids = torch.zeros(1, 3, 2, 2, 4, device=device, requires_grad=True)
    points = torch.tensor([0.1, -0.2, 0.3], device=device).expand(1, count, 3)
    (once,) = torch.autograd.grad(sample_grids(points[:, :1], grids, PLANES, compiled=True).sum(), grids)
    for deterministic in (False, True):
        features = sample_grids(points, grids, PLANES, deterministic=deterministic, compiled=True)
        (v_grids,) = torch.autograd.grad(features.sum(), grids)
        torch.testing.assert_close(v_grids, count * once, rtol=1e-3, atol=0)


@on_all_devices
@both_versions
@pytest.mark.parametrize("case", ["planes", "voxels"])
def test_nothing_is_outside(case, device, compiled):
    if compiled:
        need_compiled(device)
    _, grids, axes, _ = made(case, device=device)
    corners = torch.tensor(list(itertools.product([-3.0, 3.0, -1e12, 1e12], repeat=3)), device=device).expand(2, -1, 3)
    assert not sample_grids(corners, grids, axes, compiled=compiled).any()


@on_all_devices
@pytest.mark.parametrize("case", ["planes", "voxels"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_points_that_are_not_finite(case, device, value):
    need_compiled(device)
    points, grids, axes, _ = made(case, count=3, device=device)
    with torch.no_grad():
        points[:, 1] = value
    features = sample_grids(points, grids, axes, compiled=True)
    assert features[:, 1].isnan().all() and features[:, [0, 2]].isfinite().all()


@on_all_devices
@both_versions
def test_no_points(device, compiled):
    if compiled:
        need_compiled(device)
    _, grids, axes, _ = made("planes", device=device)
    points = torch.zeros(2, 0, 3, device=device, requires_grad=True)
    features = sample_grids(points, grids, axes, compiled=compiled)
    assert features.shape == (2, 0, 24)
    v_points, v_grids = torch.autograd.grad(features.sum(), [points, grids])
    assert v_points.shape == (2, 0, 3) and not v_grids.any()


def second_derivatives(sample, points, grids, axes, weight, wanted):
    """Of a loss of the features' gradients, with respect to all that they depend on."""
    weight = weight.clone().requires_grad_()
    draw = torch.Generator().manual_seed(9)
    features = sample(points, grids, axes)
    inputs = [tensor for name, tensor in (("points", points), ("grids", grids)) if name in wanted]
    first = torch.autograd.grad((features * weight).sum(), inputs, create_graph=True)
    loss = sum((v * torch.randn(v.shape, generator=draw, dtype=torch.float64).to(v)).sum() + v.square().sum() / 10 for v in first)
    return torch.autograd.grad(loss, [points, grids, weight], materialize_grads=True)


@on_all_devices
@all_cases
@pytest.mark.parametrize("wanted", [("points",), ("grids",), ("points", "grids")])
def test_second_derivatives(case, wanted, device):
    need_compiled(device)
    op = functools.partial(sample_grids, compiled=True)
    found = second_derivatives(op, *made(case, count=60, device=device), wanted)
    expected = second_derivatives(defined, *made(case, count=60, dtype=torch.float64), wanted)
    for one, other in zip(found, expected, strict=True):
        assert relative_l2(one.cpu(), other) < 1e-4


@on_all_devices
def test_third_derivative_is_refused(device):
    need_compiled(device)
    points, grids, axes, weight = made("planes", device=device)
    features = sample_grids(points, grids, axes, compiled=True)
    (v_points,) = torch.autograd.grad((features * weight).sum(), points, create_graph=True)
    with pytest.raises(RuntimeError, match="has no third derivative; take differences"):
        torch.autograd.grad(v_points.square().sum(), points, create_graph=True)


def test_other_types_take_plain_pytorch():
    points, grids, axes, _ = made("voxels", dtype=torch.float64)
    assert sample_grids(points, grids, axes).dtype == torch.float64
    need_compiled("cpu")
    with pytest.raises(ValueError, match="points: expected Float, got Double"):
        sample_grids(points, grids, axes, compiled=True)


@on_all_devices
@pytest.mark.parametrize("case", ["planes", "voxels"])
def test_registration(case, device):
    need_compiled(device)
    points, grids, axes, _ = made(case, count=20, device=device)
    sample_grids(points, grids, axes, compiled=True)  # attaches the fake kernels and autograd
    flat = [axis for of_grid in axes for axis in of_grid]
    torch.library.opcheck(torch.ops.microdreamer.sample_grids.default, (points, grids, flat, True))


def test_compiles_without_graph_breaks():
    need_compiled("cpu")
    points, grids, axes, weight = made("planes", count=20)

    def loss(points, grids):
        return (sample_grids(points, grids, axes, compiled=True) * weight).sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    found = torch.autograd.grad(compiled(points, grids), [points, grids])
    torch.testing.assert_close(found, torch.autograd.grad(loss(points, grids), [points, grids]))


@pytest.mark.gpu
@pytest.mark.parametrize("case", ["planes", "voxels"])
def test_whole_step_captures_as_a_graph(case):
    need_compiled("cuda")
    points, grids, axes, weight = made(case, count=5000, device="cuda")

    def step():
        features = sample_grids(points, grids, axes, deterministic=True, compiled=True)
        return features, torch.autograd.grad((features * weight).sum(), [points, grids])

    features, eager = warm_up(step, "cuda")
    graph, (captured_features, captured) = capture(step, "cuda")
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured_features, features)
    assert all(torch.equal(a, b) for a, b in zip(captured, eager, strict=True))


@pytest.mark.gpu
def test_data_that_lies_off_a_vector():
    """Four channels that begin between two vectors are taken one by one."""
    need_compiled("cuda")
    points, grids, axes, weight = made("planes", device="cuda")
    moved = torch.empty(grids.numel() + 1, device="cuda")[1:].view_as(grids).copy_(grids.detach()).requires_grad_()
    assert moved.data_ptr() % 16 != 0
    found, expected = (sample_grids(points, tensor, axes, compiled=True) for tensor in (moved, grids))
    torch.testing.assert_close(found, expected)
    (of_moved,) = torch.autograd.grad((found * weight).sum(), moved)
    (of_grids,) = torch.autograd.grad((expected * weight).sum(), grids)
    torch.testing.assert_close(of_moved, of_grids)


@both_versions
@pytest.mark.parametrize(
    ("points", "grids", "axes", "message"),
    [
        (torch.zeros(4, 3), torch.zeros(1, 3, 4, 4, 8), PLANES, r"points: expected shape \[B,P,3\], got \[4, 3\]"),
        (torch.zeros(1, 4, 2), torch.zeros(1, 3, 4, 4, 8), PLANES, r"points: expected shape \[B,P,3\], got \[1, 4, 2\]"),
        (torch.zeros(2, 4, 3), torch.zeros(1, 3, 4, 4, 8), PLANES, r"grids: expected shape \[2,G,H,W,C\] or \[2,G,D,H,W,C\], got \[1, 3"),
        (torch.zeros(1, 4, 3), torch.zeros(1, 3, 4, 8), PLANES, r"grids: expected shape"),
        (
            torch.zeros(1, 4, 3),
            torch.zeros(1, 3, 4, 4, 8).half(),
            PLANES,
            "grids: expected torch.float32 on cpu like points",
        ),
        (torch.zeros(1, 4, 3), torch.zeros(1, 2, 4, 4, 8), PLANES, "axes: expected 2 for each of 2 grids"),
        (torch.zeros(1, 4, 3), torch.zeros(1, 3, 4, 4, 4, 8), PLANES, "axes: expected 3 for each of 3 grids"),
    ],
)
def test_bad_arguments_are_refused(points, grids, axes, message, compiled):
    with pytest.raises(ValueError, match=message):
        sample_grids(points, grids, axes, compiled=compiled)


def test_op_checks_its_own_arguments():
    need_compiled("cpu")
    points, grids, axes, _ = (value.detach() if isinstance(value, torch.Tensor) else value for value in made("planes", count=4))
    sample_grids(points, grids, axes, compiled=True)
    op, flat = torch.ops.microdreamer.sample_grids, [0, 1, 0, 2, 2, 1]
    with pytest.raises(ValueError, match="points: expected a contiguous tensor"):
        op(points.mT.contiguous().mT, grids, flat, False)
    with pytest.raises(ValueError, match="grids: expected a batch of 2 like points, got 1"):
        op(points, grids[:1], flat, False)
    with pytest.raises(ValueError, match="grids: expected 1 to 8 for each of the batch, got 9"):
        op(points, torch.zeros(2, 9, 4, 4, 8), flat, False)
    with pytest.raises(ValueError, match="grids: expected 1 to 1048576 texels along an axis, got 0"):
        op(points, torch.zeros(2, 3, 0, 4, 8), flat, False)
    with pytest.raises(ValueError, match="grids: expected 1 to 1048576 channels, got 0"):
        op(points, torch.zeros(2, 3, 4, 4, 0), flat, False)
    with pytest.raises(ValueError, match="axes: expected 2 for each of 3 grids, got 5"):
        op(points, grids, flat[:5], False)
    with pytest.raises(ValueError, match="axes: expected 0, 1 or 2, got 3"):
        op(points, grids, [3, *flat[1:]], False)
    with pytest.raises(ValueError, match="v_features: expected shape"):
        torch.ops.microdreamer.sample_grids_bwd(torch.zeros(2, 4, 23), points, grids, flat, False, True, True)
