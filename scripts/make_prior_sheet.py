"""One sheet of what several weights of the micro prior make of the same pictures, or of the same sentences, side by side.

python scripts/make_prior_sheet.py --weights weights/micro_prior FOLDER --pictures *_rgba.png --out pictures.png
python scripts/make_prior_sheet.py --weights weights/micro_prior FOLDER --sentences --out sentences.png

A row for each picture or sentence: the input, then of each weights front, right, back and left as sampling ends (8 steps, eta 1).
The same weights may be named several times, each time with another --temperature.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from cam_utils import orbit_cameras
from microdreamer.core.files import atomic_write
from microdreamer.core.machine import best_device
from microdreamer.guidance.micro.prior import MicroPrior
from microdreamer.guidance.names import FULL_NOISE
from microdreamer.guidance.samplers import ddim_sample, normal
from microdreamer.images.reference import on_white
from microdreamer.images.writing import to_bytes
from microdreamer.pipeline.pictures import load_picture
from microdreamer.training.micro_prior.metrics import ETA, SIDES, STEPS

GAP, TITLE = 8, 14  # px between weights, and above the first row
PICTURE_GUIDANCE, SENTENCE_GUIDANCE = 1.0, 4.0

# The first half is of words that are in the captions of the training objects, the second of words near them.
SENTENCES = (
    "a red car", "a wooden chair", "a blue sofa", "a green tree", "a castle tower", "a yellow school bus", "a white house", "a brown horse",
    "a stone sword", "a robot", "a pink cake", "a wooden barrel", "an orange pumpkin", "a black guitar", "a gray cat", "a rocket ship",
    "a crimson armchair", "a scarlet automobile", "an azure couch", "an emerald bush", "a maroon wardrobe", "a puppy", "a stallion",
    "a kitten", "a violin", "a spooky ghost", "a timber cottage", "a lorry", "a vermilion fire hydrant", "a rusty dagger",
    "a marble fountain", "a tangerine",
)  # fmt: skip


@torch.no_grad()
def sampled(
    prior: MicroPrior, picture: Tensor | None, sentence: str | None, elevation: float, guidance: float, seed: int, temperature: float
) -> Tensor:
    """Four views [4,3,R,R] in [0,1], on the CPU, at azimuths SIDES, from `elevation` in degrees, which is the picture's too."""
    cameras = orbit_cameras([elevation] * 4, list(SIDES), width=prior.resolution, height=prior.resolution, device=prior.device)
    generator = torch.Generator().manual_seed(seed)
    noise = temperature * normal(prior.latent_shape(4), generator, prior.device)
    condition = prior.condition(None if picture is None else picture.to(prior.device), sentence, elevation=elevation)
    levels = prior.schedule.levels(STEPS)[::-1]
    latents = ddim_sample(prior, noise, cameras, condition, levels, guidance, ETA, generator, temperature=temperature)
    return prior.decode(latents).clamp(0, 1).cpu()


def as_image(views: Tensor, size: int) -> Image.Image:
    """Views [V,3,H,W] side by side, each `size` pixels wide."""
    small = F.interpolate(views, (size, size), mode="area") if views.shape[-1] != size else views
    return Image.fromarray(to_bytes(torch.cat(list(small), dim=-1)[None])[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", type=Path, required=True, help="folders of the micro prior")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--pictures", nargs="+", type=Path, help="pictures of single objects")
    given.add_argument("--sentences", nargs="*", help=f"sentences; without any, {len(SENTENCES)} that are always the same")
    parser.add_argument("--guidance", type=float, help=f"default: {PICTURE_GUIDANCE:g} for pictures, {SENTENCE_GUIDANCE:g} for sentences")
    parser.add_argument("--temperature", nargs="+", type=float, default=[FULL_NOISE], help="of the noise; one, or one for each weights")
    parser.add_argument("--elevation", type=float, help="of pictures and views; negative looks from above; default: 0, for sentences -15")
    parser.add_argument("--size", type=int, default=80, help="pixels a view")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default=best_device().type)
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    args = parser.parse_args()
    if len(args.temperature) == 1:
        args.temperature *= len(args.weights)
    if len(args.temperature) != len(args.weights) or not all(0 <= value <= 1 for value in args.temperature):
        parser.error(f"--temperature {args.temperature}: expected one number from 0 to 1, or {len(args.weights)}, one for each weights")
    logging.disable(logging.WARNING)  # some sentences hold words that a prior replaces

    try:
        pictures = [load_picture(path) for path in args.pictures or []]
        priors = [MicroPrior.load(folder, args.device) for folder in args.weights]
    except (OSError, ValueError) as error:
        parser.error(str(error))
    rows = [(picture, None) for picture in pictures] or [(None, sentence) for sentence in args.sentences or SENTENCES]
    guidance = (PICTURE_GUIDANCE if pictures else SENTENCE_GUIDANCE) if args.guidance is None else args.guidance
    elevation = (0.0 if pictures else -15.0) if args.elevation is None else args.elevation
    block = len(SIDES) * args.size
    left = args.size if pictures else 2 * args.size
    sheet = Image.new("RGB", (left + len(priors) * (block + GAP), TITLE + len(rows) * args.size), "white")
    pen = ImageDraw.Draw(sheet)
    for number, folder in enumerate(args.weights):
        pen.text((left + GAP + number * (block + GAP), 1), f"{folder} at {args.temperature[number]:g}", fill="black")
    for row, (picture, sentence) in enumerate(rows):
        top = TITLE + row * args.size
        if picture is not None:
            sheet.paste(as_image(on_white(picture[None]), args.size), (0, top))
        else:
            pen.multiline_text((2, top + args.size // 3), sentence.replace(" ", "\n", 1), fill="black")
        for number, prior in enumerate(priors):
            place = left + GAP + number * (block + GAP), top
            try:
                views = sampled(prior, picture, sentence, elevation, guidance, args.seed + row, args.temperature[number])
            except ValueError:  # none of its words is known
                pen.text((place[0], top + args.size // 3), "refused", fill="black")
                continue
            sheet.paste(as_image(views, args.size), place)
        print(f"{row + 1} of {len(rows)}", flush=True)
    with atomic_write(args.out) as temporary:
        sheet.save(temporary, format="PNG")


if __name__ == "__main__":
    main()
