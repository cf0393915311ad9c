"""Saves a result over an earlier one again and again, each time with something that goes wrong at a moment drawn from a seed.

    PYTHONPATH=.:tests python tests/pipeline/saving_in_peril.py kill|disk|limit|film FOLDER [--moments 50] [--seed 0]

kill: SIGKILL; disk: a file system that is full (mounted in FOLDER, which takes root); limit: files that may not grow beyond a size;
film: an ffmpeg that dies. Prints, as JSON, how often the old and how often the new result stood afterwards, and how often a kill fell
between the first and the last file's move, which the next run finishes. Raises where a result is neither, or a file is half.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import torch
import trimesh
from fake_priors import coloured_ellipsoid

from microdreamer.core.errors import UserError
from microdreamer.core.staging import finish
from microdreamer.meshes.baking import bake, unwrapped
from microdreamer.meshes.mesh import Mesh
from microdreamer.pipeline.config import load_config
from microdreamer.pipeline.results import Result

NAME = "thing"
WORDS = [f"save_path={NAME}", "video_frames=8", "video_size=48", "splat_format=all", "device=cpu"]


def result(mark: str, folder: Path) -> Result:
    """A small result that knows its mark."""
    config = load_config(None, [*WORDS, f"outdir={folder}"])
    gaussians = coloured_ellipsoid(300 if mark == "old" else 400)
    shape = trimesh.creation.icosphere(3)
    colors = shape.vertices * 0.5 + 0.5 if mark == "old" else 0.5 - shape.vertices * 0.5
    mesh = bake(unwrapped(Mesh(shape.vertices, shape.faces, colors), 512), 512)
    return Result(config, gaussians, mesh, {"mark": mark, "seconds": {}}, gaussians, gaussians.means.detach())


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def mark_of(found: dict[str, bytes], whole: dict[str, dict[str, bytes]], without: tuple[str, ...] = ()) -> str:
    """Which result these files are, except for those that may lack; AssertionError where they are neither."""
    mark = json.loads(found[f"{NAME}.json"])["mark"]
    expected = {name: data for name, data in whole[mark].items() if name not in without}
    assert found.keys() == expected.keys(), (mark, sorted(found), sorted(expected))
    for name, data in expected.items():
        assert name == f"{NAME}.json" or found[name] == data, f"{name} is not that of the {mark} result"
    return mark


def killed(new: Result, folder: Path, seconds: float) -> bool:
    """Save in a process of its own, which is killed after a while; whether it was still running then."""
    child = os.fork()
    if child == 0:
        try:
            new.save()
        finally:
            os._exit(0)
    time.sleep(seconds)
    running = os.waitpid(child, os.WNOHANG)[0] == 0
    if running:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return running


def main() -> None:
    parser = argparse.ArgumentParser(description="Saves over an earlier result while something goes wrong.")
    parser.add_argument("peril", choices=("kill", "disk", "limit", "film"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--moments", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # so that a forked process can go on
    draw = random.Random(options.seed)
    folder = options.folder / "out"
    results = {mark: result(mark, folder) for mark in ("old", "new")}
    whole = {}
    for mark in ("old", "new"):
        start = time.perf_counter()
        results[mark].save()
        took = time.perf_counter() - start
        whole[mark] = files(folder)
        shutil.rmtree(folder)
    sizes = {mark: sum(map(len, found.values())) for mark, found in whole.items()}
    counts = {"moments": options.moments, "old": 0, "new": 0, "finished by the next": 0, "told in a line": 0}
    for _ in range(options.moments):
        mounted = None
        if options.peril == "disk":
            folder.mkdir(parents=True)
            room = sizes["old"] + draw.randint(0, sizes["new"]) + (64 << 10)
            mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(folder)], check=True)
        try:
            without = one(options.peril, results, whole, folder, took, draw, counts)
            found = {name: data for name, data in files(folder).items() if not name.startswith(".")}
            for name, data in found.items():  # as they lie there, before anything is finished
                assert name == f"{NAME}.json" or data in (whole["old"].get(name), whole["new"].get(name)), f"{name} is half"
            counts["finished by the next"] += (folder / f".{NAME}.whole").exists()
            finish(folder / NAME)
            counts[mark_of(files(folder), whole, without)] += 1
            finish(folder / NAME)
            assert not [path for path in folder.iterdir() if path.name.startswith(".")], list(folder.iterdir())
        finally:
            if mounted:
                subprocess.run(["umount", str(folder)], check=True)
        shutil.rmtree(folder)
    print(json.dumps(counts))


def one(
    peril: str, results: dict[str, Result], whole: dict, folder: Path, took: float, draw: random.Random, counts: dict[str, int]
) -> tuple[str, ...]:
    """An old result, and a new one over it while something goes wrong; the files that the new one may lack."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in whole["old"].items():
        (folder / name).write_bytes(data)
    new = results["new"]
    if peril == "kill":
        killed(new, folder, draw.uniform(0, 1.5 * took))
        return ()
    if peril == "film":
        new = dataclasses.replace(new)
        program = folder.parent / "ffmpeg"
        ending = draw.choice(("exit 1", "kill -9 $$", "exit 0"))
        half = f'head -c {draw.randint(0, 48 * 48 * 24)} > "${{last#file:}}"' if ending != "exit 0" else "true"
        program.write_text(f"#!/bin/sh\nfor last; do true; done\n{half}\n{ending}\n")
        program.chmod(0o755)
        os.environ["IMAGEIO_FFMPEG_EXE"] = str(program)
        new.save()
        return (f"{NAME}.mp4",)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if peril == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (draw.randint(0, int(1.2 * max(map(len, whole["new"].values())))), limits[1]))
    try:
        new.save()
    except UserError as error:
        assert "\n" not in str(error) and str(folder) in str(error), str(error)
        counts["told in a line"] += 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    # A film alone that does not fit is a warning, and the rest is written.
    return () if (folder / f"{NAME}.mp4").exists() else (f"{NAME}.mp4",)


if __name__ == "__main__":
    np.random.seed(0)  # noqa: NPY002 - the stand-ins draw from it
    torch.manual_seed(0)
    main()
