"""True surfaces read off give points on the object, in its colours."""

from pathlib import Path

import pytest
import torch
from fake_priors import OraclePrior, coloured_ellipsoid

from cam_utils import orbit_cameras
from microdreamer.guidance.micro.network import Surfaces
from microdreamer.guidance.micro.read_off import points_of, read_off, thinned, without_strays
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
    assert 500 < 0.9 * int(inside.sum()) < len(points) <= int(inside.sum())  # less what others see nothing of
    true, theirs = places.permute(0, 2, 3, 1)[inside], albedo.permute(0, 2, 3, 1)[inside]
    distance, nearest = torch.cdist(points.double(), true.double()).min(dim=1)
    assert float(distance.max()) < 0.02  # of places in steps of 0.01
    assert float((colours - theirs[nearest]).abs().max(dim=1).values.median()) < 1e-5
    surface = outer_points_of(meshes, 0, torch.Generator().manual_seed(0))
    assert float(torch.cdist(points.float(), surface.float()).amin(dim=1).mean()) < 0.02


def test_nothing_covered_gives_no_points(told):
    _, cameras, albedo, surfaces, _, _ = told
    points, colours = points_of(albedo, Surfaces(surfaces.depth, torch.zeros_like(surfaces.coverage), albedo), cameras)
    assert points.shape == colours.shape == (0, 3)


def test_points_are_thinned_evenly_and_keep_their_colours(told):
    _, cameras, albedo, surfaces, _, _ = told
    points, colours = points_of(albedo, surfaces, cameras)
    few, few_colours = thinned(points, colours, 300)
    assert 0.9 * 300 <= len(few) <= 300
    drawn = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[: len(few)]]
    drawn, even = (torch.cdist(own, own).fill_diagonal_(9).amin(dim=1) for own in (drawn.double(), few.double()))
    assert float(even.std() / even.mean()) < 0.6 * float(drawn.std() / drawn.mean())
    nearest = torch.cdist(few.double(), points.double()).argmin(dim=1)
    assert float((few_colours - colours[nearest]).abs().mean()) < 0.08
    assert all(torch.equal(*pair) for pair in zip(thinned(points, colours, len(points)), (points, colours), strict=True))


def test_points_that_lie_together_are_one():
    points, colours = torch.ones(50, 3), torch.tensor([0.25, 0.75]).repeat(25)[:, None].expand(50, 3)
    one, colour = thinned(points, colours, 10)
    assert torch.equal(one, torch.ones(1, 3)) and torch.equal(colour, torch.full((1, 3), 0.5))


def test_what_has_no_neighbours_is_dropped():
    side = torch.linspace(0, 1, 12)
    sheet = torch.cartesian_prod(side, side, torch.zeros(1))
    points = torch.cat([sheet, torch.tensor([[0.5, 0.5, 3.0], [-2.0, 0.0, 0.0]])])
    left, colours = without_strays(points, points / 3)
    assert torch.equal(left, sheet) and torch.equal(colours, sheet / 3)


@pytest.mark.parametrize("steps", [1, 3])
def test_one_pass_shows_the_object_from_the_height_that_is_asked_for(steps):
    prior = OraclePrior(coloured_ellipsoid(), 32)
    prior.tells_surfaces = True
    levels = prior.schedule.levels(steps)[::-1]
    points, _ = read_off(prior, None, -20.0, levels, torch.Generator().manual_seed(0))
    assert prior.evaluations == steps and [t for t, _ in prior.calls] == []
    reach = (points / torch.tensor([0.35, 0.25, 0.55])).norm(dim=1)  # 1 on the ellipsoid
    assert len(points) > 300 and float(reach.median()) == pytest.approx(1.15, abs=0.1)  # its Gaussians stand out of it a little
    assert float((reach < 0.9).float().mean()) < 0.05
    above, below = (points[:, 1] > 0.1).sum(), (points[:, 1] < -0.1).sum()
    assert above > 1.5 * below  # seen from above


def test_pixels_at_an_outline_keep_their_own_colour():
    """Half covered, a red pixel on white is pink; its point is red."""
    cameras = orbit_cameras(0.0, [0.0], width=8, height=8)
    coverage = torch.full((1, 1, 8, 8), 0.8)
    red = torch.tensor([0.6, 0.2, 0.1])[None, :, None, None]
    pink = 0.8 * red.expand(1, 3, 8, 8) + 0.2
    _, colours = points_of(pink, Surfaces(torch.full((1, 1, 8, 8), 2.0), coverage, pink), cameras)
    torch.testing.assert_close(colours, red[0, :, 0, 0].expand(64, 3))


def test_nothing_stands_out_beyond_what_another_view_sees(told):
    """Depths that are wrong in one view alone take its points out of the outlines of the others, and they are dropped."""
    _, cameras, albedo, surfaces, _, _ = told
    depth = surfaces.depth.clone()
    depth[0] -= 0.9
    points, _ = points_of(albedo, Surfaces(depth, surfaces.coverage, albedo), cameras)
    whole, _ = points_of(albedo, surfaces, cameras)
    reach = float(whole.norm(dim=1).max())
    assert 0.5 * len(whole) < len(points) < 0.9 * len(whole) and float(points.norm(dim=1).max()) < 1.1 * reach
