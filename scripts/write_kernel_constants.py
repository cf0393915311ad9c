"""Writes csrc/constants.h: the numbers that the compiled kernels share with their plain-PyTorch twins, from the twins' modules.

python scripts/write_kernel_constants.py

Each number stands, with its meaning, in the module of microdreamer/kernels that `CONSTANTS` names. tests/kernels/test_extension.py
fails where the header is out of date.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from microdreamer.kernels import (  # noqa: E402
    adam,
    gaussian_field,
    gaussian_raster,
    grid_sampling,
    hash_grid,
    marching_cubes,
    mesh_raster,
    mesh_render,
    perceptron,
    texture,
    volume,
)

HEADER = ROOT / "csrc" / "constants.h"

# C++ namespace: the module, and (name there, C++ type) of each number.
CONSTANTS = {
    "md": (gaussian_field, [("DETERMINANT_FLOOR", "double")]),
    "md::adam": (adam, [("MAX_TENSORS", "int")]),
    "md::raster": (
        gaussian_raster,
        [
            ("NEAR", "float"),
            ("LOW_PASS", "float"),
            ("MIN_ALPHA", "float"),
            ("MAX_ALPHA", "float"),
            ("MIN_TRANSMITTANCE", "float"),
            ("VIEW_MARGIN", "float"),
            ("MIN_SPREAD", "float"),
            ("TILE", "int"),
        ],
    ),
    "md::grid_sampling": (grid_sampling, [("MAX_GRIDS", "int"), ("MAX_SIZE", "int64_t")]),
    "md::hash_grid": (
        hash_grid,
        [("MAX_LEVELS", "int"), ("LARGEST_CELL", "float"), ("PRIME_Y", "uint32_t"), ("PRIME_Z", "uint32_t")],
    ),
    "md::marching_cubes": (marching_cubes, [("MAX_FACES", "int"), ("NEAREST", "float")]),
    "md::mesh_raster": (mesh_raster, [("EDGE_SLACK", "float"), ("BOX_MARGIN", "float"), ("MAX_FACES", "int64_t")]),
    "md::mesh_render": (mesh_render, [("NEAR_PLANE", "float"), ("MAX_LIGHTS", "int")]),
    "md::perceptron": (perceptron, [("INPUT_STEP", "int"), ("MOST_INPUTS", "int"), ("MOST_HIDDEN", "int"), ("MOST_OUTPUTS", "int")]),
    "md::texture": (texture, [("MAX_SIDE", "int")]),
    "md::volume": (volume, [("MAX_OPTICAL_DEPTH", "float")]),
}
SUFFIXES = {"float": "f", "uint32_t": "u"}


def camel_case(name: str) -> str:
    return "k" + "".join(word.capitalize() for word in name.replace("-", "_").split("_"))


def header() -> str:
    """The text of csrc/constants.h."""
    lines = [
        "// Written by scripts/write_kernel_constants.py from microdreamer/kernels, where the numbers stand with their meaning.",
        "#pragma once",
        "",
        "#include <cstdint>",
    ]
    for namespace, (module, names) in CONSTANTS.items():
        lines += ["", f"namespace {namespace} {{"]
        lines += [f"constexpr {kind} {camel_case(name)} = {getattr(module, name)!r}{SUFFIXES.get(kind, '')};" for name, kind in names]
        if module is texture:
            lines.append(f"enum class Filter {{ {', '.join(map(camel_case, texture.FILTERS))} }};")
        lines.append(f"}}  // namespace {namespace}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    HEADER.write_text(header())
