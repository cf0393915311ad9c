"""Mesh cleaning: what comes out is closed, manifold and wound outward, whatever went in; face counts are met."""

import numpy as np
import pytest
import trimesh

from microdreamer.meshes import cleaning as mesh_cleaning


def sphere(subdivisions=3, radius=1.0, center=(0, 0, 0)):
    mesh = trimesh.creation.icosphere(subdivisions, radius)
    return mesh.vertices + np.asarray(center), mesh.faces.astype(np.int64)


def together(*meshes):
    starts = np.cumsum([0, *(len(vertices) for vertices, _ in meshes)])
    return np.concatenate([v for v, _ in meshes]), np.concatenate([f + s for (_, f), s in zip(meshes, starts[:-1], strict=True)])


def assert_closed(vertices, faces):
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0
    assert len(np.unique(faces)) == len(vertices)
    return mesh


def test_a_clean_mesh_stays_as_it_is():
    vertices, faces = sphere()
    cleaned = assert_closed(*mesh_cleaning.clean(vertices, faces))
    assert len(cleaned.faces) == len(faces)
    assert cleaned.volume == pytest.approx(trimesh.Trimesh(vertices, faces).volume)


def test_triangle_soup_with_holes_and_random_winding_becomes_closed():
    random = np.random.default_rng(0)
    vertices, faces = sphere(4)
    faces = np.delete(faces, random.choice(len(faces), 30, replace=False), axis=0)
    turned = random.random(len(faces)) < 0.3
    faces[turned] = faces[turned][:, ::-1]
    soup = vertices[faces].reshape(-1, 3), np.arange(3 * len(faces)).reshape(-1, 3)
    volume = assert_closed(*mesh_cleaning.clean(*soup)).volume
    assert volume == pytest.approx(4 / 3 * np.pi, rel=0.01)


def test_an_inside_out_mesh_is_turned():
    vertices, faces = sphere()
    assert_closed(*mesh_cleaning.clean(vertices, faces[:, ::-1]))


def test_degenerate_and_repeated_faces_go():
    vertices, faces = sphere()
    bad = np.array([[0, 0, 1], [2, 3, 2], faces[5], faces[7][::-1]])
    assert len(assert_closed(*mesh_cleaning.clean(vertices, np.concatenate([faces, bad]))).faces) == len(faces)


def test_at_crowded_edges_the_largest_two_faces_stay():
    vertices = np.array([[0, 0, 0], [0, 0, 1], [2, 0, 0], [0, 3, 0], [-1, 0, 0]], float)
    faces = np.array([[0, 1, 2], [0, 1, 4], [0, 1, 3]])
    kept, _ = mesh_cleaning.drop_crowded_faces(vertices, faces)
    assert sorted(kept[:, 0]) == [0, 0, 0, 2] and kept[:, 1].max() == 3


def test_a_fin_on_a_sphere_goes():
    vertices, faces = sphere()
    a, b, _ = faces[10]
    fin = np.concatenate([vertices, [vertices[a] * 1.01]])
    mesh = assert_closed(*mesh_cleaning.clean(fin, np.concatenate([faces, [[a, b, len(vertices)]]])))
    assert mesh.volume == pytest.approx(trimesh.Trimesh(vertices, faces).volume, rel=0.01)


def test_parts_that_touch_in_one_vertex_get_one_each():
    upper = sphere(1, center=(0, 1, 0))
    lower = sphere(1, center=(0, -1, 0))
    lowest = upper[0][:, 1].argmin()
    lower = (lower[0] - lower[0][lower[0][:, 1].argmax()] + upper[0][lowest], lower[1])
    vertices, faces = mesh_cleaning.merge_vertices(*together(upper, lower))
    vertices, faces = mesh_cleaning.drop_unused_vertices(vertices, faces)
    assert len(vertices) == 2 * len(upper[0]) - 1
    vertices, faces = mesh_cleaning.split_touching_fans(vertices, faces)
    assert len(vertices) == 2 * len(upper[0])
    assert_closed(vertices, faces)


def test_small_parts_and_cavities_go():
    parts = together(sphere(3), sphere(2, 0.05, (2, 0, 0)), sphere(3, 0.5, (0, 3, 0)))
    assert assert_closed(*mesh_cleaning.clean(*parts)).body_count == 2
    inner = sphere(3, 0.5)
    hollow = together(sphere(3), (inner[0], inner[1][:, ::-1]))
    vertices, faces = mesh_cleaning.drop_cavities(*hollow)
    assert len(faces) == len(hollow[1]) / 2 and np.linalg.norm(vertices, axis=1).min() > 0.9


def test_outer_parts_are_what_cleaning_keeps():
    inner = sphere(3, 0.5)
    parts = together(sphere(3), (inner[0], inner[1][:, ::-1]), sphere(2, 0.05, (2, 0, 0)), sphere(3, 0.5, (0, 3, 0)))
    vertices, faces = mesh_cleaning.keep_outer_parts(*parts)
    assert assert_closed(vertices, faces).body_count == 2
    cleaned = mesh_cleaning.clean(*mesh_cleaning.drop_cavities(*parts))
    assert len(cleaned[0]) == len(vertices) and len(cleaned[1]) == len(faces)
    assert trimesh.Trimesh(*cleaned).volume == pytest.approx(trimesh.Trimesh(vertices, faces).volume)
    for nothing in (parts[1][:0], inner[1][:, ::-1] + len(sphere(3)[0])):
        vertices, faces = mesh_cleaning.keep_outer_parts(parts[0], nothing)
        assert len(faces) == 0


def test_winding_of_many_parts_agrees_after_it_was_random():
    random = np.random.default_rng(0)
    vertices, faces = together(*(sphere(1, center=(3 * k, 0, 0)) for k in range(30)))
    turned = random.random(len(faces)) < 0.5
    wound = mesh_cleaning.wind_outward(vertices, np.where(turned[:, None], faces[:, ::-1], faces))
    mesh = assert_closed(vertices, wound)
    assert mesh.volume == pytest.approx(30 * trimesh.Trimesh(*sphere(1)).volume)


def test_an_open_mesh_is_simplified_too():
    vertices, faces = sphere(5)
    cut = faces[vertices[faces][:, :, 2].max(1) < 0.5]
    simple_vertices, simple_faces = mesh_cleaning.simplify(vertices, cut, 2000)
    assert abs(len(simple_faces) - 2000) <= 40
    radii = np.linalg.norm(simple_vertices, axis=1)
    assert (np.abs(radii - 1) < 0.01).sum() >= len(radii) - 1  # except for the middle of the hole, which is short enough now to be closed


def test_a_hole_that_is_too_long_stays_open():
    vertices, faces = sphere(3)
    open_mesh = vertices, faces[vertices[faces][:, :, 2].max(1) < 0]
    cleaned = trimesh.Trimesh(*mesh_cleaning.clean(*open_mesh, max_hole_edges=8), process=False)
    assert not cleaned.is_watertight
    loops = mesh_cleaning.boundary_loops(np.asarray(cleaned.faces))
    assert len(loops) == 1 and len(loops[0]) > 8
    assert_closed(*mesh_cleaning.clean(*open_mesh, max_hole_edges=len(loops[0])))


def test_a_one_sided_strip_does_not_hang():
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    across = np.stack([np.cos(angles / 2) * np.cos(angles), np.cos(angles / 2) * np.sin(angles), np.sin(angles / 2)], 1) * 0.3
    middle = np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1)
    vertices = np.stack([middle - across, middle + across], 1).reshape(-1, 3)
    quads = [(2 * i, 2 * i + 1, 2 * i + 3, 2 * i + 2) for i in range(23)] + [(46, 47, 0, 1)]
    faces = np.array([face for a, b, c, d in quads for face in ((a, b, c), (a, c, d))])
    _, cleaned = mesh_cleaning.clean(vertices, faces)
    assert len(cleaned) >= len(faces)


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_comes_of_nothing(count):
    vertices, faces = mesh_cleaning.clean(np.zeros((3, 3)), np.zeros((count, 3), np.int64))
    assert len(vertices) == len(faces) == 0


def test_smoothing_takes_noise_away_and_keeps_the_volume():
    vertices, faces = sphere(4)
    noisy = vertices * (1 + 0.02 * np.random.default_rng(0).standard_normal((len(vertices), 1)))
    smoothed = mesh_cleaning.smooth(noisy, faces, 10)
    assert np.linalg.norm(smoothed, axis=1).std() < 0.4 * np.linalg.norm(noisy, axis=1).std()
    before, after = (trimesh.Trimesh(v, faces, process=False).volume for v in (noisy, smoothed))
    assert after == pytest.approx(before, rel=0.02)


@pytest.mark.parametrize("target", [5000, 1201, 300, 60])
def test_the_face_count_is_met(target):
    torus = trimesh.creation.torus(1.0, 0.35, 80, 40)
    mesh = assert_closed(*mesh_cleaning.simplify(torus.vertices, torus.faces.astype(np.int64), target))
    assert abs(len(mesh.faces) - target) <= 0.02 * target
    if target >= 300:
        assert mesh.volume == pytest.approx(torus.volume, rel=0.05)


def test_a_mesh_with_few_faces_is_not_touched():
    vertices, faces = sphere(2)
    same_vertices, same_faces = mesh_cleaning.simplify(vertices, faces, 10_000)
    assert same_vertices is vertices and same_faces is faces


def test_an_impossible_face_count_is_refused():
    with pytest.raises(ValueError, match="target_faces=3: expected at least 4"):
        mesh_cleaning.simplify(*sphere(), 3)
