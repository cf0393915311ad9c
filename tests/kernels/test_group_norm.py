"""Group normalisation of tokens: the twin's numbers in every type, gradients, and what is refused."""

import pytest
import torch
import torch.nn.functional as F
from conftest import DEVICES, relative_l2

from microdreamer.kernels import extension
from microdreamer.kernels.group_norm import (
    group_moments,
    group_moments_reference,
    group_norm,
    group_norm_reference,
    group_normalise,
    group_normalise_reference,
)

pytestmark = pytest.mark.skipif(not extension.load(), reason="the extension is not built")
TOLERANCE = {torch.float32: 2e-6, torch.float16: 6e-4, torch.bfloat16: 5e-3}  # rounding of the type, over values of about 1


def arguments(samples, pixels, channels, device, dtype=torch.float32, mean=0.5):
    generator = torch.Generator().manual_seed(samples * pixels + channels)
    x = torch.randn(samples, pixels, channels, generator=generator) * 2 + mean
    weight, bias = (torch.randn(channels, generator=generator) for _ in range(2))
    return [tensor.to(device, dtype) for tensor in (x, weight, bias)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize(
    "shape", [(2, 64, 320, 32), (12, 16, 1280, 32), (1, 3001, 32, 32), (3, 7, 960, 4), (2, 1, 2560, 32), (1, 3001, 320, 8), (2, 5, 48, 16)]
)
def test_compiled_equals_the_twin_in_float64(device, dtype, silu, shape):
    *sizes, groups = shape
    x, weight, bias = arguments(*sizes, device, dtype)
    expected = group_norm_reference(x.double(), weight.double(), bias.double(), groups, 1e-5, silu)
    out = group_norm(x, weight, bias, groups, 1e-5, silu)
    assert out.dtype == dtype and out.shape == x.shape and out.is_contiguous()
    assert relative_l2(out, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("rows", [1, 3])
def test_an_offset_counts_as_part_of_x(device, dtype, rows):
    x, weight, bias = arguments(3, 50, 64, device, dtype)
    offset = 3 * torch.randn(rows, 64, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    exact = [tensor.double() for tensor in (x, weight, bias)]
    expected = group_norm_reference(*exact, 8, 1e-5, True, offset.double())
    assert relative_l2(group_norm(x, weight, bias, 8, 1e-5, True, offset), expected) < TOLERANCE[dtype]
    part = torch.cat([offset - 1, offset], dim=1)[:, 64:]
    assert torch.equal(group_norm(x, weight, bias, 8, 1e-5, True, part), group_norm(x, weight, bias, 8, 1e-5, True, offset))
    assert relative_l2(group_norm_reference(*exact, 8, 1e-5, True), expected) > 0.1
    with pytest.raises(ValueError, match="offset: expected 1 or 3 rows, got 2"):
        group_norm(x, weight, bias, 8, 1e-5, True, torch.zeros_like(offset)[:1].repeat(2, 1))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(2, 64, 320, 32), (3, 7, 96, 4), (2, 1, 64, 32), (1, 3001, 64, 8)])
def test_moments_are_the_twins_and_normalise_like_the_norm(device, dtype, shape):
    *sizes, groups = shape
    x, weight, bias = arguments(*sizes, device, dtype, mean=5.0)
    moments = group_moments(x, groups)
    exact = group_moments_reference(x.double(), groups)
    assert moments.dtype == torch.float32 and torch.equal(moments[..., 0].double(), exact[..., 0])
    assert moments[..., 0].sum(1).eq(x[0].numel() // groups).all()
    for part in (1, 2):
        assert relative_l2(moments[..., part].double(), exact[..., part]) < 2e-6
    out = group_normalise(x, moments, weight, bias, 1e-5, True)
    exact = [tensor.double() for tensor in (x, weight, bias)]
    assert out.dtype == dtype and relative_l2(out, group_norm_reference(*exact, groups, 1e-5, True)) < 2 * TOLERANCE[dtype]
    assert relative_l2(group_normalise_reference(exact[0], moments.double(), *exact[1:], 1e-5, True), out) < 2 * TOLERANCE[dtype]


@pytest.mark.parametrize("device", DEVICES)
def test_a_large_mean_leaves_the_variance_its_digits(device):
    x, weight, bias = arguments(2, 4096, 64, device, mean=3000.0)
    expected = group_norm_reference(x.double(), weight.double(), bias.double(), 32)
    assert relative_l2(group_norm(x, weight, bias, 32), expected) < 2e-4  # x itself has only 2e-4 of its deviation left


@pytest.mark.parametrize("device", DEVICES)
def test_twice_the_same_bits_and_nothing_is_changed(device):
    x, weight, bias = arguments(2, 500, 640, device)
    before = x.clone()
    assert torch.equal(group_norm(x, weight, bias, 32), group_norm(x, weight, bias, 32))
    assert torch.equal(x, before)


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_are_those_of_pytorch(device):
    inputs = [tensor.requires_grad_() for tensor in arguments(2, 9, 32, device)]
    mix = torch.randn(2, 9, 32, device=device)
    ours = torch.autograd.grad((group_norm(*inputs, 8, 1e-5, True) * mix).sum(), inputs)
    theirs = torch.autograd.grad((F.silu(F.group_norm(inputs[0].transpose(1, 2), 8, *inputs[1:])).transpose(1, 2) * mix).sum(), inputs)
    for actual, expected in zip(ours, theirs, strict=True):
        assert relative_l2(actual, expected) < 1e-5
    only_x = torch.autograd.grad((group_norm(inputs[0], inputs[1].detach(), inputs[2].detach(), 8, 1e-5, True) * mix).sum(), inputs[0])[0]
    assert relative_l2(only_x, theirs[0]) < 1e-5


@pytest.mark.parametrize("device", DEVICES)
def test_a_shared_offset_gets_the_gradients_of_all_samples(device):
    x, weight, bias = arguments(3, 9, 32, device)
    mix, shared = torch.randn(3, 9, 32, device=device), torch.randn(1, 32, device=device)
    found = []
    for norm in (group_norm, group_norm_reference):
        offset = shared.clone().requires_grad_()
        found.append(torch.autograd.grad(norm(x, weight, bias, 8, 1e-5, True, offset), offset, mix)[0])
    assert relative_l2(*found) < 1e-5


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize(
    "shape", [(2, 64, 320, 32), (3, 16, 1280, 32), (1, 9001, 32, 32), (3, 7, 960, 4), (2, 1, 2560, 32), (1, 3001, 320, 8), (2, 5, 48, 16)]
)
def test_the_gradient_of_x_is_the_twin_s_in_float64(device, dtype, silu, shape):
    *sizes, groups = shape
    x, weight, bias = arguments(*sizes, device, dtype)
    generator = torch.Generator().manual_seed(1)
    offset, mix = (torch.randn(size, generator=generator).to(device, dtype) for size in ((len(x), sizes[2]), x.shape))

    def gradients(norm, x, weight, bias, offset, mix):
        x, offset = x.clone().requires_grad_(), offset.clone().requires_grad_()
        shifted = norm(x, weight, bias, groups, 1e-5, silu, offset)
        plain = norm(x, weight, bias, groups, 1e-5, silu)
        return *torch.autograd.grad(shifted, (x, offset), mix), *torch.autograd.grad(plain, x, mix)

    found = gradients(group_norm, x, weight, bias, offset, mix)
    expected = gradients(group_norm_reference, *(tensor.double() for tensor in (x, weight, bias, offset, mix)))
    for actual, wanted in zip(found, expected, strict=True):
        assert actual.dtype == dtype and actual.shape == wanted.shape
        # In sizes of x's gradient: that of the offset is a sum of it, which cancels where a group is one channel.
        assert float((actual.double() - wanted).norm() / expected[0].norm()) < 2 * TOLERANCE[dtype]
    assert torch.equal(gradients(group_norm, x, weight, bias, offset, mix)[0], found[0])


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    group_norm(*arguments(1, 2, 32, device), 8)  # registers
    x, weight, bias = arguments(2, 5, 32, device)
    torch.library.opcheck(torch.ops.microdreamer.group_norm.default, (x, weight, bias, 8, 1e-5, True))
    torch.library.opcheck(
        torch.ops.microdreamer.group_norm.default, (x.requires_grad_(), weight, bias, 8, 1e-5, False, x.detach()[:, 0].contiguous())
    )
    detached = x.detach(), weight, bias, 8, 1e-5, True
    torch.library.opcheck(torch.ops.microdreamer.group_norm_bwd.default, (torch.ones_like(weight).expand(2, 5, 32).contiguous(), *detached))
    torch.library.opcheck(torch.ops.microdreamer.group_moments.default, (x, 8))
    torch.library.opcheck(torch.ops.microdreamer.group_normalise.default, (x, group_moments(x.detach(), 8), weight, bias, 1e-5, True))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, w, b: (x.double(), w, b, 8), "x: expected float32, float16 or bfloat16"),
        (lambda x, w, b: (x[0], w, b, 8), "x: expected shape"),
        (lambda x, w, b: (x.transpose(0, 1), w, b, 8), "x: expected a contiguous tensor"),
        (lambda x, w, b: (x, w[:-1], b, 8), "weight: expected shape"),
        (lambda x, w, b: (x, w, b.half(), 8), "bias: expected"),
        (lambda x, w, b: (x, w, b, 5), "groups: expected a divisor of the 32 channels, got 5"),
        (lambda x, w, b: (x, w, b, 8, 0.0), "eps: expected more than 0"),
    ],
)
def test_wrong_arguments_are_named(device, change, message):
    with pytest.raises(ValueError, match=message):
        group_norm(*change(*arguments(2, 5, 32, device)))


@pytest.mark.parametrize("device", DEVICES)
def test_a_gradient_that_does_not_fit_is_named(device):
    x, weight, bias = arguments(2, 5, 32, device)
    group_norm(x, weight, bias, 8)  # registers
    for wrong, message in ((x[:1], "v_out: expected shape"), (x.half(), "v_out: expected"), (x.transpose(1, 2), "v_out: expected")):
        with pytest.raises(ValueError, match=message):
            torch.ops.microdreamer.group_norm_bwd(wrong, x, weight, bias, 8, 1e-5, True)


@pytest.mark.parametrize("device", DEVICES)
def test_nothing_is_nothing(device):
    x, weight, bias = arguments(2, 5, 32, device)
    for part in (x[:0], x[:, :0].contiguous()):
        assert torch.ops.microdreamer.group_norm_bwd(part, part, weight, bias, 8, 1e-5, True).shape == part.shape
    assert group_norm(x[:0], weight, bias, 8).shape == (0, 5, 32)
    assert group_moments(x[:0], 8).shape == (0, 1, 8, 3)
    assert group_norm(x[:, :0].contiguous(), weight, bias, 8).shape == (2, 0, 32)
