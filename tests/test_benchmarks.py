"""The benchmarks: what is timed, how it is summed up and named, and that rasterisers are compared on equal terms."""

import json
import time

import pytest
import torch
from conftest import DEVICES

from benchmarks import gaussian_raster
from benchmarks.timing import Timing, captured, describe, environment, time_calls, write_json


@pytest.mark.parametrize("device", DEVICES)
def test_a_call_is_timed_after_the_warm_up(device):
    x = torch.rand(64, 64, device=device)
    calls = []
    timing = time_calls(lambda: calls.append(x @ x), device, repeats=5, warm_up=2)
    assert len(calls) == 7 and len(timing.durations) == 5
    assert 0 < timing.least <= timing.p10 <= timing.median <= timing.p90 <= timing.most


def test_slow_first_calls_do_not_count():
    waits = [0.05, 0.0, 0.0, 0.0]
    timing = time_calls(lambda: time.sleep(waits.pop(0)), "cpu", repeats=3, warm_up=1)
    assert timing.most < 50 and not waits


def test_durations_are_in_milliseconds():
    assert 20 <= time_calls(lambda: time.sleep(0.02), "cpu", repeats=1, warm_up=0).median < 200


def test_summary_of_known_durations():
    row = Timing(tuple(float(value) for value in range(1, 101))).as_row()
    assert row == {"median_ms": 50.5, "least_ms": 1.0, "p10_ms": 11.0, "p90_ms": 91.0, "most_ms": 100.0, "repeats": 100}


def test_no_repeats_is_an_error():
    with pytest.raises(ValueError, match="repeats: expected 1 or more, got 0"):
        time_calls(lambda: None, "cpu", repeats=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_a_captured_call_does_the_same_work_again():
    x = torch.zeros(3, device="cuda")
    replay = captured(lambda: x.add_(1), warm_up=2)  # capturing itself runs nothing
    replay()
    replay()
    assert x.tolist() == [4.0, 4.0, 4.0]


def test_environment_names_versions_and_missing_peers():
    found = environment("cpu", "numpy", "no-such-package-of-ours")
    assert found["torch"] == torch.__version__ and found["no-such-package-of-ours"] == "not installed" and found["numpy"][0].isdigit()
    assert "threads" in found["device"] and len(found["date"]) == 10
    assert torch.__version__ in describe(found) and found["command"] in describe(found)


def test_json_is_written_only_where_asked_for(tmp_path):
    write_json(None, {"a": 1})
    write_json(tmp_path / "folder" / "out.json", {"a": 1})
    assert json.loads((tmp_path / "folder" / "out.json").read_text()) == {"a": 1}


def test_rasterisers_are_compared_parameter_by_parameter():
    leaves, cameras = gaussian_raster.ball_of_gaussians(60, "cpu"), gaussian_raster.ring(2, 32, "cpu")
    weight = torch.randn(2, 3, 32, 32)
    step, half = (gaussian_raster.our_step(leaves, cameras, scale * weight) for scale in (1.0, 0.5))
    found = gaussian_raster.difference(step, half, leaves)
    assert found["image"] == 0 and set(found["gradients"]) == set(leaves)
    for compared in found["gradients"].values():
        assert compared == pytest.approx({"relative_l2": 1.0, "norm_ratio": 2.0}, rel=1e-5)
    assert gaussian_raster.worst_gradient(found) == pytest.approx(1.0, rel=1e-5)


def test_compared_gradients_are_of_quaternions_of_any_length():
    leaves, cameras = gaussian_raster.ball_of_gaussians(60, "cpu"), gaussian_raster.ring(2, 32, "cpu")
    leaves["rotations"] = (3 * leaves["rotations"]).detach().requires_grad_()
    gaussian_raster.our_step(leaves, cameras, torch.randn(2, 3, 32, 32))()
    rotations, gradient = leaves["rotations"].detach(), leaves["rotations"].grad
    along = (rotations * gradient).sum(1) / rotations.norm(dim=1)  # lengthening a quaternion changes nothing
    assert float(gradient.norm()) > 0 and float(along.norm()) < 1e-5 * float(gradient.norm())
