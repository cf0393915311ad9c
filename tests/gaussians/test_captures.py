"""Gaussians of real captures: floaters, faint and huge ones go, the frame is that of the object, and it stands upright."""

import numpy as np
import pytest
from splat_scenes import ball, changed, floor, joined

from cam_utils import orbit_cameras
from microdreamer.gaussians import UPS, captures
from microdreamer.gaussians.captures import cleaned, connected, extent_of, kept, thickened, up_axis, upright, weighted_quantile
from microdreamer.gaussians.extraction import extract_mesh
from microdreamer.gaussians.model import GaussianModel
from microdreamer.gaussians.rotation import turned


def floaters(distance, count=12, logit=2.0, seed=5):
    parameters = ball(count, 1.0, seed)
    means = parameters["means"] * distance * np.random.default_rng(seed).uniform(0.6, 1.4, (count, 1))
    return changed(parameters, means=means, opacity_logits=np.full(count, logit), log_scales=np.full((count, 3), np.log(0.02)))


def test_weighted_quantiles():
    values, weights = np.array([3.0, 1, 2]), np.array([1.0, 1, 2])
    assert [weighted_quantile(values, weights, share) for share in (0, 0.25, 0.26, 0.75, 0.76, 1)] == [1, 1, 2, 2, 3, 3]


def test_the_extent_is_that_of_the_opacity():
    extent = extent_of(joined(ball(), floaters(80.0, logit=-6.0)))
    np.testing.assert_allclose(extent.center, 0, atol=0.02)
    assert extent.reach == pytest.approx(0.4, rel=0.05)
    with pytest.raises(ValueError, match="of opacity 0"):
        extent_of(changed(ball(), opacity_logits=np.full(1500, -104.0)))


@pytest.mark.parametrize("distance", [1.2, 4, 10, 100, 1e4])
@pytest.mark.parametrize("logit", [-6.0, 2.0, 104.0])
def test_floaters_go_and_the_object_stays(distance, logit):
    parameters = joined(ball(), floaters(distance, logit=logit))
    assert np.array_equal(kept(parameters), np.arange(1512) < 1500)


def test_floaters_of_a_tenth_of_all_go_too():
    again = cleaned(joined(ball(), floaters(10.0, 150)))
    assert len(again["means"]) == 1500


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (7.0, 50.0), (1e-3, -1.0), (300.0, 1e4)])
def test_what_is_kept_does_not_depend_on_size_and_place(scale, shift):
    scene = joined(ball(), floaters(6.0), changed(ball(1), log_scales=np.zeros((1, 3)), means=np.zeros((1, 3))))
    moved = changed(scene, means=scene["means"].astype(float) * scale + shift, log_scales=scene["log_scales"] + np.log(scale))
    assert np.array_equal(kept(moved), kept(scene)) and kept(scene).sum() == 1500


def test_huge_ones_go_but_few_wide_ones_are_the_object():
    wide = changed(ball(40), log_scales=np.full((40, 3), np.log(0.15)))
    assert kept(wide).all()
    sky = changed(ball(5, 0.3, seed=3), log_scales=np.full((5, 3), np.log(3.0)))
    assert np.array_equal(kept(joined(ball(), sky)), np.arange(1505) < 1500)


def test_parts_of_a_hundredth_stay_and_scattered_sets_stay_whole():
    second = changed(ball(100, 0.1), means=ball(100, 0.1)["means"] + [1.5, 0, 0])
    assert kept(joined(ball(), second)).all()
    thin = changed(ball(30), means=np.linspace([0.4, 0, 0], [1.6, 0, 0], 30))  # an antenna far beyond the bulk, but joined to it
    assert kept(joined(ball(), thin)).all()
    rng = np.random.default_rng(0)
    islands = (rng.uniform(-1, 1, (200, 1, 3)) + 1e-3 * rng.normal(size=(200, 10, 3))).reshape(-1, 3)
    assert connected(islands, np.ones(2000), captures.Extent(np.zeros(3), 1.0), 0.0).all()


def test_only_faint_ones_are_refused():
    with pytest.raises(ValueError, match=r"opacity of at least 0\.01; the largest is 0\.0025"):
        cleaned(changed(ball(), opacity_logits=np.full(1500, -6.0)))


def test_white_floaters_go_and_white_objects_stay():
    """Stage 1's filter, which was made for renders on white; of a white object it would take the most."""
    floating = changed(floaters(0.65, 8), sh_dc=np.full((8, 1, 3), 2.0), log_scales=np.full((8, 3), np.log(0.05)))
    model = GaussianModel.from_arrays(joined(ball(), floating))
    assert len(captures.without_white_floaters(model, 2.0, 49.1)) < 1508
    white = GaussianModel.from_arrays(changed(ball(), sh_dc=np.full((1500, 1, 3), 2.0), log_scales=np.full((1500, 3), np.log(0.03))))
    assert len(captures.without_white_floaters(white, 2.0, 49.1)) == 1500


# ---- Upright ----


@pytest.mark.parametrize("axis", UPS[1:])
def test_the_floor_says_what_is_up(axis):
    scene = joined(ball(), floor(1.2, -0.42))
    lying = turned(scene, captures.turn_to_y(axis).T)  # what is +y becomes `axis`
    assert up_axis(lying) == axis
    standing = upright(lying, "auto")
    np.testing.assert_allclose(standing["means"], scene["means"], atol=1e-6)


@pytest.mark.parametrize(
    "scene",
    [
        ball(),
        turned(ball(), captures.turn_to_y("z")),
        joined(ball(), floor(1.2, -0.42), floor(1.2, 0.42)),  # between floor and ceiling
        joined(ball(), floor(0.4, -0.42)),  # no wider than what stands on it
        joined(ball(), floor(1.2, -0.42, 60)),  # too little of it
        changed(ball(), means=np.random.default_rng(0).uniform(-0.5, 0.5, (1500, 3))),  # a block: six equal sides
        changed(ball(), means=np.zeros((1500, 3))),
        {name: values[:1] for name, values in ball().items()},
        {name: values[:0] for name, values in ball().items()},
    ],
)
def test_without_one_clear_floor_y_is_up(scene):
    assert up_axis(scene) == "y" and upright(scene, "auto") is scene


def test_what_the_file_states_or_the_user_says_goes_before_the_floor(caplog):
    scene = joined(ball(), floor(1.2, -0.42))
    assert up_axis(scene, "z") == "z"
    assert upright(scene, "y", "z") is scene and not caplog.records
    upright(scene, "auto", "z")
    assert caplog.messages == ["up=z taken, as the file says; pass up=y to leave the Gaussians as they lie"]


# ---- Thickness ----


def test_flat_gaussians_give_a_surface():
    """Discs in the sphere's surface, of no thickness at all: without any, the density is near 0 between them and the grid."""
    from scipy.spatial.transform import Rotation

    parameters = ball(3000)
    normals = parameters["means"] / np.linalg.norm(parameters["means"], axis=1, keepdims=True)
    axis = np.cross([0, 0, 1.0], normals)
    angle = np.arccos(normals[:, 2:]) / np.linalg.norm(axis, axis=1, keepdims=True)
    turns = Rotation.from_rotvec(axis * angle).as_quat()[:, [3, 0, 1, 2]]
    discs = changed(parameters, quaternions=turns, log_scales=np.tile([np.log(0.024), np.log(0.024), -104], (3000, 1)))
    mesh = extract_mesh(GaussianModel.from_arrays(thickened(discs)), resolution=64, target_faces=5000, color_vertices=False)
    radius = np.linalg.norm(mesh.vertices, axis=1)
    assert abs(radius.mean() - 0.4) < 0.03 and radius.std() < 0.02


def test_thickness_leaves_the_others_as_they_are():
    parameters = ball()
    assert np.array_equal(thickened(parameters)["log_scales"], parameters["log_scales"])
    needle = changed(ball(), log_scales=np.tile([np.log(0.02), -104, -104], (1500, 1)))
    scales = np.exp(thickened(needle)["log_scales"])
    np.testing.assert_allclose(scales, np.tile([0.02, 2e-4, 2e-4], (1500, 1)), rtol=0.05)


def test_points_without_any_size_do_not_fill_the_field():
    dust = changed(ball(200, 0.3), log_scales=np.full((200, 3), -104.0))
    scene = thickened(joined(ball(), dust))
    mesh = extract_mesh(GaussianModel.from_arrays(scene), resolution=64, target_faces=5000, color_vertices=False)
    assert abs(np.linalg.norm(mesh.vertices, axis=1).mean() - 0.42) < 0.04


# ---- All of it ----


def test_a_capture_becomes_the_object(tmp_path):
    """Z-up, off-centre, of scale 7, with floaters, faint and huge ones: the picture of what is left is that of the object."""
    clean = joined(ball(), floor(0.9, -0.42))
    dirt = joined(floaters(5.0, 30), floaters(90.0, 20, logit=-6.0), changed(ball(3, seed=9), log_scales=np.full((3, 3), np.log(2.0))))
    lying = turned(joined(clean, dirt), captures.turn_to_y("z").T)
    moved = changed(lying, means=7 * lying["means"].astype(float) + [30, -20, 5], log_scales=lying["log_scales"] + np.log(7))
    found = upright(cleaned(moved), "auto")
    extent, expected = extent_of(found, 0.995), extent_of(clean, 0.995)
    assert extent.reach == pytest.approx(7 * expected.reach, rel=0.01)
    back = changed(
        found,
        means=(found["means"] - extent.center) / 7 + expected.center,
        log_scales=found["log_scales"] - np.log(7),
    )
    cameras = orbit_cameras([-20, 20], [0, 90], radius=3, width=64, height=64)
    pictures = [GaussianModel.from_arrays(scene).render(cameras).image.detach() for scene in (clean, back)]
    assert len(found["means"]) == 3000 and float((pictures[0] - pictures[1]).abs().mean()) < 2e-3
