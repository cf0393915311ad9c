"""The data renderer draws what geometry says: coverage, order, colours, light, mirror images; and equals its plain twin."""

import math

import pytest
import torch
from conftest import DEVICES

from cam_utils import orbit_cameras
from microdreamer.core.cuda_graphs import capture, warm_up
from microdreamer.kernels import extension
from microdreamer.kernels.mesh_render import linear_to_srgb, render_meshes, render_meshes_reference, srgb_to_linear
from microdreamer.shapes.packed import PackedMeshes, concatenate, pack
from microdreamer.shapes.render import Lights, over_white, random_lights, render_views, studio_lights

trimesh = pytest.importorskip("trimesh")


def mesh_arrays(mesh, color=(255, 255, 255), smooth=False):
    """Arrays of a trimesh mesh in one colour; normals of faces, or of vertices if `smooth`."""
    faces = torch.tensor(mesh.faces, dtype=torch.int32)
    normals = torch.tensor(mesh.vertex_normals[mesh.faces] if smooth else mesh.face_normals[:, None].repeat(3, 1))
    colors = torch.tensor(color, dtype=torch.uint8).expand(len(faces), 3, 3)
    return torch.tensor(mesh.vertices, dtype=torch.float32), faces, colors, (normals * 127).round().to(torch.int8)


def sphere(radius=0.8, color=(255, 255, 255)) -> PackedMeshes:
    return pack([mesh_arrays(trimesh.creation.icosphere(subdivisions=4, radius=radius), color, smooth=True)], ["sphere"])


def quad(z: float, half: float, color) -> tuple:
    """A square across the z axis, two triangles that face +Z."""
    corners = torch.tensor([[-half, -half, z], [half, -half, z], [half, half, z], [-half, half, z]])
    normals = torch.tensor([0, 0, 127], dtype=torch.int8).expand(2, 3, 3)
    return corners, torch.tensor([[0, 1, 2], [0, 2, 3]]), torch.tensor(color, dtype=torch.uint8).expand(2, 3, 3), normals


def ambient_only(count: int, device="cpu") -> Lights:
    return Lights(torch.zeros(count, 0, 6, device=device), torch.ones(count, 2, 3, device=device), torch.zeros(count, 2, device=device))


def coloured_objects() -> PackedMeshes:
    """Three small meshes with a random colour at every corner: an open cylinder, a torus and a box."""
    generator = torch.Generator().manual_seed(1)
    shapes = [
        trimesh.creation.annulus(0.4, 0.5, 0.8, sections=9),
        trimesh.creation.torus(0.5, 0.2, major_sections=10, minor_sections=6),
        trimesh.creation.box((0.7, 0.9, 0.5)),
    ]
    meshes = []
    for index, shape in enumerate(shapes):
        vertices, faces, _, normals = mesh_arrays(shape, smooth=index == 1)
        meshes.append((vertices, faces, torch.randint(0, 256, (len(faces), 3, 3), generator=generator, dtype=torch.uint8), normals))
    return pack(meshes, ["annulus", "torus", "box"])


def random_views(count: int, size: int, device="cpu"):
    """Arguments after the meshes: every part random, transforms with shear, unequal scale and (half of them) a mirror."""
    generator = torch.Generator().manual_seed(2)
    cameras = orbit_cameras(
        torch.linspace(-50, 40, count), torch.linspace(0, 300, count), torch.linspace(1.8, 2.4, count), width=size, height=size
    )
    linear = torch.eye(3) + 0.3 * (torch.rand(count, 3, 3, generator=generator) - 0.5)
    linear[1::2, 0] *= -1
    transforms = torch.cat([linear, 0.1 * torch.rand(count, 3, 1, generator=generator)], dim=-1)
    colors = torch.cat([torch.eye(3) + 0.4 * torch.rand(count, 3, 3, generator=generator) - 0.2, torch.full((count, 3, 1), 0.02)], dim=-1)
    lights = random_lights(count, generator)
    gloss = torch.tensor([[0.3, 12.0], [0.0, 1.0]]).repeat(count, 1)[:count]
    tensors = (torch.arange(count) % 3, transforms, colors, cameras.world_to_camera, cameras.intrinsics, lights.lights, lights.ambient)
    return tuple(t.contiguous().to(device) for t in tensors), gloss.to(device)


def arrays_of(packed: PackedMeshes) -> tuple:
    return (packed.vertices, packed.faces, packed.corner_colors, packed.corner_normals, packed.vertex_offset, packed.face_offset)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [64, 201])
def test_sphere_covers_its_disc_without_holes(device, size):
    cameras = orbit_cameras([0.0, -35.0, 20.0], [0.0, 50.0, 200.0], width=size, height=size, device=device)
    alpha = render_views(sphere().to(device), 0, cameras, ambient_only(3, device), supersample=4)[:, 3].double().cpu()
    focal = float(cameras.intrinsics[0, 0])
    disc = focal * math.tan(math.asin(0.8 / 2.0))  # radius in pixels of the cone that touches the sphere
    torch.testing.assert_close(alpha.sum((1, 2)), torch.full((3,), math.pi * disc**2, dtype=torch.float64), rtol=0.01, atol=0)
    ys, xs = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    inside = torch.hypot(xs + 0.5 - size / 2, ys + 0.5 - size / 2) < 0.97 * disc - 1
    assert bool((alpha[:, inside] == 1).all())


@pytest.mark.parametrize("device", DEVICES)
def test_nearer_quad_hides_farther_whatever_the_order(device):
    far, near = quad(-0.2, 0.6, (255, 0, 0)), quad(0.3, 0.2, (0, 0, 255))
    cameras = orbit_cameras(0, [0.0, 180.0], width=32, height=32, device=device)
    for parts in ([far, near], [near, far]):
        vertices = torch.cat([part[0] for part in parts])
        faces = torch.cat([part[1] + 4 * index for index, part in enumerate(parts)])
        joined = pack([(vertices, faces, torch.cat([p[2] for p in parts]), torch.cat([p[3] for p in parts]))], ["two"]).to(device)
        front, back = render_views(joined, 0, cameras, ambient_only(2, device)).cpu()
        assert front[:, 16, 16].tolist() == [0, 0, 1, 1]
        assert front[:, 16, 7].tolist() == [1, 0, 0, 1]
        assert back[:, 16, 16].tolist() == [1, 0, 0, 1]  # the back of the larger quad, seen from behind, hides the other
        assert front[:, 0, 0].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("device", DEVICES)
def test_white_ambient_light_gives_back_the_albedo(device):
    values = torch.arange(0, 256, 5)
    meshes = [quad(0.0, 0.5, (int(v), int(255 - v), 128)) for v in values]
    packed = pack(meshes, [str(int(v)) for v in values]).to(device)
    cameras = orbit_cameras(0, [0.0] * len(values), width=8, height=8, device=device)
    arguments = (torch.eye(3, 4).repeat(len(values), 1, 1).to(device), None, cameras.world_to_camera, cameras.intrinsics)
    light = ambient_only(len(values), device)
    index = torch.arange(len(values), device=device)
    rgba = render_meshes(*arrays_of(packed), index, *arguments, light.lights, light.ambient, 8, 8)
    expected = torch.stack([values, 255 - values, torch.full_like(values, 128), torch.full_like(values, 255)], dim=-1)
    assert int((rgba[:, :, 4, 4].cpu().long() - expected).abs().max()) <= 1


def test_lambert_light_on_a_quad_is_the_formula():
    light = Lights(
        torch.tensor([[[0.6, 0.0, 0.8, 0.5, 0.4, 0.3]]]), torch.tensor([[[0.2, 0.2, 0.2], [0.1, 0.1, 0.1]]]), torch.tensor([[0.5, 10.0]])
    )
    packed = pack([quad(0.0, 0.5, (200, 200, 200))], ["quad"])
    cameras = orbit_cameras(0, 0, width=9, height=9)
    pixel = render_views(packed, 0, cameras, light, supersample=1)[0, :3, 4, 4]
    half = torch.nn.functional.normalize(torch.tensor([0.6, 0.0, 1.8]), dim=0)[2]
    albedo = srgb_to_linear(torch.tensor(200 / 255))
    expected = albedo * (0.15 + 0.8 * torch.tensor([0.5, 0.4, 0.3])) + 0.5 * half**10 * torch.tensor([0.5, 0.4, 0.3])
    torch.testing.assert_close(pixel, linear_to_srgb(expected.clamp(0, 1)), rtol=0, atol=1 / 255)


def test_normals_are_turned_to_the_viewer():
    light = Lights(torch.tensor([[[0.0, 0.0, -1.0, 1.0, 1.0, 1.0]]]), torch.zeros(1, 2, 3), torch.zeros(1, 2))
    packed = pack([quad(0.0, 0.5, (255, 255, 255))], ["quad"])
    lit = render_views(packed, 0, orbit_cameras(0, 180, width=8, height=8), light)[0, :, 4, 4]
    dark = render_views(packed, 0, orbit_cameras(0, 0, width=8, height=8), light)[0, :, 4, 4]
    assert lit.tolist() == [1, 1, 1, 1] and dark.tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("device", DEVICES)
def test_mirrored_object_is_the_flipped_picture(device):
    packed = coloured_objects().to(device)
    cameras = orbit_cameras(-20, [0.0, 0.0, 0.0], width=48, height=48, device=device)
    light = random_lights(1, device=device).repeat_interleave(3)
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0])).to(device)
    flipped_light = Lights(torch.cat([light.lights[..., :3] @ mirror, light.lights[..., 3:]], dim=-1), light.ambient, light.gloss)
    transform = torch.cat([mirror, torch.zeros(3, 1, device=device)], dim=1).repeat(3, 1, 1)
    straight = render_views(packed, [0, 1, 2], cameras, light)
    mirrored = render_views(packed, [0, 1, 2], cameras, flipped_light, object_to_world=transform)
    different = (straight - mirrored.flip(-1)).abs().amax(1) > 1.5 / 255
    assert float(different.float().mean()) < 1e-3
    assert float(straight[:, 3].mean()) > 0.05


@pytest.mark.parametrize("device", DEVICES)
def test_matches_the_plain_version(device):
    views, gloss = random_views(6, 40)
    packed = coloured_objects()
    expected = render_meshes_reference(*arrays_of(packed), *views, 40, 40, 2, gloss=gloss).int()
    views, gloss = random_views(6, 40, device)
    actual = render_meshes(*arrays_of(packed.to(device)), *views, 40, 40, 2, packed.max_faces, gloss).cpu().int()
    assert float((expected[:, 3] > 0).float().mean()) > 0.1
    assert float(((actual - expected).abs() > 1).float().mean()) < 1e-3  # samples on an edge


@pytest.mark.parametrize("device", DEVICES)
def test_batch_equals_single_views_and_repeats_exactly(device):
    packed = coloured_objects().to(device)
    views, gloss = random_views(6, 33, device)
    together = render_meshes(*arrays_of(packed), *views, 33, 33, 3, None, gloss)
    for hint in (1, 10**6):
        assert torch.equal(together, render_meshes(*arrays_of(packed), *views, 33, 33, 3, hint, gloss))
    for b in range(6):
        single = render_meshes(*arrays_of(packed), *(v[b : b + 1].contiguous() for v in views), 33, 33, 3, None, gloss[b : b + 1])
        assert torch.equal(single[0], together[b])


@pytest.mark.skipif(not extension.load(), reason="the compiled kernels are not built")
@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    packed = coloured_objects().to(device)
    views, gloss = random_views(2, 8, device)
    torch.library.opcheck(torch.ops.microdreamer.render_meshes.default, (*arrays_of(packed), *views, gloss, 8, 9, 2, 100))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_call_can_be_captured_in_a_cuda_graph():
    packed = coloured_objects().to("cuda")
    views, gloss = random_views(6, 40, "cuda")

    def call():
        random_lights(6, device="cuda")
        return render_meshes(*arrays_of(packed), *views, 40, 40, 2, packed.max_faces, gloss)

    expected = warm_up(call, "cuda")
    graph, rgba = capture(call, "cuda")
    graph.replay()
    assert torch.equal(rgba, expected)


@pytest.mark.parametrize("device", DEVICES)
def test_nothing_to_draw_is_an_empty_picture(device):
    empty = (torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0, 3, 3), torch.zeros(0, 3, 3))
    behind = quad(5.0, 0.5, (255, 0, 0))
    packed = concatenate([pack([empty], ["empty"]), pack([behind], ["behind the camera"])]).to(device)
    cameras = orbit_cameras(0, [0.0, 0.0], width=16, height=8, device=device)
    rgba = render_views(packed, [0, 1], cameras)
    assert rgba.shape == (2, 4, 8, 16) and not bool(rgba.any())
    assert bool((over_white(rgba) == 1).all())
    assert render_views(packed, [], cameras[:0]).shape == (0, 4, 8, 16)


def test_bad_arguments_are_named():
    packed = sphere()
    views, gloss = random_views(2, 8)
    views = (torch.zeros_like(views[0]), *views[1:])

    def draw(**changes):
        names = ["mesh_index", "object_to_world", "color_transform", "world_to_camera", "intrinsics", "lights", "ambient"]
        arguments = {**dict(zip(names, views, strict=True)), "width": 8, "height": 8, "gloss": gloss, **changes}
        return render_meshes(*arrays_of(packed), **arguments)

    with pytest.raises(IndexError, match=r"mesh_index: expected 0\.\.0, got 1 for view 1"):
        draw(mesh_index=torch.tensor([0, 1]))
    if not extension.available("cpu"):
        return
    with pytest.raises(ValueError, match="lights: expected at most 8"):
        draw(lights=torch.zeros(2, 9, 6))
    with pytest.raises(ValueError, match=r"object_to_world: expected shape \[2, 3, 4\]"):
        draw(object_to_world=torch.eye(4).repeat(2, 1, 1))
    with pytest.raises(ValueError, match="mesh_index: expected Long, got Int"):
        draw(mesh_index=torch.zeros(2, dtype=torch.int32))
    with pytest.raises(ValueError, match="supersample: expected"):
        draw(supersample=0)
    with pytest.raises(ValueError, match="faces: face 7 of the mesh names a vertex outside"):
        packed.faces[7, 1] = 10**6
        draw()
    with pytest.raises(ValueError, match="1 cameras, 2 mesh indices"):
        render_views(packed, [0, 0], orbit_cameras(0, 0))


def test_random_lights_are_photo_like():
    light = random_lights(500, torch.Generator().manual_seed(0))
    assert light.lights.shape == (500, 2, 6)
    torch.testing.assert_close(light.lights[..., :3].norm(dim=-1), torch.ones(500, 2))
    assert bool((light.lights[:, 0, 1] > 0.2).all()), "the key light comes from above"
    toward = light.lights[:, 0, :3]
    upward = (0.5 + 0.5 * toward[:, 1])[:, None]
    white = (light.lights[:, 0, 3:] + light.ambient[:, 1] + upward * (light.ambient[:, 0] - light.ambient[:, 1])).mean(-1)
    assert float(white.min()) > 0.73 and float(white.max()) < 1.08
    turned = random_lights(500, torch.Generator().manual_seed(0), front_azimuth=180.0).lights[..., :3]
    torch.testing.assert_close(turned, light.lights[..., :3] * torch.tensor([-1.0, 1.0, -1.0]), rtol=0, atol=1e-5)
    assert len(studio_lights(3)) == 3 and len(light.repeat_interleave(4)) == 2000 and len(light[:7]) == 7
