"""The fused perceptron against its plain-PyTorch twin, float64 gradients, and at the edges of its input."""

import pytest
import torch
from conftest import DEVICES, relative_l2

from microdreamer.core.cuda_graphs import capture, warm_up
from microdreamer.fields.perceptron import Perceptron, ask_together
from microdreamer.kernels import extension
from microdreamer.kernels.perceptron import perceptron, perceptron_reference

# On a GPU factors are rounded to 8 bits: a sum of products is off by some thousandths of its terms.
TOLERANCE = {"cpu": 1e-5, "cuda": 1e-2}
# rows, inputs, hidden units, outputs: the field's two networks and its density, odd ones, and more than one slab of hidden units
SIZES = [(1000, 32, 128, 4), (53, 32, 64, 1), (1, 16, 20, 3), (300, 48, 200, 8), (15, 32, 5, 1)]


def need_compiled(device):
    if not extension.available(device):
        pytest.skip(f"no compiled {device} kernels")


def random_case(rows, inputs, hidden, outputs, device="cpu", dtype=torch.float32, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x, first, second, weight = (
        torch.randn(*shape, generator=draw, dtype=torch.float64)
        for shape in ((rows, inputs), (hidden, inputs), (outputs, hidden), (rows, outputs))
    )
    tensors = (x, first / inputs**0.5, second / hidden**0.5, weight)
    return [tensor.bfloat16().to(device, dtype).requires_grad_() for tensor in tensors]  # no rounding of the input is left to the kernel


def results(x, first, second, weight, compiled):
    out = perceptron(x, first, second, compiled=compiled)
    return out, *torch.autograd.grad((out * weight.detach()).sum(), [x, first, second])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("size", SIZES)
def test_op_matches_float64(size, half, device):
    need_compiled(device)
    x, *rest = random_case(*size, device=device)
    x = x.detach().to(torch.bfloat16 if half else torch.float32).requires_grad_()
    found = results(x, *rest, compiled=True)
    expected = results(*random_case(*size, device=device, dtype=torch.float64), compiled=False)
    assert [tensor.dtype for tensor in found] == [torch.float32, x.dtype, torch.float32, torch.float32]
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert relative_l2(one.detach().double(), other.detach()) < (1e-2 if half else TOLERANCE[device])


def test_gradcheck_of_the_reference():
    x, first, second, _ = random_case(5, 4, 6, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(perceptron_reference, (x, first, second))


@pytest.mark.parametrize("device", DEVICES)
def test_rows_are_independent(device):
    """Any part of the rows gives the rows of the whole, and rows that nothing comes back to leave no gradient."""
    need_compiled(device)
    x, first, second, weight = random_case(1000, 32, 128, 4, device=device)
    whole, v_x, *of_weights = results(x, first, second, weight, True)
    part = results(x[100:333].detach().requires_grad_(), first, second, weight[100:333], True)
    torch.testing.assert_close(part[0], whole[100:333], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(part[1], v_x[100:333], rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        masked = weight.clone()
        masked[:100], masked[333:] = 0, 0
    found = results(x, first, second, masked, True)
    assert not found[1][:100].any() and not found[1][333:].any()
    for one, other in zip(found[2:], part[2:], strict=True):
        assert relative_l2(one, other) < 1e-4
    for one, other in zip(results(x, first, second, weight, True)[2:], of_weights, strict=True):
        assert torch.equal(one, other)  # sums in an order that does not change


@pytest.mark.parametrize("device", DEVICES)
def test_no_rows(device):
    need_compiled(device)
    out, v_x, v_first, v_second = results(*random_case(0, 32, 64, 4, device=device), compiled=True)
    assert out.shape == (0, 4) and v_x.shape == (0, 32) and not v_first.any() and not v_second.any()


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_no_number_stays_none(device):
    need_compiled(device)
    x, first, second, _ = (tensor.detach() for tensor in random_case(40, 32, 64, 2, device=device))
    x[7, 3] = float("nan")
    out = perceptron(x, first, second, compiled=True)
    assert out[7].isnan().all() and out[torch.arange(40, device=device) != 7].isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
def test_registration(device):
    need_compiled(device)
    x, first, second, _ = random_case(20, 32, 64, 4, device=device)
    perceptron(x, first, second, compiled=True)  # attaches the fake kernels and autograd
    torch.library.opcheck(torch.ops.microdreamer.perceptron.default, (x, first, second))


@pytest.mark.parametrize("device", DEVICES)
def test_second_derivative_is_refused(device):
    need_compiled(device)
    x, first, second, _ = random_case(20, 32, 64, 1, device=device)
    (v_x,) = torch.autograd.grad(perceptron(x, first, second, compiled=True).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="has no second derivative; pass compiled=False"):
        v_x.square().sum().backward()


@pytest.mark.gpu
def test_whole_step_captures_as_a_graph():
    need_compiled("cuda")
    case = random_case(5000, 32, 128, 4, device="cuda")
    eager = warm_up(lambda: results(*case, compiled=True), "cuda")
    graph, captured = capture(lambda: results(*case, compiled=True), "cuda")
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(captured, eager, strict=True))


@pytest.mark.parametrize("device", DEVICES)
def test_networks_asked_together_say_what_each_says(device):
    networks = [Perceptron((32, 64, outputs), torch.Generator().manual_seed(outputs)).to(device) for outputs in (1, 3)]
    features = random_case(100, 32, 1, 1, device=device)[0]
    parameters = [parameter for network in networks for parameter in network.parameters()]
    with torch.no_grad():  # what is rounded already is not near zero on one side and at it on the other
        for parameter in parameters:
            parameter.copy_(parameter.bfloat16())

    def outcome(ask):
        answers = ask()
        return *answers, *torch.autograd.grad(sum(answer.float().square().sum() for answer in answers), [features, *parameters])

    apart = outcome(lambda: [network(features) for network in networks])
    assert all(torch.equal(one, other) for one, other in zip(outcome(lambda: ask_together(networks, features)), apart, strict=True))
    with torch.autocast(device, torch.bfloat16):
        together = outcome(lambda: ask_together(networks, features))
    for one, other in zip(together, apart, strict=True):
        assert one.shape == other.shape and relative_l2(one.float().detach(), other.detach()) < 2e-2


def test_wrong_input_is_told():
    x, first, second, _ = random_case(4, 16, 8, 2)
    with pytest.raises(ValueError, match=r"expected shapes \[N,I\], \[H,I\], \[O,H\], got \[4, 16\], \[2, 8\], \[8, 16\]"):
        perceptron(x, second, first)
    need_compiled("cpu")
    with pytest.raises(ValueError, match="x: expected float32 or bfloat16"):
        torch.ops.microdreamer.perceptron(x.double(), first, second)


@pytest.mark.gpu
def test_the_kernel_says_what_it_takes():
    need_compiled("cuda")
    x, first, second, _ = random_case(4, 20, 8, 2, device="cuda")
    with pytest.raises(ValueError, match="expected a multiple of 16 inputs, at most 48, got 20"):
        perceptron(x, first, second, compiled=True)
    torch.testing.assert_close(perceptron(x, first, second), perceptron_reference(x, first, second))  # where it does not fit, plain PyTorch
