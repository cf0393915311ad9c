"""The mesh renderer: pictures, depth, normals and texture of shapes whose pictures can be told by hand; gradients; baking."""

import numpy as np
import pytest
import torch
import trimesh
from conftest import DEVICES
from fake_priors import coloured_ellipsoid

from cam_utils import orbit_cameras
from microdreamer.images.reference import Reference
from microdreamer.meshes.baking import bake, texels_of, unwrapped
from microdreamer.meshes.mesh import Mesh
from microdreamer.meshes.model import MeshModel, clip_positions, vertex_normals
from microdreamer.meshes.texture_fit import Target, fit_surface, well_seen


def quad(half=0.5, z=0.0, texture=None):
    """A square facing +Z with its corners at +-half; the texture's upper left corner is at -x, +y."""
    vertices = [[-half, -half, z], [half, -half, z], [half, half, z], [-half, half, z]]
    faces = [[0, 1, 2], [0, 2, 3]]
    uvs = None if texture is None else [[0, 0], [1, 0], [1, 1], [0, 1]]
    return Mesh(vertices, faces, uvs=uvs, uv_faces=None if texture is None else faces, texture=texture)


def sphere(radius=0.5, subdivisions=3):
    shape = trimesh.creation.icosphere(subdivisions, radius)
    return Mesh(shape.vertices, shape.faces, shape.vertices / radius * 0.5 + 0.5)


@pytest.mark.parametrize("device", DEVICES)
def test_a_square_is_as_large_as_it_looks_and_as_deep_as_it_stands(device):
    cameras = orbit_cameras(0, [0, 180], 2, fov_y=53.13010235, width=64, height=64, device=device)  # a picture spans 2 at distance 2
    seen = MeshModel(quad(), device).render(cameras, 0.25)
    inside = torch.zeros(64, 64, dtype=torch.bool)
    inside[16:48, 16:48] = True
    for view in range(2):
        alpha = seen.alpha[view, 0].cpu()
        assert torch.equal(alpha > 0.5, inside) and float((alpha - inside.float()).detach().abs().max()) < 0.51
        torch.testing.assert_close(seen.depth[view, 0].cpu()[inside], torch.full((32 * 32,), 2.0), atol=1e-5, rtol=0)
    core = (slice(None), slice(20, 44), slice(20, 44))
    assert float((seen.image[0][core] - 1).detach().abs().max()) < 0.01  # white by default, except for the limit of the logits
    torch.testing.assert_close(seen.image[0, :, 0, 0].cpu(), torch.full((3,), 0.25))
    torch.testing.assert_close(seen.normal[0][core][:, 5, 5].cpu(), torch.tensor([0.0, 0.0, 1.0]))
    assert float(seen.view_cosine[0, 0, 32, 32]) > 0.99 and float(seen.view_cosine[1, 0, 32, 32]) < -0.99


@pytest.mark.parametrize("device", DEVICES)
def test_a_texture_stands_upright(device):
    texture = np.zeros((4, 4, 3), np.float32)
    texture[:2, :2, 0], texture[:2, 2:, 1], texture[2:, :2, 2], texture[2:, 2:] = 1, 1, 1, 1  # red, green / blue, white
    camera = orbit_cameras(0, 0, 2, fov_y=53.13010235, width=64, height=64, device=device)
    image = MeshModel(quad(texture=texture), device).render(camera, 0.0).image[0].cpu()
    for (row, column), color in {(20, 20): (1, 0, 0), (20, 44): (0, 1, 0), (44, 20): (0, 0, 1), (44, 44): (1, 1, 1)}.items():
        torch.testing.assert_close(image[:, row, column], torch.tensor(color, dtype=torch.float32), atol=0.01, rtol=0)


def test_clip_positions_agree_with_the_pinhole_camera():
    cameras = orbit_cameras([10.0, -30.0], [20.0, 200.0], 2, width=40, height=30)
    points = torch.rand(50, 3) - 0.5
    clip = clip_positions(cameras, points)
    in_camera = points @ cameras.world_to_camera[:, :3, :3].transpose(1, 2) + cameras.world_to_camera[:, None, :3, 3]
    pixels = in_camera[..., :2] / in_camera[..., 2:] * cameras.intrinsics[:, None, :2] + cameras.intrinsics[:, None, 2:]
    size = torch.tensor([40.0, 30.0])
    torch.testing.assert_close((clip[..., :2] / clip[..., 3:] + 1) / 2 * size, pixels, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(clip[..., 3], in_camera[..., 2])
    assert bool((clip[..., 2].abs() < clip[..., 3]).all())


def test_normals_of_a_sphere_and_their_gradient():
    ball = sphere()
    vertices, faces = torch.from_numpy(ball.vertices).double(), torch.from_numpy(ball.faces)
    torch.testing.assert_close(vertex_normals(vertices, faces), vertices / 0.5, atol=0.02, rtol=0)
    tetrahedron = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64, requires_grad=True)
    four = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    assert torch.autograd.gradcheck(lambda v: vertex_normals(v, four), tetrahedron)


@pytest.mark.parametrize("device", DEVICES)
def test_colours_come_back_by_fitting(device):
    truth = MeshModel(sphere(), device)
    cameras = orbit_cameras([0, 0, 0, 0, 80, -80], [0, 90, 180, 270, 0, 0], 2, width=64, height=64, device=device)
    with torch.no_grad():
        seen = truth.render(cameras)
    ball = sphere()
    ball.vertex_colors = np.full_like(ball.vertex_colors, 0.5)
    model = MeshModel(ball, device)
    losses = torch.stack(list(fit_surface(model, [Target(cameras, seen.image, alpha=seen.alpha)], 60, texture_lr=0.2)))
    assert float(losses[-1]) < float(losses[0]) / 100
    assert not bool(model.offsets.any())  # vertices stay where geom_lr is 0


@pytest.mark.parametrize("device", DEVICES)
def test_vertices_move_towards_the_silhouette(device):
    truth, model = MeshModel(sphere(0.55), device), MeshModel(sphere(0.5), device)
    cameras = orbit_cameras([0, 0, 0, 0, 80, -80], [0, 90, 180, 270, 0, 0], 2, width=64, height=64, device=device)
    with torch.no_grad():
        seen = truth.render(cameras, 0.0)
    target = Target(cameras, seen.image, alpha=seen.alpha)
    losses = torch.stack(list(fit_surface(model, [target], 40, texture_lr=0.0, geom_lr=0.004, background=0.0)))
    assert float(losses[-1]) < 0.6 * float(losses[0])
    outward = (model.offsets * torch.nn.functional.normalize(model.vertices, dim=1)).sum(1)
    assert float(outward.mean()) > 0.005


def test_well_seen_leaves_out_what_is_oblique_or_outside_the_mask():
    model = MeshModel(sphere())
    camera = orbit_cameras(0, 0, 2, width=64, height=64)
    mask = torch.ones(1, 1, 64, 64)
    mask[..., :32] = 0
    seen = well_seen(model, camera, mask)[0, 0]
    assert bool(seen[32, 36]) and not bool(seen[:, :32].any())
    row = model.render(camera).view_cosine[0, 0, 32]
    assert torch.equal(seen[32, 32:], row[32:] > 0.5) and bool((row[32:] > 0).sum() > seen[32, 32:].sum())


# ---- Baking ----


@pytest.mark.parametrize("device", DEVICES)
def test_texels_lie_on_the_surface(device):
    mesh = unwrapped(sphere(), 128)
    texels = texels_of(mesh, 128, device)
    distance = texels.positions.norm(dim=1)
    assert float(distance.max()) < 0.5001 and float(distance.min()) > 0.49
    torch.testing.assert_close(texels.normals, texels.positions / distance[:, None], atol=0.02, rtol=0)
    torch.testing.assert_close(texels.vertex_colors, texels.positions / 0.5 * 0.5 + 0.5, atol=0.02, rtol=0)
    assert int(texels.inside.sum()) == len(texels.positions) > 0.4 * 128**2


def test_vertex_colours_become_a_texture_that_looks_the_same():
    mesh = sphere()
    baked = bake(unwrapped(mesh, 256), 256)
    cameras = orbit_cameras([0, 30, -60], [0, 120, 240], 2, width=96, height=96)
    with torch.no_grad():
        before, after = MeshModel(mesh).render(cameras).image, MeshModel(baked).render(cameras).image
    difference = (before - after).abs()
    assert float(difference.mean()) < 0.003 and float((difference > 0.05).float().mean()) < 0.002  # grazing pixels see over seams


def test_gaussians_become_a_texture_and_the_picture_wins_where_it_sees():
    model = coloured_ellipsoid(800)
    shape = trimesh.creation.icosphere(3)
    ellipsoid = Mesh(shape.vertices * [0.37, 0.27, 0.57], shape.faces)
    camera = orbit_cameras(0, 0, 2, width=128, height=128)
    with torch.no_grad():
        mask = model.render(camera, 0.0).alpha
    red = torch.tensor([1.0, 0, 0])[None, :, None, None].expand(1, 3, 128, 128)
    mesh = unwrapped(ellipsoid, 256)
    plain, painted = (bake(mesh, 256, model, reference) for reference in (None, Reference(camera, red, mask)))
    cameras = orbit_cameras(0, [0, 180], 2, width=96, height=96)
    with torch.no_grad():
        truth = model.render(cameras, torch.ones(3)).image
        front, back = MeshModel(plain).render(cameras).image
        red_front, red_back = MeshModel(painted).render(cameras).image
    core = (slice(None), slice(40, 56), slice(40, 56))
    assert float((front - truth[0])[core].abs().mean()) < 0.05 and float((back - truth[1])[core].abs().mean()) < 0.05
    torch.testing.assert_close(red_front[core].mean(dim=(1, 2)), torch.tensor([1.0, 0, 0]), atol=0.02, rtol=0)
    torch.testing.assert_close(red_back[core], back[core])  # the picture does not reach through


def test_the_pictures_edge_colours_nothing():
    """At a silhouette a picture's colours are mixed with what was behind the object: 3 px of it are left out."""
    square = unwrapped(Mesh(quad(0.4, 0.0).vertices, quad(0.4, 0.0).faces, np.full((4, 3), 0.5)), 256)
    camera = orbit_cameras(0, 0, 2, width=128, height=128)
    texels = texels_of(square, 256)
    mask = MeshModel(square).render(camera).alpha.detach().round()  # [1,1,128,128]
    inner = -torch.nn.functional.max_pool2d(-mask, 5, stride=1, padding=2)  # without the outermost 2 px
    assert 0 < float(mask.sum() - inner.sum()) < 0.2 * float(mask.sum())
    image = torch.cat([1 - inner, inner, 0 * inner], dim=1)  # green with a red edge
    colors = torch.from_numpy(bake(square, 256, picture=Reference(camera, image, mask)).texture)[texels.inside]
    assert float((colors[:, 1] > 0.99).float().mean()) > 0.7  # what is left is painted
    assert float(colors[:, 0].max()) <= 0.5 + 1e-5  # and the edge keeps its own grey


def test_the_picture_colours_nothing_that_another_part_hides():
    near, far = quad(0.2, 0.3), quad(0.5, -0.3)
    both = Mesh(np.concatenate([near.vertices, far.vertices]), np.concatenate([near.faces, far.faces + 4]), np.full((8, 3), 0.5))
    camera = orbit_cameras(0, 0, 2, width=128, height=128)
    red = torch.tensor([1.0, 0, 0])[None, :, None, None].expand(1, 3, 128, 128)
    mesh = unwrapped(both, 256)
    texels = texels_of(mesh, 256)
    colors = torch.from_numpy(bake(mesh, 256, picture=Reference(camera, red, torch.ones(1, 1, 128, 128))).texture)[texels.inside]
    is_far, reach = texels.positions[:, 2] < 0, texels.positions[:, :2].abs().amax(1)
    hidden = is_far & (reach < 0.2)  # well within the near square's shadow, whose half side is 0.2 * 2.3 / 1.7
    torch.testing.assert_close(colors[hidden], torch.full((int(hidden.sum()), 3), 0.5))
    seen = torch.where(is_far, (reach > 0.3) & (reach < 0.48), reach < 0.18)
    torch.testing.assert_close(colors[seen], torch.tensor([1.0, 0, 0]).expand(int(seen.sum()), 3))
