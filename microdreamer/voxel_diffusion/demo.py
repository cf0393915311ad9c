"""The whole study on a small scale, by one command on two CPU cores.

python -m microdreamer.voxel_diffusion.demo [--steps 2500] [--out FOLDER]

64 spheres on 32^3 grids, a small network trained at T = 10, 16 samples, their figures and pictures. Everything lies
below one folder; each command is printed before it runs, so that it can be run alone.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from microdreamer.voxel_diffusion.__main__ import main as command


def commands(out: Path, size: int, count: int, steps: int, samples: int) -> list[list[str]]:
    """The words of every command, in order."""
    data, run, results = out / "data", out / "run", out / "results"
    made = out / "samples_synth.npy"
    network = ["--T", "10", "--patch", "2", "--channels", "16", "--multipliers", "1", "2", "2", "--batch", "8", "--rate", "1e-3"]
    words = [
        ["generate", "--size", size, "--count", count, "--out", data],
        ["train", "--data", data, *network, "--steps", steps, "--out", run, "--profiling", out / "profiling"],
        ["sample", "--checkpoint", run / "checkpoint.pt", "--count", samples, "--out", made],
        ["evaluate", "--gen", made, "--gt-dir", data, "--output", results / "metrics.txt"],
        ["view", "--grids", made, "--out", out / "view"],
    ]
    return [[str(word) for word in line] for line in words]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code of the first command that fails, or 0."""
    parser = argparse.ArgumentParser(prog="voxel_diffusion.demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/voxel_demo"), help="replaced if it is there from an earlier demo")
    parser.add_argument("--steps", type=int, default=2500, help="of training")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--samples", type=int, default=16)
    options = parser.parse_args(arguments)
    mark = options.out / ".voxel_demo"
    if options.out.exists() and any(options.out.iterdir()):
        if not mark.is_file():
            print(f"voxel_diffusion.demo: {options.out}: holds something else; choose another --out", file=sys.stderr)
            return 2
        shutil.rmtree(options.out)
    options.out.mkdir(parents=True, exist_ok=True)
    mark.touch()
    for words in commands(options.out, options.size, options.count, options.steps, options.samples):
        print(f"\n$ python -m microdreamer.voxel_diffusion {shlex.join(words)}", file=sys.stderr, flush=True)
        code = command(words)
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
