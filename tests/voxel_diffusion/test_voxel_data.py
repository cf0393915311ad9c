"""Voxel grids: primitives, files, and the solid voxeliser."""

import numpy as np
import pytest
import torch
import trimesh

from microdreamer.shapes.packed import pack
from microdreamer.voxel_diffusion import primitives
from microdreamer.voxel_diffusion.grids import load_grids, save_array, save_folder, save_packed
from microdreamer.voxel_diffusion.voxelise import solid_angles, to_grid, voxelise, voxelise_files, winding_numbers


def box(low, high):
    """Vertices and faces of an axis-aligned box, outward."""
    mesh = trimesh.creation.box(bounds=(low, high))
    return np.array(mesh.vertices), np.array(mesh.faces)


def ball(centre, radius, subdivisions=3):
    mesh = trimesh.creation.icosphere(subdivisions, radius=radius)
    return np.array(mesh.vertices) + centre, np.array(mesh.faces)


@pytest.mark.parametrize("kind", primitives.KINDS)
def test_shapes_are_seeded_and_inside(kind):
    grids = [primitives.draw(kind, 24, 3, i) for i in range(8)]
    assert all(grid.shape == (24, 24, 24) and grid.dtype == bool and grid.any() and not grid.all() for grid in grids)
    assert np.array_equal(grids[5], primitives.draw(kind, 24, 3, 5))
    assert not np.array_equal(grids[5], primitives.draw(kind, 24, 4, 5))
    assert len({grid.tobytes() for grid in grids}) == 8


def test_spheres_have_the_volume_of_balls_and_stay_inside():
    for i in range(20):
        grid = primitives.draw("sphere", 32, 0, i)
        filled = np.argwhere(grid)
        low, high = filled.min(0), filled.max(0) + 1
        assert np.ptp(high - low) <= 1  # as wide as it is high; a sphere that the border cut would not be
        radius = (3 * grid.sum() / (4 * np.pi)) ** (1 / 3)
        assert 32 * primitives.RADII[0] * 0.95 < radius < 32 * primitives.RADII[1] * 1.05
        assert abs((high - low).max() / 2 - radius) < 0.7


def test_primitives_against_their_definition():
    assert primitives.cube(8, np.array([4, 4, 4]), 2.0).sum() == 64
    assert primitives.sphere(8, np.array([4.5, 4.5, 4.5]), 1.0).sum() == 7  # the centre voxel and its six neighbours
    grid = primitives.torus(64, np.array([32.2, 31.6, 32.4]), 18.0, 6.0, np.array([0, 1, 0]))
    assert grid.sum() == pytest.approx(2 * np.pi**2 * 18 * 6**2, rel=0.01)
    assert not grid[24:40, :, 24:40].any()  # the hole
    assert grid[:, 25:38].sum() == grid.sum()


@pytest.mark.parametrize(("kind", "size", "message"), [("star", 16, "kind=star: expected one of"), ("sphere", 4, "size=4")])
def test_bad_shapes(kind, size, message):
    with pytest.raises(ValueError, match=message):
        primitives.draw(kind, size, 0, 0)


def test_folder_round_trip_and_overwriting(tmp_path):
    grids = [primitives.draw("sphere", 16, 0, i) for i in range(3)]
    save_folder(tmp_path, grids)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["vox_0000.npy", "vox_0001.npy", "vox_0002.npy"]
    assert np.load(tmp_path / "vox_0001.npy").dtype == np.float32
    assert np.array_equal(load_grids(tmp_path), np.stack(grids))
    with pytest.raises(ValueError, match="already holds 3 grids"):
        save_folder(tmp_path, grids[:1])
    save_folder(tmp_path, grids[:1], overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["vox_0000.npy"]


def test_array_and_packed_round_trip(tmp_path):
    grids = np.stack([primitives.draw("compound", 15, 0, i) for i in range(4)])  # 15^3 bits do not fill whole bytes
    save_packed(tmp_path / "grids.npz", grids, list("abcd"))
    assert np.array_equal(load_grids(tmp_path / "grids.npz"), grids)
    soft = np.random.default_rng(0).random((2, 9, 9, 9)).astype(np.float32)
    save_array(tmp_path / "soft.npy", soft)
    loaded = load_grids(tmp_path / "soft.npy")
    assert loaded.dtype == np.float32 and np.array_equal(loaded, soft)
    save_array(tmp_path / "one.npy", soft[0])
    assert load_grids(tmp_path / "one.npy").shape == (1, 9, 9, 9)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 5)), r"expected a grid \[4, 4, 4\], got \[4, 4, 5\]"),
        (np.zeros((8, 8, 8)), r"expected a grid \[4, 4, 4\], got \[8, 8, 8\]"),
        (np.full((4, 4, 4), np.nan), "not finite"),
        (np.full((4, 4, 4), 1.5), "values from 1.5 to 1.5; expected 0 to 1"),
        (np.full((4, 4, 4), -0.1), "expected 0 to 1"),
        (np.zeros((4, 4, 4), complex), "expected numbers"),
        (np.zeros((4, 4)), r"got \[4, 4\]"),
    ],
)
def test_bad_grids_name_their_file(tmp_path, array, message):
    np.save(tmp_path / "vox_0000.npy", np.zeros((4, 4, 4), np.float32))
    np.save(tmp_path / "vox_0001.npy", array)
    with pytest.raises(ValueError, match=message) as error:
        load_grids(tmp_path)
    assert "vox_0001.npy" in str(error.value)


def test_missing_empty_and_damaged_files(tmp_path):
    with pytest.raises(ValueError, match="no grids in this folder"):
        load_grids(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_grids(tmp_path / "nowhere")
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr'")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 not a zip")
    for name in ("broken.npy", "broken.npz"):
        with pytest.raises(ValueError, match=name):
            load_grids(tmp_path / name)
    np.save(tmp_path / "none.npy", np.zeros((0, 4, 4, 4)))
    with pytest.raises(ValueError, match="holds no grids"):
        load_grids(tmp_path / "none.npy")


def test_voxelised_box_is_exact():
    grid = voxelise(*box((2, 3, 4), (7, 6, 12)), 16)
    expected = np.zeros((16, 16, 16), bool)
    expected[2:7, 3:6, 4:12] = True
    assert np.array_equal(grid, expected)


def test_voxelised_ball_matches_the_primitive():
    grid = voxelise(*ball(np.array([15.3, 16.1, 16.7]), 9.0, 4), 32)
    expected = primitives.sphere(32, np.array([15.3, 16.1, 16.7]), 9.0)
    assert (grid != expected).mean() < 0.002 and (grid & ~expected).sum() == 0  # the polyhedron lies inside of the ball


def test_turned_faces_and_overlaps_do_not_matter():
    vertices, faces = ball(np.array([16, 16, 16]), 8.0)
    grid = voxelise(vertices, faces, 32)
    assert np.array_equal(voxelise(vertices, faces[:, ::-1].copy(), 32), grid)
    other, other_faces = ball(np.array([20.2, 16.4, 16.3]), 6.0)
    both = voxelise(np.concatenate([vertices, other]), np.concatenate([faces, other_faces + len(vertices)]), 32)
    assert np.array_equal(both, grid | voxelise(other, other_faces, 32))  # parity alone would leave a hole where they overlap


def test_reversed_inner_surface_is_a_cavity():
    vertices, faces = box((2, 2, 2), (14, 14, 14))
    inner, inner_faces = box((5, 5, 5), (11, 11, 11))
    grid = voxelise(np.concatenate([vertices, inner]), np.concatenate([faces, inner_faces[:, ::-1] + len(vertices)]), 16)
    assert grid.sum() == 12**3 - 6**3 and not grid[8, 8, 8]


def test_open_mesh_stays_solid():
    vertices, faces = ball(np.array([16, 16, 16]), 10.0)
    closed = voxelise(vertices, faces, 32)
    centres = vertices[faces].mean(1) - 16
    opened = voxelise(vertices, faces[centres[:, 1] < 9.0], 32)  # the cap on top is gone
    different = opened != closed
    assert different.sum() < 0.03 * closed.sum()
    assert np.argwhere(different)[:, 1].min() > 21  # only near the hole; rays through it leave no streaks
    assert not (opened & ~closed).any()


def test_winding_numbers_of_closed_and_open_surfaces():
    vertices, faces = (torch.from_numpy(a) for a in ball(np.array([20, 20, 20]), 12.0, 2))
    points = torch.rand(100, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 40
    radii = (points - 20).norm(dim=1)
    points, radii = points[(radii - 12).abs() > 0.5], radii[(radii - 12).abs() > 0.5]
    torch.testing.assert_close(winding_numbers(points, vertices, faces), (radii < 12).float(), atol=0.01, rtol=0)
    half = faces[(vertices[faces].mean(1)[:, 2] > 20)]
    exact = solid_angles(points, vertices, half) / (4 * torch.pi)
    assert (winding_numbers(points, vertices, half) - exact).abs().max() < 0.02


def test_solid_angle_of_a_cube_s_sides():
    vertices, faces = (torch.from_numpy(a) for a in box((0, 0, 0), (2, 2, 2)))
    top = faces[(vertices[faces][:, :, 2] == 2).all(1)]
    middle = torch.tensor([[1.0, 1.0, 1.0]], dtype=torch.float64)
    assert float(solid_angles(middle, vertices, top)) == pytest.approx(4 * torch.pi / 6, rel=1e-6)
    assert float(solid_angles(middle, vertices, faces)) == pytest.approx(4 * torch.pi, rel=1e-6)
    assert float(solid_angles(middle + 5, vertices, faces)) == pytest.approx(0, abs=1e-5)


def test_bad_meshes():
    vertices, faces = box((2, 2, 2), (6, 6, 6))
    with pytest.raises(ValueError, match="no faces"):
        voxelise(vertices, faces[:0], 8)
    vertices[0, 0] = np.inf
    with pytest.raises(ValueError, match="not finite"):
        voxelise(vertices, faces, 8)
    with pytest.raises(ValueError, match="no extent"):
        to_grid(np.zeros((3, 3)), 8)


def test_files_and_packs_are_voxelised(tmp_path):
    vertices, faces = box((0, 0, 0), (2, 1, 1))
    trimesh.Trimesh(vertices, faces).export(tmp_path / "brick.ply")
    sheet = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0.0]]), np.array([[0, 1, 2]])
    colors, normals = (lambda n: np.zeros((n, 3, 3), np.uint8)), (lambda n: np.zeros((n, 3, 3), np.int8))
    parts = [(*mesh, colors(len(mesh[1])), normals(len(mesh[1]))) for mesh in (sheet, (vertices, faces))]
    pack(parts, ["sheet", "brick"]).save(tmp_path / "pack.npz")
    grids, names = voxelise_files([tmp_path / "pack.npz", tmp_path], 40)
    assert names == ["brick", "brick"]  # the sheet has no inside
    assert np.array_equal(grids[0], grids[1]) and grids[0][2:38, 11:29, 11:29].all() and grids[0].sum() == 36 * 18 * 18
    assert voxelise_files([tmp_path], 20, limit=1)[1] == ["brick"]
    with pytest.raises(ValueError, match="no object with 100000 solid voxels"):
        voxelise_files([tmp_path], 20, least=100_000)
    with pytest.raises(FileNotFoundError, match=r"missing\.obj"):
        voxelise_files([tmp_path / "missing.obj"], 20)


def test_real_objects_are_solid(shared_data):
    grids, names = voxelise_files([shared_data("objects/val.npz")], 24, limit=8)
    assert len(names) == 8
    for grid in grids:
        extent = np.argwhere(grid)
        assert np.ptp(extent, axis=0).max() >= 0.75 * 24  # nothing of the longest side was lost to thinness
