"""Adam on all tensors at once: PyTorch's numbers and state, rates that change, what is left alone, and what is refused."""

import copy
import subprocess
import sys

import pytest
import torch
from conftest import DEVICES, relative_l2

from microdreamer.core.cuda_graphs import capture
from microdreamer.kernels import extension
from microdreamer.kernels.adam import MAX_TENSORS, Adam

pytestmark = pytest.mark.skipif(not extension.load(), reason="the extension is not built")
SHAPES = [(3000, 3), (1,), (), (0, 3), (70001,)]  # of several blocks and threads, of one number, of none
MEANS = ("exp_avg", "exp_avg_sq")


def parameters(device="cpu", dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in SHAPES]


def groups(tensors, device):
    """A group a tensor, each with a rate tensor of its own, one with another eps."""
    made = [{"params": [tensor], "lr": torch.tensor(0.01 * (index + 1), device=device)} for index, tensor in enumerate(tensors)]
    made[0]["eps"] = 1e-3
    return made


def give_gradients(tensors, step):
    """From 1e-7 to 10, the same for every dtype; a third are zero."""
    generator = torch.Generator().manual_seed(step)
    for tensor in tensors:
        size = 10 ** (8 * torch.rand(tensor.shape, generator=generator) - 7)
        sign = torch.randint(-1, 2, tensor.shape, generator=generator)
        tensor.grad = (size * sign).to(tensor)


def assert_same(ours, theirs, tolerance):
    for actual, expected in zip(ours, theirs, strict=True):
        if actual.numel():
            assert relative_l2(actual.detach(), expected.detach()) < tolerance


@pytest.mark.parametrize("device", DEVICES)
def test_many_steps_are_those_of_pytorch_in_single_and_double(device):
    betas, eps = (0.8, 0.99), 1e-15
    ours, single, double = parameters(device), parameters(device), parameters(device, torch.float64)
    optimizers = [
        Adam(groups(ours, device), betas=betas, eps=eps),
        torch.optim.Adam(groups(single, device), betas=betas, eps=eps, fused=True, capturable=device == "cuda"),
        torch.optim.Adam(groups(double, "cpu"), betas=betas, eps=eps),
    ]
    for step in range(60):
        for tensors, optimizer in zip((ours, single, double), optimizers, strict=True):
            give_gradients(tensors, step)
            optimizer.param_groups[0]["lr"].fill_(0.1 / (1 + step))
            optimizer.step()
    assert_same(ours, double, 1e-6)
    assert_same(ours, single, 1e-6)
    for a, b in zip(ours, single, strict=True):
        mine, theirs = optimizers[0].state[a], optimizers[1].state[b]
        assert mine.keys() == theirs.keys() and float(mine["step"]) == float(theirs["step"]) == 60
        assert mine["step"].dtype == theirs["step"].dtype and mine["step"].device == theirs["step"].device
        assert_same([mine[key] for key in MEANS], [theirs[key] for key in MEANS], 1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_the_first_step_is_the_rate_and_the_thousandth_is_not_biased(device):
    """A constant gradient moves by the rate at every step, however far 1 - beta^step is from 1: to float32's seven digits."""
    tensor = torch.zeros(5, device=device, requires_grad=True)
    optimizer = Adam([tensor], lr=1.0, eps=0.0)
    for step in range(1, 1001):
        before = tensor.detach().clone()
        tensor.grad = torch.full_like(tensor, 1e-3)
        optimizer.step()
        torch.testing.assert_close(before - tensor.detach(), torch.ones_like(tensor), rtol=0, atol=1e-6 + 1.2e-7 * step)


@pytest.mark.parametrize("device", DEVICES)
def test_without_a_gradient_nothing_moves(device):
    tensors = parameters(device)
    optimizer = Adam(tensors)
    optimizer.step()
    assert not optimizer.state
    before = [tensor.detach().clone() for tensor in tensors]
    tensors[0].grad = torch.ones_like(tensors[0])
    optimizer.step()
    assert list(optimizer.state) == [tensors[0]] and not torch.equal(tensors[0], before[0])
    assert all(torch.equal(a, b) for a, b in zip(tensors[1:], before[1:], strict=True))


@pytest.mark.parametrize("device", DEVICES)
def test_state_goes_to_pytorch_and_back(device):
    """Ten steps, saved, ten more with PyTorch's: the same as twenty."""
    ours, theirs = parameters(device), parameters(device)
    straight, first = Adam(ours, lr=0.01), Adam(theirs, lr=0.01)
    resumed = torch.optim.Adam(theirs, lr=0.5, fused=True)
    for step in range(20):
        if step == 10:
            resumed.load_state_dict(copy.deepcopy(first.state_dict()))
        for tensors, optimizer in ((ours, straight), (theirs, first if step < 10 else resumed)):
            give_gradients(tensors, step)
            optimizer.step()
    assert_same(ours, theirs, 1e-6)
    back = Adam(ours, lr=0.5)
    back.load_state_dict(resumed.state_dict())
    assert back.param_groups[0]["lr"] == 0.01 and float(back.state[ours[0]]["step"]) == 20
    back.step()


def test_without_the_extension_pytorch_steps(monkeypatch):
    ours, theirs = parameters(), parameters()
    for tensors, available in ((ours, True), (theirs, False)):
        monkeypatch.setattr(extension, "available", lambda device, available=available: available)
        optimizer = Adam(tensors, lr=0.01)
        for step in range(5):
            give_gradients(tensors, step)
            optimizer.step()
    assert_same(ours, theirs, 1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_a_graph_that_needs_the_old_values_notices(device):
    tensor = torch.ones(3, device=device, requires_grad=True)
    loss = tensor.square().sum()
    tensor.grad = torch.ones_like(tensor)
    Adam([tensor]).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_captured_step_follows_rates_and_counts():
    plain, captured = parameters("cuda"), parameters("cuda")
    optimizers = [Adam(groups(tensors, "cuda")) for tensors in (plain, captured)]
    give_gradients(captured, 0)
    gradients = [tensor.grad for tensor in captured]
    for step in range(6):
        give_gradients(plain, step)
        for kept, tensor in zip(gradients, plain, strict=True):
            kept.copy_(tensor.grad)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"].fill_(0.1 / (1 + step))
        optimizers[0].step()
        if step == 0:
            optimizers[1].step()  # makes the state
            graph, _ = capture(optimizers[1].step, "cuda")
        else:
            graph.replay()
    for a, b in zip(plain, captured, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    tensors = [tensor.detach() for tensor in parameters(device)]
    count = len(tensors)

    def fresh():
        return [tensor.clone() for tensor in tensors]

    steps, rates = ([torch.full((), value, device=device) for _ in tensors] for value in (1.0, 0.1))
    squares = [tensor.square() for tensor in tensors]
    Adam([tensors[0].clone().requires_grad_()]).step()
    optimizer_arguments = (fresh(), fresh(), fresh(), squares, steps, rates, [1e-8] * count, 0.9, 0.999)
    torch.library.opcheck(torch.ops.microdreamer.adam_step.default, optimizer_arguments)


@pytest.mark.parametrize("device", DEVICES)
def test_wrong_arguments_are_named(device):
    def after_step(tensor, change=lambda state, group: None, count=1, **options):
        tensors = [tensor.clone().requires_grad_() for _ in range(count)]
        optimizer = Adam(tensors, **options)
        for own in tensors:
            own.grad = torch.ones_like(own)
        if count == 1:
            change(optimizer._state_of(tensors[0]), optimizer.param_groups[0])
        optimizer.step()

    ones = torch.ones(4, 3, device=device)
    for message, call in (
        (f"parameters: expected 1 to {MAX_TENSORS} tensors, got 17", lambda: after_step(ones, count=17)),
        ("parameters: expected Float, got Double", lambda: after_step(ones.double())),
        ("parameters: expected a contiguous tensor", lambda: after_step(ones.T)),
        ("means: expected shape", lambda: after_step(ones, lambda state, group: state.update(exp_avg=ones[:2].clone()))),
        ("mean_squares: expected shape", lambda: after_step(ones, lambda state, group: state.update(exp_avg_sq=ones[:2].clone()))),
        ("steps: expected shape", lambda: after_step(ones, lambda state, group: state.update(step=ones[0].clone()))),
        ("rates: expected shape", lambda: after_step(ones, lambda state, group: group.update(lr=ones[0]))),
        ("eps: expected 0 or more, got -1", lambda: after_step(ones, lambda state, group: group.update(eps=-1.0))),
        ("weight_decay: expected no options of a group but", lambda: Adam([{"params": [ones], "weight_decay": 0.1}])),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_an_optimiser_leaves_pytorch_s_compiler_unimported():
    code = """
import sys
import torch
from microdreamer.kernels.adam import Adam
leaf = torch.ones(3, requires_grad=True)
optimizer = Adam([{"params": [leaf]}])
leaf.square().sum().backward()
optimizer.step()
optimizer.zero_grad()
print(leaf.grad, sorted({"torch._dynamo", "sympy"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "None []\n", done.stderr
