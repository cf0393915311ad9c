"""Training steps of text-to-3D networks of full size with published priors: passes and sentences a second, memory, and the floor.

    python scripts/make_random_checkpoint.py stable_diffusion /tmp/random/stable_diffusion
    python scripts/make_random_checkpoint.py mvdream /tmp/random/mvdream
    python -m benchmarks.generator_training --weights /tmp/random [--cases NAME ...] [--out results.json]
    torchrun --nproc_per_node 2 -m benchmarks.generator_training --weights /tmp/random

Cases are the configurations of configs/multi-prompt. A pass is one sentence for each process (4 views of it with MVDream); a step of the
largest two is several passes. The floor of a pass is the prior alone, on pictures that are there already. Random weights draw noise;
their time is real. The sentences are MG15's throughout: what a sentence costs does not depend on the library.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
from pathlib import Path

import torch

from benchmarks.field_training import floor, seconds_of
from benchmarks.timing import write_json
from microdreamer.core.machine import choose_device, provenance
from microdreamer.guidance import load_prior
from microdreamer.guidance.base import Prior
from microdreamer.pipeline.launch.config import LaunchConfig, load_launch_config
from microdreamer.pipeline.launch.run import make_trainer, processes
from microdreamer.pipeline.launch.trainer import Shard

CASES = (
    "asd_sd_hyper_iNGP_MG15",
    "asd_sd_3dconv_net_DF415",
    "asd_sd_3dconv_net_AT2520",
    "asd_sd_3dconv_net_CP100k",
    "asd_mv_triplane_transformer_DL17k",
)


def measure(name: str, prior: Prior, shard: Shard, count: int, words: list[str]) -> dict:
    gc.collect()  # the graphs of the last case
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    path = Path("configs") / "multi-prompt" / f"{name}.yaml"
    views = shard.world * load_launch_config(path, []).data.batch_size[0]
    fixed = ["system.prompt_processor.library=MG15", "trainer.accumulate_grad_batches=1", f"data.batch_size={views}"]
    trainer = make_trainer(load_launch_config(path, [*fixed, *words]), prior, shard)
    device = trainer.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds_of(trainer.step, 0, 5, device)
    whole = statistics.median(seconds_of(trainer.step, 5, count, device))
    found = {
        "case": name,
        "parameters": sum(parameter.numel() for parameter in trainer.learner.model.parameters()),
        "views": views,
        "pass_ms": 1e3 * whole,
        "passes_per_second": 1 / whole,
        "sentences_per_second": views // trainer.ranges.n_view / whole,
    }
    if device.type == "cuda":
        found["peak_gib"] = torch.cuda.max_memory_reserved(device) / 2**30
    once = floor(trainer)
    seconds_of(once, 0, 4, device)
    alone = statistics.median(seconds_of(once, 0, count, device))
    trainer.close()
    return found | {"prior_alone_ms": 1e3 * alone, "rest_share": (whole - alone) / whole}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, metavar="FOLDER", help="folder of the priors' folders")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--count", type=int, default=15, help="passes to measure")
    parser.add_argument("--words", nargs="*", default=[], metavar="KEY=VALUE", help="of launch.py, for all cases")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", metavar="FILE.json")
    options = parser.parse_args()
    with processes(LaunchConfig(device=options.device)) as (shard, config):
        device = choose_device(config.device)
        priors: dict[str, Prior] = {}
        rows = []
        for name in options.cases:
            wanted = load_launch_config(Path("configs") / "multi-prompt" / f"{name}.yaml", []).system.guidance.prior
            if wanted not in priors:
                priors.clear()
                priors[wanted] = load_prior(wanted, str(Path(options.weights) / wanted), device)
            rows.append(measure(name, priors[wanted], shard, options.count, options.words))
            if shard.rank == 0:
                print({key: round(value, 3) if isinstance(value, float) else value for key, value in rows[-1].items()}, flush=True)
                if options.out:
                    write_json(options.out, {"environment": provenance(device), "processes": shard.world, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
