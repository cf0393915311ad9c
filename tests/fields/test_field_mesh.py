"""Meshes of analytic fields: where their surfaces are, what their textures show, and that they are closed."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import DEVICES

from microdreamer.fields.field_mesh import field_surface, mesh_from_field
from microdreamer.fields.implicit_volume import ImplicitVolume, ImplicitVolumeSpec
from microdreamer.gaussians.extraction import closed_surface
from microdreamer.kernels.hash_grid import HashGridSpec
from microdreamer.kernels.marching_cubes import NEAREST
from microdreamer.meshes.files import read_mesh, write_glb
from microdreamer.meshes.topology import edges_of

CENTER = torch.tensor([0.3, -0.2, 0.1])
AXES = torch.tensor([0.5, 0.25, 0.35])


def ball(points, radius=0.6):
    return points.norm(dim=-1) - radius


def torus(points):
    around = points[:, [0, 2]].norm(dim=-1) - 0.6
    return (around.square() + points[:, 1].square()).sqrt() - 0.2


def egg(points):
    """Off the centre, of three sizes: zero on an ellipsoid, not a distance."""
    return ((points - CENTER.to(points)) / AXES.to(points)).norm(dim=-1) - 1


def dense(distance, sharpness=80.0, peak=50.0):
    """A density that passes 25 where `distance` passes zero."""
    return lambda points: peak * torch.sigmoid(-sharpness * distance(points))


def waves(points):
    return 0.5 + 0.4 * torch.sin(4 * points)


def is_closed(faces):
    return set(edges_of(np.asarray(faces, np.int64)).sharing.tolist()) == {2}


def euler_number(vertices, faces):
    return len(vertices) - len(faces) // 2


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["density", "sdf"])
@pytest.mark.parametrize(("shape", "euler"), [(ball, 2), (torus, 0), (egg, 2)])
def test_vertices_lie_on_the_surface(shape, euler, kind, device):
    field = shape if kind == "sdf" else dense(shape)
    vertices, faces = field_surface(field, kind=kind, resolution=40, device=device)
    # A cell is 0.03 to 0.05 wide; what is left is the last straight step in a 64th of it.
    assert shape(torch.from_numpy(vertices)).abs().max() < 1e-4
    assert is_closed(faces) and euler_number(vertices, faces) == euler
    a, b, c = vertices[faces].swapaxes(0, 1)
    assert np.einsum("ij,ij->", a, np.cross(b, c)) > 0  # wound outward


def test_surface_reaches_as_far_as_the_shape():
    # An even stretch, as by one node too many or too few, would pass for a sphere in the middle of the box.
    vertices, _ = field_surface(egg, kind="sdf", resolution=64)
    np.testing.assert_allclose(vertices.min(0), (CENTER - AXES).numpy(), atol=1e-3)
    np.testing.assert_allclose(vertices.max(0), (CENTER + AXES).numpy(), atol=1e-3)


def sampled(mesh, count=2000):
    """Random points on the faces [count,3] and the texture's colours there, blended of four texels."""
    draw = np.random.default_rng(0)
    a, b, c = mesh.vertices[mesh.faces].swapaxes(0, 1)
    areas = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    face = draw.choice(len(areas), count, p=areas / areas.sum())
    shares = draw.dirichlet((1, 1, 1), count)[..., None]
    points = (mesh.vertices[mesh.faces[face]] * shares).sum(1)
    u, v = (mesh.uvs[mesh.uv_faces[face]] * shares).sum(1).T
    height, width = mesh.texture.shape[:2]
    places = torch.from_numpy(np.stack([2 * u - 1, 1 - 2 * v], axis=1)).float()
    assert height == width
    texture = torch.from_numpy(mesh.texture).permute(2, 0, 1)[None]
    colors = torch.nn.functional.grid_sample(texture, places[None, None], align_corners=False)[0, :, 0].T
    return points, colors.numpy()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("shape", "euler"), [(egg, 2), (torus, 0)])
def test_textured_mesh(shape, euler, device, tmp_path):
    mesh = mesh_from_field(dense(shape), waves, resolution=64, faces=3000, texture_size=512, device=device)
    assert 2990 <= len(mesh.faces) <= 3000 and is_closed(mesh.faces) and euler_number(mesh.vertices, mesh.faces) == euler
    points, colors = sampled(mesh)
    assert shape(torch.from_numpy(points)).abs().max() < 0.02  # of the flat faces
    # The colour changes by 1.6 a unit of length at most, and a texel is about 0.006 wide.
    np.testing.assert_allclose(colors, waves(torch.from_numpy(points)).numpy(), atol=0.01)
    write_glb(mesh, tmp_path / "mesh.glb")
    again = read_mesh(tmp_path / "mesh.glb")
    assert len(again.faces) == len(mesh.faces) and again.texture.shape == mesh.texture.shape


def test_colours_at_vertices():
    mesh = mesh_from_field(torus, lambda points: 2 * points, kind="sdf", resolution=32, faces=1000, texture_size=None)
    assert mesh.texture is None
    np.testing.assert_allclose(mesh.vertex_colors, np.clip(2 * mesh.vertices, 0, 1), atol=1e-6)


def test_hollows_and_crumbs_of_a_density_are_dropped():
    def shell_and_crumb(points):
        distance = (ball(points, 0.5)).abs() - 0.1  # between 0.4 and 0.6
        crumb = (points - 0.8).norm(dim=-1) - 0.05
        return torch.minimum(distance, crumb)

    vertices, faces = field_surface(dense(shell_and_crumb), resolution=48)
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), 0.6, atol=1e-3)
    assert is_closed(faces) and euler_number(vertices, faces) == 2
    vertices, faces = field_surface(shell_and_crumb, kind="sdf", resolution=48)  # a distance's are meant
    assert euler_number(vertices, faces) == 6


def test_fields_that_go_on_end_at_the_box():
    vertices, faces = field_surface(lambda points: 100.0 - 50 * (points[:, 0] > 0.2).float(), threshold=60.0, resolution=32, radius=0.8)
    assert is_closed(faces) and euler_number(vertices, faces) == 2
    np.testing.assert_allclose(vertices.min(0), -0.8, atol=1e-6)
    np.testing.assert_allclose(vertices.max(0), [0.2, 0.8, 0.8], atol=1e-3)


def test_what_a_coarse_grid_misses_is_found():
    def plate(points):  # between y = -0.004 and 0.007: past all nodes of 128, the nearest at 1/127, but not of 160, at 1/159
        return torch.maximum((points[:, 1] - 0.0015).abs() - 0.0055, points.norm(dim=-1) - 0.3)

    vertices, faces = field_surface(plate, kind="sdf", resolution=160)
    assert is_closed(faces)
    np.testing.assert_allclose([vertices[:, 1].min(), vertices[:, 1].max()], [-0.004, 0.007], atol=1e-4)


def test_threshold_auto_is_the_mean_of_what_is_there():
    # Within 0.7 the density is 40 at 0.5 and less, 8 farther out: weighted by volume, the mean lies between.
    def steps(points):
        distance = points.norm(dim=-1)
        return 40.0 * (distance < 0.5) + 8.0 * ((distance >= 0.5) & (distance < 0.7))

    vertices, _ = field_surface(steps, threshold="auto", resolution=64)
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), 0.5, atol=1e-3)
    vertices, _ = field_surface(steps, threshold=7.0, resolution=64)
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), 0.7, atol=1e-3)


def test_a_new_field_is_a_ball():
    spec = ImplicitVolumeSpec(HashGridSpec(levels=4, features=2, log2_table_size=10, base_resolution=4, growth=1.6))
    volume = ImplicitVolume(spec, torch.Generator().manual_seed(0))
    assert volume.density(torch.zeros(1, 3)) < 25
    with pytest.raises(ValueError, match=r"threshold=25: the field has no surface there, its density reaches 8\.\d+; choose another"):
        field_surface(volume.density, resolution=32)
    vertices, _ = field_surface(volume.density, threshold=5.0, resolution=32)
    # softplus(10 (1 - r / 0.5)) = 5 at r = 0.25 (1 + 1e-3); the new grid adds less than 0.02.
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), 0.25, atol=2e-3)
    denser = dataclasses.replace(spec, blob_height=100.0)
    vertices, _ = field_surface(ImplicitVolume(denser, torch.Generator().manual_seed(0)).density, resolution=32)
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), 0.375, atol=1e-3)


def test_golden_of_marching_cubes(parity):
    data = np.load(parity("generators/isosurface_small.npz"))
    resolution = int(data["resolution"])
    indices, faces = closed_surface(-torch.from_numpy(data["mc_level"]).reshape((resolution,) * 3))
    expected = data["mc_v"] * (resolution - 1)
    nearest = np.linalg.norm(indices[:, None] - expected, axis=2)
    assert len(indices) == len(expected) and len(faces) == len(data["mc_f"])
    assert nearest.min(0).max() < 2 * NEAREST and nearest.min(1).max() < 2 * NEAREST


def test_asked_in_bounded_chunks():
    sizes = []

    def counted(points):
        sizes.append(len(points))
        return ball(points)

    told = []
    mesh_from_field(counted, waves, kind="sdf", resolution=70, faces=500, texture_size=128, progress=lambda *news: told.append(news))
    assert max(sizes) <= 1 << 18 and sum(sizes) > 2 * 70**3
    assert {name for name, _, _ in told} == {"coarse grid", "grid", "texture"} and all(step <= total for _, step, total in told)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "occupancy"}, "kind='occupancy': expected one of density, sdf"),
        ({"resolution": 4}, "resolution=4: expected at least 8"),
        ({"threshold": "automatic"}, "threshold='automatic': expected a number, or auto"),
        ({"kind": "sdf", "threshold": "auto"}, "threshold='auto': expected a number for a distance"),
        ({"threshold": 60.0}, "threshold=60: the field has no surface there, its density reaches 50"),
        ({"kind": "sdf", "threshold": -1.0}, "threshold=-1: the field has no surface there, its distance falls to 0"),
    ],
)
def test_wrong_settings_are_told(settings, message):
    with pytest.raises(ValueError, match=message):
        field_surface(dense(ball), **{"resolution": 16, **settings})


def test_broken_and_empty_fields_are_told():
    with pytest.raises(ValueError, match=r"field: 2048 of 4096 values on the grid are not finite"):
        field_surface(lambda points: torch.where(points[:, 0] > 0, torch.nan, 30.0), resolution=16)
    with pytest.raises(ValueError, match='threshold="auto": the density is nowhere above'):
        field_surface(lambda points: torch.zeros(len(points)), threshold="auto", resolution=16)


def test_the_same_field_gives_the_same_mesh():
    one, other = (mesh_from_field(dense(torus), waves, resolution=40, faces=2000, texture_size=128) for _ in range(2))
    assert np.array_equal(one.vertices, other.vertices) and np.array_equal(one.texture, other.texture)
