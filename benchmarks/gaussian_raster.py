"""Time of the rasteriser, forward and backward, beside gsplat where it is installed.

    python -m benchmarks.gaussian_raster [--device cuda] [--gaussians 5000 21500] [--views 7] [--size 256] [--out results.json]

Every row is checked first: our picture and gradients against the plain-PyTorch twin on a small case, gsplat's against
ours on the case that is timed, parameter by parameter. Both ops are told to normalise the quaternions; else our gradient
would have a part along the quaternion too, five times as long as the rest in this scene. What still differs by
definition is where a splat ends: ours fills the 16-pixel tiles that a square of 3 standard deviations touches, as the
published rasteriser does, gsplat's bounds follow each axis and the opacity. The scene is a ball of Gaussians as a
reconstruction starts from one. Times are of single iterations (benchmarks/timing.py); "graph" replays forward and
backward captured as one CUDA graph. The floor moves what an iteration cannot do without (`least_bytes`) at the speed of
copying on this device.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.rows import Bench, Row
from benchmarks.timing import bytes_per_millisecond, captured, time_calls, write_json
from cam_utils import Cameras, orbit_cameras
from microdreamer.core.machine import best_device, describe, provenance
from microdreamer.kernels import extension
from microdreamer.kernels.gaussian_raster import rasterize_gaussians


def ball_of_gaussians(count: int, device: str, seed: int = 0) -> dict[str, Tensor]:
    """Leaves of `rasterize_gaussians`: a ball of radius 0.5 filled evenly, spacing-sized, with some anisotropy and opacity."""
    draw = torch.Generator().manual_seed(seed)
    direction = torch.nn.functional.normalize(torch.randn(count, 3, generator=draw), dim=-1)
    means = 0.5 * direction * torch.rand(count, 1, generator=draw) ** (1 / 3)
    spacing = 0.5 * (4 * math.pi / 3 / count) ** (1 / 3)
    leaves = {
        "means": means,
        "scales": spacing * (0.5 + 0.5 * torch.rand(count, 3, generator=draw)),
        "rotations": torch.nn.functional.normalize(torch.randn(count, 4, generator=draw), dim=-1),
        "opacities": 0.1 + 0.8 * torch.rand(count, generator=draw),
        "colors": torch.rand(count, 3, generator=draw),
    }
    return {name: value.to(device).requires_grad_() for name, value in leaves.items()}


def ring(views: int, size: int, device: str) -> Cameras:
    return orbit_cameras(-10.0, [360.0 * k / views for k in range(views)], width=size, height=size, device=device)


def picture_of(leaves: dict[str, Tensor], cameras: Cameras, background: Tensor, **switches) -> Tensor:
    """All views [V,3,H,W] in one call of the op."""
    return rasterize_gaussians(
        leaves["means"],
        leaves["scales"],
        leaves["rotations"],
        leaves["opacities"],
        colors=leaves["colors"],
        world_to_camera=cameras.world_to_camera,
        intrinsics=cameras.intrinsics,
        width=cameras.width,
        height=cameras.height,
        background=background,
        normalize_rotations=True,
        **switches,
    ).image


def our_step(leaves: dict[str, Tensor], cameras: Cameras, weight: Tensor, **switches) -> Callable[[], Tensor]:
    background = torch.ones(3, device=weight.device)

    def step() -> Tensor:
        image = picture_of(leaves, cameras, background, **switches)
        for leaf in leaves.values():
            leaf.grad = None
        (image * weight).sum().backward()
        return image

    return step


def gsplat_step(leaves: dict[str, Tensor], cameras: Cameras, weight: Tensor) -> Callable[[], Tensor]:
    from gsplat import rasterization

    views = len(cameras)
    intrinsics = torch.zeros(views, 3, 3, device=weight.device)
    for row, (focal, center) in enumerate(((0, 2), (1, 3))):
        intrinsics[:, row, row] = cameras.intrinsics[:, focal]
        intrinsics[:, row, 2] = cameras.intrinsics[:, center]
    intrinsics[:, 2, 2] = 1
    background = torch.ones(views, 3, device=weight.device)
    weight_last = weight.permute(0, 2, 3, 1).contiguous()

    def step() -> Tensor:
        image, _, _ = rasterization(
            leaves["means"],
            leaves["rotations"],
            leaves["scales"],
            leaves["opacities"],
            leaves["colors"],
            cameras.world_to_camera,
            intrinsics,
            cameras.width,
            cameras.height,
            near_plane=0.2,
            backgrounds=background,
            packed=False,
        )
        for leaf in leaves.values():
            leaf.grad = None
        (image * weight_last).sum().backward()
        return image.permute(0, 3, 1, 2)

    return step


def difference(ours: Callable[[], Tensor], other: Callable[[], Tensor], leaves: dict[str, Tensor]) -> dict:
    """How far our step is from another one on the same leaves.

    Returns {"image": largest difference of the pictures, "gradients": {leaf: {"relative_l2": |ours - other| / |other|,
    "norm_ratio": |ours| / |other|}}}.
    """
    picture = ours().detach().clone()
    gradients = {name: leaf.grad.clone() for name, leaf in leaves.items()}
    expected = other().detach()
    compared = {}
    for name, leaf in leaves.items():
        norm = leaf.grad.norm().clamp_min(1e-30)
        compared[name] = {
            "relative_l2": float((gradients[name] - leaf.grad).norm() / norm),
            "norm_ratio": float(gradients[name].norm() / norm),
        }
    return {"image": float((picture - expected).abs().max()), "gradients": compared}


def checked_twin(device: str) -> dict:
    """Differences between the op and its twin on a small scene. Raises RuntimeError if they are too large."""
    leaves, cameras = ball_of_gaussians(400, device), ring(2, 72, device)
    weight = torch.randn(2, 3, 72, 72, generator=torch.Generator().manual_seed(1)).to(device)
    found = difference(our_step(leaves, cameras, weight, compiled=True), our_step(leaves, cameras, weight, compiled=False), leaves)
    if not (found["image"] < 1e-4 and worst_gradient(found) < 1e-3):
        raise RuntimeError(f"op and twin differ: {found}")
    return found


def worst_gradient(found: dict) -> float:
    """The largest relative L2 difference in what `difference` returns."""
    return max(compared["relative_l2"] for compared in found["gradients"].values())


def least_bytes(leaves: dict[str, Tensor], weight: Tensor) -> int:
    """What forward and backward must move: parameters read by either and their gradients written, picture and its gradient."""
    return 3 * sum(leaf.nbytes for leaf in leaves.values()) + 2 * weight.nbytes


def headline(bench: Bench, counts: Sequence[int], views: int, size: int) -> Iterator[Row]:
    """Forward, and forward and backward: launched and, on a GPU, as a CUDA graph. Held to the twin on a small case."""
    checked_twin(bench.device)
    for count in counts:
        leaves, cameras = ball_of_gaussians(count, bench.device), ring(views, size, bench.device)
        weight = torch.randn(views, 3, size, size, generator=torch.Generator().manual_seed(1)).to(bench.device)
        step = our_step(leaves, cameras, weight, compiled=True)
        fixed = {name: leaf.detach() for name, leaf in leaves.items()}
        picture = partial(picture_of, fixed, cameras, torch.ones(3, device=bench.device), compiled=True)
        name = f"Gaussian rasteriser, {count} Gaussians, {views} x {size}^2"
        forward = sum(leaf.nbytes for leaf in fixed.values()) + weight.nbytes
        both = least_bytes(leaves, weight)
        yield bench.row(f"{name}: forward", picture, bytes=forward)
        if bench.on_gpu:
            yield bench.row(f"{name}: forward, graph", captured(picture), bytes=forward)
        yield bench.row(f"{name}: forward and backward", step, bytes=both)
        if bench.on_gpu:
            yield bench.row(f"{name}: forward and backward, graph", captured(step), bytes=both)


def measure(count: int, views: int, size: int, device: str, repeats: int, bandwidth: float) -> Iterator[dict]:
    """Yields one row a rasteriser, timed or with the reason why not. `bandwidth` in bytes per millisecond."""
    leaves, cameras = ball_of_gaussians(count, device), ring(views, size, device)
    weight = torch.randn(views, 3, size, size, generator=torch.Generator().manual_seed(1)).to(device)
    ours = our_step(leaves, cameras, weight, compiled=True)
    cases: list[tuple[str, Callable[[], Callable]]] = [("ours", lambda: ours)]
    if device == "cuda":  # on the CPU every run is deterministic
        cases.append(("ours, deterministic", lambda: our_step(leaves, cameras, weight, compiled=True, deterministic=True)))
        cases.append(("ours, graph", lambda: captured(ours)))
        cases.append(("gsplat", lambda: gsplat_step(leaves, cameras, weight)))
    for name, make in cases:
        floor_ms = least_bytes(leaves, weight) / bandwidth
        row = {"what": name, "gaussians": count, "views": views, "size": size, "floor_ms": floor_ms}
        try:
            step = make()
            if name == "gsplat":
                row["difference"] = difference(ours, step, leaves)
            row |= time_calls(step, device, repeats, warm_up=max(2, repeats // 5)).as_row()
        except Exception as error:  # a peer that is missing or fails must not cost the other rows
            row["failed"] = f"{type(error).__name__}: {error}".splitlines()[0]
        yield row


def print_row(row: dict) -> None:
    head = f"{row['what']:22}{row['gaussians']:>10}{row['views']:>7}{row['size']:>6}"
    if "failed" in row:
        print(f"{head}  not timed: {row['failed']}", flush=True)
        return
    print(f"{head}{row['median_ms']:>11.3f}{row['p10_ms']:>8.3f}{row['p90_ms']:>8.3f}{row['floor_ms']:>9.4f}", flush=True)
    if "difference" in row:
        print(f"    ours against {row['what']}: image differs by up to {row['difference']['image']:.1e}; gradients:")
        for name, compared in row["difference"]["gradients"].items():
            print(f"    {name:>10}: relative L2 {compared['relative_l2']:.1e}, ratio of norms {compared['norm_ratio']:.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default=best_device().type, choices=["cpu", "cuda"])
    parser.add_argument("--gaussians", type=int, nargs="+", default=[5000, 21500])
    parser.add_argument("--views", type=int, default=7)
    parser.add_argument("--size", type=int, default=256, help="pixels a side")
    parser.add_argument("--repeats", type=int, default=None, help="default: 100 on CUDA, 10 on the CPU")
    parser.add_argument("--out", type=Path, help="also write JSON here")
    arguments = parser.parse_args()
    device = arguments.device
    if not extension.available(device):
        raise SystemExit(f"no compiled {device} rasteriser; {extension.BUILD_HINT}")
    repeats = arguments.repeats or (100 if device == "cuda" else 10)
    header = provenance(device, "gsplat")
    bandwidth = bytes_per_millisecond(device)
    print(f"{describe(header)}\nGaussian rasteriser, forward + backward")
    twin = checked_twin(device)
    print(f"op against twin (400 Gaussians, 2 views): image {twin['image']:.1e}, worst gradient {worst_gradient(twin):.1e}")
    print(f"{'':22}{'Gaussians':>10}{'views':>7}{'size':>6}{'median ms':>11}{'p10':>8}{'p90':>8}{'floor':>9}")
    result = header | {"twin": twin, "rows": []}
    for count in arguments.gaussians:
        for row in measure(count, arguments.views, arguments.size, device, repeats, bandwidth):
            result["rows"].append(row)
            print_row(row)
            write_json(arguments.out, result)  # after every row: what is done stays, should a peer take the process down


if __name__ == "__main__":
    main()
