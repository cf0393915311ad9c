"""The noise schedule and the DDIM step equal diffusers' schedulers on the goldens."""

import math

import numpy as np
import pytest
import torch

from microdreamer.guidance import load_prior
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


# ---- The published constants, from their formulas in float64: they hold in a clone that has no golden files ----


def test_the_published_schedule_has_its_betas_and_alphas(schedule):
    """Stable Diffusion's, which Zero123, MVDream and ImageDream share: 1000 betas from 0.00085 to 0.012, linear in their roots."""
    alphas = schedule.alphas_cumprod
    assert (schedule.timesteps, schedule.spacing) == (1000, "leading")
    betas = 1 - torch.cat([alphas[:1], alphas[1:] / alphas[:-1]])
    assert float(betas.sum()) == pytest.approx(5.348992791713444, rel=1e-12)
    assert float(alphas.sum()) == pytest.approx(373.3766305691685, rel=1e-12)
    assert float(alphas.sqrt().sum()) == pytest.approx(529.6881642314983, rel=1e-12)
    assert betas[[0, 500, 999]].tolist() == pytest.approx([0.00085, 0.00481495414171188, 0.012], rel=1e-9)
    expected = [0.99915, 0.9982960278384514, 0.27766965045646763, 0.004660098513077238]
    assert [schedule.alpha(t) for t in (0, 1, 499, 999)] == pytest.approx(expected, rel=1e-12)
    assert schedule.alpha(-1) == schedule.alpha(0)  # sampling ends at the first level, not at the clean sample


def test_the_published_levels_lead(schedule):
    assert schedule.levels(20) == list(range(1, 1000, 50)) and schedule.levels(50) == list(range(1, 1000, 20))
    assert schedule.levels(30) == [1 + 33 * k for k in range(30)]  # ends at 958


@pytest.mark.parametrize("name", ["stable_diffusion", "zero123_xl", "stable_zero123", "mvdream", "imagedream"])
def test_every_published_prior_has_that_schedule(tiny_checkpoint, name):
    loaded = load_prior(name, str(tiny_checkpoint(name))).schedule
    assert float(loaded.alphas_cumprod.sum()) == pytest.approx(373.3766305691685, rel=1e-6)
    assert loaded.alpha(-1) == pytest.approx(0.99915, rel=1e-6) and loaded.levels(20) == list(range(1, 1000, 50))


# A sample of 0.8 with predicted noise -0.3 and fresh noise 0.5: from level to level, eta -> what it becomes.
DDIM_STEPS = {
    (951, 901, 0.0): 1.142021432303327,
    (951, 901, 0.5): 1.3192369072298518,
    (951, 901, 1.0): 1.535463746649748,
    (501, 451, 0.5): 1.0564578844261738,
    (51, 1, 1.0): 0.9062983831580741,
    (1, -49, 0.0): 0.8039847258207069,
    (1, -49, 1.0): 0.8168805085914849,
    (1, 51, 0.0): 0.7259784984636342,  # upwards: inversion
    (451, 501, 0.0): 0.6747269302172076,
    (901, 951, 0.0): 0.5390090475634128,
}


@pytest.mark.parametrize(("t", "t_next", "eta"), DDIM_STEPS)
def test_ddim_steps_have_the_published_values(schedule, t, t_next, eta):
    sample, noise, fresh = (torch.tensor(value, dtype=torch.float64) for value in (0.8, -0.3, 0.5))
    assert float(schedule.step(sample, noise, t, t_next, eta, fresh)) == pytest.approx(DDIM_STEPS[t, t_next, eta], rel=1e-11)


def test_noising_has_the_published_values(schedule):
    clean, noise = torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    found = [float(schedule.add_noise(clean, noise, t)) for t in (1, 501, 981)]
    assert found == pytest.approx([0.8199577193783176, 0.8452577606189724, 0.5593514032461999], rel=1e-11)


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
