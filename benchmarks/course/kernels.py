"""Chapter 4: the density grid from the obvious kernel to the library's, each checked, timed, and held against the floor."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.course.scene import LIBRARY, PLAIN, Scene, table
from benchmarks.extract_fields import TOLERANCE
from benchmarks.timing import busy_milliseconds
from microdreamer.kernels.course import STEPS
from microdreamer.kernels.gaussian_field import extract_fields_reference


def run(scene: Scene) -> dict:
    floor = max(scene.floor_ms().values())
    gaussians = [part.double() for part in scene.gaussians]
    expected = extract_fields_reference(*gaussians, *scene.grid)
    largest = max(1.0, float(expected.max()))
    rows = []
    for name in (PLAIN, *STEPS, LIBRARY):
        call = scene.version(name)
        difference = float((call() - expected).abs().max()) / largest
        if not difference <= TOLERANCE:
            raise SystemExit(f"{name}: differs from float64 by {difference:.1g} of the largest value; expected at most {TOLERANCE}")
        timing = scene.time(name)
        busy = busy_milliseconds(call, repeats=1 if name == PLAIN else 3) if scene.device == "cuda" else timing.median
        rows.append({"version": name, **timing.as_row(), "kernels_ms": busy, "difference": difference})
    for row in rows:
        row["times_plain"] = rows[0]["median_ms"] / row["median_ms"]
        row["floor_percent"] = 100 * floor / row["median_ms"]
    return {"scene": str(scene), "floor_ms": floor, "rows": rows}


def tell(document: dict) -> Iterator[str]:
    keys = ("median_ms", "kernels_ms", "times_plain", "floor_percent")
    cells = [(row["version"], *(row[key] for key in keys), f"{row['difference']:.0e}") for row in document["rows"]]
    yield f"density grid: {document['scene']}"
    yield table(("version", "call, ms", "kernels, ms", "times plain", "% of the floor", "difference"), cells)
    yield f"\nThe floor is {document['floor_ms']:.3g} ms; 100 % would be a call that takes no longer. Differences are from float64."
