"""Marching cubes: a closed manifold whatever the field, the same bits from every version, the surface that PyMCubes finds."""

import numpy as np
import pytest
import torch
import trimesh
from conftest import DEVICES
from scipy.spatial import cKDTree

from microdreamer.kernels import extension
from microdreamer.kernels import marching_cubes as module
from microdreamer.kernels.marching_cubes import MAX_FACES, marching_cubes, marching_cubes_reference, triangle_table
from microdreamer.meshes import cleaning as mesh_cleaning
from microdreamer.meshes.topology import edges_of

compiled = pytest.mark.skipif(not extension.available("cpu"), reason="no kernels were built")


def noise(*sides, seed=0):
    """White noise within a border below zero: every case of the table occurs."""
    field = torch.randn(*sides, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.pad(field, (1,) * 6, value=-1.0)


def ball(points=40, radius=0.7):
    axis = torch.linspace(-1, 1, points)
    return radius - torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0)


def plain(field):
    return marching_cubes_reference(field, module.table_on(field.device))


def cases_of(field):
    inside = (field > 0).numpy()
    corners = [inside[x : x - 1 or None, y : y - 1 or None, z : z - 1 or None] for x in (0, 1) for y in (0, 1) for z in (0, 1)]
    return sum(corner.astype(int) << k for k, corner in enumerate(corners))


def test_the_table_has_a_row_for_every_case_and_the_known_number_of_faces():
    table = triangle_table()
    assert len(table) == 256 and table[0] == table[255] == ()
    assert max(map(len, table)) == MAX_FACES and sum(map(len, table)) == 820
    for case, faces in enumerate(table):
        used = {edge for face in faces for edge in face}
        cut = {e for e in range(12) if len({case >> (4 * x + 2 * y + z) & 1 for x, y, z in module._ends(e)}) == 2}
        assert used == cut


@pytest.mark.parametrize("extract", [pytest.param(marching_cubes, marks=compiled), plain])
def test_noise_has_a_closed_manifold_surface_that_is_wound_outward(extract):
    field = noise(20, 17, 23)
    assert len(np.unique(cases_of(field))) == 256
    vertices, faces = (values.numpy() for values in extract(field))
    assert vertices.dtype == np.float32 and faces.dtype == np.int32
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0
    assert set(edges_of(faces.astype(np.int64)).sharing) == {2}
    split, _ = mesh_cleaning.split_touching_fans(vertices.astype(np.float64), faces.astype(np.int64))
    assert len(split) == len(vertices) == len(np.unique(faces))  # one fan of faces at each vertex
    assert mesh.area_faces.min() > 0


def test_vertices_lie_where_the_field_is_zero():
    field = noise(9, 9, 9)
    vertices, _ = marching_cubes(field)
    low = vertices.floor().long()
    assert ((vertices != low).sum(1) == 1).all()  # on grid edges
    first = field[tuple(low.T)]
    last = field[tuple((low + (vertices != low).long()).T)]
    share = (vertices - low).sum(1)
    inner = (share > 0.01) & (share < 0.99)
    torch.testing.assert_close((first + share * (last - first))[inner], torch.zeros(int(inner.sum())), atol=1e-5, rtol=0)
    assert (first > 0).ne(last > 0).all()


def test_a_ball_has_the_volume_of_a_ball():
    vertices, faces = marching_cubes(ball())
    mesh = trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False)
    assert mesh.volume / 19.5**3 == pytest.approx(4 / 3 * np.pi * 0.7**3, rel=0.005)
    outward = vertices.numpy() - 19.5
    assert ((mesh.vertex_normals * outward).sum(1) > 0.95 * np.linalg.norm(outward, axis=1)).all()


@pytest.mark.parametrize("field", [ball(), noise(12, 15, 9), noise(3, 3, 30, seed=1)], ids=["ball", "noise", "rod"])
def test_the_surface_is_that_of_pymcubes(field):
    mcubes = pytest.importorskip("mcubes")
    vertices, faces = marching_cubes(field)
    theirs, their_faces = mcubes.marching_cubes(field.double().numpy(), 0.0)
    assert len(vertices) == len(theirs) and len(faces) == len(their_faces)
    distances, nearest = cKDTree(theirs).query(vertices.numpy())
    assert distances.max() < 1.1e-3  # ours keep a thousandth away from grid points
    assert len(np.unique(nearest)) == len(theirs)


def test_zeros_at_grid_points_make_no_face_without_area():
    field = torch.tensor([[-1.0, 0.0, 1.0, 0.0, -1.0]]).expand(5, 5, 5) - 0 * ball(5)
    field = torch.nn.functional.pad(field, (1,) * 6, value=-1.0)
    vertices, faces = marching_cubes(field)
    mesh = trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False)
    assert mesh.is_watertight and mesh.area_faces.min() > 0


@pytest.mark.parametrize("value", [-1.0, 1.0, 0.0])
def test_a_field_that_does_not_pass_zero_has_no_surface(value):
    vertices, faces = marching_cubes(torch.full((4, 5, 6), value))
    assert vertices.shape == (0, 3) and faces.shape == (0, 3)


@compiled
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("field", [ball(), noise(20, 17, 23), noise(1, 1, 1), noise(40, 2, 70, seed=2), ball(3)])
def test_all_versions_return_the_same_bits(device, field):
    expected = plain(field)
    vertices, faces = marching_cubes(field.to(device))
    assert torch.equal(vertices.cpu(), expected[0]) and torch.equal(faces.cpu(), expected[1])
    vertices, faces = plain(field.to(device))
    assert torch.equal(vertices.cpu(), expected[0]) and torch.equal(faces.cpu(), expected[1])


@compiled
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_large_field_on_another_stream_is_the_same_and_repeats():
    field = noise(160, 130, 140).cuda()
    expected = plain(field.cpu())
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        runs = [marching_cubes(field) for _ in range(3)]
    stream.synchronize()
    for vertices, faces in runs:
        assert torch.equal(vertices.cpu(), expected[0]) and torch.equal(faces.cpu(), expected[1])


@compiled
@pytest.mark.parametrize("device", DEVICES)
def test_the_op_is_registered_right(device):
    marching_cubes(ball(4))
    field = ball(6).to(device)
    torch.library.opcheck(torch.ops.microdreamer.marching_cubes, (field, module.table_on(field.device)))


@pytest.mark.parametrize("switch", [pytest.param("1", marks=compiled), "0"])
def test_what_is_no_field_is_refused(monkeypatch, switch):
    monkeypatch.setenv("USE_CUDA_EXTRACT", switch)
    for wrong in (torch.zeros(4, 4), torch.zeros(4, 4, 1), torch.zeros(4, 4, 4, dtype=torch.float64)):
        with pytest.raises(ValueError, match="field: expected"):
            marching_cubes(wrong)
