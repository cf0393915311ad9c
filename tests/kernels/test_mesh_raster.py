"""The mesh rasteriser against golden tensors of the published one and against float64; coverage, batches, graphs, scale."""

import numpy as np
import pytest
import torch
from conftest import DEVICES, relative_l2
from mesh_scenes import BOTH, GOLDEN, all_outputs, clip_positions, functional, need_compiled, random_triangles, sphere

from microdreamer.core.cuda_graphs import capture, warm_up
from microdreamer.kernels import extension
from microdreamer.kernels.mesh_raster import antialias, interpolate, mesh_topology, rasterize

# ---- Goldens ----


@pytest.mark.parametrize("device", DEVICES)
@BOTH
def test_golden_pixels(parity, compiled, device):
    need_compiled(device, compiled)
    data = np.load(parity(GOLDEN))
    pos, tri, expected, expected_db = (torch.tensor(data[name], device=device) for name in ("pos_clip", "tri", "rast", "rast_db"))
    rast, rast_db = rasterize(pos, tri, 128, 128, compiled=compiled)
    same = rast[..., 3] == expected[..., 3]
    # The published rasteriser snaps vertices to a grid, and 59 of its pixels show a face that their centre is outside of.
    assert int((~same).sum()) <= 59
    torch.testing.assert_close(rast[same], expected[same], rtol=0, atol=1e-4)
    torch.testing.assert_close(rast_db[same], expected_db[same], rtol=0, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["grad_pos__rast", "grad_pos__rast_db"])
def test_golden_position_gradients(parity, name, device):
    # Of the golden picture itself, whichever face the pixels of the rim show.
    need_compiled(device)
    data = np.load(parity(GOLDEN))
    pos, tri, rast = (torch.tensor(data[key], device=device) for key in ("pos_clip", "tri", "rast"))
    rasterize(pos, tri, 8, 8, compiled=True)  # loads the op
    v_rast = torch.nn.functional.pad(torch.tensor(data["weight_rast_q"], device=device) / 64, (0, 2))
    v_db = 0.01 * torch.tensor(data["weight_db_q"], device=device) / 64 if name.endswith("db") else None
    found = torch.ops.microdreamer.rasterize_mesh_bwd(v_rast, v_db, rast, pos, tri, False)
    assert relative_l2(found, torch.tensor(data[name])) < 1e-3


@pytest.mark.parametrize("device", DEVICES)
@BOTH
def test_golden_interpolation(parity, compiled, device):
    need_compiled(device, compiled)
    data = np.load(parity(GOLDEN))

    def tensor(name):
        return torch.tensor(data[name], device=device)

    def weight(name):
        return tensor(f"weight_{name}_q") / 64

    attr, rast = tensor("attr").requires_grad_(), tensor("rast").requires_grad_()
    out, no_derivatives = interpolate(attr, rast, tensor("tri"), compiled=compiled)
    assert no_derivatives is None
    torch.testing.assert_close(out, tensor("interp_attr"), rtol=0, atol=1e-4)
    grads = torch.autograd.grad((out * weight("attr")).sum(), [attr, rast])
    for found, name in zip(grads, ("grad_attr__interp", "grad_rast__interp"), strict=True):
        assert relative_l2(found, tensor(name)) < 1e-3, name

    uv, rast_db = tensor("uv").requires_grad_(), tensor("rast_db").requires_grad_()
    texc, texc_da = interpolate(uv, rast, tensor("tri_uv"), rast_db, compiled=compiled)
    torch.testing.assert_close(texc, tensor("texc"), rtol=0, atol=1e-4)
    torch.testing.assert_close(texc_da, tensor("texc_da"), rtol=0, atol=1e-4)
    grads = torch.autograd.grad((texc * weight("texc")).sum() + (texc_da * weight("texd")).sum(), [uv, rast, rast_db])
    for found, name in zip(grads, ("grad_uv__interp_da", "grad_rast__interp_da", "grad_db__interp_da"), strict=True):
        assert relative_l2(found, tensor(name)) < 1e-3, name


# ---- Against float64 ----


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [(24, 31), (1, 1), (5, 64), (12, 20)])
@pytest.mark.parametrize("shared", [False, True], ids=["per picture", "shared attributes"])
def test_chain_matches_the_reference_in_float64(device, size, shared):
    need_compiled(device)
    vertices, tri = sphere(9)
    pos = clip_positions(vertices, [0.3, 1.7, 4.0])
    attr = torch.randn(1 if shared else 3, len(vertices), 3)
    leaves = [pos.to(device).requires_grad_(), attr.to(device).requires_grad_()]
    found = all_outputs(leaves[0], tri.to(device), leaves[1], *size, True)
    exact = [pos.double().requires_grad_(), attr.double().requires_grad_()]
    expected = all_outputs(exact[0], tri, exact[1], *size, False)
    assert torch.equal(found[0][..., 3].cpu().double(), expected[0][..., 3])
    for name, value, right in zip(("rast", "rast_db", "out", "out_da", "smooth"), found, expected, strict=True):
        assert value.shape == right.shape
        torch.testing.assert_close(
            value.detach().cpu().double(), right.detach(), rtol=1e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    grads = torch.autograd.grad(functional(found), leaves)
    right = torch.autograd.grad(functional(expected), exact)
    for name, value, exact_value in zip(("pos", "attr"), grads, right, strict=True):
        assert relative_l2(value, exact_value) < 1e-3, name


def test_reference_gradients_by_finite_differences():
    # Few large faces, so that no step of the differences moves an edge over a pixel's centre.
    pos = torch.tensor([[[-0.8, -0.7, 0.1, 1.0], [0.93, -0.52, 0.4, 1.4], [0.1, 1.1, 0.3, 1.2], [1.2, 1.0, 0.9, 1.7]]], dtype=torch.float64)
    tri = torch.tensor([[0, 1, 2], [1, 3, 2]], dtype=torch.int32)
    attr = torch.randn(1, 4, 2, dtype=torch.float64)
    topology = mesh_topology(tri)

    def chain(pos, attr):
        rast, rast_db = rasterize(pos, tri, 7, 9, compiled=False)
        out, out_da = interpolate(attr, rast, tri, rast_db, compiled=False)
        return rast[..., :2], rast_db, out, out_da, antialias(out, rast, pos, tri, topology, compiled=False)

    leaves = (pos.requires_grad_(), attr.requires_grad_())
    assert int((chain(*leaves)[0].sum(-1) != 0).sum()) > 15
    assert torch.autograd.gradcheck(chain, leaves, eps=1e-7, atol=1e-5, rtol=1e-4, fast_mode=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", range(4))
def test_triangles_about_the_eye(device, seed):
    # Those that cross the eye's plane, or lie behind it, are right without clipping.
    need_compiled(device)
    pos, tri = random_triangles(seed=seed)
    rast, rast_db = rasterize(pos.to(device), tri.to(device), 37, 53, compiled=True)
    expected, expected_db = rasterize(pos.double(), tri, 37, 53, compiled=False)
    same = rast[..., 3].cpu() == expected[..., 3]
    assert float(same.float().mean()) > 0.999
    torch.testing.assert_close(rast.cpu().double()[same], expected[same], rtol=0, atol=1e-4)
    scale = 1 + expected_db[same].abs()
    assert float(((rast_db.cpu().double()[same] - expected_db[same]).abs() / scale).max()) < 1e-3
    # By clipping in world space: the point shown is a mix of the corners with w > 0 and depth in range.
    shown = expected[..., 3] > 0
    corners = pos.double()[torch.arange(2)[:, None, None].expand_as(shown)[shown][:, None], tri[expected[shown][:, 3].long() - 1].long()]
    u, v = expected[shown][:, 0], expected[shown][:, 1]
    point = torch.einsum("nk,nkc->nc", torch.stack([u, v, 1 - u - v], -1), corners)
    assert bool((point[:, 3] > 0).all()) and bool((point[:, 2].abs() <= point[:, 3]).all())
    _, y, x = shown.nonzero().unbind(-1)
    torch.testing.assert_close(point[:, 0] / point[:, 3], (x.double() + 0.5) * 2 / 53 - 1, rtol=0, atol=1e-9)
    torch.testing.assert_close(point[:, 1] / point[:, 3], (y.double() + 0.5) * 2 / 37 - 1, rtol=0, atol=1e-9)


@pytest.mark.parametrize("device", DEVICES)
@BOTH
def test_plane_under_the_eye_reaches_the_horizon(compiled, device):
    # A ground plane through and behind the eye fills the lower half, up to the far plane.
    need_compiled(device, compiled)
    corners = torch.tensor([[-50.0, -50.0], [50.0, -50.0], [50.0, 50.0], [-50.0, 50.0]])
    near, far, eye = 0.01, 20.0, 1.0
    depth = corners[:, 1]
    clip_z = (far + near) / (far - near) * depth - 2 * far * near / (far - near)
    pos = torch.stack([corners[:, 0], torch.full((4,), -eye), clip_z, depth], -1)[None].to(device)
    tri = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32, device=device)
    rast, _ = rasterize(pos, tri, 40, 64, compiled=compiled)
    rows = -eye / ((torch.arange(40) + 0.5) * 2 / 40 - 1)  # the depth at which a row sees the plane
    expected = (rows > near) & (rows < far)
    assert torch.equal((rast[0, ..., 3] > 0).cpu(), expected[:, None].expand(40, 64))


# ---- Coverage ----


@pytest.mark.parametrize("device", DEVICES)
@BOTH
@pytest.mark.parametrize("cells", [1, 4, 7, 16])
def test_shared_edges_give_each_pixel_to_one_face(cells, compiled, device):
    # A grid of squares over the whole picture, cells of 1, 4, 16 having edges and corners exactly on pixel centres: drawn one
    # face at a time, every pixel is covered exactly once.
    need_compiled(device, compiled)
    size = 16
    offset = 1 / size  # moves the grid's lines onto centres
    line = torch.linspace(-1, 1, cells + 1) * 2 + offset
    y, x = torch.meshgrid(line, line, indexing="ij")
    pos = torch.stack([x, y, torch.zeros_like(x), torch.ones_like(x)], -1).reshape(-1, 4)
    pos = pos * torch.linspace(0.5, 2, (cells + 1) ** 2)[:, None]
    at = torch.arange((cells + 1) ** 2).reshape(cells + 1, cells + 1)
    a, b, c, d = at[:-1, :-1], at[:-1, 1:], at[1:, 1:], at[1:, :-1]
    tri = torch.stack([torch.stack([a, b, c], -1), torch.stack([c, d, a], -1)], 2).reshape(-1, 3).int()
    ranges = torch.stack([torch.arange(len(tri)), torch.ones(len(tri)).long()], -1).int()
    rast, _ = rasterize(pos.to(device), tri.to(device), size, size, ranges.to(device), compiled=compiled)
    assert torch.equal((rast[..., 3] > 0).sum(0).cpu(), torch.ones(size, size).long())


@pytest.mark.parametrize("device", DEVICES)
def test_closed_mesh_is_covered_once_from_each_side(device):
    # Faces drawn one at a time: each pixel of a convex closed mesh sees as many front faces as back faces, one of each.
    need_compiled(device)
    vertices, tri = sphere(12, bump=0.0)
    pos = clip_positions(vertices, [0.37])[0].to(device)
    ranges = torch.stack([torch.arange(len(tri)), torch.ones(len(tri)).long()], -1).int().to(device)
    rast, _ = rasterize(pos, tri.to(device), 45, 61, ranges, compiled=True)
    together, _ = rasterize(pos[None], tri.to(device), 45, 61, compiled=True)
    count = (rast[..., 3] > 0).sum(0)
    covered = together[0, ..., 3] > 0
    assert float(covered.float().mean()) > 0.1
    assert torch.equal(count, 2 * covered.long())


@pytest.mark.parametrize("device", DEVICES)
@BOTH
def test_equal_depths_show_the_lower_face(compiled, device):
    need_compiled(device, compiled)
    pos = torch.tensor([[[-1.0, -1.0, 0.0, 1.0], [3.0, -1.0, 0.0, 1.0], [-1.0, 3.0, 0.0, 1.0], [-1.0, -1.0, -0.5, 1.0]]], device=device)
    tri = torch.tensor([[0, 1, 2], [1, 2, 0], [2, 1, 0]], dtype=torch.int32, device=device)
    rast, _ = rasterize(pos, tri, 9, 9, compiled=compiled)
    assert bool((rast[..., 3] == 1).all())
    nearer = torch.cat([tri, torch.tensor([[3, 1, 2]], dtype=torch.int32, device=device)])
    assert bool((rasterize(pos, nearer, 9, 9, compiled=compiled)[0][0, :-1, :-1, 3] == 4).any())


@pytest.mark.parametrize("device", DEVICES)
def test_small_and_large_faces_agree(device):
    # A screen-filling quad cut into 2 and into 20000 faces shows the same point of the plane everywhere.
    need_compiled(device)

    def grid(cells):
        line = torch.linspace(-1.3, 1.3, cells + 1)
        y, x = torch.meshgrid(line, line, indexing="ij")
        plane = torch.stack([x, y], -1).reshape(-1, 2)
        w = 2 + 0.7 * plane[:, :1] - 0.4 * plane[:, 1:]
        pos = torch.cat([plane * 2, 0.3 * w, w], -1)
        at = torch.arange((cells + 1) ** 2).reshape(cells + 1, cells + 1)
        a, b, c, d = at[:-1, :-1], at[:-1, 1:], at[1:, 1:], at[1:, :-1]
        tri = torch.stack([torch.stack([a, b, c], -1), torch.stack([c, d, a], -1)], 2).reshape(-1, 3).int()
        return pos[None].to(device), tri.to(device), plane[None].to(device)

    pictures = []
    for cells in (1, 5, 100):
        pos, tri, plane = grid(cells)
        rast, rast_db = rasterize(pos, tri, 200, 310, compiled=True)
        pictures.append((rast[..., 3] > 0, *interpolate(plane, rast, tri, rast_db, compiled=True)))
    assert float(pictures[0][0].float().mean()) > 0.5
    for covered, point, slopes in pictures[1:]:
        assert float((covered != pictures[0][0]).float().mean()) < 1e-3  # rounding along the outline
        both = covered & pictures[0][0]
        torch.testing.assert_close(point[both], pictures[0][1][both], rtol=0, atol=1e-5)
        torch.testing.assert_close(slopes[both], pictures[0][2][both], rtol=1e-2, atol=1e-5)


# ---- Batches ----


@pytest.mark.parametrize("device", DEVICES)
@BOTH
def test_ranges_equal_instances_and_batches_equal_single_pictures(compiled, device):
    need_compiled(device, compiled)
    vertices, tri = sphere(8)
    pos = clip_positions(vertices, [0.1, 2.0, 3.3]).to(device)
    tri = tri.to(device)
    attr = torch.randn(3, len(vertices), 3, device=device)
    together = all_outputs(pos, tri, attr, 20, 27, compiled)
    for b in range(3):
        single = all_outputs(pos[b : b + 1], tri, attr[b : b + 1], 20, 27, compiled)
        for found, expected in zip(single, together, strict=True):
            assert torch.equal(found[0], expected[b])

    packed = torch.cat([tri + b * len(vertices) for b in range(3)]).int()
    ranges = torch.tensor([[b * len(tri), len(tri)] for b in range(3)], dtype=torch.int32, device=device)
    flat = pos.reshape(-1, 4).clone().requires_grad_()
    found = all_outputs(flat, packed, attr.reshape(1, -1, 3), 20, 27, compiled, ranges)
    shift = torch.arange(3, device=device)[:, None, None] * len(tri) * (together[0][..., 3] > 0)
    assert torch.equal(found[0][..., 3], together[0][..., 3] + shift)
    assert torch.equal(found[0][..., :3], together[0][..., :3])
    for value, expected in zip(found[1:], together[1:], strict=True):
        assert torch.equal(value, expected)
    leaf = pos.clone().requires_grad_()
    expected = torch.autograd.grad(functional(all_outputs(leaf, tri, attr, 20, 27, compiled)), leaf)[0]
    torch.testing.assert_close(torch.autograd.grad(functional(found), flat)[0].reshape(pos.shape), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(not extension.available("cpu"), reason="the extension is not built")
def test_number_of_threads_does_not_change_a_bit():
    vertices, tri = sphere(10)
    attr = torch.randn(1, len(vertices), 3, requires_grad=True)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            pos = clip_positions(vertices, [0.4]).requires_grad_()
            outputs = all_outputs(pos, tri, attr, 40, 40, True)
            results.append([*outputs, *torch.autograd.grad(functional(outputs), [pos, attr])])
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("device", DEVICES)
def test_deterministic_gradients_repeat_exactly(device):
    need_compiled(device)
    vertices, tri = sphere(20)
    pos, attr = clip_positions(vertices, [0.4, 1.0]).to(device).requires_grad_(), torch.randn(1, len(vertices), 3, device=device)
    attr.requires_grad_()
    fast = torch.autograd.grad(functional(all_outputs(pos, tri.to(device), attr, 60, 60, True)), [pos, attr])
    torch.use_deterministic_algorithms(True)
    try:
        runs = [torch.autograd.grad(functional(all_outputs(pos, tri.to(device), attr, 60, 60, True)), [pos, attr]) for _ in range(3)]
    finally:
        torch.use_deterministic_algorithms(False)
    for run in runs:
        for value, first, quick in zip(run, runs[0], fast, strict=True):
            assert torch.equal(value, first)
            assert relative_l2(value, quick) < 1e-5


# ---- Registration, graphs, scale ----


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    need_compiled(device)
    vertices, tri = sphere(4)
    tri = tri.to(device)
    pos = clip_positions(vertices, [0.0, 1.0]).to(device).requires_grad_()
    flat, ranges = pos[0].detach().requires_grad_(), torch.tensor([[0, 5], [7, 9]], dtype=torch.int32, device=device)
    rast, rast_db = (value.detach() for value in rasterize(pos, tri, 9, 12))
    attr = torch.randn(1, len(vertices), 3, device=device, requires_grad=True)
    opposite = mesh_topology(tri).opposite
    ops = torch.ops.microdreamer
    for op, arguments in (
        (ops.rasterize_mesh, (pos, tri, None, 9, 12, False)),
        (ops.rasterize_mesh, (flat, tri, ranges, 9, 12, False)),
        (ops.interpolate_mesh, (attr, rast.clone().requires_grad_(), tri, None, False)),
        (ops.interpolate_mesh, (attr, rast.clone().requires_grad_(), tri, rast_db.clone().requires_grad_(), False)),
        (ops.antialias_mesh, (rast[..., :3].clone().requires_grad_(), rast, pos, tri, opposite, False)),
        (ops.rasterize_mesh_bwd, (rast, None, rast, pos.detach(), tri, False)),
        (ops.interpolate_mesh_bwd, (rast[..., :3].clone(), None, attr.detach(), rast, tri, None, False)),
        (ops.antialias_mesh_bwd, (rast, rast.clone(), rast.clone(), pos.detach(), tri, opposite, False)),
    ):
        torch.library.opcheck(op.default, arguments)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("deterministic", [False, True])
def test_forward_and_backward_can_be_captured_in_a_cuda_graph(deterministic):
    vertices, tri = sphere(10)
    pos, attr, tri = clip_positions(vertices, [0.0, 1.0]).cuda().requires_grad_(), torch.randn(1, len(vertices), 3).cuda(), tri.cuda()
    attr.requires_grad_()

    def step():
        rast, rast_db = rasterize(pos, tri, 40, 40, deterministic=deterministic)
        out, out_da = interpolate(attr, rast, tri, rast_db, deterministic=deterministic)
        smooth = antialias(out, rast, pos, tri, mesh_topology(tri), deterministic=deterministic)
        loss = smooth.square().sum() + out_da.square().sum() + rast_db.square().sum()
        return smooth, *torch.autograd.grad(loss, [pos, attr])

    expected = warm_up(step, "cuda")
    graph, found = capture(step, "cuda")
    graph.replay()
    assert torch.equal(found[0], expected[0])
    for value, right in zip(found[1:], expected[1:], strict=True):
        assert relative_l2(value, right) < 1e-5


@pytest.mark.parametrize("device", DEVICES)
def test_a_million_faces(device):
    need_compiled(device)
    vertices, tri = sphere(500)
    assert len(tri) > 990_000
    pos = clip_positions(vertices, [0.2]).to(device).requires_grad_()
    rast, _ = rasterize(pos, tri.to(device), 128, 128, compiled=True)
    coarse, _ = rasterize(clip_positions(sphere(100)[0], [0.2]).to(device), sphere(100)[1].to(device), 128, 128, compiled=True)
    assert float(((rast[..., 3] > 0) != (coarse[..., 3] > 0)).float().mean()) < 0.005
    normal = interpolate(vertices[None].to(device), rast, tri.to(device), compiled=True)[0]
    covered = rast[..., 3] > 0
    assert float((normal.detach()[covered].norm(dim=-1) - 1).abs().max()) < 0.11
    assert bool(torch.autograd.grad((rast[..., :2] * normal[..., :2]).sum(), pos)[0].isfinite().all())
