"""CLIP similarity of results to the pictures or sentences they were made from: eight views at eye level, mean cosine.

python scripts/cal_sim.py logs/ --clip FOLDER [--against prompt] [--out scores.json]

Takes every NAME.json that main.py wrote in the folder, with NAME_model.obj or NAME_model.glb beside it. FOLDER holds a CLIP in
the layout of transformers or of OpenCLIP; MicroDreamer's paper took laion/CLIP-ViT-bigG-14-laion2B-39B-b160k.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

from microdreamer.core.errors import one_line
from microdreamer.core.files import atomic_write
from microdreamer.core.machine import choose_device
from microdreamer.evaluation.clip_similarity import SIZE, Clip, load_mesh, similarity, views_of
from microdreamer.guidance.published.latent import picture_on_white
from microdreamer.pipeline.pictures import load_picture


def reference_of(record: Path, against: str) -> Tensor | str:
    """The picture on white [1,3,S,S] or the sentence that a result was made from. Raises ValueError or OSError in one line."""
    try:
        config = json.loads(record.read_text(encoding="utf-8"))["config"]
        given = {"picture": config["input"], "prompt": config["prompt"]}
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"{record}: not a record of main.py ({error!r})") from error
    if against == "auto":
        against = "picture" if given["picture"] else "prompt"
    if not given[against]:
        raise ValueError(f"{record}: made without a {against}; pass another --against")
    return given[against] if against == "prompt" else picture_on_white(load_picture(given[against]), SIZE)


def mesh_of(record: Path) -> Path:
    """The mesh that `record` is about: NAME_model of stage 1, NAME_refined of stage 2, whose record is NAME_refined.json."""
    candidates = [record.with_name(f"{record.stem}{ending}") for ending in ("_model.obj", "_model.glb", ".obj", ".glb")]
    for path in candidates:
        if path.is_file():
            return path
    raise FileNotFoundError(f"{candidates[0]}: no mesh beside {record.name}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="folder of results, or one NAME.json")
    parser.add_argument("--clip", type=Path, required=True, help="folder of a CLIP")
    parser.add_argument("--against", choices=("auto", "picture", "prompt"), default="auto", help="auto: the picture where there was one")
    parser.add_argument("--out", type=Path, help="JSON of the scores")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(arguments)
    scores: dict[str, float] = {}
    failed = False
    try:
        device = choose_device(args.device)
        records = sorted(args.results.glob("*.json")) if args.results.is_dir() else [args.results]
        if not records:
            raise FileNotFoundError(f"{args.results}: no results there; expected NAME.json as main.py writes it")
        clip = Clip(args.clip, device)
    except (ValueError, OSError) as error:
        print(f"cal_sim.py: {one_line(error)}", file=sys.stderr)
        return 2
    for record in records:
        try:
            scores[record.stem] = similarity(clip, views_of(load_mesh(mesh_of(record), device)), reference_of(record, args.against))
            print(f"{record.stem}: {scores[record.stem]:.4f}")
        except (ValueError, OSError) as error:
            failed = True
            print(f"cal_sim.py: {one_line(error)}", file=sys.stderr)
    if scores:
        spread = statistics.stdev(scores.values()) if len(scores) > 1 else 0.0
        print(f"mean of {len(scores)}: {statistics.mean(scores.values()):.4f} +- {spread:.4f}")
    if args.out and scores:
        with atomic_write(args.out) as temporary:
            temporary.write_text(json.dumps({"clip": str(args.clip), "similarity": scores, "torch": torch.__version__}, indent=1) + "\n")
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
