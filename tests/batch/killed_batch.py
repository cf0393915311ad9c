"""Runs a batch that is killed (SIGKILL) at moments drawn from a seed and resumed, to its end; compares with one that was left alone.

    PYTHONPATH=.:tests python tests/batch/killed_batch.py FOLDER [--kills 10] [--seed 0] [--pictures FOLDER] [--longest SECONDS]

Of four pictures, or of those in the folder named, by the small random network of tests/fake_priors.py; two bad ones are among them.

After each kill every file of a result that is there is either whole or still hidden, and the report, where there is one, is whole.
Prints, as JSON, how many kills fell within a run and how many files of the results are the same. Raises where a file is half.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import torch
from batch_bench import config_for, oracle, results, write_bad_pictures, write_pictures
from fake_priors import tiny_micro_prior

from microdreamer.batch.pictures import items_of
from microdreamer.batch.run import run


def start(config, prior) -> int:
    """The process of a run of its own."""
    child = os.fork()
    if child == 0:
        try:
            run(items_of(config.input, config.outdir), config, prior)
        finally:
            os._exit(0)
    return child


def main() -> None:
    parser = argparse.ArgumentParser(description="Kills a batch and resumes it.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--longest", type=float, help="seconds until a kill, at most (default: what a whole run takes)")
    options = parser.parse_args()
    torch.set_num_threads(1)  # so that a forked process can go on
    draw, prior, pictures = random.Random(options.seed), oracle(), options.folder / "in"
    if options.pictures:
        prior = tiny_micro_prior()
        pictures.mkdir(parents=True)
        for path in options.pictures.glob("*.png"):
            shutil.copyfile(path, pictures / path.name)
    else:
        write_pictures(pictures, prior, ("a", "b", "c", "d"))
    good = len(list(pictures.iterdir()))
    write_bad_pictures(pictures)
    whole_config = config_for(pictures, options.folder / "whole")
    begun = time.perf_counter()
    run(items_of(whole_config.input, whole_config.outdir), whole_config, prior)
    took = time.perf_counter() - begun
    whole = results(options.folder / "whole")
    config = config_for(pictures, options.folder / "out", resume=True)
    out, killed = options.folder / "out", 0
    while killed < options.kills:
        child = start(config, prior)
        time.sleep(draw.uniform(0, options.longest or took))
        if os.waitpid(child, os.WNOHANG)[0] == 0:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            killed += 1
        else:  # it came to its end: begin anew
            assert results(out) == whole
            for path in out.iterdir():
                if path.is_file():
                    path.unlink()
        for name, data in (results(out) if out.is_dir() else {}).items():
            assert name.startswith(".") or data == whole[name], f"{name} is half"
        if (report := out / "report.json").is_file():
            assert sum(json.loads(report.read_text())["counts"].values()) == good + 2
    report = run(items_of(config.input, config.outdir), config, prior)
    assert report.count("done") == good and report.count("failed") == 2, report.summary
    found = results(out)
    assert found.keys() == whole.keys(), (sorted(found), sorted(whole))
    left = [path.name for path in out.rglob(".*") if not path.name.endswith((".json", ".html", ".jpg"))]
    assert not left, left
    same = sum(found[name] == whole[name] for name in whole)
    print(json.dumps({"pictures": good, "killed": killed, "results": len(whole), "same": same, "seconds alone": round(took, 1)}))


if __name__ == "__main__":
    np.random.seed(0)  # noqa: NPY002 - the stand-ins draw from it
    torch.manual_seed(0)
    main()
