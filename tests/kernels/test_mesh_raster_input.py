"""The mesh rasteriser at the edges of its input: degenerate faces, nothing to see, missing vertices, wrong arguments."""

import pytest
import torch
from conftest import DEVICES
from mesh_scenes import BOTH, all_outputs, clip_positions, functional, need_compiled, sphere

from microdreamer.kernels.mesh_raster import MAX_FACES, Topology, antialias, interpolate, rasterize


@pytest.mark.parametrize("device", DEVICES)
@BOTH
def test_degenerate_faces_are_not_seen(compiled, device):
    need_compiled(device, compiled)
    good = [[-0.9, -0.9, 0.0, 1.0], [0.9, -0.9, 0.0, 1.0], [0.0, 0.9, 0.0, 1.0]]
    nan, inf = float("nan"), float("inf")
    bad = [[nan, 0.0, 0.0, 1.0], [0.0, 0.0, inf, 1.0], [0.0, 0.0, 0.0, 0.0], [-0.9, -0.9, 0.0, 1.0], [0.0, -0.9, 0.0, 1.0]]
    bad += [[0.0, 0.0, nan, 1.0], [0.0, 0.0, 0.0, nan], [0.0, -inf, 0.0, 1.0]]
    pos = torch.tensor([good + bad], device=device, requires_grad=True)
    point, thin, line = [0, 0, 0], [0, 3 + 3, 1], [0, 3 + 4, 1]  # one corner, two corners in one place, three in a line
    faces = [[3, 1, 2], [4, 0, 1], [9, 0, 1], [10, 0, 1], [8, 1, 2], point, thin, line, [0, 1, 2]]
    tri = torch.tensor(faces, dtype=torch.int32, device=device)
    rast, rast_db = rasterize(pos, tri, 21, 21, compiled=compiled)
    alone, alone_db = rasterize(pos[:, :3], tri[-1:], 21, 21, compiled=compiled)
    assert set(rast[..., 3].unique().tolist()) == {0.0, 9.0}
    assert torch.equal(rast[..., :3], alone[..., :3]) and torch.equal(rast_db, alone_db)
    smooth = antialias((rast[..., 3:] > 0).float(), rast, pos, tri, compiled=compiled)
    grad = torch.autograd.grad(rast[..., :2].sum() + rast_db.sum() + smooth.square().sum(), pos)[0]
    assert bool(grad.isfinite().all()) and not bool(grad[0, 3:].any())


@pytest.mark.parametrize("device", DEVICES)
@BOTH
@pytest.mark.parametrize("case", ["no faces", "no vertices", "no pictures", "behind", "no channels"])
def test_nothing_to_see_is_zero(case, compiled, device):
    need_compiled(device, compiled)
    vertices, tri = sphere(4)
    pos = clip_positions(vertices, [0.0, 1.0])
    if case == "no vertices":
        pos, tri = pos[:, :0], tri[:0]
    if case == "no faces":
        tri = tri[:0]
    if case == "no pictures":
        pos = pos[:0]
    if case == "behind":
        pos[..., 3] -= 100
    pos, tri = pos.to(device).requires_grad_(), tri.to(device)
    attr = torch.randn(1, pos.shape[1], 0 if case == "no channels" else 3, device=device, requires_grad=True)
    outputs = all_outputs(pos, tri, attr, 6, 5, compiled)
    assert outputs[0].shape == (len(pos), 6, 5, 4) and outputs[3].shape == (len(pos), 6, 5, 2 * attr.shape[2])
    if case != "no channels":
        assert not any(bool(output.any()) for output in outputs)
    for grad, leaf in zip(torch.autograd.grad(functional(outputs), [pos, attr], allow_unused=True), [pos, attr], strict=True):
        assert grad is None or (grad.shape == leaf.shape and (case == "no channels" or not bool(grad.any())))


@pytest.mark.parametrize("device", DEVICES)
def test_faces_that_name_missing_vertices(device):
    need_compiled(device)
    vertices, tri = sphere(4)
    pos, attr = clip_positions(vertices, [0.0]).to(device), torch.randn(1, len(vertices), 2, device=device)
    tri = tri.to(device)
    rast, _ = rasterize(pos, tri, 16, 16)
    number = int(rast[0, 8, 8, 3]) - 1
    for vertex in (-1, len(vertices), 2**31 - 1):
        broken = tri.clone()
        broken[number, 1] = vertex
        if device == "cpu":
            for call in (
                lambda tri=broken: rasterize(pos, tri, 16, 16),
                lambda tri=broken: rasterize(pos, tri, 16, 16, compiled=False),
                lambda tri=broken: interpolate(attr, rast, tri),
                lambda tri=broken: antialias(rast, rast, pos, tri),
            ):
                with pytest.raises(IndexError, match=rf"tri: face {number} names a vertex outside 0\.\.{len(vertices) - 1}"):
                    call()
        else:
            found, _ = rasterize(pos, broken, 16, 16)
            assert not bool((found[..., 3] == number + 1).any()) and bool((found[..., 3] > 0).any())
            assert not bool(interpolate(attr, rast, broken)[0][rast[..., 3] == number + 1].any())
            antialias(rast, rast, pos, broken)


@pytest.mark.parametrize("device", DEVICES)
def test_ranges_that_leave_the_faces(device):
    need_compiled(device)
    vertices, tri = sphere(4)
    pos, tri = clip_positions(vertices, [0.0])[0].to(device), tri.to(device)
    ranges = torch.tensor([[0, len(tri)], [4, len(tri)]], dtype=torch.int32, device=device)
    if device == "cpu":
        for compiled in (True, False):
            with pytest.raises(IndexError, match=rf"ranges: those of picture 1 are faces 4\.\.{len(tri) + 3}, but there are {len(tri)}"):
                rasterize(pos, tri, 8, 8, ranges, compiled=compiled)
    else:
        rast, _ = rasterize(pos, tri, 8, 8, ranges)
        assert torch.equal(rast[1], rasterize(pos, tri, 8, 8, torch.tensor([[4, len(tri) - 4]], dtype=torch.int32, device=device))[0][0])


@pytest.mark.parametrize("device", DEVICES)
def test_a_rast_of_someone_else_does_not_lead_outside(device):
    need_compiled(device)
    vertices, tri = sphere(4)
    pos, tri = clip_positions(vertices, [0.0]).to(device), tri.to(device)
    rast = torch.full((1, 4, 4, 4), 0.3, device=device)
    rast[..., 3] = torch.tensor([float("nan"), -3.0, float("inf"), 1e9]).to(device)
    out, _ = interpolate(pos, rast.requires_grad_(), tri, compiled=True)
    assert not bool(out.any())
    assert torch.equal(antialias(rast[..., :3].detach(), rast, pos, tri, compiled=True), rast[..., :3])


def test_bad_arguments_are_named():
    vertices, tri = sphere(4)
    pos = clip_positions(vertices, [0.0])
    rast, rast_db = rasterize(pos, tri, 8, 8)
    with pytest.raises(ValueError, match=r"tri: expected \[F,3\] int32 on cpu, got \[\d+, 3\] torch.int64"):
        rasterize(pos, tri.long(), 8, 8)
    with pytest.raises(ValueError, match=r"pos: expected \[B,V,4\]"):
        rasterize(pos[..., :3], tri, 8, 8)
    with pytest.raises(ValueError, match=r"pos: expected \[V,4\]"):
        rasterize(pos, tri, 8, 8, torch.zeros(1, 2, dtype=torch.int32))
    with pytest.raises(ValueError, match=r"ranges: expected \[B,2\] int32"):
        rasterize(pos[0], tri, 8, 8, torch.zeros(1, 2))
    with pytest.raises(ValueError, match="picture of 8x0: expected at least 1x1"):
        rasterize(pos, tri, 0, 8)
    with pytest.raises(ValueError, match=f"tri: expected at most {MAX_FACES} faces"):
        rasterize(pos, torch.zeros(1, 3, dtype=torch.int32).expand(MAX_FACES + 1, 3), 8, 8)
    with pytest.raises(ValueError, match="attr: expected 1 sets of attributes like the pictures of rast, or 1, got 2"):
        interpolate(pos.expand(2, -1, -1), rast, tri)
    with pytest.raises(ValueError, match=r"rast_db: expected \[1,8,8,4\]"):
        interpolate(pos, rast, tri, rast_db[:, :4])
    with pytest.raises(ValueError, match=r"rast: expected \[1,4,8,4\]"):
        antialias(rast[:, :4], rast, pos, tri)
    with pytest.raises(ValueError, match="topology: expected that of tri"):
        antialias(rast, rast, pos, tri, Topology(tri[:4]))


@pytest.mark.parametrize("device", DEVICES)
def test_too_many_pictures_are_refused(device):
    need_compiled(device)
    vertices, tri = sphere(4)
    pos, tri = clip_positions(vertices, [0.0]).to(device), tri.to(device)
    with pytest.raises(ValueError, match="got 65536 pictures: expected at most 65535; draw fewer at a time"):
        rasterize(pos.expand(65536, -1, -1), tri, 1, 1, compiled=True)
    with pytest.raises(ValueError, match="got 65536 pictures: expected at most 65535; draw fewer at a time"):
        interpolate(pos, torch.zeros(65536, 1, 1, 4, device=device), tri, compiled=True)
