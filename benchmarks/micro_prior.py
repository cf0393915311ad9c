"""Milliseconds of one evaluation of the micro prior: four views of 128x128, with guidance (two branches) and without (one).

python -m benchmarks.micro_prior [--repeats 20] [--precision auto] [--out FILE.json]

Times are of whole calls after 3 that are not counted (benchmarks/timing.py). Before that the guided result is compared with the one put
together from the two branches alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.timing import describe, environment, time_calls, write_json
from cam_utils import turntable
from microdreamer.guidance.base import classifier_free
from microdreamer.guidance.micro.prior import MicroPrior
from microdreamer.kernels import extension

GUIDANCE = 2.0
LARGEST_ERROR = 1e-2  # relative L2; on a GPU convolutions may round to TF32, which guidance magnifies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    extension.keep_freed_memory()  # as the commands do
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    prior = MicroPrior.load(device=device, precision=args.precision)
    cameras = turntable(prior.views, width=prior.resolution, height=prior.resolution, device=device)
    condition = prior.condition(torch.rand(4, prior.resolution, prior.resolution))
    latents = torch.randn(prior.latent_shape(prior.views), device=device)
    header = environment(device)
    print(describe(header))
    print(f"micro prior, {prior.views} views of {prior.resolution}x{prior.resolution}, {prior.dtype}, {args.repeats} repeats")
    rows = []

    def predict(scale: float | None) -> Tensor:
        return prior.predict_clean(latents, 500, cameras, condition, scale)

    expected = classifier_free(predict(None), predict(1.0), GUIDANCE)
    error = float((predict(GUIDANCE) - expected).norm() / expected.norm())
    if not error <= LARGEST_ERROR:
        raise SystemExit(f"the guided evaluation differs from its branches by {error:.1e}: not timed")
    for label, scale in (("guided", GUIDANCE), ("conditional", 1.0), ("unconditional", None)):

        def evaluate(scale=scale) -> None:
            predict(scale)

        timing = time_calls(evaluate, device, args.repeats)
        rows.append({"evaluation": label} | timing.as_row())
        print(f"{label:>14}: median {timing.median:.1f} ms, {timing.least:.1f} to {timing.most:.1f}", flush=True)
    write_json(args.out, header | {"rows": rows})


if __name__ == "__main__":
    main()
