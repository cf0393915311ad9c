"""The hash grid against golden tensors of its layout, its plain-PyTorch twin, float64 gradients, and at the edges of its input."""

import json
import zlib

import numpy as np
import pytest
import torch
from conftest import DEVICES, assert_gradients_repeat, relative_l2

from microdreamer.core.cuda_graphs import capture, warm_up
from microdreamer.kernels import extension
from microdreamer.kernels.hash_grid import HashGrid, HashGridSpec, hash_grid_encode, hash_grid_known, hash_grid_slope

GOLDENS = ("small", "nerf_geometry", "nerf_background", "multiprompt_background_yaml", "multiprompt_background_default")
SMALL = HashGridSpec(levels=4, features=2, log2_table_size=8, base_resolution=4, growth=1.6)  # one dense level, three hashed


def need_compiled(device):
    if not extension.available(device):
        pytest.skip(f"no compiled {device} kernels")


def golden_spec(data, name):
    config = json.loads(str(data[f"{name}_config"]))
    return HashGridSpec(
        config["n_levels"],
        config["n_features_per_level"],
        config["log2_hashmap_size"],
        config["base_resolution"],
        config["per_level_scale"],
    )


def filled(name, count):
    """The closed-form parameters that the golden file names."""
    mask = np.uint64(0xFFFFFFFF)
    value = (np.arange(count, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(zlib.crc32(name.encode()))) & mask
    value ^= value >> np.uint64(16)
    value = value * np.uint64(2246822519) & mask
    value ^= value >> np.uint64(13)
    value = value * np.uint64(3266489917) & mask
    value ^= value >> np.uint64(16)
    return torch.from_numpy(((value.astype(np.float64) / 2**32 - 0.5) * 2).astype(np.float32))


def random_case(spec=SMALL, count=200, device="cpu", dtype=torch.float32, low=0.0, high=1.0, seed=0):
    draw = torch.Generator().manual_seed(seed)
    points = low + (high - low) * torch.rand(count, 3, generator=draw, dtype=torch.float64)
    params = torch.randn(spec.num_params, generator=draw, dtype=torch.float64)
    weight = torch.randn(count, spec.width, generator=draw, dtype=torch.float64)
    points, params, weight = (tensor.to(device, torch.float32).to(dtype) for tensor in (points, params, weight))
    return points.requires_grad_(), params.requires_grad_(), weight


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "reference"])
@pytest.mark.parametrize("name", GOLDENS)
def test_goldens(parity, name, compiled, device):
    if compiled:
        need_compiled(device)
    data = np.load(parity("generators/hashgrid_derived.npz"))
    spec = golden_spec(data, name)
    assert spec.num_params == int(data[f"{name}_n_params"])
    params = filled(str(data[f"{name}_fill_name"]), spec.num_params).to(device)
    for suffix in ("", "_outside"):
        points = torch.tensor(data[f"{name}_x{suffix}"], device=device)
        encoded = hash_grid_encode(points, params, spec, compiled=compiled)
        torch.testing.assert_close(encoded.cpu(), torch.tensor(data[f"{name}_y{suffix}"]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", GOLDENS)
def test_levels_of_the_goldens(parity, name):
    data = np.load(parity("generators/hashgrid_derived.npz"))
    spec = golden_spec(data, name)
    for number, level in enumerate(json.loads(str(data[f"{name}_levels"]))):
        assert spec.resolutions[number] == level["resolution"] and spec.offsets[number] == level["offset"]
        assert spec.offsets[number + 1] - spec.offsets[number] == level["entries"]
        assert spec.is_hashed(number) == level["hashed"]
        assert spec.scales[number] == pytest.approx(level["scale"], rel=2e-7)  # exp2 of another library: one digit


def test_levels_of_the_published_geometry_grid():
    # base 16, growth 1.447269237440378, tables of 2^19 pairs: resolutions and kinds as tiny-cuda-nn has them.
    spec = HashGridSpec(16, 2, 19, 16, 1.447269237440378)
    assert spec.resolutions == (16, 24, 34, 49, 71, 102, 148, 213, 308, 446, 646, 934, 1352, 1956, 2831, 4096)
    assert spec.offsets[:6] == (0, 4096, 17920, 57224, 174880, 532792)
    assert [spec.is_hashed(level) for level in range(16)] == [False] * 5 + [True] * 11
    assert spec.offsets[-1] == 6299960 and spec.num_params == 12599920 and spec.width == 32


def dense_lookup(points, params, spec, level):
    """Features of one dense level by PyTorch's trilinear interpolation, at points where it does not wrap."""
    resolution, first = spec.resolutions[level], spec.offsets[level]
    table = params.reshape(-1, spec.features)[first : first + resolution**3]
    volume = table.reshape(resolution, resolution, resolution, spec.features).permute(3, 0, 1, 2)[None]  # z, y, x
    position = points * spec.scales[level] + 0.5
    return torch.nn.functional.grid_sample(
        volume, (position / (resolution - 1) * 2 - 1)[None, None, None], align_corners=True, padding_mode="border"
    )[0, :, 0, 0].T


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "reference"])
def test_dense_levels_are_trilinear(device, compiled):
    if compiled:
        need_compiled(device)
    spec = HashGridSpec(levels=3, features=4, log2_table_size=14, base_resolution=5, growth=1.7)
    assert not any(spec.is_hashed(level) for level in range(3))
    points, params, _ = random_case(spec, high=0.85, device=device)
    points, params = points.detach(), params.detach()
    encoded = hash_grid_encode(points, params, spec, compiled=compiled)
    for level in range(3):
        assert float((points * spec.scales[level] + 0.5).max()) < spec.resolutions[level] - 1  # none wraps
        expected = dense_lookup(points, params, spec, level)
        torch.testing.assert_close(encoded[:, 4 * level : 4 * level + 4], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "reference"])
def test_dense_level_wraps_at_its_upper_face(device, compiled):
    if compiled:
        need_compiled(device)
    spec = HashGridSpec(levels=1, features=1, log2_table_size=10, base_resolution=4, growth=1.0)  # scale 3, 64 entries
    params = torch.arange(64.0, device=device)
    # At x = y = z = 1 the position is 3.5: halfway between vertex 3 and vertex 4, which a dense level has none of.
    encoded = hash_grid_encode(torch.ones(1, 3, device=device), params, spec, compiled=compiled)
    corners = [(x + 4 * y + 16 * z) % 64 for x in (3, 4) for y in (3, 4) for z in (3, 4)]
    assert encoded.item() == pytest.approx(sum(corners) / 8)
    # Below zero, positions from -0.5 on share the cell -1, whose number is 2^32 - 1.
    below = hash_grid_encode(torch.tensor([[-0.25, 0.5, 0.5]], device=device), params, spec, compiled=compiled)
    inside = [(x + 4 * 2 + 16 * 2) % 64 for x in (2**32 - 1, 0)]  # y = z = 2 exactly, x = -0.25
    assert below.item() == pytest.approx(0.25 * (inside[0] % 64) + 0.75 * inside[1])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("features", [1, 2, 4, 8])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.0, 4.0), (-1e12, 1e12)], ids=["inside", "around", "far"])
def test_op_matches_reference(device, features, low, high):
    need_compiled(device)
    spec = HashGridSpec(levels=5, features=features, log2_table_size=9, base_resolution=4, growth=1.5)
    points, params, weight = random_case(spec, count=3000, device=device, low=low, high=high)
    encoded = hash_grid_encode(points, params, spec, compiled=True)
    found = torch.autograd.grad((encoded * weight).sum(), [points, params])
    expected = hash_grid_encode(points, params, spec, compiled=False)
    torch.testing.assert_close(encoded, expected, rtol=1e-5, atol=1e-5)
    for got, want in zip(found, torch.autograd.grad((expected * weight).sum(), [points, params]), strict=True):
        assert relative_l2(got, want) < 1e-5


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "reference"])
def test_gradient_against_differences(compiled):
    """Along a line that stays within its cells, the encoding is a cubic, whose central difference is nearly exact."""
    if compiled:
        need_compiled("cpu")
    points, params, weight = random_case(count=64)
    step, direction = 2e-3, torch.nn.functional.normalize(torch.randn(64, 3), dim=1)
    stays = torch.ones(64, dtype=torch.bool)
    for scale in SMALL.scales:
        cells = [(points.detach() + sign * step * direction) * scale + 0.5 for sign in (-1, 1)]
        stays &= (cells[0].floor() == cells[1].floor()).all(1)
    assert stays.sum() > 30
    encoded = hash_grid_encode(points, params, SMALL, compiled=compiled)
    (v_points,) = torch.autograd.grad((encoded * weight).sum(), points)
    with torch.no_grad():
        ahead, behind = (
            hash_grid_encode((points.double() + sign * step * direction), params.double(), SMALL, compiled=False) for sign in (1, -1)
        )
    expected = ((ahead - behind) * weight).sum(1) / (2 * step)
    torch.testing.assert_close((v_points * direction).sum(1)[stays], expected[stays].float(), rtol=1e-3, atol=1e-2)


def test_gradcheck_of_the_reference():
    points, params, _ = random_case(HashGridSpec(2, 2, 5, 3, 1.5), count=6, dtype=torch.float64)
    spec = HashGridSpec(2, 2, 5, 3, 1.5)
    assert torch.autograd.gradcheck(lambda p, t: hash_grid_encode(p, t, spec, compiled=False), (points, params), eps=1e-7)


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_of_one_input_alone(device):
    need_compiled(device)
    points, params, weight = random_case(device=device)
    both = torch.autograd.grad((hash_grid_encode(points, params, SMALL, compiled=True) * weight).sum(), [points, params])
    (of_points,) = torch.autograd.grad((hash_grid_encode(points, params.detach(), SMALL, compiled=True) * weight).sum(), points)
    (of_params,) = torch.autograd.grad((hash_grid_encode(points.detach(), params, SMALL, compiled=True) * weight).sum(), params)
    torch.testing.assert_close(both, (of_points, of_params))


def second_derivatives(points, params, weight, compiled, wanted=("points", "params")):
    """Of a loss of the encoding's gradients, with respect to all that they depend on."""
    weight = weight.clone().requires_grad_()
    draw = torch.Generator().manual_seed(9)
    encoded = hash_grid_encode(points, params, SMALL, compiled=compiled)
    inputs = [tensor for name, tensor in (("points", points), ("params", params)) if name in wanted]
    first = torch.autograd.grad((encoded * weight).sum(), inputs, create_graph=True)
    loss = sum((v * torch.randn(v.shape, generator=draw, dtype=torch.float64).to(v)).sum() + v.square().sum() / 10 for v in first)
    return torch.autograd.grad(loss, [points, params, weight], materialize_grads=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("wanted", [("points",), ("params",), ("points", "params")])
def test_second_derivatives(wanted, device):
    need_compiled(device)
    found = second_derivatives(*random_case(device=device), compiled=True, wanted=wanted)
    # Those of float64 at the same points, by autograd through the twin.
    expected = second_derivatives(*random_case(device=device, dtype=torch.float64), compiled=False, wanted=wanted)
    for one, other in zip(found, expected, strict=True):
        assert relative_l2(one, other) < 1e-4


@pytest.mark.parametrize("device", DEVICES)
def test_third_derivative_is_refused(device):
    need_compiled(device)
    points, params, weight = random_case(device=device)
    encoded = hash_grid_encode(points, params, SMALL, compiled=True)
    (v_points,) = torch.autograd.grad((encoded * weight).sum(), points, create_graph=True)
    with pytest.raises(RuntimeError, match="has no third derivative; pass compiled=False"):
        torch.autograd.grad(v_points.square().sum(), points, create_graph=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "reference"])
def test_slope_is_the_gradient(device, compiled):
    if compiled:
        need_compiled(device)
    points, params, weight = random_case(device=device)
    found = hash_grid_slope(points, params, weight, SMALL, compiled=compiled)
    points, params, weight = random_case(device=device, dtype=torch.float64)
    (expected,) = torch.autograd.grad((hash_grid_encode(points, params, SMALL, compiled=False) * weight).sum(), points)
    assert relative_l2(found.detach(), expected) < 1e-5


def test_gradients_of_the_slope():
    spec = HashGridSpec(levels=3, features=2, log2_table_size=5, base_resolution=2, growth=1.6)  # few parameters to move one by one
    points, params, weight = random_case(spec, count=4, dtype=torch.float64)
    inputs = points, params, weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda *given: hash_grid_slope(*given, spec, compiled=False), inputs, eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_deterministic_repeats_bit_for_bit(device):
    need_compiled(device)
    points, params, weight = random_case(count=20_000, device=device)

    def gradients():
        return torch.autograd.grad((hash_grid_encode(points, params, SMALL, compiled=True) * weight).sum(), [points, params])

    assert_gradients_repeat(gradients)


@pytest.mark.parametrize("device", DEVICES)
def test_many_contributions_to_one_entry(device):
    need_compiled(device)
    spec = HashGridSpec(1, 2, 3, 2, 1.0)
    count = 300_000
    points, params = torch.full((count, 3), 0.25, device=device), torch.zeros(spec.num_params, device=device, requires_grad=True)
    once = hash_grid_encode(points[:1], params, spec, compiled=True)
    (weights,) = torch.autograd.grad(once.sum(), params)
    for deterministic in (False, True):
        encoded = hash_grid_encode(points, params, spec, deterministic=deterministic, compiled=True)
        (v_params,) = torch.autograd.grad(encoded.sum(), params)
        torch.testing.assert_close(v_params, count * weights, rtol=1e-3, atol=0)


@pytest.mark.parametrize("device", DEVICES)
def test_no_points(device):
    need_compiled(device)
    points, params = torch.zeros(0, 3, device=device, requires_grad=True), torch.ones(SMALL.num_params, device=device, requires_grad=True)
    for compiled in (True, False):
        encoded = hash_grid_encode(points, params, SMALL, compiled=compiled)
        assert encoded.shape == (0, SMALL.width)
        v_points, v_params = torch.autograd.grad(encoded.sum(), [points, params])
        assert v_points.shape == (0, 3) and not v_params.any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_points_that_are_not_finite(device, value):
    need_compiled(device)
    points, params, _ = random_case(count=3, device=device)
    with torch.no_grad():
        points[1, 2] = value
    encoded = hash_grid_encode(points, params, SMALL, compiled=True)
    assert encoded[1].isnan().all() and encoded[[0, 2]].isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
def test_registration(device):
    need_compiled(device)
    points, params, _ = random_case(count=20, device=device)
    hash_grid_encode(points, params, SMALL, compiled=True)  # attaches the fake kernels and autograd
    arguments = (points, params, list(SMALL.scales), list(SMALL.resolutions), list(SMALL.offsets), SMALL.features, True, False, None)
    torch.library.opcheck(torch.ops.microdreamer.hash_grid_encode.default, arguments)


def test_compiles_without_graph_breaks():
    need_compiled("cpu")
    points, params, weight = random_case(count=20)

    def loss(points, params):
        return (hash_grid_encode(points, params, SMALL, compiled=True) * weight).sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    found = torch.autograd.grad(compiled(points, params), [points, params])
    torch.testing.assert_close(found, torch.autograd.grad(loss(points, params), [points, params]))


@pytest.mark.gpu
def test_whole_step_captures_as_a_graph():
    need_compiled("cuda")
    points, params, weight = random_case(count=5000, device="cuda")

    def step():
        encoded = hash_grid_encode(points, params, SMALL, deterministic=True, compiled=True)
        return encoded, torch.autograd.grad((encoded * weight).sum(), [points, params])

    encoded, eager = warm_up(step, "cuda")
    graph, (captured_encoding, captured) = capture(step, "cuda")
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured_encoding, encoded)
    assert all(torch.equal(a, b) for a, b in zip(captured, eager, strict=True))


def along_rays(count, samples=40):
    """Points one after the other along lines, as renderers have them, so that neighbours share coarse cells."""
    draw = torch.Generator().manual_seed(3)
    start, end = torch.rand(2, count // samples, 1, 3, generator=draw)
    return torch.lerp(start, end, torch.linspace(0, 1, samples)[:, None]).reshape(-1, 3).contiguous()


MIXED = HashGridSpec(levels=4, features=2, log2_table_size=12, base_resolution=12, growth=3.5)  # 11 to 513 cells


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("used", [None, 0, 3333])
def test_points_along_rays(used, half, device):
    """Coarse cells that neighbours share, fine ones that they do not, and points that only fill the list up."""
    need_compiled(device)
    points = along_rays(4000).to(device)
    _, params, weight = random_case(MIXED, count=4000, device=device)
    used = None if used is None else torch.tensor(used, dtype=torch.int32, device=device)
    points.requires_grad_()
    results = []
    for compiled in (True, False):
        encoded = hash_grid_encode(points, params, MIXED, half=half, used=used, compiled=compiled)
        assert encoded.dtype == (torch.bfloat16 if half else torch.float32)
        results.append([encoded.float(), *torch.autograd.grad((encoded * weight.to(encoded.dtype)).sum(), [points, params])])
    for found, expected in zip(*results, strict=True):
        assert found.shape == expected.shape and relative_l2(found.detach(), expected.detach()) < (5e-3 if half else 1e-5)
    if used is not None:
        assert not results[0][0][int(used) :].any() and not results[0][1][int(used) :].any()


@pytest.mark.parametrize("device", DEVICES)
def test_second_derivative_beside_points_that_fill_up(device):
    need_compiled(device)
    found = []
    for dtype, compiled in ((torch.float32, True), (torch.float64, False)):
        points, params, weight = random_case(count=50, device=device, dtype=dtype)
        used = torch.tensor(30, dtype=torch.int32, device=device)
        encoded = hash_grid_encode(points, params, SMALL, used=used, compiled=compiled)
        (v_points,) = torch.autograd.grad((encoded * weight).sum(), points, create_graph=True)
        found.append(torch.autograd.grad(v_points.square().sum(), [points, params]))
    for one, other in zip(*found, strict=True):
        assert relative_l2(one, other) < 1e-4


@pytest.mark.parametrize("device", DEVICES)
def test_a_known_encoding_has_the_gradient_of_a_new_one(device):
    points, params, weight = random_case(count=300, device=device)
    new = hash_grid_encode(points, params, SMALL)
    known = hash_grid_known(new.detach(), points, params, SMALL)
    assert torch.equal(known, new)
    expected, found = (torch.autograd.grad((encoded * weight).sum(), [points, params]) for encoded in (new, known))
    for one, other in zip(found, expected, strict=True):
        assert relative_l2(one, other) < 1e-6


@pytest.mark.gpu
def test_several_chunks_of_points_and_their_gradient():
    need_compiled("cuda")
    points = along_rays(300_000)
    _, params, _ = random_case(MIXED, count=1)
    found = [
        torch.autograd.grad(hash_grid_encode(points.to(device), params.to(device), MIXED, compiled=True).sin().sum(), leaf)[0].cpu()
        for device in ("cuda", "cpu")
        for leaf in [params]
    ]
    assert relative_l2(*found) < 1e-5


@pytest.mark.gpu
def test_several_chunks_of_points():
    # More than kChunk points (csrc/cuda/hash_grid.cu), and no whole number of chunks or blocks.
    need_compiled("cuda")
    points, params, _ = random_case(count=300_001, device="cuda")
    encoded = hash_grid_encode(points, params, SMALL, compiled=True)
    expected = hash_grid_encode(points.cpu(), params.cpu(), SMALL, compiled=True)
    torch.testing.assert_close(encoded.cpu(), expected, rtol=1e-5, atol=1e-5)


def test_module_starts_small_and_repeats():
    grids = [HashGrid(SMALL, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(grids[0].params, grids[1].params)
    assert 0.9e-4 < float(grids[0].params.detach().abs().max()) <= 1e-4 and abs(float(grids[0].params.detach().mean())) < 1e-5
    points, _, _ = random_case(count=5)
    encoded = grids[0](points)
    assert encoded.shape == (5, SMALL.width)
    assert encoded.requires_grad and list(grids[0].state_dict()) == ["params"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": 0}, "levels=0: expected 1 to 32"),
        ({"levels": 33}, "levels=33: expected 1 to 32"),
        ({"features": 3}, "features=3: expected one of 1, 2, 4, 8"),
        ({"log2_table_size": 31}, "log2_table_size=31: expected 3 to 30"),
        ({"base_resolution": 1}, "base_resolution=1, growth=2.0: expected at least 2 and 1"),
        ({"levels": 32}, "expected below 2"),
    ],
)
def test_bad_specs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        HashGridSpec(**change)


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "reference"])
@pytest.mark.parametrize(
    ("points", "params", "message"),
    [
        (torch.zeros(4, 2), torch.zeros(SMALL.num_params), r"points: expected shape \[N,3\], got \[4, 2\]"),
        (torch.zeros(3), torch.zeros(SMALL.num_params), r"points: expected shape \[N,3\], got \[3\]"),
        (torch.zeros(4, 3), torch.zeros(SMALL.num_params + 2), "params: expected shape"),
        (torch.zeros(4, 3), torch.zeros(SMALL.num_params, dtype=torch.float64), "params: expected torch.float32"),
    ],
)
def test_bad_arguments_are_refused(points, params, message, compiled):
    with pytest.raises(ValueError, match=message):
        hash_grid_encode(points, params, SMALL, compiled=compiled)


def test_op_checks_its_own_arguments():
    need_compiled("cpu")
    points, params, _ = (tensor.detach() for tensor in random_case(count=4))
    hash_grid_encode(points, params, SMALL, compiled=True)
    op, levels = torch.ops.microdreamer.hash_grid_encode, (SMALL.scales, SMALL.resolutions, SMALL.offsets)
    with pytest.raises(ValueError, match="points: expected Float, got Double"):
        op(points.double(), params, *levels, 2, False, False, None)
    with pytest.raises(ValueError, match="points: expected a contiguous tensor"):
        op(points.T.contiguous().T, params, *levels, 2, False, False, None)
    with pytest.raises(ValueError, match="features: expected 1, 2, 4 or 8, got 3"):
        op(points, params, *levels, 3, False, False, None)
    with pytest.raises(ValueError, match="params: expected shape"):
        op(points, params[2:], *levels, 2, False, False, None)
    with pytest.raises(ValueError, match="params: expected memory aligned to an entry of 2 floats"):
        op(points, torch.zeros(SMALL.num_params + 1)[1:], *levels, 2, False, False, None)
    with pytest.raises(ValueError, match="expected a power of two of hashed entries, got 100"):
        op(points, torch.zeros(200), [9.0], [10], [0, 100], 2, False, False, None)
    with pytest.raises(ValueError, match="resolutions, offsets: expected 1 and 2 of them"):
        op(points, params, [9.0], [10, 11], [0, 128], 2, False, False, None)
