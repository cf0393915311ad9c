"""Simplification of closed meshes: still closed, as many faces as asked for, near to what it was, the same on every run."""

import logging

import numpy as np
import pytest
import torch
import trimesh

from microdreamer.kernels import extension
from microdreamer.kernels.marching_cubes import marching_cubes
from microdreamer.kernels.mesh_simplify import is_closed_manifold, simplify_closed_mesh
from microdreamer.meshes import cleaning as mesh_cleaning

pytestmark = pytest.mark.skipif(not extension.available("cpu"), reason="no kernels were built")


def tensors(mesh):
    return torch.from_numpy(np.array(mesh.vertices, np.float64)), torch.from_numpy(np.array(mesh.faces, np.int64))


def noisy_surface(points=40, seed=0):
    """A closed surface full of handles, of some 60 000 faces."""
    field = torch.randn(points, points, points, generator=torch.Generator().manual_seed(seed))
    smoothed = torch.nn.functional.avg_pool3d(field[None, None], 3, stride=1, padding=1)[0, 0]
    vertices, faces = marching_cubes(torch.nn.functional.pad(smoothed, (1,) * 6, value=-1.0))
    return vertices.double(), faces.long()


def simplified(vertices, faces, target):
    vertices, faces = simplify_closed_mesh(vertices, faces, target)
    return trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False)


@pytest.mark.parametrize("target", [20_000, 5_001, 400, 20])
def test_a_ball_stays_a_ball(target):
    sphere = trimesh.creation.icosphere(6)
    mesh = simplified(*tensors(sphere), target)
    assert target - 1 <= len(mesh.faces) <= target
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.euler_number == 2
    assert len(np.unique(mesh.faces)) == len(mesh.vertices)
    if target >= 400:
        assert mesh.volume == pytest.approx(4 / 3 * np.pi, rel=10 / target)
        radii = np.linalg.norm(mesh.triangles_center, axis=1)
        assert np.abs(radii - 1).max() < 30 / target


@pytest.mark.parametrize("target", [30_000, 8_000])
def test_a_surface_full_of_handles_keeps_them_and_stays_a_manifold(target):
    vertices, faces = noisy_surface()
    before = trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False)
    assert len(faces) > 50_000  # blocks and the whole
    mesh = simplified(vertices, faces, target)
    assert len(mesh.faces) == target and mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.euler_number == before.euler_number
    assert is_closed_manifold(torch.from_numpy(np.array(mesh.faces)).long(), len(mesh.vertices))
    assert mesh.volume == pytest.approx(before.volume, rel=0.1)


def test_flat_sides_and_corners_of_a_box_are_kept():
    box = trimesh.creation.box().subdivide().subdivide().subdivide()
    mesh = simplified(*tensors(box), 60)
    assert mesh.volume == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(mesh.bounds, box.bounds, atol=1e-3)


def test_place_and_size_do_not_matter():
    torus = trimesh.creation.torus(1.0, 0.35, 80, 40)
    vertices, faces = tensors(torus)
    near = simplified(vertices, faces, 900)
    far = simplified(vertices * 1e-3 + 7, faces, 900)
    assert abs(far.volume * 1e9 - near.volume) < 1e-3 * near.volume
    assert len(far.faces) == len(near.faces)


def test_the_number_of_threads_does_not_matter():
    vertices, faces = noisy_surface()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = simplify_closed_mesh(vertices, faces, 10_000)
        torch.set_num_threads(4)
        four = simplify_closed_mesh(vertices, faces, 10_000)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one[0], four[0]) and torch.equal(one[1], four[1])


def test_closed_manifolds_are_told_from_others():
    vertices, faces = tensors(trimesh.creation.icosphere(2))
    count = len(vertices)
    assert is_closed_manifold(faces, count) and is_closed_manifold(faces[:0], count)
    turned = faces.clone()
    turned[3] = turned[3].flip(0)
    two = torch.cat([faces, faces + count])
    touching = torch.where(two == count + 5, 5, two)  # two balls that share a vertex
    for wrong in (faces[1:], turned, torch.cat([faces, faces[:1]]), torch.cat([faces, faces[:1].flip(1)]), touching, faces * 0):
        assert not is_closed_manifold(wrong, 2 * count)
    assert is_closed_manifold(two, 2 * count)


def test_tetrahedra_are_left_and_that_is_said(caplog):
    tetrahedron = trimesh.creation.icosahedron().convex_hull
    parts = [trimesh.Trimesh(tetrahedron.vertices + 3.0 * k, tetrahedron.faces, process=False) for k in range(5)]
    joined = trimesh.util.concatenate(parts)
    with caplog.at_level(logging.WARNING):
        vertices, faces = mesh_cleaning.simplify(np.array(joined.vertices), np.array(joined.faces, np.int64), 10)
    assert len(faces) == 5 * 4 and trimesh.Trimesh(vertices, faces, process=False).is_watertight
    assert "target_faces=10: simplification ended at 20 faces" in caplog.text


def test_the_op_is_registered_right():
    vertices, faces = tensors(trimesh.creation.icosphere(2))
    simplify_closed_mesh(vertices, faces, 100)
    torch.library.opcheck(torch.ops.microdreamer.simplify_closed_mesh, (vertices, faces, 100))


def test_what_is_no_closed_mesh_is_refused():
    vertices, faces = tensors(trimesh.creation.icosphere(1))
    with pytest.raises(ValueError, match="expected a closed manifold"):
        simplify_closed_mesh(vertices, faces[1:], 10)
    with pytest.raises(ValueError, match="some name vertices that are not among the 42"):
        simplify_closed_mesh(vertices, faces + 1, 10)
    with pytest.raises(ValueError, match="target_faces: expected 4 or more, got 3"):
        simplify_closed_mesh(vertices, faces, 3)
    with pytest.raises(ValueError, match="vertices: expected finite values"):
        simplify_closed_mesh(vertices * torch.inf, faces, 10)
