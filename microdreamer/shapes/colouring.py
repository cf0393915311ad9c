"""Colours of procedural shapes: named paints, palettes that go together, and patterns carried by corner colours."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from microdreamer.shapes.procedural.parts import Part, subdivide

# sRGB bytes; a paint is drawn from one of the variants of its name and jittered.
PAINTS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "red": ((200, 50, 45), (170, 35, 40), (222, 84, 70)),
    "orange": ((226, 130, 50), (205, 105, 50), (240, 155, 70)),
    "yellow": ((240, 200, 70), (225, 180, 50), (248, 220, 120)),
    "green": ((75, 145, 70), (50, 115, 65), (110, 170, 80), (60, 150, 110)),
    "turquoise": ((60, 170, 165), (90, 195, 185), (40, 130, 135)),
    "blue": ((60, 105, 190), (50, 80, 150), (95, 150, 215), (75, 125, 175)),
    "purple": ((120, 80, 165), (95, 60, 130), (160, 115, 195)),
    "pink": ((230, 140, 170), (215, 110, 150), (243, 180, 196)),
    "brown": ((130, 85, 55), (100, 65, 45), (150, 100, 60), (115, 70, 55)),
    "beige": ((215, 190, 150), (225, 205, 175), (200, 170, 130)),
    "gray": ((135, 138, 142), (110, 115, 122), (165, 168, 170), (125, 130, 140), (90, 95, 103)),
    "white": ((232, 232, 228), (222, 224, 228), (238, 230, 218)),
    "black": ((48, 48, 54), (36, 38, 44), (60, 56, 58)),
    "golden": ((220, 170, 60), (205, 150, 55)),
}
_THEMES: tuple[tuple[float, tuple[str, ...]], ...] = (
    (0.22, ("brown", "green", "beige", "gray", "orange", "brown", "red")),
    (0.18, ("red", "blue", "yellow", "green", "orange", "white", "black", "purple")),
    (0.10, ("pink", "turquoise", "beige", "white", "yellow", "purple", "blue")),
    (0.20, ("gray", "gray", "black", "white", "blue", "orange", "red", "yellow")),
    (0.14, ("gray", "gray", "white", "black", "beige")),
    (0.16, ("brown", "brown", "beige", "gray", "golden", "red", "green", "blue")),
)
PATTERNS = (
    "gradient",
    "gradient",
    "gradient",
    "stripes",
    "stripes",
    "checks",
    "spots",
    "facets",
    "facets",
    "mottle",
    "rings",
    "sides",
    "band",
)


@dataclass(frozen=True)
class Paint:
    """A colour with its name, and how it varies over a part."""

    name: str
    color: np.ndarray  # [3] sRGB 0..1
    second: np.ndarray | None = None  # [3], the other colour of a pattern
    pattern: str = "plain"
    axis: int = 1  # along which stripes and gradients run
    count: float = 4.0  # stripes, checks or waves over the longest side of the part


def draw(rng: np.random.Generator, name: str) -> Paint:
    """A plain paint of that name, jittered a little in brightness and hue."""
    variants = PAINTS[name]
    base = np.array(variants[int(rng.random() * len(variants))]) / 255.0
    tint = 0.012 if name in ("gray", "white", "black") else 0.03
    color = (base * rng.uniform(0.88, 1.1) + rng.uniform(-tint, tint, 3)).clip(0.09, 0.95)
    return Paint(name, color)


def draw_palette(rng: np.random.Generator) -> list[Paint]:
    """Paints of six different draws from one theme, the first two of different names."""
    pick, theme = rng.random(), _THEMES[-1][1]
    for weight, names in _THEMES:
        pick -= weight
        if pick < 0:
            theme = names
            break
    order = [theme[i] for i in rng.permutation(len(theme))]
    unique = list(dict.fromkeys(order))
    return [draw(rng, name) for name in (unique + order)[:6]]


def shade(paint: Paint, factor: float) -> Paint:
    """The paint made darker (factor < 1) or lighter (> 1, toward white)."""
    color = paint.color * factor if factor <= 1 else 1 - (1 - paint.color) / factor
    return replace(paint, color=color.clip(0.07, 0.95))


def patterned(rng: np.random.Generator, paint: Paint, other: Paint | None = None, pattern: str | None = None) -> Paint:
    """The paint with a pattern (a random one unless named) whose second colour is `other`'s, or a shade of its own."""
    pattern = pattern or PATTERNS[int(rng.random() * len(PATTERNS))]
    second = other.color if other is not None else shade(paint, rng.choice([0.6, 0.72, 1.5])).color
    return replace(paint, second=second, pattern=pattern, axis=int(rng.choice([0, 1, 1, 2])), count=float(rng.uniform(2.5, 7.5)))


def _refined(part: Part, limit: int) -> Part:
    while len(part.faces) * 4 <= limit:
        part = subdivide(part)
    return part


def _cell_centres(part: Part) -> np.ndarray:
    """Mean corner [F, 3] of the cell of each triangle."""
    centres = part.vertices[part.faces].mean(1)
    counts = np.bincount(part.cells)
    sums = np.stack([np.bincount(part.cells, centres[:, d]) for d in range(3)], 1)
    return (sums / np.maximum(counts, 1)[:, None])[part.cells]


def apply(rng: np.random.Generator, part: Part, paint: Paint, face_limit: int = 400) -> Part:
    """Colour a part that stands in its place; patterns finer than its triangles cut them up to face_limit triangles."""
    if paint.pattern == "plain" or paint.second is None:
        return replace(part, colors=paint.color)
    if paint.pattern in ("stripes", "checks", "spots", "mottle", "rings", "band"):
        part = _refined(part, face_limit)
    low = part.vertices.min(0)
    longest = float(np.ptp(part.vertices, axis=0).max()) + 1e-9
    if paint.pattern in ("gradient", "mottle"):
        mix = _corner_mix(rng, paint, (part.vertices[part.faces] - low) / longest)
    else:
        mix = _face_mix(rng, paint, part, (_cell_centres(part) - low) / longest)[:, None]
    mix = np.broadcast_to(mix, part.faces.shape)[..., None]
    return replace(part, colors=paint.color + (paint.second - paint.color) * mix)


def _corner_mix(rng: np.random.Generator, paint: Paint, q: np.ndarray) -> np.ndarray:
    """Share [F, 3] of the second colour at corners q [F, 3, 3] (0..1 along the longest side)."""
    if paint.pattern == "gradient":
        return q[..., 1] / max(float(q[..., 1].max()), 1e-9)
    waves = np.sin(q @ rng.normal(0, 2.2 * paint.count, (3, 5)) + rng.uniform(0, 6.3, 5)).mean(-1)
    return (0.5 + waves).clip(0, 1)


def _face_mix(rng: np.random.Generator, paint: Paint, part: Part, q: np.ndarray) -> np.ndarray:
    """Share [F] of the second colour of cells with centres q [F, 3] (0..1 along the longest side)."""
    if paint.pattern == "stripes":
        return np.floor(q[:, paint.axis] * paint.count + 0.25) % 2
    if paint.pattern == "checks":
        return np.floor(q * paint.count + 0.25).sum(1) % 2
    if paint.pattern == "spots":
        centres = q[rng.integers(0, len(q), int(3 * paint.count))]
        return (np.linalg.norm(q[:, None] - centres, axis=-1).min(1) < 0.09).astype(float)
    if paint.pattern == "rings":
        middle = q.mean(0) + rng.uniform(-0.2, 0.2, 3)
        return 0.5 + 0.5 * np.sin(np.linalg.norm((q - middle) * (1, 0.3, 1), axis=1) * paint.count * 9)
    if paint.pattern == "band":
        height = q[:, 1] / max(float(q[:, 1].max()), 1e-9)
        distance = np.abs(height - 0.2 - 0.1 * paint.count % 0.6)
        return (distance < max(0.14, distance.min() + 1e-6)).astype(float)
    if paint.pattern == "sides":
        corners = part.vertices[part.faces]
        normal = np.abs(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
        return (normal.argmax(1) == (paint.axis if paint.axis != 1 else 2)).astype(float)
    return rng.random(int(part.cells.max()) + 1)[part.cells]  # facets: each cell its own shade
