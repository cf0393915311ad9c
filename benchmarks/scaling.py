"""How the Gaussian rasteriser's time and memory grow with the number of Gaussians, the resolution and the number of views.

    python -m benchmarks.scaling [--device cuda] [--out results.json] [--plot docs/images/scaling.png]

Forward and backward pass. One factor is varied at a time, the others stay at the centre: 5000 Gaussians, 256x256 pixels, 7 views,
those of a reconstruction. The scene is the ball a reconstruction starts from, and its Gaussians shrink as the cube root of their number
grows, as they do when a scene is told in more of them: the ball covers the same part of the picture throughout, and what grows
with N are the splats that a pixel goes through (about as the cube root) and the splats to sort.

Before anything is timed the op is compared with its plain-PyTorch twin on a small scene (picture 1e-4, gradients 1e-3 relative L2), and
where gsplat is installed, its picture and gradients with ours on each scene that is timed; as splats end elsewhere there (see
benchmarks/gaussian_raster.py), up to 0.05 of the picture and 0.1 relative L2 of a gradient pass, and a row beyond that is not timed.

Times are medians of single iterations after a warm-up (benchmarks/timing.py); "graph" replays forward and backward captured as one
CUDA graph. Memory is what an iteration takes beyond the scene. The floor reads and writes each parameter, gradient and pixel as often as
nothing can avoid, at the speed of copying on this device: parameters read by either pass, their gradients written, three
channels of picture and as many of its gradient.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks.gaussian_raster import ball_of_gaussians, checked_twin, difference, gsplat_step, least_bytes, our_step, ring, worst_gradient
from benchmarks.timing import bytes_per_millisecond, captured, peak_mib, time_calls, write_json
from microdreamer.core.files import atomic_write
from microdreamer.core.machine import best_device, describe, provenance
from microdreamer.kernels import extension

CENTRE = {"gaussians": 5000, "size": 256, "views": 7}
VALUES = {
    "cuda": {
        "gaussians": [1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000],
        "size": [64, 128, 256, 512],
        "views": [1, 2, 4, 8, 16, 32],
    },
    "cpu": {"gaussians": [1000, 3000, 10_000, 30_000, 100_000], "size": [64, 128, 256], "views": [1, 2, 4, 8]},
}
LABELS = {"gaussians": "Gaussians", "size": "pixels a side", "views": "views"}
OURS, GRAPH, GSPLAT, FLOOR = "ours", "ours, CUDA graph", "gsplat", "floor"
LARGEST_PICTURE_DIFFERENCE, LARGEST_GRADIENT_DIFFERENCE = 0.05, 0.1  # from gsplat
WARM_UPS = 5


def settings(values: dict[str, list[int]], centre: dict[str, int]) -> list[tuple[str, dict[str, int]]]:
    """(factor that varies, setting) of every scene; the centre is part of each series."""
    return [(factor, centre | {factor: value}) for factor in values for value in sorted({*values[factor], centre[factor]})]


def checked_gsplat(ours: Callable, theirs: Callable, leaves: dict) -> dict:
    """What `difference` finds. Raises RuntimeError where it is more than how splats end can explain."""
    found = difference(ours, theirs, leaves)
    if not (found["image"] <= LARGEST_PICTURE_DIFFERENCE and worst_gradient(found) <= LARGEST_GRADIENT_DIFFERENCE):
        raise RuntimeError(f"picture differs by {found['image']:.1e}, gradients by {worst_gradient(found):.1e}: not timed")
    return found


def measure(setting: dict[str, int], device: str, peers: list[str], repeats: int, bandwidth: float) -> Iterator[dict]:
    """One row a rasteriser, timed or with the reason why not, then one of the floor."""
    count, views, size = setting["gaussians"], setting["views"], setting["size"]
    leaves, cameras = ball_of_gaussians(count, device), ring(views, size, device)
    weight = torch.randn(views, 3, size, size, generator=torch.Generator().manual_seed(1)).to(device)
    ours = our_step(leaves, cameras, weight, compiled=True)
    for name in peers:
        row: dict = {"what": name}
        try:
            if name == GSPLAT:
                step = gsplat_step(leaves, cameras, weight)
                row["difference"] = checked_gsplat(ours, step, leaves)
            else:
                step = captured(ours) if name == GRAPH else ours
            row |= time_calls(step, device, repeats, warm_up=WARM_UPS if device == "cuda" else 1).as_row()
            if name != GRAPH:  # whose memory was taken when it was captured
                row["peak_mib"] = peak_mib(step, device)
        except Exception as error:  # one that runs out of memory or fails must not cost the other rows
            row["failed"] = f"{type(error).__name__}: {error}".splitlines()[0]
        yield setting | row
    yield setting | {"what": FLOOR, "median_ms": least_bytes(leaves, weight) / bandwidth}


def line(row: dict) -> str:
    head = f"{row['gaussians']:9d} {row['size']:5d} {row['views']:5d}  {row['what']:17}"
    if "failed" in row:
        return f"{head} not timed: {row['failed']}"
    if row["what"] == FLOOR:
        return f"{head} {row['median_ms']:10.4f}"
    memory = "-" if row.get("peak_mib") is None else f"{row['peak_mib']:.1f}"
    figures = f"{row['median_ms']:10.3f} {row['p10_ms']:9.3f} {row['p90_ms']:9.3f} {row['repeats']:6d} {memory:>10}"
    return (
        head
        + " "
        + figures
        + (f"  {row['difference']['image']:.1e}, {worst_gradient(row['difference']):.1e}" if "difference" in row else "")
    )


def curves(rows: list[dict], factor: str, figure: str) -> dict[str, list[tuple[float, float]]]:
    """(factor, figure) of the rows in which the factor varies, by what was measured; none where no row has the figure."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row["factor"] == factor and row.get(figure):
            lines.setdefault(row["what"], []).append((row[factor], row[figure]))
    return lines


def draw(path: Path, title: str, rows: list[dict], factors: list[str]) -> None:
    """Milliseconds and MiB over each factor, on logarithmic axes, as one PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = [
        (factor, unit, curves(rows, factor, figure)) for figure, unit in (("median_ms", "ms"), ("peak_mib", "MiB")) for factor in factors
    ]
    found = [panel for panel in found if panel[2]]
    columns = len(factors)
    figure, axes = pyplot.subplots(
        -(-len(found) // columns), columns, figsize=(4 * columns, 3.2 * -(-len(found) // columns)), squeeze=False
    )
    for axis in axes.flat[len(found) :]:
        axis.axis("off")
    for axis, (factor, unit, lines) in zip(axes.flat, found, strict=False):
        for name, points in lines.items():
            axis.loglog(*zip(*sorted(points), strict=True), marker="o", label=name)
        axis.set_xlabel(LABELS[factor])
        axis.set_ylabel(unit)
        axis.grid(True, alpha=0.3)
        axis.legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default=best_device().type, choices=["cpu", "cuda"])
    parser.add_argument("--gaussians", type=int, nargs="*", help="numbers of Gaussians beside the centre's")
    parser.add_argument("--size", type=int, nargs="*", help="pixels a side beside the centre's")
    parser.add_argument("--views", type=int, nargs="*", help="numbers of views beside the centre's")
    parser.add_argument("--centre", type=int, nargs=3, metavar=("N", "SIZE", "VIEWS"), default=list(CENTRE.values()))
    parser.add_argument("--repeats", type=int, help="timed iterations of a row (default: 50 on a GPU, 3 on the CPU)")
    parser.add_argument("--out", type=Path, help="also write JSON here")
    parser.add_argument("--plot", type=Path, help="also draw a PNG here")
    options = parser.parse_args()
    device, on_gpu = options.device, options.device == "cuda"
    if not extension.available(device):
        raise SystemExit(f"no compiled {device} rasteriser; {extension.BUILD_HINT}")
    centre = dict(zip(CENTRE, options.centre, strict=True))
    given = {factor: getattr(options, factor) for factor in CENTRE}
    values = {factor: VALUES[device][factor] if given[factor] is None else given[factor] for factor in CENTRE}
    header = provenance(device, "gsplat")
    bandwidth = bytes_per_millisecond(device)
    print(f"{describe(header)}\nGaussian rasteriser, forward + backward; copies {bandwidth / 1e6:.0f} GB/s")
    twin = checked_twin(device)
    print(f"op against twin (400 Gaussians, 2 views): image {twin['image']:.1e}, worst gradient {worst_gradient(twin):.1e}")
    peers = [OURS, GRAPH, GSPLAT] if on_gpu else [OURS]
    if on_gpu and header["gsplat"] == "not installed":
        peers.remove(GSPLAT)
        print("gsplat is not installed: no rows of it")
    titles = f"{'median ms':>10} {'p10':>9} {'p90':>9} {'calls':>6} {'peak MiB':>10}  differences of picture, gradients"
    print(f"{'Gaussians':>9} {'size':>5} {'views':>5}  {'':17} {titles}")
    result = header | {"centre": centre, "copies_gb_s": bandwidth / 1e6, "twin": twin, "rows": []}
    for factor, setting in settings(values, centre):
        for row in measure(setting, device, peers, options.repeats or (50 if on_gpu else 3), bandwidth):
            result["rows"].append({"factor": factor} | row)
            print(line(row), flush=True)
            write_json(options.out, result)  # after every row: what is done stays, should a peer take the process down
    if options.plot:
        fixed = ", ".join(f"{value} {LABELS[factor]}" for factor, value in centre.items())
        title = f"Gaussian rasteriser, forward + backward, {header['device']}, around {fixed}"
        draw(options.plot, title, result["rows"], list(values))


if __name__ == "__main__":
    main()
