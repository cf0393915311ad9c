"""What a modulated transformer does between products, in one pass on the CPU: truths in double precision, types, layouts, and refusals."""

import pytest
import torch

from microdreamer.kernels import extension, modulation
from microdreamer.kernels.modulation import gated_add, modulated_norm, normed_heads, squared_relu

needs_kernels = pytest.mark.skipif(not extension.load(), reason="the extension is not built")
SHAPES = [(1, 1, 8), (2, 5, 13), (3, 4, 6, 64), (2, 7, 448)]  # rows that fill whole vectors and others
BF16_STEP = 2.0**-8  # half a step of bfloat16, as a share of the value


def draw(*shape, dtype=torch.float32, scale=1.0):
    return (scale * torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))).to(dtype)


def assert_rounded(actual, exact):
    """`actual` is what `exact` (double) becomes in its type, apart from the last rounding of float32 on the way."""
    step = BF16_STEP if actual.dtype == torch.bfloat16 else 2e-6
    assert actual.shape == exact.shape
    assert ((actual.double() - exact).abs() <= step * exact.abs() + 3e-6).all()


@pytest.fixture(params=[pytest.param(True, marks=needs_kernels, id="compiled"), pytest.param(False, id="twins")])
def compiled(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(modulation, "_compiled", lambda x: False)
    with torch.no_grad():
        yield request.param


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("silu", [False, True])
def test_modulated_norm(compiled, shape, silu):
    x, scale, shift = draw(*shape) * 3 + 2, draw(shape[0], shape[-1], scale=0.5), draw(shape[0], shape[-1])
    for given in ((None, None), (scale, shift)):
        exact = modulation.modulated_norm_reference(x.double(), *(None if part is None else part.double() for part in given), silu)
        assert_rounded(modulated_norm(x, *given, silu=silu), exact)


@needs_kernels
@torch.no_grad()
def test_a_norm_takes_the_type_of_the_product_that_follows():
    x, scale, shift = draw(2, 9, 192), draw(2, 192), draw(2, 192)
    exact = modulation.modulated_norm_reference(x.double(), scale.double(), shift.double(), True)
    with torch.autocast("cpu", torch.bfloat16):
        made = modulated_norm(x, scale, shift, silu=True)
    assert made.dtype == torch.bfloat16 and modulated_norm(x, scale, shift, silu=True).dtype == torch.float32
    assert_rounded(made, exact)
    narrow = x.bfloat16()
    exact = modulation.modulated_norm_reference(narrow.double(), scale.double(), shift.double(), True)
    assert_rounded(modulated_norm(narrow, scale, shift, silu=True), exact)


def test_a_norm_of_a_large_mean_keeps_its_digits(compiled):
    x = draw(2, 5, 64) + 1000
    exact = modulation.modulated_norm_reference(x.double(), None, None, False)
    assert (modulated_norm(x) - exact).abs().max() < 1e-3


def test_silu_of_large_values_neither_overflows_nor_leaks(compiled):
    """A row with one far value: that one is itself or nothing, and a row's neighbours do not see it."""
    x = torch.zeros(1, 2, 16)
    shift = torch.zeros(1, 16)
    shift[0, :4] = torch.tensor([200.0, -200.0, 90.0, -90.0])
    made = modulated_norm(x, torch.zeros(1, 16), shift, silu=True)
    assert made.isfinite().all()
    assert torch.allclose(made[0, 1, :4], torch.tensor([200.0, 0.0, 90.0, 0.0]), atol=1e-6)
    assert (made[0, :, 4:] == 0).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("types", [(torch.float32, torch.float32), (torch.float32, torch.bfloat16), (torch.bfloat16, torch.bfloat16)])
def test_gated_add(compiled, shape, types):
    x, h, gate = draw(*shape, dtype=types[0]), draw(*shape, dtype=types[1]).flip(-1), draw(shape[0], shape[-1])
    for given in (None, gate):
        exact = modulation.gated_add_reference(x.double(), h.double(), None if given is None else given.double())
        made = gated_add(x, h, given)
        if given is None or compiled:  # the twin's gate widens what it meets
            assert made.dtype == types[0]
        assert_rounded(made, exact)


@torch.no_grad()
def test_a_sum_is_as_wide_as_its_wider_part():
    assert gated_add(draw(1, 2, 8, dtype=torch.bfloat16), draw(1, 2, 8)).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_squared_relu(compiled, dtype):
    x = torch.cat([draw(1000, dtype=dtype), torch.tensor([0.0, -0.0, -1e30, float("inf")], dtype=dtype)])
    assert_rounded(squared_relu(x)[:-1], x[:-1].double().clamp(min=0).square())
    assert squared_relu(x)[-1] == float("inf")
    assert squared_relu(torch.tensor([float("nan"), 1.0], dtype=dtype)).isnan().tolist() == [True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_normed_heads(compiled, dtype):
    qkv, scales = draw(2, 5, 3 * 4 * 16, dtype=dtype, scale=3.0), [draw(16, dtype=dtype), draw(16, dtype=dtype).flip(0)]
    made = normed_heads(qkv, 4, *scales)
    query, key, value = qkv.double().view(2, 5, 3, 4, 16).unbind(2)
    for actual, exact, scale in zip(made, (query, key), scales, strict=False):
        expected = exact / (exact.square().mean(-1, keepdim=True) + modulation.RMS_EPSILON).sqrt() * scale.double()
        assert (actual.double() - expected).abs().max() < (0.05 if dtype == torch.bfloat16 else 1e-5)
    assert torch.equal(made[2].double(), value)
    if compiled:
        assert all(part.transpose(1, 2).is_contiguous() for part in made)


@needs_kernels
@torch.no_grad()
def test_parts_of_longer_rows_and_layouts_do_not_matter():
    x, h = draw(2, 6, 24), draw(2, 24, 6).transpose(1, 2)
    scale, shift, gate = draw(2, 72).chunk(3, dim=-1)
    whole = [part.clone() for part in (scale, shift, gate)]
    assert torch.equal(modulated_norm(x, scale, shift), modulated_norm(x, *whole[:2]))
    assert torch.equal(gated_add(x, h, gate), gated_add(x, h.contiguous(), whole[2]))


@needs_kernels
@torch.no_grad()
def test_the_number_of_threads_changes_no_bit():
    x, h, scale, shift = draw(4, 300, 192), draw(4, 300, 192, dtype=torch.bfloat16), draw(4, 192), draw(4, 192)
    qkv = draw(4, 300, 3 * 192, dtype=torch.bfloat16)

    def everything():
        heads = normed_heads(qkv, 3, draw(64), draw(64))
        return [modulated_norm(x, scale, shift, silu=True), gated_add(x, h, scale), squared_relu(h), *heads]

    threads = torch.get_num_threads()
    found = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append(everything())
    torch.set_num_threads(threads)
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))


def test_gradients_are_those_of_plain_pytorch():
    x, scale, shift = (part.requires_grad_() for part in (draw(2, 3, 8).double(), draw(2, 8).double(), draw(2, 8).double()))
    assert torch.autograd.gradcheck(
        lambda *parts: gated_add(modulated_norm(*parts, silu=True), squared_relu(parts[0]), parts[1]), (x, scale, shift)
    )
    qkv = draw(1, 2, 3 * 2 * 8).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda q: normed_heads(q, 2, scale[0].detach(), shift[0].detach()), (qkv,))


@needs_kernels
@torch.no_grad()
def test_ops_have_shapes_for_the_compiler():
    ops, x, h = torch.ops.microdreamer, draw(2, 3, 16), draw(2, 3, 16, dtype=torch.bfloat16)
    row = draw(2, 16)
    for op, arguments in (
        (ops.modulated_norm, (x, row, row, True, True)),
        (ops.modulated_norm, (x, None, None, False, False)),
        (ops.gated_add, (x, h, row)),
        (ops.squared_relu, (h,)),
        (ops.normed_heads, (draw(2, 3, 3, 2, 8), draw(8), draw(8), 1e-6)),
    ):
        torch.library.opcheck(op, arguments)


@needs_kernels
@torch.no_grad()
def test_what_does_not_fit_is_named():
    ops, x, row = torch.ops.microdreamer, draw(2, 3, 16), draw(2, 16)
    for call, words in (
        (lambda: ops.modulated_norm(x.double(), None, None, False, False), "x: expected float32 or bfloat16"),
        (lambda: ops.modulated_norm(x, row, None, False, False), "scale, shift: expected both or none"),
        (lambda: ops.modulated_norm(x, row[:1], row[:1], False, False), "scale: expected shape"),
        (lambda: ops.modulated_norm(x.bfloat16(), row, row, False, False), "x: expected float32 where the result is"),
        (lambda: ops.gated_add(x, x[:1], None), "h: expected shape"),
        (lambda: ops.gated_add(x, x, row.bfloat16()), "gate: expected float32 on the CPU"),
        (lambda: ops.squared_relu(x.transpose(0, 1)), "x: expected a contiguous tensor"),
        (
            lambda: ops.normed_heads(draw(1, 2, 3, 2, 12), draw(12), draw(12), 1e-6),
            "qkv: expected heads as wide as a multiple of 8, got 12",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            call()
