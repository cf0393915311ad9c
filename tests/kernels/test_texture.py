"""Texture look-up against golden tensors of the published one, against float64, and at the edges of its input."""

import itertools
import math

import numpy as np
import pytest
import torch
from conftest import DEVICES, relative_l2

from microdreamer.core.cuda_graphs import capture, warm_up
from microdreamer.kernels import extension
from microdreamer.kernels.texture import FILTERS, MAX_SIDE, Mips, build_mips, level_sizes, texture

GOLDEN = "kernels/nvdiffrast_icosphere_128x128.npz"
MIPMAPPED = "linear-mipmap-linear"
COMPILED = pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "reference"])
ON_DEVICES = pytest.mark.parametrize("device", DEVICES)


def need_compiled(device, compiled=True):
    if compiled and not extension.available(device):
        pytest.skip("the extension is not built")


def random_case(height=13, width=22, channels=3, *, textures=2, pictures=2, size=(9, 14), spread=1.5, level_range=(-1, 4), seed=0):
    """tex, uv and uv_da in float64: coordinates in and out of 0..1, footprints of sizes 2^level_range texels, turned and stretched."""
    draw = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(*shape, generator=draw, dtype=torch.float64)

    tex = uniform(textures, height, width, channels)
    uv = 0.5 + spread * (2 * uniform(pictures, *size, 2) - 1)
    axis = 2 ** (level_range[0] + (level_range[1] - level_range[0]) * uniform(pictures, *size, 1))
    da = axis * (2 * uniform(pictures, *size, 4) - 1) / torch.tensor([width, width, height, height])
    return tex, uv, da


def gradients(leaves, out, seed=5):
    """Of a fixed random functional of `out`; zeros for leaves that it does not depend on."""
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    grads = torch.autograd.grad((out * weight.to(out)).sum(), leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, grads, strict=True)]


def leaves_on(case, device="cpu", dtype=torch.float32):
    return [part.to(device, dtype).requires_grad_() for part in case]


@ON_DEVICES
@COMPILED
@pytest.mark.parametrize("wrap", ["wrap", "clamp"])
@pytest.mark.parametrize("filter", ["linear", MIPMAPPED])
def test_goldens(parity, filter, wrap, compiled, device):
    need_compiled(device, compiled)
    data = np.load(parity(GOLDEN))
    key = f"{'lml' if filter == MIPMAPPED else 'linear'}_{wrap}"
    tensors = {name: torch.tensor(data[name], device=device) for name in ("texture", "texc", "texc_da", "rast", f"tex_{key}")}
    leaves = [tensors[name].requires_grad_() for name in ("texture", "texc", "texc_da")]
    covered = tensors["rast"][..., 3] > 0
    out = texture(*leaves, filter, wrap, compiled=compiled) * covered[..., None]
    torch.testing.assert_close(out, tensors[f"tex_{key}"], rtol=0, atol=2e-6)  # measured: 2e-7
    weight = torch.tensor(data["weight_col_q"], device=device) / 64
    grads = torch.autograd.grad((out * weight).sum(), leaves, allow_unused=True)
    names = [f"grad_tex__{key}", f"grad_texc__{key}", f"grad_texc_da__{key}"][: 3 if filter == MIPMAPPED else 2]
    for name, grad in zip(names, grads, strict=False):
        assert relative_l2(grad, torch.tensor(data[name])) < 1e-5, name  # measured: 7e-7

    # With a mask the empty pixels, whose uv is 0, are left out at once.
    masked = texture(*leaves, filter, wrap, mask=covered, compiled=compiled)
    torch.testing.assert_close(masked, out)
    for grad, expected in zip(torch.autograd.grad((masked * weight).sum(), leaves, allow_unused=True), grads, strict=True):
        assert (grad is None and expected is None) or relative_l2(grad, expected) < 1e-6


@ON_DEVICES
@pytest.mark.parametrize("wrap", ["wrap", "clamp"])
@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"height": 64, "width": 64, "textures": 1, "channels": 4},
        {"height": 1, "width": 1, "channels": 2},
        {"height": 1, "width": 37, "channels": 1},
        {"height": 100, "width": 16, "channels": 5, "textures": 1},
        {"height": 127, "width": 65, "channels": 8},
        {"height": 6, "width": 5, "channels": 6, "size": (70, 90)},
    ],
    ids=lambda shape: "x".join(str(shape.get(key, "")) for key in ("height", "width", "channels")),
)
def test_op_matches_reference_in_double(shape, filter, wrap, device):
    need_compiled(device)
    case = random_case(**shape)
    exact = leaves_on(case, dtype=torch.float64)
    expected = texture(*exact, filter, wrap, compiled=False)
    leaves = leaves_on(case, device)
    out = texture(*leaves, filter, wrap, compiled=True)
    off = (out.double().cpu() - expected).abs().amax(-1)
    if filter == "nearest":  # a coordinate on a texel's border falls to either side
        assert (off > 1e-5).sum() <= 2
    else:
        assert off.max() < 2e-5
    for name, grad, want in zip(("tex", "uv", "uv_da"), gradients(leaves, out), gradients(exact, expected), strict=True):
        assert relative_l2(grad, want) < (0.2 if filter == "nearest" else 1e-3), name
        if filter != "nearest":  # a footprint on a whole level may see the levels of either side
            assert ((grad.double().cpu() - want).abs() > 1e-3 * want.abs().max()).sum() <= 4, name


@pytest.mark.parametrize("wrap", ["wrap", "clamp"])
@pytest.mark.parametrize("filter", ["linear", MIPMAPPED])
def test_gradcheck_of_the_reference(filter, wrap):
    leaves = leaves_on(random_case(7, 6, 2, size=(3, 4), spread=0.7, level_range=(0, 2)), dtype=torch.float64)
    leaves = leaves if filter == MIPMAPPED else leaves[:2]
    assert torch.autograd.gradcheck(lambda *parts: texture(*parts, filter=filter, wrap=wrap, compiled=False), leaves, eps=1e-7, atol=1e-5)


@ON_DEVICES
def test_opcheck(device):
    need_compiled(device)
    tex, uv, da = leaves_on(random_case(5, 6, 3, size=(3, 4)), device)
    mask = torch.rand(uv.shape[:3], device=device) > 0.3
    mips = build_mips(tex)
    ops = torch.ops.microdreamer
    torch.library.opcheck(ops.texture_mips.default, (tex, 3))
    torch.library.opcheck(ops.texture_mips_bwd.default, (torch.randn_like(mips.texels), 5, 6, 3, 3))
    settings = (5, 6, 3, 3, FILTERS.index(MIPMAPPED), True, False)
    texels = mips.texels.detach().requires_grad_()
    torch.library.opcheck(ops.texture_sample.default, (texels, uv, da, mask, *settings))
    bare = (tex.detach().flatten(1, 2).requires_grad_(), uv, None, None, 5, 6, 3, 1, FILTERS.index("linear"), False, True)
    torch.library.opcheck(ops.texture_sample.default, bare)
    arguments = [part.detach() for part in (texels, uv, da)]
    v_out = torch.randn(*uv.shape[:3], 3, device=device)
    for wanted in ([True, True, True], [True, False, False], [False, True, False]):
        # Sums in any order: two runs of the CUDA op may differ in the last bits, so take the fixed order.
        torch.library.opcheck(ops.texture_sample_bwd.default, (v_out, *arguments, mask, *settings[:-1], True, wanted))


@ON_DEVICES
@COMPILED
@pytest.mark.parametrize("size", [(1, 1), (64, 32), (2, 3), (5, 7), (100, 75), (33, 1), (127, 1), (12, 96)])
def test_pyramid_is_of_area_means(size, compiled, device):
    need_compiled(device, compiled)
    tex = torch.rand(2, *size, 3, device=device, requires_grad=True)
    mips = build_mips(tex, compiled=compiled)
    sizes = level_sizes(*size, mips.levels)
    assert sizes[-1] == (1, 1)
    levels = [level.reshape(2, *s, -1) for level, s in zip(mips.texels.split([h * w for h, w in sizes], 1), sizes, strict=True)]
    torch.testing.assert_close(levels[0][..., :3], tex)
    assert (mips.texels[..., 3:] == 0).all()
    for before, after in itertools.pairwise(levels):
        # A coarse texel is the mean over the part of the texture that it covers.
        expected = before[..., :3].double()
        for axis in (1, 2):
            expected = torch.tensordot(area_means(before.shape[axis], after.shape[axis]).to(device), expected, ([1], [axis])).movedim(
                0, axis
            )
        torch.testing.assert_close(after[..., :3].double(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(levels[-1][:, 0, 0, :3], tex.mean((1, 2)))
    # The gradient is the transpose: <v, build(x)> = <build^T(v), x>.
    v = torch.randn_like(mips.texels)
    (v_tex,) = torch.autograd.grad(mips.texels, tex, v)
    torch.testing.assert_close((v * mips.texels).double().sum(), (v_tex * tex).double().sum(), rtol=1e-4, atol=1e-4)
    x = torch.randn_like(tex)
    torch.testing.assert_close((v * build_mips(x, compiled=compiled).texels).sum(), (v_tex * x).sum(), rtol=1e-4, atol=1e-3)


def area_means(fine, coarse):
    """Row i: the share of each of `fine` texels in the i-th of `coarse` equal parts of the axis, by overlap of intervals."""
    edges, parts = torch.arange(fine + 1, dtype=torch.float64) / fine, torch.arange(coarse + 1, dtype=torch.float64) / coarse
    overlap = torch.minimum(edges[1:], parts[1:, None]) - torch.maximum(edges[:-1], parts[:-1, None])
    return overlap.clamp_min(0) * coarse


@ON_DEVICES
@COMPILED
def test_texel_centres_and_borders(compiled, device):
    need_compiled(device, compiled)
    tex = torch.rand(1, 3, 5, 2, device=device)
    y, x = torch.meshgrid(torch.arange(3, device=device), torch.arange(5, device=device), indexing="ij")
    centres = torch.stack([(x + 0.5) / 5, (y + 0.5) / 3], -1)[None]
    for filter in ("nearest", "linear"):
        for wrap in ("wrap", "clamp"):
            torch.testing.assert_close(texture(tex, centres, filter=filter, wrap=wrap, compiled=compiled), tex)
        shifted = centres + torch.tensor([3.0, -2.0], device=device)
        torch.testing.assert_close(texture(tex, shifted, filter=filter, wrap="wrap", compiled=compiled), tex, rtol=0, atol=1e-5)
    corner = torch.zeros(1, 1, 1, 2, device=device)
    torch.testing.assert_close(texture(tex, corner, wrap="clamp", compiled=compiled)[0, 0, 0], tex[0, 0, 0])
    corners = tex[0, [0, 0, -1, -1], [0, -1, 0, -1]].mean(0)
    torch.testing.assert_close(texture(tex, corner, wrap="wrap", compiled=compiled)[0, 0, 0], corners)


@ON_DEVICES
@COMPILED
def test_levels_follow_the_longer_axis(compiled, device):
    """A texture whose colour is its level (pyramid made by hand) shows which levels are mixed."""
    need_compiled(device, compiled)
    sizes = level_sizes(32, 64, 7)
    texels = torch.cat([torch.full((1, h * w, 1), float(level)) for level, (h, w) in enumerate(sizes)], 1).to(device)
    mips = Mips(texels, 32, 64, 1, 7)
    angle, turn = math.radians(30), math.radians(70)
    axes = [(1.0, 1.0, 0.0), (0.3, 0.2, 0.0), (4.0, 1.0, 2.0), (1.0, 4.0, 2.0), (6.0, 0.0, math.log2(6.0)), (1e4, 1.0, 6.0)]
    rows = []
    for long, short, _ in axes:
        turned = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        jacobian = (
            turned
            @ torch.diag(torch.tensor([long, short]))
            @ torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        )
        rows.append((jacobian / torch.tensor([[64.0], [32.0]])).flatten())
    da = torch.stack(rows).reshape(1, 1, -1, 4).to(device)
    uv = torch.full((1, 1, len(axes), 2), 0.4, device=device)
    levels = texture(mips, uv, da, MIPMAPPED, compiled=compiled).flatten().cpu()
    torch.testing.assert_close(levels, torch.tensor([level for *_, level in axes]), rtol=0, atol=1e-5)
    limited = texture(mips, uv, da, MIPMAPPED, max_level=1, compiled=compiled).flatten().cpu()
    torch.testing.assert_close(limited, levels.clamp(max=1))


@ON_DEVICES
@COMPILED
def test_round_and_vanishing_footprints_have_finite_gradients(compiled, device):
    need_compiled(device, compiled)
    tex = torch.rand(1, 16, 16, 3, device=device, requires_grad=True)
    uv = torch.full((1, 1, 3, 2), 0.3, device=device, requires_grad=True)
    da = torch.tensor([[0.2, 0, 0, 0.2], [0, 0, 0, 0], [1e-30, 0, 0, 1e-30]], device=device).reshape(1, 1, 3, 4).requires_grad_()
    _, v_uv, v_da = gradients([tex, uv, da], texture(tex, uv, da, MIPMAPPED, compiled=compiled))
    assert v_uv.isfinite().all() and v_da.isfinite().all()
    assert (v_da[0, 0, 0, [0, 3]] != 0).all() and (v_da[0, 0, 1:] == 0).all()


@ON_DEVICES
@COMPILED
@pytest.mark.parametrize("wrap", ["wrap", "clamp"])
@pytest.mark.parametrize("filter", FILTERS)
def test_uv_that_is_not_finite_or_huge(filter, wrap, compiled, device):
    need_compiled(device, compiled)
    tex = torch.rand(1, 8, 8, 3, device=device, requires_grad=True)
    bad = [math.nan, math.inf, -math.inf]
    values = [(b, 0.5) for b in bad] + [(0.5, b) for b in bad] + [(1e30, -1e30), (-3.4e38, 3.4e38), (1e9, 0.25), (0.25, 0.25)]
    uv = torch.tensor(values, device=device).reshape(1, 1, -1, 2).requires_grad_()
    da = torch.full((1, 1, len(values), 4), 0.25, device=device, requires_grad=True)
    out = texture(tex, uv, da, filter, wrap, compiled=compiled)
    assert (out[0, 0, :6] == 0).all() and (out[0, 0, 6:] > 0).all()
    v_tex, v_uv, v_da = gradients([tex, uv, da], out)
    assert v_tex.isfinite().all() and v_uv.isfinite().all() and v_da.isfinite().all()
    assert (v_uv[0, 0, :6] == 0).all() and (v_da[0, 0, :6] == 0).all()


@ON_DEVICES
@COMPILED
def test_footprints_that_are_not_finite_see_the_coarsest_level(compiled, device):
    need_compiled(device, compiled)
    tex = torch.rand(1, 8, 8, 3, device=device, requires_grad=True)
    uv = torch.full((1, 1, 3, 2), 0.3, device=device, requires_grad=True)
    da = torch.tensor([[math.nan, 0, 0, 0], [0, math.inf, 0, 0], [1e30, 1e30, -1e30, 1e30]], device=device).reshape(1, 1, 3, 4)
    da.requires_grad_()
    out = texture(tex, uv, da, MIPMAPPED, compiled=compiled)
    torch.testing.assert_close(out, tex.mean((1, 2)).expand(1, 1, 3, 3))
    v_tex, v_uv, v_da = gradients([tex, uv, da], out)
    assert v_tex.isfinite().all() and v_uv.isfinite().all() and (v_da == 0).all()


@ON_DEVICES
@COMPILED
@pytest.mark.parametrize("filter", FILTERS)
def test_mask_leaves_pixels_out(filter, compiled, device):
    need_compiled(device, compiled)
    leaves = leaves_on(random_case(), device)
    mask = torch.rand(leaves[1].shape[:3], device=device) > 0.5
    every, some = (texture(*leaves, filter, mask=m, compiled=compiled) for m in (None, mask))
    torch.testing.assert_close(some, every * mask[..., None])
    for grad, expected in zip(gradients(leaves, some), gradients(leaves, every * mask[..., None]), strict=True):
        torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-5)
    nothing = texture(*leaves, filter, mask=torch.zeros_like(mask), compiled=compiled)
    assert (nothing == 0).all()


@ON_DEVICES
@COMPILED
def test_empty_batches(compiled, device):
    need_compiled(device, compiled)
    tex = torch.rand(1, 8, 4, 3, device=device, requires_grad=True)
    for shape in [(0, 5, 6), (1, 0, 6), (1, 5, 0)]:
        uv, da = torch.zeros(*shape, 2, device=device), torch.zeros(*shape, 4, device=device)
        out = texture(tex, uv, da, MIPMAPPED, compiled=compiled)
        assert out.shape == (*shape, 3)
        (v_tex,) = torch.autograd.grad(out.sum(), tex)
        assert (v_tex == 0).all()
    none = torch.rand(0, 8, 4, 3, device=device)
    assert texture(none, torch.zeros(0, 5, 6, 2, device=device), compiled=compiled).shape == (0, 5, 6, 3)


@ON_DEVICES
@COMPILED
def test_one_pyramid_for_several_samples(compiled, device):
    need_compiled(device, compiled)
    tex, uv, da = leaves_on(random_case(), device)
    mips = build_mips(tex, compiled=compiled)
    for filter in FILTERS:
        torch.testing.assert_close(texture(mips, uv, da, filter, compiled=compiled), texture(tex, uv, da, filter, compiled=compiled))
    twice = texture(mips, uv, da, MIPMAPPED, compiled=compiled) + texture(mips, uv / 2, da, MIPMAPPED, compiled=compiled)
    alone = texture(tex, uv, da, MIPMAPPED, compiled=compiled) + texture(tex, uv / 2, da, MIPMAPPED, compiled=compiled)
    for grad, expected in zip(gradients([tex, uv, da], twice), gradients([tex, uv, da], alone), strict=True):
        torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-5)


@ON_DEVICES
def test_one_texture_equals_a_copy_for_each_picture(device):
    tex, uv, da = random_case(textures=1, pictures=3)
    one, many = leaves_on((tex, uv, da), device), leaves_on((tex.repeat(3, 1, 1, 1), uv, da), device)
    outs = [texture(*leaves, MIPMAPPED) for leaves in (one, many)]
    assert torch.equal(*outs)
    torch.testing.assert_close(gradients(one, outs[0])[0], gradients(many, outs[1])[0].sum(0, keepdim=True), rtol=1e-4, atol=1e-4)


@ON_DEVICES
@COMPILED
def test_only_asked_gradients(compiled, device):
    """Each gradient alone is the one that comes with the others."""
    need_compiled(device, compiled)
    case = random_case()
    leaves = leaves_on(case, device)
    together = gradients(leaves, texture(*leaves, MIPMAPPED, compiled=compiled))
    for k in range(3):
        alone = [part.detach().requires_grad_(k == other) for other, part in enumerate(leaves)]
        (grad,) = gradients([alone[k]], texture(*alone, MIPMAPPED, compiled=compiled))
        torch.testing.assert_close(grad, together[k], rtol=1e-4, atol=1e-5)


def crowded_case(device):
    """Many pixels on few texels, with gradients of very different sizes, so that the order of the sums shows."""
    tex, uv, da = leaves_on(random_case(5, 4, 3, textures=1, size=(128, 150), spread=0.1), device)
    weight = torch.randn(2, 128, 150, 3, generator=torch.Generator().manual_seed(3)) * 10 ** torch.linspace(-3, 3, 150)[:, None]
    return [tex, uv, da], weight.to(device)


@ON_DEVICES
def test_deterministic_mode_gives_the_same_bits(device):
    need_compiled(device)
    leaves, weight = crowded_case(device)

    def run(**switches):
        return torch.autograd.grad((texture(*leaves, MIPMAPPED, **switches) * weight).sum(), leaves)

    first = run(deterministic=True)
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(run(deterministic=True), first, strict=True))
    for fast, fixed in zip(run(deterministic=False), first, strict=True):
        assert relative_l2(fast, fixed) < 1e-5
    torch.use_deterministic_algorithms(True)
    try:
        assert all(torch.equal(a, b) for a, b in zip(run(), first, strict=True))
    finally:
        torch.use_deterministic_algorithms(False)


def test_number_of_threads_does_not_change_a_bit():
    need_compiled("cpu")
    leaves, weight = crowded_case("cpu")
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            for filter in FILTERS:
                out = texture(*leaves, filter)
                results.append((filter, count, [out, *torch.autograd.grad((out * weight).sum(), leaves[:1])]))
    finally:
        torch.set_num_threads(threads)
    for filter, _, tensors in results:
        expected = next(other for name, count, other in results if name == filter and count == 1)
        assert all(torch.equal(a, b) for a, b in zip(tensors, expected, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_in_a_cuda_graph():
    leaves = leaves_on(random_case(), "cuda")
    mask = torch.ones(leaves[1].shape[:3], dtype=torch.bool, device="cuda")

    def step():
        return torch.autograd.grad(texture(*leaves, MIPMAPPED, mask=mask, deterministic=True).square().sum(), leaves)

    expected = warm_up(step, "cuda")
    graph, captured = capture(step, "cuda")
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True))


@ON_DEVICES
def test_tensors_in_the_middle_of_a_storage(device):
    """Contiguous, but beginning where no 16-byte read may."""
    need_compiled(device)
    case = [part.float() for part in random_case(channels=4)]
    shifted = []
    for part in case:
        storage = torch.zeros(part.numel() + 1, device=device)
        storage[1:] = part.flatten()
        shifted.append(storage[1:].view(part.shape))
    for filter in FILTERS:
        torch.testing.assert_close(texture(*shifted, filter), texture(*(part.to(device) for part in case), filter))


def test_errors_name_the_argument():
    tex, uv, da = torch.rand(2, 4, 4, 3), torch.rand(2, 5, 6, 2), torch.rand(2, 5, 6, 4)
    with pytest.raises(ValueError, match="filter: expected one of nearest, linear, linear-mipmap-linear, got 'cubic'"):
        texture(tex, uv, filter="cubic")
    with pytest.raises(ValueError, match="wrap: expected one of wrap, clamp, got 'mirror'"):
        texture(tex, uv, wrap="mirror")
    with pytest.raises(ValueError, match=r"uv_da: .*needs the derivatives"):
        texture(tex, uv, filter=MIPMAPPED)
    with pytest.raises(ValueError, match="max_level: expected 0 or more"):
        texture(tex, uv, da, MIPMAPPED, max_level=-1)
    with pytest.raises(ValueError, match=r"max_level: the pyramid was built with 2 levels, expected at most 1, got 2"):
        texture(build_mips(tex, 1), uv, da, MIPMAPPED, max_level=2)
    with pytest.raises(ValueError, match=r"tex: expected \[B,H,W,C\].*got \[2, 0, 4, 3\]"):
        texture(tex[:, :0], uv)
    with pytest.raises(ValueError, match=f"sides of 1 to {MAX_SIDE} texels"):
        build_mips(torch.zeros(1, 1, MAX_SIDE + 1, 1))
    with pytest.raises(ValueError, match=r"uv: expected \[B,h,w,2\]"):
        texture(tex, uv[..., 0])
    with pytest.raises(ValueError, match="tex: expected 1 texture or one for each of the 2 pictures of uv, got 3"):
        texture(torch.rand(3, 4, 4, 3), uv)
    with pytest.raises(ValueError, match=r"uv_da: expected \[2, 5, 6, 4\]"):
        texture(tex, uv, da[:1], MIPMAPPED)
    with pytest.raises(ValueError, match=r"mask: expected bool \[2, 5, 6\]"):
        texture(tex, uv, mask=torch.ones(2, 5, 6))
    with pytest.raises(ValueError, match=r"tex: expected torch\.float32 like uv, got torch\.float64"):
        texture(tex.double(), uv)


def test_op_errors_name_the_argument():
    need_compiled("cpu")
    texture(torch.rand(1, 2, 2, 1), torch.rand(1, 1, 1, 2), compiled=True)
    ops = torch.ops.microdreamer
    texels, uv = torch.rand(1, 16, 3), torch.rand(1, 2, 2, 2)
    with pytest.raises(ValueError, match="levels: expected 1 to 3"):
        ops.texture_mips(torch.rand(1, 4, 4, 3), 4)
    with pytest.raises(ValueError, match="texels: expected at least 20 texels"):
        ops.texture_sample(texels, uv, None, None, 4, 4, 3, 2, 1, True, False)
    with pytest.raises(ValueError, match="filter: expected 0"):
        ops.texture_sample(texels, uv, None, None, 4, 4, 3, 1, 5, True, False)
    with pytest.raises(ValueError, match="uv_da: expected with the mipmapped filter"):
        ops.texture_sample(texels, uv, None, None, 4, 4, 3, 1, 2, True, False)
    with pytest.raises(ValueError, match=r"texels: expected .*4 channels"):
        ops.texture_sample(texels, uv, None, None, 4, 4, 4, 1, 1, True, False)
