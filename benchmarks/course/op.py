"""Chapter 3: gaussian_3d_coeff as an op and step by step, and four mistakes in extract_fields with the check that finds each."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.course import weights
from benchmarks.course.scene import Scene, kind_of, table
from benchmarks.extract_fields import object_like_gaussians
from microdreamer.kernels import course
from microdreamer.kernels.course import MISTAKES, extract_fields_reference
from microdreamer.kernels.gaussian_field import gaussian_3d_coeff, gaussian_3d_coeff_reference

GRID = (9, 3, 1.5)  # not whole blocks of threads: 729 points
TOLERANCE = 1e-4
RIGHT = course.STEPS[-1]


def sample(device: str) -> tuple[Tensor, Tensor, Tensor]:
    """More Gaussians than a block fetches at a time, wide enough for so coarse a grid; the first outside of it."""
    means, covs, opacities = object_like_gaussians(300, device)
    means[0] = 5.0
    return means, 20 * covs, opacities


def matches_twin(variant: str, device: str) -> None:
    """Raises AssertionError where a value is not the twin's in float64."""
    arguments = sample(device)
    expected = extract_fields_reference(*(part.double() for part in arguments), *GRID)
    difference = float((course.extract_fields(*arguments, *GRID, variant) - expected).abs().max())
    assert difference <= TOLERANCE, f"differs from the twin by {difference:.2g}, expected at most {TOLERANCE:g}"


def passes_opcheck(variant: str, device: str) -> None:
    """Raises torch.testing's or opcheck's error where the op does not do what its schema says."""
    torch.library.opcheck(torch.ops.microdreamer.course_extract_fields.default, (*sample(device), *GRID, variant))


CHECKS: dict[str, Callable[[str, str], None]] = {"twin": matches_twin, "opcheck": passes_opcheck}


def verdict(check: Callable[[str, str], None], variant: str, device: str) -> str:
    """`passes`, or the first line of what the check says."""
    try:
        check(variant, device)
    except Exception as error:  # whatever it raises is its verdict
        lines = [line for line in str(error).splitlines() if line.strip()]
        return next((line for line in lines if "write" in line or "mutat" in line), lines[0])
    return "passes"


def show_op(device: str) -> dict:
    """gaussian_3d_coeff by its parts."""
    op = torch.ops.microdreamer.gaussian_3d_coeff.default
    xyzs = 0.03 * torch.randn(24, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(device)
    covs = object_like_gaussians(24, device)[1].double()
    keys = [key for key in ("CPU", "CUDA", "Meta", "Autograd") if torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), key)]
    meta = op(xyzs.to("meta"), covs.to("meta"))
    difference = float((gaussian_3d_coeff(xyzs, covs) - gaussian_3d_coeff_reference(xyzs, covs)).abs().max())
    leaves = (xyzs.requires_grad_(), covs.requires_grad_())
    gradients = torch.autograd.gradcheck(gaussian_3d_coeff, leaves, eps=1e-7, atol=1e-4)
    checked = torch.library.opcheck(op, leaves)
    rows = {
        "schema": str(op._schema),
        "kernels": ", ".join(keys),
        "fake": f"{list(meta.shape)} {meta.dtype} on {meta.device}, without computing",
        "twin": f"differs by {difference:.0e} in float64",
        "gradient": f"gradcheck {'passes' if gradients else 'fails'}",
        "opcheck": ", ".join(f"{name.removeprefix('test_')}: {result.lower()}" for name, result in checked.items()),
    }
    return rows


def run(scene: Scene) -> dict:
    checked = [
        {"variant": variant} | {name: verdict(check, variant, scene.device) for name, check in CHECKS.items()}
        for variant in (RIGHT, *MISTAKES)
    ]
    return {"op": show_op(scene.device), "weights": weights.run(scene), "rows": checked}


def tell(document: dict) -> Iterator[str]:
    for name, text in document["op"].items():
        yield f"{name:9} {text}"
    yield from weights.tell(document["weights"], kind_of(document))
    yield f"\nextract_fields, a right step and four wrong ones: {GRID[0]}^3 points, 300 Gaussians"
    for row in document["rows"]:
        yield "\n".join([row["variant"], *(f"  {name:8} {row[name][:150]}" for name in CHECKS)])
    caught = [(row["variant"], *("passes" if row[name] == "passes" else "finds it" for name in CHECKS)) for row in document["rows"]]
    yield "\n" + table(("step", *CHECKS), caught)
