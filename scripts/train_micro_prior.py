"""Train the micro prior on packed objects (or folders of GLB/OBJ files) and procedural shapes.

One GPU:  python scripts/train_micro_prior.py --objects train_0.npz train_1.npz --val val.npz --minutes 60
Several:  torchrun --nproc_per_node 4 scripts/train_micro_prior.py ... --minutes 30
A run that was cut goes on with the same command and --resume.
Fine-tune finished weights by their own samples, seen from free cameras:  ... --start-from FOLDER --unrolled-share 1 --minutes 2.5
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor

from microdreamer.core.machine import best_device
from microdreamer.guidance.micro.network import SLOTS, MultiViewNetwork, NetworkConfig
from microdreamer.guidance.micro.prior import MicroPrior
from microdreamer.guidance.micro.vocabulary import Vocabulary
from microdreamer.shapes.packed import PackedMeshes, concatenate, load_folder, load_packed, pack
from microdreamer.shapes.procedural.catalogue import generate_many
from microdreamer.training.micro_prior.bank import Bank, capped_weights
from microdreamer.training.micro_prior.batches import Batch, draw_batch
from microdreamer.training.micro_prior.checkpoint import FILE, start_from
from microdreamer.training.micro_prior.loop import CHECKPOINT_MINUTES, TrainingConfig, check_unrolled, save_prior, train
from microdreamer.training.micro_prior.metrics import score_objects, sides_line
from microdreamer.training.micro_prior.mixing import pairs
from microdreamer.training.micro_prior.nouns import noun_weights, objects_of


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", nargs="+", type=Path, required=True, help="packed .npz files and folders of GLB/OBJ files")
    parser.add_argument("--realistic", nargs="*", type=Path, default=[], help="more of them, which are drawn --realism times as often")
    parser.add_argument("--realism", type=float, default=2.0)
    parser.add_argument("--pack-cap", type=float, default=0.1, help="largest share of one pack (first part of the ids) among the objects")
    parser.add_argument("--exclude", type=Path, help="file of ids, one a line, to leave out: near-copies of held-out objects")
    parser.add_argument("--val", nargs="*", type=Path, default=[], help="packed objects to score on")
    parser.add_argument("--pairs", type=int, default=8192, help="pairs of --objects to add")
    parser.add_argument("--pair-share", type=float, default=0.15, help="share of samples that show pairs")
    parser.add_argument("--procedural", type=int, default=16384, help="procedural shapes to add")
    parser.add_argument("--procedural-share", type=float, default=0.2, help="share of samples that show procedural shapes")
    parser.add_argument(
        "--nouns",
        type=Path,
        help="file of nouns, one a line: samples told by a caption alone are of these, --noun-share of them, and undeformed",
    )
    parser.add_argument("--noun-share", type=float, default=0.5, help="share of the samples told by a caption alone that are of --nouns")
    parser.add_argument("--network", type=json.loads, default={}, help="other fields of NetworkConfig, as JSON")
    parser.add_argument("--relative-cameras", action=argparse.BooleanOptionalAction, default=True, help="relative poses in attention")
    parser.add_argument("--geometry", action=argparse.BooleanOptionalAction, default=True, help="depth, coverage and albedo of each view")
    parser.add_argument("--references", type=int, choices=range(1, SLOTS + 1), default=SLOTS, help="most pictures of one object: 1 or 4")
    parser.add_argument("--start-from", type=Path, help="folder of a prior whose weights the network starts from")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--checkpoint-minutes", type=float, default=CHECKPOINT_MINUTES)
    parser.add_argument("--stop-after", type=float, help="seconds from the start after which a checkpoint is left for --resume")
    parser.add_argument("--out", type=Path, default=Path("logs/micro_prior"))
    parser.add_argument("--score-limit", type=int, default=93, help="objects to score after training")
    parser.add_argument("--device", default=best_device().type)
    for field in dataclasses.fields(TrainingConfig):
        name = "--" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            parser.add_argument(name, action=argparse.BooleanOptionalAction, default=field.default)
        else:
            parser.add_argument(name, type=int if field.name == "steps" else type(field.default), default=field.default)
    args = parser.parse_args()
    if not 0 <= args.noun_share <= 1:
        parser.error(f"--noun-share {args.noun_share:g}: expected 0 (none of these samples) to 1 (all of them)")
    if args.nouns and not args.nouns.is_file():
        parser.error(f"--nouns {args.nouns}: no such file; expected a text file with a noun a line")
    try:
        check_unrolled(training_config(args), args.geometry, args.references)
    except ValueError as error:
        parser.error(str(error))
    return args


def training_config(args: argparse.Namespace) -> TrainingConfig:
    return TrainingConfig(**{field.name: getattr(args, field.name) for field in dataclasses.fields(TrainingConfig)})


def load_objects(paths: list[Path]) -> PackedMeshes:
    packs = [path for path in paths if path.is_file()]
    sets = [load_packed(packs)] if packs else []
    return concatenate(sets + [load_folder(path) for path in paths if path.is_dir()])


def training_objects(args: argparse.Namespace, workers: int) -> tuple[PackedMeshes, Tensor, int]:
    """(all objects to train on, how often each is drawn, how many of them are --objects or --realistic, which come first)."""
    plain, realistic = load_objects(args.objects), load_objects(args.realistic) if args.realistic else None
    real = concatenate([plain, realistic]) if realistic else plain
    weights = torch.ones(len(real))
    weights[len(plain) :] = args.realism
    if args.exclude:
        unwanted = set(args.exclude.read_text().split())
        kept = [index for index, name in enumerate(real.ids) if name not in unwanted]
        real, weights = real.subset(kept), weights[kept]
    weights = capped_weights([name.split("/")[0] for name in real.ids], weights, args.pack_cap)
    sets, shares = [real], [weights]
    if args.pairs:
        sets.append(pairs(real, weights, args.pairs, torch.Generator().manual_seed(args.seed)))
        shares = [shares[0] * (1 - args.pair_share), torch.full((args.pairs,), args.pair_share / args.pairs)]
    if args.procedural:
        sets.append(procedural_objects(args.procedural, workers))
        rest = 1 - args.procedural_share
        shares = [share * rest for share in shares] + [torch.full((args.procedural,), args.procedural_share / args.procedural)]
    return concatenate(sets), torch.cat(shares), len(real)


def named_objects(
    meshes: PackedMeshes, weights: Tensor, real: int, pair_count: int, nouns: list[str], share: float
) -> tuple[PackedMeshes, Tensor, Tensor, list[str]]:
    """Objects for captions alone beside those that pictures show: undeformed copies of the `real` first ones, and procedural shapes.

    Returns (`meshes` and the copies, how often each is drawn, the same where a caption alone is told, nouns that no object is).
    """
    copies = meshes.subset(list(range(real)))
    single = weights.clone().double()
    single[: real + pair_count] = 0  # what remains is procedural
    alone = torch.cat([single, weights[:real].double() / weights[:real].sum() * (1 - single.sum())])
    owners = objects_of(nouns, [*meshes.captions, *copies.captions])
    alone = (1 - share) * alone / alone.sum() + share * noun_weights(owners, alone)
    return concatenate([meshes, copies]), torch.cat([weights, torch.zeros(real)]), alone, [noun for noun, own in owners.items() if not own]


def procedural_objects(count: int, workers: int) -> PackedMeshes:
    shapes = generate_many(0, count, workers=workers)
    meshes = [(shape.vertices, shape.faces, shape.corner_colors, shape.corner_normals) for shape in shapes]
    return pack(meshes, [f"procedural-{seed}" for seed in range(count)], [[shape.caption] for shape in shapes])


def save_strip(path: Path, pictures: torch.Tensor) -> None:
    """Pictures [rows, columns, 3, H, W] in [0,1] as one PNG."""
    rows, columns, _, height, width = pictures.shape
    sheet = pictures.permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width, 3)
    Image.fromarray((sheet.clamp(0, 1).cpu().numpy() * 255).round().astype(np.uint8)).save(path)


def save_batch(path: Path, batch: Batch) -> None:
    """A row for each sample: its pictures (white where it has one), its views, and what is told of their surfaces."""
    count, single = len(batch.views), (SLOTS * len(batch.views) - len(batch.pictures)) // (SLOTS - 1)
    pictures = torch.ones(count, SLOTS, *batch.pictures.shape[1:], device=batch.pictures.device)
    pictures[:single, 0] = batch.pictures[:single]
    pictures[single:] = batch.pictures[single:].unflatten(0, (-1, SLOTS))
    rows = [pictures, batch.views]
    if batch.surfaces:
        drawn = torch.cat([(batch.surfaces.depth * batch.seen).expand_as(batch.surfaces.albedo), batch.surfaces.albedo], dim=1)
        rows.append(torch.cat([drawn, torch.ones(count - len(drawn), *drawn.shape[1:], device=drawn.device)]))
    save_strip(path, torch.cat(rows, dim=1) * 0.5 + 0.5)


def main() -> None:
    args = arguments()
    rank, local, world = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1)))
    device = torch.device(args.device, local) if args.device == "cuda" else torch.device(args.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world > 1:
        dist.init_process_group("nccl", device_id=device) if device.type == "cuda" else dist.init_process_group("gloo")
    torch.set_float32_matmul_precision("high")
    begin = time.perf_counter()

    def say(*parts: object) -> None:
        if rank == 0:
            print(f"[{time.perf_counter() - begin:6.0f} s]", *parts, flush=True)

    meshes, weights, real = training_objects(args, max(1, (os.cpu_count() or 1) // world))
    say(f"{real} objects, {args.pairs} pairs, {args.procedural} procedural shapes")

    alone = None
    if args.nouns:
        nouns = [line for line in args.nouns.read_text().splitlines() if line.strip()]
        try:
            meshes, weights, alone, lacking = named_objects(meshes, weights, real, args.pairs, nouns, args.noun_share)
        except ValueError as error:
            print(f"--nouns {args.nouns}: {error}", file=sys.stderr)
            sys.exit(2)
        say(f"{len(nouns)} nouns; no object is: {', '.join(lacking) or 'none of them'}")

    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in args.network.items()}
    config = NetworkConfig(references=args.references, relative_cameras=args.relative_cameras, geometry=args.geometry, **fields)
    vocabulary = Vocabulary.from_captions((c for captions in meshes.captions for c in captions), config.vocabulary - 1)
    bank = Bank.build(meshes, weights, vocabulary, config.text_tokens, device, args.seed * 1000 + rank, args.geometry, alone)
    torch.manual_seed(args.seed)
    network = MultiViewNetwork(config).to(device)
    if args.start_from and not args.resume:
        say(f"starts from {args.start_from}, which knows {start_from(network, vocabulary, args.start_from)} of {len(vocabulary)} words")
    training = training_config(args)
    args.out.mkdir(parents=True, exist_ok=True)
    if rank == 0:
        save_batch(args.out / "batch.png", draw_batch(bank, 16, config.resolution, 8 if args.references > 1 else 0, shares=training.shares))
    say(f"{sum(p.numel() for p in network.parameters()) / 1e6:.2f} M parameters, {len(vocabulary)} words, {world} GPU(s)")

    def save(optimiser, progress: dict) -> None:
        save_prior(args.out, network, optimiser.averaged_state(), vocabulary, {**dataclasses.asdict(training), **progress})
        say("saved", args.out, progress)

    def report(metrics: dict) -> None:
        say(json.dumps(metrics))

    optimiser, progress = train(
        network,
        bank,
        training,
        report,
        save,
        checkpoint_minutes=args.checkpoint_minutes,
        state_file=args.out / FILE,
        resume=args.resume,
        should_stop=lambda: args.stop_after is not None and time.perf_counter() - begin > args.stop_after,
    )
    if rank == 0 and progress["steps"] < progress["of"]:
        say("stopped; go on with --resume")
    elif rank == 0:
        progress |= {"real_objects": real, "pairs": args.pairs, "procedural_shapes": args.procedural}
        save(optimiser, progress)
        prior = MicroPrior.load(args.out, device)
        results = {}
        sets = {path.stem: (load_packed([path]).to(device), args.score_limit) for path in args.val}
        for name, (objects, limit) in sets.items():
            for guidance in (1.0, 2.0):
                table, pictures = score_objects(prior, objects, range(min(limit, len(objects))), guidance_scale=guidance)
                results[f"{name}, guidance {guidance}"] = table
                say(f"{name}, guidance {guidance}\n{sides_line(table)}")
            save_strip(args.out / f"{name}.png", pictures[:24].transpose(1, 2).flatten(1, 2))
            table, pictures = score_objects(prior, objects, range(min(24, len(objects))), guidance_scale=4.0, without_picture=True)
            results[f"{name}, text alone"] = table
            save_strip(args.out / f"{name}_text.png", pictures.transpose(1, 2).flatten(1, 2))
        (args.out / "metrics.json").write_text(json.dumps(results, indent=1) + "\n")
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
