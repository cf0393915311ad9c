"""Evaluation: metrics against goldens and hand counts, geometry of the trivial answers, small runs with a prior that knows the object."""

import contextlib
import io
import json
import math

import numpy as np
import pytest
import torch
from conftest import DEVICES
from fake_priors import OraclePrior
from PIL import Image

from cam_utils import orbit_cameras
from microdreamer.core.errors import Stopped, UserError
from microdreamer.core.machine import commit
from microdreamer.evaluation import image_to_3d, summary
from microdreamer.evaluation.image_to_3d import evaluate_object, input_picture, make_scene, object_seed, picture_scores
from microdreamer.evaluation.oracle import TruePrior
from microdreamer.evaluation.trivial import flat_card, visual_hull
from microdreamer.gaussians.model import GaussianModel
from microdreamer.guidance.micro.read_off import points_of
from microdreamer.metrics.pictures import mask_iou, point_scores, psnr, ssim
from microdreamer.metrics.points import OuterSurface, draw_points, flat_light, outer_points
from microdreamer.pipeline.config import Config, load_config
from microdreamer.shapes.packed import pack
from microdreamer.shapes.render import over_white, render_views

SQUARE = [[0, 1, 2], [0, 2, 3]]
BOX_FACES = np.array([[0, 1, 2, 3], [5, 4, 7, 6], [4, 0, 3, 7], [1, 5, 6, 2], [3, 2, 6, 7], [4, 5, 1, 0]])[
    :, [[0, 1, 2], [0, 2, 3]]
].reshape(-1, 3)
SMALL = [
    "total_steps=2",
    "denoise_steps=4",
    "init_steps=80",
    "steps_min=20",
    "steps_max=20",
    "num_pts=500",
    "mesh_resolution=32",
    "texture_size=128",
    "refine_steps=3",
    "refine_views=4",
    "refine_size=64",
    "refine_denoise_steps=5",
    "refine_cfg=1",
    "cfg=1",
    "eta=1",
    "device=cpu",
]


def box(half, center=(0.0, 0.0, 0.0)):
    """Vertices and faces of a box with these half sides, its front face (+Z) first."""
    x, y, z = half
    corners = np.array([[-x, -y, z], [x, -y, z], [x, y, z], [-x, y, z], [-x, -y, -z], [x, -y, -z], [x, y, -z], [-x, y, -z]])
    return (corners + center).astype(np.float32), BOX_FACES


def coloured_box(half):
    vertices, faces = box(half)
    colors = np.repeat(
        np.array([[220, 60, 40], [40, 90, 210], [60, 180, 70], [230, 200, 60], [160, 70, 190], [90, 90, 90]], np.uint8), 2, axis=0
    )
    return vertices, faces, np.repeat(colors[:, None], 3, axis=1), np.zeros((len(faces), 3, 3), np.int8)


@pytest.fixture(scope="module")
def boxes():
    """Two objects, a wide and a tall box, with names, captions and categories."""
    meshes = [coloured_box((0.6, 0.3, 0.25)), coloured_box((0.25, 0.6, 0.3))]
    return pack(meshes, ["boxes/wide", "boxes/tall"], [["a wide box"], ["a tall box"]], ["furniture", ""])


@pytest.fixture(scope="module")
def prior(boxes):
    """Knows the wide box, as Gaussians on its surface; what the command loads."""
    vertices, faces, _, _ = boxes.mesh(0)
    points = draw_points(vertices, faces, 1500, torch.Generator().manual_seed(1))
    truth = GaussianModel.from_points(points, points * 0.8 + 0.5)
    truth.opacity_logits.data.fill_(3.0)
    prior = OraclePrior(truth.requires_grad_(False), 32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_to_3d, "load_prior", lambda *_: prior)
        yield prior


@pytest.fixture(scope="module")
def pack_file(boxes, tmp_path_factory):
    path = tmp_path_factory.mktemp("pack") / "boxes.npz"
    boxes.save(path)
    return path


def run(folder, pack_file, *words):
    return image_to_3d.main(["--quiet", f"--objects={pack_file}", f"--out={folder / 'r.json'}", *SMALL, *words])


@pytest.fixture(scope="module")
def both(tmp_path_factory, pack_file, prior):
    """The folder of a run over both objects, and what it printed."""
    folder = tmp_path_factory.mktemp("both")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert run(folder, pack_file, f"--sheet={folder / 's.png'}") == 0
    return folder, printed.getvalue()


def scene_of(boxes, index=0):
    return make_scene(boxes, index, Config(), torch.Generator().manual_seed(0))


# ---- Metrics ----


@pytest.mark.parametrize("device", DEVICES)
def test_ssim_equals_the_goldens(parity, device):
    data = np.load(parity("priors/ssim.npz"))
    for case in ("0", "1"):
        a, b = (torch.from_numpy(data[f"{case}.{name}"]).to(device) for name in "ab")
        values = ssim(a, b)
        np.testing.assert_allclose(values.cpu(), data[f"{case}.ssim_per_image"], atol=1e-5)
        assert float(values.mean()) == pytest.approx(float(data[f"{case}.ssim"]), abs=1e-5)
        assert float(psnr(a, b).sub(-10 * (a - b).square().mean((1, 2, 3)).log10()).abs().max()) < 1e-4


def test_psnr_and_ssim_of_flat_pictures():
    grey, lighter = torch.full((2, 3, 8, 8), 0.5), torch.full((2, 3, 8, 8), 0.6)
    assert psnr(grey, lighter).tolist() == pytest.approx([20.0, 20.0], abs=1e-3)
    assert psnr(grey, grey).tolist() == [100.0, 100.0]
    assert ssim(grey, grey).tolist() == pytest.approx([1.0, 1.0])
    assert float(ssim(grey, lighter)[0]) < 1
    torch.testing.assert_close(ssim(grey, lighter), ssim(lighter, grey))


def test_mask_iou_counts_pixels():
    a, b = torch.zeros(3, 1, 4, 4), torch.zeros(3, 1, 4, 4)
    a[0, 0, :2], b[0, 0, 1:3] = 1, 0.6  # rows 0-1 and 1-2: 4 of 12 pixels
    a[1, 0, 0, 0], b[1, 0, 0, 0] = 0.4, 1  # below a half on one side
    assert mask_iou(a, b).tolist() == pytest.approx([1 / 3, 0.0, 1.0])


def test_point_scores_of_shifted_points():
    grid = torch.stack(torch.meshgrid(*[torch.arange(4.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
    shifted = grid + torch.tensor([0.03, 0.0, 0.0])
    assert point_scores(grid, shifted) == pytest.approx({"chamfer": 0.03, "f_score_0.02": 0.0, "f_score_0.05": 1.0}, abs=1e-6)
    # A quarter of the truth is missing: precision 1, recall 3/4; the missing points are 1 from the nearest others.
    part = grid[grid[:, 0] < 3]
    assert point_scores(part, grid) == pytest.approx({"chamfer": 0.125, "f_score_0.02": 6 / 7, "f_score_0.05": 6 / 7}, abs=1e-6)
    with pytest.raises(ValueError, match="expected points on both sides, got 0 and 64"):
        point_scores(grid[:0], grid)


# ---- Surfaces ----


def test_points_are_even_by_area_and_lie_on_the_mesh():
    vertices = torch.tensor([[0.0, 0, 0], [3, 0, 0], [3, 1, 0], [0, 1, 0]])
    points = draw_points(vertices, torch.tensor(SQUARE), 30_000, torch.Generator().manual_seed(0))
    assert float(points[:, 2].abs().max()) == 0
    assert points.amin(0)[:2].min() >= 0 and (points[:, :2] <= torch.tensor([3.0, 1.0])).all()
    counts = torch.histogram(points[:, 0], bins=3, range=(0.0, 3.0)).hist
    assert float((counts / 10_000 - 1).abs().max()) < 0.04
    torch.testing.assert_close(points.mean(0), torch.tensor([1.5, 0.5, 0.0]), atol=0.03, rtol=0)


def test_what_is_inside_is_not_sampled():
    outside, inside = box((0.5, 0.4, 0.3)), box((0.2, 0.2, 0.2))
    vertices = torch.from_numpy(np.concatenate([outside[0], inside[0]]))
    faces = torch.from_numpy(np.concatenate([outside[1], inside[1] + 8]))
    points = outer_points(vertices, faces, torch.Generator().manual_seed(0), 4000)
    assert len(points) == 4000
    distances = (points.abs() - torch.tensor([0.5, 0.4, 0.3])).abs().amin(1)
    assert float(distances.max()) < 1e-5


def test_a_sheet_and_a_single_box_are_seen_whole():
    for vertices, faces in (
        box((0.5, 0.4, 0.3)),
        box((0.01, 0.7, 0.02)),
        (np.array([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]]), np.array(SQUARE)),
    ):
        vertices, faces = torch.from_numpy(vertices).float(), torch.from_numpy(faces)
        points = draw_points(vertices, faces, 5000, torch.Generator().manual_seed(0))
        assert float(OuterSurface(vertices, faces).sees(points).float().mean()) > 0.999
    with pytest.raises(ValueError, match="expected a mesh with faces"):
        outer_points(torch.zeros(3, 3), torch.zeros(0, 3, dtype=torch.int32), torch.Generator())


# ---- Trivial answers ----


def test_the_input_is_the_picture_of_the_front(boxes):
    picture = input_picture(boxes, 0, Config())
    assert picture.shape == (4, 512, 512) and torch.equal((picture * 255).round() / 255, picture)
    view = over_white(render_views(boxes, 0, orbit_cameras(-15, 0, width=512, height=512)))[0]
    assert float((picture[:3] * picture[3:] + 1 - picture[3:] - view).abs().max()) < 2.5 / 255


@pytest.mark.parametrize("make", [flat_card, visual_hull])
def test_trivial_answers_repeat_the_input_view(boxes, make):
    for index in range(2):
        scene = scene_of(boxes, index)
        view = render_views(make(scene.picture, scene.input_camera), 0, scene.input_camera, flat_light(1))
        truth = render_views(boxes, index, scene.input_camera)
        assert float(mask_iou(view[:, 3:], truth[:, 3:])) > 0.97
        assert float(psnr(over_white(view), over_white(truth))) > 27


def test_a_card_is_flat_and_empty_from_the_side(boxes):
    scene = scene_of(boxes)
    card = flat_card(scene.picture, scene.input_camera)
    normal = torch.nn.functional.normalize(scene.input_camera.centers[0], dim=0)
    assert float((card.vertices @ normal).abs().max()) < 1e-5
    side, back = (render_views(card, 0, orbit_cameras(0, azimuth, width=128, height=128), flat_light(1)) for azimuth in (90, 180))
    assert float(side[:, 3].mean()) < 1e-3
    assert float((back[:, 3] > 0.5).float().mean()) > 0.05


def test_a_hull_is_closed_as_deep_as_wide_and_within_the_ball(boxes):
    scene = scene_of(boxes, 1)
    hull = visual_hull(scene.picture, scene.input_camera)
    edges = torch.cat([hull.faces[:, [0, 1]], hull.faces[:, [1, 2]], hull.faces[:, [2, 0]]]).long()
    forward = edges[:, 0] * len(hull.vertices) + edges[:, 1]
    backward = edges[:, 1] * len(hull.vertices) + edges[:, 0]
    assert torch.equal(forward.sort().values, backward.sort().values)  # every edge both ways: closed, consistently wound
    a, b, c = hull.vertices.double()[hull.faces.long()].unbind(1)
    assert float((torch.linalg.cross(a, b) * c).sum()) > 0  # wound so that normals point outside
    assert float(hull.vertices.norm(dim=1).max()) < 0.801
    depth = hull.vertices @ torch.nn.functional.normalize(scene.input_camera.centers[0], dim=0)
    silhouette = (scene.picture[3] > 0.5).any(0).nonzero()[:, 0]
    width = float(silhouette[-1] - silhouette[0] + 1) / 512 * 4 * math.tan(math.radians(49.1) / 2)
    assert float(depth.max() - depth.min()) == pytest.approx(width, rel=0.02)
    assert float(depth.max() + depth.min()) == pytest.approx(0, abs=1e-4)


def test_trivial_answers_need_a_mask_and_one_camera(boxes):
    with pytest.raises(ValueError, match="mask is empty"):
        flat_card(torch.zeros(4, 16, 16), orbit_cameras(-15, 0, width=16, height=16))
    with pytest.raises(ValueError, match="one camera of the picture, got 2"):
        visual_hull(torch.ones(4, 16, 16), orbit_cameras(-15, [0, 90], width=16, height=16))


# ---- The protocol ----


def test_unseen_views_leave_out_the_input_and_surround_the_object(boxes):
    cameras = scene_of(boxes).cameras
    assert len(cameras) == 16
    angles = set(zip(cameras.elevation.tolist(), cameras.azimuth.tolist(), strict=True))
    assert len(angles) == 16 and (-15.0, 0.0) not in angles
    for elevation in (-30.0, -15.0, 0.0, 15.0):
        azimuths = sorted(a for e, a in angles if e == elevation)
        assert np.diff(azimuths).tolist() == [90.0] * 3


def test_the_truth_scores_perfectly(boxes):
    scene = scene_of(boxes)
    scores, by_view = picture_scores(scene, scene.views, scene.coverage, scene.input_view)
    assert scores == {"psnr_db": 100.0, "ssim": pytest.approx(1.0), "iou": 1.0, "input_psnr_db": 100.0, "sharpness": 1.0}
    assert [len(values) for values in by_view.values()] == [16, 16, 16]
    points = outer_points(*boxes.mesh(0)[:2], torch.Generator().manual_seed(5))
    assert point_scores(points, scene.points)["chamfer"] < 0.012  # half the distance between neighbours of two random sets


def test_a_run_writes_table_record_and_sheet(both, boxes):
    folder, table = both
    result = json.loads((folder / "r.json").read_text())
    assert result["complete"] and result["config"]["elevation"] == -15 and result["versions"]["torch"] == torch.__version__
    assert [record["id"] for record in result["objects"]] == boxes.ids
    for record in result["objects"]:
        assert record["failure"] is None and record["mesh_faces"] > 0
        for scores in record["scores"].values():
            assert set(scores) == set(summary.METRICS) and all(math.isfinite(value) for value in scores.values())
        assert set(record["prior"]) == set(summary.PRIOR_METRICS)
    wide = result["objects"][0]["scores"]
    assert wide["ours"]["chamfer"] < wide["flat card"]["chamfer"] and wide["ours"]["iou"] > 0.6
    assert all(result[key] in table.splitlines()[0] for key in ("date", "device", "commit", "command"))
    assert result["commit"] == result["versions"]["commit"] == commit()
    lines = table.splitlines()
    assert lines[2].startswith("2 objects") and "| visual hull |" in table and "| furniture | 1 |" in table and "a wide box" in table
    assert Image.open(folder / "s.png").size == (13 * 128 + 12 * 4, 2 * 128 + 4)


def test_an_object_alone_gives_the_same_numbers(tmp_path, both, pack_file):
    together = json.loads((both[0] / "r.json").read_text())["objects"][1]
    assert run(tmp_path, pack_file, "--only=boxes/tall") == 0
    (alone,) = json.loads((tmp_path / "r.json").read_text())["objects"]
    assert {**alone, "seconds": None} == {**together, "seconds": None}
    assert (
        object_seed(Config(seed=0), "boxes/tall") != object_seed(Config(seed=1), "boxes/tall") != object_seed(Config(seed=1), "boxes/wide")
    )


def test_the_oracle_knows_every_object(tmp_path, both, pack_file):
    """The prior behind it knows the wide box only: its own tall box is wrong, the oracle's is the truth whatever the noise."""
    known = json.loads((both[0] / "r.json").read_text())
    assert run(tmp_path, pack_file, "--only=boxes/tall", "--oracle") == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["oracle"] is True and known["oracle"] is False
    guessed, told = known["objects"][1], result["objects"][0]
    assert guessed["prior"]["sides_iou"] < 0.9 and told["prior"]["sides_iou"] == told["prior"]["back_iou"] == 1.0
    assert told["prior"]["sides_psnr_db"] > 80  # float32 through noise and back
    assert told["scores"]["ours"]["iou"] > guessed["scores"]["ours"]["iou"] + 0.1


def test_the_oracle_follows_the_cameras_and_counts_branches(boxes, prior):
    oracle, before = TruePrior(prior, boxes, 0), prior.evaluations
    for azimuth in ([0, 90, 180, 270], [45, 135, 225, 315]):
        cameras = orbit_cameras([-15] * 4, azimuth, width=64, height=64)
        latents = torch.randn(oracle.latent_shape(4), generator=torch.Generator().manual_seed(0))
        noise = oracle.predict_noise(latents, 500, cameras, None, None)
        alpha = oracle.schedule.alpha(500)
        views = oracle.decode((latents - (1 - alpha) ** 0.5 * noise) / alpha**0.5)
        truth = over_white(render_views(boxes, 0, cameras.resized(oracle.resolution, oracle.resolution)))
        torch.testing.assert_close(views, truth, rtol=0, atol=1e-5)
    oracle.predict_noise(latents, 500, cameras, None, 2.0)
    assert oracle.evaluations - before == 4


def test_the_oracle_tells_true_surfaces(boxes, prior):
    """Points read off them lie on the box's faces, whatever the latents; colours without light are the box's own."""
    oracle = TruePrior(prior, boxes, 0)
    cameras = orbit_cameras([-15] * 4, [0, 90, 180, 270], width=64, height=64)
    colours, surfaces = oracle.predict_surfaces(torch.randn(oracle.latent_shape(4)), 500, cameras, None)
    points, _ = points_of(colours, surfaces, cameras)
    half = boxes.vertices[: boxes.vertex_offset[1]].abs().amax(dim=0)
    assert len(points) > 50 and float(((points.abs() / half).amax(dim=1) - 1).abs().max()) < 0.1  # of places in steps of 0.01
    inside = (surfaces.coverage > 0.99).expand_as(colours)
    own = boxes.corner_colors.unique(dim=0).reshape(-1, 3).float() / 255
    told = surfaces.albedo.permute(0, 2, 3, 1)[inside[:, 0]]
    assert float((torch.cdist(told, own).amin(dim=1) < 0.02).float().mean()) > 0.7
    assert float((colours - surfaces.albedo)[inside].abs().mean()) > 0.02  # these are lit


def test_ctrl_c_leaves_the_objects_done_so_far(tmp_path, both, pack_file, prior, monkeypatch, capsys):
    record = json.loads((both[0] / "r.json").read_text())["objects"][0]

    def stopped_at_the_second(_prior, _meshes, index, *_):
        if index == 1:
            raise Stopped
        return record, list(torch.ones(9, 3, 8, 8))

    monkeypatch.setattr(image_to_3d, "evaluate_object", stopped_at_the_second)
    assert run(tmp_path, pack_file) == 130
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["complete"] is False and result["objects"] == [record]
    assert capsys.readouterr().out.splitlines()[2].startswith("1 objects")
    monkeypatch.setattr(image_to_3d, "evaluate_object", lambda *_: (_ for _ in ()).throw(Stopped))
    assert run(tmp_path / "new", pack_file) == 130
    assert not (tmp_path / "new" / "r.json").exists() and "nothing was written" in capsys.readouterr().err


def test_a_reconstruction_without_a_mesh_counts(boxes, prior, monkeypatch):
    def nothing_there(*_):
        raise ValueError("no closed surface")

    monkeypatch.setattr(image_to_3d, "make_mesh", nothing_there)
    config = load_config(None, SMALL)
    record, _ = evaluate_object(prior, boxes, 0, config)
    assert record["failure"] == "no closed surface" and "chamfer" not in record["scores"]["ours"]
    found = summary.summarise([record])
    assert found["without_mesh"] == ["boxes/wide"] and found["wins"]["flat card"]["chamfer"] == 0
    assert found["answers"]["ours"]["chamfer"] == {"mean": None, "std": None, "count": 0}
    assert "without a mesh: 1" in summary.table([record])


def test_a_reconstruction_that_vanishes_is_scored_as_an_empty_picture(boxes, prior, monkeypatch):
    def nothing_left(job):
        job.model.keep(torch.zeros(len(job.model), dtype=torch.bool))
        raise UserError("nothing is left of the object")

    monkeypatch.setattr(image_to_3d.generation, "clean", nothing_left)
    record, _ = evaluate_object(prior, boxes, 0, load_config(None, SMALL))
    assert record["failure"] == "nothing is left of the object" and record["gaussians"] == 0
    assert record["scores"]["ours"]["iou"] == 0 and 5 < record["scores"]["ours"]["psnr_db"] < 15


def test_summary_of_two_objects_by_hand():
    def record(name, psnr_db, chamfer, rival):
        scores = dict.fromkeys(summary.METRICS, 0.5)
        ours, other = {**scores, "psnr_db": psnr_db, "chamfer": chamfer}, {**scores, "psnr_db": rival, "chamfer": 0.1}
        seconds = {"truth": 1.0, "reconstruct": 10.0, "mesh": 2.0, "refine": 4.0}
        mesh = {"edge_manifold": True, "watertight": name == "a", "faults": [] if name == "a" else ["no UVs"]}
        mesh |= {"faces": 100, "manifold_share": 1.0, "degenerate_faces": 0, "components": 1}
        return {
            "id": name,
            "caption": "",
            "category": "food",
            "failure": None,
            "seconds": seconds,
            "scores": {"ours": ours, "flat card": other, "visual hull": other},
            "meshes": {summary.COARSE: mesh},
            "prior": dict.fromkeys(summary.PRIOR_METRICS, 1.0),
        }

    found = summary.summarise([record("a", 20.0, 0.05, 15.0), record("b", 14.0, 0.2, 15.0)])
    assert found["answers"]["ours"]["psnr_db"] == pytest.approx({"mean": 17.0, "std": math.sqrt(18), "count": 2})
    assert found["wins"]["flat card"] == {"psnr_db": 1, "ssim": 0, "iou": 0, "chamfer": 1}
    assert found["seconds"]["mean"] == 12.0 and found["measuring_seconds"]["mean"] == 1.0
    coarse = found["meshes"][summary.COARSE]
    assert (coarse["meshes"], coarse["edge_manifold"], coarse["watertight"], coarse["complete"]) == (2, 2, 1, 1)
    assert found["meshes"][summary.REFINED]["meshes"] == 0 and found["refinement_seconds"]["mean"] == 4.0
    assert found["worst"] == ["b", "a"] and found["categories"]["food"]["objects"] == 2


def test_limit_spreads_over_the_pack(boxes):
    many = boxes.subset([0, 1] * 5)
    assert image_to_3d.choose_objects(many, 5, None) == [0, 2, 4, 6, 8]
    assert image_to_3d.choose_objects(many, 50, None) == list(range(10))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--objects=missing.npz"], "missing.npz: no such file"),
        (["--limit=0"], "--limit 0: expected at least 1"),
        (["--only=boxes/round"], "--only boxes/round: no such object in the pack; its first ones are boxes/wide"),
        (["--only=boxes/wide", "--limit=1"], "exclude each other"),
        (["--out=/dev/null/r.json"], "--out /dev/null/r.json: that folder cannot be written to"),
        (["--out=results.txt"], "--out results.txt: expected a name ending in .json"),
        (["elevation=10"], "elevation=10.0: an evaluation sets that itself"),
        (["material=albedo"], "material=albedo: an evaluation sets that itself"),
        (["preview=true"], "preview=True: an evaluation sets that itself"),
        (["inptu=a.png"], "the nearest valid key is 'input'"),
        (["--sheets=a.png"], "the nearest valid key is"),
        (["--limit=many"], "argument --limit: invalid int value"),
    ],
)
def test_wrong_words_are_one_line_and_exit_code_2(tmp_path, pack_file, prior, capsys, words, message):
    assert run(tmp_path, pack_file, *words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "r.json").exists()
