"""Puts the figures of docs/course/evidence into the chapters of docs/course, where they are shown.

    python -m benchmarks.course kernels --device cpu --out docs/course/evidence/cpu_kernels.json
    python -m benchmarks.course.pages

Where a page has `<!-- cpu kernels -->` there follows a line of its own and then the output, which this replaces. What nsys.csv holds goes
to `<!-- nsys -->` in the first chapter in the same way.
"""

from __future__ import annotations

import csv
import importlib
import json
import re
import textwrap
from pathlib import Path

from benchmarks.course.scene import table
from microdreamer.core.files import atomic_write
from microdreamer.core.machine import describe

COURSE = Path(__file__).resolve().parents[2] / "docs" / "course"
NSYS = ("1_profile.md", COURSE / "evidence" / "nsys.csv")
HEADER = ("date", "device", "torch", "cuda", "commit")


def shown(document: dict) -> str:
    """What the chapter printed when it made these figures, indented as a block of a page."""
    chapter = document["chapter"]
    header = {name: document[name] for name in HEADER if name in document} | {"command": f"python -m benchmarks.course {chapter}"}
    told = importlib.import_module(f"benchmarks.course.{chapter}").tell(document)
    return textwrap.indent("\n".join([describe(header), *told]) + "\n", "    ")


def with_output(page: str, mark: str, output: str) -> str:
    """The page with its output at `mark` replaced. ValueError where it has no such place."""
    place = re.compile(rf"(<!-- {mark} -->\n[^\n]+\n\n)(?:    [^\n]*\n|\n)+")
    if not place.search(page):
        raise ValueError(f"no output at <!-- {mark} -->")
    return place.sub(lambda found: f"{found[1]}{output}\n", page)


def evidence() -> dict[str, dict]:
    """Figures by mark: `cpu kernels`, `gpu kernels`, and so on."""
    paths = sorted((COURSE / "evidence").glob("[cg]pu_*.json"))
    return {path.stem.replace("_", " "): json.loads(path.read_text(encoding="utf-8")) for path in paths}


def nsys_shown() -> str:
    """What Nsight Systems recorded of the mesh phase (see nsys.py), the ranges of each version by their time, as a block of a page."""
    with NSYS[1].open(encoding="utf-8") as file:
        rows = [{name: text if name == "range" else float(text) for name, text in row.items()} for row in csv.DictReader(file)]
    told = []
    for phase, version in enumerate(("plain PyTorch (USE_CUDA_GAUSS=0 USE_CUDA_EXTRACT=0)", "kernels"), start=1):
        longest = sorted((row for row in rows if row["phase"] == phase), key=lambda row: -row["seconds"])
        cells = [
            (
                row["range"],
                row["seconds"],
                f"{row['kernels']:.0f}",
                row["launching_s"],
                row["kernels_s"],
                f"{100 * row['kernels_s'] / row['seconds']:.0f} %",
            )
            for row in longest
        ]
        told += ["", version, table(("range", "s", "kernels", "host starts them, s", "they run, s", "GPU busy"), cells)]
    return textwrap.indent("\n".join(told[1:]) + "\n", "    ")


def main() -> None:
    for mark, document in evidence().items():
        (path,) = COURSE.glob(f"[1-6]_{document['chapter']}.md")
        text = with_output(path.read_text(encoding="utf-8"), mark, shown(document))
        rewrite(path, text)
    page = COURSE / NSYS[0]
    rewrite(page, with_output(page.read_text(encoding="utf-8"), "nsys", nsys_shown()))


def rewrite(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
