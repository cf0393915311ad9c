"""How well the shapes that a network makes of sentences show those sentences: CLIP's similarity and recall, or a diffusion prior's.

python -m evaluation.amortized --result_dir DIR                  recall by the micro prior, which ships
python -m evaluation.amortized --result_dir DIR --clip FOLDER    CLIP's similarity and recall, as ScaleDreamer measures them

DIR holds a folder of pictures for each prompt, as `launch.py --test` of a run on a prompt library writes them: frames of a film around the
object, alone or with other tiles to their right. The table goes to the standard output, everything else to a JSON file.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cam_utils import Cameras, orbit_cameras
from microdreamer.core.command import Parser, exit_code
from microdreamer.core.errors import user_errors
from microdreamer.core.files import try_writing, user_path
from microdreamer.core.machine import choose_device, provenance
from microdreamer.evaluation import denoising_recall
from microdreamer.evaluation.clip_similarity import Clip
from microdreamer.guidance import PRIORS, load_prior
from microdreamer.guidance.base import Prior
from microdreamer.images.reading import read_image
from microdreamer.pipeline.launch.result_folder import PROMPTS, frames_of, read_prompts, read_record, rendered, text_of, write_json
from microdreamer.pipeline.terminal import Steps

log = logging.getLogger(__name__)

PICTURES_PER_CALL = 64  # of CLIP
READERS = 8  # threads
CANDIDATES, LEVELS, DRAWS, GROUPS, BATCH = 64, 4, 1, 2, 16
CAMERA = {"elevation": 15.0, "camera_distance": 2.0, "fovy": 49.1}  # of films whose record does not say: degrees above, distance, degrees
WORST = 5
SMALLER = "lower --batch"


class Renders(NamedTuple):
    """The pictures of one sentence. folder: its name; text: the sentence as the name has it; prompt: as prompts.json has it, or None."""

    folder: str
    text: str
    prompt: str | None
    frames: list[Path]


def renders_of(folder: Path) -> list[Renders]:
    """What is to be measured. Raises ValueError or OSError where there is nothing, or prompts.json does not fit."""
    prompts, found = read_prompts(folder), []
    for inner in rendered(folder):
        frames = frames_of(inner)
        if not frames:
            raise ValueError(f"{inner}: no pictures there; render them again or remove the folder")
        if prompts is not None and inner.name not in prompts:
            raise ValueError(f"{folder / PROMPTS}: does not say what the prompt of {inner.name} is; remove that folder or mend the file")
        found.append(Renders(inner.name, text_of(inner.name), prompts and prompts[inner.name], frames))
    if prompts and len(found) < len(prompts):
        log.warning("%s: %d of %d prompts have no renders yet; the others are measured", folder, len(prompts) - len(found), len(prompts))
    return found


def read_frame(path: Path, size: int) -> Tensor:
    """The leftmost square tile [3,size,size] in [0,1] of a picture; resized linearly, in steps of 1/255. Raises as `read_image` does."""
    picture = read_image(path).convert("RGB")
    side = picture.height
    if picture.width < side:
        raise ValueError(f"{path}: expected a square picture, or tiles beside each other, got {picture.width}x{side}")
    tile = picture.crop((0, 0, side, side)).resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(tile)).permute(2, 0, 1).float() / 255


def read_frames(paths: Sequence[Path], size: int) -> Tensor:
    """`read_frame` of each, [N,3,size,size]; several at a time, as unpacking them takes longer than a GPU takes to look at them."""
    with ThreadPoolExecutor(READERS) as readers:
        return torch.stack(list(readers.map(lambda path: read_frame(path, size), paths)))


# ---- CLIP ----


def clip_scores(pictures: Tensor, texts: Tensor, right: int) -> tuple[float, float]:
    """(similarity, recall@1) of pictures' vectors [N,E] to those of sentences [P,E], of which number `right` is theirs.

    Means over pictures of the cosine to their sentence, and of whether no other sentence is nearer.
    """
    cosines = F.normalize(pictures, dim=-1) @ F.normalize(texts, dim=-1).T
    return float(cosines[:, right].mean()), float((cosines.argmax(1) == right).float().mean())


def by_clip(clip: Clip, renders: Sequence[Renders]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Means over sentences by how these are told to CLIP, and each folder's values.

    specified: as ScaleDreamer's evaluation does, the sentence is read back from the folder's name; corrected: the sentence itself, where
    prompts.json has it. All sentences that have renders are candidates. Pictures are held a few at a time.
    """
    told = {"specified": [one.text for one in renders]}
    if all(one.prompt is not None for one in renders):
        told["corrected"] = [str(one.prompt) for one in renders]
    texts = {name: clip.embed_sentences(sentences) for name, sentences in told.items()}
    each: dict[str, dict[str, Any]] = {}
    steps = Steps("CLIP", len(renders))
    for index, one in enumerate(renders):
        pictures = torch.cat([clip.embed_pictures(chunk) for chunk in _chunks(one.frames, clip.picture_size)])
        scores = {name: clip_scores(pictures, vectors, index) for name, vectors in texts.items()}
        each[one.folder] = {name: {"similarity": similarity, "recall_at_1": recall} for name, (similarity, recall) in scores.items()}
        steps.step()
    count = len(renders)
    means = {
        name: {
            "similarity": sum(row[name]["similarity"] for row in each.values()) / count,
            "recall_at_1": sum(row[name]["recall_at_1"] for row in each.values()) / count,
            "candidates": count,
            "chance": 1 / count,
        }
        for name in told
    }
    return means, each


def _chunks(paths: Sequence[Path], size: int) -> Iterator[Tensor]:
    for first in range(0, len(paths), PICTURES_PER_CALL):
        yield read_frames(paths[first : first + PICTURES_PER_CALL], size)


# ---- A diffusion prior ----


class PriorSettings(NamedTuple):
    """How much is measured with a prior: see the command's options of these names."""

    candidates: int = CANDIDATES
    groups: int = GROUPS
    levels: int = LEVELS
    draws: int = DRAWS
    batch: int = BATCH
    seed: int = 0


USUAL = PriorSettings()


def by_prior(
    prior: Prior, renders: Sequence[Renders], camera: dict[str, float], settings: PriorSettings = USUAL
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Means over sentences, and each folder's values, of `denoising_recall`.

    camera: see CAMERA. Raises ValueError for a sentence that the prior knows no word of, and for films that it cannot be shown.
    """
    sentences = {one.folder: one.text if one.prompt is None else one.prompt for one in renders}
    frames = {one.folder: one.frames for one in renders}
    if len(sentences) < 2:
        raise ValueError("recall compares a prompt with others: expected the renders of at least 2 prompts, got 1")
    levels = denoising_recall.levels_of(prior, settings.levels)
    blocks = denoising_recall.blocks_of(list(sentences), settings.candidates, settings.seed)
    answers: dict[str, denoising_recall.Answer] = {}
    steps = Steps(f"{prior.name} prior", sum(len(candidates) for _, candidates in blocks))
    for asked, candidates in blocks:
        conditions = denoising_recall.conditions_of(prior, [sentences[name] for name in candidates], settings.batch)
        rows = []
        for name in candidates:
            pictures, cameras = _views(prior, frames[name], camera, settings.groups)
            draws = torch.Generator().manual_seed(settings.seed)
            rows.append(denoising_recall.candidate_losses(prior, pictures, cameras, conditions, levels, settings.draws, draws))
            steps.step()
        answers |= zip(asked, denoising_recall.answers_of(torch.stack(rows), len(asked)), strict=True)
    means = denoising_recall.summary_of(answers, len(blocks[0][1])) | {"levels": levels}
    return means, {name: _numbers(answers[name]) for name in sentences}


def _views(prior: Prior, frames: Sequence[Path], camera: dict[str, float], groups: int) -> tuple[Tensor, Cameras]:
    """Pictures [V,3,R,R] of a film's frames that the prior looks at together, `groups` times, and where they were taken from."""
    numbers = [number for group in denoising_recall.group_frames(len(frames), prior.views, groups) for number in group]
    size = prior.resolution
    cameras = orbit_cameras(
        -camera["elevation"],
        [360.0 * number / len(frames) for number in numbers],
        camera["camera_distance"],
        fov_y=camera["fovy"],
        width=size,
        height=size,
        device=prior.device,
    )
    return read_frames([frames[number] for number in numbers], size), cameras


def _numbers(answer: denoising_recall.Answer) -> dict[str, Any]:
    return answer._asdict() | {"place": answer.place._asdict(), "calibrated": answer.calibrated._asdict()}


def camera_of(record: dict[str, Any], given: argparse.Namespace) -> dict[str, float]:
    """Where the film's cameras stood: as the words say, else the record, else the usual place."""
    found = {}
    for name, usual in CAMERA.items():
        value = getattr(given, name) if getattr(given, name) is not None else record.get(name, usual)
        if not isinstance(value, int | float):
            raise ValueError(f"record.json: {name}: expected a number, got {value!r}; mend it, or pass --{name}")
        found[name] = float(value)
    return found


# ---- The command ----


def main(arguments: Sequence[str] | None = None, program: str = "evaluation.amortized") -> int:
    """Exit code 2 and one line for anything that the user can mend."""
    return exit_code(program, lambda: _evaluate(sys.argv[1:] if arguments is None else arguments, program), SMALLER)


def _evaluate(arguments: Sequence[str], program: str) -> int:
    args = _parser(program).parse_args(list(arguments))
    folder = user_path(args.result_dir)
    out = folder / "evaluation.json" if args.out is None else user_path(args.out)
    device = choose_device(args.device, "--device ")
    with user_errors():
        renders = renders_of(folder)
        record = read_record(folder)
        camera = camera_of(record, args)
        try_writing(out)
        found: dict[str, Any] = {
            "result_dir": str(folder),
            "prompts": len(renders),
            "frames": sum(len(one.frames) for one in renders),
            "record": record,
            "provenance": provenance(device),
        }
        each: dict[str, dict[str, Any]] = {one.folder: {"prompt": one.prompt, "text": one.text} for one in renders}
        if args.clip is not None:
            clip = Clip(user_path(args.clip), device)
            means, rows = by_clip(clip, renders)
            found["clip"] = {"model": str(args.clip)} | means
            for name, row in rows.items():
                each[name]["clip"] = row
        chosen = args.prior or ("micro" if args.clip is None else None)
        if chosen is not None:
            prior = load_prior(chosen, args.prior_path, device)
            settings = PriorSettings(args.candidates, args.groups, args.levels, args.draws, args.batch, args.seed)
            means, rows = by_prior(prior, renders, camera, settings)
            found["prior"] = {"model": chosen} | settings._asdict() | means | {"camera": camera}
            for name, row in rows.items():
                each[name]["prior"] = row
        found["each"] = each
        write_json(out, found)
    print(table(found))
    print(f"wrote {out}", file=sys.stderr)
    return 0


def _parser(program: str) -> Parser:
    parser = Parser(prog=program, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--result_dir", required=True, metavar="DIR", help="folder of renders, a folder for each prompt")
    parser.add_argument(
        "--clip", metavar="FOLDER", help="a CLIP in the layout of transformers or OpenCLIP (published: clip-vit-large-patch14)"
    )
    able = [name for name, accepts in PRIORS.items() if "prompt" in accepts]
    parser.add_argument(
        "--prior", choices=able, help="diffusion prior that says which prompt renders are of; default: micro without --clip"
    )
    parser.add_argument("--prior_path", metavar="FOLDER", help="its weights; default: those that ship or were downloaded")
    counts = {
        "candidates": (CANDIDATES, "prompts that the prior chooses among"),
        "groups": (GROUPS, "sets of views of each object that it is shown"),
        "levels": (LEVELS, "levels of noise"),
        "draws": (DRAWS, "draws of noise at each"),
        "batch": (BATCH, "candidates of one call of the prior"),
    }
    for name, (default, about) in counts.items():
        parser.add_argument(
            f"--{name}", type=_count(1 if name != "candidates" else 2), default=default, help=f"{about} (default {default})"
        )
    parser.add_argument("--seed", type=_count(0), default=0, help="of the noise and of who is compared with whom")
    for name, about in (("elevation", "degrees above the horizon"), ("camera_distance", "distance"), ("fovy", "vertical degrees")):
        parser.add_argument(
            f"--{name}", type=float, help=f"of the film's cameras, {about} (default: as record.json says, else {CAMERA[name]:g})"
        )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto takes CUDA where there is one")
    parser.add_argument("--out", metavar="FILE", help="JSON of everything; default: evaluation.json in DIR")
    return parser


def _count(least: int) -> Any:
    def count(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least {least}")
        return value

    return count


def table(found: dict[str, Any]) -> str:
    """The means as Markdown, with what chance would give, and the prompts that do worst."""
    rows = []
    for name, about in (("specified", "sentence from the folder's name"), ("corrected", "true sentence")):
        if row := found.get("clip", {}).get(name):
            measured = (f"{row['similarity']:.4f}", f"{row['recall_at_1']:.4f}", "-")
            rows.append((f"CLIP, {about}", *measured, row["candidates"], f"{row['chance']:.4f}"))
    if row := found.get("prior"):
        for name in ("denoising", "calibrated"):
            rank = f"{row[name]['mean_rank']:.2f} (chance {row['chance_rank']:.1f})"
            measured = ("-", f"{row[name]['recall_at_1']:.4f}", rank)
            rows.append((f"{row['model']} prior, {name}", *measured, row["candidates"], f"{row['chance']:.4f}"))
    heading = ("measure", "similarity", "recall@1", "mean rank", "candidates", "recall by chance")
    parts = [f"{found['prompts']} prompts, {found['frames']} pictures; means over prompts.", _markdown(heading, rows)]
    if "prior" in found:
        ranks = {name: row["prior"]["calibrated"]["rank"] for name, row in found["each"].items()}
        worst = sorted(ranks, key=lambda name: (-ranks[name], name))[:WORST]
        parts += ["Last by rank:", _markdown(("prompt", "rank"), [(_told(found["each"][name]), f"{ranks[name]:g}") for name in worst])]
    else:
        kind = "corrected" if "corrected" in found["clip"] else "specified"
        worst = sorted(found["each"].items(), key=lambda item: (item[1]["clip"][kind]["similarity"], item[0]))[:WORST]
        parts += ["Last by similarity:"]
        parts += [_markdown(("prompt", "similarity"), [(_told(row), f"{row['clip'][kind]['similarity']:.4f}") for _, row in worst])]
    return "\n\n".join(parts)


def _told(row: dict[str, Any]) -> str:
    text = row["text"] if row["prompt"] is None else row["prompt"]
    return text.replace("|", "\\|")


def _markdown(heading: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in [heading, ["---"] * len(heading), *rows])


if __name__ == "__main__":
    sys.exit(main(program="microdreamer.evaluation.amortized"))
