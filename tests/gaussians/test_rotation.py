"""Turned Gaussians look, to a camera turned with them, as before; harmonics by Wigner matrices."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from splat_scenes import angles, changed, random_parameters

from cam_utils import orbit_cameras
from microdreamer.gaussians import UPS
from microdreamer.gaussians.captures import turn_to_y
from microdreamer.gaussians.model import GaussianModel
from microdreamer.gaussians.rotation import harmonic_rotation, product, quaternion_of, turned
from microdreamer.kernels.spherical_harmonics import sh_basis

TURNS = [Rotation.random(random_state=seed).as_matrix() for seed in range(4)] + [turn_to_y(axis) for axis in UPS[1:]]


@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("turn", TURNS)
def test_harmonics_of_a_degree_turn_among_themselves(turn, degree):
    """The turned function at turn @ v is the function at v, for every v; the matrix is orthogonal."""
    matrix = harmonic_rotation(turn, degree)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(2 * degree + 1), atol=1e-12)
    directions = Rotation.random(50, random_state=9).as_matrix()[:, 0]
    coefficients = np.random.default_rng(0).normal(size=2 * degree + 1)

    def values(at, c):
        return sh_basis(torch.from_numpy(at), degree)[:, degree**2 :].numpy() @ c

    np.testing.assert_allclose(values(directions @ turn.T, matrix @ coefficients), values(directions, coefficients), atol=1e-12)


def test_one_turn_after_the_other_is_their_product():
    first, second = TURNS[:2]
    parameters = random_parameters()
    stepwise, at_once = turned(turned(parameters, first), second), turned(parameters, second @ first)
    for name in ("means", "sh_dc", "sh_rest", "log_scales"):
        np.testing.assert_allclose(stepwise[name], at_once[name], atol=1e-5)
    assert angles(stepwise["quaternions"], at_once["quaternions"]).max() < 1e-3


@pytest.mark.parametrize("turn", TURNS)
def test_quaternions_of_matrices(turn):
    found = Rotation.from_quat(quaternion_of(turn)[[1, 2, 3, 0]]).as_matrix()
    np.testing.assert_allclose(found, turn, atol=1e-12)
    other = Rotation.random(5, random_state=3)
    composed = product(quaternion_of(turn), other.as_quat()[:, [3, 0, 1, 2]])[:, [1, 2, 3, 0]]
    np.testing.assert_allclose(Rotation.from_quat(composed).as_matrix(), turn @ other.as_matrix(), atol=1e-12)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("turn", TURNS[:6])
def test_scene_and_camera_turned_together_give_the_same_picture(turn, degree):
    parameters = random_parameters(200, degree, seed=2)
    parameters = changed(parameters, means=0.3 * parameters["means"], log_scales=np.clip(parameters["log_scales"], -4, -2))
    cameras = orbit_cameras([10, -40], [30, 200], width=64, height=64)
    moved = cameras.world_to_camera.clone()
    moved[:, :3, :3] = cameras.world_to_camera[:, :3, :3] @ torch.from_numpy(turn.T).float()
    turned_cameras = dataclasses.replace(cameras, world_to_camera=moved)
    with torch.no_grad():
        before = GaussianModel.from_arrays(parameters).render(cameras).image
        after = GaussianModel.from_arrays(turned(parameters, turn)).render(turned_cameras).image
        unturned = GaussianModel.from_arrays(turned(parameters, turn) | {"sh_rest": parameters["sh_rest"]}).render(turned_cameras).image
    assert float((before - after).abs().mean()) < 1e-5
    assert degree == 0 or float((before - unturned).abs().mean()) > 1e-3  # so that the harmonics count


@pytest.mark.parametrize("axis", UPS[1:])
def test_the_turn_to_y_takes_the_axis_up(axis):
    direction = np.eye(3)["xyz".index(axis[-1])] * (-1 if axis.startswith("-") else 1)
    turn = turn_to_y(axis)
    np.testing.assert_array_equal(turn @ direction, [0, 1, 0])
    assert np.linalg.det(turn) == pytest.approx(1)
