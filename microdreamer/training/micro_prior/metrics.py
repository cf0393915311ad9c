"""How well the micro prior knows objects: its four views against the truth, each side apart, beside two trivial answers.

python -m microdreamer.training.micro_prior.metrics --objects val.npz [--limit N] [--guidance S] [--out metrics.json]
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from cam_utils import orbit_cameras
from microdreamer.core.machine import best_device
from microdreamer.guidance.micro.prior import MicroPrior
from microdreamer.guidance.samplers import ddim_sample, normal
from microdreamer.metrics.pictures import psnr
from microdreamer.shapes.packed import PackedMeshes, load_packed
from microdreamer.shapes.render import over_white, render_views

SIDES = (0, 90, 180, 270)
ELEVATION_UP = 15.0
STEPS, ETA = 8, 1.0  # of the sampler
FOREGROUND = 0.95  # a pixel with any channel below this is object


def silhouette_iou(estimate: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union of the non-white pixels of pictures [...,3,H,W]."""
    a, b = ((picture < FOREGROUND).any(dim=-3) for picture in (estimate, truth))
    return (a & b).sum(dim=(-2, -1)) / (a | b).sum(dim=(-2, -1)).clamp_min(1)


def true_views(meshes: PackedMeshes, index: int, resolution: int, device: torch.device | str, up: float = ELEVATION_UP) -> Tensor:
    """Pictures on white [4,3,R,R] of one object from the four SIDES, in [0,1]."""
    cameras = orbit_cameras([-up] * len(SIDES), list(SIDES), width=resolution, height=resolution, device=device)
    return over_white(render_views(meshes, index, cameras))


@torch.no_grad()
def score_objects(
    prior: MicroPrior,
    meshes: PackedMeshes,
    indices: Sequence[int],
    *,
    steps: int = STEPS,
    guidance_scale: float = 1.0,
    eta: float = ETA,
    prompts: bool = False,
    without_picture: bool = False,
    seed: int = 0,
) -> tuple[dict[str, dict[str, float]], Tensor]:
    """Mean PSNR and silhouette IoU per side of `sampled`, `one_step`, `copy` and `mirrored_copy` answers.

    The input is the view at azimuth 0, 15 degrees above. Returns ({answer: {"psnr_0": dB, ..., "iou_270": ...}}, sampled and true
    views [objects,2,4,3,R,R]).
    """
    device = prior.device
    resolution = prior.resolution
    cameras = orbit_cameras([-ELEVATION_UP] * 4, list(SIDES), width=resolution, height=resolution, device=device)
    levels = prior.schedule.levels(steps)[::-1]
    rows: dict[str, list[Tensor]] = {name: [] for name in ("sampled", "one_step", "copy", "mirrored_copy")}
    pictures = []
    for index in indices:
        truth = true_views(meshes, index, resolution, device)
        picture = torch.cat([truth[0], torch.ones_like(truth[0, :1])])
        prompt = meshes.captions[index][0] if prompts or without_picture else None
        condition = prior.condition(None if without_picture else picture, prompt, elevation=-ELEVATION_UP)
        generator = torch.Generator().manual_seed(seed + index)
        noise = normal(prior.latent_shape(len(SIDES)), generator, device)
        latents = ddim_sample(prior, noise, cameras, condition, levels, guidance_scale, eta, generator)
        answers = {
            "sampled": prior.decode(latents),
            "one_step": prior.decode(prior.predict_clean(noise, levels[0], cameras, condition, 1.0)),
            "copy": truth[:1].expand_as(truth),
            "mirrored_copy": torch.stack([truth[0], truth[0], truth[0].flip(-1), truth[0]]),
        }
        for name, answer in answers.items():
            answer = answer.clamp(0, 1)
            rows[name].append(torch.stack([psnr(answer, truth), silhouette_iou(answer, truth)]).cpu())
        pictures.append(torch.stack([answers["sampled"].clamp(0, 1), truth]).cpu())
    table = {}
    for name, values in rows.items():
        mean = torch.stack(values).mean(dim=0)
        table[name] = {f"{kind}_{side}": float(mean[k, s]) for k, kind in enumerate(("psnr", "iou")) for s, side in enumerate(SIDES)}
    return table, torch.stack(pictures)


def sides_line(table: dict[str, dict[str, float]]) -> str:
    """One line per answer: input view, the two sides' mean, the back."""
    lines = []
    for name, row in table.items():
        sides = [(row[f"{kind}_90"] + row[f"{kind}_270"]) / 2 for kind in ("psnr", "iou")]
        lines.append(
            f"{name:>14}: input {row['psnr_0']:.2f} dB, sides {sides[0]:.2f} dB IoU {sides[1]:.3f}, "
            f"back {row['psnr_180']:.2f} dB IoU {row['iou_180']:.3f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", nargs="+", type=Path, required=True, help="packed .npz files")
    parser.add_argument("--limit", type=int, help="the first N objects only")
    parser.add_argument("--weights", type=Path, help="folder of the prior; default: the shipped one")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--eta", type=float, default=ETA)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # captions hold words that the prior does not know
    device = best_device().type
    prior, meshes = MicroPrior.load(args.weights, device), load_packed(args.objects).to(device)
    indices = range(min(args.limit or len(meshes), len(meshes)))
    results = {"objects": len(indices), "steps": args.steps, "eta": args.eta, "input_elevation_up": ELEVATION_UP}
    for guidance in args.guidance:
        table, _ = score_objects(prior, meshes, indices, steps=args.steps, guidance_scale=guidance, eta=args.eta)
        results[f"guidance {guidance:g}"] = table
        print(f"{len(indices)} objects, guidance {guidance:g}\n{sides_line(table)}", flush=True)
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
