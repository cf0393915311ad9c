"""Seconds of whole runs of both stages by phase: the first in a process, and warm ones, beside what the original programs take.

    python -m benchmarks.stages [--config configs/micro.yaml] [--out results.json] [key=value ...]

    python scripts/make_random_checkpoint.py stable_zero123 /tmp/random
    python -m benchmarks.stages --config configs/image_sai.yaml prior_path=/tmp/random [--object test_data/objects_small.npz]

These are main.py's and main2.py's own runs, files included, one after the other in this process: the first as a user finds it (except for
the start of Python and PyTorch), then --warm more of each with other seeds, for which the prior is in memory, CUDA graphs are captured
and libraries are loaded. The second stage refines what the first has written, and shares its prior. A phase ends when the device has
done its work; `rest` is what the programs do between the phases. Every run must have done the same work (rounds, optimiser steps,
evaluations of the prior), or the script ends without a table. Random weights draw noise; its time is real. With --object, true views of
the first object of a pack take the place of what the decoder draws, which works as ever: then surface and charts are an object's.

There is no floor: what a run cannot do without is told phase by phase in docs/benchmarks_runs.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from benchmarks.rows import Bench, Row
from benchmarks.timing import Timing, write_json
from cam_utils import Cameras
from microdreamer.core.errors import UserError
from microdreamer.core.machine import choose_device, describe, provenance
from microdreamer.evaluation.image_to_3d import INPUT_ELEVATION, input_picture
from microdreamer.guidance import load_prior
from microdreamer.guidance.base import Prior
from microdreamer.pipeline.commands import run_make, run_refine
from microdreamer.pipeline.config import Config, load_config
from microdreamer.shapes.packed import PackedMeshes, load_packed
from microdreamer.shapes.render import over_white, render_views

ROOT = Path(__file__).resolve().parent.parent
PICTURE = str(ROOT / "test_data" / "robot_rgba.png")
RUN = "picture to textured mesh"  # the demo
DEMO = ("--config", str(ROOT / "configs" / "micro.yaml"), f"input={PICTURE}")
NAME = "run"
STAGES = {"stage 1": (run_make, f"{NAME}.json"), "stage 2": (run_refine, f"{NAME}_refined.json")}
WORK = ("rounds", "optimiser_steps", "prior_evaluations")
ASSET = "picture to refined textured mesh"
# MicroDreamer's own programs with configs/image_sai.yaml on one NVIDIA H200 with random weights of full size, run warm but where it
# says first. Their mesh comes from the density field with a baked texture (mesh_method=density here) or through a NeRF (field).
ORIGINALS = {
    ("stage 1", "prior"): "16.5 to 17.5, and 0.7 in the VAE",
    ("stage 1", "fit"): "4.7 to 5.4",
    ("stage 1", "prior + fit"): "22",
    ("stage 2", "refine"): "1.0; first 3.2 to 4.3",
}
ORIGINALS_BY_MESH = {
    "density": {("stage 1", "mesh"): "17 to 24", (ASSET, "total"): "41 to 47"},
    "field": {("stage 1", "mesh"): "79 to 93", (ASSET, "total"): "100 to 115"},
}

Seconds = dict[tuple[str, str], float]  # of (stage, phase)


def run_once(name: str, config: Config, prior: Prior, device: torch.device) -> tuple[Seconds, dict]:
    """One stage to files: seconds by phase, and the record that the program wrote. SystemExit with the reason where it failed."""
    program, record_name = STAGES[name]
    prior.evaluations = 0  # so that the record tells those of this run
    started = time.perf_counter()
    try:
        program(config, True, prior)
    except UserError as error:
        raise SystemExit(f"{name}: {error}") from None
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    total = time.perf_counter() - started
    record = json.loads((Path(config.outdir) / record_name).read_text())
    seconds = {(name, phase): spent for phase, spent in record["seconds"].items()}
    seconds[name, "rest"] = total - sum(seconds.values())
    if name == "stage 1":
        seconds[name, "prior + fit"] = seconds[name, "prior"] + seconds[name, "fit"]
    seconds[name, "total"] = total
    return seconds, record


def run_both(config: Config, prior: Prior, device: torch.device, stages: list[str]) -> tuple[Seconds, dict[str, dict]]:
    """The stages one after the other; their seconds, and their records by stage."""
    seconds: Seconds = {}
    records = {}
    for name in stages:
        spent, records[name] = run_once(name, config, prior, device)
        seconds |= spent
    if len(stages) == len(STAGES):
        seconds[ASSET, "total"] = sum(seconds[name, "total"] for name in stages)
    return seconds, records


def work_of(records: dict[str, dict]) -> dict[str, dict]:
    return {name: {key: record[key] for key in WORK if key in record} for name, record in records.items()}


def show(prior: Prior, meshes: PackedMeshes) -> None:
    """Have `prior` evaluate and decode as ever, and then give the object's true views from the cameras that it was last asked for."""
    predict, decode, asked = prior.predict_noise, prior.decode, []

    def predict_noise(latents: Tensor, t: int, cameras: Cameras, *rest: Any) -> Tensor:
        asked[:] = [cameras]
        return predict(latents, t, cameras, *rest)

    def decoded(latents: Tensor) -> Tensor:
        decode(latents)
        return over_white(render_views(meshes, 0, asked[0].resized(prior.resolution, prior.resolution)))

    vars(prior).update(predict_noise=predict_noise, decode=decoded)


def of_object(config: Config, meshes: PackedMeshes, folder: str) -> Config:
    """The configuration with a picture of the first object, which is written to `folder`."""
    path = Path(folder) / "object_rgba.png"
    rgba = (input_picture(meshes, 0, config) * 255).round().byte().permute(1, 2, 0)
    Image.fromarray(rgba.cpu().numpy()).save(path)
    return dataclasses.replace(config, input=str(path), elevation=INPUT_ELEVATION, recenter=False)


def measure(
    config: Config, device: torch.device, warm_runs: int, stages: list[str], meshes: PackedMeshes | None = None
) -> tuple[list[Seconds], list[dict]]:
    """Seconds and records of the first run and of the warm ones. Raises SystemExit where their work is not the same."""
    started = time.perf_counter()
    try:
        prior = load_prior(config.prior, config.prior_path, device, config.precision, config.prior_memory)
    except (ValueError, OSError) as error:
        raise SystemExit(f"prior: {error}") from None
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    loading = time.perf_counter() - started
    if meshes is not None:
        show(prior, meshes)
    runs, records = [], []
    for number in range(1 + warm_runs):
        seconds, found = run_both(dataclasses.replace(config, seed=config.seed + number), prior, device, stages)
        runs.append(seconds)
        records.append(found)
        print(f"{'warm' if number else 'first'} run: {sum(seconds[name, 'total'] for name in stages):.1f} s", flush=True)
        if work_of(found) != work_of(records[0]):
            raise SystemExit(f"runs differ in their work: {work_of(records[0])} and {work_of(found)}")
    for key in (("stage 1", "load"), ("stage 1", "total"), (ASSET, "total")):
        if key in runs[0]:
            runs[0][key] += loading
    return runs, records


def rows_of(runs: list[Seconds], config: Config) -> list[dict]:
    """One a phase, in the order of the run."""
    originals = ORIGINALS | ORIGINALS_BY_MESH[config.mesh_method] if config.prior == "stable_zero123" else {}
    rows = []
    for stage, phase in runs[0]:
        warm = sorted(run[stage, phase] for run in runs[1:])
        row = {"stage": stage, "phase": phase, "first_s": runs[0][stage, phase], "originals": originals.get((stage, phase))}
        if warm:
            row |= {"warm_s": statistics.median(warm), "warm_least_s": warm[0], "warm_most_s": warm[-1]}
        rows.append(row)
    return rows


def line(row: dict) -> str:
    warm = f"{row['warm_s']:.2f} ({row['warm_least_s']:.2f} to {row['warm_most_s']:.2f})" if "warm_s" in row else "-"
    return f"| {row['stage']} | {row['phase']} | {row['first_s']:.2f} | {warm} | {row['originals'] or '-'} |"


def told(words: Sequence[str]) -> str:
    return f" ({' '.join(words)})" if words else ""


def failure(code: int, errors: str) -> SystemExit | ModuleNotFoundError:
    """What a program that ended with `code` says in its last line; a package that it lacks as what Python raises for one."""
    last = errors.strip().rpartition("\n")[2]
    if lacking := re.match(r"ModuleNotFoundError: No module named '([\w.]+)'", last):
        return ModuleNotFoundError(last, name=lacking[1])
    return SystemExit(f"main.py ended with {code}: {last}")


def headline_cold(bench: Bench, words: Sequence[str] = ()) -> Iterator[Row]:
    """The demo as a process of its own: all of it, and what goes by before the first round."""
    if bench.on_gpu:
        torch.cuda.empty_cache()  # what earlier parts took and nobody uses
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "main.py"), *DEMO, f"outdir={folder}", f"save_path={NAME}", f"device={bench.device}", *words]
        started = time.perf_counter()
        done = subprocess.run([*command, "--quiet"], capture_output=True, text=True, cwd=ROOT)
        spent = time.perf_counter() - started
        if done.returncode:
            raise failure(done.returncode, done.stderr)
        seconds = json.loads((Path(folder) / f"{NAME}.json").read_text())["seconds"]
    loading = spent - sum(of for phase, of in seconds.items() if phase != "load")
    yield bench.timed(f"{RUN}, new process{told(words)}", Timing((1e3 * spent,)))
    yield bench.timed("of it: start of Python, imports, load", Timing((1e3 * loading,)))


def headline_warm(bench: Bench, words: Sequence[str] = (), warm_runs: int = 2) -> Iterator[Row]:
    """The same in this process, with the prior in memory, after a run that is not counted."""
    config = load_config(Path(DEMO[1]), [*DEMO[2:], f"device={bench.device}", f"save_path={NAME}", *words])
    device = torch.device(bench.device)
    prior = load_prior(config.prior, config.prior_path, device, config.precision, config.prior_memory)
    spent = []
    for seed in range(1 + warm_runs):
        with tempfile.TemporaryDirectory() as folder:
            seconds, _ = run_once("stage 1", dataclasses.replace(config, outdir=folder, seed=seed), prior, device)
        spent.append(1e3 * seconds["stage 1", "total"])
    yield bench.timed(f"{RUN}, warm{told(words)}", Timing(tuple(sorted(spent[1:]))))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage="%(prog)s [options] [key=value ...]"
    )
    parser.add_argument("--config", type=Path, default=Path("configs/micro.yaml"))
    parser.add_argument("--warm", type=int, default=2, help="warm runs after the first")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="the second needs what the first writes")
    parser.add_argument("--object", type=Path, help="a pack of meshes: show its first one in place of what the prior draws")
    parser.add_argument("--out", type=Path, help="also write JSON here")
    options, words = parser.parse_known_args()
    try:
        config = load_config(options.config, words)
        if not config.input and not config.prompt:
            config = dataclasses.replace(config, input=PICTURE)
        device = choose_device(config.device)
    except UserError as error:
        parser.error(str(error))
    header = provenance(device)
    print(describe(header), flush=True)
    meshes = load_packed(options.object).to(device) if options.object else None
    with tempfile.TemporaryDirectory() as folder:
        config = config if meshes is None else of_object(config, meshes, folder)
        runs, records = measure(dataclasses.replace(config, outdir=folder, save_path=NAME), device, options.warm, options.stages, meshes)
    rows = rows_of(runs, config)
    print(f"\n{options.config}: seconds, warm: median (least to most) of {options.warm}\n")
    print("| stage | phase | first | warm | the originals, image_sai.yaml on an H200 |\n| --- | --- | --- | --- | --- |")
    print("\n".join(line(row) for row in rows))
    last = records[-1]
    memory = {name: record["peak_memory_mib"] for name, record in last.items()}
    print(f"\nWork of a run: {work_of(last)}. Peak memory so far, MiB: {memory}")
    write_json(options.out, header | {"config": dataclasses.asdict(config), "work": work_of(last), "peak_memory_mib": memory, "rows": rows})


if __name__ == "__main__":
    main()
