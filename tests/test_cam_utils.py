"""Cameras: parity with the published `orbit_camera`, and what a batch promises."""

import math

import numpy as np
import pytest
import torch
from conftest import DEVICES

from cam_utils import Cameras, concatenate, orbit_camera, orbit_cameras, orbit_poses, turntable


@pytest.fixture
def golden(parity):
    return np.load(parity("priors/cameras.npz"))


def is_pole(elevation):
    return np.abs(elevation) == 90


def test_orbit_poses_equal_the_golden_ones(golden):
    elevation, azimuth, radius = golden["orbit.elev_azim_radius"].T
    poses = orbit_poses(elevation, azimuth, radius).numpy()
    off_poles = ~is_pole(elevation)
    np.testing.assert_allclose(poses[off_poles], golden["orbit.pose"][off_poles], atol=2e-6)
    # At the poles the published right vector degenerates; the position is the same.
    np.testing.assert_allclose(poses[:, :3, 3], golden["orbit.pose"][:, :3, 3], atol=2e-6)


def test_poses_are_rotations_at_the_poles_too():
    rotation = orbit_poses([90, -90, 89.9, 30], [0, 77, 77, 200])[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.transpose(1, 2), torch.eye(3).double().expand(4, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(4).double())


@pytest.mark.parametrize(
    ("name", "options"),
    [("orbit_target", {}), ("orbit_opengl_false", {"opengl": False}), ("orbit_radians", {"is_degree": False})],
)
def test_orbit_camera_variants_equal_the_golden_ones(golden, name, options):
    rows, poses = golden["orbit_target.in"], golden[f"{name}.pose"]
    assert len(rows) == len(poses)
    for (elevation, azimuth, radius, *target), expected in zip(rows, poses, strict=True):
        assert not is_pole(elevation)
        if name == "orbit_radians":
            elevation, azimuth = math.radians(elevation), math.radians(azimuth)
        actual = orbit_camera(elevation, azimuth, radius, target=target if name == "orbit_target" else None, **options)
        assert actual.dtype == np.float32
        np.testing.assert_allclose(actual, expected, atol=2e-6)


def test_world_to_camera_is_the_transposed_golden_view(golden):
    rows = golden["orbit.elev_azim_radius"][golden["minicam.index_into_orbit"]]
    rows, views = rows[~is_pole(rows[:, 0])], golden["minicam.world_view_transform"][~is_pole(rows[:, 0])]
    cameras = orbit_cameras(*rows.T)
    np.testing.assert_allclose(cameras.world_to_camera.numpy(), views.transpose(0, 2, 1), atol=3e-6)


def test_intrinsics_equal_the_golden_ones(golden):
    for row, focal in zip(golden["persp.W_H_r_fovydeg_near_far"], golden["persp.intrinsics_fx_fy_cx_cy"], strict=True):
        cameras = orbit_cameras(0, 0, fov_y=row[3], width=int(row[0]), height=int(row[1]))
        np.testing.assert_allclose(cameras.intrinsics[0].numpy()[:2], focal[:2], rtol=1e-5)
        np.testing.assert_allclose(cameras.intrinsics[0].numpy()[2:], row[:2] / 2)


def test_elevation_is_positive_from_below_and_azimuth_grows_toward_x():
    torch.testing.assert_close(orbit_cameras(30, 0, 2.0).centers[0, 1], torch.tensor(-1.0))
    torch.testing.assert_close(orbit_cameras(0, [0, 90], 2.0).centers, torch.tensor([[0.0, 0, 2], [2, 0, 0]]), atol=1e-6, rtol=0)


def test_the_origin_falls_on_the_middle_of_every_picture():
    cameras = orbit_cameras([10, -45, 90], [5, 170, 20], [1.0, 2.0, 3.0], width=64, height=48)
    in_view = cameras.world_to_camera[:, :3, 3]
    torch.testing.assert_close(in_view, torch.tensor([[0.0, 0, 1], [0, 0, 2], [0, 0, 3]]), atol=1e-6, rtol=0)


# One camera of the published orbit, from its formula in float64: elevation -20 (from above), azimuth 35, radius 2.
ORBIT_POSE = [
    [0.8191520442889918, -0.1961746949690111, 0.5389855446957562, 1.0779710893915124],
    [0.0, 0.9396926207859083, 0.3420201433256687, 0.6840402866513374],
    [-0.573576436351046, -0.2801664995932355, 0.7697511313200572, 1.5395022626401145],
    [0.0, 0.0, 0.0, 1.0],
]


def test_an_orbit_camera_has_the_published_pose_and_focal_length():
    pose = np.array(ORBIT_POSE)
    np.testing.assert_allclose(orbit_poses(-20, 35, 2.0)[0], pose, atol=1e-15)
    np.testing.assert_allclose(orbit_camera(-20, 35, 2.0), pose, atol=1e-7)
    camera = orbit_cameras(-20, 35, 2.0, fov_y=49.1, width=256, height=128)
    np.testing.assert_allclose(camera.world_to_camera[0], np.linalg.inv(pose @ np.diag([1, -1, -1, 1])), atol=1e-6)
    focal = 64 / math.tan(math.radians(49.1 / 2))
    np.testing.assert_allclose(camera.intrinsics[0], [focal, focal, 128, 64], rtol=1e-6)


def test_up_is_up_in_the_picture():
    camera = orbit_cameras(0, 40, 2.0)
    x, y, _ = camera.world_to_camera[0, :3, :3] @ torch.tensor([0.0, 1.0, 0.0])
    assert y < -0.99 and abs(x) < 1e-6


def test_camera_to_world_gives_the_poses_back():
    cameras = orbit_cameras([10, -80], [5, 170], 1.7)
    torch.testing.assert_close(cameras.camera_to_world.double(), orbit_poses([10, -80], [5, 170], 1.7), atol=1e-6, rtol=0)


def test_turning_the_world_moves_azimuths_alone():
    cameras, expected = orbit_cameras([10, -80, 0], [5, 170, -100], 1.7), orbit_cameras([10, -80, 0], [-85, 80, 170], 1.7)
    turned = cameras.turned(90.0)
    torch.testing.assert_close(turned.world_to_camera, expected.world_to_camera, atol=1e-6, rtol=0)
    torch.testing.assert_close(turned.azimuth, expected.azimuth)
    assert torch.equal(turned.elevation, cameras.elevation) and torch.equal(turned.intrinsics, cameras.intrinsics)
    torch.testing.assert_close(turned.turned(-90.0).world_to_camera, cameras.world_to_camera, atol=1e-6, rtol=0)


@pytest.mark.parametrize("device", DEVICES)
def test_angles_may_lie_anywhere(device):
    elevation, azimuth = torch.tensor([-20.0, 30.0]), torch.tensor([10.0, -140.0])
    expected, found = orbit_cameras(elevation, azimuth, 2.5), orbit_cameras(elevation.to(device), azimuth.to(device), 2.5, device=device)
    assert found.device.type == device and torch.equal(found.world_to_camera.cpu(), expected.world_to_camera)


def test_indexing_joining_and_resizing():
    cameras = turntable(5, elevation=-10, width=32, height=24)
    assert torch.equal(concatenate([cameras[:2], cameras[2], cameras[torch.tensor([3, 4])]]).world_to_camera, cameras.world_to_camera)
    assert len(cameras[-1]) == 1 and cameras[-1].azimuth.item() == 288
    double = cameras.resized(64, 48)
    assert isinstance(double, Cameras) and (double.width, double.height) == (64, 48)
    torch.testing.assert_close(double.intrinsics, cameras.intrinsics * 2)
    torch.testing.assert_close(double.intrinsics, turntable(5, width=64, height=48).intrinsics)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"radius": 0.0}, "radius"),
        ({"fov_y": 180}, "fov_y=180"),
        ({"width": 0}, "picture size 0x256"),
        ({"radius": float("nan")}, "radius"),
    ],
)
def test_bad_cameras_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        orbit_cameras(0, 0, **arguments)


def test_joining_different_sizes_is_refused():
    with pytest.raises(ValueError, match="different sizes"):
        concatenate([orbit_cameras(0, 0), orbit_cameras(0, 0, width=8)])
