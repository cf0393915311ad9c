"""Vertex refinement: its projection and regularisers against hand-computed values, and a sphere that grows to fit pictures."""

import math

import numpy as np
import pytest
import torch
import trimesh
from conftest import DEVICES

from cam_utils import orbit_cameras
from microdreamer.meshes.model import Mesh
from microdreamer.meshes.vertex_fit import Neighbourhood, RefineSettings, refine_vertices, render

SQUARE = np.array([[0, 1, 2], [0, 2, 3]])  # two triangles that share the edge 0-2


def sphere(radius, grey=0.5, subdivisions=3):
    made = trimesh.creation.icosphere(subdivisions, radius)
    return Mesh(made.vertices, made.faces, np.full((len(made.vertices), 3), grey))


def pictures(mesh, cameras, background=1.0):
    vertices, colors, faces = (torch.from_numpy(part).to(cameras.device) for part in (mesh.vertices, mesh.vertex_colors, mesh.faces))
    rendering = render(vertices, colors, faces, cameras)
    return rendering[:, :3] + background * (1 - rendering[:, 3:]), rendering[:, 3:]


@pytest.mark.parametrize("angle", [0, 60, 90, 180])
def test_normal_inconsistency_of_a_fold(angle):
    fold = math.radians(angle)
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [-math.cos(fold), 0, math.sin(fold)]])
    found = Neighbourhood(SQUARE, 4).normal_inconsistency(vertices)
    assert float(found) == pytest.approx(1 - math.cos(fold), abs=1e-6)


def test_normal_inconsistency_of_a_cube():
    # 12 edges between faces at right angles, 6 within a face: 12 / 18.
    box = trimesh.creation.box()
    found = Neighbourhood(box.faces, 8).normal_inconsistency(torch.tensor(box.vertices).float())
    assert float(found) == pytest.approx(12 / 18, abs=1e-6)


def test_laplacian_by_hand():
    values = torch.tensor([[1.0], [2.0], [4.0], [10.0], [7.0]])  # the last vertex is on no face
    found = Neighbourhood(SQUARE, 5).laplacian(values)
    # neighbours: 0: 1, 2, 3; 1: 0, 2; 2: 0, 1, 3; 3: 0, 2
    expected = [16 / 3 - 1, 5 / 2 - 2, 13 / 3 - 4, 5 / 2 - 10, 0]
    torch.testing.assert_close(found[:, 0], torch.tensor(expected))
    torch.testing.assert_close(Neighbourhood(SQUARE, 5).laplacian(torch.ones(5, 3)), torch.zeros(5, 3))


@pytest.mark.parametrize("device", DEVICES)
def test_sphere_grows_to_fit_pictures(device):
    cameras = orbit_cameras([-30.0, 0.0, 30.0, 0.0, -30.0, 30.0], [0.0, 60.0, 120.0, 180.0, 240.0, 300.0], 2.0, width=96, height=96)
    cameras = cameras.to(device)
    images, alphas = pictures(sphere(0.55, grey=0.2), cameras)
    settings = RefineSettings(steps=40, views=3, offset_lr=4e-3)
    told = []
    mesh = sphere(0.5, grey=0.5)
    refined = refine_vertices(
        mesh,
        cameras,
        images,
        alphas,
        settings,
        generator=torch.Generator().manual_seed(0),
        progress=lambda step, total: told.append((step, total)),
    )
    radii = np.linalg.norm(refined.vertices, axis=1)
    assert abs(radii.mean() - 0.55) < 0.02 and radii.std() < 0.02
    assert np.array_equal(refined.faces, mesh.faces) and told == [(step, 40) for step in range(1, 41)]
    assert np.abs(refined.vertex_colors - 0.2).mean() < np.abs(mesh.vertex_colors - 0.2).mean()
    before, after = (pictures(part, cameras)[1] for part in (mesh, refined))
    assert float((after - alphas).abs().mean()) < 0.4 * float((before - alphas).abs().mean())


def test_a_mesh_that_fits_stays():
    cameras = orbit_cameras(-10.0, [0.0, 90.0, 180.0, 270.0], 2.0, width=64, height=64)
    mesh = sphere(0.5, grey=0.3)
    settings = RefineSettings(steps=10, normal_weight=0.0)
    refined = refine_vertices(mesh, cameras, *pictures(mesh, cameras), settings)
    moved = np.abs(refined.vertices - mesh.vertices)  # by rounding errors, which Adam blows up to at most a step
    assert moved.max() < settings.offset_lr and moved.mean() < 0.05 * settings.offset_lr
    assert np.abs(refined.vertex_colors - mesh.vertex_colors).max() < 1e-3


def test_colours_do_not_move_vertices():
    cameras = orbit_cameras(0.0, [0.0], 2.0, width=32, height=32)
    mesh = sphere(0.9)  # fills more than the picture: there is no silhouette
    vertices = torch.from_numpy(1.5 * mesh.vertices).requires_grad_()
    colors = torch.rand(len(vertices), 3).requires_grad_()
    image = render(vertices, colors, torch.from_numpy(mesh.faces), cameras)[:, :3]
    v_vertices, v_colors = torch.autograd.grad((image * torch.rand_like(image)).sum(), [vertices, colors], allow_unused=True)
    assert float(v_colors.abs().max()) > 0
    assert v_vertices is None or not v_vertices.any()


def learnt_offsets(**weights):
    """Offsets of the vertices of a sphere, from pictures of a larger one with a bumpy outline."""
    cameras = orbit_cameras(0.0, [0.0, 90.0, 180.0, 270.0], 2.0, width=64, height=64)
    mesh, target = sphere(0.5, subdivisions=2), sphere(0.55, subdivisions=2)  # faces of some pixels, or no silhouette would be seen
    target.vertices *= 1 + 0.08 * np.sin(9 * np.arctan2(target.vertices[:, 1:2], target.vertices[:, :1]))
    settings = RefineSettings(steps=15, **{"normal_weight": 0.0, "laplacian_weight": 0.0, "offset_weight": 0.0, **weights})
    refined = refine_vertices(mesh, cameras, *pictures(target, cameras), settings, generator=torch.Generator().manual_seed(0))
    return torch.from_numpy(refined.vertices - mesh.vertices), Neighbourhood(mesh.faces, len(mesh.vertices))


def test_each_regulariser_holds_back_what_it_is_for():
    free, neighbourhood = learnt_offsets()
    roughness = float(neighbourhood.laplacian(free).square().mean())
    assert float(free.square().mean()) > 1e-5 and roughness > 1e-6
    smooth, _ = learnt_offsets(laplacian_weight=100.0)
    assert float(neighbourhood.laplacian(smooth).square().mean()) < 0.05 * roughness
    assert float(smooth.square().mean()) > 0.2 * float(free.square().mean())  # it moves all the same
    short, _ = learnt_offsets(offset_weight=1000.0)
    assert float(short.square().mean()) < 0.05 * float(free.square().mean())
    even, _ = learnt_offsets(normal_weight=1.0)
    folds = [
        float(neighbourhood.normal_inconsistency(torch.from_numpy(sphere(0.5, subdivisions=2).vertices) + offsets))
        for offsets in (free, even)
    ]
    assert folds[1] < 0.7 * folds[0]


@pytest.mark.parametrize(("name", "channels"), [("target_images", 3), ("target_alphas", 1)])
def test_pictures_of_another_size_are_refused(name, channels):
    cameras = orbit_cameras(0.0, [0.0, 90.0], 2.0, width=16, height=12)
    targets = {"target_images": torch.zeros(2, 3, 12, 16), "target_alphas": torch.zeros(2, 1, 12, 16)}
    targets[name] = torch.zeros(2, channels, 16, 12)
    with pytest.raises(ValueError, match=rf"{name}: expected shape \[2, {channels}, 12, 16\] like the cameras"):
        refine_vertices(sphere(0.5), cameras, **targets)
