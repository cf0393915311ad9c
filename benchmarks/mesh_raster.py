"""The mesh rasteriser: milliseconds of each op, forward and with its backward, beside the bytes that it cannot do without.

    python -m benchmarks.mesh_raster [--device cuda] [--views 8] [--size 512] [--faces 50000] [--out results.json]
    python -m benchmarks.mesh_raster --faces 100 500 2000 10000 50000 500000 2000000    # from large faces to small ones

A bumpy sphere seen from a circle of cameras, of each number of faces in turn. Each op is timed alone, its inputs made beforehand, and
then the whole chain rasterize, interpolate (texture coordinates with derivatives), texture, antialias. On a GPU the calls are replayed
from CUDA graphs, so the host's work is not counted. The floor counts every element of what an op reads and writes once; `GB/s` is the
rate at which the op would have moved just those. Before anything is timed, small scenes of large and of small faces are compared with
the plain-PyTorch version.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.rows import Bench, Row
from benchmarks.timing import captured, time_calls, write_json
from microdreamer.core.machine import best_device, describe, provenance
from microdreamer.kernels import extension
from microdreamer.kernels.mesh_raster import antialias, interpolate, mesh_topology, rasterize
from microdreamer.kernels.texture import build_mips, texture

CHANNELS = 3  # of the picture that is antialiased


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default=best_device().type)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--faces", type=int, nargs="+", default=[50_000], help="about how many; several are timed in turn")
    parser.add_argument("--texture", type=int, default=1024, help="texels a side")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args()


def bumpy_sphere(faces: int) -> tuple[Tensor, Tensor, Tensor]:
    """Vertices [V,3], faces [F,3] int32 and texture coordinates [V,2] of a sphere with a seam, F close to `faces`."""
    rows = max(2, round((faces / 4) ** 0.5))
    v, u = torch.meshgrid(torch.linspace(0, 1, rows + 1), torch.linspace(0, 1, 2 * rows + 1), indexing="ij")
    theta, phi = v * torch.pi, u * 2 * torch.pi
    radius = 1 + 0.1 * torch.sin(5 * theta) * torch.sin(7 * phi)
    vertices = radius[..., None] * torch.stack([theta.sin() * phi.cos(), theta.cos(), theta.sin() * phi.sin()], -1)
    at = torch.arange(v.numel()).reshape(v.shape)
    a, b, c, d = at[:-1, :-1], at[1:, :-1], at[1:, 1:], at[:-1, 1:]
    tri = torch.stack([torch.stack([a, b, c], -1), torch.stack([a, c, d], -1)], 2).reshape(-1, 3)
    return vertices.reshape(-1, 3), tri.int(), torch.stack([u, v], -1).reshape(-1, 2)


def clip_positions(vertices: Tensor, views: int, distance: float = 2.6, focal: float = 2.0) -> Tensor:
    """Positions [views,V,4] in the clip space of cameras on a circle about the origin, near 0.1, far 10."""
    angle = torch.arange(views)[:, None] * (2 * torch.pi / views)
    x, y, z = vertices.unbind(-1)
    depth = distance + angle.sin() * x + angle.cos() * z
    clip_z = (10.1 * depth - 2.0) / 9.9
    return torch.stack([focal * (angle.cos() * x - angle.sin() * z), focal * y + 0 * depth, clip_z, depth], -1)


def check(device: str) -> None:
    """Stop if the ops and the plain-PyTorch version disagree."""
    for faces, size in ((600, 64), (100, 157)):
        vertices, tri, uv = bumpy_sphere(faces)
        pos, tri, uv = clip_positions(vertices, 2).to(device), tri.to(device), uv[None].to(device)
        pictures = []
        for compiled in (True, False):
            rast, rast_db = rasterize(pos, tri, size, size, compiled=compiled)
            out, _ = interpolate(uv, rast, tri, rast_db, compiled=compiled)
            pictures.append(antialias(out, rast, pos, tri, compiled=compiled))
        different = float(((pictures[0] - pictures[1]).abs() > 1e-3).float().mean())
        if different > 1e-3:
            raise SystemExit(f"{different:.1e} of the values differ from plain PyTorch's: not timed")


def as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def bytes_of(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class Case(NamedTuple):
    """An op or the chain of all: its call, the leaves of its backward pass, and the bytes that each pass must read or write once."""

    name: str
    call: Callable[[], Tensor | tuple[Tensor | None, ...]]
    leaves: list[Tensor]
    forward_bytes: int
    both_bytes: int

    def passes(self) -> Iterator[tuple[str, Callable[[], object], int]]:
        """(name, call, bytes) of the forward pass, and of it with its backward pass."""
        with torch.no_grad():  # a graph kept alive here would tie the leaves to this stream, and capturing would fail
            weights = [torch.randn_like(output) for output in as_tuple(self.call()) if output is not None]

        def forward() -> object:
            with torch.no_grad():
                return self.call()

        def both() -> object:
            outputs = [output for output in as_tuple(self.call()) if output is not None]
            return torch.autograd.grad(outputs, self.leaves, weights)

        yield "forward", forward, self.forward_bytes
        yield "and backward", both, self.both_bytes


def cases_of(faces: int, views: int, size: int, texels: int, device: str) -> tuple[list[Case], dict[str, float]]:
    """Each op on a bumpy sphere with inputs made beforehand, then all four in a chain; and the numbers that describe the scene."""
    vertices, tri, uv = bumpy_sphere(faces)
    pos = clip_positions(vertices, views).to(device).requires_grad_()
    tri, uv = tri.to(device), uv[None].to(device).requires_grad_()
    tex = torch.rand(1, texels, texels, CHANNELS, device=device, requires_grad=True)
    topology = mesh_topology(tri)

    with torch.no_grad():
        rast, rast_db = rasterize(pos, tri, size, size)
        texc, texc_da = interpolate(uv, rast, tri, rast_db)
        mips = build_mips(tex)
        color = texture(tex, texc, texc_da, "linear-mipmap-linear")
    share = float((rast[..., 3] > 0).float().mean())
    rast, rast_db, texc, texc_da, color = (value.requires_grad_() for value in (rast, rast_db, texc, texc_da, color))

    def draw():
        return rasterize(pos, tri, size, size)

    def carry():
        return interpolate(uv, rast, tri)

    def carry_derivatives():
        return interpolate(uv, rast, tri, rast_db)

    def look_up():
        return texture(tex, texc, texc_da, "linear-mipmap-linear")

    def smooth():
        return antialias(color, rast, pos, tri, topology)

    def chain():
        rast, rast_db = draw()
        texc, texc_da = interpolate(uv, rast, tri, rast_db)
        picture = texture(tex, texc, texc_da, "linear-mipmap-linear", mask=rast[..., 3] > 0)
        return antialias(picture, rast, pos, tri, topology)

    def case(name: str, call: Callable, leaves: list[Tensor], forward: tuple[Tensor, ...], backward: tuple[Tensor, ...]) -> Case:
        return Case(name, call, leaves, bytes_of(*forward), bytes_of(*forward, *backward))

    plain = case("interpolate 2", carry, [uv, rast], (uv, tri, rast, texc), (uv, tri, rast, texc, uv, rast))
    found = [
        case("rasterize", draw, [pos], (pos, tri, rast, rast_db), (pos, tri, rast, rast, rast_db, pos)),
        case(
            "interpolate 2 + da",
            carry_derivatives,
            [uv, rast, rast_db],
            (uv, tri, rast, rast_db, texc, texc_da),
            (uv, tri, rast, rast_db, texc, texc_da, uv, rast, rast_db),
        ),
        case(
            "texture trilinear",
            look_up,
            [tex, texc, texc_da],
            (tex, mips.texels, texc, texc_da, color),
            (mips.texels, texc, texc_da, color, tex, texc, texc_da),
        ),
        case(f"antialias {CHANNELS}", smooth, [color, pos], (color, rast, color), (color, rast, color, color, pos)),
    ]
    whole = Case("all four", chain, [pos, uv, tex], sum(each.forward_bytes for each in found), sum(each.both_bytes for each in found))
    setting = {"views": views, "size": size, "faces": len(tri), "vertices": len(vertices), "covered": share, "texture": texels}
    return [found[0], plain, *found[1:], whole], setting


def headline(bench: Bench, face_counts: Sequence[int], views: int, size: int, texels: int) -> Iterator[Row]:
    """Each op of `cases_of`, forward and with its backward pass; on a GPU as CUDA graphs. Held to plain PyTorch on a small scene."""
    check(bench.device)
    for count in face_counts:
        cases, setting = cases_of(count, views, size, texels, bench.device)
        for case in cases:
            if case.name == "interpolate 2":  # the chain has the one with derivatives
                continue
            for which, call, least in case.passes():
                name = f"mesh rasteriser, {setting['faces']} faces, {views} x {size}^2: {case.name}, {which.replace('and', 'forward and')}"
                yield bench.row(name, captured(call) if bench.on_gpu else call, bytes=least)


def measure(options: argparse.Namespace, faces: int) -> list[dict]:
    """Time every op on a sphere of about `faces` faces; prints a table and returns its rows, with the numbers of the scene in each."""
    device = options.device
    cases, setting = cases_of(faces, options.views, options.size, options.texture, device)
    scene = {name: setting[name] for name in ("faces", "vertices", "covered")}
    views = f"{options.views} views of {options.size}x{options.size}, {scene['covered']:.0%} of the pixels covered"
    print(f"{views}, {scene['faces']} faces, {scene['vertices']} vertices; {options.repeats} repeats")
    print(f"{'':32} {'median ms':>10} {'p10':>8} {'p90':>8} {'floor MB':>9} {'GB/s':>7}")
    rows = []
    for case in cases:
        for passes, timed, least in case.passes():
            timing = time_calls(captured(timed) if device.startswith("cuda") else timed, device, options.repeats)
            rows.append({"op": case.name, "pass": passes, **scene, **timing.as_row(), "floor_bytes": least})
            rate = f"{least / 1e6:9.1f} {least / timing.median / 1e6:7.1f}"
            print(f"{case.name + ', ' + passes:32} {timing.median:10.3f} {timing.p10:8.3f} {timing.p90:8.3f} {rate}", flush=True)
    return rows


def print_summary(scenes: list[list[dict]]) -> None:
    """Milliseconds of every op by the number of faces."""
    print(f"\n{'median ms by faces':32}" + "".join(f"{rows[0]['faces']:>10}" for rows in scenes))
    for rows in zip(*scenes, strict=True):
        print(f"{rows[0]['op'] + ', ' + rows[0]['pass']:32}" + "".join(f"{row['median_ms']:10.3f}" for row in rows))


def main() -> None:
    options = arguments()
    if not extension.available(options.device):
        raise SystemExit(f"no compiled {options.device} kernels; {extension.BUILD_HINT}")
    check(options.device)
    found = provenance(options.device)
    print(describe(found))
    scenes = [measure(options, faces) for faces in options.faces]
    if len(scenes) > 1:
        print_summary(scenes)
    setting = {"views": options.views, "size": options.size, "texture": options.texture}
    write_json(options.out, found | setting | {"rows": [row for rows in scenes for row in rows]})


if __name__ == "__main__":
    main()
