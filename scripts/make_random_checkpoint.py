"""A checkpoint with random weights in the published layout: to measure speed and memory, and to try programs, without the real one.

python scripts/make_random_checkpoint.py stable_zero123 /tmp/random_zero123
python main.py --config configs/image_sai.yaml prior_path=/tmp/random_zero123 input=test_data/robot_rgba.png

What comes out of it is noise.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from microdreamer.core.machine import best_device
from microdreamer.guidance.published.presets import PRESETS
from microdreamer.guidance.published.random_weights import write_checkpoint

TYPES = {"float16": torch.float16, "float32": torch.float32}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prior", choices=tuple(PRESETS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true", help="a miniature for 64x64 pixels, a few MB")
    parser.add_argument("--dtype", choices=tuple(TYPES), default="float16")
    parser.add_argument("--device", default=best_device().type)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write_checkpoint(args.prior, args.folder, args.tiny, TYPES[args.dtype], args.device, args.seed)
    size = sum(file.stat().st_size for file in args.folder.rglob("*") if file.is_file())
    print(f"{args.folder}: {args.prior} with random weights, {size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
