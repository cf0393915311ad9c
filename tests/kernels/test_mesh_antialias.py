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
