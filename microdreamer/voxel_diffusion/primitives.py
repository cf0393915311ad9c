"""Solid shapes on a cubic grid: spheres, cubes, tori, and unions and differences of them.

Lengths are voxels. Voxel (i, j, k) has its centre at (i + 0.5, j + 0.5, k + 0.5) and belongs to a solid that holds that point.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

RADII = (0.2, 0.375)  # of a sphere, as parts of the grid's side; other kinds take about the same room
KINDS = ("sphere", "cube", "torus", "compound")
MIN_LEFT = 0.3  # share of a compound's first solid that differences must leave
_TRIES = 100


def offsets(size: int, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x [n,1,1], y [1,n,1] and z [1,1,n] of the voxel centres relative to `centre` [3]."""
    along = np.arange(size) + 0.5
    return (along - centre[0])[:, None, None], (along - centre[1])[None, :, None], (along - centre[2])[None, None, :]


def sphere(size: int, centre: np.ndarray, radius: float) -> np.ndarray:
    """A ball, bool [n,n,n]."""
    x, y, z = offsets(size, centre)
    return x**2 + y**2 + z**2 <= radius**2


def cube(size: int, centre: np.ndarray, half_side: float) -> np.ndarray:
    """A cube along the axes, bool [n,n,n]."""
    x, y, z = offsets(size, centre)
    return (np.abs(x) <= half_side) & (np.abs(y) <= half_side) & (np.abs(z) <= half_side)


def torus(size: int, centre: np.ndarray, major: float, minor: float, axis: np.ndarray) -> np.ndarray:
    """A torus of tube radius `minor` around a circle of radius `major` that is normal to the unit vector `axis`; bool [n,n,n]."""
    x, y, z = offsets(size, centre)
    height = x * axis[0] + y * axis[1] + z * axis[2]
    from_axis = np.sqrt(np.maximum(x**2 + y**2 + z**2 - height**2, 0))
    return (from_axis - major) ** 2 + height**2 <= minor**2


def draw_centre(size: int, reach: float, generator: np.random.Generator) -> np.ndarray:
    """A centre [3] from which a solid that reaches that far stays inside of the grid."""
    return generator.uniform(reach, size - reach, size=3)


def draw_sphere(size: int, generator: np.random.Generator) -> np.ndarray:
    radius = size * generator.uniform(*RADII)
    return sphere(size, draw_centre(size, radius, generator), radius)


def draw_cube(size: int, generator: np.random.Generator) -> np.ndarray:
    half_side = size * generator.uniform(*RADII) * 0.8  # about the volume of the sphere
    return cube(size, draw_centre(size, half_side, generator), half_side)


def draw_torus(size: int, generator: np.random.Generator) -> np.ndarray:
    outer = size * generator.uniform(0.2, RADII[1])
    minor = outer * generator.uniform(0.25, 0.4)
    axis = generator.normal(size=3)
    return torus(size, draw_centre(size, outer, generator), outer - minor, minor, axis / np.linalg.norm(axis))


def draw_compound(size: int, generator: np.random.Generator) -> np.ndarray:
    """Two to four primitives: each after the first is joined to what there is, or (two times in five) taken away from it.

    The parts after the first are centred on a filled voxel, so that they meet it.
    """
    draws = (draw_sphere, draw_cube, draw_torus)
    solid = draws[generator.integers(3)](size, generator)
    least = MIN_LEFT * solid.sum()
    for _ in range(generator.integers(1, 4)):
        for _ in range(_TRIES):
            part = _moved_onto(solid, draws[generator.integers(3)](size, generator), generator)
            changed = solid & ~part if generator.random() < 0.4 else solid | part
            if changed.sum() >= least and not np.array_equal(changed, solid):
                solid = changed
                break
    return solid


def _moved_onto(solid: np.ndarray, part: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """`part`, moved so that its middle lies on a random voxel of `solid` or as near to it as the grid allows."""
    filled = np.argwhere(part)
    if not len(filled):  # a part thinner than a voxel
        return part
    low, high = filled.min(0), filled.max(0)
    target = np.argwhere(solid)[generator.integers(int(solid.sum()))]
    shift = np.clip(target - (low + high) // 2, -low, np.array(part.shape) - 1 - high)
    return np.roll(part, shift, axis=(0, 1, 2))


_DRAWS: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "sphere": draw_sphere,
    "cube": draw_cube,
    "torus": draw_torus,
    "compound": draw_compound,
}


def draw(kind: str, size: int, seed: int, index: int) -> np.ndarray:
    """Shape number `index` of a seeded set, bool [n,n,n]; it does not depend on how many others there are.

    Raises ValueError for an unknown kind or a grid below 8 voxels a side.
    """
    if kind not in _DRAWS:
        raise ValueError(f"kind={kind}: expected one of {', '.join(KINDS)}")
    if size < 8:
        raise ValueError(f"size={size}: expected a grid of at least 8 voxels a side")
    generator = np.random.default_rng([seed, index, KINDS.index(kind)])
    while True:
        solid = _DRAWS[kind](size, generator)
        if solid.any():
            return solid
