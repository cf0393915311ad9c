"""Volume rendering: marched pieces, visible samples and compositing against closed forms, plain-PyTorch twins and float64 gradients."""

import math

import pytest
import torch
from conftest import DEVICES, relative_l2

from microdreamer.core.cuda_graphs import capture, warm_up
from microdreamer.kernels import extension
from microdreamer.kernels.volume import Samples, composite, keep_visible, march_rays

BOTH = pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "reference"])
EACH = pytest.mark.parametrize("device", DEVICES)


def need_compiled(device):
    if not extension.available(device):
        pytest.skip(f"no compiled {device} kernels")


def rays_at_box(count, device="cpu", seed=0, distance=3.0):
    """Rays from around the box toward places in and near it."""
    draw = torch.Generator().manual_seed(seed)
    origins = distance * torch.nn.functional.normalize(torch.randn(count, 3, generator=draw), dim=1)
    targets = 2.4 * torch.rand(count, 3, generator=draw) - 1.2
    return origins.to(device), torch.nn.functional.normalize(targets - origins, dim=1).to(device)


def box_span(origins, directions, radius=1.0):
    """Where rays enter and leave the box, in float64; equal where they miss it."""
    one, other = ((sign * radius - origins.double()) / directions.double() for sign in (-1, 1))
    enter, leave = torch.minimum(one, other).amax(1).clamp_min(0), torch.maximum(one, other).amin(1)
    return enter, torch.maximum(enter, leave)


def random_cells(resolution, share, device="cpu", seed=0):
    draw = torch.Generator().manual_seed(seed)
    return (torch.rand(resolution, resolution, resolution, generator=draw) < share).to(device)


def per_ray(samples, values):
    return values.new_zeros(len(samples.offsets) - 1).index_add(0, samples.ray, values)


def random_samples(rays=40, device="cpu", dtype=torch.float32, capacity=None, seed=0):
    """Samples of rays of which some have none and some many, with a density and features for each."""
    draw = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 9, (rays,), generator=draw) * torch.randint(0, 12, (rays,), generator=draw)
    total = int(counts.sum())
    length = 0.02 + 0.1 * torch.rand(total, generator=draw)
    ray = torch.arange(rays).repeat_interleave(counts)
    until = length.cumsum(0)
    start = until - length - torch.nn.functional.pad(until, (1, 0))[counts.cumsum(0) - counts][ray] + 0.7
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int()
    size = total if capacity is None else capacity
    pad = size - total
    ray, start, length = (torch.nn.functional.pad(value, (0, max(pad, 0)))[:size] for value in (ray, start, length))
    samples = Samples(
        *(value.to(device) for value in (ray, start, length, offsets.clamp_max(size), torch.tensor(total, dtype=torch.int32)))
    )
    density = (6 * torch.rand(size, generator=draw)).to(device, dtype).requires_grad_()
    features = torch.randn(size, 4, generator=draw).to(device, dtype).requires_grad_()
    return samples, density, features


# ---- March ----


@EACH
@BOTH
@pytest.mark.parametrize("jittered", [False, True])
def test_pieces_of_a_full_box_cover_each_ray(device, compiled, jittered):
    if compiled:
        need_compiled(device)
    origins, directions = rays_at_box(300, device)
    jitter = torch.rand(300, device=device) if jittered else None
    step = 0.05
    samples = march_rays(
        origins, directions, torch.ones(8, 8, 8, dtype=torch.bool, device=device), radius=1.0, step=step, jitter=jitter, compiled=compiled
    )
    enter, leave = box_span(origins, directions)
    torch.testing.assert_close(per_ray(samples, samples.length).double(), leave - enter, rtol=0, atol=1e-5)
    assert (enter < leave).sum() > 100 and (enter == leave).sum() > 10
    # Of a ray with pieces: the first begins where it enters the box, each where the one before ends, and none is longer than a step.
    first = samples.offsets[:-1][(enter < leave - 1e-6)].long()
    torch.testing.assert_close(samples.start[first].double(), enter[enter < leave - 1e-6], rtol=0, atol=1e-5)
    is_next = samples.ray[1:] == samples.ray[:-1]
    torch.testing.assert_close((samples.start + samples.length)[:-1][is_next], samples.start[1:][is_next], rtol=0, atol=1e-6)
    assert float(samples.length.max()) <= step + 1e-6 and float(samples.length.min()) > 0


@EACH
@BOTH
def test_jitter_moves_the_cuts(device, compiled):
    if compiled:
        need_compiled(device)
    origins, directions = torch.tensor([[0.0, 0.0, -2.0]] * 3, device=device), torch.tensor([[0.0, 0.0, 1.0]] * 3, device=device)
    jitter = torch.tensor([0.0, 0.25, 0.75], device=device)
    full = torch.ones(4, 4, 4, dtype=torch.bool, device=device)
    samples = march_rays(origins, directions, full, radius=1.0, step=0.5, jitter=jitter, compiled=compiled)
    rows = [samples.start[samples.offsets[k] : samples.offsets[k + 1]].tolist() for k in range(3)]
    assert rows == [[1.0, 1.5, 2.0, 2.5], [1.0, 1.125, 1.625, 2.125, 2.625], [1.0, 1.375, 1.875, 2.375, 2.875]]
    inside = march_rays(origins, directions, full, radius=1.0, step=0.5, jitter=jitter, near=1.7, compiled=compiled)
    assert inside.start[inside.offsets[:-1].long()].tolist() == pytest.approx([1.7] * 3)
    assert inside.start[inside.offsets[:-1].long() + 1].tolist() == pytest.approx([2.2, 1.825, 2.075])


@EACH
@BOTH
def test_pieces_lie_in_occupied_cells(device, compiled):
    if compiled:
        need_compiled(device)
    origins, directions = rays_at_box(200, device)
    occupied = random_cells(6, 0.3, device)
    kwargs = {"radius": 1.0, "step": 0.03, "compiled": compiled}
    samples = march_rays(origins, directions, occupied, **kwargs)
    everywhere = march_rays(origins, directions, torch.ones_like(occupied), **kwargs)
    points = everywhere.positions(origins, directions).double()
    cell = ((points + 1) * 3).clamp(0, 5.999).long()
    keep = occupied[cell[:, 0], cell[:, 1], cell[:, 2]]
    clear = ((points + 1) * 3).frac().sub(0.5).abs().amax(1) < 0.4999  # not within rounding of a cell's face
    expected = {(ray, start) for ray, start in zip(everywhere.ray[keep].tolist(), everywhere.start[keep].tolist(), strict=True)}
    found = {(ray, start) for ray, start in zip(samples.ray.tolist(), samples.start.tolist(), strict=True)}
    unclear = {pair for pair in zip(everywhere.ray[~clear].tolist(), everywhere.start[~clear].tolist(), strict=True)}
    assert len(unclear) < 0.01 * len(everywhere.ray) and len(found) > 1000
    assert expected ^ found <= unclear
    assert torch.equal(samples.offsets[1:].diff(prepend=samples.offsets[:1]), torch.bincount(samples.ray, minlength=200).int())


@EACH
@pytest.mark.parametrize(
    ("resolution", "step", "near", "radius", "distance"),
    [
        (32, 2 * math.sqrt(3) / 512, 0.0, 1.0, 3.0),
        (32, 2 * math.sqrt(3) / 64, 2.2, 1.0, 2.0),
        (1, 0.1, 0.0, 1.0, 3.0),
        (128, 0.01, 0.0, 1.0, 0.5),
        (16, 0.7, 0.0, 1.0, 20.0),
        (7, 0.013, 0.1, 0.37, 1.3),
        (33, 0.05, 0.0, 1.0, 300.0),
    ],
)
@pytest.mark.parametrize("share", [0.02, 0.5])
def test_march_finds_the_pieces_of_the_reference(device, resolution, step, near, radius, distance, share):
    need_compiled(device)
    origins, directions = rays_at_box(3000, device, distance=distance / radius)
    origins = origins * radius
    directions[:50, 0], directions[50:60, :2] = 0.0, 0.0  # along planes and axes
    directions = torch.nn.functional.normalize(directions, dim=1)
    occupied = random_cells(resolution, share if resolution > 1 else 2.0, device)
    jitter = torch.rand(3000, device=device)
    kwargs = {"radius": radius, "step": step, "jitter": jitter, "near": near}
    found, expected = (march_rays(origins, directions, occupied, **kwargs, compiled=compiled) for compiled in (True, False))
    assert int(expected.total) > 0
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@EACH
@pytest.mark.parametrize("corner", [(0, 0, 0), (3, 5, 7), (6, 1, 7), (7, 7, 7)])
def test_march_finds_what_fills_little_of_the_box(device, corner):
    need_compiled(device)
    origins, directions = rays_at_box(20_000, device)
    directions[:200, 1], directions[200:300, 1:] = 0.0, 0.0
    directions = torch.nn.functional.normalize(directions, dim=1)
    occupied = torch.zeros(8, 8, 8, dtype=torch.bool, device=device)
    occupied[corner] = True
    for step in (0.011, 0.4):
        kwargs = {"radius": 1.0, "step": step, "jitter": torch.rand(20_000, device=device)}
        found, expected = (march_rays(origins, directions, occupied, **kwargs, compiled=compiled) for compiled in (True, False))
        assert int(expected.total) > 20
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@EACH
@BOTH
def test_rays_without_pieces(device, compiled):
    if compiled:
        need_compiled(device)
    full = torch.ones(4, 4, 4, dtype=torch.bool, device=device)
    nan, inf = float("nan"), float("inf")
    origins = torch.tensor([[0, 0, 3], [0, 0, -3], [2, 0, -3], [nan, 0, -3], [0, 0, -inf], [0, 0, -3]], dtype=torch.float32, device=device)
    directions = torch.tensor([[0, 0, 1.0]] * 5 + [[0, nan, 1.0]], device=device)  # away, at the box, past it, and no rays
    samples = march_rays(origins, directions, full, radius=1.0, step=0.5, compiled=compiled)
    assert samples.offsets.tolist() == [0, 0, 4, 4, 4, 4, 4] and samples.ray.tolist() == [1] * 4
    nothing = march_rays(origins, directions, ~full, radius=1.0, step=0.5, compiled=compiled)
    assert len(nothing.start) == 0 and int(nothing.total) == 0 and nothing.offsets.tolist() == [0] * 7
    none = march_rays(origins[:0], directions[:0], full, radius=1.0, step=0.5, compiled=compiled)
    assert len(none.start) == 0 and none.offsets.tolist() == [0] and int(none.total) == 0


@EACH
@BOTH
def test_order_of_rays_is_the_order_of_samples(device, compiled):
    if compiled:
        need_compiled(device)
    origins, directions = rays_at_box(100, device)
    occupied, order = random_cells(8, 0.4, device), torch.randperm(100).to(device)
    kwargs = {"radius": 1.0, "step": 0.06, "compiled": compiled}
    samples = march_rays(origins, directions, occupied, **kwargs)
    mixed = march_rays(origins[order], directions[order], occupied, **kwargs)
    for new, old in enumerate(order.tolist()):
        one, other = slice(*mixed.offsets[new : new + 2].tolist()), slice(*samples.offsets[old : old + 2].tolist())
        assert torch.equal(mixed.start[one], samples.start[other]) and torch.equal(mixed.length[one], samples.length[other])


@EACH
@BOTH
@pytest.mark.parametrize("operation", ["march", "keep"])
def test_capacity_cuts_off_or_pads(device, compiled, operation):
    if compiled:
        need_compiled(device)
    origins, directions = rays_at_box(50, device)
    occupied = random_cells(8, 0.4, device)

    def make(capacity):
        march = {"radius": 1.0, "step": 0.06, "compiled": compiled}
        if operation == "march":
            return march_rays(origins, directions, occupied, capacity=capacity, **march)
        samples = march_rays(origins, directions, occupied, **march)
        density = torch.linspace(0, 5, len(samples.start), device=device)
        return keep_visible(samples, density, min_alpha=0.1, min_transmittance=0.1, capacity=capacity, compiled=compiled)

    exact = make(None)
    total = int(exact.total)
    assert total == len(exact.start) == int(exact.offsets[-1]) > 100
    for capacity in (0, 57, total, total + 100):
        samples = make(capacity)
        kept = min(total, capacity)
        assert int(samples.total) == total and len(samples.ray) == len(samples.start) == len(samples.length) == capacity
        assert torch.equal(samples.offsets, exact.offsets.clamp_max(capacity))
        for found, all_of_them in zip(samples[:3], exact[:3], strict=True):
            assert torch.equal(found[:kept], all_of_them[:kept]) and not found[kept:].any()
    assert make(57).start.dtype == torch.float32 and make(57).ray.dtype == torch.int64


# ---- Visible samples ----


@EACH
@BOTH
def test_visible_samples_by_hand(device, compiled):
    if compiled:
        need_compiled(device)
    alphas = torch.tensor([0.005, 0.5, 0.9, 0.009, 0.99, 0.5, 0.5, 0.02], device=device, dtype=torch.float64)
    length = torch.full((8,), 0.5, device=device)
    density = (-torch.log1p(-alphas) / 0.5).float()
    density[5] = float("nan")
    samples = Samples(
        torch.tensor([0] * 5 + [2] * 3, device=device),
        0.5 * torch.arange(8.0, device=device),
        length,
        torch.tensor([0, 5, 5, 8], dtype=torch.int32, device=device),
        torch.tensor(8, dtype=torch.int32, device=device),
    )
    # Light up to each sample: 1, 0.995, 0.4975, 0.04975, ~0.0493; then 1, 1, 0.5: what is not a number hides nothing.
    for min_alpha in (0.01, torch.tensor(0.01, device=device)):
        kept = keep_visible(samples, density, min_alpha=min_alpha, min_transmittance=0.049, compiled=compiled)
        assert kept.start.tolist() == [0.5, 1.0, 2.0, 3.0, 3.5] and kept.ray.tolist() == [0, 0, 0, 2, 2]
        assert kept.offsets.tolist() == [0, 3, 3, 5]
    darker = keep_visible(samples, density, min_alpha=0.01, min_transmittance=0.4, compiled=compiled)
    assert darker.start.tolist() == [0.5, 1.0, 3.0, 3.5]


@EACH
@pytest.mark.parametrize("padded", [False, True])
def test_visible_samples_match_the_reference(device, padded):
    need_compiled(device)
    samples, density, _ = random_samples(500, device, capacity=20_000 if padded else None)
    minimum = {"min_alpha": 0.05, "min_transmittance": 1e-2}
    found, expected = (keep_visible(samples, density, **minimum, compiled=compiled) for compiled in (True, False))
    assert 500 < int(expected.total) < 0.7 * int(samples.total)
    # A light within rounding of the least may fall to either side.
    assert abs(int(found.total) - int(expected.total)) <= 2
    if int(found.total) == int(expected.total):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


# ---- Compositing ----


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


def outputs(found, names, coefficients):
    return sum((getattr(found, name) * coefficients[name]).sum() for name in names)


def coefficients_for(samples, channels, device, dtype=torch.float32):
    draw = torch.Generator().manual_seed(5)
    rays, size = len(samples.offsets) - 1, len(samples.start)
    shapes = {"features": (rays, channels), "alpha": (rays,), "depth": (rays,), "weights": (size,)}
    return {name: torch.randn(shape, generator=draw).to(device, dtype) for name, shape in shapes.items()}


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


@EACH
def test_everything_repeats_bit_for_bit(device):
    need_compiled(device)
    origins, directions = rays_at_box(5000, device)
    occupied = random_cells(32, 0.2, device)
    jitter = torch.rand(5000, device=device)

    def everything():
        marched = march_rays(origins, directions, occupied, radius=1.0, step=0.02, jitter=jitter)
        points = marched.positions(origins, directions)
        kept = keep_visible(marched, 9 * points.cos().prod(1), min_alpha=0.01, min_transmittance=1e-3)
        points = kept.positions(origins, directions)
        density, features = (9 * points.cos().prod(1)).requires_grad_(), points.sin().requires_grad_()
        found = composite(density, features, kept)
        names = ("features", "alpha", "depth", "weights")
        gradients = torch.autograd.grad(outputs(found, names, coefficients_for(kept, 3, device)), [density, features])
        return [*marched, *kept, *(value.detach() for value in found), *gradients]

    first, threads = everything(), torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            assert all(torch.equal(a, b) for a, b in zip(first, everything(), strict=True))
    finally:
        torch.set_num_threads(threads)


# ---- Registration, graphs, wrong arguments ----


@EACH
def test_registration(device):
    need_compiled(device)
    extension.load()
    origins, directions = rays_at_box(20, device)
    occupied, jitter = random_cells(4, 0.5, device), torch.rand(20, device=device)
    ops = torch.ops.microdreamer
    for capacity in (None, 100):
        torch.library.opcheck(ops.march_rays.default, (origins, directions, occupied, jitter, 1.0, 0.1, 0.0, 40, capacity))
    samples, density, features = random_samples(device=device)
    least = torch.tensor(0.05, device=device)
    for capacity in (None, 100):
        arguments = (samples.ray, samples.start, samples.length, samples.offsets, density.detach(), least, 1e-2, capacity)
        torch.library.opcheck(ops.keep_visible.default, arguments)
    torch.library.opcheck(ops.composite_samples.default, (density, features, samples.start, samples.length, samples.offsets))


@pytest.mark.gpu
def test_everything_captures_as_a_graph():
    need_compiled("cuda")
    origins, directions = rays_at_box(4000, "cuda")
    occupied, jitter = random_cells(32, 0.2, "cuda"), torch.rand(4000, device="cuda")
    scale = torch.tensor(9.0, device="cuda", requires_grad=True)

    def step():
        marched = march_rays(origins, directions, occupied, radius=1.0, step=0.02, jitter=jitter, capacity=100_000)
        with torch.no_grad():
            density = scale * marched.positions(origins, directions).cos().prod(1)
        kept = keep_visible(marched, density, min_alpha=density.mean().clamp_max(0.01), min_transmittance=1e-3, capacity=50_000)
        points = kept.positions(origins, directions)
        found = composite(scale * points.cos().prod(1), points.sin(), kept)
        return kept.total, found.features, torch.autograd.grad(found.features.square().sum(), scale)[0]

    warm_up(step, "cuda")
    graph, captured = capture(step, "cuda")
    jitter.copy_(torch.rand(4000, device="cuda"))
    graph.replay()
    torch.cuda.synchronize()
    expected = step()
    assert 1000 < int(expected[0]) < 50_000
    assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True))


@pytest.mark.gpu
def test_cpu_and_cuda_march_the_same_pieces():
    need_compiled("cuda")
    origins, directions = rays_at_box(20_000)
    occupied, jitter = random_cells(32, 0.2), torch.rand(20_000)
    one = march_rays(origins, directions, occupied, radius=1.0, step=0.01, jitter=jitter)
    other = march_rays(origins.cuda(), directions.cuda(), occupied.cuda(), radius=1.0, step=0.01, jitter=jitter.cuda())
    assert all(torch.equal(a, b.cpu()) for a, b in zip(one, other, strict=True))


@BOTH
def test_bad_arguments_are_refused(compiled):
    if compiled:
        need_compiled("cpu")
    origins, directions = rays_at_box(4)
    occupied = random_cells(4, 0.5)

    def march(origins=origins, directions=directions, occupied=occupied, **kwargs):
        march_rays(origins, directions, occupied, **{"radius": 1.0, "step": 0.1, "compiled": compiled} | kwargs)

    with pytest.raises(ValueError, match=r"origins, directions: expected shape \[N,3\] both, got \[4, 3\] and \[3, 3\]"):
        march(directions=directions[:3])
    with pytest.raises(ValueError, match=r"occupied: expected shape \[R,R,R\] bool, got \[4, 4, 4\] torch.float32"):
        march(occupied=occupied.float())
    with pytest.raises(ValueError, match=r"occupied: expected shape \[R,R,R\] bool, got \[3, 4, 4\]"):
        march(occupied=occupied[:3])
    with pytest.raises(ValueError, match=r"jitter: expected shape \[4\], got \[3\]"):
        march(jitter=torch.zeros(3))
    with pytest.raises(ValueError, match=r"radius=1\.0, step=0\.0: expected positive numbers"):
        march(step=0.0)
    samples, density, features = random_samples(4)
    with pytest.raises(ValueError, match="density: expected shape"):
        composite(density[1:], features, samples, compiled=compiled)
    with pytest.raises(ValueError, match="features: expected shape"):
        composite(density, features[1:], samples, compiled=compiled)
    with pytest.raises(ValueError, match="density: expected shape"):
        keep_visible(samples, density[1:], min_alpha=0.0, min_transmittance=0.0, compiled=compiled)


def test_ops_check_their_own_arguments():
    need_compiled("cpu")
    extension.load()
    origins, directions = rays_at_box(4)
    occupied, ops = random_cells(4, 0.5), torch.ops.microdreamer
    with pytest.raises(ValueError, match="origins: expected Float, got Double"):
        ops.march_rays(origins.double(), directions, occupied, None, 1.0, 0.1, 0.0, 40, None)
    with pytest.raises(ValueError, match="too many for one call; take fewer rays or longer steps"):
        ops.march_rays(origins, directions, occupied, None, 1.0, 0.1, 0.0, 2**30, None)
    with pytest.raises(ValueError, match="capacity: expected 0 to 2147483647, got -1"):
        ops.march_rays(origins, directions, occupied, None, 1.0, 0.1, 0.0, 40, -1)
    samples, density, features = random_samples(4)
    lists = samples.start, samples.length, samples.offsets
    with pytest.raises(ValueError, match="offsets: expected Int, got Long"):
        ops.composite_samples(density, features, *lists[:2], samples.offsets.long())
    with pytest.raises(ValueError, match="features: expected a contiguous tensor"):
        ops.composite_samples(density, features.T.contiguous().T, *lists)
