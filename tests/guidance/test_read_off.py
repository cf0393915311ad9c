"""True surfaces read off give points on the object, in its colours."""

from pathlib import Path

import pytest
import torch

from cam_utils import orbit_cameras
from microdreamer.guidance.micro.network import Surfaces
from microdreamer.guidance.micro.read_off import points_of
from microdreamer.metrics.points import outer_points_of
from microdreamer.shapes.geometry import PlacePainter, camera_depth, render_albedo
from microdreamer.shapes.packed import load_packed
from microdreamer.shapes.render import over_white

PACK = Path(__file__).parents[2] / "test_data" / "objects_small.npz"
SIZE = 64


@pytest.fixture(scope="module")
def told():
    """The pack, and cameras, albedo and surfaces of its first object from four sides."""
    meshes = load_packed([PACK])
    cameras = orbit_cameras([-15.0] * 4, [0, 90, 180, 270], width=SIZE, height=SIZE)
    pose, intrinsics = cameras.world_to_camera[:, :3].float().contiguous(), cameras.intrinsics.float()
    view = torch.zeros(4, dtype=torch.long), torch.eye(3, 4).repeat(4, 1, 1)
    places, seen = PlacePainter(meshes).render(*view, pose, intrinsics, SIZE)
    albedo = over_white(render_albedo(meshes, *view, None, pose, intrinsics, SIZE))
    return meshes, cameras, albedo, Surfaces(camera_depth(places, pose), seen.float(), albedo), places, seen


def test_points_lie_where_the_surface_is(told):
    meshes, cameras, albedo, surfaces, places, seen = told
    points, colours = points_of(albedo, surfaces, cameras)
    inside = seen[:, 0]
    assert len(points) == int(inside.sum()) > 500
    assert float((points.float() - places.permute(0, 2, 3, 1)[inside]).norm(dim=1).max()) < 0.02  # of places in steps of 0.01
    assert torch.equal(colours, albedo.permute(0, 2, 3, 1)[inside])
    surface = outer_points_of(meshes, 0, torch.Generator().manual_seed(0))
    assert float(torch.cdist(points.float(), surface.float()).amin(dim=1).mean()) < 0.02


def test_nothing_covered_gives_no_points(told):
    _, cameras, albedo, surfaces, _, _ = told
    points, colours = points_of(albedo, Surfaces(surfaces.depth, torch.zeros_like(surfaces.coverage), albedo), cameras)
    assert points.shape == colours.shape == (0, 3)
