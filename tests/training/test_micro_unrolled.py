"""Unrolled steps of training: what they take over from sampling, and errors of what is read off, seen from free cameras."""

import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from cam_utils import RADIUS, orbit_cameras
from microdreamer.guidance.micro.network import SLOTS, MultiViewNetwork, NetworkConfig, Surfaces
from microdreamer.guidance.micro.pixel_gaussians import draw, gaussians_of
from microdreamer.guidance.micro.prior import END, LOG_SNR_SHIFT, MIN_LOG_SNR
from microdreamer.guidance.micro.read_off import points_of
from microdreamer.guidance.micro.vocabulary import Vocabulary
from microdreamer.guidance.schedule import NoiseSchedule
from microdreamer.metrics.pictures import mask_iou, psnr
from microdreamer.shapes.geometry import PlacePainter, camera_depth
from microdreamer.shapes.packed import load_packed
from microdreamer.shapes.render import over_white, render_views
from microdreamer.training.micro_prior import loop
from microdreamer.training.micro_prior.bank import Bank
from microdreamer.training.micro_prior.batches import FREE_VIEWS, FreeViews, draw_batch
from microdreamer.training.micro_prior.loop import TrainingConfig, check_unrolled, denoising_loss, train
from microdreamer.training.micro_prior.unrolled import begun_views, free_errors, renoised, sampling_levels

ROOT = Path(__file__).parents[2]
PACK = ROOT / "test_data" / "objects_small.npz"
TINY = NetworkConfig(
    resolution=32, channels=(16, 32, 64), depth=(1, 1, 1, 1, 1), head_width=16, condition_width=32, text_width=32, references=SLOTS,
    relative_cameras=True, geometry=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def bank():
    meshes = load_packed([PACK])
    return Bank.build(meshes, torch.ones(len(meshes)), Vocabulary(["a"]), TINY.text_tokens, "cpu", places=True)


def in_float64(value):
    """A batch, or a part of it, in float64."""
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    if dataclasses.is_dataclass(value):
        return dataclasses.replace(value, **{f.name: in_float64(getattr(value, f.name)) for f in dataclasses.fields(value)})
    return value


def without_skies(batch):
    """The batch with depth told everywhere: where there is no surface the painter's answer lies behind the camera."""
    depth = torch.where(batch.seen > 0, batch.surfaces.depth, 0.0)
    return Surfaces(depth, torch.where(batch.seen > 0, batch.surfaces.coverage, -1.0), batch.surfaces.albedo)


def test_levels_go_from_pure_noise_to_those_of_sampling():
    levels = sampling_levels(4000, 3, "cpu").double()
    assert levels.shape == (3, 4000)
    assert torch.allclose(levels[0], torch.full_like(levels[0], MIN_LOG_SNR), atol=0.01)
    assert bool((levels.diff(dim=0) >= 0).all()) and float(levels.max()) <= END + 0.01
    schedule = NoiseSchedule.shifted_cosine(LOG_SNR_SHIFT, MIN_LOG_SNR, END)  # uniform over its levels
    expected = torch.tensor([schedule.log_snr(int(t)) for t in torch.linspace(999, 0, 4000)])
    # Near its ends the schedule's levels lie 0.2 apart.
    torch.testing.assert_close(levels[2].sort().values[200:-200], expected.double()[200:-200], rtol=0, atol=0.05)
    assert torch.allclose(sampling_levels(5, 1, "cpu"), torch.full((1, 5), MIN_LOG_SNR), atol=0.01)


def test_a_step_between_levels_is_that_of_the_sampler():
    schedule = NoiseSchedule.shifted_cosine(LOG_SNR_SHIFT, MIN_LOG_SNR, END)
    noisy, clean, fresh = torch.randn(3, 2, 4, 3, 8, 8, dtype=torch.float64)
    for now, then in ((999, 500), (700, 10), (400, 400)):
        levels = (torch.full((2,), schedule.log_snr(t), dtype=torch.float64) for t in (now, then))
        alpha = schedule.alpha(now)
        noise = (noisy - math.sqrt(alpha) * clean) / math.sqrt(1 - alpha)
        torch.testing.assert_close(renoised(noisy, clean, *levels, fresh), schedule.step(noisy, noise, now, then, 1.0, fresh))


def test_views_are_begun_by_the_network_from_noise_alone(bank):
    """Two steps: the network sees pure noise of the first samples once, and what it told comes back noised to the next level."""
    batch, seen = draw_batch(bank, 8, 32, free=3), []

    def network(noisy, log_snr, rays, camera, pictures, picture_rays, picture_camera, tokens):
        seen.append((noisy, log_snr))
        assert torch.equal(rays, batch.rays[:3]) and torch.equal(pictures, batch.pictures[:3]) and len(tokens) == len(camera) == 3
        return torch.full_like(noisy, 0.5)

    noisy, level = begun_views(network, batch, 3, 2)
    ((first, at),) = seen
    assert float(first.std()) == pytest.approx(1, abs=0.02) and torch.allclose(at, torch.full((3,), MIN_LOG_SNR), atol=0.01)
    alpha = torch.sigmoid(level)
    torch.testing.assert_close(noisy.mean(dim=(1, 2, 3, 4)), 0.5 * alpha.sqrt(), rtol=0, atol=0.05)
    torch.testing.assert_close(noisy.std(dim=(1, 2, 3, 4)), (1 - alpha).sqrt(), rtol=0.03, atol=0)
    assert begun_views(network, batch, 3, 1)[0].shape == (3, 4, 3, 32, 32) and len(seen) == 1  # one step asks no network before


def test_points_and_gaussians_lie_at_the_same_places():
    generator = torch.Generator().manual_seed(0)
    cameras = orbit_cameras([-15.0, 20.0], [30.0, 200.0], width=8, height=8)
    surfaces = Surfaces(1.5 + torch.rand(2, 1, 8, 8, generator=generator), torch.ones(2, 1, 8, 8), torch.ones(2, 3, 8, 8))
    colours = torch.rand(2, 3, 8, 8, generator=generator)
    points, shades = points_of(colours, surfaces, cameras)
    batched = Surfaces(surfaces.depth[None], surfaces.coverage[None], surfaces.albedo[None])
    found = gaussians_of(colours[None], batched, cameras.world_to_camera[None], cameras.intrinsics[0])
    torch.testing.assert_close(found["means"][0], points.float(), rtol=0, atol=1e-5)
    assert torch.equal(found["colors"][0], shades) and bool((found["opacities"] == 1).all())


def test_opacity_is_coverage_without_fog():
    coverage = torch.tensor([-0.1, 0.0, 0.25, 0.5, 0.6, 0.75, 1.0, 1.1]).view(1, 1, 1, 1, 8).expand(-1, -1, -1, 8, -1)
    surfaces = Surfaces(torch.full_like(coverage, 2.0), coverage, coverage)
    camera = orbit_cameras(0, 0, width=8, height=8)
    found = gaussians_of(torch.ones(1, 1, 3, 8, 8), surfaces, camera.world_to_camera[None], camera.intrinsics[0])["opacities"]
    torch.testing.assert_close(found.view(8, 8)[3], torch.tensor([0, 0, 0, 0.5, 0.7, 1, 1, 1]))


def test_true_surfaces_read_off_look_like_the_object_from_free_cameras():
    """128 pixels, four views: 22 dB and IoU 0.9 from cameras between them, each; without the object it is less than 15 dB."""
    meshes, size = load_packed([PACK]), 128
    cameras = orbit_cameras([-15.0] * 4, [0, 90, 180, 270], width=size, height=size)
    free = orbit_cameras([-25.0, -5.0, -20.0], [40, 160, 290], width=size, height=size)
    pose, intrinsics = cameras.world_to_camera[:, :3].float().contiguous(), cameras.intrinsics.float()
    painter = PlacePainter(meshes)
    for index in range(len(meshes)):
        places, seen = painter.render(torch.full((4,), index), torch.eye(3, 4).repeat(4, 1, 1), pose, intrinsics, size)
        views, truth = render_views(meshes, index, cameras), render_views(meshes, index, free)
        depth = torch.where(seen, camera_depth(places, pose), RADIUS)
        told = Surfaces(depth[None], (views[:, 3:] * seen)[None], torch.ones(1, 4, 3, size, size))
        gaussians = gaussians_of(over_white(views)[None], told, cameras.world_to_camera[None], intrinsics[0])
        own = {name: part[0] for name, part in gaussians.items()}
        image, alpha = draw(own, free.world_to_camera, free.intrinsics[0], size)
        assert float(psnr(image, over_white(truth)).min()) > 22
        assert float(mask_iou(alpha, truth[:, 3:]).min()) > 0.9
        assert float(psnr(torch.ones_like(image), over_white(truth)).max()) < 15


def test_free_views_show_the_samples_of_the_batch(bank):
    """What is read off the true surfaces of a batch looks like its free views, and unlike those of the sample before."""
    torch.manual_seed(0)
    batch = draw_batch(bank, 12, 64, free=6)
    assert batch.free.pictures.shape == (6, FREE_VIEWS, 3, 64, 64) and bool((batch.picture_camera[:6, 6] == 1).all())
    told = without_skies(batch)
    own = free_errors(batch.views, told, batch.free)
    other = dataclasses.replace(batch.free, pictures=batch.free.pictures.roll(1, 0), coverage=batch.free.coverage.roll(1, 0))
    assert float(own[0]) < 4 * 10**-1.7 and float(own[2]) < 0.5 * 4 * 0.02  # 17 dB, at 64 pixels
    assert bool((free_errors(batch.views, told, other) > torch.tensor([8, 1.5, 8]) * own).all())


def test_errors_at_free_cameras_are_weighted_as_they_say(bank):
    """With nothing covered the drawing is white: the errors are then those of white pictures."""
    batch = draw_batch(bank, 4, 32, free=2)
    nothing = Surfaces(*(torch.zeros_like(batch.surfaces.depth), torch.full_like(batch.surfaces.coverage, -1.0), batch.surfaces.albedo))
    error = 1 - batch.free.pictures
    edges = error.diff(dim=-1).square().mean() + error.diff(dim=-2).square().mean()
    expected = torch.stack([error.square().mean(), 0.5 * edges, 0.5 * (batch.free.coverage + 1).square().mean()])
    torch.testing.assert_close(free_errors(batch.views, nothing, batch.free), expected)


def test_gradients_of_free_errors_are_finite_differences():
    """By colours, depth and coverage, in float64, of two objects of 2 views and 8 pixels."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    views = orbit_cameras([-10.0, 10.0], [0, 90], width=8, height=8)
    free = orbit_cameras([-30.0, 20.0], [40, 230], width=8, height=8)
    both = [cameras.world_to_camera.double().expand(2, -1, -1, -1) for cameras in (free, views)]
    truth = FreeViews(draw(2, 2, 3, 8, 8) * 2 - 1, draw(2, 2, 1, 8, 8) * 2 - 1, *both, views.intrinsics[0].double())
    told = [draw(2, 2, 3, 8, 8) - 0.5, 0.3 * draw(2, 2, 1, 8, 8) - 0.15, 0.6 * draw(2, 2, 1, 8, 8) - 0.3]

    def error(colours, depth, coverage):
        return (free_errors(colours, Surfaces(depth, coverage, colours), truth) * torch.tensor([1.0, 2.0, 3.0])).sum()

    leaves = [part.clone().requires_grad_() for part in told]
    gradients = torch.autograd.grad(error(*leaves), leaves)
    for number, gradient in enumerate(gradients):
        direction = draw(*told[number].shape) - 0.5
        step = 1e-6 * direction
        up, down = (error(*(part + sign * step if k == number else part for k, part in enumerate(told))) for sign in (1, -1))
        found, expected = float((up - down) / 2e-6), float((gradient * direction).sum())
        assert abs(expected) > 1e-3 and found == pytest.approx(expected, rel=2e-4), number


class PixelNetwork(torch.nn.Module):
    """Stands in for the network, in any precision: each pixel's answer is a linear map of itself and its log-SNR."""

    def __init__(self):
        super().__init__()
        self.map = torch.nn.Linear(4, 8)

    def forward(self, noisy, log_snr, rays, camera, pictures, picture_rays, picture_camera, tokens, geometry=0):
        level = (0.1 * log_snr[:, None, None, None, None]).expand_as(noisy[:, :, :1])
        values = 0.3 * self.map(torch.cat([noisy, level], dim=2).movedim(2, -1)).movedim(-1, 2)
        # What a camera has far outside of its picture is drawn without the whole gradient: only the middle is covered.
        border = F.pad(torch.zeros_like(noisy[0, 0, 0, 2:-2, 2:-2]), (2, 2, 2, 2), value=2.0)
        values = values - border * torch.eye(8)[4].to(noisy)[:, None, None]
        return (values[:, :, :3], Surfaces.of(values[:geometry, :, 3:])) if geometry else values[:, :, :3]


def test_begun_views_are_seen_and_weighted_at_their_own_level(bank):
    """The first samples at the levels that they were begun to, the others at those drawn; each error weighs what its level says."""
    batch = draw_batch(bank, 4, 32, free=2)
    own, level, drawn, seen = torch.randn_like(batch.views[:2]), torch.tensor([-1.0, 2.5]), torch.tensor([9.0, 9.0, -6.0, 0.5]), []

    def network(noisy, log_snr, *_):
        seen.append((noisy, log_snr))
        return torch.zeros_like(noisy), without_skies(batch)

    _, parts = denoising_loss(network, batch, drawn, TrainingConfig(batch=4), (own, level))
    ((noisy, at),) = seen
    assert torch.equal(noisy[:2], own) and at.tolist() == [*level.tolist(), -6.0, 0.5]
    weight = at.exp().clamp(max=5) + 4
    assert float(parts[0]) == pytest.approx(float((weight * batch.views.square().mean(dim=(1, 2, 3, 4))).mean()))


def test_gradient_of_an_unrolled_step_is_a_finite_difference(bank):
    """The whole loss in float64, by all weights of a small network; what it began is held fixed, as training holds it."""
    torch.manual_seed(1)
    network, batch = PixelNetwork().double(), in_float64(draw_batch(bank, 4, 8, free=2))
    config = TrainingConfig(batch=4, unrolled_weight=5.0)
    begun = begun_views(network, batch, 2, 2)
    assert not begun[0].requires_grad

    def loss():
        torch.manual_seed(2)  # the same noise again
        return denoising_loss(network, batch, torch.zeros(4, dtype=torch.float64), config, begun)

    total, parts = loss()
    assert len(parts) == 7 and float(total.detach()) == pytest.approx(float(parts.sum())) and float(parts[4:].sum() / parts.sum()) > 0.1
    gradients = torch.autograd.grad(total, list(network.parameters()))
    directions = [torch.randn_like(parameter) for parameter in network.parameters()]
    expected = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
    ends = []
    for sign in (1, -2):
        with torch.no_grad():
            for parameter, direction in zip(network.parameters(), directions, strict=True):
                parameter.add_(sign * 1e-6 * direction)
        ends.append(float(loss()[0].detach()))
    assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(expected, rel=1e-4)


def test_free_errors_teach_all_of_the_network_that_tells_surfaces_and_colours(bank):
    torch.manual_seed(1)
    network, batch = MultiViewNetwork(TINY), draw_batch(bank, 4, 32, free=1)
    with torch.no_grad():  # heads start at 0
        for parameter in network.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    noisy, level = begun_views(network, batch, 1, 2)
    given = [part[:1] for part in (batch.rays, batch.camera, batch.pictures, batch.picture_rays, batch.picture_camera, batch.tokens)]
    free_errors(*network(noisy, level, *given, 1), batch.free).sum().backward()
    for name in ("head.weight", "geometry_head.weight", "stem.weight", "deep.0.attention.qkv.weight"):
        assert float(network.get_parameter(name).grad.norm()) > 0, name


def run(bank, steps=6, **options):
    config = TrainingConfig(steps=steps, batch=4, warmup_steps=2, compile=False, graph=False, unrolled_objects=1, **options)
    reports = []
    torch.manual_seed(3)
    train(MultiViewNetwork(TINY), bank, config, reports.append)
    return reports


def test_the_share_at_the_end_of_the_run_is_unrolled(bank, monkeypatch):
    steps = []
    monkeypatch.setattr(loop, "REPORT_STEPS", 1)
    monkeypatch.setattr(loop, "begun_views", lambda *given: (steps.append(given[-1]), begun_views(*given))[1])
    for share, expected in ((0.0, 0), (0.34, 2), (1.0, 6)):
        steps.clear()
        reports = run(bank, unrolled_share=share, unrolled_steps=3)
        assert steps == [3] * expected
        assert ["free_psnr" in report for report in reports] == [False] * (6 - expected) + [True] * expected
    (report,) = run(bank, steps=1, unrolled_share=1.0, unrolled_weight=0.0)  # own samples alone
    assert report["free_colours"] == 0 and "free_psnr" not in report


def test_reports_average_free_errors_over_unrolled_steps_alone(bank, monkeypatch):
    each, told = [], torch.tensor([0.4, 0.2, 0.1])
    monkeypatch.setattr(loop, "free_errors", lambda *_: (each.append(1), told.requires_grad_())[1])
    (report,) = run(bank, steps=4, unrolled_share=0.5, unrolled_weight=0.5)
    assert len(each) == 2
    assert [report[name] for name in ("free_colours", "free_edges", "free_coverage")] == pytest.approx([0.2, 0.1, 0.05])
    assert report["free_psnr"] == pytest.approx(10 * math.log10(4 / 0.4))
    plain = sum(report[name] for name in ("colours", "depth", "coverage", "albedo"))
    assert report["loss"] == pytest.approx(plain + 0.35 / 2)


def test_plain_steps_are_not_changed_by_the_unrolled_ones_to_come(bank, monkeypatch):
    monkeypatch.setattr(loop, "REPORT_STEPS", 1)
    assert [r["loss"] for r in run(bank, unrolled_share=0.34)[:4]] == [r["loss"] for r in run(bank)[:4]]


@pytest.mark.parametrize(
    ("settings", "geometry", "message"),
    [
        ({"unrolled_share": 1.5}, True, "unrolled_share=1.5: expected 0 .* to 1"),
        ({"unrolled_share": 0.1}, False, "use --geometry"),
        ({"unrolled_share": 0.1, "unrolled_weight": -1.0}, True, "unrolled_weight=-1.0: expected 0"),
        ({"unrolled_share": 0.1, "unrolled_steps": 0}, True, "unrolled_steps=0: expected 1 or more"),
        ({"unrolled_share": 0.1, "unrolled_objects": 17, "batch": 32}, True, "expected 1 to 16 with batch=32"),
        ({"unrolled_share": 0.1, "unrolled_objects": 16, "batch": 32, "several_share": 0.6}, True, "expected 1 to 13"),
    ],
)
def test_settings_that_do_not_fit_are_told(settings, geometry, message):
    with pytest.raises(ValueError, match=message):
        check_unrolled(TrainingConfig(**settings), geometry, SLOTS)


def test_the_command_refuses_settings_before_it_loads_anything(tmp_path):
    words = ["--objects", str(tmp_path / "nothing.npz"), "--unrolled-share", "0.1", "--unrolled-objects", "65"]
    ended = subprocess.run([sys.executable, ROOT / "scripts" / "train_micro_prior.py", *words], capture_output=True, text=True)
    assert ended.returncode == 2 and "unrolled_objects=65: expected 1 to 64 with batch=128" in ended.stderr.splitlines()[-1]
