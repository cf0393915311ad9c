"""The stage on which a grammar builds one shape: chance, a palette, a style, and the painted parts so far."""

from __future__ import annotations

import numpy as np

from microdreamer.shapes import colouring
from microdreamer.shapes.colouring import Paint
from microdreamer.shapes.procedural import parts as pp
from microdreamer.shapes.procedural.parts import Part

Triple = tuple[float, float, float]

_AXIS_TURNS: dict[str, Triple | None] = {"x": (0.0, 0.0, 90.0), "y": None, "z": (90.0, 0.0, 0.0)}
_PATTERN_FACES = 2400  # patterns stop cutting up triangles when the shape has this many


def article(phrase: str) -> str:
    """The phrase with "a" or "an" before it."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


class Scene:
    """Parts of one shape. Style (edge bevels, segments of round parts, facets) is drawn once, so that parts match."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.parts: list[Part] = []
        self.face_count = 0
        self.palette = colouring.draw_palette(rng)
        self.bevel = self.uniform(0.01, 0.05) if self.chance(0.4) else 0.0
        self.segments = self.whole(6, 10) * 2 if self.chance(0.7) else self.whole(3, 5) * 2
        self.facets = self.chance(0.35)
        self.pattern_chance = 0.0 if self.chance(0.45) else self.uniform(0.2, 0.7)
        self._next_paint = 0

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self.rng.random()

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def whole(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + int(self.rng.random() * (high - low + 1))

    def pick(self, *options):
        return options[int(self.rng.random() * len(options))]

    def paint(self, *names: str) -> Paint:
        """A plain paint of one of the names, or the palette's next one."""
        if names:
            return colouring.draw(self.rng, self.pick(*names))
        self._next_paint += 1
        return self.palette[(self._next_paint - 1) % len(self.palette)]

    def dress(self, paint: Paint, other: Paint | None = None, pattern: str | None = None) -> Paint:
        """The paint, with a pattern as often as this scene has patterns (always if one is named)."""
        if pattern is None and not self.chance(self.pattern_chance):
            return paint
        return colouring.patterned(self.rng, paint, other if self.chance(0.5) else None, pattern)

    def add(
        self, part: Part, size: Triple | float, at: Triple, paint: Paint, turn_deg: Triple | None = None, *, pair: bool = False
    ) -> Part:
        """Place and colour a primitive; `pair` adds its mirror image (x -> -x) too."""
        placed = pp.place(part, size, at, turn_deg)
        spare = max(0, min(500, (_PATTERN_FACES - self.face_count) // (2 if pair else 1)))
        placed = colouring.apply(self.rng, placed, paint, spare)
        for piece in (placed, pp.mirror(placed)) if pair else (placed,):
            self.parts.append(piece)
            self.face_count += len(piece.faces)
        return placed

    def block(self, size: Triple, at: Triple, paint: Paint, turn_deg: Triple | None = None, *, pair: bool = False) -> Part:
        """A box of the given size and centre, bevelled where the style says so."""
        if self.bevel:
            return self.add(pp.bevel_box(size, self.bevel), 1.0, at, paint, turn_deg, pair=pair)
        return self.add(pp.box(), size, at, paint, turn_deg, pair=pair)

    def rod(
        self,
        radius: float,
        length: float,
        at: Triple,
        paint: Paint,
        *,
        axis: str = "y",
        top: float = 1.0,
        turn_deg: Triple | None = None,
        pair: bool = False,
    ) -> Part:
        """A cylinder, frustum or cone with its centre at `at`, along an axis (or turned freely)."""
        part = self.rounded(pp.cylinder(self.segments, top))
        return self.add(part, (2 * radius, length, 2 * radius), at, paint, turn_deg or _AXIS_TURNS[axis], pair=pair)

    def ball(self, size: Triple | float, at: Triple, paint: Paint, turn_deg: Triple | None = None, *, pair: bool = False) -> Part:
        """An ellipsoid of the given diameters."""
        return self.add(self.rounded(pp.sphere(self.segments, self.segments // 2 + 1)), size, at, paint, turn_deg, pair=pair)

    def rounded(self, part: Part) -> Part:
        """A round part in the scene's style: faceted or smooth."""
        return pp.flat(part) if self.facets else part

    def legs(
        self, width: float, depth: float, height: float, thickness: float, paint: Paint, *, round_legs: bool, splay: float = 0
    ) -> None:
        """Four legs under the corners of a top of width x depth at the given height."""
        x, z = width / 2 - thickness * 0.7, depth / 2 - thickness * 0.7
        for side in (-1, 1):
            at, turn = (x, height / 2, side * z), (side * -splay, 0.0, splay)
            if round_legs:
                self.rod(thickness / 2, height, at, paint, turn_deg=turn, top=0.7, pair=True)
            else:
                self.block((thickness, height, thickness), at, paint, turn, pair=True)

    def wheels(self, track: float, axles: tuple[float, ...], radius: float, width: float, tyre: Paint, hub: Paint) -> None:
        """A pair of wheels with hubs at each z of `axles`; `track` is the x of their centres."""
        for z in axles:
            self.rod(radius, width, (track, radius, z), tyre, axis="x", pair=True)
            self.rod(radius * 0.5, width * 1.15, (track, radius, z), hub, axis="x", pair=True)

    def shift(self, start: int, offset: Triple, turn_deg: Triple | None = None, size: Triple | float = 1.0) -> None:
        """Scale, turn and move the parts from number `start` on."""
        self.parts[start:] = [pp.place(part, size, offset, turn_deg) for part in self.parts[start:]]

    def copy(self, start: int, offset: Triple, turn_deg: Triple | None = None) -> None:
        """Repeat the parts from number `start` on at another place."""
        copies = [pp.place(part, 1.0, offset, turn_deg) for part in self.parts[start:]]
        self.parts += copies
        self.face_count += sum(len(part.faces) for part in copies)
