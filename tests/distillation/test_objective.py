"""Objectives on renders of Gaussians: gradients are the closed forms, a prior that knows the object leads to it, runs can be repeated."""

import re
from pathlib import Path

import pytest
import torch
from conftest import relative_l2
from fake_priors import OraclePrior, coloured_ellipsoid, tiny_micro_prior
from toy_prior import ToyPrior, random_condition

from cam_utils import orbit_cameras
from microdreamer.distillation.objective import ASD, SDS, X0SDS, ASDSettings, SDSSettings, X0SDSSettings, resize
from microdreamer.distillation.view_sampling import MICRO_VIEW, draw_views
from microdreamer.gaussians.model import GaussianModel

OBJECTIVES = {"sds": (SDS, SDSSettings), "x0_sds": (X0SDS, X0SDSSettings), "asd": (ASD, ASDSettings)}
WHITE = torch.ones(3)
PARAMETERS = ("means", "sh_dc", "log_scales", "quaternions", "opacity_logits")


@pytest.fixture(scope="module")
def prior():
    return tiny_micro_prior()


def blob(count=60):
    generator = torch.Generator().manual_seed(3)
    model = GaussianModel.from_points(torch.randn(count, 3, generator=generator) * 0.25, torch.rand(count, 3, generator=generator))
    model.opacity_logits.data.fill_(1.0)
    model.log_scales.data += 0.5 * torch.randn(count, 3, generator=generator)  # round ones have no gradient in how they are turned
    return model


def objective_of(name, prior, condition, seed=0, **settings):
    objective, kind = OBJECTIVES[name]
    return objective(prior, condition, kind(**settings), torch.Generator().manual_seed(seed))


def drawn(seed, low, high, groups, name, prior, one_level):
    """The levels, the noise and the later levels that an objective draws from this seed, in its order."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.randint(low, high + 1, (1 if one_level else groups,), generator=generator).expand(groups)
    noise = torch.randn(prior.latent_shape(groups * prior.views), generator=generator)
    later = None
    if name == "asd":
        u = torch.rand(groups, generator=generator)
        later = t + (0.1 * (t - low) * u).long()
    return t, noise, later


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("size", [24, 32, 64])
def test_the_gradient_of_gaussians_is_the_closed_form(prior, name, size):
    """d loss / d Gaussians is the prior's correction of each noised view, taken back through encoder, resizing and renderer."""
    condition = prior.condition(torch.rand(4, 32, 32), "a red car")
    cameras, model = draw_views(MICRO_VIEW, 8, size, torch.Generator().manual_seed(1)), blob()
    scale, window = 4.0, {"min_step_percent": 0.3, "max_step_percent": 0.7}
    objective = objective_of(name, prior, condition, seed=5, guidance_scale=scale, **window)
    before = prior.evaluations
    loss = objective(model.render(cameras, WHITE).image, cameras, 0).loss
    assert prior.evaluations - before == (3 if name == "asd" else 2)
    found = torch.autograd.grad(loss, [getattr(model, key) for key in PARAMETERS])

    images = model.render(cameras, WHITE).image
    x = resize(images, 32) * 2 - 1
    t, noise, later = drawn(5, 300, 700, 2, name, prior, name == "x0_sds")
    gradient = torch.empty_like(x)
    for group in range(2):
        views, seen = slice(4 * group, 4 * group + 4), cameras[4 * group : 4 * group + 4]
        level = int(t[group])
        noisy = prior.schedule.add_noise(x[views].detach(), noise[views], level)
        guided = prior.predict_noise(noisy, level, seen, condition, scale)
        if name == "sds":
            gradient[views] = (1 - prior.schedule.alpha(level)) * (guided - noise[views])
        elif name == "asd":
            shifted = prior.schedule.add_noise(x[views].detach(), noise[views], int(later[group]))
            subtracted = prior.predict_noise(shifted, int(later[group]), seen, condition, 1.0)
            gradient[views] = (1 - prior.schedule.alpha(level)) * (guided - subtracted)
        else:
            clean = prior.schedule.predict_x0(noisy, guided, level)
            plain = prior.schedule.predict_x0(noisy, prior.predict_noise(noisy, level, seen, condition, 1.0), level)
            gradient[views] = x[views].detach() - clean * (0.5 + 0.5 * plain.std() / clean.std())
    expected = torch.autograd.grad(x, [getattr(model, key) for key in PARAMETERS], gradient.detach() / 8)
    for key, actual, wanted in zip(PARAMETERS, found, expected, strict=True):
        assert relative_l2(actual, wanted) < 2e-4, key
        assert float(wanted.norm()) > 0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_prior_that_knows_the_object_leads_to_it(name):
    truth = coloured_ellipsoid()
    prior = OraclePrior(truth)
    objective = objective_of(name, prior, None, guidance_scale=1.0, min_step_percent=0.3, max_step_percent=0.7)
    model, generator = GaussianModel.initial_ball(200, generator=torch.Generator().manual_seed(2)), torch.Generator().manual_seed(4)
    optimizer = torch.optim.Adam([{"params": [model.sh_dc], "lr": 0.05}, {"params": [model.means, model.opacity_logits], "lr": 0.01}])
    probe = draw_views(MICRO_VIEW, 4, 32, torch.Generator().manual_seed(9))
    target = truth.render(probe, WHITE).image

    def error():
        with torch.no_grad():
            return float((model.render(probe, WHITE).image - target).square().mean())

    start = error()
    for step in range(25):
        cameras = draw_views(MICRO_VIEW, 4, 32, generator)
        objective(model.render(cameras, WHITE).image, cameras, step).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert error() < 0.5 * start


def test_a_resumed_run_draws_what_an_unbroken_one_does(prior):
    condition = prior.condition(None, "a blue car")
    images, cameras = torch.rand(8, 3, 32, 32), draw_views(MICRO_VIEW, 8, 32, torch.Generator().manual_seed(1))
    unbroken = objective_of("asd", prior, condition)
    unbroken(images, cameras, 0)
    saved = unbroken.state_dict()
    expected = unbroken(images, cameras, 1)
    resumed = objective_of("asd", prior, condition, seed=77)
    resumed.load_state_dict(saved)
    again = resumed(images, cameras, 1)
    assert torch.equal(again.loss, expected.loss) and torch.equal(again.metrics["t"], expected.metrics["t"])
    assert not torch.equal(resumed(images, cameras, 1).loss, expected.loss)


def test_levels_follow_their_window_and_groups_have_their_own(prior):
    condition, window = prior.condition(None, "a car"), {"min_step_percent": [0, 0.98, 0.02, 100], "max_step_percent": [0, 0.98, 0.5, 100]}
    images, cameras = torch.rand(16, 3, 32, 32), draw_views(MICRO_VIEW, 16, 32, torch.Generator().manual_seed(1))
    for name in OBJECTIVES:
        objective = objective_of(name, prior, condition, **window)
        first = objective(images, cameras, 0).metrics
        assert (float(first["min_step"]), float(first["max_step"]), float(first["t"])) == (980, 980, 980)
        last = objective(images, cameras, 5000).metrics
        assert (float(last["min_step"]), float(last["max_step"])) == (20, 500) and 20 <= float(last["t"]) <= 500


def test_one_level_is_for_all_groups_and_else_each_has_its_own():
    images, cameras = torch.rand(16, 4, 8, 8), orbit_cameras(0, [0, 90, 180, 270] * 4)
    for one_level in (True, False):
        prior = ToyPrior()
        objective = objective_of("asd", prior, random_condition(16), one_level=one_level)
        objective(images, cameras, 0)
        (null, told, later), *_ = prior.asked
        assert null.t == told.t and all(a <= b for a, b in zip(told.t, later.t, strict=True))
        assert (len(set(told.t)) == 1) == one_level and (len(set(later.t)) == 1) == one_level


def test_views_are_told_their_direction():
    prior, condition = ToyPrior(views=1, by_direction=True), random_condition(3)
    cameras, images = orbit_cameras([0.0, 0, -80], [0.0, 180, 0]), torch.rand(3, 4, 8, 8)
    for name in OBJECTIVES:
        objective_of(name, prior, condition)(images, cameras, 0)
        told = prior.asked[-1][1].told
        assert told.argmax(1).tolist() == [1, 3, 4] and torch.equal(told.sum(1), torch.ones(3))
    objective_of("asd", prior, condition, guidance_perp_neg=-0.5)(images, cameras, 0)
    assert len(prior.asked[-1]) == 5


def test_renders_may_be_of_any_size_and_shrink_without_aliasing():
    stripes = torch.arange(64).remainder(2).float().expand(1, 3, 64, 64)
    assert float((resize(stripes, 24) - 0.5).abs().amax()) < 0.2  # without smoothing: 0.5
    assert resize(stripes, 64) is stripes
    ramp = torch.linspace(0, 1, 8).expand(1, 3, 8, 8)
    expected = torch.nn.functional.interpolate(ramp, (32, 32), mode="bilinear", align_corners=False)
    assert torch.equal(resize(ramp, 32), expected)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (SDSSettings, {"weighting_strategy": "dream"}, "weighting_strategy=dream: expected one of sds, uniform, fantasia3d"),
        (SDSSettings, {"max_step_percent": [0, 1]}, "max_step_percent=.*expected a number, or"),
        (X0SDSSettings, {"recon_std_rescale": 1.5}, "recon_std_rescale=1.5: expected 0 to 1"),
        (ASDSettings, {"grad_clip": [0, 1.0, 0.0, 10]}, "grad_clip=.*expected positive values"),
        (ASDSettings, {"plus_ratio": -1}, "plus_ratio=-1: expected 0 to 1"),
        (ASDSettings, {"guidance_perp_neg": 0.5}, "guidance_perp_neg=0.5: expected 0 or less"),
    ],
)
def test_wrong_settings_are_refused(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(**settings)


def test_what_a_prior_cannot_do_is_refused(prior):
    condition, images = prior.condition(None, "a car"), torch.rand(4, 3, 32, 32)
    with pytest.raises(ValueError, match=r"guidance_perp_neg is for .*stable_diffusion.*micro has one"):
        objective_of("asd", prior, condition, guidance_perp_neg=-0.5)
    objective = SDS(prior, condition, SDSSettings(), torch.Generator())
    with pytest.raises(ValueError, match="90 degrees apart"):
        objective(images, orbit_cameras(0, [0, 80, 180, 270]), 0)
    with pytest.raises(ValueError, match="4 pictures and 8 cameras"):
        objective(images, draw_views(MICRO_VIEW, 8, 32, torch.Generator()), 0)
    with pytest.raises(ValueError, match="takes a multiple of 4"):
        objective(images[:3], orbit_cameras(0, [0, 90, 180]), 0)


def test_clean_pictures_survive_the_way_through_noise(prior):
    """A network that answers with clean pictures is asked for noise, and strong guidance multiplies what rounding leaves of it."""
    condition, cameras = prior.condition(None, "a red car"), draw_views(MICRO_VIEW, 4, 32, torch.Generator().manual_seed(1))
    objective = objective_of("x0_sds", prior, condition, min_step_percent=0.98, max_step_percent=0.98, recon_std_rescale=0.0)
    images = torch.rand(4, 3, 32, 32, requires_grad=True)
    objective(images, cameras, 0).loss.backward()
    target = (images * 2 - 1).detach() - 4 * images.grad / 2
    _, noise, _ = drawn(0, 980, 980, 1, "x0_sds", prior, True)
    noisy = prior.schedule.add_noise((images * 2 - 1).detach(), noise, 980)
    expected = prior.predict_clean(noisy, 980, cameras, condition, 50.0)
    assert float((target - expected).abs().max()) < 0.01 * float(expected.abs().max())


def test_the_program_of_the_documentation_runs():
    page = (Path(__file__).resolve().parents[2] / "docs" / "distillation.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    short, count = re.subn(r"range\(100\)", "range(2)", program)
    assert count == 1
    names = {}
    exec(short, names)
    assert bool(names["loss"].isfinite()) and not torch.equal(names["model"].sh_dc[0], names["model"].sh_dc[-1])
