"""Seconds of one evaluation of the micro prior: four views of 128x128, with guidance (two branches) and without (one).

python -m benchmarks.micro_prior [--repeats 20] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from cam_utils import turntable
from guidance.micro import MicroPrior
from kernels import extension


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    extension.load()  # its allocator settings are part of what runs
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    prior = MicroPrior.load(device=device)
    cameras = turntable(prior.views, width=prior.resolution, height=prior.resolution, device=device)
    condition = prior.condition(torch.rand(4, prior.resolution, prior.resolution))
    latents = torch.randn(prior.latent_shape(prior.views), device=device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"micro prior, 4 views of {prior.resolution}x{prior.resolution}, {name}, PyTorch {torch.__version__}, {args.repeats} repeats")
    rows = {}
    for label, scale in (("guided", 2.0), ("conditional", 1.0), ("unconditional", None)):
        seconds = []
        for repeat in range(args.repeats + 3):
            start = time.perf_counter()
            prior.predict_clean(latents, 500, cameras, condition, scale)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if repeat >= 3:
                seconds.append(time.perf_counter() - start)
        rows[label] = {"median": statistics.median(seconds), "least": min(seconds), "most": max(seconds)}
        print(f"{label:>14}: median {rows[label]['median']:.4f} s, {min(seconds):.4f} to {max(seconds):.4f}")
    if args.out:
        args.out.write_text(json.dumps({"machine": name, "torch": torch.__version__, "seconds": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
