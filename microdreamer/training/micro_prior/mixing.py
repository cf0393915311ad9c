"""More objects from few: two side by side or one on the other, and objects tapered, twisted and repainted."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from microdreamer.shapes import OBJECT_RADIUS
from microdreamer.shapes.packed import PackedMeshes

FACE_LIMIT = 8000  # of a pair


def pairs(meshes: PackedMeshes, weights: Tensor, count: int, generator: torch.Generator) -> PackedMeshes:
    """`count` objects of two each, drawn by `weights` [M], turned, scaled, placed side by side or stacked; on the CPU.

    Captions name both: "a chair and a table", "a box on a table". Objects of more than half of FACE_LIMIT faces are left out.
    """
    small = meshes.face_offset.diff() <= FACE_LIMIT // 2
    drawn = torch.multinomial(weights * small, 2 * count, replacement=True, generator=generator)
    both = meshes.subset(drawn)  # object 2k and 2k + 1 make pair k
    vertex_mesh = _owners(both.vertex_offset)

    def uniform(shape: tuple[int, ...], low: float, high: float) -> Tensor:
        return torch.rand(shape, generator=generator) * (high - low) + low

    stacked = uniform((count,), 0, 1) < 0.35
    angle = uniform((2 * count,), 0, 2 * math.pi)
    scale = uniform((2 * count,), 0.5, 1.0)
    scale[1::2] *= torch.where(stacked, 0.75, 1.0)
    turn = torch.stack([angle.cos(), torch.zeros_like(angle), angle.sin()], dim=1)
    turn = torch.stack([turn, torch.tensor([0.0, 1, 0]).expand_as(turn), torch.stack([-turn[:, 2], turn[:, 1], turn[:, 0]], dim=1)], dim=1)
    vertices = torch.einsum("vij,vj->vi", (turn * scale[:, None, None])[vertex_mesh], both.vertices)

    low, high = _bounds(vertices, vertex_mesh, 2 * count)
    first, second = slice(0, None, 2), slice(1, None, 2)
    shift = torch.zeros(2 * count, 3)
    beside = torch.stack([high[first, 0] - low[second, 0] + uniform((count,), -0.02, 0.25), low[first, 1] - low[second, 1]], dim=1)
    beside = torch.cat([beside, uniform((count, 1), -0.25, 0.25)], dim=1)
    middle = 0.5 * (low + high)
    above = middle[first] - middle[second] + uniform((count, 3), -0.1, 0.1)
    above[:, 1] = high[first, 1] - low[second, 1]
    shift[second] = torch.where(stacked[:, None], above, beside)
    vertices = vertices + shift[vertex_mesh]

    pair_of = vertex_mesh // 2
    low, high = _bounds(vertices, pair_of, count)
    vertices = vertices - (0.5 * (low + high))[pair_of]
    reach = torch.zeros(count).scatter_reduce(0, pair_of, vertices.norm(dim=1), "amax")
    vertices = vertices * (OBJECT_RADIUS / reach.clamp_min(1e-6))[pair_of, None]

    face_mesh = _owners(both.face_offset)
    behind_first = torch.where(face_mesh % 2 == 1, both.vertex_offset.diff()[face_mesh - face_mesh % 2], 0)
    normals = torch.einsum("fij,fkj->fki", turn[face_mesh], both.corner_normals.float())
    captions = [
        [f"{b[k % len(b)]} on {a[k % len(a)]}" if on_top else f"{a[k % len(a)]} and {b[k % len(b)]}" for k in range(2)] if a and b else []
        for a, b, on_top in zip(both.captions[::2], both.captions[1::2], stacked.tolist(), strict=True)
    ]
    offsets = both.face_offset[::2].contiguous()
    return PackedMeshes(
        vertices.contiguous(),
        (both.faces + behind_first[:, None]).int(),
        both.corner_colors,
        normals.round().clamp(-127, 127).to(torch.int8),
        both.vertex_offset[::2].contiguous(),
        offsets,
        [f"pair-{k}" for k in range(count)],
        captions,
        [""] * count,
        int(offsets.diff().max()) if count else 0,
    )


def _owners(offset: Tensor) -> Tensor:
    """The number of the mesh that each vertex or face belongs to, from their offsets [M+1]."""
    return torch.repeat_interleave(torch.arange(len(offset) - 1, device=offset.device), offset.diff())


def _bounds(points: Tensor, owner: Tensor, count: int) -> tuple[Tensor, Tensor]:
    index = owner[:, None].expand(-1, 3)
    low = torch.full((count, 3), math.inf).scatter_reduce(0, index, points, "amin")
    return low, torch.full((count, 3), -math.inf).scatter_reduce(0, index, points, "amax")


class Deformer:
    """Redraws the shapes of all meshes in place: `meshes` keeps its tensors, so a captured CUDA graph draws the new shapes.

    Half of the meshes are tapered along +Y, half are twisted about it, a quarter get waves of light and dark paint; the same
    `number` gives the same shapes. `support` [M,S,3] (points of each mesh) moves along. Those of `still` [M] stay as they are.
    """

    TAPER, TWIST, PAINT = 0.35, 0.5, 0.3  # per unit of height, radians per unit of height, share of the colour

    def __init__(self, meshes: PackedMeshes, support: Tensor, seed: int, still: Tensor | None = None):
        self.meshes, self.support, self.seed = meshes, support, seed
        self.free = None if still is None else ~still.to(meshes.device)
        self.original = tuple(tensor.clone() for tensor in (meshes.vertices, meshes.corner_normals, meshes.corner_colors, support))
        self.vertex_mesh, self.face_mesh = _owners(meshes.vertex_offset), _owners(meshes.face_offset)

    @torch.no_grad()
    def redraw(self, number: int) -> None:
        """Shapes `number` of the endless sequence that the seed stands for."""
        device, count = self.meshes.device, len(self.meshes)
        generator = torch.Generator(device).manual_seed(self.seed * 1_000_003 + number)

        def drawn(share: float, *shape: int) -> Tensor:
            chosen = torch.rand(count, generator=generator, device=device) < share
            values = torch.randn(count, *shape, generator=generator, device=device)
            if self.free is not None:
                chosen &= self.free
            return values * chosen.view(-1, *[1] * len(shape))

        taper, twist = self.TAPER * drawn(0.5), self.TWIST * drawn(0.5)
        strength, direction, phase = self.PAINT * drawn(0.25).clamp(-1.5, 1.5), 7 * drawn(1.0, 3), drawn(1.0)
        vertices, normals, colors, support = self.original

        for first in range(0, len(self.face_mesh), 2**22):  # in parts: the corners of all faces at once would take gigabytes
            part = slice(first, first + 2**22)
            owner = self.face_mesh[part]
            corners = vertices[(self.meshes.faces[part] + self.meshes.vertex_offset[owner, None]).long()]
            turned = _deform_normals(corners, normals[part].float(), taper[owner, None], twist[owner, None])
            length = turned.norm(dim=-1, keepdim=True)
            self.meshes.corner_normals[part] = (turned * (127 / length.clamp_min(1e-6))).round().to(torch.int8)
            wave = torch.sin((corners * direction[owner, None]).sum(-1) + phase[owner, None]) * strength[owner, None]
            self.meshes.corner_colors[part] = (colors[part] * (1 + wave[..., None])).round().clamp(0, 255).to(torch.uint8)
        self.meshes.vertices.copy_(_deform(vertices, taper[self.vertex_mesh], twist[self.vertex_mesh]))
        self.support.copy_(_deform(support, taper[:, None], twist[:, None]))


def _deform(points: Tensor, taper: Tensor, twist: Tensor) -> Tensor:
    """Points [...,3], each at height y scaled by exp(taper y) away from and turned by twist y about the Y axis."""
    x, y, z = points.unbind(-1)
    size, angle = torch.exp(taper * y), twist * y
    cos, sin = size * angle.cos(), size * angle.sin()
    return torch.stack([cos * x + sin * z, y, cos * z - sin * x], dim=-1)


def _deform_normals(points: Tensor, normals: Tensor, taper: Tensor, twist: Tensor) -> Tensor:
    """Normals [...,3] at `points`, by the inverse transpose of `_deform`'s derivative; not of unit length."""
    moved_x, y, moved_z = _deform(points, taper, twist).unbind(-1)
    shrink, angle = torch.exp(-taper * y), twist * y
    cos, sin = shrink * angle.cos(), shrink * angle.sin()
    x, up, z = normals.unbind(-1)
    turned_x, turned_z = cos * x + sin * z, cos * z - sin * x
    slope_x, slope_z = taper * moved_x + twist * moved_z, taper * moved_z - twist * moved_x
    return torch.stack([turned_x, up - turned_x * slope_x - turned_z * slope_z, turned_z], dim=-1)
