"""Antialiasing of mesh silhouettes, and the neighbours of faces that it goes by."""

import numpy as np
import pytest
import torch
from conftest import DEVICES, relative_l2
from mesh_scenes import BOTH, GOLDEN, need_compiled, sphere

from microdreamer.kernels.mesh_raster import antialias, mesh_topology, rasterize


@pytest.mark.parametrize("device", DEVICES)
@BOTH
@pytest.mark.parametrize("what", ["color", "mask"])
def test_golden_antialiasing(parity, what, compiled, device):
    need_compiled(device, compiled)
    data = np.load(parity(GOLDEN))
    rast, tri = torch.tensor(data["rast"], device=device), torch.tensor(data["tri"], device=device)
    pos = torch.tensor(data["pos_clip"], device=device, requires_grad=True)
    color = torch.tensor(data["aa_in"], device=device) if what == "color" else (rast[..., 3:] > 0).float()
    color.requires_grad_()
    out = antialias(color, rast, pos, tri, compiled=compiled)
    torch.testing.assert_close(out, torch.tensor(data[f"aa_{what}"], device=device), rtol=0, atol=1e-4)
    weight = torch.tensor(data["weight_col_q"], device=device)[..., : color.shape[-1]] / 64
    v_color, v_pos = torch.autograd.grad((out * weight).sum(), [color, pos])
    assert relative_l2(v_color, torch.tensor(data[f"grad_{what}__aa"])) < 1e-3
    assert relative_l2(v_pos, torch.tensor(data["grad_pos__aa" if what == "color" else "grad_pos__aamask"])) < 1e-3


@pytest.mark.parametrize("device", DEVICES)
def test_topology_of_a_closed_mesh_and_of_an_open_one(device):
    tri = sphere(5)[1]
    opposite = mesh_topology(tri.to(device)).opposite.cpu()
    edges = {}
    for face, corners in enumerate(tri.tolist()):
        for k in range(3):
            edges.setdefault(frozenset((corners[(k + 1) % 3], corners[(k + 2) % 3])), []).append((face, k, corners[k]))
    assert all(len(users) == 2 for users in edges.values())
    for (face, k, third), (other_face, other_k, other_third) in edges.values():
        assert opposite[face, k] == other_third and opposite[other_face, other_k] == third
    quad = torch.tensor([[0, 1, 2], [2, 3, 0]], dtype=torch.int32, device=device)
    assert mesh_topology(quad).opposite.tolist() == [[-1, 3, -1], [-1, 1, -1]]
    fan = torch.tensor([[0, 1, 2], [1, 0, 3], [0, 1, 4]], dtype=torch.int32, device=device)  # three at one edge, in turn
    assert mesh_topology(fan).opposite[:, 2].tolist() == [3, 4, 2]
    assert mesh_topology(torch.tensor([[0, 0, 1]], dtype=torch.int32, device=device)).opposite.tolist() == [[0, 0, -1]]
    assert mesh_topology(tri[:0].to(device)).opposite.shape == (0, 3)


@pytest.mark.parametrize("device", DEVICES)
@BOTH
def test_antialiased_coverage_moves_with_the_edge(compiled, device):
    # A half-plane whose border leaves the vertical by a little: the row sums are the area, and their gradient the border's.
    need_compiled(device, compiled)
    tri = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32, device=device)
    for border in (0.013, 0.21, -0.402):
        edge = torch.tensor(border, device=device, requires_grad=True)
        one = torch.ones((), device=device)
        left, zero = -3 * one, 0 * one
        corner = [(left, -3 * one), (edge - 0.03, -3 * one), (edge + 0.03, 3 * one), (left, 3 * one)]
        pos = torch.stack([torch.stack([x, y, zero, one]) for x, y in corner])[None]
        rast, _ = rasterize(pos, tri, 16, 16, compiled=compiled)
        smooth = antialias((rast[..., 3:] > 0).float(), rast, pos, tri, compiled=compiled)
        area = smooth.sum() * (2 / 16) ** 2
        assert abs(float(area.detach()) - 2 * (border + 1)) < 2e-3
        assert abs(float(torch.autograd.grad(area, edge)[0]) - 2) < 2e-3


def quad(left, right, device, depth=0.0):
    """pos [1,4,4] and tri [2,3] of a quad from column `left` to `right`, in pixels of a picture of 8x8, above and below it."""
    x = torch.stack([left, right, right, left]) / 4 - 1
    rest = torch.tensor([[-2.0, depth, 1], [-2, depth, 1], [2, depth, 1], [2, depth, 1]], dtype=x.dtype, device=device)
    tri = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32, device=device)
    return torch.cat([x[:, None], rest], 1)[None], tri


@pytest.mark.parametrize("device", DEVICES)
@BOTH
@pytest.mark.parametrize("turn", range(4))
def test_a_border_just_outside_a_centre_blends_across_itself_alone(turn, compiled, device):
    """A quad whose border lies 0.03 px outside the centres of a column: that column takes 0.47 of what lies outside, and no other
    pixel changes, though the quad's diagonal parts some of the column's faces from their neighbours'. In all four directions."""
    need_compiled(device, compiled)
    left, right = (torch.tensor(value, device=device, requires_grad=True) for value in (2.47, 6.0))
    pos, tri = quad(left, right, device)
    color = torch.rand(8, 8, 2, device=device)
    expected = color.clone()
    expected[:, 2] = color[:, 2] + 0.47 * (color[:, 1] - color[:, 2])
    expected[:, 5] = color[:, 5]  # the right border lies halfway between two columns
    for _ in range(turn):
        color, expected = color.rot90(), expected.rot90()
        pos = torch.stack([pos[..., 1], -pos[..., 0], pos[..., 2], pos[..., 3]], -1)  # as rot90 turns columns and rows
    rast, _ = rasterize(pos, tri, 8, 8, compiled=compiled)
    assert len(rast[..., 3].unique()) == 3  # both faces and the outside are seen
    color = color[None].contiguous().requires_grad_()
    out = antialias(color, rast, pos, tri, compiled=compiled)
    torch.testing.assert_close(out[0].rot90(-turn), expected.rot90(-turn), rtol=0, atol=2e-6)
    weight = torch.rand(out.shape, device=device)
    v_color, v_left = torch.autograd.grad((out * weight).sum(), [color, left])
    inner, outer = (color[0].detach().rot90(-turn)[:, column] for column in (2, 1))
    weight = weight[0].rot90(-turn)
    mixed = weight.clone()
    mixed[:, 2], mixed[:, 1] = 0.53 * weight[:, 2], weight[:, 1] + 0.47 * weight[:, 2]
    torch.testing.assert_close(v_color[0].rot90(-turn), mixed, rtol=0, atol=2e-6)
    assert abs(float(v_left - (weight[:, 2] * (outer - inner)).sum())) < 1e-4


@pytest.mark.parametrize("device", DEVICES)
@BOTH
def test_an_edge_may_lie_a_sixteenth_of_a_pixel_beyond_either_centre(compiled, device):
    """What rounding may make of a border: `rast` says that the quad covers columns 0..3, and its border lies near a centre."""
    need_compiled(device, compiled)
    rast = torch.zeros(1, 8, 8, 4, device=device)
    rast[:, :, :4, 3] = 1  # one face alone, so that its two other edges are out of the way
    tri = torch.tensor([[0, 1, 2]], dtype=torch.int32, device=device)
    color = torch.rand(1, 8, 8, 1, device=device)
    inner, outer = color[0, :, 3, 0], color[0, :, 4, 0]
    for border, to_inner, to_outer in (
        (3.5 - 0.07, 0.0, 0.0),  # 3.5 and 4.5 are the centres
        (3.5 - 0.06, 0.5, 0.0),
        (3.75, 0.25, 0.0),
        (4.25, 0.0, 0.25),
        (4.5 + 0.06, 0.0, 0.5),
        (4.5 + 0.07, 0.0, 0.0),
    ):
        x = torch.tensor([border, border, -200.0], device=device) / 4 - 1
        y = torch.tensor([-20.0, 20, 0], device=device)
        pos = torch.stack([x, y, 0 * x, 0 * x + 1], -1)[None]
        out = antialias(color, rast, pos, tri, compiled=compiled)[0, :, :, 0]
        torch.testing.assert_close(out[:, 3], inner + to_inner * (outer - inner), rtol=0, atol=1e-5)
        torch.testing.assert_close(out[:, 4], outer + to_outer * (inner - outer), rtol=0, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_op_matches_the_reference_on_open_meshes(device):
    """Loose triangles that overlap and pierce each other: silhouettes everywhere, and edges that are none in front of them."""
    need_compiled(device)
    draw = torch.Generator().manual_seed(3)
    corners = torch.rand(60, 1, 2, generator=draw) * 2 - 1 + 0.3 * torch.randn(60, 3, 2, generator=draw)
    pos = torch.cat([corners, 0.5 * torch.randn(60, 3, 1, generator=draw).clamp(-1, 1), torch.ones(60, 3, 1)], -1).reshape(1, -1, 4)
    tri = torch.arange(180, dtype=torch.int32).reshape(-1, 3)
    strips = torch.tensor([[0, 1, 4], [3, 4, 7], [9, 10, 1]], dtype=torch.int32)  # share vertices, not edges
    tri, pos = torch.cat([tri, strips]).to(device), pos.to(device).requires_grad_()
    with torch.no_grad():
        rast = rasterize(pos, tri, 48, 48)[0]
    color = torch.rand(1, 48, 48, 3, generator=draw).to(device).requires_grad_()
    weight = torch.rand(1, 48, 48, 3, generator=draw).to(device)
    found, expected = [], []
    for results, kind, compiled in ((found, torch.float32, True), (expected, torch.float64, False)):
        arguments = color.to(kind), rast.to(kind), pos.to(kind), tri
        out = antialias(*arguments, compiled=compiled)
        results += [out, *torch.autograd.grad((out * weight).sum(), [color, pos])]
    assert float((expected[0] - color).detach().abs().max()) > 0.3
    for actual, exact in zip(found, expected, strict=True):
        assert relative_l2(actual.detach(), exact.detach()) < 1e-4
