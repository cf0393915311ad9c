"""From Gaussians to a textured mesh, phase by phase: medians, and what other packages take for the same phase.

    python -m benchmarks.mesh_extraction [--ply FILE ...] [--device cuda] [--resolution 128] [--faces 50000] [--out results.json]

Without files, of two models: "object", a smooth body, and "noise", Gaussians strewn through a ball, whose surface has hundreds of
parts and handles everywhere, as priors with random weights leave them. Before anything is timed, marching cubes is held to its plain
version (the same bits) and to PyMCubes (the same number of vertices and faces), and the distances to SciPy's. Peers run on the CPU and
get what they need from the device within their time.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import Timing, time_calls, write_json
from microdreamer.core.machine import best_device, describe, provenance
from microdreamer.gaussians import extraction as gaussian_mesh
from microdreamer.gaussians import surface as gaussian_surface
from microdreamer.gaussians.model import GaussianModel
from microdreamer.kernels import extension
from microdreamer.kernels.marching_cubes import marching_cubes, marching_cubes_reference, table_on
from microdreamer.kernels.solid_grid import fill_voids, signed_distance, signed_distance_reference
from microdreamer.meshes import cleaning as mesh_cleaning
from microdreamer.meshes import files as mesh_io
from microdreamer.meshes.baking import bake, unwrapped
from microdreamer.meshes.mesh import Mesh

SMOOTHING_STEPS = 3  # as of extract_mesh


def noise_model(count: int, device: str) -> GaussianModel:
    """Gaussians of all shapes and opacities, evenly in a ball."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    means = 0.5 * directions * torch.rand(count, 1, generator=generator) ** (1 / 3)
    model = GaussianModel.from_points(means, torch.rand(count, 3, generator=generator), device=device)
    with torch.no_grad():
        model.log_scales.copy_(0.5 * torch.randn(count, 3, generator=generator) + np.log(0.01))
        model.quaternions.copy_(torch.randn(count, 4, generator=generator))
        model.opacity_logits.copy_(2 * torch.randn(count, generator=generator))
    return model


def object_model(count: int, device: str) -> GaussianModel:
    """A shell of Gaussians around a body with a waist and bumps."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    radii = 0.4 + 0.08 * (8 * directions[:, :1]).sin() * (6 * directions[:, 1:2]).cos() - 0.15 * directions[:, 2:].square()
    model = GaussianModel.from_points(radii * directions, directions / 2 + 0.5, device=device)
    with torch.no_grad():
        model.log_scales.fill_(float(np.log(0.015)))
        model.opacity_logits.fill_(1.0)
    return model


def models(options: argparse.Namespace) -> Iterator[tuple[str, GaussianModel]]:
    if options.ply:
        yield from ((path.stem, GaussianModel.load_ply(path, options.device)) for path in options.ply)
    else:
        yield "object", object_model(options.gaussians // 2, options.device)
        yield "noise", noise_model(options.gaussians, options.device)


def check_level(level: Tensor) -> None:
    """Raise AssertionError where marching cubes differs from its plain version or from PyMCubes."""
    padded = torch.nn.functional.pad(level, (1,) * 6, value=-1.0)
    vertices, faces = marching_cubes(padded)
    expected = marching_cubes_reference(padded, table_on(padded.device))
    assert torch.equal(vertices, expected[0]) and torch.equal(faces, expected[1]), "marching cubes differs from its plain version"
    theirs, their_faces = by_pymcubes(level)
    assert len(vertices) == len(theirs) and len(faces) == len(their_faces), "marching cubes differs from PyMCubes"


def by_pymcubes(level: Tensor) -> tuple[np.ndarray, np.ndarray]:
    import mcubes

    return mcubes.marching_cubes(np.pad(level.double().cpu().numpy(), 1, constant_values=-1.0), 0.0)


def cleaned_of_doubles(vertices: np.ndarray, faces: np.ndarray) -> mesh_cleaning.Arrays:
    """What the surface of a table that is not made for closed manifolds needs instead of `keep_outer_parts`."""
    merged = mesh_cleaning.drop_bad_faces(*mesh_cleaning.merge_vertices(vertices, faces))
    return mesh_cleaning.clean(*mesh_cleaning.drop_cavities(*merged))


class Row:
    """One line of the table."""

    def __init__(self, model: str, phase: str, timing: Timing, size: str, peer: tuple[str, Timing] | None) -> None:
        self.figures = {"model": model, "phase": phase, "size": size} | timing.as_row()
        self.text = f"{phase:<16} {timing.median:9.1f} {timing.least:9.1f} {timing.most:9.1f}  {size:<28}"
        if peer is not None:
            self.figures |= {"peer": peer[0], "peer_median_ms": peer[1].median}
            self.text += f" {peer[0]}: {peer[1].median:.1f}"


def measure(name: str, model: GaussianModel, options: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []

    def phase(title: str, call: Callable, size: Callable[[object], str] = lambda _: "", peer: tuple[str, Callable] | None = None) -> object:
        result = call()
        timing = time_calls(call, options.device, options.repeats, warm_up=0)
        theirs = None if peer is None or options.no_peers else (peer[0], time_calls(peer[1], options.device, 1, warm_up=0))
        rows.append(Row(name, title, timing, size(result), theirs))
        print(rows[-1].text, flush=True)
        return result

    def face_count(arrays: mesh_cleaning.Arrays) -> str:
        return f"{len(arrays[1])} faces"

    field = phase(
        "field", lambda: gaussian_mesh.extract_fields(model, options.resolution, relax_ratio=None), lambda _: f"{len(model)} Gaussians"
    )
    seen = phase("seen points", lambda: gaussian_surface.seen_points(model), lambda points: f"{len(points)} points")
    threshold = phase("threshold", lambda: gaussian_mesh.surface_density(field, seen))
    field = phase("uncut field", lambda: gaussian_mesh.uncut_field(model, field, threshold))
    solid = fill_voids(field.values > gaussian_mesh.CORE_DENSITY * threshold)
    torch.testing.assert_close(signed_distance(solid), signed_distance_reference(solid), atol=1e-5, rtol=1e-6)
    phase("  its distances", lambda: signed_distance(solid), peer=("SciPy", lambda: signed_distance_reference(solid)))
    core = phase("solid core", lambda: gaussian_mesh.solid_core(field, threshold, seen))
    level = torch.maximum(field.values / threshold - 1, core)
    check_level(level)
    indices, faces = phase(
        "marching cubes", lambda: gaussian_mesh.closed_surface(level), face_count, ("PyMCubes", lambda: by_pymcubes(level))
    )
    vertices = field.to_world(indices)
    parts = phase(
        "outer parts",
        lambda: mesh_cleaning.keep_outer_parts(vertices, faces),
        face_count,
        ("cleaning of what is not closed", lambda: cleaned_of_doubles(vertices, faces)),
    )
    smoothed = phase("smoothing", lambda: mesh_cleaning.smooth(*parts, SMOOTHING_STEPS))
    vertices, faces = phase(
        "simplification",
        lambda: mesh_cleaning.simplify(smoothed, parts[1], options.faces),
        face_count,
        ("fast_simplification", lambda: mesh_cleaning.simplify_open(smoothed, parts[1], options.faces))
        if len(parts[1]) > options.faces
        else None,
    )
    bare = Mesh(vertices, faces)
    flat = phase("unwrapping", lambda: unwrapped(bare, options.texture_size), lambda mesh: f"{len(mesh.uvs)} corners")
    mesh = phase("baking", lambda: bake(flat, options.texture_size, model, None, options.device))
    with tempfile.TemporaryDirectory() as folder:

        def write() -> None:
            mesh_io.write_mesh(mesh, Path(folder) / "mesh", "all")

        phase("writing", write)
    total = sum(row.figures["median_ms"] for row in rows if not row.figures["phase"].startswith(" "))
    print(f"{'total':<16} {total:9.1f}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ply", type=Path, nargs="+", help="Gaussians, instead of the two models made here")
    parser.add_argument("--device", default=best_device().type, choices=["cpu", "cuda"])
    parser.add_argument("--resolution", type=int, default=128, help="grid points a side")
    parser.add_argument("--gaussians", type=int, default=20_000, help="of the noise; the object has half as many")
    parser.add_argument("--faces", type=int, default=50_000)
    parser.add_argument("--texture-size", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5, help="timed calls; peers run once")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    options = parser.parse_args()
    if not extension.available(options.device):
        raise SystemExit(f"no compiled {options.device} kernels to measure; {extension.BUILD_HINT}")
    header = provenance(options.device, "PyMCubes", "fast_simplification", "scipy")
    print(describe(header))
    rows = []
    for name, model in models(options):
        print(f"\n{name}, {options.resolution}^3\n{'phase':<16} {'median ms':>9} {'least':>9} {'most':>9}")
        rows += [row.figures for row in measure(name, model, options)]
    write_json(options.out, header | {"resolution": options.resolution, "rows": rows})


if __name__ == "__main__":
    main()
