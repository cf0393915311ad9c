"""Meshes for printers: millimetres, Z up, a flat base, and STL that others read."""

import numpy as np
import pytest
import trimesh

from microdreamer.meshes.mesh import Mesh
from microdreamer.meshes.printing import BASE_SHARE, for_printing, write_stl


@pytest.fixture
def egg():
    """A closed egg, 0.6 wide, 1 high, 0.8 deep, off the middle, on whose front there is a nose."""
    shape = trimesh.creation.icosphere(4)
    vertices = shape.vertices * [0.3, 0.5, 0.4]
    vertices[vertices[:, 2].argmax(), 2] += 0.1
    return Mesh(vertices + np.array([3, 5, -2]), shape.faces)


def solid(vertices, faces):
    return trimesh.Trimesh(vertices, faces, process=False)


def test_the_longest_side_has_the_size_and_it_stands_on_the_plate(egg):
    vertices, faces = for_printing(egg, 80.0, flat_base=False)
    low, high = vertices.min(0), vertices.max(0)
    np.testing.assert_allclose(high - low, np.array([0.6, 0.9, 1.0]) * 80, atol=0.1)  # wide, deep, high
    np.testing.assert_allclose([low[2], low[0] + high[0], low[1] + high[1]], 0, atol=1e-9)
    assert vertices[vertices[:, 1].argmin(), 2] == pytest.approx(40, abs=1)  # the nose, on the front, looks along -y
    assert solid(vertices, faces).is_watertight and solid(vertices, faces).volume > 0


def test_the_base_is_flat_and_the_mesh_stays_closed(egg):
    vertices, faces = for_printing(egg, 80.0)
    shape = solid(vertices, faces)
    assert shape.is_watertight and shape.is_winding_consistent
    down = shape.area_faces[(shape.triangles[:, :, 2].max(1) == 0) & (shape.face_normals[:, 2] < -0.999)].sum()
    height = 100 * 0.98  # of the egg where the base begins, in shares of a radius
    radius = np.sqrt(1 - (1 - 2 * BASE_SHARE) ** 2)
    scale = 80 / (1.0 * height / 100)
    assert down == pytest.approx(np.pi * radius**2 * 0.3 * 0.4 * scale**2, rel=0.25)  # the section of the ellipsoid there
    assert np.ptp(vertices[:, 2]) == pytest.approx(80) and vertices[:, 2].min() == 0


def test_stl_is_read_by_others(egg, tmp_path):
    vertices, faces = for_printing(egg, 50.0)
    write_stl(vertices, faces, tmp_path / "egg.stl")
    assert (tmp_path / "egg.stl").stat().st_size == 84 + 50 * len(faces)
    read = trimesh.load(tmp_path / "egg.stl")
    assert read.is_watertight and len(read.faces) == len(faces)
    np.testing.assert_allclose(read.extents, np.ptp(vertices, axis=0), rtol=1e-5)
    np.testing.assert_allclose(read.volume, solid(vertices, faces).volume, rtol=1e-4)


@pytest.mark.parametrize("size", [0, -5, 1e9, float("nan"), float("inf")])
def test_sizes_that_no_printer_has(egg, size):
    with pytest.raises(ValueError, match="size_mm"):
        for_printing(egg, size)


def test_a_mesh_without_a_size():
    with pytest.raises(ValueError, match="has a size"):
        for_printing(Mesh(np.zeros((3, 3)), np.array([[0, 1, 2]])), 10)
