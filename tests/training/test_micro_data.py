"""What training does to its objects and pictures: pairs, deformations, degradations."""

import io
import math

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
from microdreamer.training.micro_prior.mixing import Deformer, _deform, _deform_normals, pairs


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
    """Heights measured in pixels: views stand where they are said to, pictures elsewhere; half of these are said to be level."""
    for name, value in (("DEGRADED", 0.0), ("OTHER_LENS", 0.0)):
        monkeypatch.setattr(batches, name, value)
    monkeypatch.setattr(batches, "random_shapes", lambda support, *_: torch.eye(3, 4).repeat(len(support), 1, 1))
    monkeypatch.setattr(
        batches, "fitted_intrinsics", lambda _, cameras, size, __: batches._plain_intrinsics(size, "cpu").repeat(len(cameras), 1)
    )
    bank = Bank.build(pole(), torch.ones(1), Vocabulary(["a"]), 16, "cpu")
    torch.manual_seed(0)
    batch = batches.draw_batch(bank, 128, 256, several=8, pictured=120, misjudged=share)
    said = torch.rad2deg(torch.asin(0.5 * batch.camera[..., 2]))
    torch.testing.assert_close(heights_seen(batch.views.flatten(0, 1)).float(), said.flatten(), rtol=0, atol=2.0)

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
