"""Endless captioned training shapes: `generate(seed)` composes one low-poly object, the same for the same seed.

Compositions of primitives teach a reconstruction network what objects look like from other sides (Xie et al., "LRM-Zero",
arXiv 2406.09371). Half of the families are abstract assemblies, half follow grammars of things: furniture, buildings, vehicles, plants,
animals, food, tools. Meshes follow the conventions of the packed objects: +Y up, front +Z, bounding box centred at the origin,
farthest vertex at 0.8, counter-clockwise outside.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from microdreamer.shapes.procedural import assemblies, buildings, creatures, forms, handheld, household, nature, props, vehicles
from microdreamer.shapes.procedural.parts import finish
from microdreamer.shapes.procedural.scene import Scene

MIN_FACES, MAX_FACES = 6, 6000
_STREAM = 0x5EED  # keeps this generator's random numbers apart from others' that start from the same seed
_CHUNK = 64  # shapes a worker makes at a time: about 0.2 s

# Weight and grammar of each family. A grammar fills a scene and returns the caption.
FAMILIES: dict[str, tuple[float, Callable[[Scene], str]]] = {
    "assembly": (26.0, assemblies.assembly),
    "array": (4.0, assemblies.array),
    "vessel": (6.0, forms.vessel),
    "turned": (4.0, forms.turned),
    "plate": (5.0, forms.plate),
    "stroke": (4.0, forms.stroke),
    "terrain": (2.5, forms.terrain),
    "wall": (2.0, forms.wall),
    "stairs": (2.0, forms.stairs),
    "table": (3.0, household.table),
    "chair": (3.5, household.chair),
    "sofa": (2.0, household.sofa),
    "bed": (1.5, household.bed),
    "cabinet": (3.5, household.cabinet),
    "lamp": (2.0, household.lamp),
    "barrel": (2.5, household.barrel),
    "crate": (3.0, household.crate),
    "food": (8.0, handheld.food),
    "tool": (6.0, handheld.tool),
    "book": (1.0, handheld.book),
    "prop": (6.0, props.prop),
    "house": (6.0, buildings.house),
    "castle": (3.0, buildings.castle),
    "vehicle": (7.0, vehicles.vehicle),
    "craft": (4.0, vehicles.craft),
    "fence": (2.5, buildings.fence),
    "tree": (5.0, nature.tree),
    "plant": (4.0, nature.plant),
    "rocks": (3.0, nature.rocks),
    "animal": (5.0, creatures.animal),
    "fish": (3.0, creatures.fish),
    "figure": (3.0, creatures.figure),
}
_NAMES = tuple(FAMILIES)
_CUMULATIVE = np.cumsum([weight for weight, _ in FAMILIES.values()])


@dataclass(frozen=True)
class Shape:
    """One captioned mesh, V vertices and F triangles."""

    vertices: np.ndarray  # [V, 3] float32
    faces: np.ndarray  # [F, 3] int32
    corner_colors: np.ndarray  # [F, 3, 3] uint8, sRGB of each corner
    corner_normals: np.ndarray  # [F, 3, 3] int8, shading normal of each corner times 127
    caption: str  # a lower-case noun phrase


def generate(seed: int, family: str | None = None) -> Shape:
    """Make the shape of a seed (>= 0); `family`, one of FAMILIES, is drawn from the seed unless given."""
    if seed < 0:
        raise ValueError(f"seed is a whole number of at least 0, got {seed}")
    if family is not None and family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}; choose one of {', '.join(FAMILIES)}")
    rng = np.random.default_rng((_STREAM, seed))
    name = _NAMES[int(np.searchsorted(_CUMULATIVE, rng.random() * _CUMULATIVE[-1], side="right"))]
    scene = Scene(rng)
    caption = FAMILIES[family or name][1](scene)
    vertices, faces, colors, normals = finish(scene.parts)
    return Shape(vertices, faces, colors, normals, caption)


def _generate_range(bounds: tuple[int, int]) -> list[Shape]:
    return [generate(seed) for seed in range(*bounds)]


def generate_many(first_seed: int, count: int, workers: int | None = None) -> list[Shape]:
    """The shapes of the seeds first_seed .. first_seed + count - 1, in order, made by `workers` processes (None: one for each core)."""
    if count < 0:
        raise ValueError(f"count is a whole number of at least 0, got {count}")
    end = first_seed + count
    bounds = [(start, min(start + _CHUNK, end)) for start in range(first_seed, end, _CHUNK)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(workers or cores, len(bounds))
    if workers <= 1:
        return _generate_range((first_seed, end))
    # The children run numpy only, so a fork is safe beside CUDA and spares importing the caller's script again.
    method = "fork" if sys.platform.startswith("linux") else "spawn"
    with multiprocessing.get_context(method).Pool(workers) as pool:
        return [shape for chunk in pool.imap(_generate_range, bounds) for shape in chunk]


def pack(shapes: list[Shape]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Lay N shapes end to end like the packed objects.

    Returns the arrays ids [N] str, vertex_offset and face_offset [N + 1] int64, vertices [V, 3] float32, faces [F, 3] int32 (numbers within
    the shape), colors [F, 3, 3] uint8 and normals [F, 3, 3] int8, and the N captions. Raises ValueError for an empty list.
    """
    if not shapes:
        raise ValueError("pack needs at least one shape, got none")

    def offsets(lengths: list[int]) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    arrays = {
        "ids": np.array([f"procedural-{i}" for i in range(len(shapes))]),
        "vertex_offset": offsets([len(s.vertices) for s in shapes]),
        "face_offset": offsets([len(s.faces) for s in shapes]),
        "vertices": np.concatenate([s.vertices for s in shapes]),
        "faces": np.concatenate([s.faces for s in shapes]),
        "colors": np.concatenate([s.corner_colors for s in shapes]),
        "normals": np.concatenate([s.corner_normals for s in shapes]),
    }
    return arrays, [s.caption for s in shapes]
