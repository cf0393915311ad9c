"""A sentence (and a picture, for priors that take one) -> views of an object side by side, straight from a prior.

python scripts/t2i.py "an astronaut riding a horse" --prior mvdream --out strip.png
python scripts/t2i.py "a red car" --prior micro
python scripts/t2i.py "a robot" --prior imagedream --image test_data/robot_rgba.png

Options are those of MVDream's own script: --elevation counts degrees above the horizon there, and so it does here.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

from cam_utils import orbit_cameras
from microdreamer.core.errors import one_line
from microdreamer.core.machine import choose_device
from microdreamer.guidance import PRECISIONS, load_prior
from microdreamer.guidance.base import Prior
from microdreamer.guidance.samplers import ddim_sample
from microdreamer.images.writing import write_sheet
from microdreamer.pipeline.pictures import load_picture

SUFFIX = ", 3d asset"  # what MVDream's and ImageDream's captions of 3D objects end with
# prior: (steps, guidance scale, eta, suffix)
DEFAULTS = {"micro": (16, 2.0, 1.0, ""), "mvdream": (50, 7.5, 0.0, SUFFIX), "imagedream": (50, 5.0, 0.0, SUFFIX)}


def sample_views(
    prior: Prior, condition: object, count: int, elevation: float, azimuth_start: float, steps: int, guidance: float, eta: float, seed: int
) -> Tensor:
    """[count,3,R,R] in [0,1], from `azimuth_start` on evenly around the object, `elevation` degrees above the horizon.

    All views are denoised as one group, whatever number the prior was trained with.
    """
    prior.views, prior.azimuth_spacing = count, 360 / count if count > 1 else None
    azimuth = [azimuth_start + 360 * view / count for view in range(count)]
    cameras = orbit_cameras(-elevation, azimuth, width=prior.resolution, height=prior.resolution, device=prior.device)
    levels = prior.schedule.levels(steps)[::-1]
    generator = torch.Generator().manual_seed(seed)
    latents = ddim_sample(prior, prior.latent_shape(count), cameras, condition, levels, guidance, eta, generator)
    with torch.no_grad():
        return prior.decode(latents).clamp(0, 1)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", nargs="?", help="what to draw")
    parser.add_argument("--prior", choices=tuple(DEFAULTS), default="micro")
    parser.add_argument("--prior_path", help="weights: a folder or owner/name@revision")
    parser.add_argument("--image", type=Path, help="picture of the object (micro, imagedream)")
    parser.add_argument("--image_elevation", type=float, default=0.0, help="degrees above the horizon from which it was taken")
    parser.add_argument("--negative", default="", help="what not to draw")
    parser.add_argument("--suffix", help='words added to the prompt (default: ", 3d asset" for mvdream and imagedream)')
    parser.add_argument("--num_frames", type=int, default=4, help="views; the priors were trained on 4")
    parser.add_argument("--elevation", type=float, default=15.0, help="degrees above the horizon")
    parser.add_argument("--azimuth_start", type=float, default=0.0, help="of the first view; 0 is the front")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--eta", type=float, help="0: deterministic, 1: ancestral")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0])
    parser.add_argument("--out", type=Path, default=Path("logs/t2i.png"))
    args = parser.parse_args(arguments)
    steps, guidance, eta, suffix = DEFAULTS[args.prior]
    for name, value in (("steps", steps), ("guidance", guidance), ("eta", eta), ("suffix", suffix)):
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    logging.basicConfig(format="t2i.py: %(message)s")
    try:
        if not args.prompt and not args.image:
            raise ValueError('nothing to draw: pass "a sentence" or --image picture.png')
        if not 1 <= args.num_frames <= 64:
            raise ValueError(f"--num_frames {args.num_frames}: expected 1 to 64")
        picture = load_picture(args.image) if args.image else None
        prior = load_prior(args.prior, args.prior_path, choose_device(args.device), args.precision)
        prompt = args.prompt and args.prompt + args.suffix
        condition = prior.condition(picture, prompt, args.negative, -args.image_elevation)
        views = sample_views(
            prior, condition, args.num_frames, args.elevation, args.azimuth_start, args.steps, args.guidance, args.eta, args.seed
        )
        write_sheet(args.out, views, columns=args.num_frames)
    except (ValueError, OSError) as error:
        print(f"t2i.py: {one_line(error)}", file=sys.stderr)
        return 2
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
