"""Metrics of voxel grids against cases worked out by hand, and against other libraries."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from microdreamer.meshes.files import read_mesh
from microdreamer.voxel_diffusion import primitives
from microdreamer.voxel_diffusion.evaluate import evaluate, report
from microdreamer.voxel_diffusion.metrics import fit_spheres, iou_matrix, psnr, radius_of, ssim
from microdreamer.voxel_diffusion.render import gallery, orbit, render_view, slices
from microdreamer.voxel_diffusion.set_metrics import (
    chamfer_matrix,
    compare_sets,
    mmd_cov,
    one_nna,
    size_histograms,
    squared_distances,
    surface,
)
from microdreamer.voxel_diffusion.view import isosurface, view


def boxes(*corners, size=12):
    """Grids with a filled box each: (low, high) along every axis."""
    grids = torch.zeros(len(corners), size, size, size)
    for grid, (low, high) in zip(grids, corners, strict=True):
        grid[low:high, low:high, low:high] = 1
    return grids


def test_psnr_by_hand():
    a, b = torch.zeros(2, 4, 4, 4), torch.zeros(2, 4, 4, 4)
    b[0, 0, 0, 0] = 1  # an error of 1 in 64 voxels
    assert float(psnr(a, b)[0]) == pytest.approx(10 * math.log10(64))
    assert float(psnr(a, b)[1]) == math.inf
    assert float(psnr(a, a + 0.1)[0]) == pytest.approx(20)


def test_ssim_against_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(0)
    x, y = rng.random((16, 16, 16)), rng.random((16, 16, 16))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    for other in (y, 0.5 * x + 0.5 * y, x):
        expected = metrics.structural_similarity(x, other, **options)
        got = float(ssim(torch.from_numpy(x)[None], torch.from_numpy(other)[None])[0])
        assert got == pytest.approx(expected, abs=2e-4)


def test_ssim_by_hand_for_constant_grids():
    """Without variance the structure term is 1 and the luminance term is left: (2ab + c1) / (a^2 + b^2 + c1)."""
    value = ssim(torch.full((1, 12, 12, 12), 0.2), torch.full((1, 12, 12, 12), 0.8))
    assert float(value) == pytest.approx((2 * 0.2 * 0.8 + 1e-4) / (0.04 + 0.64 + 1e-4), rel=1e-3)
    with pytest.raises(ValueError, match="at least 11 voxels"):
        ssim(torch.zeros(1, 8, 8, 8), torch.zeros(1, 8, 8, 8))


def test_iou_by_hand():
    grids = boxes((0, 4), (2, 6), (6, 8), (0, 0))
    expected = torch.tensor([[1, 8 / 120, 0, 0], [8 / 120, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    torch.testing.assert_close(iou_matrix(grids, grids, batch=3), expected)


def test_radius_of_volume():
    assert float(radius_of(torch.tensor(4 / 3 * math.pi * 27))) == pytest.approx(3)


def test_sphere_fit_finds_spheres():
    centre, radius = np.array([15.3, 18.9, 14.2]), 7.7
    sphere = torch.from_numpy(primitives.sphere(32, centre, radius))
    damaged = sphere.clone()
    damaged[:8] = False  # what is missing must not pull the fit along
    grids = torch.stack([sphere, damaged, torch.zeros_like(sphere)]).float()
    centres, radii, ious = fit_spheres(grids)
    assert float(ious[0]) > 0.985 and float(radii[0]) == pytest.approx(radius, abs=0.15)
    assert np.abs(centres[0].numpy() - centre).max() < 0.2
    assert float(ious[1]) == pytest.approx(float(damaged.sum() / sphere.sum()), abs=0.02)
    assert float(ious[2]) == 0
    cube = torch.from_numpy(primitives.cube(32, np.array([16.0, 16, 16]), 8.0))
    assert 0.6 < float(fit_spheres(cube[None].float())[2]) < 0.85  # the best ball for a cube has an IoU near 0.74


def test_sphere_fit_stays_in_the_distribution():
    big = torch.from_numpy(primitives.sphere(32, np.array([16.0, 16, 16]), 15.5)).float()
    assert float(fit_spheres(big[None])[1]) == 0.375 * 32


def test_surface_by_hand():
    grids = boxes((2, 6), (0, 12))
    counts = surface(grids > 0.5).flatten(1).sum(1).tolist()
    assert counts == [64 - 8, 12**3 - 10**3]  # a box that fills the grid has its surface at the grid's border


def test_distance_transform_against_scipy():
    targets = torch.rand(3, 10, 10, 10, generator=torch.Generator().manual_seed(0)) > 0.97
    targets[2] = False
    squared = squared_distances(targets)
    for own, expected in zip(squared[:2], targets[:2], strict=True):
        np.testing.assert_allclose(own.numpy(), distance_transform_edt(~expected.numpy()) ** 2, rtol=1e-5)
    assert bool((squared[2] == 300).all())


def test_chamfer_against_nearest_neighbours():
    grids = torch.stack([torch.from_numpy(primitives.draw("compound", 16, 0, i)) for i in range(4)]).float()
    distances = chamfer_matrix(grids[:3], grids)
    points = [np.argwhere(s.numpy()) for s in surface(grids > 0.5)]
    for i in range(3):
        for j in range(4):
            there, back = cKDTree(points[j]).query(points[i])[0] ** 2, cKDTree(points[i]).query(points[j])[0] ** 2
            assert float(distances[i, j]) == pytest.approx((there.mean() + back.mean()) / 16**2, rel=1e-4, abs=1e-7)


def test_chamfer_by_hand():
    grids = torch.zeros(3, 8, 8, 8)
    grids[0, 1, 1, 1] = grids[1, 1, 1, 4] = 1  # one voxel each, three apart; the third grid is empty
    distances = chamfer_matrix(grids, grids)
    expected = torch.tensor([[0, 18 / 64, 6], [18 / 64, 0, 6], [6, 6, 0]], dtype=torch.float64)
    torch.testing.assert_close(distances, expected)


def test_mmd_and_coverage_by_hand():
    between = torch.tensor([[0.1, 0.5, 0.9], [0.2, 0.6, 0.3]])  # both generated ones are nearest to the first reference
    mmd, cov = mmd_cov(between)
    assert mmd == pytest.approx((0.1 + 0.5 + 0.3) / 3) and cov == pytest.approx(1 / 3)


def test_nearest_neighbour_accuracy_by_hand():
    near, far = torch.tensor([[0, 1.0], [1.0, 0]]), torch.full((2, 2), 9.0)
    assert one_nna(near, far, near) == 1.0  # two clusters, easily told apart
    assert one_nna(near * 9, torch.tensor([[0.1, 5], [5, 0.1]]), near * 9) == 0.0  # each generated one sits on a reference
    assert one_nna(near, torch.tensor([[2, 2], [0.5, 2.0]]), near * 9) == 0.25  # only the first generated one has its own kind nearest


def test_sets_of_the_same_distribution_beat_others():
    spheres = torch.stack([torch.from_numpy(primitives.draw("sphere", 16, 0, i)) for i in range(24)]).float()
    cubes = torch.stack([torch.from_numpy(primitives.draw("cube", 16, 0, i)) for i in range(12)]).float()
    same, other, copy = (compare_sets(g, spheres[:12]) for g in (spheres[12:], cubes, spheres[:12]))
    assert copy["mmd"] == 0 and copy["cov"] == 1
    assert same["mmd"] < other["mmd"] or same["one_nna"] < other["one_nna"]
    assert 0.2 <= same["one_nna"] <= 0.8


def test_histograms():
    histograms = size_histograms(boxes((0, 2), (0, 4)), boxes((0, 4)))
    volume = histograms["volume"]
    assert volume["edges"][0] == 8 and volume["edges"][-1] == 64
    assert sum(volume["generated"]) == 2 and volume["references"][-1] == 1 and volume["generated"][0] == 1
    assert histograms["radius"]["edges"][-1] == pytest.approx((3 * 64 / (4 * math.pi)) ** (1 / 3))


def test_evaluation_of_copies_and_of_nothing():
    truth = torch.stack([torch.from_numpy(primitives.draw("sphere", 16, 0, i)) for i in range(6)]).float()
    result = evaluate(torch.cat([truth[[1, 0]], torch.zeros(1, 16, 16, 16)]), truth)
    assert result["empty"] == 1 and result["nearest"]["equal"] == 2 and result["paired"]["equal"] == 0
    assert result["nearest"]["iou"] == pytest.approx(2 / 3) and result["nearest"]["psnr"] is not None
    assert result["data_range"] == 1.0
    text = report(result, "made", "true")
    assert "3 grids of 16^3, 1 of them empty" in text and "data range 1" in text and "1-NNA" in text and "radius in voxels" in text
    perfect = evaluate(truth, truth)
    assert perfect["paired"] == {"psnr": None, "equal": 6, "ssim": pytest.approx(1), "iou": 1.0}
    assert "PSNR infinite" in report(perfect, "made", "true")
    with pytest.raises(ValueError, match=r"generated grids are \[8, 8, 8\], the ground truth's \[16, 16, 16\]"):
        evaluate(torch.zeros(1, 8, 8, 8), truth)


def test_views_show_the_grid():
    grid = torch.zeros(24, 24, 24)
    grid[:, :6, :] = 1  # a floor
    grid[4:10, 6:20, 8:16] = 1  # a tower on it, to the left
    picture = render_view(grid[None], azimuth=0.0, elevation=0.0, pixels=96)[0]
    assert picture.shape == (3, 96, 96) and bool((picture <= 1).all()) and bool((picture >= 0).all())
    shown = (picture < 0.999).any(0)
    columns, rows = shown.any(0).nonzero().flatten(), shown.any(1).nonzero().flatten()
    # The view is 2.3 wide, the floor 2; the tower is five sixths of the grid high.
    assert len(columns) == pytest.approx(96 * 2 / 2.3, abs=4)
    assert len(rows) == pytest.approx(96 * 2 / 2.3 * 20 / 24, abs=4)
    assert shown[30, 20:50].any() and not shown[30, 55:].any()
    turned = render_view(grid[None], azimuth=180.0, elevation=0.0, pixels=96)[0]
    assert (turned < 0.999).any(0)[30, 50:80].any() and not (turned < 0.999).any(0)[30, :40].any()
    assert bool((render_view(torch.zeros(1, 8, 8, 8), 0.0, pixels=32) == 1).all())
    assert orbit(grid, 3, pixels=32).shape == (3, 3, 32, 32) and gallery(grid[None], (0.0, 90.0), 32).shape == (2, 3, 32, 32)


def test_slices_show_the_grid():
    grid = torch.zeros(8, 8, 8)
    grid[6, 1, 7] = 1  # to the right, near the ground, in front
    pictures = slices(grid, 8, scale=2)
    assert pictures.shape == (8, 3, 16, 16)
    assert (pictures[7, 0] == 0).nonzero().tolist() == [[12, 12], [12, 13], [13, 12], [13, 13]]
    assert bool((pictures[:7] == 1).all())


def test_isosurface_is_closed_and_in_place():
    import trimesh

    grid = torch.from_numpy(primitives.sphere(32, np.array([20.0, 16.0, 10.0]), 8.0)).float()
    surface_ = isosurface(grid)
    mesh = trimesh.Trimesh(surface_.vertices, surface_.faces)
    assert mesh.is_watertight and mesh.volume == pytest.approx(4 / 3 * math.pi * (8 * 1.6 / 32) ** 3, rel=0.03)
    np.testing.assert_allclose(mesh.center_mass, [0.2, 0.0, -0.3], atol=0.01)
    speck = torch.zeros(8, 8, 8)
    speck[4, 4, 4] = 1  # too thin for the blur, and still shown
    assert len(isosurface(speck).faces) > 0
    with pytest.raises(ValueError, match="the grid is empty"):
        isosurface(torch.zeros(8, 8, 8))


def test_view_files(tmp_path):
    from PIL import Image

    grid = torch.from_numpy(primitives.sphere(16, np.array([8.0, 8.0, 8.0]), 5.0)).float()
    paths = view(grid, tmp_path / "new", "ball")
    assert [p.name for p in paths] == ["ball_orbit.gif", "ball_orbit.png", "ball_slices.png", "ball.glb"]
    with Image.open(paths[0]) as film:
        assert film.n_frames == 36
    loaded = read_mesh(paths[3])
    assert np.abs(loaded.vertices).max() == pytest.approx(0.5, abs=0.03)
    assert [p.name for p in view(torch.zeros(16, 16, 16), tmp_path, "none")] == ["none_orbit.gif", "none_orbit.png", "none_slices.png"]


def test_benchmark_reads_curves():
    from microdreamer.voxel_diffusion.benchmark.report import at_steps, reached, table

    curve = [[1.0, 10, 0.4], [2.0, 20, 0.2], [3.0, 30, 0.1]]
    assert reached(curve, 0.5) == [1.0, 10] and reached(curve, 0.05) is None
    assert reached(curve, 0.2 / math.sqrt(2)) == pytest.approx([2.5, 25])
    assert at_steps(curve, 15) == pytest.approx(math.sqrt(0.08)) and at_steps(curve, 5) is None and at_steps(curve, 31) is None
    row = {"it_s": 10.0, "peak_gib": 1.0, "steps": 30, "val_loss": 0.1, "mean_loss": 0.27, "curve": curve}
    preset = {"size": 16, "shapes": 4, "batch": 2, "long": 100, "sampled": 8}
    faster = row | {"it_s": 60.0, "curve": [[1.0, 60, 0.1]], "steps": 60}
    broken = {"error": "RuntimeError: no\nmore of it"}
    rows = {"full: best": faster, "full: float32": row, "full: none": broken}
    lines = table({"machine": "M", "torch": "2", "preset": preset, "rows": rows}).splitlines()
    first = lines.index("| float32 | 10 | 1 | 30 | 0.1000 | 3 | 30 | 1 |")
    assert lines[first + 1 : first + 3] == ["| best | 60 | 1 | 60 | 0.1000 | 1 | 60 | 3 |", "| none | RuntimeError: no |  |  |  |  |  |  |"]


def test_a_run_that_meets_its_final_loss_early_is_compared_by_that_time():
    from microdreamer.voxel_diffusion.benchmark.report import full_table

    common = {"it_s": 10.0, "peak_gib": 1.0, "steps": 40, "mean_loss": 0.27}
    plain = common | {"val_loss": 0.2, "curve": [[2.0, 20, 0.2], [4.0, 40, 0.2]]}
    faster = common | {"val_loss": 0.2, "curve": [[1.0, 20, 0.2]]}
    assert full_table({"float32": plain, "faster": faster}, 1000)[-2].endswith("| 1 | 20 | 2 |")
