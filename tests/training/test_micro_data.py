"""What training does to its objects and pictures: pairs, deformations, degradations."""

import dataclasses
import importlib.util
import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from microdreamer.guidance.micro.vocabulary import Vocabulary
from microdreamer.shapes.packed import pack
from microdreamer.shapes.procedural.catalogue import generate
from microdreamer.training.micro_prior import batches
from microdreamer.training.micro_prior.bank import Bank
from microdreamer.training.micro_prior.degrade import blur, compress, degrade
from microdreamer.training.micro_prior.loop import TrainingConfig, check_unrolled
from microdreamer.training.micro_prior.mixing import Deformer, _deform, _deform_normals, pairs
from microdreamer.training.micro_prior.nouns import noun_weights, objects_of

_place = Path(__file__).parents[2] / "scripts" / "train_micro_prior.py"
_spec = importlib.util.spec_from_file_location("train_micro_prior", _place)
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)


@pytest.fixture
def meshes():
    shapes = [generate(seed) for seed in range(6)]
    return pack(
        [(s.vertices, s.faces, s.corner_colors, s.corner_normals) for s in shapes],
        list("abcdef"),
        [[f"a thing {name}"] for name in "abcdef"],
    )


def edge_lengths(vertices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    corners = vertices[faces.long()]
    return (corners - corners.roll(1, 1)).norm(dim=-1)


def test_pairs_hold_two_whole_objects(meshes):
    made = pairs(meshes, torch.ones(6), 20, torch.Generator().manual_seed(0))
    assert len(made) == 20 and int(made.face_offset[-1]) == len(made.faces)
    for k in range(20):
        vertices, faces, _, _ = made.mesh(k)
        assert float(vertices.norm(dim=1).max()) == pytest.approx(0.8, abs=1e-4)
        assert float((vertices.amax(0) + vertices.amin(0)).abs().max()) < 1e-5
        caption = made.captions[k][0]
        words = caption.split(" and ") if " and " in caption else caption.split(" on ")[::-1]
        first, second = (meshes.captions.index([name]) for name in words)
        count = len(meshes.mesh(first)[1])
        for index, part in ((first, faces[:count]), (second, faces[count:])):  # each part is similar to its original
            old = edge_lengths(meshes.mesh(index)[0], meshes.mesh(index)[1])
            ratio = edge_lengths(vertices, part)[old > 0.02] / old[old > 0.02]
            assert float(ratio.std() / ratio.mean()) < 1e-3


def test_deformed_normals_are_those_of_the_deformed_surface():
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(50, 3, generator=generator, dtype=torch.float64) - 0.5
    normals = torch.nn.functional.normalize(torch.randn(50, 3, generator=generator, dtype=torch.float64), dim=1)
    taper, twist = torch.tensor(0.4, dtype=torch.float64), torch.tensor(-0.7, dtype=torch.float64)
    jacobian = torch.stack([torch.autograd.functional.jacobian(lambda p: _deform(p, taper, twist), point) for point in points])
    expected = torch.einsum("nij,nj->ni", torch.linalg.inv(jacobian).mT, normals)
    torch.testing.assert_close(_deform_normals(points, normals, taper, twist), expected)


def test_deformer_repeats_itself_and_keeps_the_tensors(meshes):
    support = meshes.vertices[meshes.vertex_offset[:-1]][:, None].clone()
    before = meshes.vertices.clone()
    deformer = Deformer(meshes, support, seed=1)
    place = meshes.vertices.data_ptr()
    deformer.redraw(3)
    third = meshes.vertices.clone(), meshes.corner_normals.clone(), meshes.corner_colors.clone()
    assert not torch.equal(third[0], before) and meshes.vertices.data_ptr() == place
    assert torch.equal(support[:, 0], meshes.vertices[meshes.vertex_offset[:-1]])  # the support moves along
    assert torch.equal(third[0][:, 1], before[:, 1])  # heights stay
    deformer.redraw(4)
    assert not torch.equal(meshes.vertices, third[0])
    deformer.redraw(3)
    for tensor, kept in zip((meshes.vertices, meshes.corner_normals, meshes.corner_colors), third, strict=True):
        assert torch.equal(tensor, kept)


@pytest.mark.parametrize("quality", [30, 75])
def test_compression_is_that_of_jpeg(quality):
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).resize((64, 64), Image.BICUBIC)
    file = io.BytesIO()
    smooth.save(file, "JPEG", quality=quality)
    expected = torch.from_numpy(np.array(Image.open(file))).float() / 255
    picture = torch.from_numpy(np.array(smooth)).float()[None, None].expand(1, 3, -1, -1) / 255
    found = compress(picture, torch.tensor([float(quality)]))[0, 0]
    error = (found - expected).abs()
    assert float((picture[0, 0] - expected).abs().max()) > 0.03  # it does change the picture
    assert float(error.quantile(0.95)) < 0.012 and float(error.mean()) < 0.003  # the file's pixels are bytes, its cosines whole numbers


def test_blur_keeps_flat_pictures_and_spreads_a_dot():
    assert torch.allclose(blur(torch.full((2, 3, 16, 16), 0.3), torch.tensor([0.0, 1.5])), torch.full((2, 3, 16, 16), 0.3))
    dot = torch.zeros(2, 1, 17, 17)
    dot[:, :, 8, 8] = 1
    seen = blur(dot, torch.tensor([0.0, 1.0]))
    assert float(seen[0, 0, 8, 8]) == pytest.approx(1) and float(seen[1, 0, 8, 8]) == pytest.approx(1 / (2 * math.pi), rel=0.02)
    assert float(seen[1].sum()) == pytest.approx(1, abs=1e-5)


def test_degraded_pictures_keep_their_object_on_white():
    picture, coverage = torch.ones(64, 3, 64, 64), torch.zeros(64, 1, 64, 64)
    picture[:, :, 20:44, 20:44] = torch.tensor([0.8, 0.2, 0.1])[:, None, None]
    coverage[:, :, 20:44, 20:44] = 1
    seen = degrade(picture, coverage)
    assert float(seen.min()) >= 0 and float(seen.max()) <= 1
    assert float((seen[:, :, :8] - 1).abs().max()) < 0.01  # far from the object it stays white
    inside = seen[:, :, 28:36, 28:36].mean(dim=(0, 2, 3))
    assert torch.allclose(inside, torch.tensor([0.8, 0.2, 0.1]), atol=0.15)
    assert float((seen - picture).abs().amax(dim=(1, 2, 3)).gt(0.02).float().mean()) > 0.8


POLE = 0.7  # half its height


def pole():
    """A thin dark pole, upright around the origin."""
    side = 0.006
    corners = [(x, y, z) for y in (-POLE, POLE) for x, z in ((-side, -side), (side, -side), (side, side), (-side, side))]
    quads = [(0, 1, 2, 3), (7, 6, 5, 4), (0, 4, 5, 1), (1, 5, 6, 2), (2, 6, 7, 3), (3, 7, 4, 0)]
    faces = torch.tensor([face for a, b, c, d in quads for face in ((a, c, b), (a, d, c))])
    vertices = torch.tensor(corners)
    normals = torch.nn.functional.normalize(torch.linalg.cross(*(vertices[faces[:, k]] - vertices[faces[:, 0]] for k in (1, 2))), dim=-1)
    return pack([(vertices, faces, torch.full((12, 3, 3), 0.2), normals[:, None].expand(-1, 3, -1))], ["pole"], [["a pole"]])


def heights_seen(pictures):
    """Degrees above [N] from which pictures [N,3,R,R] show the pole: its upper half looks longer by (2 + h sin e) / (2 - h sin e)."""
    rows = (pictures < 0.9).any(dim=1).any(dim=2).double()
    middle = pictures.shape[-1] // 2
    ratio = rows[:, :middle].sum(1) / rows[:, middle:].sum(1)
    return torch.rad2deg(torch.asin((2 / POLE * (ratio - 1) / (ratio + 1)).clamp(-1, 1)))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_pictures_told_at_a_wrong_height_leave_the_views_upright(monkeypatch, share):
    """Heights measured in pixels: pictures stand elsewhere than told, half of them are said to be level; views stand where they are said
    to, except for the one asked for at the picture's own camera, which is the picture again."""
    for name, value in (("DEGRADED", 0.0), ("OTHER_LENS", 0.0)):
        monkeypatch.setattr(batches, name, value)
    monkeypatch.setattr(batches, "random_shapes", lambda support, *_: torch.eye(3, 4).repeat(len(support), 1, 1))
    monkeypatch.setattr(
        batches, "fitted_intrinsics", lambda _, cameras, size, __: batches._plain_intrinsics(size, "cpu").repeat(len(cameras), 1)
    )
    bank = Bank.build(pole(), torch.ones(1), Vocabulary(["a"]), 16, "cpu")
    torch.manual_seed(0)
    batch = batches.draw_batch(bank, 128, 256, several=8, pictured=120, shares=batches.Shares(misjudged=share))
    said = torch.rad2deg(torch.asin(0.5 * batch.camera[..., 2]))
    shown = heights_seen(batch.views.flatten(0, 1)).float().unflatten(0, (-1, 4))
    first = torch.arange(128) + (torch.arange(128) - 120).clamp_min(0) * 3  # of each sample's pictures
    told_at = batch.picture_camera[first]
    own = (told_at[:, 6] == 1) & (told_at[:, 4] == 1) & ((batch.camera[:, 0, 1] - 1).abs() < 1e-6)
    assert 20 < int(own.sum()) < 100 and torch.equal(batch.camera[own, 0, 2], told_at[own, 2])  # asked for at the told height
    assert torch.equal(batch.views[own, 0], batch.pictures[first][own])
    torch.testing.assert_close(shown[:, 1:], said[:, 1:], rtol=0, atol=2.0)
    torch.testing.assert_close(shown[~own, 0], said[~own, 0], rtol=0, atol=2.0)
    if share:
        assert float((shown[own, 0] - said[own, 0]).abs().median()) > 3

    known = batch.picture_camera[:, 4] == 1
    told, true = torch.rad2deg(torch.asin(0.5 * batch.picture_camera[:, 2]))[known], heights_seen(batch.pictures[known])
    rays = batch.picture_rays[known].mean(dim=(1, 2))[:, :3]
    torch.testing.assert_close(torch.rad2deg(torch.asin(-torch.nn.functional.normalize(rays, dim=1)[:, 1])), told, rtol=0, atol=0.01)
    off = told - true
    if not share:
        assert float(off.abs().max()) < 2
        return
    level = told.abs() < 1e-4
    assert 0.35 < float(level.double().mean()) < 0.6  # one picture of a sample with several is meant, the others go along
    assert 0.2 < float((true[level].abs() < 2).double().mean()) < 0.55 and float(true[level].max()) > 20
    assert 7 < float(off[~level].std()) < 13 and float(off[~level].mean().abs()) < 3


def test_surfaces_are_of_the_camera_that_a_view_is_drawn_from(meshes, monkeypatch):
    """Not of the one it is said to be of, where the height of its picture is told wrong: else they would lie beside what is drawn."""
    monkeypatch.setattr(batches, "TOLD", 1.0)
    bank = Bank.build(meshes, torch.ones(6), Vocabulary(["a"]), 16, "cpu", places=True)
    torch.manual_seed(0)
    batch = batches.draw_batch(bank, 32, 64, pictured=32, shares=batches.Shares(misjudged=1.0))
    seen, covered = batch.seen > 0, batch.surfaces.coverage > -1
    assert len(seen) == 32 and int((seen & ~covered).sum()) < 0.005 * int(seen.sum())  # slivers between the samples of a pixel


def test_samples_are_told_what_the_shares_say(meshes):
    bank = Bank.build(meshes, torch.ones(6), Vocabulary(list("abcdef")), 16, "cpu")
    torch.manual_seed(0)
    batch = batches.draw_batch(bank, 3000, 8, shares=batches.Shares(both=0.1, picture=0.2, caption=0.6))
    picture, text = batch.picture_camera[:, 6] == 1, batch.tokens.any(dim=1)
    for found, share in ((picture & text, 0.1), (picture & ~text, 0.2), (~picture & text, 0.6), (~picture & ~text, 0.1)):
        assert float(found.float().mean()) == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"caption_share": -0.1}, "caption_share=-0.1: expected 0 to 1"),
        ({"both_share": 0.5, "picture_share": 0.4}, "are 1.1 together: expected at most 1"),
    ],
)
def test_shares_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**settings)
    with pytest.raises(ValueError, match="these samples have a picture"):
        check_unrolled(TrainingConfig(both_share=0, picture_share=0, unrolled_share=0.1), True, 4)


def test_what_no_picture_shows_is_upright(meshes):
    """Object-to-world columns of those without a picture are those of a stretched, mirrored object: along the axes."""
    torch.manual_seed(0)
    support = torch.randn(400, 8, 3)
    pictured = torch.arange(400) < 200
    camera = batches.world_to_camera(torch.zeros(400), torch.zeros(400))
    shapes = batches.random_shapes(support, camera, torch.zeros(400, dtype=torch.bool), pictured)[:, :, :3]
    aside = (shapes * (1 - torch.eye(3))).abs().amax(dim=(1, 2)) > 1e-6
    assert not bool(aside[200:].any()) and 0.3 < float(aside[:200].float().mean()) < 0.7


def test_a_caption_alone_draws_objects_of_its_own_and_leaves_them_undeformed(meshes):
    weights, alone = torch.tensor([1.0, 1, 1, 0, 0, 0]), torch.tensor([0.0, 0, 0, 1, 3, 0])
    bank = Bank.build(meshes, weights, Vocabulary(list("abcdef")), 16, "cpu", deform_seed=0, alone=alone)
    before = bank.meshes.vertices.clone(), bank.meshes.corner_colors.clone()
    changed = set()
    for number in range(12):
        bank.redraw(number)
        offset = bank.meshes.vertex_offset
        for k in range(6):
            part = slice(int(offset[k]), int(offset[k + 1]))
            if not torch.allclose(bank.meshes.vertices[part], before[0][part], rtol=0, atol=1e-6):
                changed.add(k)
    assert changed == {0, 1, 2, 5}
    torch.manual_seed(0)
    index = bank.draw(4000, torch.arange(4000) < 2000)
    counts = [torch.bincount(part, minlength=6) / 2000 for part in (index[:2000], index[2000:])]
    torch.testing.assert_close(counts[0], torch.tensor([0, 0, 0, 0.25, 0.75, 0]), rtol=0, atol=0.04)
    torch.testing.assert_close(counts[1], torch.tensor([1 / 3, 1 / 3, 1 / 3, 0, 0, 0]), rtol=0, atol=0.04)
    torch.manual_seed(0)
    batch = batches.draw_batch(bank, 2000, 8)
    letters = batch.tokens[:, 1]  # of "a thing d" the words "a" and "d" are known
    for with_picture, known in ((True, {1, 2, 3}), (False, {4, 5})):
        told = batch.tokens.any(dim=1) & ((batch.picture_camera[:, 6] == 1) == with_picture)
        assert set(letters[told].tolist()) == known


def test_nouns_are_heard_equally_often():
    captions = [
        ["a brown dog", "a dog"], ["a hot dog"], ["a dog house"], ["a robot with a dog"], ["a robot", "a machine"], ["a robot"],
        ["a red and gray shop"], ["a crate of robots"],
    ]  # fmt: skip
    owners = objects_of(["dog", "hot dog", "robot", "shop", "unicorn"], captions)
    assert owners == {"hot dog": [1], "dog": [0], "robot": [3, 4, 5], "shop": [6], "unicorn": []}
    weights = noun_weights(owners, torch.tensor([1.0, 2, 1, 2, 1, 1, 0, 1]))
    assert weights.tolist() == pytest.approx([1 / 3, 1 / 3, 0, 1 / 6, 1 / 12, 1 / 12, 0, 0])  # the shop is never drawn, so it has no say
    with pytest.raises(ValueError, match="none of the nouns"):
        noun_weights(objects_of(["unicorn"], captions), torch.ones(8))


def test_captions_alone_have_copies_of_the_real_objects_and_no_pairs(meshes):
    """4 real objects, a pair, a procedural shape (of weight 0.2), and copies; each part keeps its share, half of it goes to the noun."""
    both = dataclasses.replace(meshes, captions=[["a robot"], ["a dog"], ["a robot"], ["a box"], ["a box and a robot"], ["a small robot"]])
    weights = torch.tensor([0.1, 0.2, 0.2, 0.15, 0.15, 0.2])
    every, often, alone, lacking = script.named_objects(both, weights, 4, 1, ["robot", "unicorn"], 0.5)
    assert len(every) == 10 and lacking == ["unicorn"] and every.captions[6:] == both.captions[:4]
    assert torch.equal(every.mesh(7)[0], both.mesh(1)[0])
    assert often.tolist() == pytest.approx([*weights.tolist(), 0, 0, 0, 0])
    real = [0.8 * w / 0.65 for w in (0.1, 0.2, 0.2, 0.15)]
    robots = 0.2 + real[0] + real[2]
    named = [1, 0, 1, 0]
    expected = [0.5 * w + 0.5 * n * w / robots for w, n in zip(real, named, strict=True)]
    assert alone.tolist() == pytest.approx([0, 0, 0, 0, 0, 0.1 + 0.1 / robots, *expected])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nouns", "nowhere.txt"], "nowhere.txt: no such file; expected a text file with a noun a line"),
        (["--noun-share", "1.5"], "--noun-share 1.5: expected 0 "),
        (["--caption-share", "0.5"], "are 1.2 together: expected at most 1"),
    ],
)
def test_wrong_words_of_a_run_are_told_in_a_line(words, message, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["train_micro_prior.py", "--objects", "x.npz", *words])
    with pytest.raises(SystemExit) as ended:
        script.arguments()
    assert ended.value.code == 2 and message in capsys.readouterr().err
