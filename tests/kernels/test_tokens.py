"""Fused work on tokens: the twins' numbers in every type, gradients, and what is refused."""

import pytest
import torch
from conftest import DEVICES, relative_l2

from microdreamer.kernels import extension
from microdreamer.kernels.tokens import (
    add_bias,
    add_bias_reference,
    add_layer_norm,
    add_layer_norm_reference,
    gated_gelu,
    gated_gelu_reference,
    layer_norm,
    layer_norm_reference,
)

pytestmark = pytest.mark.skipif(not extension.load(), reason="the extension is not built")
TOLERANCE = {torch.float32: 1e-6, torch.float16: 6e-4, torch.bfloat16: 5e-3}  # rounding of the type, over values of about 1
SHAPES = [(2, 5, 32), (1, 77, 320), (3, 9, 1280)]


def tensors(shape, device="cpu", dtype=torch.float32):
    """x and residual [N,P,C], weight and bias [C], offset [N,C]."""
    generator = torch.Generator().manual_seed(sum(shape))
    shapes = (shape, shape, shape[-1:], shape[-1:], (shape[0], shape[-1]))
    return [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_ops_equal_their_twins_in_double(device, dtype, shape):
    x, residual, weight, bias, offset = tensors(shape, device, dtype)
    exact = [tensor.double() for tensor in (x, residual, weight, bias, offset)]
    cases = [
        (add_bias(x, bias), add_bias_reference(exact[0], exact[3])),
        (add_bias(x, bias, residual), add_bias_reference(exact[0], exact[3], exact[1])),
        (gated_gelu(x), gated_gelu_reference(exact[0])),
        (gated_gelu(x, residual), gated_gelu_reference(exact[0], exact[1])),
        (layer_norm(x, weight, bias), layer_norm_reference(exact[0], exact[2], exact[3], 1e-5)),
    ]
    for added, exact_added in ((None, None), (offset, exact[4])):
        ours = add_layer_norm(x, residual, weight, bias, 1e-5, added)
        theirs = add_layer_norm_reference(exact[0], exact[1], exact_added, exact[2], exact[3], 1e-5)
        cases += list(zip(ours, theirs, strict=True))
    for actual, expected in cases:
        assert actual.dtype == dtype and actual.shape == expected.shape
        assert relative_l2(actual.double(), expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("device", DEVICES)
def test_offsets_may_be_parts_of_longer_rows(device):
    x, residual, weight, bias, offset = tensors((2, 3, 32), device)
    part = torch.cat([offset + 1, offset, offset - 1], dim=1)[:, 32:64]
    assert not part.is_contiguous()
    for ours, theirs in zip(
        add_layer_norm(x, residual, weight, bias, 1e-5, part), add_layer_norm(x, residual, weight, bias, 1e-5, offset), strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("device", DEVICES)
def test_layer_norm_of_a_large_mean_keeps_its_digits(device):
    x, residual, weight, bias, _ = tensors((2, 5, 64), device)
    x = x + 1000
    exact = add_layer_norm_reference(*(tensor.double() for tensor in (x, residual)), None, weight.double(), bias.double(), 1e-5)
    assert relative_l2(add_layer_norm(x, residual, weight, bias)[1].double(), exact[1]) < 1e-4


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_are_those_of_the_twins(device):
    for op, twin, arguments in (
        (add_bias, add_bias_reference, lambda x, residual, weight, bias, offset: (x, bias, residual)),
        (gated_gelu, gated_gelu_reference, lambda x, residual, weight, bias, offset: (x,)),
        (gated_gelu, gated_gelu_reference, lambda x, residual, weight, bias, offset: (x, residual)),
        (layer_norm, lambda *tensors: layer_norm_reference(*tensors, 1e-5), lambda x, residual, weight, bias, offset: (x, weight, bias)),
        (
            lambda x, residual, offset, weight, bias: add_layer_norm(x, residual, weight, bias, 1e-5, offset),
            lambda *tensors: add_layer_norm_reference(*tensors, 1e-5),
            lambda x, residual, weight, bias, offset: (x, residual, offset, weight, bias),
        ),
    ):
        found = []
        for function in (op, twin):
            inputs = [tensor.requires_grad_() for tensor in arguments(*tensors((2, 3, 32), device))]
            outputs = function(*inputs)
            last = outputs if isinstance(outputs, torch.Tensor) else outputs[1]  # the sum goes unused
            mix = torch.randn(last.shape, generator=torch.Generator().manual_seed(0)).to(device)
            found.append(torch.autograd.grad((last * mix).sum(), inputs))
        for ours, theirs in zip(*found, strict=True):
            assert relative_l2(ours, theirs) < 1e-5


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    x, residual, weight, bias, offset = tensors((2, 3, 32), device)
    gated_gelu(x)  # registers
    ops = torch.ops.microdreamer
    for wants_gradient in (False, True):
        x.requires_grad_(wants_gradient)
        torch.library.opcheck(ops.add_bias.default, (x, bias, residual))
        torch.library.opcheck(ops.gated_gelu.default, (x,))
        torch.library.opcheck(ops.gated_gelu.default, (x, residual))
        torch.library.opcheck(ops.layer_norm.default, (x, weight, bias, 1e-5))
        torch.library.opcheck(ops.add_layer_norm.default, (x, residual, offset, weight, bias, 1e-5))


@pytest.mark.parametrize("device", DEVICES)
def test_wrong_arguments_are_named(device):
    x, residual, weight, bias, offset = tensors((2, 3, 32), device)
    for message, call in (
        ("x: expected float32, float16 or bfloat16", lambda: gated_gelu(x.double())),
        ("x: expected a multiple of 2 channels, got 31", lambda: gated_gelu(x[..., :31].contiguous())),
        ("x: expected shape", lambda: add_bias(x[0], bias)),
        ("beside: expected shape", lambda: gated_gelu(x, residual[:1])),
        ("bias: expected shape", lambda: add_bias(x, bias[:-1])),
        ("residual: expected shape", lambda: add_bias(x, bias, residual[:, :2].contiguous())),
        ("residual: expected a contiguous tensor", lambda: add_bias(x, bias, residual.transpose(0, 1).contiguous().transpose(0, 1))),
        ("weight: expected", lambda: add_layer_norm(x, residual, weight.half(), bias)),
        ("offset: expected shape", lambda: add_layer_norm(x, residual, weight, bias, 1e-5, offset[:1])),
        ("eps: expected more than 0", lambda: add_layer_norm(x, residual, weight, bias, 0.0)),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("device", DEVICES)
def test_nothing_is_nothing(device):
    x, residual, weight, bias, _ = tensors((2, 3, 32), device)
    empty = x[:, :0].contiguous()
    assert add_bias(empty, bias).shape == (2, 0, 32) and gated_gelu(empty).shape == (2, 0, 16)
    assert add_layer_norm(empty, residual[:, :0].contiguous(), weight, bias)[1].shape == (2, 0, 32)


@pytest.mark.parametrize("device", DEVICES)
def test_a_gated_gelu_with_tokens_beside_it_takes_two_maps_and_a_bias_in_one_product(device):
    x, beside, *_ = tensors((2, 3, 32), device)
    generator = torch.Generator().manual_seed(7)
    first, second, bias = (torch.randn(shape, generator=generator).to(device) for shape in ((24, 16), (24, 32), (24,)))
    merged = torch.cat([first, second, bias[:, None], torch.randn(24, 7, generator=generator).to(device)], dim=1)
    expected = gated_gelu(x) @ first.t() + beside @ second.t() + bias
    assert relative_l2(gated_gelu(x, beside) @ merged.t(), expected) < 1e-6
