"""ASD: the shift of the level, Perp-Neg view by view, and a gradient equal to the closed form and to the reference."""

import pytest
import torch
from conftest import DEVICES
from toy_prior import ToyPrior, golden_cases, random_condition, toy_noise

from cam_utils import orbit_cameras
from microdreamer.distillation import prompts
from microdreamer.distillation.asd import asd_loss, perp_neg, shifted_timestep
from microdreamer.guidance.base import CONDITIONAL, NULL
from microdreamer.guidance.directions import Thresholds

CONFIGURED = Thresholds(30.0, 30.0, 60.0)  # of the published configurations


def test_shifted_levels_equal_the_reference_exactly(parity):
    golden, _ = golden_cases(parity("generators/asd_timestep.npz"))
    cases = sorted({key.rsplit("_", 1)[0] for key in golden if key.endswith("_cfg")})
    assert len(cases) == 48
    for case in cases:
        ratio, is_random, low, _high = golden[f"{case}_cfg"].tolist()
        u = golden[f"{case}_u"] if is_random else None
        assert torch.equal(shifted_timestep(golden[f"{case}_t"], ratio, int(low), u), golden[f"{case}_t_plus"]), case


def test_shifted_levels_stay_among_the_levels():
    t = torch.tensor([0, 20, 520, 990, 999])
    assert shifted_timestep(t, 0.1, 20).tolist() == [1, 20, 570, 999, 999]
    assert shifted_timestep(t, 0.1, 20, torch.tensor([0.5, 0.5, 0.5, 0.5, 0.5])).tolist() == [
        1,
        20,
        545,
        994,
        999,
    ]  # 9 levels are left above 990
    assert shifted_timestep(t, 0.0, 20).tolist() == [1, 20, 520, 990, 999]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", ["case0", "case1", "case2", "case3"])
def test_stable_diffusion_equals_the_reference(parity, case, device):
    """Two pictures in one batch; the golden evaluated them one at a time, as the original mixes them up."""
    golden, settings = golden_cases(parity("generators/asd_loss_sd.npz"), device)
    chosen = settings[case]
    prior = ToyPrior(views=1, by_direction=True, alphas=golden["alphas_cumprod"])
    side, front, back, overhead = golden["emb_vd"].unbind(1)
    null = golden["emb_unvd"][0].expand(2, -1, -1)  # of the side, from which both views are taken; in use it is one sentence for all
    condition = {NULL: null, "sentences": torch.stack([null, front, side, back, overhead], dim=1)}
    cameras = orbit_cameras(-golden[f"{case}_elevation"], golden[f"{case}_azimuth"], device=device)
    t, u = golden[f"{case}_t"].cpu(), golden[f"{case}_u"].cpu()
    later = shifted_timestep(t, chosen["plus_ratio"], chosen["min_step"], u if chosen["plus_random"] else None)
    x = golden[f"{case}_latents"].clone().requires_grad_()
    loss, metrics = asd_loss(
        prior,
        x,
        cameras,
        condition,
        t.tolist(),
        later.tolist(),
        golden[f"{case}_noise"],
        guidance_scale=chosen["guidance_scale"],
        weighting=chosen["weighting"],
        told=prompts.view_words(cameras, CONFIGURED),
        perp=prompts.perp_neg(cameras, chosen["guidance_perp_neg"], CONFIGURED) if chosen["perp_neg"] else None,
    )
    loss.backward()
    torch.testing.assert_close(x.grad[..., ::4, ::4], golden[f"{case}_grad_latents"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss.detach(), golden[f"{case}_loss"], rtol=1e-5, atol=0)
    torch.testing.assert_close(metrics["grad_norm"], golden[f"{case}_grad_norm"], rtol=1e-5, atol=0)
    assert prior.evaluations == (5 if chosen["perp_neg"] else 3) and len(prior.asked) == 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", ["case0", "case1"])
def test_mvdream_equals_the_reference(parity, case, device):
    golden, settings = golden_cases(parity("generators/asd_loss_mv.npz"), device)
    chosen, c2w = settings[case], golden[f"{case}_c2w"]
    pose = c2w.clone()
    pose[:, :3, 3] /= c2w[:, :3, 3].norm(dim=-1, keepdim=True) + 1e-8
    prior = ToyPrior(camera=pose.flatten(1).sum(1), alphas=golden["alphas_cumprod"])
    condition = {NULL: golden["text_uncond"][None], CONDITIONAL: golden["text_cond"]}
    t, u = golden[f"{case}_t"].cpu(), golden[f"{case}_u"].cpu()
    later = shifted_timestep(t, chosen["plus_ratio"], chosen["min_step"], u if chosen["plus_random"] else None)
    x = golden[f"{case}_latents"].clone().requires_grad_()
    settings = {"guidance_scale": chosen["guidance_scale"], "weighting": chosen["weighting"]}
    loss, metrics = asd_loss(
        prior, x, orbit_cameras(0, [0, 90, 180, 270], device=device), condition, int(t), int(later), golden[f"{case}_noise"], **settings
    )
    loss.backward()
    torch.testing.assert_close(x.grad, golden[f"{case}_grad_latents"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss.detach(), golden[f"{case}_loss"], rtol=1e-5, atol=0)
    torch.testing.assert_close(metrics["grad_norm"], golden[f"{case}_grad_norm"], rtol=1e-5, atol=0)


def asd_of(views, condition, cameras, x, t, later, noise, **settings):
    prior = ToyPrior(views=1, by_direction=True)
    x = x.clone().requires_grad_()
    loss = asd_loss(prior, x, cameras, condition, t, later, noise, guidance_scale=7.5, **settings).loss
    loss.backward()
    return x.grad


def test_views_of_a_batch_do_not_mix():
    """With Perp-Neg each view gets what it gets alone, divided by their number; the published code evaluates negatives on other views."""
    generator = torch.Generator().manual_seed(0)
    condition, cameras = random_condition(3, generator=generator), orbit_cameras([-12.0, -40, -70], [20.0, -100, 50])
    x, noise = (torch.randn(3, 4, 6, 6, generator=generator) for _ in range(2))
    t, later = [300, 500, 700], [310, 555, 700]
    together = asd_of(3, condition, cameras, x, t, later, noise, perp=prompts.perp_neg(cameras))
    for view in range(3):
        one = slice(view, view + 1)
        alone = asd_of(
            1,
            {key: states[one] for key, states in condition.items()},
            cameras[one],
            x[one],
            t[one],
            later[one],
            noise[one],
            perp=prompts.perp_neg(cameras[one]),
        )
        torch.testing.assert_close(3 * together[one], alone, rtol=1e-5, atol=1e-6)


def test_the_gradient_is_the_formula():
    generator = torch.Generator().manual_seed(1)
    condition, cameras = random_condition(4, generator=generator), orbit_cameras(0, [0, 90, 180, 270])
    x, noise = (torch.randn(4, 4, 6, 6, generator=generator) for _ in range(2))
    prior = ToyPrior()
    leaf = x.clone().requires_grad_()
    asd_loss(prior, leaf, cameras, condition, 400, 460, noise, guidance_scale=3.0, weighting="fantasia3d", grad_clip=0.05).loss.backward()

    def noise_at(t, told):
        alpha = prior.schedule.alpha(t)
        return toy_noise(alpha**0.5 * x + (1 - alpha) ** 0.5 * noise, torch.full((4,), t), condition[told])

    alpha = prior.schedule.alpha(400)
    guided = noise_at(400, NULL) + 3 * (noise_at(400, CONDITIONAL) - noise_at(400, NULL))
    expected = alpha**0.5 * (1 - alpha) * (guided - noise_at(460, CONDITIONAL))
    assert float(expected.abs().max()) > 0.06
    torch.testing.assert_close(leaf.grad, expected.clamp(-0.05, 0.05) / 4, rtol=1e-4, atol=1e-7)


def test_perp_neg_ignores_what_lies_along_the_condition():
    generator = torch.Generator().manual_seed(2)
    null, conditional, negative = (torch.randn(2, 4, 5, 5, generator=generator, dtype=torch.float64) for _ in range(3))
    weights = -torch.rand(2, 1, generator=generator, dtype=torch.float64)
    guided = perp_neg(null, conditional, [negative], weights, 2.0)
    along = perp_neg(null, conditional, [negative + 3 * (conditional - null)], weights, 2.0)
    torch.testing.assert_close(guided, along)
    added = guided - (null + 2 * (conditional - null))
    assert float((added * (conditional - null)).sum((1, 2, 3)).abs().max()) < 1e-9 < float(added.abs().max())
    same = perp_neg(null, null, [negative], weights, 2.0)  # no direction: nothing is divided by 0
    assert bool(same.isfinite().all())


def test_a_network_that_fails_leaves_no_gradient(monkeypatch):
    condition, cameras = random_condition(4), orbit_cameras(0, [0, 90, 180, 270])
    prior = ToyPrior()
    monkeypatch.setattr(prior, "predict_each", lambda branches, *_: [torch.full_like(branch.latents, torch.nan) for branch in branches])
    x = torch.randn(4, 4, 6, 6, requires_grad=True)
    asd_loss(prior, x, cameras, condition, 400, 460, torch.randn(4, 4, 6, 6), guidance_scale=3.0).loss.backward()
    assert not x.grad.any()
