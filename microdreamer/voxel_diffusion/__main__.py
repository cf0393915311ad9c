"""Diffusion of voxel grids. `python -m microdreamer.voxel_diffusion COMMAND --help` tells a command's options.

generate -> train (importance first, for --timesteps fixed) -> sample -> evaluate, view.
`python -m microdreamer.voxel_diffusion.demo` runs all of it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from microdreamer.core.command import Parser, exit_code
from microdreamer.core.errors import user_errors
from microdreamer.voxel_diffusion import commands, network, primitives, sampling, schedule, timesteps
from microdreamer.voxel_diffusion.evaluate import SET_LIMIT
from microdreamer.voxel_diffusion.network import NetworkConfig
from microdreamer.voxel_diffusion.training import TrainingConfig

PROGRAM = "voxel_diffusion"
DATA = "data/synthetic"


def _common(parser: argparse.ArgumentParser, device: bool = True) -> None:
    parser.add_argument("--quiet", action="store_true", help="no progress and no notes")
    if device:
        parser.add_argument("--device", default="auto", help="auto, cpu or cuda")


def _model_options(parser: argparse.ArgumentParser) -> None:
    """What the data, the forward process, the network and the way it is run are."""
    parser.add_argument("--data", default=DATA, help="folder of vox_*.npy, one .npy array, or a packed .npz of grids")
    parser.add_argument("--T", type=int, default=NetworkConfig.timesteps, help="timesteps of the forward process")
    parser.add_argument("--schedule", default="cosine", choices=schedule.KINDS)
    parser.add_argument("--shift", type=float, help="added to the log-SNR of all levels (default: -3 ln(n / 16) for grids of n^3)")
    parser.add_argument("--predict", default=NetworkConfig.predict, choices=network.PREDICTIONS, help="clean grid, velocity or noise")
    parser.add_argument("--patch", type=int, default=2, help="side of the blocks that become channels; 1: full resolution")
    parser.add_argument("--channels", type=int, default=NetworkConfig.channels)
    parser.add_argument("--multipliers", type=int, nargs="+", default=[1, 2, 2], help="of the channels, a level each")
    parser.add_argument("--blocks", type=int, default=NetworkConfig.blocks, help="residual blocks a level")
    parser.add_argument("--attention", action="store_true", help="at the coarsest level")
    parser.add_argument("--batch", type=int, default=TrainingConfig.batch)
    parser.add_argument("--rate", "--lr", type=float, default=TrainingConfig.rate, help="of AdamW")
    parser.add_argument("--warmup", type=int, default=TrainingConfig.warmup, help="steps over which the rate rises")
    parser.add_argument(
        "--decay", type=int, metavar="STEPS", help="the rate falls to zero by this step (default: --steps; without: it is kept)"
    )
    parser.add_argument("--weight-decay", type=float, default=TrainingConfig.weight_decay)
    parser.add_argument("--ema", type=float, default=TrainingConfig.ema, help="decay of the averaged weights, at most")
    parser.add_argument("--augment", action="store_true", help="turn the grids by right angles about y, and mirror them")
    parser.add_argument("--seed", type=int, default=TrainingConfig.seed)
    flag = argparse.BooleanOptionalAction
    parser.add_argument("--bf16", action=flag, help="autocast to bfloat16 (default: on a GPU)")
    parser.add_argument("--channels-last", action="store_true", help="memory layout channels_last_3d")
    parser.add_argument("--compile", action="store_true", help="torch.compile; takes a minute first")
    parser.add_argument("--checkpointing", action="store_true", help="compute activations again in the backward pass: less memory, slower")


def _train_options(parser: argparse.ArgumentParser, strategy: str) -> None:
    _model_options(parser)
    parser.add_argument("--timesteps", default=strategy, choices=timesteps.NAMES, help="which timesteps to train on")
    parser.add_argument("--top", type=int, default=0, metavar="K", help="adaptive and fixed: how many timesteps (0: half of T)")
    parser.add_argument("--every", type=int, default=1, help="adaptive: measure before each n-th step only")
    parser.add_argument("--probe", type=int, default=0, help="adaptive: measure on so many grids of the batch (0: all)")
    parser.add_argument("--levels", type=int, default=0, help="adaptive: measure at so many timesteps, interpolate between (0: all)")
    parser.add_argument("--importance", default="results/importance.json", help="fixed: the file of the command importance")
    parser.add_argument("--steps", type=int, help="stop after so many steps, those before --resume included (default: 10000)")
    parser.add_argument("--minutes", type=float, help="stop after so many minutes")
    parser.add_argument("--out", help="folder of checkpoint.pt and losses.json (default: outputs/<timesteps>)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--save-minutes", type=float, default=2.0, help="between two checkpoints")
    parser.add_argument("--profiling", default="profiling", help="folder for TensorBoard (empty: none)")
    parser.add_argument(
        "--profile", action=argparse.BooleanOptionalAction, default=True, help="write a torch.profiler trace of early steps"
    )
    _common(parser)
    parser.set_defaults(run=commands.train)


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_subparsers(dest="command", required=True, parser_class=Parser).add_parser

    generate = add("generate", aliases=["gen_synthetic"], help="write voxel grids to train on")
    generate.add_argument("--kind", default="sphere", choices=[*primitives.KINDS, "mesh"])
    generate.add_argument("--size", type=int, default=64, help="voxels a side")
    generate.add_argument("--count", type=int, default=1000, help="grids; of meshes, at most")
    generate.add_argument("--seed", type=int, default=0)
    generate.add_argument("--input", nargs="+", help="kind mesh: mesh files, folders of them, packs of objects (.npz)")
    generate.add_argument("--least", type=int, default=1, help="kind mesh: leave out grids of fewer filled voxels")
    generate.add_argument("--out", default=DATA, help="folder for vox_0000.npy, ...")
    generate.add_argument("--packed", help="write this one .npz, of a bit a voxel, instead")
    generate.add_argument("--overwrite", action="store_true", help="replace the grids of --out")
    _common(generate, device=False)
    generate.set_defaults(run=commands.generate)

    importance = add("importance", aliases=["compute_timestep_importance"], help="measure the gradient norm of every timestep once")
    _model_options(importance)
    importance.add_argument("--batches", type=int, default=8)
    importance.add_argument("--levels", type=int, default=0, help="measure at so many timesteps, interpolate between (0: all)")
    importance.add_argument("--checkpoint", help="of the network to measure")
    importance.add_argument("--first", type=int, default=100, help="without --checkpoint: uniform steps before measuring")
    importance.add_argument("--out", default="results/importance.json")
    _common(importance)
    importance.set_defaults(run=commands.importance)

    _train_options(add("train", help="train a network"), "uniform")
    for name, strategy in (("train_baseline", "uniform"), ("train_adaptive", "adaptive"), ("train_adaptive2", "fixed")):
        _train_options(add(name, help=f"train --timesteps {strategy}"), strategy)

    sample = add("sample", aliases=["sample_corrected"], help="draw new grids from a trained network")
    sample.add_argument("--checkpoint", default="outputs/uniform/checkpoint.pt")
    sample.add_argument("--count", type=int, default=64)
    sample.add_argument("--steps", type=int, help="denoising steps (default: all T)")
    sample.add_argument("--method", default=sampling.METHODS[0], choices=sampling.METHODS)
    sample.add_argument("--eta", type=float, default=0.0, help="ddim: 0 deterministic to 1 ancestral")
    sample.add_argument("--trained-only", action="store_true", help="visit only the timesteps that were trained on")
    sample.add_argument("--batch", type=int, default=sampling.BATCH)
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--out", default="outputs/samples_synth.npy")
    _common(sample)
    sample.set_defaults(run=commands.sample)

    evaluate = add("evaluate", aliases=["evaluate_metrics"], help="compare generated grids with true ones")
    evaluate.add_argument("--gen", default="outputs/samples_synth.npy")
    evaluate.add_argument("--gt-dir", default=DATA)
    evaluate.add_argument("--output", default="results/metrics.txt", help="text file; JSON goes beside it")
    evaluate.add_argument("--sets", type=int, default=SET_LIMIT, help="grids of each set, at most, for MMD, COV and 1-NNA")
    _common(evaluate)
    evaluate.set_defaults(run=commands.evaluate)

    view = add("view", aliases=["view_voxel"], help="orbit GIF and PNG, isosurface GLB, slice sheet")
    view.add_argument("--grids", default="outputs/samples_synth.npy", help="folder, .npy or packed .npz")
    view.add_argument("--index", type=int, nargs="+", help="grids to view (default: the first that is not empty)")
    view.add_argument("--sheet", type=int, default=16, help="grids on the overview sheet")
    view.add_argument("--out", default="outputs/view")
    _common(view, device=False)
    view.set_defaults(run=commands.view)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """See `core.command.exit_code`."""

    def work() -> int:
        with user_errors():
            options = build_parser().parse_args(arguments)
            return options.run(options)

    return exit_code(PROGRAM, work, "lower --batch, raise --patch or pass --checkpointing")


if __name__ == "__main__":
    sys.exit(main())
