"""What pays in training a voxel diffusion model: ways to execute a step, five ways to choose timesteps, and how good samples get.

    python -m microdreamer.voxel_diffusion.benchmark.run --out FOLDER [--only ladder full ...] [--seconds 60] [--objects PACKED.npz]

Sections: `ladder` (speed and memory of a step, one option after another), `compile` (the same with torch.compile), `full` (the
full-resolution network trained plainly, and how soon the others are at its loss), `strategies10`, `strategies1000` (every strategy
for the same time, T = 10 and 1000), `spheres` (longer runs whose samples are judged), `objects` (the same on voxelised objects, which
`--objects` names).

Each section is a process of its own, ends after about `--seconds` (its own default without), and writes rows_SECTION.json and
pictures as it goes; nothing that one writes is written by another, so sections may run side by side and their folders be put
together. A row that is there already is skipped, one that failed holds the error's text and is tried again. table.md is made of all
rows in --out; `python -m microdreamer.voxel_diffusion.benchmark.report FOLDER ...` prints the table of several folders.

Clocks count training steps and measurements of gradients; validation, sampling and set-up are left out, the last is told apart.
Losses are mean squared errors of the clean grid by averaged weights, over evenly spaced levels, held-out grids and fixed noise.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from microdreamer.core.machine import best_device

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> int:
    """Exit code 0; 1 where a section's process broke down (a configuration that fails is a row)."""
    start = time.perf_counter()  # importing PyTorch takes seconds, which a section's time includes

    from microdreamer.core.files import atomic_write
    from microdreamer.voxel_diffusion.benchmark.report import read_rows, table
    from microdreamer.voxel_diffusion.benchmark.sections import run
    from microdreamer.voxel_diffusion.benchmark.setup import PRESETS, SECTIONS, Bench

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/voxel_benchmark"))
    parser.add_argument("--device", default=best_device().type, choices=list(PRESETS))
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="sections to run (default: all; objects only with --objects)")
    parser.add_argument("--seconds", type=float, help="of each section")
    parser.add_argument("--again", action="store_true", help="make rows that are there again")
    parser.add_argument(
        "--objects", type=Path, help="packed grids of objects (python -m microdreamer.voxel_diffusion generate --kind mesh --packed)"
    )
    options = parser.parse_args()
    sections = options.only or [section for section in SECTIONS if section != "objects" or options.objects]
    if "objects" in sections and not (options.objects and options.objects.is_file()):
        parser.error(f"section objects: --objects {options.objects}: no such file; name packed grids")
    options.out.mkdir(parents=True, exist_ok=True)
    broken = 0
    if len(sections) == 1:
        seconds = options.seconds or PRESETS[options.device].budgets[sections[0]]
        run(Bench(options.out, options.device, sections[0], start + seconds, options.again), options.objects)
        print(f"{sections[0]}: {time.perf_counter() - start:.0f} s", flush=True)
    else:
        for section in sections:
            words = [sys.executable, "-m", "microdreamer.voxel_diffusion.benchmark.run", *sys.argv[1:], "--only", section]
            broken |= subprocess.run(words, check=False).returncode != 0
    text = table(read_rows([options.out]))
    with atomic_write(options.out / "table.md") as temporary:
        temporary.write_text(text + "\n")
    if len(sections) > 1:
        print(text)
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
