"""Volume rendering: marched pieces and visible samples against what rays and boxes say, and plain-PyTorch twins; all ops together."""

import math

import pytest
import torch
from volume_scenes import BOTH, EACH, box_span, coefficients_for, need_compiled, outputs, per_ray, random_cells, random_samples, rays_at_box

from microdreamer.core.cuda_graphs import capture, warm_up
from microdreamer.kernels import extension
from microdreamer.kernels.volume import (
    Samples,
    composite,
    keep_visible,
    march_rays,
    sample_points,
    sample_points_reference,
    take_rows,
    take_rows_reference,
)

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
        assert kept.source.tolist() == [1, 2, 4, 6, 7]
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


@EACH
def test_points_of_samples_match_the_reference(device):
    need_compiled(device)
    origins, directions = rays_at_box(60, device)
    samples, *_ = random_samples(60, device, capacity=5000)
    found = sample_points(samples, origins, directions, compiled=True)
    expected = sample_points_reference(samples, origins.double(), directions.double())
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)
    assert torch.equal(found[-1], origins[0])  # what fills the list up


def test_points_of_samples_follow_their_rays():
    samples, *_ = random_samples(10)
    origins, directions = (tensor.double().requires_grad_() for tensor in rays_at_box(10, "cpu"))
    assert torch.autograd.gradcheck(lambda *rays: sample_points(samples, *rays), (origins, directions))


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 5, 32, 48])  # of which some fill whole pieces of 16 bytes
def test_rows_are_taken(width, dtype, device):
    need_compiled(device)
    table = torch.randn(300, width, device=device).to(dtype)
    source = torch.randint(300, (1000,), device=device, dtype=torch.int32)
    for chosen in (source, source[:0]):
        assert torch.equal(take_rows(table, chosen, compiled=True), take_rows_reference(table, chosen))
        assert torch.equal(take_rows(table[3:], chosen % 297, compiled=True), table[3:][chosen.long() % 297])
    torch.library.opcheck(torch.ops.microdreamer.take_rows.default, (table, source))


# ---- Repetition, registration, graphs, wrong arguments ----


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
    torch.library.opcheck(ops.sample_points.default, (samples.ray % 20, samples.start, samples.length, origins, directions))
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
        kept = keep_visible(marched, density, min_alpha=density.mean().clamp_max(0.01), min_transmittance=1e-3, capacity=80_000)
        points = kept.positions(origins, directions)
        found = composite(scale * points.cos().prod(1), points.sin(), kept)
        return kept.total, found.features, torch.autograd.grad(found.features.square().sum(), scale)[0]

    warm_up(step, "cuda")
    graph, captured = capture(step, "cuda")
    jitter.copy_(torch.rand(4000, device="cuda"))
    graph.replay()
    torch.cuda.synchronize()
    expected = step()
    assert 1000 < int(expected[0]) < 80_000
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
