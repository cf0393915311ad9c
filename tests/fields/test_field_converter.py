"""Conversion by a neural field: its volume rendering against closed forms, its parts, and a sphere of Gaussians made a sphere."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from conftest import DEVICES

from cam_utils import orbit_cameras, rays
from microdreamer.fields import conversion as field_converter
from microdreamer.fields.activations import TruncatedExp
from microdreamer.fields.hash_field import NeuralField, Start, composite, field_values, place_samples, render_rays
from microdreamer.gaussians import surface as gaussian_surface
from microdreamer.gaussians.extraction import DensityField
from microdreamer.gaussians.model import GaussianModel
from microdreamer.kernels.hash_grid import HashGridSpec
from microdreamer.meshes import cleaning as mesh_cleaning
from microdreamer.meshes.vertex_fit import RefineSettings

GRID = HashGridSpec(levels=3, features=2, log2_table_size=10, base_resolution=4, growth=1.6)
RADIUS = 0.5  # of the sphere of Gaussians
TINY = field_converter.ConverterSettings(
    grid=GRID,
    hidden=8,
    field_steps=30,
    views=8,
    view_size=48,
    rays=512,
    samples=16,
    bins=48,
    field_resolution=48,
    mesh_resolution=48,
    refine_views=6,
    refine_size=64,
    refine=RefineSettings(steps=10),
)


def sphere_points(count):
    """Points [count,3] spread evenly on the unit sphere."""
    number = torch.arange(count) + 0.5
    height, angle = 1 - 2 * number / count, math.pi * (1 + 5**0.5) * number
    ring = (1 - height**2).sqrt()
    return torch.stack([ring * angle.cos(), height, ring * angle.sin()], dim=1)


def sphere_model(device="cpu"):
    points = sphere_points(1500)
    model = GaussianModel.from_points(RADIUS * points, (points + 1) / 2, device=device)
    with torch.no_grad():
        model.opacity_logits.fill_(3.0)
        model.log_scales.sub_(0.5)
    return model.requires_grad_(False)


def box_start(density, resolution=24, center=(0.1, -0.2, 0.3), scale=2.0, device="cpu"):
    """A start of the same density everywhere in a box of half side 1/scale."""
    cube = torch.ones(resolution, resolution, resolution, device=device)
    field = DensityField(density * cube, torch.tensor(center, device=device), torch.tensor(scale, device=device))
    return Start(field, (density * cube).log(), cube)


def silent(field):
    """The field with networks that change nothing: its density is the start's, its colour grey."""
    with torch.no_grad():
        field.density_network.layers[-1].weight.zero_()
        field.color_network.layers[-1].weight.zero_()
    return field


def outline_radius(model):
    """Radius at which renders of a round model end, from how much of the pictures they cover."""
    cameras = orbit_cameras(0.0, [0.0, 120.0, 240.0], 1.8, width=96, height=96, device=model.device)
    area = float(model.render(cameras, 0.0).alpha.mean()) * 96 * 96
    return 1.8 * math.sin(math.atan(math.sqrt(area / math.pi) / float(cameras.intrinsics[0, 0]))), cameras


def shown_depth_radius(model):
    """Radius at which renders of a round model have their mean depth."""
    return float(gaussian_surface.seen_points(model).norm(dim=1).median())


def edge_counts(faces):
    return np.unique(np.sort(mesh_cleaning.half_edges(faces), axis=1), axis=0, return_counts=True)[1]


# ---- Volume rendering ----


def test_homogeneous_ball():
    """Beer and Lambert: alpha is 1 - exp(-density * chord), for rays at every distance from the middle."""
    density, radius, samples = 3.0, 0.8, 512
    offset = torch.linspace(0, 1, 21)
    distances = (torch.arange(samples) + 0.5) / samples * 2 - 1
    inside = offset[:, None] ** 2 + distances**2 < radius**2
    color = torch.tensor([0.2, 0.5, 0.9]).expand(21, samples, 3)
    premultiplied, alpha = composite(density * inside.float(), color, torch.full((21, samples), 2 / samples))
    expected = 1 - torch.exp(-density * 2 * (radius**2 - offset**2).clamp_min(0).sqrt())
    torch.testing.assert_close(alpha, expected, rtol=0, atol=2 * density * 2 / samples)
    torch.testing.assert_close(premultiplied, alpha[:, None] * color[:, 0], rtol=1e-5, atol=1e-6)


def test_what_lies_in_front_hides_what_lies_behind():
    red, blue = torch.eye(3)[0], torch.eye(3)[2]
    depth = torch.tensor([[0.7, 0.0, 1.3]])
    color, alpha = composite(depth / 0.5, torch.stack([red, red, blue])[None], torch.full((1, 3), 0.5))
    passed = math.exp(-0.7)
    assert color[0].tolist() == pytest.approx([1 - passed, 0, passed * (1 - math.exp(-1.3))], abs=1e-6)
    assert alpha.item() == pytest.approx(1 - math.exp(-2.0), abs=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_field_that_learnt_nothing_shows_its_start(device):
    start = box_start(2.0, device=device)
    field = silent(NeuralField(start, GRID, 8)).to(device)
    cameras = orbit_cameras([-20.0, 35.0], [40.0, 160.0], 2.0, width=12, height=9, device=device)
    origins, directions = (each.reshape(-1, 3) for each in rays(cameras))
    color, alpha = render_rays(field, origins, directions, 8, 64)
    half = 1 / float(start.field.scale)
    one, other = ((start.field.center + side * half - origins) / directions for side in (-1, 1))
    near, far = torch.minimum(one, other).amax(1), torch.maximum(one, other).amin(1)
    expected = 1 - torch.exp(-2.0 * (far - near).clamp_min(0) * start.field.scale)  # densities are per half side
    assert 0.2 < float((expected > 0).float().mean()) < 0.9
    torch.testing.assert_close(alpha, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(color, 0.5 * alpha[:, None].expand(-1, 3), rtol=0, atol=1e-5)
    values = field_values(field, 20)
    torch.testing.assert_close(values.values, torch.full((20, 20, 20), 2.0, device=device))


@pytest.mark.parametrize("device", DEVICES)
def test_samples_lie_where_there_is_something(device):
    start = box_start(1.0, resolution=33, center=(0.0, 0.0, 0.0), scale=1.0, device=device)
    start.occupied[:] = 0
    start.occupied[4:8] = 1  # x in [-0.75, -0.5625] and
    start.occupied[20:28] = 1  # in [0.25, 0.6875], by nodes 1/16 apart
    origins = torch.tensor([[-3.0, 0.1, 0.2], [-3.0, 0.1, 3.0]], device=device)
    directions = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], device=device)
    distances, length = place_samples(start, origins, directions, 48, 512)
    x = distances[0] - 3.0
    left, right = (x > -0.79) & (x < -0.53), (x > 0.21) & (x < 0.73)
    assert bool((left | right).all()) and int(left.sum()) == pytest.approx(16, abs=1)
    assert bool((distances[0].diff() > 0).all())
    assert float(length[0]) * 48 == pytest.approx(12 / 16, abs=0.02)
    assert float(length[1]) == 0  # passes by the box


def test_rays_go_through_pixel_centres():
    cameras = orbit_cameras([-30.0, 10.0], [20.0, 250.0], 1.7, width=7, height=5)
    origins, directions = rays(cameras)
    points = origins + 1.3 * directions
    in_camera = points.flatten(1, 2) @ cameras.world_to_camera[:, :3, :3].transpose(1, 2) + cameras.world_to_camera[:, None, :3, 3]
    pixels = in_camera[..., :2] / in_camera[..., 2:] * cameras.intrinsics[:, None, :2] + cameras.intrinsics[:, None, 2:]
    rows, columns = torch.meshgrid(torch.arange(5) + 0.5, torch.arange(7) + 0.5, indexing="ij")
    torch.testing.assert_close(pixels[1], torch.stack([columns, rows], dim=-1).reshape(-1, 2), rtol=0, atol=1e-4)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(2, 5, 7))


def test_truncated_exp():
    x = torch.tensor([-30.0, -2.0, 0.0, 3.0, 40.0], requires_grad=True)
    TruncatedExp.apply(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([math.exp(-30), math.exp(-2), 1.0, math.exp(3), math.exp(15)]))


# ---- Conversion ----


@pytest.mark.parametrize("device", DEVICES)
def test_sphere_of_gaussians_becomes_a_sphere(device):
    steps = []
    model = sphere_model(device)
    mesh = field_converter.convert(model, settings=TINY, progress=lambda *told: steps.append(told))
    assert steps[0] == ("field", 1, 30) and steps[-1] == ("refine", 10, 10) and len(steps) == 40
    radii = np.linalg.norm(mesh.vertices, axis=1)
    # Between the depth and the outline that renders show; a node's distance is 0.025.
    assert shown_depth_radius(model) < radii.mean() < outline_radius(model)[0] and radii.std() < 0.01
    assert (edge_counts(mesh.faces) == 2).all()
    assert len(mesh.vertices) - len(mesh.faces) // 2 == 2  # one closed surface without handles, and without the hollow inside
    assert mesh_cleaning.signed_volumes(mesh.vertices, mesh.faces, np.zeros(len(mesh.faces), int))[0] > 0
    expected = (mesh.vertices / radii[:, None] + 1) / 2
    assert np.abs(mesh.vertex_colors - expected).mean() < 0.05


def test_conversion_repeats():
    settings = dataclasses.replace(TINY, field_steps=5, refine=RefineSettings(steps=2))
    first, second = (field_converter.convert(sphere_model(), settings=settings) for _ in range(2))
    assert np.array_equal(first.vertices, second.vertices) and np.array_equal(first.faces, second.faces)


def test_target_faces():
    settings = dataclasses.replace(TINY, field_steps=5, refine_views=0)
    mesh = field_converter.convert(sphere_model(), 600, settings)
    assert abs(len(mesh.faces) - 600) <= 12 and (edge_counts(mesh.faces) == 2).all()


def test_fit_comes_closer_to_renders():
    model = sphere_model()
    start = field_converter.start_of(model, TINY)
    rays = field_converter.rays_of(model, orbit_cameras(-10.0, [15.0, 200.0], 1.6, width=40, height=40))
    errors = []
    for steps in (0, 150):
        settings = dataclasses.replace(TINY, field_steps=steps)
        field = field_converter.fit_field(model, start, settings, torch.Generator().manual_seed(0))
        with torch.no_grad():
            color, alpha = render_rays(field, rays.origins, rays.directions, 24, 64)
        errors.append(float((color - rays.color).square().mean() + (alpha - rays.alpha).square().mean()))
    assert errors[1] < 0.5 * errors[0]


def test_level_is_found_between_depth_and_outline():
    """Of a density that falls off across the sphere, the level found has its surface where renders show it."""
    model = sphere_model()
    outline, cameras = outline_radius(model)
    nodes = torch.linspace(-1, 1, 48)
    distance = torch.stack(torch.meshgrid(nodes, nodes, nodes, indexing="ij")).norm(dim=0)
    wanted = 15.0  # between two of the levels tried
    density = DensityField(wanted * torch.exp(12 * (RADIUS + 0.02 - distance)), torch.zeros(3), torch.tensor(1.0))
    no_core = np.full((48, 48, 48), -1.0)
    level = field_converter.find_level(model, density, no_core, TINY, cameras)
    vertices, _ = field_converter.level_surface(density, level, no_core, TINY.smoothness)
    assert shown_depth_radius(model) < float(np.linalg.norm(vertices, axis=1).mean()) < outline < shown_depth_radius(model) + 0.06


def test_level_out_of_reach():
    settings = dataclasses.replace(TINY, field_steps=0, density_level=1e9)
    model = sphere_model()
    with torch.no_grad():
        model.opacity_logits.fill_(-2.0)  # transparent all over: there is no solid core either
    with pytest.raises(ValueError, match="density_level=1e\\+09: no closed surface there"):
        field_converter.convert(model, settings=settings)
