"""Outputs of many pictures, sentences and files of Gaussians, put through two public validators of 3D files.

    python scripts/validate_outputs.py make FOLDER --images IMAGES [--splats FILE ...]
    npm install --prefix NPM gltf-validator; pip install 3dqa
    python scripts/validate_outputs.py check FOLDER --modules NPM/node_modules [--linter BIN/3dqa]

`make` writes `picture_NAME.glb`, `sentence_NAME.glb`, `splats_NAME.glb`: the coarse mesh of every IMAGES/*_rgba.png and of 16 sentences
with the micro prior, and the meshes of 10 files of Gaussians: those given, and what the first pictures' Gaussians are in the four
formats that this project writes. What is there already is kept, so that a run that was stopped goes on. `check` prints a table;
exit code 1 if any file has an error or a warning of the glTF validator, or fails a check of the linter.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from microdreamer.core.files import clean_name
from microdreamer.pipeline.config import load_config
from scripts.validate_glb import find_validator, issues, validator_version

ROOT = Path(__file__).resolve().parents[1]
KINDS = {"picture": "pictures", "sentence": "sentences", "splats": "files of Gaussians"}
SENTENCES = (  # of words that the micro prior knows
    *("a red apple", "a wooden chair", "a yellow banana", "a green pine tree", "a blue car", "a stone well", "a white sheep"),
    *("a medieval shield", "a brown barrel with metal bands", "a pirate ship with sails", "a potted cactus", "a slice of pizza"),
    *("a small house with a red roof", "a grey robot", "a purple crystal", "a treasure chest full of gold"),
)
SPLAT_FILES = 10
FORMATS = ("ply", "splat", "spz", "glb")  # of the files of Gaussians that are made here, in turn
CHECKS = 7  # that the linter makes of a file


def make(folder: Path, images: Sequence[Path], sentences: Sequence[str], splats: Sequence[Path], count: int, words: Sequence[str]) -> None:
    """Write the GLB files that are not in `folder` yet; `count` files of Gaussians, of which `splats` are the first."""
    from microdreamer.core.errors import UserError
    from microdreamer.core.machine import choose_device
    from microdreamer.guidance import load_prior
    from microdreamer.pipeline.reconstruction import reconstruct
    from microdreamer.pipeline.refinement import refine

    config = load_config(ROOT / "configs" / "micro.yaml", ["video_frames=0", "mesh_format=glb", "splat_format=all", *words])
    prior = load_prior(config.prior, config.prior_path, choose_device(config.device))
    gaussians = folder / "gaussians"
    gaussians.mkdir(parents=True, exist_ok=True)
    own = sorted(gaussians.iterdir())

    def one(kind: str, name: str, work: Any) -> None:
        target = folder / f"{kind}_{clean_name(name).replace(' ', '_')}.glb"
        if target.exists():
            return
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as aside:
            try:
                result = work()
                stem = result.save(aside, "made")
            except UserError as error:
                print(f"{target.name}: {error}", flush=True)
                return
            if kind != "splats" and len(own) < count - len(splats):
                format = FORMATS[len(own) % len(FORMATS)]
                own.append(gaussians / f"{target.stem}.{format}")
                shutil.copy(f"{stem}{'_splats' if format == 'glb' else '_model'}.{format}", own[-1])
            shutil.move(f"{stem}{'' if kind == 'splats' else '_model'}.glb", target)
        print(f"{target.name}: {time.perf_counter() - start:.1f} s", flush=True)

    for path in images:
        one("picture", path.stem.removesuffix("_rgba"), lambda path=path: reconstruct(path, config=config, prior=prior))
    for sentence in sentences:
        one("sentence", sentence, lambda sentence=sentence: reconstruct(prompt=sentence, config=config, prior=prior))
    for path in [*splats, *own][:count]:
        name = path.name.replace(".", "_")
        one("splats", name, lambda path=path: refine(path, config=config))


def linted(linter: str, paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The linter's report on each file. Raises OSError or ValueError where it gives none."""
    reports = []
    for path in paths:  # of a single file it prints a report, of several a list of other form
        done = subprocess.run([linter, "lint", str(path)], capture_output=True, text=True)
        if done.returncode not in (0, 1):
            raise ValueError(f"{linter} lint {path}: exit code {done.returncode}: {done.stderr.strip()}")
        reports.append(json.loads(done.stdout))
    return reports


def kind_of(path: Path) -> str:
    return KINDS.get(path.name.partition("_")[0], "other")


def table(paths: Sequence[Path], validated: Sequence[dict], reports: Sequence[dict]) -> tuple[str, bool]:
    """Rows of Markdown, one a kind of input, what was found wrong in lines below, and whether that was anything."""
    lines = [
        "| outputs of | files | glTF validator: errors, warnings | linter: all checks passed | largest |",
        "| --- | --- | --- | --- | --- |",
    ]
    told: list[str] = []
    groups = [kind for kind in (*KINDS.values(), "other") if any(kind_of(path) == kind for path in paths)]
    for kind in groups:
        rows = [row for row in zip(paths, validated, reports, strict=True) if kind_of(row[0]) == kind]
        errors, warnings = (sum(found[name] for _, found, _ in rows) for name in ("numErrors", "numWarnings"))
        passed = sum(all(finding["passed"] for finding in report["findings"]) for _, _, report in rows)
        faces = max(report["geometry"]["faces"] for _, _, report in rows)
        lines.append(f"| {kind} | {len(rows)} | {errors}, {warnings} | {passed} of {len(rows)} | {faces} faces |")
        for path, found, report in rows:
            told += [f"{path.name}: {message['code']}: {message['message']}" for message in found["messages"] if message["severity"] < 2]
            told += [f"{path.name}: {finding['code']}: {finding['message']}" for finding in report["findings"] if not finding["passed"]]
            if len(report["findings"]) != CHECKS:
                told.append(f"{path.name}: the linter made {len(report['findings'])} checks, expected {CHECKS}")
    codes = Counter(line.split(": ")[1] for line in told)
    summary = ", ".join(f"{code} {number}" for code, number in codes.most_common())
    return "\n".join([*lines, "", *told, *([f"in all: {summary}"] if told else [])]), bool(told)


def check(paths: Sequence[Path], modules: Path | None, linter: str) -> int:
    """Print the table; exit code 1 if anything is wrong with a file, 2 where a validator is missing or there is no file."""
    validator, found = find_validator(modules), shutil.which(linter)
    if validator is None or found is None or not paths:
        print("validate_outputs: expected GLB files, node, the npm package gltf-validator (--modules) and 3dqa (--linter)", file=sys.stderr)
        return 2
    text, wrong = table(paths, issues(validator, list(paths)), linted(found, paths))
    version = subprocess.run([found, "--version"], capture_output=True, text=True).stdout.strip()
    print(f"{text}\ngltf-validator {validator_version(validator)}, {version}, {len(paths)} files")
    return int(wrong)


def main() -> int:
    parser = argparse.ArgumentParser(description="Outputs put through public validators of 3D files.")
    stages = parser.add_subparsers(dest="stage", required=True)
    making = stages.add_parser("make", help="write the outputs")
    making.add_argument("folder", type=Path)
    making.add_argument("--images", type=Path, help="folder of *_rgba.png")
    making.add_argument("--splats", type=Path, nargs="*", default=[], help="files of Gaussians")
    making.add_argument("--splat-count", type=int, default=SPLAT_FILES, help=f"how many of them in all (default: {SPLAT_FILES})")
    making.add_argument("--most", type=int, help="how many pictures and sentences, of each (default: all)")
    making.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="keys of the configuration")
    checking = stages.add_parser("check", help="validate them")
    checking.add_argument("folder", type=Path)
    checking.add_argument("--modules", type=Path, help="the node_modules that hold gltf-validator; else those of NODE_PATH")
    checking.add_argument("--linter", default="3dqa", help="the program 3dqa")
    options = parser.parse_args()
    if options.stage == "check":
        return check(sorted(options.folder.glob("*.glb")), options.modules, options.linter)
    images = sorted(options.images.glob("*_rgba.png")) if options.images else []
    most = slice(options.most)
    make(options.folder, images[most], SENTENCES[most], options.splats, options.splat_count, options.set)
    return 0


if __name__ == "__main__":
    sys.exit(main())
