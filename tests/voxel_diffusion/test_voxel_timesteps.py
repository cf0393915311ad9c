"""The five strategies: the law each draws by, the weights, and what they cost."""

import pytest
import torch
from scipy.stats import chisquare

from microdreamer.voxel_diffusion.schedule import VoxelSchedule
from microdreamer.voxel_diffusion.timesteps import NAMES, Importance, Speed, interpolate, make_sampler

DRAWS = 40_000
T = 20
LEAST_P = 1e-3  # with fixed seeds: a right sampler fails for one seed in a thousand, and then another is taken


def schedule():
    return VoxelSchedule.make("linear", T)


def norms():
    return torch.rand(T, generator=torch.Generator().manual_seed(5)) + 0.1


def counts(sampler):
    t, weights = sampler.draw(DRAWS)
    assert t.dtype == torch.int64 and torch.equal(weights, sampler.weights[t])
    return torch.bincount(t, minlength=T).double().numpy()


def follows(observed, law):
    """Chi-square of draws against a law; timesteps of probability 0 must not occur at all."""
    assert observed[law == 0].sum() == 0
    return chisquare(observed[law > 0], (law[law > 0] / law.sum() * DRAWS)).pvalue > LEAST_P


def test_uniform_law():
    sampler = make_sampler("uniform", schedule())
    assert follows(counts(sampler), torch.ones(T).double().numpy())
    assert sampler.trained == list(range(T)) and bool((sampler.weights == 1).all())


def test_the_test_of_laws_can_fail():
    sampler = make_sampler("uniform", schedule())
    assert not follows(counts(sampler), torch.linspace(1, 1.2, T).double().numpy())


def test_fixed_draws_evenly_from_the_largest():
    sampler = make_sampler("fixed", schedule(), top=6, norms=norms())
    largest = norms().argsort(descending=True)[:6]
    assert sampler.trained == sorted(largest.tolist())
    law = torch.zeros(T).double()
    law[largest] = 1 / 6
    assert follows(counts(sampler), law.numpy())


def test_adaptive_measures_what_and_when_it_says():
    sampler = make_sampler("adaptive", schedule(), top=5, every=3, probe=2)
    asked = []

    def measure(grids, timesteps):
        asked.append((len(grids), timesteps))
        return norms() if len(asked) == 1 else norms().flip(0)

    grids = torch.zeros(8, 2, 2, 2)
    for step in range(4):
        sampler.prepare(step, grids, measure)
        expected = norms() if step < 3 else norms().flip(0)
        assert sampler.trained == sorted(expected.argsort(descending=True)[:5].tolist())
    assert asked == [(2, list(range(T)))] * 2 and sampler.passes == 2 * T
    law = torch.zeros(T).double()
    law[sampler.trained] = 1 / 5
    assert follows(counts(sampler), law.numpy())


def test_adaptive_at_some_levels_interpolates():
    sampler = make_sampler("adaptive", schedule(), top=4, levels=3)
    sampler.prepare(0, torch.zeros(3, 2, 2, 2), lambda grids, timesteps: torch.tensor([0.0, 1.0, 0.0]))
    assert sampler.measured == [0, 10, 19] and sampler.passes == 3
    assert sampler.trained == [8, 9, 10, 11]  # 0.8, 0.9, 1, 0.89, and then 0.78


def test_interpolation():
    values = interpolate(torch.tensor([0.0, 4.0, 0.0]), [0, 4, 6], 7)
    assert values.tolist() == [0, 1, 2, 3, 4, 2, 0]


def test_importance_law_is_proportional_to_the_gradient_norm():
    sampler = Importance(T, floor=0.1)
    loss_at = torch.linspace(0.01, 4, T)  # the norm of the gradient goes with its root
    for _ in range(300):
        t = torch.randint(T, (64,))
        sampler.observe(t, loss_at[t])
    law = 0.9 * loss_at.sqrt() / loss_at.sqrt().sum() + 0.1 / T
    torch.testing.assert_close(sampler.probabilities, law, rtol=1e-4, atol=1e-7)
    assert follows(counts(sampler), law.double().numpy())


def test_importance_is_unbiased():
    """The mean of weight times loss over draws is the mean of the losses over all t, whatever the estimate has come to be."""
    sampler = Importance(T)
    loss_at = torch.rand(T) * torch.linspace(0.1, 3, T)
    assert float((sampler.probabilities * sampler.weights * loss_at).sum()) == pytest.approx(float(loss_at.mean()), rel=1e-5)
    for _ in range(20):
        t, _ = sampler.draw(16)
        sampler.observe(t, loss_at[t] * torch.rand(16))
        assert float((sampler.probabilities * sampler.weights * loss_at).sum()) == pytest.approx(float(loss_at.mean()), rel=1e-5)
    t, weights = sampler.draw(DRAWS)
    drawn = weights * loss_at[t]
    error = float(drawn.mean() - loss_at.mean()) / float(drawn.std() / DRAWS**0.5)
    assert abs(error) < 3.5
    assert float(sampler.weights.max()) <= 1 / sampler.floor + 1e-4


def test_importance_lowers_the_variance_of_the_gradient():
    """Its reason to be: for gradients of the estimated norms the second moment is below that of uniform draws."""
    sampler = Importance(T, floor=0.0)
    loss_at = torch.linspace(0.01, 4, T)
    for _ in range(300):
        t = torch.arange(T)
        sampler.observe(t, loss_at[t])
    gradient_squared = loss_at  # norm 2 sqrt(loss / n), up to a constant
    second_moment = (sampler.probabilities * sampler.weights**2 * gradient_squared).sum()
    assert second_moment < 0.9 * gradient_squared.mean()
    assert float(second_moment) == pytest.approx(float(gradient_squared.sqrt().mean() ** 2), rel=1e-4)  # the optimum


def test_importance_before_anything_was_seen():
    sampler = Importance(1000)
    assert sampler.bins == 100 and bool((sampler.probabilities == 1 / 1000).all())
    sampler.observe(torch.tensor([3]), torch.tensor([2.0]))
    torch.testing.assert_close(sampler.probabilities, torch.full((1000,), 1e-3))  # one range seen: the others take its value


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("timesteps", [10, 1000])
def test_speed_areas_and_law(kind, timesteps):
    process = VoxelSchedule.make(kind, timesteps)
    sampler = make_sampler("speed", process)
    areas = Speed.areas(process)
    assert bool((areas.diff() >= 0).all())  # acceleration, then deceleration, then convergence
    slope = torch.gradient((1 - process.alphas_cumprod).sqrt())[0] * timesteps
    assert bool((slope[areas == 2] < 0.1).all()) and bool((slope[areas == 1] >= 0.1).all())
    if (kind, timesteps) == ("cosine", 10):  # its slope falls below the limit only between the last two timesteps
        assert not bool((areas == 2).any())
        return
    ratio = sampler.probabilities[areas < 2].mean() / sampler.probabilities[areas == 2].mean()
    assert float(ratio) == pytest.approx(5, rel=1e-4)
    assert float(sampler.probabilities.sum()) == pytest.approx(1, abs=1e-5)
    assert float((sampler.probabilities * sampler.weights).sum()) == pytest.approx(1, abs=1e-4)
    assert float(sampler.weights.max() / sampler.weights.min()) == pytest.approx(1.5, rel=0.02)  # 0.6 to 0.4
    assert int(sampler.weights.argmax()) == int(process.variance_slope.argmax())


def test_speed_draws():
    sampler = make_sampler("speed", schedule())
    assert follows(counts(sampler), sampler.probabilities.double().numpy())


@pytest.mark.parametrize("name", NAMES)
def test_state_round_trip(name):
    def make():
        return make_sampler(name, schedule(), top=3, norms=norms())

    sampler, other = make(), make()
    sampler.prepare(0, torch.zeros(1, 2, 2, 2), lambda *_: norms().flip(0))
    for _ in range(5):
        t, _ = sampler.draw(8)
        sampler.observe(t, torch.rand(8))
    other.load_state_dict(sampler.state_dict())
    for key, value in sampler.state_dict().items():
        assert torch.equal(other.state_dict()[key], value)
    with pytest.raises(ValueError, match="of another strategy"):
        other.load_state_dict({"probabilities": torch.ones(3)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "random"}, "timesteps=random: expected one of uniform, adaptive, fixed, importance, speed"),
        ({"name": "adaptive", "top": 21}, "top=21: expected 1 to T=20"),
        ({"name": "fixed", "top": 21, "norms": torch.ones(T)}, "top=21: expected 1 to T=20"),
        ({"name": "adaptive", "top": -1}, "top=-1"),
        ({"name": "adaptive", "every": 0}, "every=0"),
        ({"name": "adaptive", "probe": -1}, "probe=-1"),
        ({"name": "adaptive", "levels": 21}, "levels=21"),
        ({"name": "fixed"}, "needs the importance of all T=20 timesteps, got none"),
        ({"name": "fixed", "norms": torch.ones(10)}, "got those of T=10"),
    ],
)
def test_bad_strategies(options, message):
    with pytest.raises(ValueError, match=message):
        make_sampler(schedule=schedule(), **options)
