"""Generated grids against the ground truth, grid by grid and set by set: a dictionary, and the same as text."""

from __future__ import annotations

import torch
from torch import Tensor

from microdreamer.voxel_diffusion.metrics import DATA_RANGE, SSIM_WINDOW, THRESHOLD, filled, fit_spheres, iou_matrix, psnr, ssim
from microdreamer.voxel_diffusion.set_metrics import compare_sets, size_histograms

SET_LIMIT = 256  # grids of each set, at most, that are compared as sets
BAR = 40  # characters of the longest bar of a histogram


def evaluate(generated: Tensor, truth: Tensor, batch: int = 32, set_limit: int = SET_LIMIT) -> dict:
    """All figures of generated grids [N,n,n,n] against true ones [M,n,n,n], both 0..1 on one device.

    `nearest`: each generated grid against the true one with the highest IoU. `paired`: the i-th against the i-th, for as many as
    both have, which says little about samples that follow no order. `sets`: at most `set_limit` of each. `sphere_iou`: with the
    sphere of the data's distribution that fits best, which tells something only about models of spheres.
    Raises ValueError for sets of different sizes of grids.
    """
    if generated.shape[1:] != truth.shape[1:]:
        raise ValueError(f"generated grids are {list(generated.shape[1:])}, the ground truth's {list(truth.shape[1:])}")
    similarity = iou_matrix(generated, truth, batch)
    best = similarity.argmax(1)
    count = min(len(generated), len(truth))
    own, reference = generated[:set_limit], truth[:set_limit]
    return {
        "generated": len(generated),
        "ground_truth": len(truth),
        "size": generated.shape[-1],
        "data_range": DATA_RANGE,
        "threshold": THRESHOLD,
        "empty": int((~filled(generated).flatten(1).any(1)).sum()),
        "nearest": _pairs(generated, truth[best], batch),
        "paired": _pairs(generated[:count], truth[:count], batch),
        "sphere_iou": float(fit_spheres(generated)[2].mean()),
        "sets": {"generated": len(own), "references": len(reference), **compare_sets(own, reference)},
        "histograms": size_histograms(generated, truth),
    }


def _pairs(first: Tensor, second: Tensor, batch: int) -> dict[str, float | None]:
    """Means over pairs; PSNR is infinite where a pair is equal, so its mean is told of the others, and how many are equal."""
    ratios = torch.cat([psnr(a, b) for a, b in zip(first.split(batch), second.split(batch), strict=True)])
    different = ratios[ratios.isfinite()]
    result = {
        "psnr": float(different.mean()) if len(different) else None,
        "equal": int(len(ratios) - len(different)),
        "ssim": None,
        "iou": float(torch.cat([iou_matrix(a[None], b[None])[0] for a, b in zip(first, second, strict=True)]).mean()),
    }
    if first.shape[-1] >= SSIM_WINDOW:
        result["ssim"] = float(torch.cat([ssim(a, b) for a, b in zip(first.split(batch), second.split(batch), strict=True)]).mean())
    return result


def report(result: dict, generated: str, truth: str) -> str:
    """The figures as lines of text."""
    lines = [
        f"generated     {generated}: {result['generated']} grids of {result['size']}^3, {result['empty']} of them empty",
        f"ground truth  {truth}: {result['ground_truth']} grids",
        f"data range {result['data_range']:g}, a voxel is filled above {result['threshold']:g}",
        "",
    ]
    for name, title in (("nearest", "against the nearest true grid (by IoU)"), ("paired", "the i-th against the i-th true grid")):
        pair = result[name]
        ratio = "infinite" if pair["psnr"] is None else f"{pair['psnr']:.3f} dB"
        similarity = f"{pair['ssim']:.4f}" if pair["ssim"] is not None else f"none (grids below {SSIM_WINDOW} voxels)"
        lines += [title, f"  PSNR {ratio} ({pair['equal']} equal pairs left out)", f"  SSIM {similarity}", f"  IoU  {pair['iou']:.4f}", ""]
    sets = result["sets"]
    lines += [
        f"sets of {sets['generated']} and {sets['references']}, Chamfer distance of surface voxels in units of the grid's side",
        f"  MMD   {sets['mmd']:.6f}   (lower is better)",
        f"  COV   {sets['cov']:.4f}   (higher is better)",
        f"  1-NNA {sets['one_nna']:.4f}   (0.5 is best)",
        f"IoU with the best sphere of the data's distribution {result['sphere_iou']:.4f}",
    ]
    for name, counts in result["histograms"].items():
        lines += ["", f"{name} in voxels: generated (#) and ground truth (.)"]
        top = max(1, *counts["generated"], *counts["references"])
        for i, (own, reference) in enumerate(zip(counts["generated"], counts["references"], strict=True)):
            span = f"{counts['edges'][i]:10.1f} - {counts['edges'][i + 1]:10.1f}"
            lines += [f"{span} {own:6d} {'#' * round(BAR * own / top)}", f"{'':23} {reference:6d} {'.' * round(BAR * reference / top)}"]
    return "\n".join(lines) + "\n"
