"""What the tests of the mesh rasteriser look at, and the golden file that they share."""

import pytest
import torch

from microdreamer.kernels import extension
from microdreamer.kernels.mesh_raster import antialias, interpolate, rasterize

GOLDEN = "kernels/nvdiffrast_icosphere_128x128.npz"
BOTH = pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "reference"])


def need_compiled(device, compiled=True):
    if compiled and not extension.available(device):
        pytest.skip("the extension is not built")


def sphere(rows, bump=0.1, dtype=torch.float32):
    """Vertices [V,3] and faces [F,3] of a closed bumpy sphere: one vertex at each pole, 2 `rows` a ring."""
    columns = 2 * rows
    theta = torch.arange(1, rows, dtype=torch.float64)[:, None] * torch.pi / rows
    phi = torch.arange(columns, dtype=torch.float64)[None] * 2 * torch.pi / columns
    radius = 1 + bump * torch.sin(5 * theta) * torch.sin(7 * phi)
    ring = radius[..., None] * torch.stack([theta.sin() * phi.cos(), theta.cos().expand_as(radius), theta.sin() * phi.sin()], -1)
    vertices = torch.cat([torch.tensor([[0.0, 1.0, 0.0]]).double(), ring.reshape(-1, 3), torch.tensor([[0.0, -1.0, 0.0]]).double()])
    at = 1 + torch.arange((rows - 1) * columns).reshape(rows - 1, columns)
    a, b, c, d = at[:-1], at[1:], at[1:].roll(-1, 1), at[:-1].roll(-1, 1)
    body = torch.stack([torch.stack([a, b, c], -1), torch.stack([a, c, d], -1)], 2).reshape(-1, 3)
    last = len(vertices) - 1
    top = torch.stack([torch.zeros(columns).long(), at[0], at[0].roll(-1)], -1)
    bottom = torch.stack([torch.full((columns,), last), at[-1].roll(-1), at[-1]], -1)
    return vertices.to(dtype), torch.cat([top, body, bottom]).int()


def clip_positions(vertices, angles, distance=3.0, near=0.1, far=10.0, focal=2.5):
    """Clip-space positions [B,V,4] of vertices seen from a circle around the origin."""
    angles = torch.as_tensor(angles, dtype=vertices.dtype)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    x, y, z = vertices.unbind(-1)
    depth = distance + sin * x + cos * z
    clip_z = (far + near) / (far - near) * depth - 2 * far * near / (far - near)
    return torch.stack([focal * (cos * x - sin * z), focal * y + 0 * depth, clip_z, depth], -1)


def random_triangles(pictures=2, vertices=30, faces=40, seed=0):
    """Triangles about the eye: many cross or lie behind its plane."""
    draw = torch.Generator().manual_seed(seed)
    pos = torch.randn(pictures, vertices, 4, generator=draw) + torch.tensor([0.0, 0.0, 0.0, 0.8])
    return pos, torch.randint(0, vertices, (faces, 3), generator=draw, dtype=torch.int32)


def all_outputs(pos, tri, attr, height, width, compiled, ranges=None):
    """Everything that the three ops make of a scene, as one chain."""
    rast, rast_db = rasterize(pos, tri, height, width, ranges, compiled=compiled)
    out, out_da = interpolate(attr, rast, tri, rast_db, compiled=compiled)
    smooth = antialias(out, rast, pos, tri, compiled=compiled)
    return rast, rast_db, out, out_da, smooth


def functional(outputs, seed=3):
    draw = torch.Generator().manual_seed(seed)
    total = 0.0
    for output in outputs:
        weight = torch.randn(output.shape, generator=draw, dtype=torch.float64).to(output)
        if output.shape[-1] == 4 and output is outputs[0]:
            weight[..., 2:] = 0  # z/w and the face number have no gradient
        total = total + (output * weight).sum()
    return total


def scattered_triangles(pictures=2, faces=100, seed=0):
    """Triangles of sizes from 0.001 to 3 screens, the smaller ones more often nearer, in front of the eye."""
    draw = torch.Generator().manual_seed(seed)
    size = 10 ** (torch.rand(pictures, faces, 1, 1, generator=draw) * 3.5 - 3)
    middle = torch.rand(pictures, faces, 1, 2, generator=draw) * 2.4 - 1.2
    screen = middle + size * torch.randn(pictures, faces, 3, 2, generator=draw)
    depth = size.log10() * 0.25 + 0.3 * torch.rand(pictures, faces, 3, 1, generator=draw)
    w = torch.rand(pictures, faces, 3, 1, generator=draw) + 0.3
    pos = torch.cat([screen, depth, torch.ones_like(w)], -1) * w
    return pos.reshape(pictures, 3 * faces, 4), torch.arange(3 * faces, dtype=torch.int32).reshape(faces, 3)
