"""The noise schedule and the DDIM step equal diffusers' schedulers on the goldens."""

import math

import numpy as np
import pytest
import torch

from microdreamer.guidance.schedule import NoiseSchedule


@pytest.fixture(scope="module")
def golden(parity):
    return np.load(parity("priors/schedules.npz"))


@pytest.fixture(scope="module")
def schedule() -> NoiseSchedule:
    return NoiseSchedule.scaled_linear()


def close(actual: torch.Tensor, expected: np.ndarray, tolerance: float = 1e-6) -> None:
    """Largest difference relative to the largest value: diffusers keeps float32 alphas (2.4e-7 measured for single steps)."""
    assert float((actual - torch.as_tensor(expected)).abs().max()) <= tolerance * float(np.abs(expected).max())


def test_alphas_equal_the_goldens(golden, schedule):
    np.testing.assert_allclose(schedule.alphas_cumprod, golden["alphas_cumprod_original_float64"], rtol=1e-12)
    np.testing.assert_allclose(schedule.alphas_cumprod, golden["alphas_cumprod"], rtol=1e-6)
    np.testing.assert_allclose(1 - schedule.alphas_cumprod[1:] / schedule.alphas_cumprod[:-1], golden["betas"][1:], rtol=1e-5)
    assert schedule.alpha(-1) == schedule.alpha(-49) == pytest.approx(float(golden["final_alpha_cumprod"]), rel=1e-7)


@pytest.mark.parametrize("steps", [10, 20, 30, 50])
def test_leading_levels_equal_the_goldens(golden, schedule, steps):
    assert schedule.levels(steps) == golden[f"inverse_timesteps.{steps}"].tolist()
    assert schedule.levels(steps)[::-1] == golden[f"timesteps.{steps}"].tolist()


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_step_equals_the_goldens(golden, schedule, eta):
    sample, noise, fresh = (torch.as_tensor(golden[f"step.{name}"]) for name in ("sample", "eps", "noise"))
    for i, t in enumerate(golden["step.t"].tolist()):
        close(schedule.predict_x0(sample, noise, t), golden["step.pred_original_sample"][i])
        assert schedule.sigma(t, t - 50, eta) == pytest.approx(float(golden[f"step.eta{eta}.sigma"][i]), abs=1e-6)
        close(schedule.step(sample, noise, t, t - 50, eta, fresh), golden[f"step.eta{eta}.prev_sample"][i])


def test_inversion_step_and_noising_equal_the_goldens(golden, schedule):
    sample, noise, x0 = (torch.as_tensor(golden[f"step.{name}"]) for name in ("sample", "eps", "x0"))
    fresh = torch.as_tensor(golden["step.noise"])
    for i, t in enumerate(golden["inverse.to_t"].tolist()):
        close(schedule.step(sample, noise, t - 50, t), golden["inverse.next_sample"][i])
        close(schedule.predict_x0(sample, noise, t - 50), golden["inverse.pred_original_sample"][i])
    for i, t in enumerate(golden["add_noise.t"].tolist()):
        close(schedule.add_noise(x0, fresh, t), golden["add_noise.out"][i])


def test_steps_there_and_back_are_exact_for_the_same_noise(schedule):
    sample, noise = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    up = schedule.step(sample, noise, 101, 701)
    torch.testing.assert_close(schedule.step(up, noise, 701, 101), sample, rtol=1e-12, atol=1e-12)


def test_shifted_cosine_has_the_stated_log_snr():
    schedule = NoiseSchedule.shifted_cosine(log_snr_shift=-4.0, min_log_snr=-14.0, max_log_snr=6.0)  # ends 10 either side of -4
    middle = schedule.log_snr(499), schedule.log_snr(500)
    assert sum(middle) / 2 == pytest.approx(-4.0, abs=1e-9)  # half of all levels lie where shape is decided
    assert schedule.log_snr(999) == pytest.approx(-14.0, abs=1e-9)
    assert schedule.log_snr(0) == pytest.approx(6.0, abs=1e-9)
    assert schedule.log_snr(-1) == math.inf
    places = [math.atan(math.exp((-4 - schedule.log_snr(t)) / 2)) for t in (0, 1, 998, 999)]
    assert places[1] - places[0] == pytest.approx(places[3] - places[2], rel=1e-6)  # even in s
    assert schedule.levels(20)[0] == 49 and schedule.levels(20)[-1] == 999
    assert schedule.levels(30)[-1] == 999 and len(set(schedule.levels(30))) == 30


def test_wrong_arguments_are_refused(schedule):
    x = torch.zeros(1)
    with pytest.raises(ValueError, match="expected 1 to 999"):
        schedule.levels(0)
    with pytest.raises(ValueError, match="levels 0 to 999"):
        schedule.alpha(1000)
    with pytest.raises(ValueError, match=r"eta=1\.5"):
        schedule.step(x, x, 901, 851, 1.5)
    with pytest.raises(ValueError, match="fresh_noise"):
        schedule.step(x, x, 901, 851, 1.0)
    with pytest.raises(ValueError, match="inversion is deterministic"):
        schedule.step(x, x, 851, 901, 1.0, x)
    with pytest.raises(ValueError, match="spacing"):
        NoiseSchedule(torch.tensor([0.9, 0.5]), 1.0, "random")
    with pytest.raises(ValueError, match="alphas_cumprod"):
        NoiseSchedule(torch.tensor([0.5, 0.9]), 1.0)
    with pytest.raises(ValueError, match="final_alpha"):
        NoiseSchedule(torch.tensor([0.9, 0.5]), 0.0)
