"""Sampling and inversion equal the golden loops, and evaluate no branch they do not use."""

import numpy as np
import pytest
import torch
from fake_priors import StubPrior

from cam_utils import orbit_cameras, turntable
from microdreamer.guidance.base import classifier_free
from microdreamer.guidance.samplers import ddim_invert, ddim_sample
from microdreamer.guidance.schedule import NoiseSchedule


def golden_noise(latents, t, _scale):
    return 0.3 * latents + 0.05 * np.sin(t / 100)


def test_loops_equal_the_goldens(parity):
    golden = np.load(parity("priors/schedules.npz"))
    prior, cameras = StubPrior(golden_noise), turntable(4)
    levels = prior.schedule.levels(20)
    latents = torch.as_tensor(golden["step.x0"])
    reached = torch.as_tensor(golden["loop.inversion_trajectory"])
    scale = float(reached.abs().max())
    for count in (2, 7, 20):
        up = ddim_invert(prior, latents, cameras, None, levels[:count])
        assert float((up - reached[count - 2]).abs().max()) < 1e-5 * scale
    down = ddim_sample(prior, reached[-1], cameras, None, levels[::-1], 3.0)
    final = torch.as_tensor(golden["loop.sampling_trajectory"])[-1]
    assert float((down - final).abs().max()) < 1e-5 * float(final.abs().max())


def test_a_sampler_in_two_parts_is_the_whole():
    prior, cameras = StubPrior(golden_noise), turntable(4)
    latents, levels = torch.randn(4, 3, 8, 8), [801, 401, 201, 1]
    whole = ddim_sample(prior, latents, cameras, None, levels, 1.0)
    halfway = ddim_sample(prior, latents, cameras, None, levels[:2], 1.0, end=201)
    assert torch.equal(ddim_sample(prior, halfway, cameras, None, levels[2:], 1.0), whole)
    with pytest.raises(ValueError, match="down to 401: expected"):
        ddim_sample(prior, latents, cameras, None, [801, 401], 1.0, end=401)


def test_branches_are_counted_and_steps_reported():
    prior, cameras = StubPrior(golden_noise), turntable(4)
    seen = []
    ddim_invert(prior, torch.zeros(4, 3, 8, 8), cameras, None, [1, 101, 201])
    assert prior.evaluations == 2 and prior.calls == [(1, None), (101, None)]
    ddim_sample(prior, (4, 3, 8, 8), cameras, None, [201, 101, 1], 1.0, on_step=lambda *report: seen.append(report))
    assert prior.evaluations == 5
    ddim_sample(prior, (4, 3, 8, 8), cameras, None, [201, 101, 1], 2.0)
    assert prior.evaluations == 11
    assert seen == [(1, 3, {"level": 201.0}), (2, 3, {"level": 101.0}), (3, 3, {"level": 1.0})]


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_same_seed_same_sample_and_true_noise_leads_to_the_sample(eta):
    truth, cameras = torch.rand(4, 3, 8, 8), turntable(4)
    schedule = NoiseSchedule.shifted_cosine()
    prior = StubPrior(lambda x, t, _: (x - schedule.alpha(t) ** 0.5 * truth) / (1 - schedule.alpha(t)) ** 0.5, schedule)
    levels = schedule.levels(10)[::-1]
    runs = [ddim_sample(prior, (4, 3, 8, 8), cameras, None, levels, 1.0, eta, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1])
    torch.testing.assert_close(runs[0], truth, rtol=0, atol=1e-4)
    assert eta == 0.0 or not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_temperature_scales_all_noise(temperature):
    """A prior whose every noise is 0 only scales latents, so that what arrives is as much smaller as the noise is."""
    prior, cameras, levels = StubPrior(lambda latents, t, _scale: 0 * latents), turntable(4), [999, 700, 300]

    def sample(**options):
        return ddim_sample(prior, (4, 3, 8, 8), cameras, None, levels, 1.0, 1.0, torch.Generator().manual_seed(0), **options)

    assert float(sample().std()) > 0.1
    torch.testing.assert_close(sample(temperature=temperature), temperature * sample())


def test_guidance_interpolates_between_branches():
    null, cond = torch.randn(2, 4), torch.randn(2, 4)
    assert torch.equal(classifier_free(null, cond, 0.0), null)
    torch.testing.assert_close(classifier_free(null, cond, 1.0), cond)
    torch.testing.assert_close(classifier_free(null, cond, 3.0), null + 3 * (cond - null))


def test_what_a_prior_cannot_do_is_refused():
    prior = StubPrior(golden_noise)
    with pytest.raises(ValueError, match=r"does not take a prompt; priors that do: .*micro"):
        prior.condition(prompt="a chair")
    with pytest.raises(ValueError, match=r"expected RGBA, \[4,H,W\]"):
        prior.condition(image=torch.zeros(3, 8, 8))
    prior.check_cameras(turntable(4))
    prior.check_cameras(orbit_cameras([3.0] * 4, [-170.0, -80.0, 10.0, 100.0]))
    with pytest.raises(ValueError, match="takes a multiple of 4"):
        prior.check_cameras(turntable(6))
    with pytest.raises(ValueError, match="90 degrees apart"):
        prior.check_cameras(turntable(8)[:4])
    with pytest.raises(ValueError, match="one elevation per group"):
        prior.check_cameras(orbit_cameras([0.0, 0.0, 0.0, 20.0], [0.0, 90.0, 180.0, 270.0]))


def test_wrong_levels_are_refused():
    prior, latents = StubPrior(golden_noise), torch.zeros(4, 3, 8, 8)
    with pytest.raises(ValueError, match="falling"):
        ddim_sample(prior, latents, turntable(4), None, [1, 101], 1.0)
    with pytest.raises(ValueError, match="rising"):
        ddim_invert(prior, latents, turntable(4), None, [])
