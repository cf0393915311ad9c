"""Replayed calls give what the function gives, for new inputs, inputs changed in place and other shapes."""

import re
import threading
from pathlib import Path

import pytest
import torch
from conftest import DEVICES

from microdreamer.core.cuda_graphs import (
    WARM_UPS,
    GraphedFunction,
    GraphedGradient,
    GraphedHalves,
    GraphedStep,
    capture,
    uncaptured,
    warm_up,
)


@pytest.mark.parametrize("device", DEVICES)
def test_replayed_calls_give_what_the_function_gives(device):
    calls = []

    def function(a, b):
        calls.append(a.shape)
        return (a @ b).relu() + 1

    graphed = GraphedFunction(function)
    b = torch.randn(4, 4, device=device)
    outputs = []
    for _ in range(4):
        a = torch.randn(3, 4, device=device)
        outputs.append((graphed(a, b), (a @ b).relu() + 1))
    b.mul_(2)  # the same tensor with other values
    a.neg_()
    outputs.append((graphed(a, b), (a @ b).relu() + 1))
    wide = torch.randn(5, 4, device=device)
    outputs.append((graphed(wide, b), (wide @ b).relu() + 1))
    for actual, expected in outputs:  # checked at the end: a replay must not change what earlier calls returned
        torch.testing.assert_close(actual, expected)
    assert len(calls) == (6 if device == "cpu" else WARM_UPS + 2)  # before and in the capture of one shape, and once with the other
    graphed.enabled = False
    before = len(calls)
    torch.testing.assert_close(graphed(a, b), (a @ b).relu() + 1)
    assert len(calls) == before + 1


@pytest.mark.parametrize("device", DEVICES)
def test_a_gradient_is_that_of_its_own_call_whatever_came_in_between(device):
    weight, calls = torch.randn(4, 4, device=device), []

    def function(x):
        calls.append(x.shape)
        return (x @ weight).sin().square()

    graphed = GraphedGradient(function)
    inputs = [torch.randn(size, 4, device=device) for size in (3, 3, 5, 3)]
    pulls = [torch.randn(len(x), 4, device=device) for x in inputs]
    outs = [graphed.forward(x) for x in inputs]
    order = [3, 0, 2, 1, 1]  # straight after its forward, after others of its shape and of another one, and twice
    found = [graphed.backward(inputs[k], pulls[k], outs[k][1]) for k in order]
    for k, gradient in zip(order, found, strict=True):  # at the end: a replay must not change what earlier calls returned
        x = inputs[k].clone().requires_grad_()
        expected = (x @ weight).sin().square()
        torch.testing.assert_close(outs[k][0], expected.detach())
        assert not outs[k][0].requires_grad
        torch.testing.assert_close(gradient, torch.autograd.grad(expected, x, pulls[k])[0])
    assert len(calls) == (9 if device == "cpu" else 2 * (WARM_UPS + 1))


@pytest.mark.parametrize("device", DEVICES)
def test_halves_of_a_step_are_the_step_whatever_is_between_them(device):
    def run(graphed):
        torch.manual_seed(0)
        weight = torch.randn(4, 4).to(device).requires_grad_()
        optimizer = torch.optim.Adam([weight], lr=0.1, capturable=device == "cuda")
        calls = []

        def first(x):
            calls.append(x.shape)
            y = (x @ weight).sin()
            return y, y

        def second(y, gradient):
            (y * gradient).sum().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return y.detach().mean()

        halves, seen = GraphedHalves(first, second, torch.device(device)), []
        halves.enabled &= graphed
        for step in range(9):
            x = torch.randn(5 if step in (2, 6, 7) else 3, 4).to(device)
            shown = halves.begin(x)
            gradient = shown.cos() + torch.randn(shown.shape).to(device)  # made of what was shown, and not captured
            seen += [shown, halves.end(gradient)]
            if step == 5:
                halves.reset()
        return [*seen, weight.detach()], len(calls)

    (found, calls), (expected, _) = run(True), run(False)
    for actual, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(actual, wanted)
    assert calls == (9 if device == "cpu" or not GraphedHalves(None, None, torch.device(device)).enabled else 7)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_capture_records_and_does_not_run():
    total, calls = torch.zeros((), device="cuda"), []

    def step():
        calls.append(1)
        return total.add_(1) * 10

    assert float(warm_up(step, "cuda", 3)) == 30
    graph, output = capture(step, "cuda")
    assert (float(total), len(calls)) == (3, 4)
    for expected in (40, 50):
        graph.replay()
        assert float(output) == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_another_thread_may_use_the_device_during_a_capture():
    x = torch.rand(1 << 16, device="cuda")
    found, begun, ended = [], threading.Event(), threading.Event()

    def elsewhere():
        begun.wait(60)
        try:
            found.append(float(torch.ones(1 << 24, device="cuda").sum()))  # new memory, and waits for the device
        finally:
            ended.set()

    def function():
        begun.set()
        ended.wait(60)
        return x.sin()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    x.sin()
    graph, output = capture(function, "cuda")
    thread.join()
    graph.replay()
    torch.testing.assert_close(output, x.sin())
    assert found == [1 << 24]


@pytest.mark.parametrize("device", DEVICES)
def test_within_uncaptured_every_call_is_the_function(device):
    calls, x = [], torch.randn(3, device=device)

    def double(a):
        calls.append(1)
        return 2 * a

    wrapped = GraphedFunction(double), GraphedStep(double, torch.device(device)), GraphedGradient(double)
    halves = GraphedHalves(lambda a: (a, double(a)), lambda held, v: (held * v).sum(), torch.device(device))
    with uncaptured():
        for round_ in range(WARM_UPS + 2):
            for function in wrapped[:2]:
                assert torch.equal(function(x), 2 * x)
            out, token = wrapped[2].forward(x)
            assert torch.equal(out, 2 * x) and torch.equal(wrapped[2].backward(x, x, token), 2 * x)
            assert torch.equal(halves.begin(x), 2 * x)
            torch.testing.assert_close(halves.end(x), (x * x).sum())
            assert len(calls) == 5 * (round_ + 1)  # the gradient calls it twice
    for _ in range(WARM_UPS + 2):
        assert torch.equal(wrapped[0](x), 2 * x)
    assert len(calls) == 5 * (WARM_UPS + 2) + (WARM_UPS + 2 if device == "cpu" else WARM_UPS + 1)


def test_there_is_one_way_to_capture():
    root = Path(__file__).resolve().parents[2]
    files = [path for folder in ("microdreamer", "benchmarks", "scripts", "tests") for path in (root / folder).rglob("*.py")]
    words = re.compile(r"CUDAGraph\(|cuda\.graph\(|make_graphed_callables")
    assert {path.name for path in files if words.search(path.read_text(encoding="utf-8"))} == {"cuda_graphs.py", "test_cuda_graphs.py"}


def test_steps_without_cuda_kernels_are_not_captured(monkeypatch):
    """Their twins wait for the device, which a capture cannot."""
    monkeypatch.setattr("microdreamer.kernels.extension.available", lambda device: torch.device(device).type == "cpu")
    assert not GraphedStep(lambda: torch.zeros(()), torch.device("cuda")).enabled


def test_steps_on_the_cpu_are_the_function():
    total = torch.zeros(())
    step = GraphedStep(total.add_, torch.device("cpu"))
    assert [float(step(torch.tensor(value))) for value in (1.0, 2.0, 4.0)] == [1, 3, 7]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["stable_zero123", "mvdream", "imagedream", "stable_diffusion"])
def test_half_precision_on_a_graphics_card_is_close_to_float32_on_the_cpu(tiny_checkpoint, name):
    from cam_utils import orbit_cameras
    from microdreamer.guidance import load_prior

    answers = []
    for device in ("cpu", "cuda"):
        prior = load_prior(name, str(tiny_checkpoint(name)), device)
        picture = torch.linspace(0, 1, 4 * 64 * 64).reshape(4, 64, 64) if "image" in prior.accepts else None
        condition = prior.condition(picture, "a red car" if "prompt" in prior.accepts else None)
        cameras = orbit_cameras(0, [0, 90, 180, 270], device=device)
        seeded = torch.Generator().manual_seed(0)
        latents, pictures = (torch.randn(shape, generator=seeded).to(device) for shape in (prior.latent_shape(4), (4, 3, 64, 64)))
        answers.append([prior.predict_noise(latents, t, cameras, condition, scale).cpu() for t in (900, 100) for scale in (None, 1.0, 3.0)])
        answers[-1].append(prior.decode(prior.encode(pictures)).cpu())
    for on_cpu, on_gpu in zip(*answers, strict=True):
        assert float((on_cpu - on_gpu).abs().max()) < 0.03 * float(on_cpu.abs().max())
