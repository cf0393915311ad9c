"""What the published networks are told of a camera, by their formulas in float64."""

import math

import pytest
import torch

from cam_utils import orbit_cameras
from microdreamer.guidance.published.mvdream import camera_matrices
from microdreamer.guidance.published.zero123 import camera_numbers


@pytest.mark.parametrize(("up", "azimuth"), [(20.0, 35.0), (-10.0, 200.0)])
def test_mvdream_is_told_a_pose_on_the_unit_sphere_with_z_up(up, azimuth):
    """Camera to world with x right, y up and z backward, where the object's front is seen from +X; whatever the distance."""
    e, a = math.radians(up), math.radians(azimuth)
    right = [-math.sin(a), math.cos(a), 0.0]
    above = [-math.sin(e) * math.cos(a), -math.sin(e) * math.sin(a), math.cos(e)]
    backward = [math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)]
    rows = [*zip(right, above, backward, backward, strict=True), (0.0, 0.0, 0.0, 1.0)]
    found = camera_matrices(orbit_cameras(-up, azimuth, 2.5))
    torch.testing.assert_close(found, torch.tensor(rows).reshape(1, 16), rtol=0, atol=1e-6)


def test_zero123_is_told_angles_from_the_picture_s_camera():
    """Elevation downwards from the picture's, sine and cosine of the azimuth; fourth 0 (XL) or the picture's polar angle (Stable)."""
    cameras = orbit_cameras([-10.0, 25.0], [40.0, -90.0], 2.0)
    expected = torch.tensor([[0.0, math.sin(math.radians(40)), math.cos(math.radians(40)), 0.0], [math.radians(35), -1.0, 0.0, 0.0]])
    torch.testing.assert_close(camera_numbers(cameras, -10.0, stable=False), expected, rtol=0, atol=1e-6)
    expected[:, 3] = math.radians(80)
    torch.testing.assert_close(camera_numbers(cameras, -10.0, stable=True), expected, rtol=0, atol=1e-6)
