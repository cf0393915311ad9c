"""The rows of the benchmark as tables of Markdown: python -m microdreamer.voxel_diffusion.benchmark.report FOLDER [FOLDER ...]"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

Curve = list[list[float]]  # [seconds, steps, validation loss], in order


def reached(curve: Curve, loss: float) -> list[float] | None:
    """[seconds, steps] at which a curve first is at `loss` or below, interpolated between validations in the logarithm of the loss."""
    before = None
    for seconds, steps, value in curve:
        if value <= loss:
            if before is None:
                return [seconds, steps]
            share = (math.log(before[2]) - math.log(loss)) / max(math.log(before[2]) - math.log(value), 1e-12)
            return [before[0] + share * (seconds - before[0]), before[1] + share * (steps - before[1])]
        before = [seconds, steps, value]
    return None


def at_steps(curve: Curve, steps: float) -> float | None:
    """Loss at a number of steps, interpolated; None outside of the curve."""
    if not curve or not curve[0][1] <= steps <= curve[-1][1]:
        return None
    return math.exp(float(np.interp(steps, [c[1] for c in curve], [math.log(c[2]) for c in curve])))


def number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}g}"


def row_of(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def head(*titles: str) -> list[str]:
    return [row_of(*titles), row_of(*["---"] * len(titles))]


def own_rows(rows: dict[str, dict], prefix: str) -> dict[str, dict]:
    return {key.removeprefix(prefix): row for key, row in rows.items() if key.startswith(prefix)}


def failed(row: dict, cells: int) -> list[str]:
    """The first line of an error's text, and nothing in the other cells."""
    return [row["error"].splitlines()[0], *[""] * (cells - 1)]


def read_rows(folders: Sequence[Path]) -> dict:
    """One document of the rows_*.json files of several folders. Raises FileNotFoundError where there is none."""
    paths = [path for folder in folders for path in sorted(Path(folder).glob("rows_*.json"))]
    if not paths:
        raise FileNotFoundError(f"{', '.join(map(str, folders))}: no rows_*.json of microdreamer.voxel_diffusion.benchmark.run")
    documents = [json.loads(path.read_text()) for path in paths]
    rows: dict[str, dict] = {}
    for document in documents:
        rows |= document["rows"]
    return documents[-1] | {"rows": rows}


def ladder_table(rows: dict[str, dict]) -> list[str]:
    """`ladder` and `compile`, each against its own first row, which ran on the same machine just before the others."""
    lines = ["## Execution options", ""]
    for prefix in ("ladder: ", "compile: "):
        own = own_rows(rows, prefix)
        if not own:
            continue
        first = next((row["it_s"] for row in own.values() if "it_s" in row), None)
        lines += head("option", "it/s", "times the first", "peak GiB", "set-up s")
        for key, row in own.items():
            if "error" in row:
                lines.append(row_of(key, *failed(row, 4)))
                continue
            cells = [number(row["it_s"]), number(row["it_s"] / first), number(row["peak_gib"]), number(row["setup_s"])]
            lines.append(row_of(key, *cells))
        lines.append("")
    return lines


def full_table(full: dict[str, dict], timesteps: int) -> list[str]:
    """How soon each run was at the loss that the float32 run ended with, which the latter may have met before its end."""
    plain = full["float32"]
    goal = plain["val_loss"]
    plain_s = reached(plain["curve"], goal)[0]
    lines = [f"## To the plain run's final validation loss, {goal:.4f} (T={timesteps}, uniform)", ""]
    lines += [f"Answering the training set's mean always costs {plain['mean_loss']:.4f}.", ""]
    lines += head("run", "it/s", "peak GiB", "steps", "final loss", "s to that loss", "updates to it", "speed-up")
    for key, row in sorted(full.items(), key=lambda item: item[1].get("it_s", math.inf)):
        if "error" in row:
            lines.append(row_of(key, *failed(row, 7)))
            continue
        hit = reached(row["curve"], goal)
        cells = [number(row["it_s"]), number(row["peak_gib"]), str(row["steps"]), f"{row['val_loss']:.4f}"]
        lines.append(row_of(key, *cells, number(hit and hit[0]), number(hit and hit[1]), number(hit and plain_s / hit[0])))
    return [*lines, ""]


def spread(values: list[float | None], digits: int = 3) -> str:
    """The value, or the mean and the range of those of several seeds."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return number(known[0] if known else None, digits)
    return f"{number(sum(known) / len(known), digits)} ({number(min(known), digits)} to {number(max(known), digits)})"


def hit_cell(hits: list[list[float] | None]) -> str:
    """Seconds of what `reached` found, and how many of the seeds they are of if others did not get there."""
    known = [hit[0] for hit in hits if hit]
    return spread(known) + (f", {len(known)} of {len(hits)}" if 0 < len(known) < len(hits) else "")


def set_cells(rows: list[dict], sampled: int) -> list[str]:
    """MMD and 1-NNA, which say nothing about samples that are all empty."""
    seen = [row for row in rows if row["empty"] < sampled]
    return [spread([1000 * row["mmd"] for row in seen]), spread([row["one_nna"] for row in seen])]


def strategy_table(own: dict[str, dict], timesteps: int, sampled: int, sampling_steps: int) -> list[str]:
    uniform = [row for key, row in own.items() if key.split(", seed")[0] == "uniform"]
    goal = sum(row["val_loss"] for row in uniform) / len(uniform)
    # The loss at equal updates is read where all but the slowest have been; those that took fewer steps have none.
    equal = min(row["steps"] for row in own.values() if row["steps"] > 0.25 * own["uniform"]["steps"])
    lines = [f"## Strategies, T={timesteps}, {number(own['uniform']['seconds'])} s each", ""]
    lines += [
        f"Equal updates: the loss after {equal} steps. Uniform's loss: {goal:.4f}; the training set's mean: "
        f"{own['uniform']['mean_loss']:.4f}. Samples: {sampled} grids, {min(sampling_steps, timesteps)} DDPM steps. Means (and ranges) "
        "over as many seeds as there are.",
        "",
    ]
    lines += head(
        "strategy",
        "seeds",
        "it/s",
        "steps",
        "peak GiB",
        "loss, equal time",
        "loss, equal updates",
        "s to uniform's loss",
        "sphere IoU",
        "empty",
        "MMD x1000",
        "1-NNA",
    )
    titles = list(dict.fromkeys(key.split(", seed")[0] for key in own))
    only_trained = {}
    for title in titles:
        rows = [row for key, row in own.items() if key.split(", seed")[0] == title]
        hits = [reached(row["curve"], goal) for row in rows]
        cells = [str(len(rows)), spread([row["it_s"] for row in rows[:1]]), spread([row["steps"] for row in rows], 4)]
        cells += [number(rows[0]["peak_gib"]), spread([row["val_loss"] for row in rows])]
        cells += [spread([at_steps(row["curve"], equal) for row in rows]), hit_cell(hits)]
        cells += [spread([row[name] for row in rows]) for name in ("sphere_iou", "empty")]
        cells += set_cells(rows, sampled)
        lines.append(row_of(title, *cells))
        if "trained_levels_only" in rows[0]:
            only_trained[title] = rows[0]["trained_levels_only"]
    if only_trained:
        lines += ["", "Visiting only the timesteps that were trained on:", ""]
        lines += head("strategy", "sphere IoU", "empty", "MMD x1000", "1-NNA")
        for title, row in only_trained.items():
            lines.append(row_of(title, number(row["sphere_iou"]), str(row["empty"]), *set_cells([row], sampled)))
    return [*lines, ""]


def level_table(rows: dict[str, dict]) -> list[str]:
    """The loss of each level beside that of the set's mean, and how the mean of them went."""
    count = max(len(row["level_losses"]) for row in rows.values())
    lines = head("error at the level", *[f"{(i + 1) / count:g} T" for i in range(count)], "mean of the set")
    lines += [
        row_of(title, *[number(error, 2) for error in row["level_losses"]], number(row["mean_loss"], 2)) for title, row in rows.items()
    ]
    lines.append("")
    for title, row in rows.items():
        lines.append(f"- `{title}`, validation loss: " + ", ".join(f"{loss:.4f} ({steps} steps)" for _, steps, loss in row["curve"]) + ".")
    return [*lines, ""]


SAMPLERS = ("ddpm_250", "ddpm_50", "ddim_50")


def percent(shares: list[float]) -> str:
    return " / ".join(f"{100 * share:.1f}" for share in shares)


def sphere_table(rows: dict[str, dict], preset: dict) -> list[str]:
    lines = [f"## Samples of longer runs on spheres (T={preset['long']}, batch {preset['batch']}, {preset['sampled']} samples)", ""]
    lines += [
        "Sphere IoU: with the nearest sphere of the distribution, which is continuous; nearest: IoU with the nearest training grid. "
        "Filled: 10th, 50th and 90th percentile.",
        "",
    ]
    titles = ("run and sampler", "sphere IoU", "median", "share >= 0.9", "nearest", "empty", "filled %", "MMD x1000", "COV", "1-NNA")
    lines += head(*titles)
    for name, row in rows.items():
        for key in SAMPLERS:
            judged = row[key]
            cells = [f"{judged[value]:.3f}" for value in ("sphere_iou", "sphere_iou_median", "share_above_0.9", "nearest_iou")]
            cells += [str(judged["empty"]), percent(judged["fills"]), number(1000 * judged["mmd"])]
            cells += [f"{judged['cov']:.2f}", f"{judged['one_nna']:.2f}"]
            lines.append(row_of(f"{name}, {row['steps']} steps, {number(row['seconds'])} s: {key.replace('_', ' ')}", *cells))
    any_row = next(iter(rows.values()))
    lines += ["", f"Training set: filled {percent(any_row[SAMPLERS[0]]['fills_training'])} %.", ""]
    return lines + level_table(rows)


def object_table(row: dict) -> list[str]:
    lines = [f"## Objects: {row['training_objects']} voxelised, {number(row['seconds'])} s ({row['steps']} steps)", ""]
    lines += head("sampler", "empty", "filled %", "IoU, nearest training object", "MMD x1000", "COV", "1-NNA")
    for key in SAMPLERS:
        judged = row[key]
        cells = [str(judged["empty"]), percent(judged["fills"]), f"{judged['nearest_iou']:.3f}", number(1000 * judged["mmd"])]
        lines.append(row_of(key.replace("_", " "), *cells, f"{judged['cov']:.2f}", f"{judged['one_nna']:.2f}"))
    shares = f"training objects {percent(row[SAMPLERS[0]]['fills_training'])} %, held-out ones {percent(row['fills_held_out'])} %"
    lines += ["", f"Filled: 10th, 50th and 90th percentile; {shares}.", ""]
    return lines + level_table({"objects": row})


def table(document: dict) -> str:
    """All rows of a document that `read_rows` made."""
    rows, preset = document["rows"], document["preset"]
    lines = [f"# Voxel diffusion, {preset['size']}^3, {preset['shapes']} spheres, batch {preset['batch']}", ""]
    lines += [f"{document['machine']}, PyTorch {document['torch']}.", ""]
    lines += ladder_table(rows)
    full = own_rows(rows, "full: ")
    lines += full_table(full, preset["long"]) if "curve" in full.get("float32", {}) else []
    for timesteps in sorted({10, preset["long"]}):
        own = {key: row for key, row in own_rows(rows, f"T={timesteps}: ").items() if "empty" in row}
        lines += strategy_table(own, timesteps, preset["sampled"], 50) if "uniform" in own else []
    spheres = {key: row for key, row in own_rows(rows, "spheres: ").items() if SAMPLERS[-1] in row}
    lines += sphere_table(spheres, preset) if spheres else []
    lines += object_table(rows["objects"]) if SAMPLERS[-1] in rows.get("objects", {}) else []
    errors = {key: row for key, row in rows.items() if "error" in row}
    if errors:
        lines += ["## Failed", "", *[f"- {key}: {row['error']}" for key, row in errors.items()], ""]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(read_rows([Path(folder) for folder in sys.argv[1:]])))
