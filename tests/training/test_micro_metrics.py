"""What the prior's own scores mean: several pictures are handed on as told, and the truth scores perfectly."""

import json
from pathlib import Path

import pytest
import torch

from cam_utils import RADIUS
from microdreamer.guidance.micro.network import SLOTS, MultiViewNetwork, NetworkConfig, Surfaces
from microdreamer.guidance.micro.prior import MicroPrior
from microdreamer.guidance.micro.vocabulary import Vocabulary
from microdreamer.shapes.packed import load_packed
from microdreamer.training.micro_prior import metrics

PACK = Path(__file__).parents[2] / "test_data" / "objects_small.npz"
TINY = NetworkConfig(
    resolution=32, channels=(16, 32, 64), depth=(1, 1, 1, 1, 1), head_width=16, condition_width=32, text_width=32, references=SLOTS,
    relative_cameras=True, geometry=True,
)  # fmt: skip


@pytest.fixture
def prior():
    torch.manual_seed(0)
    return MicroPrior(MultiViewNetwork(TINY), Vocabulary(["a"]))


@pytest.fixture(scope="module")
def meshes():
    return load_packed([PACK])


def true_surfaces(meshes, index, cameras):
    """Made from the object itself, by way of the rendered places."""
    pose, intrinsics = cameras.world_to_camera[:, :3].float().contiguous(), cameras.intrinsics.float()
    view = torch.full((4,), index), torch.eye(3, 4).repeat(4, 1, 1)
    places, seen = metrics.PlacePainter(meshes).render(*view, pose, intrinsics, 32)
    albedo = metrics.over_white(metrics.render_albedo(meshes, *view, None, pose, intrinsics, 32))
    depth = torch.where(seen, metrics.camera_depth(places, pose), RADIUS + 9)  # beside the object nothing is asked
    return Surfaces(depth, seen.float(), albedo)


def test_true_surfaces_score_perfectly(prior, meshes, monkeypatch):
    seen_levels = []

    def truth(latents, t, cameras, condition):
        seen_levels.append((t, float((latents - latents.mean()).square().mean())))
        return latents, true_surfaces(meshes, 1, cameras)

    monkeypatch.setattr(prior, "predict_surfaces", truth)
    for row in metrics.score_surfaces(prior, meshes, [1]).values():
        assert row == {"depth_error": 0.0, "coverage_iou": 1.0, "albedo_psnr": 100.0}
    (high, noise), (low, _) = seen_levels
    assert high > low and noise == pytest.approx(1.0, abs=0.05)


def test_what_is_told_of_surfaces_is_scored_per_side_beside_the_pictures(prior, meshes, monkeypatch):
    """The sampled answer tells the truth except on one side; the one step's depth is 0.1 too far."""
    levels = []

    def told(latents, t, cameras, condition):
        levels.append(t)
        truth = true_surfaces(meshes, 0, cameras)
        if t == prior.schedule.levels(3)[-1]:
            return latents, Surfaces(truth.depth + 0.1, truth.coverage, truth.albedo)
        coverage, albedo = truth.coverage.clone(), truth.albedo.clone()
        coverage[1], albedo[1] = 0.49, truth.albedo[1] + 0.1 * (1 - 2 * truth.albedo[1].round())
        return latents, Surfaces(truth.depth, coverage, albedo)

    monkeypatch.setattr(prior, "predict_surfaces", told)
    table, _ = metrics.score_objects(prior, meshes, [0], steps=3)
    assert sorted(levels) == sorted([prior.schedule.levels(3)[0], prior.schedule.levels(3)[-1]])
    sampled, first = table["sampled"], table["one_step"]
    assert [sampled[f"coverage_iou_{side}"] for side in metrics.SIDES] == [1, 0, 1, 1]
    assert [sampled[f"albedo_psnr_{side}"] for side in metrics.SIDES] == pytest.approx([100, 20, 100, 100], abs=1e-3)
    assert [sampled[f"depth_error_{side}"] for side in metrics.SIDES] == [0] * 4
    assert [first[f"depth_error_{side}"] for side in metrics.SIDES] == pytest.approx([0.1] * 4, abs=1e-5)
    assert "coverage_iou_0" not in table["copy"] and "free_psnr" not in table["copy"]
    assert 0 < sampled["free_psnr"] < 100 and 0 < sampled["free_iou"] < 1
    line = metrics.sides_line(table).splitlines()
    assert "by coverage: sides IoU 0.500, back IoU 1.000" in line[0] and "coverage" not in line[2]


def test_what_is_read_off_the_truth_looks_like_it_from_free_cameras(meshes):
    """32 pixels: IoU 0.9 and 18 dB; half a unit too far, or as another object, it does not."""
    cameras = metrics.orbit_cameras([-15.0] * 4, list(metrics.SIDES), width=32, height=32)
    surfaces = metrics.TrueSurfaces(meshes, cameras)
    views, told = metrics.true_views(meshes, 0, 32, "cpu"), true_surfaces(meshes, 0, cameras)
    told = Surfaces(torch.where(told.coverage > 0, told.depth, RADIUS), told.coverage, told.albedo)
    quality, iou = surfaces.free_scores(views, told, 0).tolist()
    assert quality > 18 and iou > 0.9
    for worse, index in ((Surfaces(told.depth + 0.5, told.coverage, told.albedo), 0), (told, 1)):
        found = surfaces.free_scores(views, worse, index).tolist()
        assert found[0] < quality - 3 and found[1] < iou - 0.1


def test_sampled_views_are_where_the_whole_sampler_ends(prior, meshes):
    with torch.no_grad():  # its heads start at 0
        for parameter in prior.network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    _, pictures = metrics.score_objects(prior, meshes, [2], steps=3, seed=5)
    cameras = metrics.orbit_cameras([-15.0] * 4, list(metrics.SIDES), width=32, height=32)
    truth = metrics.true_views(meshes, 2, 32, "cpu")
    condition = prior.condition(torch.cat([truth[0], torch.ones(1, 32, 32)]), None, elevation=-15.0)
    generator = torch.Generator().manual_seed(7)
    noise = metrics.normal(prior.latent_shape(4), generator, "cpu")
    ended = metrics.ddim_sample(prior, noise, cameras, condition, prior.schedule.levels(3)[::-1], 1.0, 1.0, generator)
    torch.testing.assert_close(pictures[0, 0], prior.decode(ended).clamp(0, 1), rtol=0, atol=1e-4)
    assert float(pictures[0, 0].std()) > 0.02


def test_further_pictures_are_told_with_their_azimuths(prior, meshes, monkeypatch):
    given = []
    own = prior.condition
    monkeypatch.setattr(prior, "condition", lambda *args, **options: (given.append(options), own(*args, **options))[1])
    table, pictures = metrics.score_objects(prior, meshes, [0], references=3, steps=2)
    assert pictures.shape == (1, 2, 4, 3, 32, 32) and set(table) == {"sampled", "one_step", "copy", "mirrored_copy"}
    others = given[-1]["others"]
    assert [(elevation, azimuth) for _, elevation, azimuth in others] == [(-15.0, 120.0), (-15.0, 240.0)]
    expected = metrics.true_views(meshes, 0, 32, "cpu", sides=(240,))[0]
    assert torch.equal(others[1][0][:3], expected) and bool((others[1][0][3] == 1).all())


def test_the_command_writes_what_it_prints(prior, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(metrics.MicroPrior, "load", lambda *_: prior)
    monkeypatch.setattr(metrics.logging, "disable", lambda _: None)  # for the process: other tests read the log
    words = ["metrics", "--objects", str(PACK), "--limit", "1", "--guidance", "1", "--references", "1", "2", "--steps", "2"]
    monkeypatch.setattr("sys.argv", [*words, "--out", str(tmp_path / "m.json"), "--sheet", str(tmp_path / "m.png")])
    metrics.main()
    stored = json.loads((tmp_path / "m.json").read_text())
    assert {"guidance 1", "guidance 1, 2 pictures", "surfaces"} < set(stored) and (tmp_path / "m.png").stat().st_size > 100
    assert "2 pictures" in capsys.readouterr().out


def test_misjudged_pictures_are_taken_from_higher_than_is_told(prior, meshes, monkeypatch):
    """The prior gets the view from 40 degrees above and is told 15; what it answers is compared with the views from 15."""
    given = []
    condition = prior.condition
    monkeypatch.setattr(prior, "condition", lambda image, *rest, **told: (given.append((image, told)), condition(image, *rest, **told))[1])
    _, pictures = metrics.score_objects(prior, meshes, [0], steps=1, misjudged=25.0)
    ((image, told),) = given
    assert torch.equal(image[:3], metrics.true_views(meshes, 0, 32, "cpu", up=40.0)[0]) and told["elevation"] == -15.0
    torch.testing.assert_close(pictures[0, 1], metrics.true_views(meshes, 0, 32, "cpu", up=15.0))
