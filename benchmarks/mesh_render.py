"""The data renderer: milliseconds a call for batches of views of packed objects.

    python -m benchmarks.mesh_render --objects FILE.npz [--device cuda] [--views 640] [--size 128] [--out results.json]

Views of random objects from random sides under random lights, 2x2 samples a pixel. Times are medians of whole calls after a
warm-up, by CUDA events on a GPU. Before anything is timed, a few views are compared with the CPU's.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cam_utils import orbit_cameras
from shapes.packed import load_packed
from shapes.render import random_lights, render_views

LARGEST_SHARE_OF_DIFFERENT_BYTES = 1e-3  # those of samples on an edge


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", required=True, nargs="+", help=".npz packs of meshes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--views", type=int, nargs="+", default=[64, 640])
    parser.add_argument("--size", type=int, nargs="+", default=[128])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", help="JSON file to write")
    return parser.parse_args()


def milliseconds(call, device: str, repeats: int) -> list[float]:
    durations = []
    for _ in range(repeats):
        if device.startswith("cuda"):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            call()
            end.record()
            end.synchronize()
            durations.append(begin.elapsed_time(end))
        else:
            started = time.perf_counter()
            call()
            durations.append(1e3 * (time.perf_counter() - started))
    return durations


def main() -> None:
    options = arguments()
    packed = load_packed(options.objects)
    on_device = packed.to(options.device)
    generator = torch.Generator().manual_seed(0)
    rows = []
    print(f"{options.device}: {len(packed)} objects, the largest of {packed.max_faces} faces")
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
            durations = milliseconds(call, options.device, options.repeats)
            row = {"views": views, "size": size, "median_ms": statistics.median(durations), "least_ms": min(durations)}
            row |= {"most_ms": max(durations), "covered": float(pictures[:, 3].mean()), "different_bytes": different}
            rows.append(row)
            timing = f"{row['median_ms']:10.3f} {row['least_ms']:8.3f} {row['most_ms']:8.3f} {1e3 * row['median_ms'] / views:10.2f}"
            print(f"{views:6d} {size:5d} {timing} {row['covered']:8.2f}", flush=True)
    if options.out:
        device = torch.cuda.get_device_name() if options.device.startswith("cuda") else "cpu"
        Path(options.out).write_text(json.dumps({"device": device, "torch": torch.__version__, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
