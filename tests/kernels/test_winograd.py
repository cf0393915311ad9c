"""Winograd convolutions: what PyTorch's convolutions give, with norms, offsets, residuals and enlarged pictures; and the twins."""

import pytest
import torch
import torch.nn.functional as F
from conftest import DEVICES, relative_l2

from microdreamer.kernels import extension
from microdreamer.kernels.group_norm import group_moments
from microdreamer.kernels.winograd import (
    Norm,
    transform_weights,
    winograd_input,
    winograd_input_reference,
    winograd_output,
    winograd_output_reference,
)

pytestmark = pytest.mark.skipif(not extension.load(), reason="the extension is not built")
TOLERANCE = {torch.float32: 3e-6, torch.float16: 1.5e-3, torch.bfloat16: 1.2e-2}  # rounding of planes and products
SIZES = [(2, 4, 4, 32, 64), (1, 32, 32, 64, 40), (3, 6, 10, 40, 32), (2, 2, 36, 72, 32)]  # samples, height, width, channels in, out


def tensors(size, device="cpu", dtype=torch.float32):
    """Tokens [N,P,C], weight [O,C,3,3] of a convolution, its offset [N,O], residual [N,P,O], weight and bias [C] of a norm before it."""
    samples, height, width, channels, outputs = size
    generator = torch.Generator().manual_seed(sum(size))
    shapes = (
        (samples, height * width, channels),
        (outputs, channels, 3, 3),
        (samples, outputs),
        (samples, height * width, outputs),
        (channels,),
        (channels,),
    )
    x, weight, *rest = (torch.randn(shape, generator=generator) for shape in shapes)
    return [tensor.to(device, dtype) for tensor in (x + 0.3, weight / (3 * channels**0.5), *rest)]


def pictures(tokens, height):
    return tokens.unflatten(1, (height, -1)).permute(0, 3, 1, 2)


def tokens_of(pictures):
    return pictures.flatten(2).transpose(1, 2).contiguous()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", SIZES)
def test_norm_convolution_offset_and_residual_are_pytorchs(device, dtype, size):
    x, weight, offset, residual, scale, shift = tensors(size, device, dtype)
    samples, height = size[:2]
    exact = [tensor.double() for tensor in (x, weight, offset, residual, scale, shift)]
    normed = F.silu(F.group_norm(pictures(exact[0], height), 4, exact[4], exact[5], 1e-5))
    expected = F.conv2d(normed, exact[1], padding=1) + exact[2][:, :, None, None] + pictures(exact[3], height)
    planes = winograd_input(x, height, Norm(group_moments(x, 4), scale, shift, 1e-5, True))
    assert planes.dtype == dtype and planes.shape == (16, x.shape[0] * x.shape[1] // 4, x.shape[2])
    out, moments = winograd_output(planes @ transform_weights(weight), samples, height, offset, residual, 8)
    assert out.dtype == dtype and out.is_contiguous()
    assert relative_l2(out.double(), tokens_of(expected)) < TOLERANCE[dtype]
    assert moments.shape == group_moments(out, 8).shape
    assert moments_agree(moments, group_moments(out, 8))


def whole(moments):
    """Number, mean and variance [N,groups] of all slices."""
    count, mean, spread = moments.double().unbind(-1)
    all_means = (count * mean).sum(1) / count.sum(1)
    return count.sum(1), all_means, (spread + count * (mean - all_means[:, None]).square()).sum(1) / count.sum(1)


def moments_agree(ours, theirs):
    return all(relative_l2(a, b) < 1e-5 for a, b in zip(whole(ours), whole(theirs), strict=True))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", SIZES)
def test_of_an_enlarged_picture_nine_places_are_enough(device, dtype, size):
    x, weight, offset, *_ = tensors(size, device, dtype)
    samples, height = size[:2]
    large = F.interpolate(pictures(x.double(), height), scale_factor=2, mode="nearest")
    expected = F.conv2d(large, weight.double(), padding=1) + offset[0, :, None, None].double()
    planes = winograd_input(x, height, enlarged=True)
    assert planes.shape == (9, x.shape[0] * x.shape[1], x.shape[2])
    out, moments = winograd_output(planes @ transform_weights(weight, enlarged=True), samples, 2 * height, offset[:1])
    assert relative_l2(out.double(), tokens_of(expected)) < TOLERANCE[dtype]
    assert moments.shape[2] == 0


def test_of_an_enlarged_picture_the_other_places_are_nothing():
    x, *_ = tensors((2, 4, 6, 8, 8))
    large = tokens_of(F.interpolate(pictures(x, 4), scale_factor=2, mode="nearest"))
    planes = winograd_input(large, 8).unflatten(0, (4, 4))
    assert planes[2].abs().max() == planes[:, 2].abs().max() == 0
    assert torch.equal(planes[[0, 1, 3]][:, [0, 1, 3]].flatten(0, 1), winograd_input(x, 4, enlarged=True))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", SIZES)
def test_ops_equal_their_twins_in_double(device, size):
    x, weight, offset, residual, scale, shift = tensors(size, device)
    samples, height = size[:2]
    moments = group_moments(x, 4)
    exact = [tensor.double() for tensor in (x, moments, scale, shift)]
    planes = winograd_input(x, height, Norm(moments, scale, shift, 1e-5, True))
    assert relative_l2(planes.double(), winograd_input_reference(exact[0], height, False, *exact[1:], 1e-5, True)) < 1e-6
    products = planes @ transform_weights(weight)
    ours = winograd_output(products, samples, height, offset, residual, 4)
    theirs = winograd_output_reference(*(t if isinstance(t, int) else t.double() for t in (products, samples, height, offset, residual, 4)))
    assert relative_l2(ours[0].double(), theirs[0]) < 1e-6 and moments_agree(ours[1], theirs[1])


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_are_those_of_the_convolution(device):
    found = []
    for winograd in (True, False):
        x, weight, offset, residual, scale, shift = inputs = [tensor.requires_grad_() for tensor in tensors((2, 4, 6, 16, 8), device)]
        if winograd:
            planes = winograd_input(x, 4, Norm(group_moments(x, 4), scale, shift, 1e-5, True))
            out = winograd_output(planes @ transform_weights(weight), 2, 4, offset, residual, 2)[0]
        else:
            normed = F.silu(F.group_norm(pictures(x, 4), 4, scale, shift, 1e-5))
            out = tokens_of(F.conv2d(normed, weight, padding=1)) + offset[:, None] + residual
        mix = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(device)
        found.append(torch.autograd.grad((out * mix).sum(), inputs))
    for ours, theirs in zip(*found, strict=True):
        assert relative_l2(ours, theirs) < 1e-5


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    x, _, offset, residual, scale, shift = tensors((2, 4, 6, 16, 16), device)
    planes = winograd_input(x, 4)  # registers
    moments = group_moments(x, 4)
    ops = torch.ops.microdreamer
    for wants_gradient in (False, True):
        x.requires_grad_(wants_gradient)
        planes = planes.detach().requires_grad_(wants_gradient)
        torch.library.opcheck(ops.winograd_input.default, (x, 4, False, moments, scale, shift, 1e-5, True))
        torch.library.opcheck(ops.winograd_input.default, (x, 4, True))
        torch.library.opcheck(ops.winograd_output.default, (planes, 2, 4, offset, residual, 4))
        torch.library.opcheck(ops.winograd_output.default, (planes[:9].detach().contiguous(), 2, 4, offset))


@pytest.mark.parametrize("device", DEVICES)
def test_wrong_arguments_are_named(device):
    x, _, offset, residual, scale, shift = tensors((2, 4, 6, 16, 16), device)
    planes, moments = winograd_input(x, 4), group_moments(x, 4)
    for message, call in (
        ("x: expected float32, float16 or bfloat16", lambda: winograd_input(x.double(), 4)),
        ("height: expected a divisor of the 24 pixels, got 5", lambda: winograd_input(x, 5)),
        ("x: expected an even number of rows and columns, got 8x3", lambda: winograd_input(x, 8)),
        ("moments: expected shape", lambda: winograd_input(x, 4, Norm(moments[:, :1].contiguous(), scale, shift, 1e-5, True))),
        ("weight: expected shape", lambda: winograd_input(x, 4, Norm(moments, scale[:8], shift, 1e-5, True))),
        ("bias: expected", lambda: winograd_input(x, 4, Norm(moments, scale, shift.half(), 1e-5, True))),
        ("moments: a picture that is enlarged", lambda: winograd_input(x, 4, Norm(moments, scale, shift, 1e-5, True), enlarged=True)),
        ("products: expected 16 planes, or 9, got 15", lambda: winograd_output(planes[:15].contiguous(), 2, 4, offset)),
        ("samples: expected a divisor of the 12 tiles, got 5", lambda: winograd_output(planes, 5, 4, offset)),
        ("height: expected an even number", lambda: winograd_output(planes, 2, 3, offset)),
        ("offset: expected 1 or 2 rows, got 3", lambda: winograd_output(planes, 2, 4, offset[:1].expand(3, -1))),
        ("residual: expected shape", lambda: winograd_output(planes, 2, 4, offset, residual[:1].contiguous())),
        ("groups: expected 0 or a divisor of the 16 channels, got 5", lambda: winograd_output(planes, 2, 4, offset, None, 5)),
    ):
        with pytest.raises(ValueError, match=message):
            call()
