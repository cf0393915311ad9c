"""Chapter 1: the mesh phase of the program in plain PyTorch, under torch.profiler, by range and by operation."""

from __future__ import annotations

import functools
import gzip
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import torch

from benchmarks.course.scene import Scene, table
from gs_renderer import GaussianModel, extract_mesh, switches
from microdreamer.core import profiler
from microdreamer.core.trace_summary import Row, rows
from microdreamer.gaussians import extraction

MOST = 6  # rows of each kind
ORDERS = {"range": "total", "operation": "own", "kernel": "own"}  # the time by which each kind is ordered
MOST_BLOCKS = 8  # a side: with the program's 16 a trace of its loop has a million events


def solid_model(scene: Scene) -> GaussianModel:
    """The scene's Gaussians as a model that has a surface: as wide as their neighbours are far, and opaque."""
    means = scene.gaussians[0].cpu()
    model = GaussianModel.from_points(0.5 * means, means.clamp(0, 1), device=scene.device)
    with torch.no_grad():
        model.opacity_logits.fill_(2.0)
    return model


def mesh_phase(model: GaussianModel, resolution: int, num_blocks: int) -> None:
    """What the program does for a mesh before it is unwrapped, in its ranges."""
    fewer_blocks = functools.partial(extraction.extract_fields, num_blocks=num_blocks)
    with mock.patch.object(extraction, "extract_fields", fewer_blocks), profiler.phase("mesh"):
        extract_mesh(model, resolution=resolution)
        if model.device.type == "cuda":
            torch.cuda.synchronize()


def trace(model: GaussianModel, resolution: int, num_blocks: int) -> list[Row]:
    """What a trace of the mesh phase adds up to; the profiler's own session, as `profiling.mode=torch` opens it."""
    with tempfile.TemporaryDirectory() as folder:
        with profiler.session("torch", "function"):
            profiler.write_to(Path(folder))
            mesh_phase(model, resolution, num_blocks)
        (written,) = Path(folder).glob("*.json.gz")
        return rows(json.loads(gzip.decompress(written.read_bytes()))["traceEvents"])


def run(scene: Scene) -> dict:
    num_blocks = min(scene.num_blocks, MOST_BLOCKS)
    model = solid_model(scene)
    found = {}
    for name, compiled in (("plain PyTorch (USE_CUDA_GAUSS=0 USE_CUDA_EXTRACT=0)", False), ("kernels", True)):
        with switches(gauss=compiled, extract=compiled):
            if not scene.small:
                trace(model, 16, num_blocks)  # libraries load before anything is timed
            traced = trace(model, scene.resolution, num_blocks)
        found[name] = longest(traced)
    told = f"{scene.count} Gaussians, {scene.resolution}^3 points, {num_blocks} blocks a side, {scene.device}"
    return {"scene": told, "versions": found}


def tell(document: dict) -> Iterator[str]:
    yield f"mesh phase of {document['scene']}"
    for name, rows_of in document["versions"].items():
        yield f"\n{name}"
        for kind, order in ORDERS.items():
            if chosen := [row for row in rows_of if row["kind"] == kind]:
                yield table((f"{kind}s by {order} time", "total s", "own s", "calls"), [tuple(row.values())[1:] for row in chosen])


def longest(traced: list[Row]) -> list[dict]:
    """The ranges that take longest in all, and the operations and kernels that do so by themselves."""
    chosen = []
    for kind, order in ORDERS.items():
        ordered = sorted((row for row in traced if row.kind == kind), key=lambda row: -getattr(row, order))
        chosen += [
            {
                "kind": kind,
                "name": row.name[:60] + (f" in {row.within}" if row.within else ""),
                "total_s": row.total,
                "own_s": row.own,
                "calls": row.calls,
            }
            for row in ordered[:MOST]
        ]
    return chosen
