"""Camera samplers: fed the references' draws they place the references' cameras; drawn anew they keep to their ranges."""

import json

import numpy as np
import pytest
import torch
from conftest import DEVICES

from cam_utils import orbit_cameras, rays, turntable
from microdreamer.distillation.view_sampling import MICRO_VIEW, MULTI_VIEW, SINGLE_VIEW, Draws, ViewRanges, draw_views, place_views
from microdreamer.guidance import load_prior

TO_REFERENCE = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])  # (x, y, z) there is (z, x, y) here


def assert_same_cameras(cameras, golden, prefix, **tolerance):
    """Poses, rays and where the cameras stand."""
    tolerance, directions = {"rtol": 0, "atol": 3e-5, **tolerance}, rays(cameras)[1].cpu()
    cameras = cameras.to("cpu")
    np.testing.assert_allclose(TO_REFERENCE @ cameras.camera_to_world[:, :3], golden[f"{prefix}_c2w"][:, :3], **tolerance)
    np.testing.assert_allclose(cameras.centers @ TO_REFERENCE.T, golden[f"{prefix}_camera_positions"], **tolerance)
    np.testing.assert_allclose(directions @ TO_REFERENCE.T, golden[f"{prefix}_rays_d"], **tolerance)


def draws_of(golden, case, order):
    coin = torch.tensor(golden[f"{case}_draw00_random_random"])
    return Draws(coin, **{name: torch.from_numpy(golden[f"{case}_draw{index:02d}_rand"]) for name, index in order.items()})


@pytest.mark.parametrize("device", DEVICES)
def test_single_views_equal_the_reference(parity, device):
    golden = np.load(parity("generators/cameras_single.npz"))
    chosen = json.loads(str(golden["sd_config"]))
    ranges = ViewRanges(**{name: tuple(chosen[name]) for name in ("elevation_range", "camera_distance_range", "fovy_range")})
    assert ranges == SINGLE_VIEW
    coins = set()
    cases = sorted({key[:4] for key in golden.files if key.startswith("sd_") and key[3].isdigit()})
    for case in cases:
        draws = draws_of(golden, case, {"elevation": 1, "azimuth": 2, "distance": 3, "fovy": 7})
        cameras = place_views(ranges, draws, chosen["height"], device).to("cpu")
        # Batches of three: the reference takes its cross products along the batch there, so that "right" and "up" are none.
        backward = cameras.camera_to_world[:, :3, 2] @ TO_REFERENCE.T
        np.testing.assert_allclose(backward, golden[f"{case}_c2w"][:, :3, 2], atol=3e-5)
        np.testing.assert_allclose(cameras.centers @ TO_REFERENCE.T, golden[f"{case}_camera_positions"], atol=3e-5)
        np.testing.assert_allclose(2 * torch.atan(chosen["height"] / 2 / cameras.intrinsics[:, 1]), golden[f"{case}_fovy"], rtol=1e-5)
        np.testing.assert_allclose(-cameras.elevation, golden[f"{case}_elevation"], atol=1e-4)
        np.testing.assert_allclose(cameras.azimuth, golden[f"{case}_azimuth"], atol=1e-4)
        coins.add(bool(draws.coin < 0.5))
    assert coins == {True, False} and len(cases) >= 4


@pytest.mark.parametrize("device", DEVICES)
def test_groups_of_views_equal_the_reference(parity, device):
    """Where elevations are uniform in angle; where they are uniform on the sphere, the reference leaves out the upper third."""
    golden = np.load(parity("generators/cameras_multiview.npz"))
    chosen = json.loads(str(golden["mv_config"]))
    cases, uniform = sorted({key[:4] for key in golden.files if key.startswith("mv_") and key[3].isdigit()}), 0
    for case in cases:
        draws = draws_of(golden, case, {"elevation": 1, "azimuth": 2, "fovy": 3, "distance": 4})
        placed = place_views(MULTI_VIEW, draws, chosen["height"], device)
        cameras = placed.to("cpu")
        np.testing.assert_allclose(cameras.azimuth, golden[f"{case}_azimuth"], atol=1e-4)
        np.testing.assert_allclose(cameras.radius, golden[f"{case}_camera_distances"], rtol=1e-5)
        focal = 0.5 * chosen["height"] / np.tan(np.deg2rad(golden[f"{case}_fovy"]) / 2)
        np.testing.assert_allclose(cameras.intrinsics[:, 0], focal, rtol=1e-5)
        if draws.coin < 0.5:
            uniform += 1
            np.testing.assert_allclose(-cameras.elevation, golden[f"{case}_elevation"], atol=1e-4)
            assert_same_cameras(placed, golden, case, atol=2e-4)  # at distances up to 7.6
    assert 0 < uniform < len(cases)


@pytest.mark.parametrize("device", DEVICES)
def test_evaluation_goes_around_once(parity, device):
    golden = np.load(parity("generators/cameras_eval.npz"))
    chosen = json.loads(str(golden["val_config"]))
    cameras = turntable(5, -15.0, chosen["eval_camera_distance"], fov_y=chosen["eval_fovy_deg"], width=4, height=4, device=device)
    assert_same_cameras(cameras, golden, "val")
    np.testing.assert_allclose(cameras.azimuth.cpu(), golden["val_azimuth_deg"], atol=1e-4)
    frames = turntable(120, -15.0)
    assert float(golden["full120_azimuth_deg"][-1]) == 360 and float(frames.azimuth[-1]) == 357
    gaps = (frames.azimuth.roll(-1) - frames.azimuth).remainder(360)
    torch.testing.assert_close(gaps, torch.full((120,), 3.0))


@pytest.mark.parametrize("device", DEVICES)
def test_the_camera_matrices_of_the_networks_equal_the_reference(parity, device):
    from microdreamer.guidance.published.mvdream import FRONT, camera_matrices

    golden = np.load(parity("generators/mvdream_cameras.npz"))
    for case, start, up, count, span in (
        ("n4_el15_az0_span360", 0, 15, 4, 360),
        ("n4_el0_az0_span360", 0, 0, 4, 360),
        ("n6_el30_az45_span180", 45, 30, 6, 180),
    ):
        cameras = orbit_cameras(-up, [start + span * k / count - FRONT for k in range(count)], 1.7, device=device)
        np.testing.assert_allclose(camera_matrices(cameras).cpu(), golden[f"get_camera_{case}"], atol=2e-6)


def test_elevations_on_the_sphere_fill_their_range_by_area():
    shares = torch.linspace(0, 1, 1001, dtype=torch.float64)
    draws = Draws(torch.tensor(0.9), shares, *(torch.zeros(1001),) * 3)
    up = -place_views(MULTI_VIEW, draws, 8).elevation[::4].double()
    assert float(up[0]) == pytest.approx(0, abs=1e-4) and float(up[-1]) == pytest.approx(30, abs=1e-4)
    torch.testing.assert_close(up.deg2rad().sin(), shares / 2, rtol=0, atol=1e-6)


@pytest.mark.parametrize("ranges", [SINGLE_VIEW, MULTI_VIEW, MICRO_VIEW])
def test_views_keep_to_their_ranges(ranges):
    generator = torch.Generator().manual_seed(0)
    batches = [draw_views(ranges, 8, 64, generator) for _ in range(64)]
    up = -torch.cat([cameras.elevation for cameras in batches])
    low, high = ranges.elevation_range
    assert low - 1e-4 <= float(up.min()) < low + 3 and high - 3 < float(up.max()) <= high + 1e-4
    for cameras in batches:
        fov_y = 2 * torch.rad2deg(torch.atan(32 / cameras.intrinsics[:, 1]))
        distance = cameras.radius * (torch.tan(torch.deg2rad(fov_y) / 2) if ranges.relative_radius else 1)
        for values, (lowest, highest) in ((fov_y, ranges.fovy_range), (distance, ranges.camera_distance_range)):
            assert lowest - 1e-3 <= float(values.min()) <= float(values.max()) <= highest + 1e-3
        if ranges.n_view == 1:  # one view in each eighth of the circle
            assert ((cameras.azimuth + 180) // 45).long().tolist() == list(range(8))


def test_groups_stand_as_multiview_priors_want():
    prior = load_prior("micro")
    prior.check_cameras(draw_views(MICRO_VIEW, 12, 64, torch.Generator().manual_seed(1)))
    cameras = draw_views(MULTI_VIEW, 8, 64, torch.Generator().manual_seed(1))
    prior.check_cameras(cameras)
    for column in (cameras.radius, cameras.intrinsics[:, 0]):
        assert torch.equal(column, column[::4].repeat_interleave(4))


def test_one_state_of_the_generator_is_one_batch():
    first, second = (draw_views(MULTI_VIEW, 8, 64, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first.world_to_camera, second.world_to_camera)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"elevation_range": (10.0, 0.0)}, r"elevation_range=\[10.0, 0.0\].*that rise"),
        ({"elevation_range": (0.0, 95.0)}, "between -90 and 90"),
        ({"fovy_range": (0.0, 60.0)}, "fovy_range"),
        ({"camera_distance_range": (-1.0, 1.0)}, "camera_distance_range"),
        ({"n_view": 0}, "n_view=0"),
    ],
)
def test_wrong_ranges_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ViewRanges(**wrong)


def test_part_of_a_group_is_refused():
    with pytest.raises(ValueError, match="6 views: expected a multiple of n_view=4"):
        draw_views(MULTI_VIEW, 6, 64, torch.Generator())
