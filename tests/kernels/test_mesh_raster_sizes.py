"""The mesh rasteriser with faces of every size, from parts of a pixel to many screens: shared out differently, drawn the same."""

import pytest
import torch
from conftest import DEVICES
from mesh_scenes import need_compiled, scattered_triangles

from microdreamer.kernels.mesh_raster import rasterize


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", range(3))
def test_faces_of_every_size_match_the_reference_in_float64(device, seed):
    need_compiled(device)
    pos, tri = scattered_triangles(faces=150, seed=seed)
    rast, rast_db = (value.cpu().double() for value in rasterize(pos.to(device), tri.to(device), 90, 150, compiled=True))
    expected, expected_db = rasterize(pos.double(), tri, 90, 150, compiled=False)
    same = rast[..., 3] == expected[..., 3]
    assert float(same.float().mean()) > 0.9995
    assert len(expected[..., 3].unique()) > 40
    torch.testing.assert_close(rast[same], expected[same], rtol=0, atol=1e-4)
    scale = 1 + expected_db[same].abs()
    assert float(((rast_db[same] - expected_db[same]).abs() / scale).max()) < 1e-3


def fan(middle, height, width):
    """Positions [17,4] and faces [16,3] of triangles about a pixel's centre (or elsewhere), out to far beyond the screen."""
    spokes = torch.arange(16) * torch.pi / 8
    x = torch.cat([torch.zeros(1), 1000 * spokes.cos()]) + middle[0] + 0.5
    y = torch.cat([torch.zeros(1), 1000 * spokes.sin()]) + middle[1] + 0.5
    pos = torch.stack([x * (2 / width) - 1, y * (2 / height) - 1, 0 * x, 1 + 0 * x], -1) * torch.linspace(0.5, 2, 17)[:, None]
    rim = torch.arange(16)
    return pos, torch.stack([torch.zeros(16).long(), 1 + rim, 1 + (rim + 1) % 16], -1).int()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("compiled", "middles"), [(True, 64), (False, 2)], ids=["compiled", "reference"])
def test_a_fan_about_any_point_covers_every_pixel_once(compiled, middles, device):
    # Each triangle crosses many tiles, and its edges run through the centres of pixels, of some tiles only the outermost ones. Drawn
    # one at a time they leave no pixel out and share none.
    need_compiled(device, compiled)
    height, width = 130, 210
    ranges = torch.tensor([[face, 1] for face in range(16)], dtype=torch.int32, device=device)
    for i in range(middles):
        pos, tri = fan((80 + i, 40 + i % 21 + 0.5 * (i % 2)), height, width)
        rast, _ = rasterize(pos.to(device), tri.to(device), height, width, ranges, compiled=compiled)
        assert torch.equal((rast[..., 3] > 0).sum(0).cpu(), torch.ones(height, width).long()), i


@pytest.mark.parametrize("device", DEVICES)
def test_positions_at_any_address(device):
    # A view into other storage is contiguous without beginning at a multiple of 16 bytes.
    need_compiled(device)
    pos, tri = (tensor.to(device) for tensor in scattered_triangles(faces=60))
    shifted = torch.cat([pos.new_zeros(1), pos.reshape(-1)])[1:].reshape(pos.shape)
    assert shifted.data_ptr() % 16 != 0 and shifted.is_contiguous()
    gradients = []
    for leaf in (pos.requires_grad_(), shifted.requires_grad_()):
        rast, rast_db = rasterize(leaf, tri, 40, 60, deterministic=True, compiled=True)
        gradients.append((rast, rast_db, *torch.autograd.grad(rast_db.square().sum(), leaf)))
    for found, expected in zip(*gradients, strict=True):
        assert torch.equal(found, expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_more_large_faces_than_the_queue_holds():
    need_compiled("cuda")
    corners = torch.rand(700, 1200, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    corners[..., :2] *= 3
    pos = torch.cat([corners, torch.ones(700, 1200, 1)], -1).cuda()  # 700 * 400 faces, nearly all larger than 64 of 256 pixels
    tri = torch.arange(1200).reshape(400, 3).int().cuda()
    together, _ = rasterize(pos, tri, 16, 16, compiled=True)
    apart = torch.cat([rasterize(part, tri, 16, 16, compiled=True)[0] for part in pos.split(100)])
    assert len(together[..., 3].unique()) > 300
    assert torch.equal(together, apart)
