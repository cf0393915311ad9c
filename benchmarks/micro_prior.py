"""Milliseconds of one evaluation of the micro prior: four views of 128x128, with guidance (two branches) and without (one).

python -m benchmarks.micro_prior [--repeats 20] [--precision auto] [--out FILE.json]

Times are of whole calls after 3 that are not counted (benchmarks/timing.py). Before that the guided result is compared with the one put
together in float32 from the two branches alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.rows import Bench, Row
from benchmarks.timing import time_calls, write_json
from cam_utils import turntable
from microdreamer.core.machine import best_device, describe, provenance
from microdreamer.guidance.base import classifier_free
from microdreamer.guidance.micro.prior import MicroPrior
from microdreamer.kernels import extension

GUIDANCE = 2.0
# Relative L2 from the branches in float32, by what is multiplied in. Their own rounding is some 1e-7, and 1e-2 where every product rounds
# to 2^-9, as it does in bfloat16 and (to 2^-11) in TF32; guidance magnifies it. A branch in the place of the guided result is off by 0.5.
LARGEST_ERROR = {torch.float32: 1e-5, torch.bfloat16: 16 * 2**-9}
BRANCHES = {"guided": GUIDANCE, "conditional": 1.0, "unconditional": None}  # guidance scales


def checked_evaluations(device: torch.device | str, precision: str) -> tuple[MicroPrior, dict[str, Callable[[], Tensor]]]:
    """The prior and an evaluation by branches. SystemExit where the guided one is not what its branches make in float32."""
    prior = MicroPrior.load(device=device, precision=precision)
    cameras = turntable(prior.views, width=prior.resolution, height=prior.resolution, device=device)
    picture = torch.rand(4, prior.resolution, prior.resolution)
    latents = torch.randn(prior.latent_shape(prior.views), device=device)

    def ask(prior: MicroPrior, scale: float | None) -> Callable[[], Tensor]:
        return partial(prior.predict_clean, latents, 500, cameras, prior.condition(picture), scale)

    with torch.backends.cudnn.flags(allow_tf32=False):
        exact = MicroPrior.load(device=device, precision="float32")
        null, conditional = (ask(exact, scale)() for scale in (None, 1.0))
        expected = classifier_free(null, conditional, GUIDANCE)
        error = float((ask(prior, GUIDANCE)() - expected).norm() / expected.norm())
    if not error <= LARGEST_ERROR[prior.dtype]:
        raise SystemExit(f"the guided evaluation differs from its branches by {error:.1e}: not timed")
    return prior, {label: ask(prior, scale) for label, scale in BRANCHES.items()}


def headline(bench: Bench) -> Iterator[Row]:
    """Guided, and one branch alone; the floor is its products, which PyTorch counts."""
    prior, evaluations = checked_evaluations(bench.device, "auto")
    kind = "bfloat16_products" if prior.dtype == torch.bfloat16 else "products"
    for label in ("guided", "unconditional"):
        with FlopCounterMode(display=False) as counter:
            evaluations[label]()
        name = f"micro prior, {prior.views} views, {str(prior.dtype).removeprefix('torch.')}: {label}"
        yield bench.row(name, evaluations[label], **{kind: counter.get_total_flops() / 2})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    extension.keep_freed_memory()  # as the commands do
    device = best_device()
    prior, evaluations = checked_evaluations(device, args.precision)
    header = provenance(device)
    print(describe(header))
    print(f"micro prior, {prior.views} views of {prior.resolution}x{prior.resolution}, {prior.dtype}, {args.repeats} repeats")
    rows = []
    for label, evaluate in evaluations.items():
        timing = time_calls(evaluate, device, args.repeats)
        rows.append({"evaluation": label} | timing.as_row())
        print(f"{label:>14}: median {timing.median:.1f} ms, {timing.least:.1f} to {timing.most:.1f}", flush=True)
    write_json(args.out, header | {"rows": rows})


if __name__ == "__main__":
    main()
