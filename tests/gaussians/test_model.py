"""The Gaussian model: parity with the golden start, covariances and rates; renders of many views, a fit."""

import numpy as np
import pytest
import torch
import trimesh
from conftest import DEVICES, relative_l2
from model_scenes import golden_parameters, random_model

from cam_utils import turntable
from microdreamer.gaussians import LearningRates
from microdreamer.gaussians import model as gs_renderer
from microdreamer.gaussians.model import PARAMETERS, GaussianModel

# ---- Start ----


def test_initial_ball_equals_the_golden_one(golden):
    numpy_random = np.random.RandomState(int(golden["init.numpy_seed"]))
    count = int(golden["init.num_pts"])
    longitude, cosine, volume = (numpy_random.random(count) for _ in range(3))
    colors = numpy_random.random((count, 3)) / 255
    points = gs_renderer.ball_points(torch.from_numpy(np.stack([longitude, cosine, volume], axis=1)), 0.5)
    model = GaussianModel._from_points(points, torch.from_numpy(colors), 0)
    for name, expected in golden_parameters(golden, "init").items():
        torch.testing.assert_close(getattr(model, name).detach(), expected, atol=1e-6, rtol=1e-5, msg=name)


def test_neighbour_distances_equal_the_golden_ones(parity):
    golden = np.load(parity("kernels/knn.npz"))
    actual = gs_renderer.mean_squared_neighbour_distance(golden["points"])
    np.testing.assert_allclose(actual, golden["mean_dist2"], rtol=1e-5, atol=1e-9)


def test_initial_ball_is_repeatable_and_fills_its_radius():
    first, second = (GaussianModel.initial_ball(3000, 0.3, 1, torch.Generator().manual_seed(5)) for _ in range(2))
    assert all(torch.equal(getattr(first, name), getattr(second, name)) for name in PARAMETERS)
    radii = first.means.detach().norm(dim=1)
    assert radii.max() <= 0.3
    assert abs(float((radii < 0.3 * 0.5 ** (1 / 3)).float().mean()) - 0.5) < 0.03  # half of the volume holds half of the points
    assert first.sh.shape == (3000, 4, 3) and first.sh_degree == 1
    torch.testing.assert_close(first.opacities.detach(), torch.full((3000,), 0.1))


def test_from_points_takes_the_colours():
    colors = torch.rand(20, 3)
    model = GaussianModel.from_points(np.random.default_rng(0).random((20, 3)), colors)
    torch.testing.assert_close(model.base_colors.detach(), colors)


@pytest.mark.parametrize(("count", "degree", "message"), [(3, 0, "3 points: expected at least 4"), (10, 4, "sh_degree=4")])
def test_bad_starts_are_refused(count, degree, message):
    with pytest.raises(ValueError, match=message):
        GaussianModel.initial_ball(count, sh_degree=degree)


# ---- Covariance ----


def test_covariances_equal_the_golden_ones(golden):
    count = len(golden["cov.scale"])
    model = random_model(count)
    with torch.no_grad():
        model.log_scales.copy_(torch.from_numpy(golden["cov.scale"]).log())
        model.quaternions.copy_(torch.from_numpy(golden["cov.quat_wxyz_unnormalised"]))
        assert relative_l2(model.covariances(), torch.from_numpy(golden["cov.cov6_mod1"])) < 2e-6
        assert relative_l2(model.covariances(1.7), torch.from_numpy(golden["cov.cov6_mod1.7"])) < 2e-6


def test_rotating_a_gaussian_rotates_its_covariance():
    model = random_model(10).double()
    rotation = torch.tensor(trimesh.transformations.rotation_matrix(0.7, [1, 2, -1])[:3, :3])
    turn = torch.tensor(trimesh.transformations.quaternion_from_matrix(rotation))

    def full(packed):
        return packed[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)

    before = full(model.covariances())
    turned = [torch.tensor(trimesh.transformations.quaternion_multiply(turn, q)) for q in model.rotations.detach()]
    model.quaternions = torch.nn.Parameter(torch.stack(turned))
    torch.testing.assert_close(full(model.covariances()), rotation @ before @ rotation.T)


# ---- Render ----


@pytest.mark.parametrize("device", DEVICES)
def test_all_views_at_once_equal_the_views_one_by_one(device):
    model, cameras = random_model(device=device), turntable(3, width=20, height=14, device=device)
    background = torch.tensor([0.2, 0.5, 1.0], device=device)
    together = model.render(cameras, background)
    assert together.image.shape == (3, 3, 14, 20) and together.alpha.shape == together.depth.shape == (3, 1, 14, 20)
    assert together.radii.shape == (3, 40) and together.means2d.shape == (3, 40, 2)
    assert together.image.min() >= 0 and together.image.max() <= 1
    for view in range(3):
        torch.testing.assert_close(model.render(cameras[view], background).image[0], together.image[view])


def test_grey_background_shows_where_nothing_is():
    model = random_model()
    with torch.no_grad():
        model.opacity_logits.fill_(-20)
        rendering = model.render(turntable(1, width=8, height=8), 0.25)
    assert rendering.means2d is None
    torch.testing.assert_close(rendering.image, torch.full((1, 3, 8, 8), 0.25))


def test_a_few_steps_bring_the_render_closer():
    model, cameras = random_model(), turntable(2, width=16, height=16)
    target = torch.rand(2, 3, 1, 1).expand(2, 3, 16, 16)
    optimizer = model.make_optimizer()
    losses = []
    for step in range(12):
        model.update_learning_rate(step)
        loss = (model.render(cameras, 1.0).image - target).abs().sum()
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.9 * losses[0]


# ---- Learning rates ----


def test_position_learning_rates_equal_the_golden_ones(golden):
    model = random_model()
    optimizer = model.make_optimizer()
    for step, expected in zip(golden["lr.step"].tolist(), golden["lr.xyz"], strict=True):
        model.update_learning_rate(step)
        assert optimizer.param_groups[0]["name"] == "means"
        assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(expected, rel=1e-6)


def test_position_learning_rates_have_the_published_values():
    """Log-linear from 0.001 to 0.00002 over 500 steps, times the spatial scale of 10."""
    model = random_model()
    model.make_optimizer()
    found = [model.position_learning_rate(step) for step in (0, 125, 250, 500, 700)]
    assert found == pytest.approx([0.01, 0.003760603093086394, 0.001414213562373095, 0.0002, 0.0002], rel=1e-12)


@pytest.mark.parametrize(("first", "final", "expected"), [(0.0, 0.0, [0, 0, 0]), (0.01, 0.0, [0.1, 0, 0]), (0.0, 0.01, [0, 0, 0.1])])
def test_positions_can_be_held_still(first, final, expected):
    model = random_model()
    model.make_optimizer(LearningRates(position_lr_init=first, position_lr_final=final, position_lr_max_steps=10))
    assert [model.position_learning_rate(step) for step in (0, 5, 10)] == pytest.approx(expected)


def test_groups_have_the_published_rates():
    rates = {group["name"]: float(group["lr"]) for group in random_model(sh_degree=1).make_optimizer().param_groups}
    expected = {"means": 0.01, "sh_dc": 0.01, "sh_rest": 0.0005, "log_scales": 0.005, "quaternions": 0.0005, "opacity_logits": 0.05}
    assert rates == pytest.approx(expected)
