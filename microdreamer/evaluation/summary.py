"""What the records of many objects say together: means, spreads, who wins, where it fails; as data and as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

# metric -> (heading, decimals, whether more is better)
METRICS = {
    "psnr_db": ("PSNR dB", 2, True),
    "ssim": ("SSIM", 3, True),
    "iou": ("mask IoU", 3, True),
    "chamfer": ("Chamfer", 4, False),
    "f_score_0.02": ("F @ 0.02", 3, True),
    "f_score_0.05": ("F @ 0.05", 3, True),
    "input_psnr_db": ("input view dB", 2, True),
    "sharpness": ("sharpness", 2, True),
}
DISTANCES = ("chamfer", "f_score_0.02", "f_score_0.05")
OURS, COARSE, REFINED, TRIVIAL = "ours", "coarse mesh", "refined mesh", ("flat card", "visual hull")
ANSWERS = (OURS, COARSE, REFINED, *TRIVIAL)
PRIOR_METRICS = {
    "input_psnr_db": ("input dB", 2),
    "sides_psnr_db": ("sides dB", 2),
    "back_psnr_db": ("back dB", 2),
    "input_iou": ("input IoU", 3),
    "sides_iou": ("sides IoU", 3),
    "back_iou": ("back IoU", 3),
}
RIVALRY = ("psnr_db", "ssim", "iou", "chamfer")  # what wins are counted in
MESHES = (COARSE, REFINED)
GENERATION, REFINEMENT = ("reconstruct", "mesh"), "refine"  # the phases of an object that a user waits for, in stages 1 and 2
WORST = 5


def _spread(values: Iterable[float | None]) -> dict[str, float | int | None]:
    """Mean and standard deviation (of the sample) of the values that are there, and how many they are."""
    present = [value for value in values if value is not None]
    if not present:
        return {"mean": None, "std": None, "count": 0}
    deviation = statistics.stdev(present) if len(present) > 1 else 0.0
    return {"mean": statistics.fmean(present), "std": deviation, "count": len(present)}


def _wins(records: Sequence[dict], metric: str, rival: str) -> int:
    """In how many objects ours is strictly better than the rival; an object without our mesh loses its distances."""
    more_is_better = METRICS[metric][2]
    count = 0
    for record in records:
        ours, other = record["scores"][OURS].get(metric), record["scores"][rival][metric]
        count += ours is not None and (ours > other if more_is_better else ours < other)
    return count


def _mesh_counts(meshes: Sequence[dict]) -> dict:
    """How many meshes are sound, and their mean numbers."""
    counts = {name: sum(mesh[name] for mesh in meshes) for name in ("edge_manifold", "watertight")}
    counts["complete"] = sum(not mesh["faults"] for mesh in meshes)
    means = {name: _spread(mesh[name] for mesh in meshes) for name in ("faces", "manifold_share", "degenerate_faces", "components")}
    return {"meshes": len(meshes), **counts, **means}


def generation_seconds(record: dict) -> float:
    """Seconds that the object took to make, without the measuring."""
    return sum(record["seconds"][phase] for phase in GENERATION)


def measuring_seconds(record: dict) -> float:
    """Seconds that only the evaluation needs."""
    return sum(record["seconds"].values()) - generation_seconds(record) - record["seconds"][REFINEMENT]


def _by_category(records: Sequence[dict]) -> dict[str, list[dict]]:
    groups: dict[str, list[dict]] = {}
    for record in records:
        groups.setdefault(record["category"] or "(none)", []).append(record)
    return dict(sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])))


def summarise(records: Sequence[dict]) -> dict:
    """Means and spreads over objects by answer and metric, seconds, wins, categories, and the worst objects, for JSON."""
    methods = {
        method: {metric: _spread(record["scores"].get(method, {}).get(metric) for record in records) for metric in METRICS}
        for method in ANSWERS
    }
    worst = sorted(records, key=lambda record: record["scores"][OURS]["psnr_db"])[:WORST]
    return {
        "objects": len(records),
        "without_mesh": [record["id"] for record in records if record["failure"]],
        "answers": methods,
        "prior_views": {metric: _spread(record["prior"][metric] for record in records) for metric in PRIOR_METRICS},
        "seconds": _spread(generation_seconds(record) for record in records),
        "refinement_seconds": _spread(record["seconds"][REFINEMENT] for record in records),
        "measuring_seconds": _spread(measuring_seconds(record) for record in records),
        "meshes": {
            answer: _mesh_counts([record["meshes"][answer] for record in records if answer in record["meshes"]]) for answer in MESHES
        },
        "wins": {rival: {metric: _wins(records, metric, rival) for metric in RIVALRY} for rival in TRIVIAL},
        "categories": {
            category: {
                "objects": len(group),
                **{metric: _spread(record["scores"][OURS].get(metric) for record in group) for metric in RIVALRY},
                "wins": {rival: {metric: _wins(group, metric, rival) for metric in RIVALRY} for rival in TRIVIAL},
            }
            for category, group in _by_category(records).items()
        },
        "worst": [record["id"] for record in worst],
    }


def _cell(spread: dict, decimals: int) -> str:
    return "-" if spread["mean"] is None else f"{spread['mean']:.{decimals}f} ± {spread['std']:.{decimals}f}"


def _rows(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def table(records: Sequence[dict]) -> str:
    """The results as Markdown: answers, the prior's own views, wins, categories, worst objects."""
    found = summarise(records)
    number = found["objects"]
    headings = [heading for heading, _, _ in METRICS.values()]
    answers = [
        [method, *(_cell(row[metric], decimals) for metric, (_, decimals, _) in METRICS.items())]
        for method, row in found["answers"].items()
    ]
    wins = [[f"ours beats {rival}", *(f"{row[metric]}/{number}" for metric in RIVALRY)] for rival, row in found["wins"].items()]
    categories = [
        [category, str(row["objects"])]
        + [_cell(row[metric], METRICS[metric][1]) for metric in RIVALRY]
        + [f"{row['wins'][rival]['psnr_db']}, {row['wins'][rival]['chamfer']}" for rival in TRIVIAL]
        for category, row in found["categories"].items()
    ]
    by_id = {record["id"]: record for record in records}
    worst = [
        [name, by_id[name]["caption"], *(_value(by_id[name]["scores"][OURS].get(metric), METRICS[metric][1]) for metric in METRICS)]
        for name in found["worst"]
    ]
    rival_headings = [METRICS[metric][0] for metric in RIVALRY]
    parts = [
        f"{number} objects, mean ± standard deviation over objects; {_cell(found['seconds'], 1)} s to make one, "
        f"{_cell(found['refinement_seconds'], 1)} s to refine its mesh, "
        f"{_cell(found['measuring_seconds'], 1)} s to measure it; without a mesh: {len(found['without_mesh'])}.",
        _rows(["answer", *headings], answers),
        "The meshes, each written as GLB and read back; complete: loads, has UVs, normals and texture, all numbers finite:",
        _rows(
            ["mesh", "complete", "edge-manifold", "watertight", "faces", "degenerate faces", "parts"],
            [
                [answer, *(f"{row[name]}/{row['meshes']}" for name in ("complete", "edge_manifold", "watertight"))]
                + [_cell(row[name], 1) for name in ("faces", "degenerate_faces", "components")]
                for answer, row in found["meshes"].items()
            ],
        ),
        "The prior's own four views:",
        _rows(
            [heading for heading, _ in PRIOR_METRICS.values()],
            [[_cell(found["prior_views"][metric], decimals) for metric, (_, decimals) in PRIOR_METRICS.items()]],
        ),
        "Objects won:",
        _rows(["", *rival_headings], wins),
        "Ours by category (the last columns count wins in PSNR, Chamfer distance):",
        _rows(["category", "objects", *rival_headings, *(f"beats {rival}" for rival in TRIVIAL)], categories),
        "The worst in PSNR:",
        _rows(["object", "caption", *headings], worst),
    ]
    return "\n\n".join(parts)


def _value(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def object_line(record: dict) -> str:
    """One line about one object, for the progress of a run."""
    ours = record["scores"][OURS]
    shown = [
        f"{METRICS[metric][0]} {_value(ours.get(metric), METRICS[metric][1])}" for metric in ("psnr_db", "iou", "chamfer", "input_psnr_db")
    ]
    return f"{record['id']}: {', '.join(shown)}; {generation_seconds(record):.0f} s" + (
        f"; {record['failure']}" if record["failure"] else ""
    )
