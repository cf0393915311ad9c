"""Chapter 2: what the density grid cannot go below on this machine, and how far plain PyTorch is from it."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.course.scene import LIBRARY, PLAIN, Scene, figure, operations, table, time_here
from benchmarks.extract_fields import floors
from microdreamer.kernels import FIELD_RELAX_RATIO


def pairs_of_plain(scene: Scene) -> int:
    """Pairs of a point and a Gaussian that plain PyTorch evaluates: each point of a block with each Gaussian whose mean the widened
    block holds."""
    means = scene.gaussians[0].cpu()
    edge, margin = scene.resolution // scene.num_blocks, FIELD_RELAX_RATIO * 2 / scene.num_blocks
    axis = torch.linspace(-1, 1, scene.resolution)
    first, last = axis[::edge] - margin, axis[edge - 1 :: edge] + margin
    inside = ((means[None] > first[:, None, None]) & (means[None] < last[:, None, None])).double()
    members = torch.einsum("xn,yn,zn->xyz", *inside.unbind(-1))
    return int(members.sum()) * edge**3


def run(scene: Scene) -> dict:
    _, covs, opacities = scene.gaussians
    work, floor_ms = floors(covs, opacities, scene.resolution), scene.floor_ms()
    launches = operations(scene.version(PLAIN))
    x = torch.zeros(1, device=scene.device)
    launch_ms = time_here(lambda: [x.add_(1) for _ in range(1000)], scene.device, repeats=3).least / 1000
    pairs = pairs_of_plain(scene)
    rows = [
        ("bytes: each input and output once", f"{work['bytes'] / 1e6:.2f} MB", floor_ms["memory"]),
        ("exponentials: terms of at least 1e-7", f"{work['exponentials'] / 1e6:.2f} million", floor_ms["exponentials"]),
        ("operations: one", "1", launch_ms),
        ("plain PyTorch: operations of its loop", str(launches), launches * launch_ms),
        ("plain PyTorch: exponentials", f"{pairs / 1e6:.1f} million", floor_ms["exponentials"] * pairs / work["exponentials"]),
    ]
    times = {name: scene.time(name).median for name in (PLAIN, LIBRARY)}
    found = [dict(zip(("what", "amount", "ms"), row, strict=True)) for row in rows]
    return {"scene": str(scene), "rows": found, "floor_ms": floor_ms, "milliseconds": times}


def tell(document: dict) -> Iterator[str]:
    yield f"floor of the density grid: {document['scene']}"
    yield table(("what", "how much", "ms at least"), [tuple(row.values()) for row in document["rows"]])
    floor = max(document["floor_ms"].values())
    yield f"\nThe floor is {figure(floor)} ms."
    for name, milliseconds in document["milliseconds"].items():
        yield f"{name}: {figure(milliseconds)} ms, {figure(milliseconds / floor)} times the floor"
