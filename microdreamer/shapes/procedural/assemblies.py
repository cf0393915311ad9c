"""Abstract families: assemblies and arrays of primitives."""

from __future__ import annotations

import numpy as np

from microdreamer.shapes.procedural import parts as pp
from microdreamer.shapes.procedural.parts import Part
from microdreamer.shapes.procedural.scene import Scene, Triple, article

_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}


def _primitive(scene: Scene) -> tuple[str, Part]:
    """A random primitive that fills the unit cube, and its word."""
    n = scene.segments
    kind = scene.pick(
        "box",
        "box",
        "box",
        "block",
        "cylinder",
        "cylinder",
        "cone",
        "ball",
        "capsule",
        "ring",
        "wedge",
        "pyramid",
        "prism",
        "pipe",
        "dome",
        "cup",
        "rock",
        "gable",
    )
    rounded = scene.rounded
    if kind == "box":
        return "box", pp.box()
    if kind == "block":
        return "block", pp.place(pp.bevel_box((1.0, 1.0, 1.0), scene.uniform(0.05, 0.3)))
    if kind == "cylinder":
        return "cylinder", rounded(pp.cylinder(n))
    if kind == "cone":
        return "cone", rounded(pp.cylinder(n, scene.pick(0.0, 0.25, 0.5, 0.75)))
    if kind == "ball":
        return "ball", rounded(pp.sphere(n, n // 2 + 1))
    if kind == "capsule":
        return "capsule", rounded(pp.capsule(2.0, n))
    if kind == "ring":
        return "ring", rounded(pp.torus(scene.pick(0.25, 0.5, 0.8), n + 2, 8))
    if kind == "wedge":
        return "wedge", pp.wedge()
    if kind == "pyramid":
        return "pyramid", pp.prism(4, scene.pick(0.0, 0.0, 0.4))
    if kind == "prism":
        return "prism", pp.prism(scene.pick(3, 5, 6, 8), scene.pick(1.0, 1.0, 0.6))
    if kind == "pipe":
        return "pipe", rounded(pp.tube(scene.pick(0.5, 0.7, 0.85), n))
    if kind == "dome":
        return "dome", rounded(pp.dome(n))
    if kind == "cup":
        return "cone", pp.place(rounded(pp.cylinder(n, 0.5)), 1.0, turn_deg=(180.0, 0.0, 0.0))
    if kind == "rock":
        return "rock", pp.rock(scene.rng, level=1)
    return "prism", pp.gable()


def _deformed(scene: Scene, part: Part) -> Part:
    """The part, sometimes tapered, twisted or bent (cut up first so that it can follow)."""
    if not scene.chance(0.22):
        return part
    if len(part.faces) <= 128:
        part = pp.subdivide(part)
    kind = scene.pick("taper", "taper", "twist", "bend")
    if kind == "taper":
        return pp.taper(part, scene.uniform(-0.3, 0.6))
    if kind == "twist":
        return pp.twist(part, scene.pick(-1, 1) * scene.uniform(20, 80))
    return pp.bend(part, scene.pick(-1, 1) * scene.uniform(20, 70))


def _proportions(scene: Scene, long_axis: int) -> np.ndarray:
    """Random side lengths about 1, often stretched along one axis or flattened along another."""
    size = np.exp(scene.rng.normal(0, 0.32, 3))
    if scene.chance(0.6):
        size[long_axis] *= scene.uniform(1.2, 2.6)
    if scene.chance(0.3):
        size[scene.whole(0, 2)] *= scene.uniform(0.25, 0.6)
    return size


def assembly(scene: Scene) -> str:
    """One to nine primitives that rest on, stick to or repeat along one another, mostly mirror-symmetric in x."""
    symmetric = scene.chance(0.7)
    words: list[tuple[float, str]] = []
    boxes: list[tuple[np.ndarray, np.ndarray]] = []  # lower and upper corners of the parts that others may stand on
    base = _proportions(scene, scene.pick(0, 1, 2, 2))
    for step in range(scene.whole(1, 5)):
        word, primitive = _primitive(scene)
        part, paint = _deformed(scene, primitive), scene.paint()
        if scene.chance(0.15):
            part = pp.place(part, 1.0, turn_deg=scene.pick((90.0, 0.0, 0.0), (0.0, 0.0, 90.0)))
        size = base if step == 0 else _proportions(scene, scene.whole(0, 2)) * base.mean() * scene.uniform(0.25, 0.75)
        at, pair, turn = (0.0, 0.0, 0.0), False, None
        if step:
            support = boxes[0] if scene.chance(0.6) else boxes[scene.whole(0, len(boxes) - 1)]
            at, pair = _attachment(scene, *support, size, symmetric)
            turn = (scene.uniform(-35, 35), 0.0, 0.0) if scene.chance(0.15) else None
        placed = scene.add(part, tuple(size), at, scene.dress(paint, scene.palette[-1]), turn, pair=pair)
        boxes.append((placed.vertices.min(0), placed.vertices.max(0)))
        words.append((float(size.prod()) * (2 if pair else 1), f"{paint.name} {_plural(word) if pair else word}"))
    caption = _assembly_caption(scene, words)
    low, high = (np.array([corner[i] for corner in boxes]) for i in (0, 1))
    if scene.chance(0.25):
        _feet(scene, low.min(0), *boxes[0])
    elif scene.chance(0.15):
        low_y, (base_low, base_high) = float(low[:, 1].min()), boxes[0]
        radius, depth = float(high[:, 1].max() - low_y) * scene.uniform(0.15, 0.25), float(base_high[2] - base_low[2])
        start = len(scene.parts)
        axles = (-0.3 * depth, 0.3 * depth)
        scene.wheels(float(base_high[0]) * 0.9, axles, radius, 0.6 * radius, scene.paint("black", "gray"), scene.paint())
        scene.shift(start, (0.0, float(base_low[1]) - radius, float(base_low[2] + base_high[2]) / 2))
        caption += " on wheels"
    return caption


def _feet(scene: Scene, lowest: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """Four legs under the base (corners low and high) that reach a little below the lowest part."""
    extent = high - low
    thickness = float(extent[[0, 2]].min()) * scene.uniform(0.12, 0.3)
    height = float(low[1] - lowest[1]) + 2 * thickness
    start = len(scene.parts)
    scene.legs(float(extent[0]), float(extent[2]), height, thickness, scene.paint(), round_legs=scene.chance(0.5))
    scene.shift(start, (0.0, float(low[1]) + 0.1 * float(extent[1]) - height, float(low[2] + high[2]) / 2))


def _attachment(scene: Scene, low: np.ndarray, high: np.ndarray, size: np.ndarray, symmetric: bool) -> tuple[Triple, bool]:
    """Centre of a primitive of that size on a face of the support (its corners low and high), and whether it comes as a mirrored pair."""
    extent, centre, half = high - low, (low + high) / 2, size / 2
    at = centre + scene.rng.uniform(-0.22, 0.22, 3) * extent
    sink = 0.2 * np.minimum(size, extent)
    face = scene.pick("top", "top", "top", "front", "front", "back", "side", "side", "bottom")
    axis, sign = {"top": (1, 1), "bottom": (1, -1), "front": (2, 1), "back": (2, -1), "side": (0, 1)}[face]
    if axis == 0 and not symmetric:
        sign = scene.pick(-1, 1)
    at[axis] = centre[axis] + sign * (extent[axis] / 2 + half[axis] - sink[axis])
    if not symmetric:
        return tuple(at), False
    if axis == 0 or centre[0] > 0.1 * extent[0]:
        return tuple(at), True
    if scene.chance(0.35) and size[0] < 0.5 * extent[0]:
        at[0] = scene.uniform(0.22, 0.35) * extent[0]
        return tuple(at), True
    at[0] = 0.0
    return tuple(at), False


def _plural(word: str) -> str:
    return "boxes" if word == "box" else f"{word}s"


def _assembly_caption(scene: Scene, words: list[tuple[float, str]]) -> str:
    named = sorted(words, reverse=True)[:3]
    phrases = [text if text.endswith("s") else article(text) for _, text in named]
    if len(phrases) == 1:
        return phrases[0] if phrases[0].startswith("a") else f"two {phrases[0]}"
    link = scene.pick("with", "with", "and")
    text = f"{phrases[0]} {link} {phrases[1]}"
    if len(phrases) == 3 and scene.chance(0.5):
        text += f" and {phrases[2]}"
    return text


def array(scene: Scene) -> str:
    """The same primitive repeated in a row, a ring or a shrinking stack, with or without a base."""
    word, primitive = _primitive(scene)
    paint, other = scene.paint(), scene.paint()
    layout = scene.pick("row", "row", "depth", "ring", "stack", "stack")
    count, alternates = scene.whole(3, 6), scene.chance(0.4)
    colors = f"{paint.name} and {other.name}" if alternates and other.name != paint.name else paint.name
    size = _proportions(scene, 1)
    for i in range(count):
        color = other if alternates and i % 2 else paint
        if layout == "row":
            at, shrink = ((i - (count - 1) / 2) * size[0] * 1.2, 0.0, 0.0), 1.0
        elif layout == "depth":
            shrink = 1 - 0.12 * i
            at = (0.0, (shrink - 1) * size[1] / 2, -i * size[2] * 1.05)
        elif layout == "ring":
            angle = 2 * np.pi * i / count
            radius = max(size[0], size[2]) * count / 4.5
            at, shrink = (radius * np.sin(angle), 0.0, radius * np.cos(angle)), 1.0
        else:
            shrink = 0.82**i
            at = (0.0, size[1] * sum(0.82**k for k in range(i)) + size[1] * (shrink - 1) / 2, 0.0)
        scene.add(primitive, tuple(size * shrink), at, color)
    if layout != "stack" and scene.chance(0.6):
        points = np.concatenate([part.vertices for part in scene.parts])
        low, high = points.min(0), points.max(0)
        extent, middle = high - low, (low + high) / 2
        thick = 0.15 * float(extent.max())
        scene.block(
            (float(extent[0]) * 1.1, thick, float(extent[2]) * 1.1),
            (float(middle[0]), float(low[1]) - thick / 2, float(middle[2])),
            scene.dress(other),
        )
        return f"{_NUMBERS[count]} {colors} {_plural(word)} on {article(other.name)} base"
    how = {"stack": "a stack of", "ring": "a ring of"}.get(layout, "a row of")
    return f"{how} {_NUMBERS[count]} {colors} {_plural(word)}"
