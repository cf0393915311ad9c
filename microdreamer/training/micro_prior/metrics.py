"""How well the micro prior knows objects: its four views against the truth, each side apart, beside two trivial answers.

python -m microdreamer.training.micro_prior.metrics --objects val.npz [--limit N] [--guidance S] [--references 1 4] [--out metrics.json]
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from cam_utils import Cameras, orbit_cameras
from microdreamer.core.files import atomic_write
from microdreamer.core.machine import best_device
from microdreamer.guidance.micro.network import Surfaces
from microdreamer.guidance.micro.pixel_gaussians import draw, gaussians_of
from microdreamer.guidance.micro.prior import MicroPrior
from microdreamer.guidance.names import FULL_NOISE
from microdreamer.guidance.samplers import ddim_sample, normal
from microdreamer.images.writing import write_sheet
from microdreamer.metrics.pictures import MASK_LEVEL, mask_iou, psnr
from microdreamer.shapes.geometry import PlacePainter, camera_depth, render_albedo
from microdreamer.shapes.packed import PackedMeshes, load_packed
from microdreamer.shapes.render import over_white, render_views

SIDES = (0, 90, 180, 270)
ELEVATION_UP = 15.0
FREE_SIDES, FREE_ELEVATIONS_UP = (45, 135, 225, 315), (30, 0, 30, 0)  # no view's: from there what is read off the views is looked at
FURTHER = (120, 240, 180)  # where further pictures are taken from, in this order
STEPS, ETA = 8, 1.0  # of the sampler
SURFACE_SCORES = ("depth_error", "coverage_iou", "albedo_psnr")  # in units of the scene where there is an object; at a half; on white
FOREGROUND = 0.95  # a pixel with any channel below this is object


def silhouette_iou(estimate: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union of the non-white pixels of pictures [...,3,H,W]."""
    a, b = ((picture < FOREGROUND).any(dim=-3) for picture in (estimate, truth))
    return (a & b).sum(dim=(-2, -1)) / (a | b).sum(dim=(-2, -1)).clamp_min(1)


def true_views(
    meshes: PackedMeshes,
    index: int,
    resolution: int,
    device: torch.device | str,
    up: float = ELEVATION_UP,
    sides: Sequence[float] = SIDES,
) -> Tensor:
    """Pictures on white [S,3,R,R] of one object from these sides, in [0,1]."""
    cameras = orbit_cameras([-up] * len(sides), list(sides), width=resolution, height=resolution, device=device)
    return over_white(render_views(meshes, index, cameras))


def _opaque(picture: Tensor) -> Tensor:
    """RGBA [4,R,R] of a picture on white."""
    return torch.cat([picture, torch.ones_like(picture[:1])])


class TrueSurfaces:
    """Depth, coverage and colours without light of packed objects, as the SIDES of them show."""

    def __init__(self, meshes: PackedMeshes, cameras: Cameras):
        self.meshes, self.cameras, self.size = meshes, cameras, cameras.width
        self.pose, self.intrinsics = cameras.world_to_camera[:, :3].float().contiguous(), cameras.intrinsics.float()
        self.painter = PlacePainter(meshes)

    def errors(self, told: Surfaces, index: int, together: bool = False) -> Tensor:
        """[3, sides] of what is told of object `index`, as SURFACE_SCORES names them; or, pixels of all sides together, [3]."""
        sides, device = len(self.pose), self.pose.device
        view = torch.full((sides,), index, device=device), torch.eye(3, 4, device=device).repeat(sides, 1, 1)
        places, seen = self.painter.render(*view, self.pose, self.intrinsics, self.size)
        albedo = render_albedo(self.meshes, *view, None, self.pose, self.intrinsics, self.size)
        far = (told.depth - camera_depth(places, self.pose)).abs() * seen
        mask, quality = told.coverage > MASK_LEVEL, psnr(told.albedo.clamp(0, 1), over_white(albedo))
        dims = (0, 1, 2, 3) if together else (1, 2, 3)
        depth = far.sum(dim=dims) / seen.sum(dim=dims).clamp_min(1)
        iou = (mask & seen).sum(dim=dims) / (mask | seen).sum(dim=dims).clamp_min(1)
        return torch.stack([depth, iou, quality.mean() if together else quality])

    def free_scores(self, views: Tensor, told: Surfaces, index: int) -> Tensor:
        """PSNR and IoU of coverage [2] of the Gaussians read off views [sides,3,R,R] and what is told of them, from FREE_SIDES."""
        up = [-one for one in FREE_ELEVATIONS_UP]
        seen_from = orbit_cameras(up, list(FREE_SIDES), width=self.size, height=self.size, device=self.meshes.device)
        truth = render_views(self.meshes, index, seen_from)
        batch = Surfaces(told.depth[None], told.coverage[None], told.albedo[None])
        gaussians = gaussians_of(views[None], batch, self.cameras.world_to_camera[None], self.intrinsics[0])
        own = {name: part[0] for name, part in gaussians.items()}
        image, coverage = draw(own, seen_from.world_to_camera, seen_from.intrinsics[0], self.size)
        return torch.stack([psnr(image.clamp(0, 1), over_white(truth)).mean(), mask_iou(coverage, truth[:, 3:]).mean()])


@torch.no_grad()
def score_surfaces(prior: MicroPrior, meshes: PackedMeshes, indices: Sequence[int], seed: int = 0) -> dict[str, dict[str, float]]:
    """How well surfaces are told, from pure noise (`first`) and of true views noised to the last level of sampling (`last`).

    Of the four SIDES: mean error of depth where there is an object, in units of the scene; IoU of coverage; PSNR of albedo on white.
    """
    device, size = prior.device, prior.resolution
    cameras = orbit_cameras([-ELEVATION_UP] * 4, list(SIDES), width=size, height=size, device=device)
    surfaces = TrueSurfaces(meshes, cameras)
    rows: dict[str, list[Tensor]] = {"first": [], "last": []}
    for index in indices:
        truth = true_views(meshes, index, size, device)
        condition = prior.condition(_opaque(truth[0]), elevation=-ELEVATION_UP)
        noise = normal(prior.latent_shape(4), torch.Generator().manual_seed(seed + index), device)
        last = prior.schedule.levels(STEPS)[0]
        for name, t, latents in (("first", prior.schedule.levels(STEPS)[-1], noise), ("last", last, None)):
            if latents is None:
                latents = prior.schedule.add_noise(prior.encode(truth), noise, last)
            _, told = prior.predict_surfaces(latents, t, cameras, condition)
            rows[name].append(surfaces.errors(told, index, together=True).cpu())
    means = {name: torch.stack(values).mean(dim=0).tolist() for name, values in rows.items()}
    return {name: dict(zip(SURFACE_SCORES, values, strict=True)) for name, values in means.items()}


@torch.no_grad()
def score_objects(
    prior: MicroPrior,
    meshes: PackedMeshes,
    indices: Sequence[int],
    *,
    steps: int = STEPS,
    guidance_scale: float = 1.0,
    eta: float = ETA,
    temperature: float = FULL_NOISE,
    prompts: bool = False,
    without_picture: bool = False,
    references: int = 1,
    misjudged: float = 0.0,
    seed: int = 0,
) -> tuple[dict[str, dict[str, float]], Tensor]:
    """Mean PSNR and silhouette IoU per side of `sampled`, `one_step`, `copy` and `mirrored_copy` answers.

    The input is the view at azimuth 0, 15 degrees above, or `references` of them, the further ones from FURTHER; it is taken from
    `misjudged` degrees higher than is told, in which case `copy` is no longer the first of the true views. Returns
    ({answer: {"psnr_0": dB, ..., "iou_270": ...}}, sampled and true views [objects,2,4,3,R,R]). The IoU `iou_...` is that of pixels
    that are not white. Of a prior that tells surfaces the first two answers have SURFACE_SCORES per side beside it, of the last
    step of sampling and of the one step, and `free_psnr` and `free_iou` of the Gaussians that are read off them (FREE_SIDES).
    """
    device = prior.device
    resolution = prior.resolution
    cameras = orbit_cameras([-ELEVATION_UP] * 4, list(SIDES), width=resolution, height=resolution, device=device)
    levels = prior.schedule.levels(steps)[::-1]
    rows: dict[str, list[Tensor]] = {name: [] for name in ("sampled", "one_step", "copy", "mirrored_copy")}
    surfaces = TrueSurfaces(meshes, cameras) if prior.tells_surfaces else None
    free: dict[str, list[Tensor]] = {"sampled": [], "one_step": []}
    pictures = []
    for index in indices:
        truth = true_views(meshes, index, resolution, device)
        picture = truth[0]
        if misjudged:
            (picture,) = true_views(meshes, index, resolution, device, ELEVATION_UP + misjudged, SIDES[:1])
        prompt = meshes.captions[index][0] if prompts or without_picture else None
        condition = prior.condition(None if without_picture else _opaque(picture), prompt, elevation=-ELEVATION_UP)
        if references > 1:
            turns = FURTHER[: references - 1]
            further = true_views(meshes, index, resolution, device, ELEVATION_UP + misjudged, turns)
            others = [(_opaque(view), -ELEVATION_UP, float(turn)) for view, turn in zip(further, turns, strict=True)]
            condition = prior.condition(_opaque(picture), prompt, elevation=-ELEVATION_UP, others=others)
        generator = torch.Generator().manual_seed(seed + index)
        noise = normal(prior.latent_shape(len(SIDES)), generator, device)
        nearly = begin = temperature * noise  # before the last step, which ends at what the prior makes of it
        if steps > 1:
            options = {"end": levels[-1], "temperature": temperature}
            nearly = ddim_sample(prior, begin, cameras, condition, levels[:-1], guidance_scale, eta, generator, **options)
        answers = {
            "sampled": prior.decode(prior.predict_clean(nearly, levels[-1], cameras, condition, guidance_scale)),
            "one_step": prior.decode(prior.predict_clean(noise, levels[0], cameras, condition, 1.0)),
            "copy": picture.expand_as(truth),
            "mirrored_copy": torch.stack([picture, picture, picture.flip(-1), picture]),
        }
        for name, answer in answers.items():
            answer = answer.clamp(0, 1)
            scores = torch.stack([psnr(answer, truth), silhouette_iou(answer, truth)])
            if surfaces and name in ("sampled", "one_step"):
                at = (nearly, levels[-1]) if name == "sampled" else (noise, levels[0])
                _, told = prior.predict_surfaces(*at, cameras, condition)
                scores = torch.cat([scores, surfaces.errors(told, index)])
                free[name].append(surfaces.free_scores(answer, told, index).cpu())
            rows[name].append(scores.cpu())
        pictures.append(torch.stack([answers["sampled"].clamp(0, 1), truth]).cpu())
    table = {}
    for name, values in rows.items():
        mean = torch.stack(values).mean(dim=0)
        kinds = ("psnr", "iou", *SURFACE_SCORES)[: len(mean)]
        table[name] = {f"{kind}_{side}": float(mean[k, s]) for k, kind in enumerate(kinds) for s, side in enumerate(SIDES)}
        if free.get(name):
            table[name] |= dict(zip(("free_psnr", "free_iou"), torch.stack(free[name]).mean(dim=0).tolist(), strict=True))
    return table, torch.stack(pictures)


def sides_line(table: dict[str, dict[str, float]]) -> str:
    """One line per answer: input view, the two sides' mean, the back; then what is told of surfaces, where it is."""
    lines = []
    for name, row in table.items():
        sides = {kind: (row[f"{kind}_90"] + row[f"{kind}_270"]) / 2 for kind in ("psnr", "iou", *SURFACE_SCORES) if f"{kind}_90" in row}
        line = f"{name:>14}: input {row['psnr_0']:.2f} dB, sides {sides['psnr']:.2f} dB IoU {sides['iou']:.3f}, "
        line += f"back {row['psnr_180']:.2f} dB IoU {row['iou_180']:.3f}"
        if "coverage_iou" in sides:
            line += f"; by coverage: sides IoU {sides['coverage_iou']:.3f}, back IoU {row['coverage_iou_180']:.3f}"
            line += f"; sides' depth error {sides['depth_error']:.3f}, albedo {sides['albedo_psnr']:.2f} dB"
            line += f"; read off, free cameras {row['free_psnr']:.2f} dB IoU {row['free_iou']:.3f}"
        lines.append(line)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", nargs="+", type=Path, required=True, help="packed .npz files")
    parser.add_argument("--limit", type=int, help="the first N objects only")
    parser.add_argument("--weights", type=Path, help="folder of the prior; default: the shipped one")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0])
    parser.add_argument("--references", type=int, nargs="+", default=[1], help="numbers of pictures that it is given")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--eta", type=float, default=ETA)
    parser.add_argument("--temperature", type=float, default=FULL_NOISE, help="of the noise that is sampled from")
    parser.add_argument("--misjudged", type=float, default=0.0, help="degrees by which pictures are taken from higher than is told")
    parser.add_argument("--sheet", type=Path, help="PNG with a row for each object: its four sampled views and the true ones")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # captions hold words that the prior does not know
    device = best_device().type
    prior, meshes = MicroPrior.load(args.weights, device), load_packed(args.objects).to(device)
    indices = range(min(args.limit or len(meshes), len(meshes)))
    results = {
        "objects": len(indices),
        "steps": args.steps,
        "eta": args.eta,
        "temperature": args.temperature,
        "misjudged": args.misjudged,
        "input_elevation_up": ELEVATION_UP,
    }

    def write() -> None:
        """What is known so far: a run may be cut."""
        if args.out:
            with atomic_write(args.out) as temporary:
                temporary.write_text(json.dumps(results, indent=1) + "\n")

    for guidance, references in itertools.product(args.guidance, args.references):
        sampler = {"steps": args.steps, "guidance_scale": guidance, "eta": args.eta, "temperature": args.temperature}
        table, pictures = score_objects(prior, meshes, indices, **sampler, references=references, misjudged=args.misjudged)
        name = f"guidance {guidance:g}" + (f", {references} pictures" if references > 1 else "")
        results[name] = table
        print(f"{len(indices)} objects, {name}\n{sides_line(table)}", flush=True)
        if args.sheet and references == args.references[0] and guidance == args.guidance[0]:
            small = F.interpolate(pictures.flatten(0, 2), scale_factor=0.5, mode="area")
            write_sheet(args.sheet, list(small), columns=2 * len(SIDES))
        write()
    if prior.tells_surfaces:
        results["surfaces"] = score_surfaces(prior, meshes, indices)
        print(json.dumps(results["surfaces"]), flush=True)
        write()


if __name__ == "__main__":
    main()
