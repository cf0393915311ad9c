"""Depth, places and colours without light that the data renderer tells, against planes and cameras."""

import numpy as np
import pytest
import torch

from cam_utils import RADIUS, orbit_cameras
from microdreamer.shapes.geometry import PLACE_REACH, PlacePainter, camera_depth, render_albedo
from microdreamer.shapes.packed import pack

SIZE = 48
STEP = PLACE_REACH / 255  # largest error of a coordinate, half a step of a byte, twice: corners are rounded as well


@pytest.fixture
def boxes():
    """A cube of half side 0.4 whose front (+Z) is red, and a flat box, painted grey."""

    def box(x, y, z, colors):
        corners = np.array([[i, j, k] for i in (-x, x) for j in (-y, y) for k in (-z, z)], np.float32)
        quads = np.array([[1, 5, 7, 3], [0, 2, 6, 4], [0, 1, 3, 2], [4, 6, 7, 5], [2, 3, 7, 6], [0, 4, 5, 1]])
        faces = quads[:, [[0, 1, 2], [0, 2, 3]]].reshape(-1, 3)
        painted = np.repeat(np.repeat(np.array(colors, np.uint8), 2, axis=0)[:, None], 3, axis=1)
        return corners, faces, painted, np.zeros((12, 3, 3), np.int8)

    front_red = [[200, 30, 40]] + [[60, 120, 180]] * 5
    return pack([box(0.4, 0.4, 0.4, front_red), box(0.7, 0.2, 0.3, [[128] * 3] * 6)], ["cube", "flat"])


def cameras(elevation, azimuth):
    return orbit_cameras(elevation, azimuth, width=SIZE, height=SIZE)


def pixel_rays_of(camera):
    """Directions [S*S,3] in the camera's axes with z = 1, through the pixels' centres."""
    fx, fy, cx, cy = camera.intrinsics[0].tolist()
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    return torch.stack([(x - cx) / fx, (y - cy) / fy, torch.ones_like(x)], dim=-1).reshape(-1, 3)


def test_places_lie_on_the_rays_and_on_the_surface(boxes):
    """From the front every ray that hits the cube meets its front face, z = 0.4: depth and place follow from the camera alone."""
    camera, painter = cameras(0.0, 0.0), PlacePainter(boxes)
    pose = camera.world_to_camera[:, :3].contiguous().float()
    identity = torch.eye(3, 4)[None]
    places, seen = painter.render(torch.tensor([0]), identity, pose, camera.intrinsics.float(), SIZE)
    rays = pixel_rays_of(camera)
    expected = (rays * (RADIUS - 0.4)) * torch.tensor([1.0, -1, -1]) + torch.tensor([0.0, 0, RADIUS])
    inside = seen[0, 0].flatten()
    assert torch.equal(inside, (expected[:, :2].abs() < 0.4).all(dim=1)) and int(inside.sum()) > 100
    found = places[0].flatten(1).T[inside]
    assert float((found - expected[inside]).abs().max()) < STEP
    depth = camera_depth(places, pose)[0, 0].flatten()[inside]
    assert float((depth - (RADIUS - 0.4)).abs().max()) < STEP


def test_places_follow_the_object_and_the_camera(boxes):
    """A turned, stretched, mirrored and moved box from oblique cameras: undone, its places lie on the sides of the box."""
    camera, painter = cameras([-20.0, 30.0], [35.0, 250.0]), PlacePainter(boxes)
    matrix = torch.tensor([[-0.9, 0.1, 0.2], [0.0, 1.2, 0.1], [0.1, -0.2, 0.8]])
    to_world = torch.cat([matrix, torch.tensor([[0.1], [-0.15], [0.2]])], dim=1).repeat(2, 1, 1)
    pose = camera.world_to_camera[:, :3].contiguous().float()
    places, seen = painter.render(torch.tensor([1, 1]), to_world, pose, camera.intrinsics.float(), SIZE)
    depth = camera_depth(places, pose)
    for view in range(2):
        inside = seen[view, 0].flatten()
        found = places[view].flatten(1).T[inside]
        own = (found - to_world[view, :, 3]) @ torch.linalg.inv(matrix).T
        off = (own.abs() - torch.tensor([0.7, 0.2, 0.3])).amax(dim=1)  # 0 on the surface
        assert int(inside.sum()) > 100 and float(off.abs().max()) < 3 * STEP
        along = pixel_rays_of(camera[view])[inside] * depth[view, 0].flatten()[inside, None]
        through = along @ pose[view, :, :3] - pose[view, :, 3] @ pose[view, :, :3]
        assert float((through - found).abs().max()) < 3 * STEP


def test_repainting_follows_vertices_that_moved(boxes):
    painter = PlacePainter(boxes)
    colors = painter.colors
    boxes.vertices.mul_(1.5)
    painter.repaint()
    assert painter.colors is colors and float(painter.reach[0]) == pytest.approx(0.6)
    camera = cameras(0.0, 0.0)
    pose = camera.world_to_camera[:, :3].contiguous().float()
    places, seen = painter.render(torch.tensor([0]), torch.eye(3, 4)[None], pose, camera.intrinsics.float(), SIZE)
    assert float((places[0, 2][seen[0, 0]] - 0.6).abs().max()) < STEP


def test_albedo_is_the_paint_without_light(boxes):
    camera = cameras(0.0, 0.0)
    pose = camera.world_to_camera[:, :3].contiguous().float()
    view = torch.tensor([0]), torch.eye(3, 4)[None]
    seen = render_albedo(boxes, *view, None, pose, camera.intrinsics.float(), SIZE)[0]
    inside = seen[3] == 255
    assert int(inside.sum()) > 100
    assert float((seen[:3, inside].float() - torch.tensor([200.0, 30, 40])[:, None]).abs().max()) <= 1
    swapped = torch.tensor([[[0.0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0.1]]])
    seen = render_albedo(boxes, *view, swapped, pose, camera.intrinsics.float(), SIZE)[0]
    assert float((seen[:3, inside].float() - torch.tensor([40.0, 30, 225.5])[:, None]).abs().max()) <= 1
