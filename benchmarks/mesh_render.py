"""The data renderer: milliseconds a call for batches of views of packed objects.

    python -m benchmarks.mesh_render --objects FILE.npz [--device cuda] [--views 640] [--size 128] [--out results.json]

Views of random objects from random sides under random lights, 2x2 samples a pixel. Times are of whole calls
(benchmarks/timing.py). Before anything is timed, a few views are compared with the CPU's.
"""

import argparse
from pathlib import Path

import torch

from benchmarks.timing import time_calls, write_json
from cam_utils import orbit_cameras
from microdreamer.core.machine import best_device, describe, provenance
from microdreamer.shapes.packed import load_packed
from microdreamer.shapes.render import random_lights, render_views

LARGEST_SHARE_OF_DIFFERENT_BYTES = 1e-3  # those of samples on an edge


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", required=True, nargs="+", help=".npz packs of meshes")
    parser.add_argument("--device", default=best_device().type)
    parser.add_argument("--views", type=int, nargs="+", default=[64, 640])
    parser.add_argument("--size", type=int, nargs="+", default=[128])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    packed = load_packed(options.objects)
    on_device = packed.to(options.device)
    generator = torch.Generator().manual_seed(0)
    rows = []
    header = provenance(options.device)
    print(describe(header))
    print(f"{options.device}: {len(packed)} objects, the largest of {packed.max_faces} faces; {options.repeats} repeats")
    print(f"{'views':>6} {'size':>5} {'median ms':>10} {'least':>8} {'most':>8} {'us a view':>10} {'covered':>8}")
    for size in options.size:
        for views in options.views:
            index = torch.randint(len(packed), (views,), generator=generator)
            angles = torch.rand(2, views, generator=generator)
            cameras = orbit_cameras(-30 + 40 * angles[0], 360 * angles[1], width=size, height=size)
            lights = random_lights(views, generator)
            few = slice(0, 8)
            expected = render_views(packed, index[few], cameras[few], lights[few])
            device_index, device_cameras, device_lights = (part.to(options.device) for part in (index, cameras, lights))

            def call(index=device_index, cameras=device_cameras, lights=device_lights):
                return render_views(on_device, index, cameras, lights)

            pictures = call()
            different = float(((pictures[few].cpu() - expected).abs() > 1.5 / 255).float().mean())
            if different > LARGEST_SHARE_OF_DIFFERENT_BYTES:
                raise SystemExit(f"{different:.1e} of the bytes differ from the CPU's: not timed")
            timing = time_calls(call, options.device, options.repeats)
            row = {"views": views, "size": size, "covered": float(pictures[:, 3].mean()), "different_bytes": different} | timing.as_row()
            rows.append(row)
            figures = f"{timing.median:10.3f} {timing.least:8.3f} {timing.most:8.3f} {1e3 * timing.median / views:10.2f}"
            print(f"{views:6d} {size:5d} {figures} {row['covered']:8.2f}", flush=True)
    write_json(options.out, header | {"rows": rows})


if __name__ == "__main__":
    main()
