"""The rows of benchmarks.voxel_diffusion as tables of Markdown."""

from __future__ import annotations

import math

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


def ladder_table(ladder: dict[str, dict]) -> list[str]:
    first = next((row["it_s"] for row in ladder.values() if "it_s" in row), None)
    lines = ["## Execution options", "", *head("option", "it/s", "times the first", "peak GiB", "set-up s")]
    for key, row in ladder.items():
        if "error" in row:
            lines.append(row_of(key, row["error"], "", "", ""))
        else:
            lines.append(row_of(key, number(row["it_s"]), number(row["it_s"] / first), number(row["peak_gib"]), number(row["setup_s"])))
    return [*lines, ""]


def full_table(full: dict[str, dict], timesteps: int) -> list[str]:
    goal = full["float32"]["val_loss"]
    lines = [f"## To the plain run's final validation loss, {goal:.5f} (T={timesteps}, uniform)", ""]
    lines += head("run", "it/s", "peak GiB", "final loss", "seconds to that loss", "updates to it", "speed-up")
    for key, row in full.items():
        if "error" in row:
            lines.append(row_of(key, row["error"], *[""] * 5))
            continue
        hit = reached(row["curve"], goal)
        speed_up = full["float32"]["seconds"] / hit[0] if hit else None
        cells = [number(row["it_s"]), number(row["peak_gib"]), f"{row['val_loss']:.5f}"]
        lines.append(row_of(key, *cells, number(hit and hit[0]), number(hit and hit[1]), number(speed_up)))
    return [*lines, ""]


def strategy_table(own: dict[str, dict], timesteps: int, sampled: int, sampling_steps: int) -> list[str]:
    goal = own["uniform"]["val_loss"]
    # The loss at equal updates is read where all but the slowest have been; those that took fewer steps have none.
    equal = min(row["steps"] for row in own.values() if row["steps"] > 0.25 * own["uniform"]["steps"])
    lines = [f"## Strategies, T={timesteps}, {number(own['uniform']['seconds'])} s each", ""]
    lines += [
        f"Equal updates: the loss after {equal} steps. Uniform's loss: {goal:.5f}. Samples: {sampled} grids, "
        f"{min(sampling_steps, timesteps)} DDPM steps; in brackets, visiting the trained timesteps only.",
        "",
    ]
    lines += head(
        "strategy",
        "it/s",
        "steps",
        "peak GiB",
        "loss, equal time",
        "loss, equal updates",
        "s to uniform's loss",
        "sphere IoU",
        "MMD x1000",
        "1-NNA",
    )
    for key, row in own.items():
        hit, only = reached(row["curve"], goal), row.get("trained_levels_only")

        def both(name: str, scale: float = 1.0, row: dict = row, only: dict | None = only) -> str:
            return number(row[name] * scale) + (f" ({number(only[name] * scale)})" if only else "")

        cells = [number(row["it_s"]), str(row["steps"]), number(row["peak_gib"]), f"{row['val_loss']:.5f}"]
        cells += [number(at_steps(row["curve"], equal), 4), number(hit and hit[0])]
        lines.append(row_of(key, *cells, both("sphere_iou"), both("mmd", 1000), both("one_nna")))
    return [*lines, ""]


def sphere_table(row: dict, batch: int, timesteps: int) -> list[str]:
    lines = [f"## Samples after {number(row['seconds'])} s ({row['steps']} steps of {batch}, `importance`, T={timesteps})", ""]
    lines += ["Sphere IoU: with the nearest sphere of the distribution, which is continuous.", ""]
    lines += head("sampler", "sphere IoU", "median", "share at 0.9 or above", "IoU, nearest training grid", "MMD x1000", "COV", "1-NNA")
    for key in ("ddpm_250", "ddpm_50", "ddim_50"):
        judged = row[key]
        shares = [f"{judged[name]:.3f}" for name in ("sphere_iou", "sphere_iou_median", "share_above_0.9", "nearest_iou")]
        sets = [number(1000 * judged["mmd"]), f"{judged['cov']:.2f}", f"{judged['one_nna']:.2f}"]
        lines.append(row_of(f"{key.replace('_', ', ')} steps", *shares, *sets))
    return [*lines, ""]


def object_lines(row: dict) -> list[str]:
    return [
        f"## Objects: {row['training_objects']} voxelised, {number(row['seconds'])} s ({row['steps']} steps)",
        "",
        f"Validation loss {row['val_loss']:.5f}. Samples: IoU with the nearest of training {row['nearest_iou']:.3f}, {row['empty']} empty; "
        f"against held-out objects MMD x1000 {number(1000 * row['mmd'])}, COV {row['cov']:.2f}, 1-NNA {row['one_nna']:.2f}.",
        "",
    ]


def table(document: dict, sampling_steps: int) -> str:
    """All rows of rows.json."""
    rows, preset = document["rows"], document["preset"]
    lines = [f"# Voxel diffusion, {preset['size']}^3, {preset['shapes']} spheres, batch {preset['batch']}", ""]
    lines += [f"{document['machine']}, PyTorch {document['torch']}.", ""]
    ladder, full = own_rows(rows, "ladder: "), own_rows(rows, "full: ")
    lines += ladder_table(ladder) if ladder else []
    lines += full_table(full, preset["long"]) if "curve" in full.get("float32", {}) else []
    for timesteps in sorted({10, preset["long"]}):
        own = {key: row for key, row in own_rows(rows, f"T={timesteps}: ").items() if "curve" in row}
        lines += strategy_table(own, timesteps, preset["sampled"], sampling_steps) if "uniform" in own else []
    lines += sphere_table(rows["spheres"], preset["batch"], preset["long"]) if "ddim_50" in rows.get("spheres", {}) else []
    lines += object_lines(rows["objects"]) if "mmd" in rows.get("objects", {}) else []
    return "\n".join(lines)
