"""SDS and x0-SDS: gradients equal to the closed forms, and x0-SDS to the reference."""

import pytest
import torch
from conftest import DEVICES
from toy_prior import ToyPrior, golden_cases, random_condition, toy_noise

from cam_utils import orbit_cameras
from microdreamer.distillation.sds import WEIGHTINGS, along, rescale_std, sds_loss, toward, x0_sds_loss
from microdreamer.guidance.base import CONDITIONAL, NULL

CAMERAS = orbit_cameras(0, [0, 90, 180, 270, 45, 135, 225, 315])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", ["case0", "case1", "case2", "case3"])
def test_x0_sds_equals_the_reference(parity, case, device):
    golden, settings = golden_cases(parity("generators/x0_sds.npz"), device)
    chosen, c2w = settings[case], golden[f"{case}_c2w"]
    c2w = c2w.clone()
    c2w[:, :3, 3] /= c2w[:, :3, 3].norm(dim=-1, keepdim=True) + 1e-8
    prior = ToyPrior(camera=c2w.flatten(1).sum(1), alphas=golden["alphas_cumprod"])
    condition = {NULL: golden[f"{case}_text_uncond"], CONDITIONAL: golden[f"{case}_text_cond"]}
    x = golden[f"{case}_latents"].clone().requires_grad_()
    loss, metrics = x0_sds_loss(
        prior,
        x,
        CAMERAS[: len(x)].to(device),
        condition,
        int(golden[f"{case}_t"]),
        golden[f"{case}_noise"],
        guidance_scale=chosen["guidance_scale"],
        recon_std_rescale=chosen["recon_std_rescale"],
    )
    loss.backward()
    torch.testing.assert_close(x.detach() - len(x) * x.grad, golden[f"{case}_latents_recon"], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(x.grad, golden[f"{case}_grad_latents"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loss.detach(), golden[f"{case}_loss"], rtol=1e-5, atol=0)
    # The golden's norm is that of the gradient in latents, ours that of the difference, as for the other objectives.
    torch.testing.assert_close(metrics["grad_norm"] / len(x), golden[f"{case}_grad_norm"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("groups", [1, 3])
def test_the_rescale_equals_the_rule(parity, groups, device):
    golden, _ = golden_cases(parity("generators/recon_std_rescale.npz"), device)
    guided, conditional = golden[f"g{groups}_x0_cfg"], golden[f"g{groups}_x0_nocfg"]
    for share in (0.3, 0.5, 0.7, 1.0):
        torch.testing.assert_close(rescale_std(guided, conditional, 4, share), golden[f"g{groups}_s{share}"], rtol=1e-5, atol=1e-6)


def test_the_rescale_gives_each_group_the_contrast_of_the_condition():
    generator = torch.Generator().manual_seed(0)
    guided, conditional = (
        torch.randn(8, 4, 6, 6, generator=generator) * torch.tensor([5.0, 2]).repeat_interleave(4).view(8, 1, 1, 1) for _ in "ab"
    )
    groups = rescale_std(guided, 0.1 * conditional, 4, 1.0).unflatten(0, (2, 4)).flatten(1)
    torch.testing.assert_close(groups.std(dim=1), (0.1 * conditional).unflatten(0, (2, 4)).flatten(1).std(dim=1))
    assert rescale_std(guided, conditional, 4, 0.0) is guided
    flat = rescale_std(torch.zeros(4, 4, 6, 6), torch.zeros(4, 4, 6, 6), 4, 0.5)
    assert not flat.any()


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_sds_gradient_is_the_formula_at_each_group_s_level(weighting):
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(8, 4, 6, 6, generator=generator) for _ in range(2))
    condition, prior = random_condition(8, generator=generator), ToyPrior()
    leaf = x.clone().requires_grad_()
    sds_loss(prior, leaf, CAMERAS, condition, [300, 800], noise, guidance_scale=5.0, weighting=weighting).loss.backward()
    for group, t in enumerate((300, 800)):
        views, alpha = slice(4 * group, 4 * group + 4), prior.schedule.alpha(t)
        noisy, levels = alpha**0.5 * x[views] + (1 - alpha) ** 0.5 * noise[views], torch.full((4,), t)
        null, conditional = (toy_noise(noisy, levels, condition[told][views]) for told in (NULL, CONDITIONAL))
        weight = {"sds": 1 - alpha, "uniform": 1.0, "fantasia3d": alpha**0.5 * (1 - alpha)}[weighting]
        expected = weight * (null + 5 * (conditional - null) - noise[views]) / 8
        torch.testing.assert_close(leaf.grad[views], expected, rtol=1e-4, atol=1e-6)


def test_sds_is_x0_sds_but_for_a_factor_of_the_level():
    """(1 - a) (eps - n) = sqrt(a (1 - a)) (x - x0): both pull towards the same picture."""
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(4, 4, 6, 6, generator=generator) for _ in range(2))
    condition, prior, gradients = random_condition(4, generator=generator), ToyPrior(), []
    for loss in (sds_loss, x0_sds_loss):
        leaf = x.clone().requires_grad_()
        rescale = {"recon_std_rescale": 0.0} if loss is x0_sds_loss else {}
        loss(prior, leaf, CAMERAS[:4], condition, 600, noise, guidance_scale=3.0, **rescale).loss.backward()
        gradients.append(leaf.grad)
    alpha = prior.schedule.alpha(600)
    torch.testing.assert_close(gradients[0], (alpha * (1 - alpha)) ** 0.5 * gradients[1], rtol=1e-4, atol=1e-6)


def test_a_prior_that_agrees_asks_for_no_change(monkeypatch):
    x, noise = (torch.randn(4, 4, 6, 6) for _ in range(2))
    prior = ToyPrior()
    monkeypatch.setattr(prior, "predict_each", lambda branches, *_: [noise for _ in branches])
    for loss in (sds_loss, x0_sds_loss):
        leaf = x.clone().requires_grad_()
        loss(prior, leaf, CAMERAS[:4], None, 500, noise, guidance_scale=50.0).loss.backward()
        assert float(leaf.grad.abs().max()) < 1e-5


def test_losses_carry_their_gradient_and_no_more():
    x, target = (
        torch.randn(4, 3, 5, 5, dtype=torch.float64, requires_grad=True),
        torch.randn(4, 3, 5, 5, dtype=torch.float64, requires_grad=True),
    )
    toward(x, target).backward()
    torch.testing.assert_close(x.grad, (x - target).detach() / 4)
    assert target.grad is None
    x.grad, gradient = None, torch.randn(4, 3, 5, 5, dtype=torch.float64)
    loss, length = along(x, gradient, grad_clip=0.3)
    (2 * loss).backward()
    torch.testing.assert_close(x.grad, 2 * gradient.clamp(-0.3, 0.3) / 4)
    assert float(length) == pytest.approx(float(gradient.clamp(-0.3, 0.3).norm()))


def test_a_gradient_small_beside_the_latents_is_not_rounded_away():
    x, gradient = torch.full((1, 1, 2, 2), 1000.0, requires_grad=True), torch.full((1, 1, 2, 2), 1e-6)
    along(x, gradient)[0].backward()
    assert torch.equal(x.grad, gradient)
