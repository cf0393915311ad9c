"""SIR: schedules and target computation equal the goldens; with a prior that knows the truth the object is recovered."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
from fake_priors import OraclePrior, StubPrior, coloured_ellipsoid
from safetensors import safe_open

from cam_utils import orbit_cameras, turntable
from microdreamer.distillation import sir
from microdreamer.distillation.schedules import STEPS_SCHEDULES, density_steps, plan_rounds
from microdreamer.gaussians.model import PARAMETERS, GaussianModel
from microdreamer.guidance import samplers
from microdreamer.guidance.schedule import NoiseSchedule
from microdreamer.metrics.pictures import psnr

RUNS = ["image_sai", "image_sai_30_iterations", "imagedream", "text_mv_completed", "text_mv_paper_K50"]


@pytest.fixture(scope="module")
def golden_schedules(parity):
    return json.loads(parity("priors/sir_schedules.json").read_text())


@pytest.mark.parametrize("run", RUNS)
def test_rounds_equal_the_published_runs(golden_schedules, run):
    golden = golden_schedules[run]
    rounds = plan_rounds(NoiseSchedule.scaled_linear(), **golden["config"])
    for ours, theirs in zip(rounds, golden["iterations"], strict=True):
        assert ours.starts_from_noise == theirs["is_init"]
        assert list(ours.denoising) == theirs["denoise_t"]
        if not ours.starts_from_noise:
            assert (ours.inversion[0], ours.inversion[-1]) == (theirs["t1"], theirs["t2"])
            assert [list(pair) for pair in itertools.pairwise(ours.inversion)] == [
                list(pair) for pair in zip(theirs["inversion_eval_t"], theirs["inversion_to_t"], strict=True)
            ]
        assert len(ours.steps) == theirs["recon_steps"]
        assert (ours.steps[0], ours.steps[-1]) == (theirs["global_step_first"], theirs["global_step_last"])
        assert ours.network_calls == theirs["nfe"]
    assert sum(r.network_calls for r in rounds) == golden["nfe_total"]
    assert sum(len(r.denoising) for r in rounds) == golden["nfe_denoise"]
    assert sum(max(len(r.inversion) - 1, 0) for r in rounds) == golden["nfe_inversion"]
    assert sum(len(r.steps) for r in rounds) == golden["optimizer_steps"]
    assert rounds[-1].steps[-1] == golden["global_step_end"]


@pytest.mark.parametrize("run", RUNS)
def test_density_control_falls_on_the_same_steps_and_loses_none(golden_schedules, run):
    golden = golden_schedules[run]
    steps = density_steps(plan_rounds(NoiseSchedule.scaled_linear(), **golden["config"]), 0, 300, 100)
    assert set(golden["densify_at"]) <= steps and len(steps) == 3


def test_the_published_run_has_its_levels_steps_and_calls():
    """image_sai.yaml, in double precision in the published order of operations; a clone without golden files has this one."""
    plan = {"total_steps": 21, "denoise_steps": 20, "t_start": 0.9, "t_end": 0.2, "inv_r": 0.6}
    rounds = plan_rounds(NoiseSchedule.scaled_linear(), **plan, init_steps=15, steps_min=15, steps_max=15)
    tops = [901, 851, 801, 751, 751, 701, 651, 651, 601, 551, 501, 501, 451, 401, 401, 351, 301, 301, 251, 201]
    starts = [501, 501, 451, 451, 451, 401, 351, 351, 351, 301, 301, 301, 251, 201, 201, 201, 151, 151, 151, 101]
    assert rounds[0].starts_from_noise and rounds[0].denoising == tuple(range(951, 0, -50)) and rounds[0].steps == range(2, 17)
    for turn, start, top in zip(rounds[1:], starts, tops, strict=True):
        assert turn.inversion == tuple(range(start, top + 1, 50)) and turn.denoising == tuple(range(top, 0, -50))
    assert sum(turn.network_calls for turn in rounds) == 352 and sum(len(turn.steps) for turn in rounds) == 315
    assert rounds[-1].steps[-1] == 336 and density_steps(rounds, 0, 300, 100) == {100, 200, 300}


# Optimiser steps of the 17 rounds after the first, by the published expressions in double precision.
PUBLISHED_STEPS = {
    ("linear", 5, 22): [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21],
    ("linear", 10, 30): [10, 11, 12, 13, 14, 15, 17, 18, 19, 20, 21, 22, 24, 25, 26, 27, 28],
    ("linear", 30, 10): [30, 28, 27, 26, 25, 24, 22, 21, 20, 19, 18, 17, 15, 14, 13, 12, 11],
    ("cosine_up", 5, 22): [5, 5, 5, 6, 7, 8, 9, 11, 12, 14, 15, 17, 18, 19, 20, 21, 21],
    ("cosine_up", 30, 10): [30, 29, 29, 28, 27, 26, 24, 22, 20, 19, 17, 15, 13, 12, 11, 10, 10],
    ("cosine_down", 5, 22): [22, 21, 21, 20, 19, 18, 17, 15, 14, 12, 11, 9, 8, 7, 6, 5, 5],
    ("cosine_up_then_down", 10, 30): [10, 10, 12, 15, 19, 22, 26, 28, 29, 29, 28, 26, 22, 19, 15, 12, 10],
    ("fixed", 5, 22): [22] * 17,
}


def planned_steps(schedule, steps_min, steps_max, total_steps=18):
    """Optimiser steps of the rounds after the first."""
    plan = {"total_steps": total_steps, "denoise_steps": 20, "t_start": 0.9, "t_end": 0.2, "inv_r": 0.6, "init_steps": 7}
    counts = {"steps_min": steps_min, "steps_max": steps_max, "steps_schedule": schedule}
    rounds = plan_rounds(NoiseSchedule.scaled_linear(), **plan, **counts)
    assert len(rounds[0].steps) == 7
    return [len(turn.steps) for turn in rounds[1:]]


@pytest.mark.parametrize(("schedule", "steps_min", "steps_max"), PUBLISHED_STEPS)
def test_varying_optimiser_steps_are_the_published_ones(schedule, steps_min, steps_max):
    assert planned_steps(schedule, steps_min, steps_max) == PUBLISHED_STEPS[schedule, steps_min, steps_max]


def test_linear_steps_have_a_direction_and_the_published_rounding():
    assert planned_steps("linear_up", 5, 22) == planned_steps("linear_down", 22, 5) == PUBLISHED_STEPS["linear", 5, 22]
    assert planned_steps("linear_down", 10, 30) == planned_steps("linear_up", 30, 10) == PUBLISHED_STEPS["linear", 30, 10]
    # 27/49 * 49 + 1 is 28, and 27.999... in double precision: the published runs take 27 steps there.
    assert planned_steps("linear", 1, 50, total_steps=50) == [*range(1, 28), 27, *range(29, 50)]


@pytest.mark.parametrize("schedule", STEPS_SCHEDULES)
def test_steps_begin_at_one_end_and_stay_between_both(schedule):
    for steps_min, steps_max in ((1, 40), (40, 1), (9, 9)):
        steps = planned_steps(schedule, steps_min, steps_max)
        first = {"up": steps_min, "linear": steps_min, "down": steps_max, "fixed": steps_max}
        assert steps[0] == first["up" if schedule == "cosine_up_then_down" else schedule.split("_")[-1]]
        assert min(steps_min, steps_max) <= min(steps) and max(steps) <= max(steps_min, steps_max)
    with pytest.raises(ValueError, match="steps_schedule=square"):
        planned_steps("square", 3, 9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"total_steps": 0}, "total_steps=0"),
        ({"t_start": 0.2, "t_end": 0.9}, "t_end <= t_start"),
        ({"inv_r": 0.0}, "inv_r=0.0"),
        ({"steps_min": 0, "steps_max": 3}, "steps_min=0"),
        ({"steps_schedule": "square"}, "steps_schedule=square"),
        ({"denoise_steps": 0}, "denoising steps"),
    ],
)
def test_wrong_plans_are_refused(change, message):
    good = {
        "total_steps": 3,
        "denoise_steps": 10,
        "t_start": 0.9,
        "t_end": 0.2,
        "inv_r": 0.6,
        "init_steps": 2,
        "steps_min": 1,
        "steps_max": 2,
    }
    with pytest.raises(ValueError, match=message):
        plan_rounds(NoiseSchedule.scaled_linear(), **{**good, **change})


def replayed(schedule, eta, golden, prefix, start, levels_up, levels_down):
    """A noise function that answers with the noise which the golden trajectory implies at each step."""
    path = [start]
    answers = []
    zero = torch.zeros_like(start)
    stages = []
    if f"{prefix}.mid.after_inversion_steps" in golden:
        stages.append((golden[f"{prefix}.mid.after_inversion_steps"], levels_up, 0.0, None))
    fresh = golden.get(f"{prefix}.in.noise_eta") if eta else None
    stages.append((golden[f"{prefix}.mid.after_denoise_steps"], [*levels_down, -1], eta, fresh))
    for states, levels, stage_eta, noises in stages:
        for i, (state, (t, t_next)) in enumerate(zip(states, itertools.pairwise(levels), strict=True)):
            z = zero.double() if noises is None else noises[i].double()
            # step() is affine in the noise: state = offset + slope * noise
            offset = schedule.step(path[-1].double(), zero.double(), t, t_next, stage_eta, z)
            slope = schedule.step(zero.double(), torch.ones_like(zero).double(), t, t_next, stage_eta, zero.double())
            answers.append(((state.double() - offset) / slope).float())
            path.append(state)
    queue = iter(answers)
    return lambda _latents, _t, _scale: next(queue)


@pytest.mark.parametrize(
    ("file", "case", "top", "steps", "eta"),
    [
        ("zero123", "step_xl", 201, 20, 0.5),
        ("zero123", "step_stable", 301, 20, 0.5),
        ("zero123", "init_stable", None, 20, 0.5),
        ("mvdream", "step", 241, 50, 0.0),
        ("mvdream", "init", None, 10, 0.0),
        ("imagedream", "step", 401, 10, 1.0),
    ],
)
def test_targets_equal_the_published_loops(parity, monkeypatch, file, case, top, steps, eta):
    """Noising, levels, order of calls, guidance of each half and fresh noise; the networks' answers are read off the goldens."""
    with safe_open(parity(f"priors/{file}_sir_io.safetensors"), "pt") as opened:
        golden = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - safe_open is not a dict
    schedule = NoiseSchedule.scaled_linear()
    levels = schedule.levels(steps)
    fraction = 1 - (levels[::-1].index(top) + 0.5) / steps if top else 0.5  # the middle of the interval that gives this t2
    first, second = plan_rounds(
        schedule, total_steps=2, denoise_steps=steps, t_start=fraction, t_end=fraction, inv_r=0.6, init_steps=1, steps_min=1, steps_max=1
    )
    turn = second if top else first
    noised = golden[f"{case}.in.noise_init"] if top is None else golden[f"{case}.mid.after_noising"]
    prior = StubPrior(replayed(schedule, eta, golden, case, noised, turn.inversion, turn.denoising), schedule)
    drawn = iter([golden[f"{case}.in.noise_init" if top is None else f"{case}.in.noise_forward"], *golden.get(f"{case}.in.noise_eta", [])])
    for module in (sir, samplers):
        monkeypatch.setattr(module, "normal", lambda *_: next(drawn))
    cameras = turntable(len(golden["in.latents"]))
    out = sir.refine_latents(prior, golden["in.latents"], cameras, None, turn, 3.0, eta)
    assert [t for t, _ in prior.calls] == golden[f"{case}.mid.unet_timesteps"].tolist()
    up = max(len(turn.inversion) - 1, 0)
    assert [scale for _, scale in prior.calls] == [None] * up + [3.0] * len(turn.denoising)
    expected = golden[f"{case}.out.latents"]
    assert float((out - expected).abs().max()) < 1e-4 * float(expected.abs().max())


@pytest.mark.parametrize("from_noise", [True, False])
def test_without_noise_a_round_leaves_nothing_to_chance(from_noise):
    """At temperature 0 two seeds give the same targets; at 1 they differ."""
    prior, cameras = StubPrior(lambda latents, t, _scale: 0.3 * latents), turntable(4)
    plan = {"total_steps": 2, "denoise_steps": 4, "t_start": 0.8, "t_end": 0.8, "inv_r": 1.0}
    rounds = plan_rounds(prior.schedule, **plan, init_steps=1, steps_min=1, steps_max=1)
    turn = rounds[0 if from_noise else 1]
    assert turn.starts_from_noise == from_noise

    def targets(seed, temperature):
        renders = torch.full((4, 3, 8, 8), 0.4)
        return sir.repair(prior, renders, cameras, None, turn, 1.0, 1.0, torch.Generator().manual_seed(seed), temperature=temperature)

    assert torch.equal(targets(1, 0.0), targets(2, 0.0)) and not torch.equal(targets(1, 1.0), targets(2, 1.0))


def test_elevation_ranges_equal_the_goldens(parity):
    rows = np.load(parity("priors/cameras.npz"))["view_sampling.minver_maxver_elev_lo_hi"]
    for min_ver, max_ver, elevation, low, high in rows.tolist():
        assert sir.ViewRange(elevation, min_ver, max_ver, 2.0, 49.1, 64).offsets() == (low, high)


def test_drawn_views_suit_the_prior():
    prior = StubPrior(None)
    generator = torch.Generator().manual_seed(0)
    for count in (4, 8, 12):
        views = sir.ViewRange(10.0, -30.0, 30.0, 2.0, 49.1, 64, fewest=count, most=count + 3)
        for _ in range(20):
            cameras = sir.draw_cameras(prior, views, generator)
            prior.check_cameras(cameras)
            assert (len(cameras), cameras.width, cameras.height) == (count, 64, 64)
            assert float(cameras.elevation.min()) >= 10 - 40 and float(cameras.elevation.max()) <= 40
            assert len(set(cameras.azimuth.tolist())) == count
    views = sir.ViewRange(10.0, -30.0, 30.0, 2.0, 49.1, 64, fewest=5, most=12)
    assert views.counts(prior) == [8, 12]
    front = sir.draw_cameras(prior, views, generator, from_front=True)
    assert front.azimuth.tolist()[:4] == [0.0, 90.0, -180.0, -90.0] and front.elevation.tolist()[:4] == [10.0] * 4
    with pytest.raises(ValueError, match="takes a multiple of 4"):
        sir.draw_cameras(prior, dataclasses.replace(views, fewest=5, most=7), generator)


def test_views_of_a_free_prior_are_even_with_their_own_elevations():
    prior = StubPrior(None)
    prior.views, prior.azimuth_spacing, prior.shared_elevation = 1, None, False
    views = sir.ViewRange(0.0, -30.0, 30.0, 2.0, 49.1, 64, fewest=6, most=6)
    cameras = sir.draw_cameras(prior, views, torch.Generator().manual_seed(1))
    np.testing.assert_allclose(cameras.azimuth.diff().remainder(360), 60.0)
    assert len(set(cameras.elevation.tolist())) > 1
    with pytest.raises(ValueError, match="above max_ver"):
        sir.draw_cameras(prior, dataclasses.replace(views, min_ver=30.0, max_ver=-30.0), torch.Generator())


class Picture:
    """A representation that is nothing but its four pictures (and a fifth for the reference)."""

    def __init__(self, views=5):
        self.pixels = torch.full((views, 4, 8, 8), 0.5, requires_grad=True)

    def render(self, cameras, background):
        self.image, self.alpha = self.pixels[:, :3], self.pixels[:, 3:]
        return self


def test_loss_is_the_published_sum():
    picture, targets = Picture(), torch.rand(4, 3, 8, 8)
    reference = sir.Reference(orbit_cameras(0, 0, width=8, height=8), torch.rand(1, 3, 8, 8), torch.ones(1, 1, 8, 8))
    loss = sir.reconstruction_loss(picture.render(None, None), targets, reference, 2.0, 0.3, 0.01)
    expected = 2.0 * (0.5 - targets).abs().sum() / 4 + 0.3 * (0.5 - reference.image).abs().sum() + 0.01 * 0.25 * 64
    torch.testing.assert_close(loss, expected)


def test_fit_follows_targets_and_reference():
    picture, targets = Picture(), torch.rand(4, 3, 8, 8)
    reference = sir.Reference(orbit_cameras(0, 0, width=8, height=8), torch.rand(1, 3, 8, 8), torch.zeros(1, 1, 8, 8))
    optimiser, seen = torch.optim.Adam([picture.pixels], lr=0.02), []

    def learn(_rendering):
        optimiser.step()
        optimiser.zero_grad()

    turn = plan_rounds(
        NoiseSchedule.scaled_linear(), total_steps=1, denoise_steps=5, t_start=1, t_end=0, inv_r=1, init_steps=80, steps_min=1, steps_max=1
    )[0]
    cameras = turntable(4, width=8, height=8)
    fitter = sir.Fitter(picture, reference, torch.ones(3), learn, ref_mask_loss=1.0)
    loss = fitter.fit(cameras, targets, turn, before_step=seen.append)
    assert seen == list(turn.steps)
    torch.testing.assert_close(picture.pixels[:4, :3].detach(), targets, rtol=0, atol=0.03)
    torch.testing.assert_close(picture.pixels[4:, :3].detach(), reference.image, rtol=0, atol=0.03)
    assert loss < 10


class Blocks:
    """Pictures of whole blocks of pixels, whatever their size: what is shrunk shows the same."""

    def __init__(self, blocks):
        self.blocks, self.sizes = blocks.clone().requires_grad_(), []

    def render(self, cameras, background):
        self.sizes.append((cameras.height, cameras.width))
        assert cameras.world_to_camera.shape[0] == len(self.blocks)
        pixels = torch.nn.functional.interpolate(self.blocks, (cameras.height, cameras.width), mode="nearest")
        self.image, self.alpha = pixels[:, :3], pixels[:, 3:]
        torch.testing.assert_close(cameras.intrinsics, torch.tensor([[cameras.width / 16] * 4]) * whole_cameras().intrinsics)
        return self


def whole_cameras():
    return turntable(5, width=16, height=16)


def test_a_shrunk_fit_sees_fewer_pixels_that_weigh_as_much():
    generator = torch.Generator().manual_seed(0)
    shown, wanted, picture = (torch.rand(count, 4, 4, 4, generator=generator) for count in (5, 4, 1))
    large = [torch.nn.functional.interpolate(part, (16, 16), mode="nearest") for part in (wanted, picture)]
    cameras, reference = whole_cameras()[:4], sir.Reference(whole_cameras()[4:], large[1][:, :3], large[1][:, 3:])
    turn = plan_rounds(
        NoiseSchedule.scaled_linear(), total_steps=1, denoise_steps=5, t_start=1, t_end=0, inv_r=1, init_steps=1, steps_min=1, steps_max=1
    )[0]

    def fitted(shrink):
        blocks = Blocks(shown)
        fitter = sir.Fitter(blocks, reference, torch.ones(3), lambda _rendering: None, ref_mask_loss=1.0)
        loss = fitter.fit(cameras, large[0][:, :3], turn, shrink=shrink)
        return blocks.sizes, loss, blocks.blocks.grad

    _, whole_loss, whole_gradient = fitted(1)
    for shrink in (2, 4):
        sizes, loss, gradient = fitted(shrink)
        assert sizes == [(16 // shrink, 16 // shrink)]
        assert loss == pytest.approx(whole_loss, rel=1e-5)
        torch.testing.assert_close(gradient, whole_gradient, rtol=1e-4, atol=1e-5)


def test_one_fitter_goes_from_shrunk_views_to_whole_ones():
    """As a run does: the reference of each size is compared with renders of that size."""
    blocks, generator = Blocks(torch.full((5, 4, 4, 4), 0.5)), torch.Generator().manual_seed(0)
    cameras, targets = whole_cameras()[:4], torch.rand(4, 3, 16, 16, generator=generator)
    reference = sir.Reference(whole_cameras()[4:], torch.rand(1, 3, 16, 16, generator=generator), torch.ones(1, 1, 16, 16))
    fitter = sir.Fitter(blocks, reference, torch.ones(3), lambda _rendering: None)
    plan = {"total_steps": 2, "denoise_steps": 5, "t_start": 1, "t_end": 0, "inv_r": 1, "init_steps": 2, "steps_min": 1, "steps_max": 1}
    first, second = plan_rounds(NoiseSchedule.scaled_linear(), **plan)
    fitter.fit(cameras, targets, first, shrink=2)
    fitter.fit(cameras, targets, second)
    assert blocks.sizes == [(8, 8), (8, 8), (16, 16)]


def test_sir_recovers_an_object_that_the_prior_knows():
    """PSNR at views never fitted to: 15.8 dB for the grey ball, 35.9 dB after six rounds."""
    truth = coloured_ellipsoid()
    prior = OraclePrior(truth, 32)
    rounds = plan_rounds(
        prior.schedule,
        total_steps=6,
        denoise_steps=6,
        t_start=0.9,
        t_end=0.4,
        inv_r=0.6,
        init_steps=60,
        steps_min=15,
        steps_max=15,
    )
    generator, background = torch.Generator().manual_seed(0), torch.ones(3)
    model = GaussianModel.initial_ball(400, generator=generator)
    optimiser = model.make_optimizer()
    views = sir.ViewRange(0.0, -30.0, 30.0, 2.0, 49.1, 32)
    unseen = orbit_cameras([-20.0, 10.0, 0.0, -5.0], [33.0, 111.0, 200.0, 290.0], width=32, height=32)

    def quality():
        with torch.no_grad():
            return psnr(model.render(unseen, background).image, truth.render(unseen, background).image).mean().item()

    def learn(_rendering):
        optimiser.step()
        optimiser.zero_grad()

    fitter = sir.Fitter(model, None, background, learn)
    before = quality()
    for turn in rounds:
        cameras = sir.draw_cameras(prior, views, generator, from_front=turn.starts_from_noise)
        with torch.no_grad():
            renders = model.render(cameras, background).image
        targets = sir.repair(prior, renders, cameras, None, turn, 1.0, 1.0, generator)
        torch.testing.assert_close(targets, truth.render(cameras, background).image, rtol=0, atol=1e-3)
        fitter.fit(cameras, targets, turn, before_step=model.update_learning_rate)
    assert before < 17 and quality() > 33
    assert prior.evaluations == sum(turn.network_calls for turn in rounds)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_steps_replayed_as_a_graph_are_the_plain_steps():
    """Through three rounds, another number of views, and growth in the middle of a round."""
    device, background = torch.device("cuda"), torch.ones(3, device="cuda")
    truth = coloured_ellipsoid().to(device)
    schedule = {"total_steps": 3, "denoise_steps": 6, "t_start": 0.9, "t_end": 0.4, "inv_r": 1.0}
    rounds = plan_rounds(NoiseSchedule.scaled_linear(), **schedule, init_steps=12, steps_min=12, steps_max=12)
    camera = orbit_cameras(0.0, 0.0, width=64, height=64, device=device)
    with torch.no_grad():
        shown = truth.render(camera, background)
    reference = sir.Reference(camera, shown.image, shown.alpha)

    def fitted(graphs):
        generator = torch.Generator().manual_seed(0)
        model = GaussianModel.initial_ball(600, generator=generator, device=device)
        optimiser = model.make_optimizer()

        class Repeatable:
            def render(self, cameras, background):
                return model.render(cameras, background, deterministic=True)

        def learn(rendering):
            model.record_statistics(rendering)
            optimiser.step()
            optimiser.zero_grad()

        def grow(step):
            if step == 20:
                model.densify_and_prune(grad_threshold=1e-4, generator=generator)
            return step == 20

        fitter = sir.Fitter(Repeatable(), reference, background, learn)
        fitter.graphs = graphs
        losses = []
        for turn, views in zip(rounds, (4, 4, 6), strict=True):
            cameras = orbit_cameras(10.0 * turn.index, [360 / views * view for view in range(views)], width=64, height=64, device=device)
            with torch.no_grad():
                targets = truth.render(cameras, background).image
            losses.append(fitter.fit(cameras, targets, turn, before_step=model.update_learning_rate, after_step=grow))
        assert bool(fitter._graphed._captured) == graphs
        return losses, model

    (plain_losses, plain), (losses, model) = fitted(False), fitted(True)
    assert len(model) == len(plain) > 600 and losses == plain_losses
    for name in PARAMETERS:
        assert torch.equal(getattr(model, name), getattr(plain, name)), name
