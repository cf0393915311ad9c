"""The forward process and the samplers."""

import math

import pytest
import torch

from microdreamer.voxel_diffusion.denoiser import Denoiser, to_signed, to_unit
from microdreamer.voxel_diffusion.network import NetworkConfig, VoxelUNet
from microdreamer.voxel_diffusion.sampling import sample
from microdreamer.voxel_diffusion.schedule import KINDS, VoxelSchedule, shift_for


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("timesteps", [10, 1000])
@pytest.mark.parametrize("shift", [0.0, -3.0])
def test_schedule_identities(kind, timesteps, shift):
    schedule = VoxelSchedule.make(kind, timesteps, shift)
    alphas = schedule.alphas_cumprod
    assert len(alphas) == timesteps and bool((alphas.diff() < 0).all())
    torch.testing.assert_close(torch.cumprod(1 - schedule.betas, 0), alphas)
    signal, noise = schedule.coefficients("cpu")
    torch.testing.assert_close(signal**2 + noise**2, torch.ones(timesteps))  # the variance is preserved
    assert alphas[-1] < 1e-3  # ends in noise, also at T = 10
    assert schedule.betas.min() > 0 and schedule.betas.max() < 1


def test_linear_is_ddpm_s_at_a_thousand_steps():
    betas = VoxelSchedule.make("linear", 1000).betas
    torch.testing.assert_close(betas, torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), rtol=0.015, atol=1e-5)


def test_coarse_schedules_take_every_hundredth_level():
    fine, coarse = VoxelSchedule.make("linear", 1000), VoxelSchedule.make("linear", 10)
    torch.testing.assert_close(coarse.alphas_cumprod, fine.alphas_cumprod[99::100])


def test_cosine_values():
    alphas = VoxelSchedule.make("cosine", 100).alphas_cumprod
    start = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    for t in (0, 49, 90):
        expected = math.cos(((t + 1) / 100 + 0.008) / 1.008 * math.pi / 2) ** 2 / start
        assert float(alphas[t]) == pytest.approx(expected, rel=1e-9)


def test_shift_moves_the_log_snr():
    plain, shifted = VoxelSchedule.make("linear", 20), VoxelSchedule.make("linear", 20, -2.5)
    for t in range(20):
        assert shifted.log_snr(t) == pytest.approx(plain.log_snr(t) - 2.5)
    # The mean of a grid of n^3 is seen at the last level as well, or as badly, as that of one of 16^3.
    assert math.exp(shift_for(64)) * 64**3 == pytest.approx(16**3)


def test_noised_grids_have_unit_variance():
    schedule = VoxelSchedule.make("linear", 10)
    network = VoxelUNet(NetworkConfig(size=8, channels=8, multipliers=(1,), timesteps=10))
    denoiser = Denoiser(network, schedule)
    x0 = torch.randn(4000, 1, 2, 2, 2)
    for t in range(10):
        noisy = denoiser.add_noise(x0, torch.randn_like(x0), torch.full((4000,), t))
        assert float(noisy.var()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(("arguments", "message"), [(("square", 10), "schedule=square"), (("linear", 1), "T=1: expected at least 2")])
def test_bad_schedules(arguments, message):
    with pytest.raises(ValueError, match=message):
        VoxelSchedule.make(*arguments)


def test_levels():
    schedule = VoxelSchedule.make("linear", 10)
    assert schedule.levels(10) == list(range(10)) and schedule.levels(5) == [1, 3, 5, 7, 9] and schedule.levels(1) == [9]
    for steps in (0, 11):
        with pytest.raises(ValueError, match=f"steps={steps}: expected 1 to T=10"):
            schedule.levels(steps)


def test_posterior_is_bayes_rule():
    """q(x_s | x_t, x_0) by multiplying the two Gaussians q(x_t | x_s) and q(x_s | x_0)."""
    schedule = VoxelSchedule.make("cosine", 50)
    x0, sample_ = torch.tensor(0.3, dtype=torch.float64), torch.tensor(-0.8, dtype=torch.float64)
    for t, s in ((30, 29), (30, 12), (49, 0)):
        a, b = schedule.alpha(t), schedule.alpha(s)
        ratio = a / b
        precision = 1 / (1 - b) + ratio / (1 - ratio)
        mean = (math.sqrt(b) * x0 / (1 - b) + math.sqrt(ratio) * sample_ / (1 - ratio)) / precision
        got_mean, got_variance = schedule.posterior(sample_, x0, t, s)
        torch.testing.assert_close(got_mean, mean)
        assert got_variance == pytest.approx(1 / precision)
    with pytest.raises(ValueError, match="lower level"):
        schedule.posterior(sample_, x0, 3, 3)


@pytest.mark.parametrize("pair", [(9, 8), (9, 4), (3, 0)])
def test_ddim_with_eta_one_is_ddpm(pair):
    """In the mean and in the variance of the fresh noise, between neighbouring levels and across some."""
    schedule = VoxelSchedule.make("linear", 10)
    x, x0 = torch.randn(2, 1, 4, 4, 4, dtype=torch.float64), torch.rand(2, 1, 4, 4, 4, dtype=torch.float64) * 2 - 1
    t, t_next = pair
    mean, variance = schedule.posterior(x, x0, t, t_next)
    torch.testing.assert_close(schedule.step(x, schedule.predict_noise(x, x0, t), t, t_next, 1.0, torch.zeros_like(x)), mean)
    assert schedule.sigma(t, t_next, 1.0) ** 2 == pytest.approx(variance)


def test_predicted_noise_and_x0_are_inverse():
    schedule = VoxelSchedule.make("linear", 10)
    x, noise = torch.randn(3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    torch.testing.assert_close(schedule.predict_noise(x, schedule.predict_x0(x, noise, 6), 6), noise)


class Oracle(Denoiser):
    """Knows the answer: what a sampler makes of it does not depend on the network."""

    def __init__(self, schedule, answer):
        super().__init__(VoxelUNet(NetworkConfig(size=8, channels=8, multipliers=(1,), timesteps=schedule.timesteps)), schedule)
        self.answer, self.asked = answer, []

    def predict_x0(self, sample, t):
        self.asked.append(t)
        return self.answer.expand_as(sample)


@pytest.mark.parametrize(("method", "eta"), [("ddpm", 0.0), ("ddim", 0.0), ("ddim", 1.0)])
@pytest.mark.parametrize("steps", [None, 4, 1])
def test_samplers_end_at_what_the_network_says(method, eta, steps):
    answer = torch.where(torch.rand(1, 1, 8, 8, 8) > 0.5, 1.0, -1.0)
    denoiser = Oracle(VoxelSchedule.make("linear", 10), answer)
    grids = sample(denoiser, 3, steps, method, eta, batch=2)
    assert grids.shape == (3, 8, 8, 8)
    torch.testing.assert_close(grids, ((answer[0] + 1) / 2).expand(3, -1, -1, -1))
    assert denoiser.asked == list(reversed(denoiser.schedule.levels(steps or 10))) * 2  # two batches


def test_sampling_visits_named_levels_only():
    denoiser = Oracle(VoxelSchedule.make("linear", 10), torch.ones(1))
    sample(denoiser, 1, levels=[7, 2, 3])
    assert denoiser.asked == [7, 3, 2]


def test_ancestral_samples_have_the_marginals_of_the_forward_process():
    """For data that is one grid, x_t of the sampler is sqrt(a) x0 + sqrt(1 - a) noise in distribution, at every level."""
    schedule, answer = VoxelSchedule.make("linear", 10), torch.full((1,), 0.5)
    x = torch.randn(200_000)
    for t in range(9, 0, -1):
        mean, variance = schedule.posterior(x, answer.expand_as(x), t, t - 1)
        x = mean + variance**0.5 * torch.randn_like(x)
        alpha = schedule.alpha(t - 1)
        # The start, x_9 ~ N(0, 1), holds no signal where the forward process has sqrt(a_9) of it: 0.006 of a standard deviation.
        assert float(x.mean()) == pytest.approx(0.5 * math.sqrt(alpha), abs=0.02)
        assert float(x.var()) == pytest.approx(1 - alpha, rel=0.03)


def test_sampling_is_seeded():
    torch.manual_seed(0)
    network = VoxelUNet(NetworkConfig(size=8, channels=8, multipliers=(1, 2), timesteps=10))
    torch.nn.init.normal_(network.outward.weight, std=0.1)
    denoiser = Denoiser(network, VoxelSchedule.make("linear", 10))

    def draw(seed, **options):
        return sample(denoiser, 2, 5, generator=torch.Generator().manual_seed(seed), **options)

    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))
    assert torch.equal(draw(1, method="ddim"), draw(1, method="ddim"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "euler"}, "method=euler"),
        ({"eta": 1.5, "method": "ddim"}, "eta=1.5"),
        ({"steps": 11}, "steps=11: expected 1 to T=10"),
        ({"steps": 0}, "steps=0"),
        ({"levels": [10]}, "levels: expected at least one of 0 to 9"),
        ({"levels": []}, "levels"),
        ({"count": 0}, "count=0"),
    ],
)
def test_bad_sampling(options, message):
    denoiser = Oracle(VoxelSchedule.make("linear", 10), torch.ones(1))
    with pytest.raises(ValueError, match=message):
        sample(denoiser, **({"count": 1} | options))


def test_scales():
    grids = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)
    assert to_signed(grids).flatten().tolist() == [-1, 1]
    assert torch.equal(to_unit(to_signed(grids)), grids)
    assert to_unit(torch.full((1, 1, 1, 1, 1), 3.0)).item() == 1
