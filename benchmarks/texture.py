"""Time of the texture look-up, forward and backward, beside the time to move its bytes.

    python -m benchmarks.texture [--device cuda] [--views 8] [--size 512] [--side 1024] [--cover 0.45 1] [--out results.json]

The scene is a textured ball seen from all around, trilinear, one RGB texture for all views; `cover` is the share of the pixels that it
fills, the others are masked out. Before anything is timed, pictures and gradients are compared with those of the plain-PyTorch twin.
Medians after a warm-up; on a GPU of CUDA graphs of 20 calls, so that launching is not measured. The floor is each input read once and
each result written once (pixels that are masked out not at all), at the bandwidth of copying a large tensor on the same device.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.timing import Timing, bytes_per_millisecond, captured, time_calls, write_json
from microdreamer.core.machine import best_device, describe, provenance
from microdreamer.kernels import extension
from microdreamer.kernels.texture import FILTERS, build_mips, texture

FILTER = "linear-mipmap-linear"
LARGEST_ERROR = 1e-4  # relative L2, of the comparison with the twin
CALLS_PER_GRAPH = 20


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default=best_device().type)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--size", type=int, default=512, help="pixels a side of a view")
    parser.add_argument("--side", type=int, nargs="+", default=[1024], help="texels a side of the texture")
    parser.add_argument("--cover", type=float, nargs="+", default=[0.45, 1.0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args()


def ball(views: int, size: int, cover: float, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """uv [V,h,w,2], uv_da [V,h,w,4] and mask [V,h,w] of a ball of which a disc of `cover` of the picture is seen.

    With `cover` above pi / 4 the disc is larger than the picture.
    """
    radius = size * math.sqrt(cover / math.pi) if cover <= math.pi / 4 else size * math.sqrt(0.5) * 1.05
    place = (torch.arange(size, device=device, dtype=torch.float64) + 0.5 - size / 2) / radius
    x, y = (axis.clone().requires_grad_() for axis in torch.meshgrid(place, place, indexing="xy"))
    mask = x.detach() ** 2 + y.detach() ** 2 < 1
    z = (1 - x * x - y * y).clamp_min(1e-6).sqrt()
    s, t = torch.atan2(x, z) / (2 * math.pi), torch.atan2(y, (x * x + z * z).sqrt()) / math.pi + 0.5
    da = torch.stack([torch.autograd.grad(value.sum(), axis, retain_graph=True)[0] for value in (s, t) for axis in (x, y)], -1) / radius
    turns = torch.arange(views, device=device, dtype=torch.float64)[:, None, None] / views
    uv = torch.stack([s + turns, t.expand(views, -1, -1)], -1).detach() * mask[..., None]
    da = (da * mask[..., None]).expand(views, -1, -1, -1)
    return uv.float(), da.float().contiguous(), mask.expand(views, -1, -1).contiguous()


def timed(call: Callable[[], object], device: str, repeats: int) -> Timing:
    """Of one call; on a GPU, of replays of CALLS_PER_GRAPH calls, as a replay alone takes microseconds to begin."""
    if not device.startswith("cuda"):
        return time_calls(call, device, repeats, warm_up=1)

    def several() -> None:
        for _ in range(CALLS_PER_GRAPH):
            call()

    of_several = time_calls(captured(several, warm_up=1), device, repeats, warm_up=1)
    return Timing(tuple(duration / CALLS_PER_GRAPH for duration in of_several.durations))


def check(device: str) -> None:
    """Raises SystemExit where pictures or gradients of a small case differ from those of the twin."""
    uv, da, mask = ball(2, 96, 0.5, device)
    leaves = [torch.rand(1, 130, 256, 3, device=device), uv, da]
    results = []
    for compiled in (True, False):
        inputs = [leaf.clone().requires_grad_() for leaf in leaves]
        out = texture(*inputs, FILTER, mask=mask, compiled=compiled)
        weight = torch.linspace(-1, 2, out.numel(), device=device).sin().reshape(out.shape)
        results.append([out, *torch.autograd.grad((out * weight).sum(), inputs)])
    for name, ours, twin in zip(("picture", "v_tex", "v_uv", "v_uv_da"), *results, strict=True):
        error = float((ours - twin).detach().norm() / twin.detach().norm())
        if error > LARGEST_ERROR:
            raise SystemExit(f"{name}: differs from the twin's by {error:.1e}: not timed")


def cases(tex: Tensor, uv: Tensor, da: Tensor, mask: Tensor | None) -> dict[str, tuple[Callable[[], object], int]]:
    """What is timed: the call and the bytes of its floor."""
    ops = torch.ops.microdreamer
    _, height, width, channels = tex.shape
    mips = build_mips(tex)
    settings = (height, width, channels, mips.levels, FILTERS.index(FILTER), True)
    shown = int(mask.sum()) if mask is not None else uv[..., 0].numel()
    masks = mask.nbytes if mask is not None else 0
    color, coordinates = 4 * channels * uv[..., 0].numel(), 24 * shown
    v_out = torch.randn(*uv.shape[:3], channels, device=uv.device)
    v_out = v_out if mask is None else v_out * mask[..., None]

    def backward(uv_too: bool, deterministic: bool = False) -> Callable[[], object]:
        wanted = [True, uv_too, uv_too]

        def call() -> Tensor:
            v_texels, _, _ = ops.texture_sample_bwd(v_out, mips.texels, uv, da, mask, *settings, deterministic, wanted)
            return ops.texture_mips_bwd(v_texels, height, width, channels, mips.levels)

        return call

    coordinate_gradients = 24 * uv[..., 0].numel()
    return {
        "build_mips": (lambda: build_mips(tex), tex.nbytes + mips.texels.nbytes),
        "forward": (lambda: texture(tex, uv, da, FILTER, mask=mask), tex.nbytes + coordinates + masks + color),
        "forward of a pyramid": (lambda: texture(mips, uv, da, FILTER, mask=mask), tex.nbytes + coordinates + masks + color),
        "forward, linear": (lambda: texture(tex, uv, mask=mask), tex.nbytes + coordinates // 3 + masks + color),
        "backward to tex": (backward(False), color + coordinates + masks + tex.nbytes),
        "backward to tex, uv, uv_da": (backward(True), color + coordinates + masks + 2 * tex.nbytes + coordinate_gradients),
        "the same, deterministic": (backward(True, True), color + coordinates + masks + 2 * tex.nbytes + coordinate_gradients),
    }


def main() -> None:
    options = arguments()
    if not extension.available(options.device):
        raise SystemExit(f"no compiled {options.device} kernels; {extension.BUILD_HINT}")
    check(options.device)
    bandwidth = bytes_per_millisecond(options.device)
    header = provenance(options.device)
    setting = f"{options.views} views of {options.size}x{options.size}, {options.repeats} repeats"
    print(f"{describe(header)}\n{setting}; copies {bandwidth / 1e6:.0f} GB/s")
    print(f"{'side':>5} {'cover':>5} {'mask':>5} {'':26} {'ms':>8} {'p10':>8} {'p90':>8} {'MB':>7} {'floor ms':>9} {'times':>6}")
    rows = []
    for side in options.side:
        tex = torch.rand(1, side, side, 3, device=options.device)
        for cover in options.cover:
            uv, da, mask = ball(options.views, options.size, cover, options.device)
            for used in (mask, None) if cover < 1 else (None,):
                for what, (call, size) in cases(tex, uv, da, used).items():
                    with torch.no_grad():
                        took = timed(call, options.device, options.repeats)
                    row = {"side": side, "cover": cover, "mask": used is not None, "what": what, "floor_ms": size / bandwidth}
                    rows.append(row | took.as_row())
                    masked = "yes" if used is not None else "no"
                    print(
                        f"{side:5d} {cover:5.2f} {masked:>5} {what:26} {took.median:8.3f} {took.p10:8.3f} {took.p90:8.3f} "
                        f"{size / 1e6:7.1f} {row['floor_ms']:9.3f} {took.median / row['floor_ms']:6.1f}",
                        flush=True,
                    )
    sizes = {"views": options.views, "size": options.size, "copies_gb_s": bandwidth / 1e6}
    write_json(options.out, header | sizes | {"rows": rows})


if __name__ == "__main__":
    main()
