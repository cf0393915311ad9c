"""Mesh quality: counts on meshes made by hand, and faults of assets."""

import numpy as np
import pytest
import trimesh

from microdreamer.meshes import cleaning as mesh_cleaning
from microdreamer.metrics.meshes import asset_faults, meets_face_target, mesh_quality

TETRAHEDRON = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]]), np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])


def test_a_tetrahedron_is_sound():
    quality = mesh_quality(*TETRAHEDRON)
    assert quality.is_watertight and quality.is_edge_manifold
    assert (quality.faces, quality.vertices, quality.components) == (4, 4, 1)
    assert quality.boundary_edges == quality.crowded_edges == quality.degenerate_faces == quality.repeated_faces == 0


def test_triangle_soup_counts_as_welded():
    vertices, faces = TETRAHEDRON
    quality = mesh_quality(vertices[faces].reshape(-1, 3), np.arange(12).reshape(-1, 3))
    assert quality.is_watertight and quality.vertices == 4


def test_an_open_mesh():
    vertices, faces = TETRAHEDRON
    quality = mesh_quality(vertices, faces[:3])
    assert quality.boundary_edges == 3 and quality.closed_share == 0.5 and quality.manifold_share == 1
    assert not quality.is_watertight and quality.is_edge_manifold


def test_a_turned_face():
    vertices, faces = TETRAHEDRON
    quality = mesh_quality(vertices, np.concatenate([faces[:3], faces[3:, ::-1]]))
    assert quality.consistent_share == 0.5 and quality.closed_share == 1 and not quality.is_watertight


def test_a_fin_crowds_an_edge():
    vertices, faces = TETRAHEDRON
    quality = mesh_quality(np.concatenate([vertices, [[-1, -1, -1.0]]]), np.concatenate([faces, [[0, 1, 4]]]))
    assert quality.crowded_edges == 1 and quality.boundary_edges == 2 and not quality.is_edge_manifold
    assert quality.manifold_share == pytest.approx(7 / 8)


def test_degenerate_and_repeated_faces():
    vertices, faces = TETRAHEDRON
    vertices = np.concatenate([vertices, [[0.5, 0, 0]]])
    quality = mesh_quality(vertices, np.concatenate([faces, [[0, 0, 1], [0, 4, 1], [1, 0, 2]]]))
    assert quality.faces == 7 and quality.degenerate_faces == 2 and quality.repeated_faces == 1


def test_two_parts_and_nothing():
    vertices, faces = TETRAHEDRON
    quality = mesh_quality(np.concatenate([vertices, vertices + 5]), np.concatenate([faces, faces + 4]))
    assert quality.components == 2 and quality.is_watertight
    nothing = mesh_quality(np.zeros((0, 3)), np.zeros((0, 3)))
    assert nothing.faces == nothing.components == 0 and not nothing.is_watertight


def complete_asset():
    vertices, faces = TETRAHEDRON
    normals = (vertices - 0.25) / np.linalg.norm(vertices - 0.25, axis=1, keepdims=True)
    return {"vertices": vertices, "faces": faces, "normals": normals, "uvs": vertices[:, :2], "texture": np.zeros((4, 4, 3))}


def test_a_complete_asset_has_no_faults():
    assert asset_faults(**complete_asset()) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"faces": np.zeros((0, 3), int)}, "no faces"),
        ({"vertices": np.full((4, 3), np.nan)}, "vertices are not finite"),
        ({"faces": np.array([[0, 1, 4]])}, "faces name missing vertices"),
        ({"normals": None}, "no normals"),
        ({"normals": np.ones((4, 3))}, "normals are not of unit length"),
        ({"normals": np.ones((3, 3))}, "3 normals for 4 vertices"),
        ({"uvs": None}, "no UVs"),
        ({"uvs": np.full((4, 2), 1.5)}, r"UVs are not in [0, 1]"),
        ({"uvs": np.zeros((2, 2))}, "faces name missing UVs"),
        ({"texture": None}, "no texture"),
        ({"texture": np.full((2, 2, 3), np.nan)}, "the texture is not finite"),
    ],
)
def test_faults_are_named(change, fault):
    assert fault in asset_faults(**{**complete_asset(), **change})


def test_simplified_meshes_meet_their_target():
    mesh = trimesh.creation.icosphere(5)
    vertices, faces = mesh_cleaning.simplify(np.asarray(mesh.vertices), np.asarray(mesh.faces), 5000)
    assert meets_face_target(vertices, faces, 5000)
    assert meets_face_target(vertices[faces].reshape(-1, 3), np.arange(3 * len(faces)).reshape(-1, 3), 5000)
    assert not meets_face_target(vertices, faces, 6000)
    # Repeating faces does not help.
    assert not meets_face_target(vertices, np.concatenate([faces, faces[:1000]]), 6000)
    assert mesh_quality(vertices, faces).is_watertight
