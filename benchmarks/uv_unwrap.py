"""UV layouts of this project and of xatlas, on the same meshes: seconds, stretch, use of the texture, charts, seams.

    python -m benchmarks.uv_unwrap [--objects FILE.npz] [--meshes FILE.glb ...] [--faces 50000] [--out results.json] [--pictures FOLDER]

Meshes are like those that are extracted from Gaussians: the surface of a blurred, slightly noisy volume by marching cubes,
cleaned, smoothed and simplified. The volumes are those of procedural shapes, or of packed objects (--objects); --meshes adds files.
Times are medians of `--repeats` after one that is not counted (xatlas, which takes seconds, runs once), on one core: set
OMP_NUM_THREADS=1. A layout counts only if every corner lies in the unit square and every face has its own texels: it is checked
before it is timed.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy import ndimage

from benchmarks.rows import Bench, Row
from benchmarks.timing import Timing, time_calls, write_json
from microdreamer.core.machine import describe, provenance
from microdreamer.meshes import cleaning as mesh_cleaning
from microdreamer.meshes.unwrap.parametrize import UVLayout, unwrap
from microdreamer.metrics import uvs as uv_quality
from microdreamer.metrics.points import draw_points
from microdreamer.shapes.packed import load_packed
from microdreamer.shapes.procedural import catalogue as procedural

FAMILIES = ("chair", "animal", "vehicle", "tree", "vessel")
VOLUME = 160  # points a side
SAMPLES = 200_000  # points on a surface, from which its volume is made


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", help=".npz pack of meshes, instead of procedural shapes")
    parser.add_argument("--count", type=int, default=5, help="packed objects to take, evenly over the pack")
    parser.add_argument("--meshes", nargs="*", default=[], help="mesh files to add, as they are")
    parser.add_argument("--faces", type=int, default=50_000)
    parser.add_argument("--resolution", type=int, default=1024)
    parser.add_argument("--padding", type=float, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=["charts", "xatlas"])
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--pictures", help="folder for pictures of the layouts")
    return parser.parse_args()


def extracted_mesh(vertices: np.ndarray, faces: np.ndarray, target_faces: int) -> tuple[np.ndarray, np.ndarray]:
    """A closed mesh like those from Gaussians, of about `target_faces` faces, around the surface of another."""
    import mcubes

    generator = torch.Generator().manual_seed(0)
    points = draw_points(torch.as_tensor(vertices).float(), torch.as_tensor(faces), SAMPLES, generator).numpy()
    low, high = points.min(0), points.max(0)
    cells = (points - (low + high) / 2) * ((VOLUME - 24) / (high - low).max()) + VOLUME / 2
    density = np.zeros((VOLUME,) * 3)
    np.add.at(density, tuple(np.round(cells).astype(int).T), 1)
    solid = ndimage.binary_fill_holes(ndimage.gaussian_filter(np.minimum(density, 3), 1.3) > 0.25)
    noise = np.random.default_rng(0).standard_normal(density.shape)
    vertices, faces = mcubes.marching_cubes(ndimage.gaussian_filter(solid.astype(float), 0.8) + 0.02 * noise * solid, 0.5)
    vertices, faces = mesh_cleaning.clean(vertices, faces.astype(np.int64))
    return mesh_cleaning.simplify(mesh_cleaning.smooth(vertices, faces, 3), faces, target_faces)


def meshes(options: argparse.Namespace):
    """(name, vertices, faces) of the meshes to lay out."""
    if options.objects:
        packed = load_packed(options.objects)
        for index in np.linspace(0, len(packed) - 1, options.count).astype(int):
            vertices, faces, _, _ = packed.mesh(int(index))
            yield packed.ids[index], *extracted_mesh(vertices.numpy(), faces.numpy(), options.faces)
    else:
        for family in FAMILIES:
            shape = procedural.generate(0, family)
            yield family, *extracted_mesh(shape.vertices, shape.faces, options.faces)
    for path in options.meshes:
        import trimesh

        mesh = trimesh.load(path, force="mesh", process=False)
        merged = mesh_cleaning.merge_vertices(np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64))
        yield Path(path).stem, *mesh_cleaning.drop_bad_faces(*merged)


def quality(vertices: np.ndarray, faces: np.ndarray, layout: UVLayout, resolution: int) -> dict[str, float]:
    stretch = uv_quality.stretch(vertices, faces, *layout)
    return {
        "l2": stretch.l2,
        "l2_99": stretch.l2_99,
        "l_inf": stretch.l_inf,
        "density_spread": uv_quality.density_spread(vertices, faces, *layout),
        "texel_use": uv_quality.texel_use(*layout, resolution),
        "overlapping_texels": uv_quality.overlapping_texels(*layout, resolution),
        "charts": uv_quality.chart_count(layout.uv_faces),
        "seam_share": uv_quality.seam_share(vertices, faces, layout.uv_faces),
    }


def fault(layout: UVLayout, found: dict[str, float]) -> str | None:
    """Why no texture can be baked into a layout of this `quality`, or None."""
    if found["overlapping_texels"]:
        return f"{found['overlapping_texels']} texels lie in two faces"
    return None if ((layout.uvs >= 0) & (layout.uvs <= 1)).all() else "corners lie outside of the unit square"


def draw(layout: UVLayout, path: Path, size: int = 1024) -> None:
    """A picture of the layout, a colour for each chart."""
    charts = uv_quality.face_charts(layout.uv_faces)
    colors = np.random.default_rng(1).integers(60, 256, (int(charts.max()) + 1, 3)).tolist()
    corners = layout.uvs.astype(np.float64)[layout.uv_faces] * size
    corners[..., 1] = size - corners[..., 1]
    picture = np.zeros((size, size, 3), np.uint8)
    for triangle, chart in zip(np.round(corners * 16).astype(np.int32), charts, strict=True):
        cv2.fillConvexPoly(picture, triangle, colors[chart], shift=4)
    cv2.imwrite(str(path), picture)


def headline(bench: Bench, faces: int, resolution: int) -> Iterator[Row]:
    """One procedural shape, whose layout is checked first. The floor moves the mesh in and the layout out."""
    shape = procedural.generate(0, FAMILIES[0])
    vertices, triangles = extracted_mesh(shape.vertices, shape.faces, faces)
    layout = unwrap(vertices, triangles, "charts", resolution)
    if reason := fault(layout, quality(vertices, triangles, layout, resolution)):
        raise SystemExit(f"UV unwrap: {reason}: not timed")
    least = vertices.nbytes + triangles.nbytes + layout.uvs.nbytes + layout.uv_faces.nbytes
    yield bench.row(f"UV unwrap, {len(triangles)} faces", lambda: unwrap(vertices, triangles, "charts", resolution), bytes=least)


def main() -> None:
    options = arguments()
    rows = []
    header = provenance("cpu", "xatlas")
    print(f"{describe(header)}\n{options.resolution} texels a side, padding {options.padding:g}, {options.repeats} repeats")
    print(f"{'mesh':28} {'faces':>6} {'method':7} {'seconds':>8} {'least':>7} {'most':>7} ", end="")
    print(f"{'L2':>6} {'L2 99%':>6} {'Linf':>7} {'density':>7} ", end="")
    print(f"{'use':>5} {'double':>6} {'charts':>6} {'seams':>6}")
    for name, vertices, faces in meshes(options):
        for method in options.methods:

            def call(vertices=vertices, faces=faces, method=method) -> UVLayout:
                return unwrap(vertices, faces, method, options.resolution, options.padding)

            started = time.perf_counter()
            layout = call()
            timing = Timing((1e3 * (time.perf_counter() - started),))
            found = quality(vertices, faces, layout, options.resolution)
            if reason := fault(layout, found):
                print(f"{name[-28:]:28} {len(faces):6d} {method:7} not timed: {reason}", flush=True)
                continue
            if method != "xatlas":
                timing = time_calls(call, "cpu", options.repeats, warm_up=0)  # the checked one was it
            row = {"mesh": name, "faces": len(faces), "method": method} | timing.as_row() | found
            rows.append(row)
            times = f"{timing.median / 1e3:8.3f} {timing.least / 1e3:7.3f} {timing.most / 1e3:7.3f}"
            print(f"{name[-28:]:28} {len(faces):6d} {method:7} {times} {row['l2']:6.3f} {row['l2_99']:6.3f} ", end="")
            print(f"{row['l_inf']:7.2f} {row['density_spread']:7.3f} {row['texel_use']:5.3f} {row['overlapping_texels']:6d} ", end="")
            print(f"{row['charts']:6d} {row['seam_share']:6.4f}", flush=True)
            if options.pictures:
                Path(options.pictures).mkdir(parents=True, exist_ok=True)
                draw(layout, Path(options.pictures) / f"unwrap_{name.replace('/', '_')}_{method}.png")
    write_json(options.out, header | {"resolution": options.resolution, "padding": options.padding, "rows": rows})


if __name__ == "__main__":
    main()
