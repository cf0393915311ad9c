"""A field as a representation: where things appear, what training and evaluation do, and what a resumed run repeats."""

import math

import pytest
import torch
from conftest import DEVICES, relative_l2
from field_scenes import SMALL_GRID, Ball, small_field
from torch._subclasses.fake_tensor import FakeTensorMode

from cam_utils import concatenate, orbit_cameras, project, turntable
from microdreamer.core.cuda_graphs import capture, warm_up
from microdreamer.distillation import sir
from microdreamer.fields import sample_room, volume_model
from microdreamer.fields.backgrounds import SolidBackground
from microdreamer.fields.implicit_volume import ImplicitVolumeSpec
from microdreamer.fields.materials import PointLightDiffuse, ShadingPolicy
from microdreamer.fields.sample_room import Room
from microdreamer.fields.volume_model import Draws, VolumeModel, VolumeSettings
from microdreamer.kernels import extension

BLUE = (0.1, 0.2, 0.9)
EACH = pytest.mark.parametrize("device", DEVICES)


def ball_model(background=BLUE, samples_per_ray=256, material=None, shading=None, settings=None, **ball):
    settings = VolumeSettings(samples_per_ray=samples_per_ray, **settings or {})
    return VolumeModel(Ball(**ball), SolidBackground(background), settings, material=material, shading=shading).eval()


# ---- Geometry ----


@EACH
@pytest.mark.parametrize("center", [(0.0, 0.0, 0.0), (0.5, 0.2, -0.3), (-0.4, -0.5, 0.6)])
def test_a_ball_appears_where_its_centre_projects_to(center, device):
    model = ball_model(radius=0.12, density=1000.0, samples_per_ray=700, center=center).to(device)
    cameras = orbit_cameras([0, -30, 50], [0, 100, -70], 2.5, width=96, height=80, device=device)
    with torch.no_grad():
        seen = model.render(cameras)
    rows, columns = torch.meshgrid(torch.arange(80.0) + 0.5, torch.arange(96.0) + 0.5, indexing="ij")
    alpha = seen.alpha[:, 0].cpu()
    total = alpha.sum((1, 2))
    pixels, _ = project(cameras, torch.tensor([center], device=device))
    torch.testing.assert_close((alpha * columns).sum((1, 2)) / total, pixels[:, 0, 0].cpu(), rtol=0, atol=0.3)
    torch.testing.assert_close((alpha * rows).sum((1, 2)) / total, pixels[:, 0, 1].cpu(), rtol=0, atol=0.3)
    nearest = torch.where(alpha > 0.999, seen.depth[:, 0].cpu() / alpha, math.inf).amin((1, 2))
    distance = (cameras.centers - torch.tensor(center, device=device)).norm(dim=1).cpu()
    torch.testing.assert_close(nearest, distance - 0.12, rtol=0, atol=0.01)


@EACH
def test_colour_alpha_and_depth_of_a_ball(device):
    """Through the middle of a ball of density s and radius r: alpha = 1 - exp(-2 s r), over the background."""
    density, radius = 3.0, 0.4
    model = ball_model(radius=radius, density=density, samples_per_ray=2000).to(device)
    seen = model.render(orbit_cameras(20, 30, 2.0, width=65, height=65, device=device), None)
    middle = [picture[0, :, 32, 32].tolist() for picture in (seen.alpha, seen.image, seen.depth)]
    alpha = -math.expm1(-2 * density * radius)
    assert middle[0] == pytest.approx([alpha], abs=3e-3)
    assert middle[1] == pytest.approx([alpha * c + (1 - alpha) * b for c, b in zip((0.8, 0.3, 0.1), BLUE, strict=True)], abs=3e-3)
    optical = 2 * density * radius
    assert middle[2] == pytest.approx([(2.0 - radius) * alpha + (1 - (1 + optical) * math.exp(-optical)) / density], abs=1e-2)
    assert seen.alpha[0, 0, 0, 0] == 0 and seen.image[0, :, 0, 0].tolist() == pytest.approx(BLUE)


@EACH
def test_normals_face_the_camera_in_the_middle(device):
    model = ball_model(density=1000.0, samples_per_ray=500).to(device)
    cameras = orbit_cameras([0, -40], [0, 60], 2.0, width=33, height=33, device=device)
    assert model.render(cameras).normal is None and model.render(cameras).detail.normals is None
    seen = model.render(cameras, normals=True)
    toward = torch.nn.functional.normalize(cameras.centers, dim=1)
    torch.testing.assert_close(seen.normal[:, :, 16, 16], toward, rtol=0, atol=0.03)
    assert not seen.normal[:, :, 0, 0].any()


def test_backgrounds():
    model, cameras = ball_model(radius=0.2), turntable(2, width=9, height=9)
    with torch.no_grad():
        assert model.render(cameras).image[:, :, 0, 0].tolist() == [pytest.approx(BLUE)] * 2
        assert model.render(cameras, 0.25).image[:, :, 0, 0].tolist() == [[0.25] * 3] * 2
        each = torch.tensor([[0.0, 0.5, 1.0], [1.0, 0.0, 0.25]])
        assert torch.equal(model.render(cameras, each[0]).image[:, :, 0, 0], each[:1].expand(2, 3))
        assert torch.equal(model.render(cameras, each).image[:, :, 0, 0], each)


def test_the_environment_is_seen_along_each_ray():
    model, cameras = small_field().eval(), turntable(3, width=12, height=10, elevation=-20.0)
    model.occupancy.occupied.fill_(False)
    directions = volume_model.rays(cameras)[1]
    with torch.no_grad():
        torch.testing.assert_close(model.render(cameras).image, model.background(directions).permute(0, 3, 1, 2))


# ---- Gradients ----


@EACH
def test_gradient_of_density_and_colour_of_a_ball(device):
    """alpha = 1 - exp(-s L) in the middle: d alpha / d s = L exp(-s L)."""
    density, radius = 2.0, 0.5
    model = ball_model(radius=radius, density=density, samples_per_ray=3000).to(device)
    seen = model.render(orbit_cameras(0, 0, 2.0, width=5, height=5, device=device))
    (v_level,) = torch.autograd.grad(seen.alpha[0, 0, 2, 2], model.geometry.level, retain_graph=True)
    length = 2 * radius
    assert float(v_level) == pytest.approx(length * math.exp(-density * length), rel=1e-2)
    (v_color,) = torch.autograd.grad(seen.image[0, 0, 2, 2], model.geometry.logits)
    assert v_color.tolist() == pytest.approx([-math.expm1(-density * length) * 0.8 * 0.2, 0, 0], rel=1e-2)


@pytest.mark.parametrize("normals", ["analytic", "finite_difference"])
def test_recomputing_changes_no_gradient(normals):
    spec = ImplicitVolumeSpec(grid=small_field().geometry.spec.grid, hidden=16, normals=normals)
    cameras, found = turntable(2, width=16, height=16), []
    for recompute in (False, True):
        model = small_field(spec=spec, material=PointLightDiffuse(), normals=True, recompute=recompute)
        model.shading = ShadingPolicy(ambient_only_steps=0, diffuse_prob=1.0, textureless_prob=0.0)
        model.refresh(0)
        seen = model.render(cameras)
        loss = seen.image.square().mean() + seen.normal.square().mean() + seen.detail.weights.square().sum()
        loss.backward()
        found.append([parameter.grad for parameter in model.parameters()])
    assert all(relative_l2(a, b) < 1e-5 and b.any() for a, b in zip(*found, strict=True))


@EACH
def test_an_empty_field_shows_the_background_and_has_no_gradient(device):
    model = small_field(normals=True).to(device).train()
    model.occupancy.occupied.fill_(False)
    cameras = turntable(2, width=8, height=8, device=device)
    draws = model.draw(2, 8, 8)._replace(replaced=torch.zeros(2, dtype=torch.bool, device=device))
    seen = model.render(cameras, None, draws)
    assert not seen.alpha.any() and not seen.depth.any() and not seen.normal.any()
    (seen.image.sum() + seen.depth.sum() + seen.normal.sum() + seen.detail.weights.sum()).backward()
    for name, parameter in model.geometry.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), name
    assert all(parameter.grad.isfinite().all() for parameter in model.background.parameters())
    model.eval()
    with torch.no_grad():
        assert torch.equal(model.render(cameras, 0.5).image, torch.full((2, 3, 8, 8), 0.5, device=device))


def test_densities_that_are_no_numbers_leave_the_rest_alone():
    model, cameras = small_field().eval(), turntable(1, width=12, height=12)
    whole = model.geometry.density
    broken = lambda points, *_: torch.where(points[:, 0] > 0.1, float("nan"), whole(points))  # noqa: E731
    model.geometry.density = broken
    model.refresh(0)
    seen = model.render(cameras)
    assert seen.image.isfinite().all() and 0.1 < seen.alpha.mean() < 0.9
    seen.image.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_what_is_looked_up_once_has_the_gradients_of_what_is_looked_up_twice():
    found = []
    for recompute in (False, True):  # which looks the visible samples up again
        model = small_field(recompute=recompute)
        model.refresh(0)
        seen = model.render(turntable(2, width=12, height=12), draws=model.draw(2, 12, 12))
        seen.image.square().sum().backward()
        found.append([seen.image.detach(), *(parameter.grad for parameter in model.geometry.parameters())])
    for once, twice in zip(*found, strict=True):
        assert once.any() and relative_l2(once, twice) < 1e-6


# ---- Parts of a render ----


def test_views_together_are_views_one_by_one():
    model = small_field(normals=True).eval()
    model.refresh(0)
    cameras = concatenate([turntable(2, width=16, height=12), turntable(1, elevation=40.0, width=16, height=12)])
    together = model.render(cameras)
    for view in range(3):
        alone = model.render(cameras[view])
        for name in ("image", "alpha", "depth", "normal"):
            torch.testing.assert_close(getattr(together, name)[view], getattr(alone, name)[0], rtol=1e-5, atol=1e-6)


@EACH
def test_rendering_in_parts_is_rendering_at_once(device, monkeypatch):
    model = small_field(normals=True).to(device).eval()
    model.refresh(0)
    cameras = turntable(2, width=20, height=20, device=device)
    whole = model.render(cameras)
    monkeypatch.setitem(volume_model.CHUNK_RAYS, device, 77)
    monkeypatch.setitem(volume_model.CHUNK_POINTS, device, 100)
    sizes, density = [], model.geometry.density
    model.geometry.density = lambda points, used=None: (sizes.append(len(points)), density(points))[1]
    with torch.no_grad():
        parts = model.render(cameras)
    assert parts.detail is None and max(sizes) == 100 and len(sizes) > 20
    for name in ("image", "alpha", "depth", "normal"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-5, atol=1e-5)


def with_room(model, monkeypatch, lengths):
    room = Room(list(lengths), torch.zeros(2, dtype=torch.int32))
    model._rooms[16 * 16 * 2] = room
    monkeypatch.setattr(model, "_room", lambda cast: room)
    return room


def test_lists_of_fixed_length_render_the_same(monkeypatch):
    model = small_field(normals=True).eval()
    model.refresh(0)
    cameras = turntable(2, width=16, height=16)
    exact = model.render(cameras)
    v_exact = torch.autograd.grad(exact.image.square().sum(), list(model.parameters()))
    room = with_room(model, monkeypatch, (20_000, 20_000))
    padded = model.render(cameras)
    assert len(padded.detail.weights) == 20_000 and not padded.detail.weights[int(padded.detail.samples.offsets[-1]) :].any()
    for name in ("image", "alpha", "depth", "normal"):
        torch.testing.assert_close(getattr(padded, name), getattr(exact, name), rtol=1e-5, atol=1e-6)
    for found, expected in zip(torch.autograd.grad(padded.image.square().sum(), list(model.parameters())), v_exact, strict=True):
        assert relative_l2(found, expected) < 1e-5
    assert room.most.tolist()[1] == len(exact.detail.weights) and room.most[0] >= room.most[1]


def test_lists_that_were_too_short_grow_at_the_next_refresh(monkeypatch):
    model = small_field().eval()
    model.refresh(0)
    cameras = turntable(2, width=16, height=16)
    exact = model.render(cameras)
    monkeypatch.setattr(sample_room, "MULTIPLE", 100)
    room = with_room(model, monkeypatch, (4000, 1000))
    cut = model.render(cameras)
    samples = cut.detail.samples
    assert int(samples.total) > 1000 == int(samples.offsets[-1])
    fits = (samples.offsets[1:] < 1000).view(2, 1, 16, 16)
    assert fits.any() and not fits.all()
    torch.testing.assert_close(cut.alpha[fits], exact.alpha[fits])
    assert not model.refresh(7) and room.lengths == [4000, 1000]
    marched, visible = room.most.tolist()
    assert model.refresh(16)
    assert all(found / start in (1, 2, 4, 8, 16) for found, start in zip(room.lengths, (4000, 1000), strict=True))
    assert room.lengths[0] >= marched and room.lengths[1] >= visible > room.lengths[1] / 2
    assert not model.refresh(32)
    room.lengths = [1_000_000, 2 * visible]
    assert not model.refresh(64) and model.refresh(512)
    assert 2 * marched < room.lengths[0] < 4 * marched + 100 and room.lengths[1] == 2 * visible and not room.most.any()
    assert not model.refresh(1024)  # what was not used stays


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("normals", ["analytic", "finite_difference"])
def test_with_lists_of_fixed_length_a_step_needs_no_value(normals, recompute, monkeypatch):
    """What a CUDA graph asks for: shapes follow from shapes, and nothing is read on the way. Fake tensors have no values to read."""
    if not extension.available("cpu"):
        pytest.skip("no compiled cpu kernels")
    spec = ImplicitVolumeSpec(grid=SMALL_GRID, hidden=16, normals=normals)
    model = small_field(spec=spec, normals=True, material=PointLightDiffuse(), recompute=recompute).train()
    room = with_room(model, monkeypatch, (9000, 7000))
    cameras, draws = turntable(2, width=16, height=16), model.draw(2, 16, 16)
    with FakeTensorMode(allow_non_fake_inputs=True):
        seen = model.render(cameras, None, draws)
        loss = seen.image.square().mean() + seen.normal.square().mean() + seen.detail.weights.square().sum()
        gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert seen.detail.weights.shape == (7000,) and seen.image.shape == (2, 3, 16, 16) and room.lengths == [9000, 7000]
    assert [gradient.shape for gradient in gradients] == [parameter.shape for parameter in model.parameters()]


# ---- Training ----


def test_evaluation_draws_nothing_and_repeats():
    model, cameras = small_field(samples_per_ray=24).eval(), turntable(2, width=8, height=8)
    before = model.generator.get_state()
    first, second = model.render(cameras), model.render(cameras)
    assert torch.equal(first.image, second.image) and torch.equal(model.generator.get_state(), before)
    model.train()
    assert not torch.equal(model.render(cameras, 1.0).image, model.render(cameras, 1.0).image)


def test_draws_given_are_those_drawn():
    cameras = turntable(3, width=8, height=6)
    one, other = small_field().train(), small_field().train()
    drawn = one.draw(3, 6, 8)
    assert torch.equal(one.render(cameras, None, drawn).image, other.render(cameras).image)
    assert drawn.jitter.shape == (3 * 6 * 8,) and drawn.jitter.min() >= 0 and drawn.jitter.max() < 1


@pytest.mark.parametrize("share", [False, True])
def test_backgrounds_are_replaced_in_their_share_of_images(share):
    model = small_field(random_background=0.3, share_background=share).train()
    model.occupancy.occupied.fill_(False)
    cameras, replaced = turntable(8, width=2, height=2), 0
    own = model.background(volume_model.rays(cameras)[1]).permute(0, 3, 1, 2)
    for _ in range(100):
        draws = model.draw(8, 2, 2)
        with torch.no_grad():
            image = model.render(cameras, None, draws).image
        expected = torch.where(draws.replaced[:, None, None, None], draws.color[:, :, None, None], own)
        torch.testing.assert_close(image, expected.expand_as(image))
        if share:
            assert len(set(draws.replaced.tolist())) == 1 and (draws.color == draws.color[0]).all()
        replaced += int(draws.replaced.sum())
    assert 0.15 < replaced / 800 < 0.45


def test_light_on_a_white_ball():
    model = ball_model(density=1000.0, samples_per_ray=600, material=PointLightDiffuse(), background=(0.0, 0.0, 0.0))
    cameras = orbit_cameras(0, 0, 2.0, width=33, height=33)
    albedo = model.render(cameras).image
    toward_camera = torch.tensor([[0.0, 0.0, 0.0, 1.5]])
    jitter, none, color = torch.zeros(33 * 33), torch.zeros(1, dtype=torch.bool), torch.zeros(1, 3)

    def lit(share, is_shaded, is_white, lights=toward_camera):
        return model.render(cameras, None, Draws(jitter, none, color, lights, torch.tensor([share, is_shaded, is_white]))).image

    assert torch.equal(lit(0.9, 0.0, 0.0), albedo)
    white = lit(1.0, 1.0, 1.0)
    assert white[0, :, 16, 16].tolist() == pytest.approx([1.0] * 3, abs=0.01)
    torch.testing.assert_close(lit(1.0, 1.0, 0.0), albedo * white, rtol=0, atol=2e-3)
    torch.testing.assert_close(lit(0.4, 1.0, 1.0), 0.4 * white + 0.6 * lit(0.0, 1.0, 1.0), rtol=0, atol=1e-5)
    # A light from the right, at 1.5: wherever the ball is seen, it is as bright as the light is high over the surface.
    seen = model.render(cameras)
    side = lit(1.0, 1.0, 1.0, torch.tensor([[1e6, 0.0, 0.0, 1.5]]))[0, 0]
    origins, directions = volume_model.rays(cameras)
    points = (origins + directions * (seen.depth / seen.alpha).permute(0, 2, 3, 1))[0]
    toward_light = torch.nn.functional.normalize(torch.tensor([1.5, 0.0, 0.0]) - points, dim=-1)
    expected = (torch.nn.functional.normalize(points, dim=-1) * toward_light).sum(-1).clamp_min(0)
    shown = seen.alpha[0, 0] > 0.99
    assert shown.sum() > 200 and expected[shown].min() == 0 and expected[shown].max() > 0.7
    torch.testing.assert_close(side[shown], expected[shown], rtol=0, atol=0.02)


def test_shading_is_drawn_after_the_first_steps():
    model = small_field(material=PointLightDiffuse()).train()
    model.shading = ShadingPolicy(ambient_only_steps=3)
    model.refresh(2)
    early = torch.stack([model.draw(1, 1, 1).shading for _ in range(50)])
    assert not early[:, 1:].any()
    model.refresh(3)
    later = torch.stack([model.draw(1, 1, 1).shading for _ in range(300)])
    assert 0.6 < later[:, 1].mean() < 0.9 and 0.2 < later[:, 2].mean() < 0.55 and (later[:, 2] <= later[:, 1]).all()
    lights = torch.cat([model.draw(4, 1, 1).lights for _ in range(50)])
    assert 0.8 <= lights[:, 3].min() < 0.9 and 1.4 < lights[:, 3].max() <= 1.5 and abs(lights[:, :3].std() - 1) < 0.1


def make_training(seed=0):
    model = small_field(seed, normals=True).train()
    rates = {"encoding": 1e-2, "density_network": 1e-2, "feature_network": 1e-2, "background": 1e-3}
    optimizer = torch.optim.AdamW(model.parameter_groups(rates), betas=(0.9, 0.99), eps=1e-15)
    return model, optimizer


def train(model, optimizer, steps):
    losses = []
    for step in steps:
        model.refresh(step)
        cameras = turntable(2, elevation=float(step % 7) * 5, width=12, height=12)
        seen = model.render(cameras, 0.5)
        loss = (seen.image - 0.25).square().mean() + 0.01 * seen.normal.square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def test_training_learns():
    losses = train(*make_training(), range(60))
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])


def test_a_resumed_run_ends_in_the_same_bits(tmp_path):
    model, optimizer = make_training()
    train(model, optimizer, range(20))
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "checkpoint.pt")
    train(model, optimizer, range(20, 40))
    resumed, its_optimizer = make_training(seed=5)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    resumed.load_state_dict(state["model"])
    its_optimizer.load_state_dict(state["optimizer"])
    train(resumed, its_optimizer, range(20, 40))
    expected, found = model.state_dict(), resumed.state_dict()
    assert expected.keys() == found.keys() and torch.equal(model.generator.get_state(), resumed.generator.get_state())
    for name in expected:
        if isinstance(expected[name], torch.Tensor):
            assert torch.equal(expected[name], found[name]), name


def test_groups_of_parameters():
    model = small_field()
    count = sum(parameter.numel() for parameter in model.parameters())
    rates = {"encoding": 0.1, "density_network": 0.2, "feature_network": 0.3, "background": 0.4}
    groups = model.parameter_groups(rates)
    assert {group["name"]: group["lr"] for group in groups} == rates
    assert sum(parameter.numel() for group in groups for parameter in group["params"]) == count
    assert [group["name"] for group in model.parameter_groups({"encoding": 0.1})] == ["encoding"]
    (network,) = model.parameter_groups({"background.network": 0.1, "background": 0.2})
    assert network["name"] == "background.network" and len(network["params"]) == 3
    with pytest.raises(ValueError, match="learning rates for colour: expected some of encoding, density_network, feature_network"):
        model.parameter_groups({"colour": 1.0})


def test_it_is_a_representation_for_score_based_reconstruction():
    model, _ = make_training()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, eps=1e-15)
    cameras = turntable(3, width=16, height=16)
    targets = ball_model(background=(1.0, 1.0, 1.0), radius=0.6).render(cameras).image.detach()

    def learn(_):
        optimizer.step()
        optimizer.zero_grad()

    fitter = sir.Fitter(model, None, torch.ones(3), learn)
    model.refresh(0)
    losses = [float(fitter.step(cameras, targets)) for _ in range(25)]
    assert losses[-1] < 0.6 * losses[0]


# ---- Wrong settings ----


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples_per_ray": 0}, "samples_per_ray=0: expected at least 1"),
        ({"random_background": 1.5}, "random_background=1.5: expected a share"),
        ({"near": -1.0}, "near=-1.0: expected a distance"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        VolumeSettings(**settings)


def test_geometry_and_settings_must_speak_of_one_box():
    geometry = small_field().geometry
    with pytest.raises(ValueError, match=r"radius=2\.0: expected 1\.0, half the side of the field's box"):
        VolumeModel(geometry, SolidBackground(), VolumeSettings(radius=2.0))


# ---- On a GPU ----


@pytest.mark.gpu
def test_cpu_and_cuda_render_the_same():
    model, cameras = small_field(normals=True).eval(), turntable(3, width=32, height=32)
    model.refresh(0)
    on_cpu = model.render(cameras)
    on_cuda = model.cuda().render(cameras.to("cuda"))
    for name in ("image", "alpha", "depth", "normal"):
        torch.testing.assert_close(getattr(on_cuda, name).cpu(), getattr(on_cpu, name), rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("recompute", [False, True])
def test_a_training_step_captures_as_a_graph(recompute):
    if not extension.available("cuda"):
        pytest.skip("no compiled cuda kernels")
    model = small_field(normals=True, material=PointLightDiffuse(), recompute=recompute).cuda().train()
    model.shading = ShadingPolicy(ambient_only_steps=0)
    model.refresh(0)
    cameras = turntable(4, width=32, height=32, device="cuda")
    parameters, draws = list(model.parameters()), model.draw(4, 32, 32)

    def step():
        seen = model.render(cameras, None, draws)
        loss = seen.image.square().mean() + seen.normal.square().mean() + seen.detail.weights.square().mean()
        return loss.detach(), torch.autograd.grad(loss, parameters)

    warm_up(step, "cuda")
    graph, captured = capture(step, "cuda")
    for static, new in zip(draws, model.draw(4, 32, 32), strict=True):
        static.copy_(new)
    model.refresh(16)  # in place: a replay sees the new grid
    graph.replay()
    torch.cuda.synchronize()
    expected = step()
    torch.testing.assert_close(captured[0], expected[0], rtol=1e-5, atol=1e-7)
    for found, right in zip(captured[1], expected[1], strict=True):
        assert relative_l2(found, right) < 1e-3
