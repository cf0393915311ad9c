"""Retouching by a prior: where views stand, which levels are left, what stays of the renders; and the fit to such views."""

import math

import pytest
import torch
from fake_priors import StubPrior

from cam_utils import orbit_cameras
from microdreamer.distillation.refinement import check_view_count, circle_of_views, retouched, retouching_levels
from microdreamer.guidance.samplers import normal
from microdreamer.guidance.schedule import NoiseSchedule
from microdreamer.meshes.mesh import Mesh
from microdreamer.meshes.model import MeshModel
from microdreamer.meshes.texture_fit import QUIET_ERROR, Target, fit_surface

# A prior of each kind: groups a quarter turn apart, pairs anywhere, single views.
KINDS = [(4, 90.0), (2, None), (1, None)]


def prior_of(views=4, spacing=90.0, function=lambda latents, *_: torch.zeros_like(latents), schedule=None):
    prior = StubPrior(function, schedule)
    prior.views, prior.azimuth_spacing = views, spacing
    return prior


def clean_is(picture):
    """A prior whose noise leads to `picture(latents)`."""
    schedule = NoiseSchedule.shifted_cosine()

    def noise(latents, t, _):
        alpha = schedule.alpha(t)
        return (latents - math.sqrt(alpha) * picture(latents)) / math.sqrt(1 - alpha)

    return prior_of(function=noise, schedule=schedule)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def retouch(prior, renders, levels=(400, 100), seed=0):
    cameras = circle_of_views(prior, len(renders), 0.0, 2.0, 49.1, renders.shape[-1], generator())
    return retouched(prior, renders, cameras, None, levels, 2.0, generator(seed))


# ---- Where views stand ----


@pytest.mark.parametrize(("views", "spacing"), KINDS)
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_views_stand_evenly_in_groups_that_the_prior_takes(views, spacing, groups):
    prior, count = prior_of(views, spacing), views * groups
    for seed in range(3):
        cameras = circle_of_views(prior, count, -20.0, 1.7, 40.0, 48, generator(seed))
        prior.check_cameras(cameras)
        assert (len(cameras), cameras.width, cameras.height) == (count, 48, 48)
        azimuth = cameras.azimuth.remainder(360).sort().values
        torch.testing.assert_close(azimuth.diff(), torch.full((count - 1,), 360 / count), rtol=0, atol=1e-3)
        assert bool((cameras.elevation == -20).all())
        torch.testing.assert_close(cameras.centers.norm(dim=1), torch.full((count,), 1.7))
        assert float(cameras.intrinsics[0, 1]) == pytest.approx(24 / math.tan(math.radians(20)), rel=1e-5)


def test_the_circle_is_turned_by_the_seed():
    starts = {float(circle_of_views(prior_of(), 8, 0.0, 2.0, 49.1, 16, generator(seed)).azimuth[0]) for seed in range(8)}
    assert len(starts) > 4 and all(start % 1 == 0 and 0 <= start < 45 for start in starts)


@pytest.mark.parametrize("count", [1, 6, 9])
def test_part_of_a_group_is_refused(count):
    message = rf"refine_views={count}: the micro prior takes a multiple of 4 views"
    with pytest.raises(ValueError, match=message):
        circle_of_views(prior_of(), count, 0.0, 2.0, 49.1, 16, generator())
    with pytest.raises(ValueError, match=message):
        check_view_count(prior_of(), count)


# ---- Levels ----


@pytest.mark.parametrize(("steps", "strength", "left"), [(50, 0.8, 10), (50, 0.0, 50), (5, 0.5, 3), (20, 0.99, 1)])
@pytest.mark.parametrize("schedule", [NoiseSchedule.scaled_linear(), NoiseSchedule.shifted_cosine()])
def test_the_lowest_levels_are_left(steps, strength, left, schedule):
    levels = retouching_levels(prior_of(schedule=schedule), steps, strength)
    assert levels == sorted(schedule.levels(steps), reverse=True)[-left:]


def test_levels_of_the_originals():
    """50 steps at strength 0.8 of the leading schedule start at level 181 (published code of the second stage)."""
    assert retouching_levels(prior_of(), 50, 0.8) == [181, 161, 141, 121, 101, 81, 61, 41, 21, 1]


@pytest.mark.parametrize("steps", [1, 5, 50])
def test_a_strength_of_one_leaves_none(steps):
    with pytest.raises(ValueError, match=rf"refine_strength=1: leaves none of {steps} denoising steps; lower it"):
        retouching_levels(prior_of(), steps, 1.0)


# ---- Retouching ----


@pytest.mark.parametrize("size", [8, 20, 32])
def test_renders_stay_where_the_prior_returns_what_it_sees(size):
    renders = torch.rand(4, 3, size, size)
    small = torch.nn.functional.interpolate(renders, (8, 8), mode="bilinear", antialias=True)
    result = retouch(clean_is(lambda _: small), renders)
    torch.testing.assert_close(result, renders, rtol=0, atol=1e-5)


def test_detail_finer_than_the_prior_sees_stays():
    """A checkerboard of single pixels is grey to a prior of a quarter of the size, which makes the grey darker."""
    board = (torch.arange(32)[:, None] + torch.arange(32)) % 2 * 0.4 + 0.5
    renders = board.expand(4, 3, 32, 32).contiguous()
    result = retouch(clean_is(lambda latents: torch.full_like(latents, 0.4)), renders)
    torch.testing.assert_close(result, renders - 0.3, rtol=0, atol=0.02)


def test_what_the_prior_changes_is_taken_over():
    dots = torch.zeros(4, 3, 8, 8)
    dots[:, 0, 2:4, 5:7] = 1.0
    result = retouch(clean_is(lambda _: dots), torch.full((4, 3, 8, 8), 0.5))
    torch.testing.assert_close(result, dots, rtol=0, atol=1e-5)
    larger = retouch(clean_is(lambda _: dots), torch.full((4, 3, 64, 64), 0.5))
    assert larger.shape == (4, 3, 64, 64) and float(larger.min()) >= 0 and float(larger.max()) <= 1
    back = torch.nn.functional.interpolate(larger, (8, 8), mode="area")
    assert float((back - dots).abs().mean()) < 0.03


def test_the_prior_starts_at_the_first_level_and_meets_each_once():
    prior = clean_is(torch.zeros_like)
    seen = []
    predict = prior.predict_noise
    prior.predict_noise = lambda latents, *rest: (seen.append(latents.clone()), predict(latents, *rest))[1]
    renders = torch.rand(4, 3, 8, 8)
    retouch(prior, renders, levels=(300, 200, 50), seed=4)
    assert [level for level, _ in prior.calls] == [300, 200, 50] and {scale for _, scale in prior.calls} == {2.0}
    expected = prior.schedule.add_noise(renders, normal(renders.shape, generator(4), "cpu"), 300)
    torch.testing.assert_close(seen[0], expected)


# ---- Fitting ----


def card(shade, size=16):
    """A square of one shade that fills the picture of `camera`."""
    corners = [[-2, -2, 0], [2, -2, 0], [2, 2, 0], [-2, 2, 0]]
    faces = [[0, 1, 2], [0, 2, 3]]
    texture = torch.full((size, size, 3), shade).numpy()
    return MeshModel(Mesh(corners, faces, uvs=[[0, 0], [1, 0], [1, 1], [0, 1]], uv_faces=faces, texture=texture))


def moved_by(error, steps=1, lr=0.1):
    """How far one fit moves the logits of a grey card, each texel of which is several pixels wide, towards a shade `error` away."""
    camera = orbit_cameras(0, 0, 2, width=64, height=64)
    model = card(0.5)
    before = model.color_logits.detach().clone()
    losses = list(fit_surface(model, [Target(camera, torch.full((1, 3, 64, 64), 0.5 + error))], steps, texture_lr=lr))
    assert len(losses) == steps
    return (model.color_logits.detach() - before)[0, 6:10, 6:10].mean() / lr, losses


def test_small_errors_move_texels_in_proportion_and_large_ones_by_a_full_step():
    """Adam divides by a gradient's own size; below QUIET_ERROR that must not blow rounding up to full steps."""
    tiny, small, large = (float(moved_by(error)[0]) for error in (1e-6, 1e-5, 0.4))
    assert 0 < tiny < 1e-3 and small == pytest.approx(10 * tiny, rel=0.05)
    assert 0.9 < large <= 1.0
    # A texel that many pixels show has their gradients summed: half of a step is reached before QUIET_ERROR.
    assert float(moved_by(QUIET_ERROR)[0]) > 0.5
    assert float(moved_by(-1e-5)[0]) == pytest.approx(-small, rel=1e-3)


def test_a_texel_of_one_pixel_goes_half_a_step_at_the_quiet_error():
    camera = orbit_cameras(0, 0, 2, fov_y=2 * math.degrees(math.atan(1)), width=16, height=16)  # a pixel a texel
    model = card(0.5)
    before = model.color_logits.detach().clone()
    list(fit_surface(model, [Target(camera, torch.full((1, 3, 16, 16), 0.5 + QUIET_ERROR))], 1, texture_lr=0.1))
    moved = (model.color_logits.detach() - before)[0, 6:10, 6:10].mean() / 0.1
    assert float(moved) == pytest.approx(0.5, abs=0.03)


def test_what_fits_stays_and_vertices_stay_unless_asked():
    moved, losses = moved_by(0.0, steps=5)
    assert float(moved) == pytest.approx(0, abs=1e-3) and float(losses[-1]) < 1e-12
    camera = orbit_cameras(0, 0, 4, width=32, height=32)
    for geom_lr in (0.0, 1e-3):
        model = card(0.9)
        list(fit_surface(model, [Target(camera, torch.zeros(1, 3, 32, 32))], 2, texture_lr=0.1, geom_lr=geom_lr))
        assert bool(model.offsets.any()) == (geom_lr > 0)


def test_weights_say_which_pixels_count():
    camera = orbit_cameras(0, 0, 2, width=64, height=64)
    weight = torch.zeros(1, 1, 64, 64)
    weight[..., :32] = 1  # the left half
    model = card(0.5)
    list(fit_surface(model, [Target(camera, torch.ones(1, 3, 64, 64), weight)], 3, texture_lr=0.1))
    shades = model.color_logits.detach().sigmoid()[0, 8, :, 0]
    assert float(shades[6]) > 0.55 and float(shades[9]) == pytest.approx(0.5, abs=1e-4)
