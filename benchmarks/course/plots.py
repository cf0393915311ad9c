"""The pictures of docs/course, from the figures that its chapters and scripts/benchmark_all.py keep with --out.

python -m benchmarks.course.plots FILE.json [FILE.json ...] [--folder docs/images]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.course.scene import figure, kind_of
from microdreamer.core.files import atomic_write


def draw_versions(axis: Any, rows: list[dict], floor_ms: float, title: str) -> None:
    """Milliseconds of each version, and the floor."""
    values = [row["median_ms"] for row in rows]
    bars = axis.barh([row["version"].replace("_", " ") for row in rows], values, color="tab:blue")
    axis.bar_label(bars, [f"{figure(value)} ms" for value in values], padding=3)
    axis.axvline(floor_ms, color="black", linestyle="--", label=f"floor, {floor_ms:.2g} ms")
    axis.set(xscale="log", xlim=(floor_ms / 2, max(values) * 8), xlabel="ms a call", title=title)
    axis.invert_yaxis()
    axis.legend(loc="lower right")


def draw_op(axis: Any, document: dict) -> None:
    weights = document["weights"]
    title = f"gaussian_3d_coeff of {weights['count']} pairs, {kind_of(document)}"
    draw_versions(axis, weights["rows"], max(weights["floor_ms"].values()), title)


def draw_kernels(axis: Any, document: dict) -> None:
    draw_versions(axis, document["rows"], document["floor_ms"], document["scene"])


def draw_step(axis: Any, document: dict) -> None:
    rows = document["rows"]
    values = [row["median_ms"] for row in rows]
    whole = ["view" in row["what"] for row in rows]  # the others are a part of a step, Adam
    bars = axis.barh([row["what"] for row in rows], values, color=["tab:orange" if step else "tab:gray" for step in whole])
    axis.bar_label(bars, [f"{figure(row['median_ms'])} ms, operations: {row['operations']}" for row in rows], padding=3)
    floor = document["floor_ms"]
    axis.vlines(floor, -0.5, sum(whole) - 0.5, color="black", linestyle="--", label=f"floor of a step, {floor:.2g} ms")
    title = f"a step of the fit, {document['gaussians']} Gaussians, {document['views']} views, {kind_of(document)}"
    axis.set(xscale="log", xlim=(min([floor, *values]) / 2, max(values) * 30), xlabel="ms", title=title)
    axis.invert_yaxis()
    axis.legend(loc="lower right")


def draw_program(axis: Any, document: dict) -> None:
    """Seconds by phase, stacked, of the program before and after."""
    switched = list(document["parts"])
    runs = {name: dict(run) for name, run in document["runs"].items()}
    for run in runs.values():
        run["mesh"] = max(run["mesh"] - sum(run[part] for part in switched), 0)
        del run["total"]
    order = [*switched, *(phase for phase in next(iter(runs.values())) if phase not in switched)]
    for number, phase in enumerate(order):
        starts = [sum(run[name] for name in order[:number]) for run in runs.values()]
        label = "mesh without these" if phase == "mesh" else phase
        axis.barh(list(runs), [run[phase] for run in runs.values()], left=starts, label=label)
    axis.set(xlabel="s", title=document["program"])
    axis.invert_yaxis()
    axis.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))


DRAWN: dict[str, Callable[[Any, dict], None]] = {"op": draw_op, "kernels": draw_kernels, "step": draw_step, "program": draw_program}


def draw(document: dict, path: Path) -> None:
    """One PNG of a chapter's figures, with date, device and commit below."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    picture, axis = pyplot.subplots(figsize=(8, 3.2))
    DRAWN[document["chapter"]](axis, document)
    picture.text(0.99, 0.01, f"{document['date']}, {document['device']}, commit {document['commit']}", ha="right", fontsize=7)
    picture.tight_layout(rect=(0, 0.03, 1, 1))
    with atomic_write(path) as temporary:
        picture.savefig(temporary, format="png", dpi=110)
    pyplot.close(picture)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="what `python -m benchmarks.course CHAPTER --out` wrote")
    parser.add_argument("--folder", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    for path in options.files:
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            parser.error(f"{path}: {error}; expected what `python -m benchmarks.course CHAPTER --out` wrote")
        if document.get("chapter") not in DRAWN:
            parser.error(f"{path}: expected figures of {', '.join(DRAWN)}")
        target = options.folder / f"course_{document['chapter']}_{'cpu' if kind_of(document) == 'cpu' else 'gpu'}.png"
        draw(document, target)
        print(target)


if __name__ == "__main__":
    main()
