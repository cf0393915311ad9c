"""Families made by one operation: lathed, extruded and swept forms, terrain, walls and stairs."""

from __future__ import annotations

import numpy as np

from microdreamer.shapes.colouring import shade
from microdreamer.shapes.procedural import parts as pp
from microdreamer.shapes.procedural.scene import Scene, article


def _smooth_profile(scene: Scene, knots: list[tuple[float, float]], points: int) -> np.ndarray:
    """A profile [P, 2] through (radius, y) knots by Catmull-Rom interpolation."""
    p = np.array([knots[0], *knots, knots[-1]], dtype=np.float64)
    t = np.linspace(0, len(knots) - 1, points, endpoint=True)
    i = np.minimum(t.astype(int), len(knots) - 2)
    f = (t - i)[:, None]
    a, b, c, d = p[i], p[i + 1], p[i + 2], p[i + 3]
    curve = 0.5 * (2 * b + (c - a) * f + (2 * a - 5 * b + 4 * c - d) * f**2 + (3 * b - a - 3 * c + d) * f**3)
    curve[:, 0] = curve[:, 0].clip(0.02)
    return curve


def vessel(scene: Scene) -> str:
    """A turned vase, bottle, cup, bowl, plate or jug, hollow where it is open."""
    kind = scene.pick("vase", "vase", "bottle", "bottle", "cup", "bowl", "plate", "jug", "pot", "potion", "jar", "glass")
    r, u = scene.uniform(0.3, 0.55), scene.uniform
    knots = {
        "vase": [(r * u(0.5, 0.9), 0), (r * u(0.9, 1.3), 0.35), (r * u(0.4, 0.9), 0.75), (r * u(0.6, 1.0), 1.0)],
        "bottle": [(r * 0.8, 0), (r * 0.85, 0.4), (r * 0.75, 0.55), (r * 0.28, 0.78), (r * 0.28, 1.0)],
        "cup": [(r * u(0.7, 1.0), 0), (r, 0.7)],
        "bowl": [(r * 0.5, 0), (r * 0.95, 0.2), (r * 1.15, 0.45)],
        "plate": [(r * 0.8, 0), (r * 1.1, 0.06), (r * 1.6, 0.14)],
        "jug": [(r * 0.7, 0), (r, 0.35), (r * 0.65, 0.75), (r * 0.75, 1.0)],
        "pot": [(r * 0.8, 0), (r * 1.1, 0.3), (r * 0.95, 0.6), (r * 1.05, 0.66)],
        "potion": [(r * 0.6, 0), (r * 1.05, 0.25), (r * 0.9, 0.5), (r * 0.25, 0.7), (r * 0.3, 0.9)],
        "jar": [(r * 0.8, 0), (r * 0.9, 0.1), (r * 0.9, 0.7), (r * 0.7, 0.8)],
        "glass": [(r * 0.55, 0), (r * 0.6, 0.04), (r * 0.1, 0.1), (r * 0.08, 0.45), (r * 0.55, 0.6), (r * 0.5, 1.0)],
    }[kind]
    paint, other = scene.paint(), scene.paint()
    outside = _smooth_profile(scene, knots, 2 if kind == "cup" else len(knots) * 3)
    top = outside[-1]
    inner = outside[::-1] * (1, 1) - (0.05, 0)
    inner = inner[(inner[:, 1] > 0.25 * top[1]) & (inner[:, 0] > 0.02)]
    profile = np.concatenate(
        [[(0, 0)], outside, inner if len(inner) else [(top[0] * 0.9, top[1])], [(0, inner[-1, 1] if len(inner) else top[1])]]
    )
    segments = max(scene.segments, 8)
    scene.add(scene.rounded(pp.revolve(profile, segments)), 1.0, (0.0, 0.0, 0.0), scene.dress(paint, other))
    caption = f"{paint.name} {kind}"
    if kind in ("bottle", "potion", "jar"):
        scene.rod(top[0] * 1.1, 0.1, (0.0, top[1] + 0.03, 0.0), scene.paint("brown", "beige", "gray", "red"), top=0.9)
        if scene.chance(0.5):
            middle = len(outside) // 3
            band = pp.revolve(outside[middle - 1 : middle + 2] * (1.04, 1) + (0.004, 0), segments)
            scene.add(band, 1.0, (0.0, 0.0, 0.0), other)
            caption += f" with {article(other.name)} label"
    if kind in ("cup", "jug") or (kind in ("vase", "pot") and scene.chance(0.35)):
        _vessel_handles(scene, outside, other if scene.chance(0.3) else paint, both=kind in ("vase", "pot"))
        if kind == "vase":
            caption += " with handles"
    if kind == "jug" and scene.chance(0.6):
        path = np.array([(-top[0] * 0.6, 0.5, 0), (-top[0] * 1.7, 0.75, 0), (-top[0] * 2.1, 0.95, 0)])
        scene.add(pp.sweep(path, np.array([0.11, 0.07, 0.05]), segments=8), 1.0, (0.0, 0.0, 0.0), paint)
        caption = caption.replace("jug", "teapot")
    return article(caption)


def _vessel_handles(scene: Scene, outside: np.ndarray, paint, *, both: bool) -> None:
    height = outside[-1, 1]
    angle = np.linspace(-1.45, 1.45, 8)
    reach = np.interp(height * 0.55, outside[:, 1], outside[:, 0])
    path = np.stack([reach * 0.85 + 0.22 * np.cos(angle), height * 0.55 + 0.28 * height * np.sin(angle), 0 * angle], 1)
    scene.add(pp.sweep(path, 0.04, segments=6), 1.0, (0.0, 0.0, 0.0), paint, pair=both)


def turned(scene: Scene) -> str:
    """A turned solid: column, chess-like piece, spinning top, bell, spindle, stacked discs, tower."""
    kind = scene.pick("column", "pawn", "top", "bell", "spindle", "planet", "tower", "candle")
    paint, other = scene.paint(), scene.paint()
    segments = max(scene.segments, 6)
    if kind == "planet":
        scene.ball(1.0, (0.0, 0.0, 0.0), scene.dress(paint, other, scene.pick("mottle", "stripes", "spots", "facets")))
        if scene.chance(0.6):
            ring = pp.torus(0.3, 24, 4)
            scene.add(ring, (2.0, 0.06, 2.0), (0.0, 0.0, 0.0), other, (scene.uniform(-25, 25), 0.0, scene.uniform(-25, 25)))
            return f"{article(paint.name)} planet with {article(other.name)} ring"
        return article(f"{paint.name} planet")
    if kind == "tower":
        levels, radius, height = scene.whole(2, 5), 0.45, 0.0
        for level in range(levels):
            step = scene.uniform(0.3, 0.6)
            scene.rod(
                radius, step, (0.0, height + step / 2, 0.0), scene.dress(paint if level % 2 == 0 else other), top=scene.uniform(0.85, 1.0)
            )
            height += step
            radius *= scene.uniform(0.7, 0.98)
        roof = scene.paint("red", "blue", "brown", "gray", "green")
        scene.rod(radius * 1.35, 0.6, (0.0, height + 0.3, 0.0), roof, top=0.0)
        scene.block((0.16, 0.32, 0.1), (0.0, 0.16, 0.43), scene.paint("brown", "black"))
        return f"{article(paint.name)} tower with {article(roof.name)} roof"
    if kind == "candle":
        scene.rod(0.3, 0.06, (0.0, 0.03, 0.0), other)
        scene.rod(0.13, 0.6, (0.0, 0.36, 0.0), scene.dress(paint))
        scene.add(pp.sphere(8, 5), (0.1, 0.2, 0.1), (0.0, 0.76, 0.0), scene.paint("orange", "yellow"))
        return article(f"{paint.name} candle")
    count = scene.whole(5, 9)
    y = np.linspace(0, scene.uniform(0.8, 2.2), count)
    r = {
        "column": np.where((np.arange(count) == 0) | (np.arange(count) == count - 1), 0.42, 0.28 + 0.02 * scene.rng.random(count)),
        "pawn": 0.15 + 0.35 * scene.rng.random(count) * np.linspace(1.2, 0.6, count),
        "top": 0.5 * np.sin(np.linspace(0.05, np.pi * 0.93, count)) + 0.03,
        "bell": 0.15 + 0.4 * np.linspace(1, 0, count) ** 1.7,
        "spindle": scene.rng.uniform(0.12, 0.5, count),
    }[kind]
    if scene.chance(0.5) and kind != "column":
        profile = _smooth_profile(scene, list(zip(r, y, strict=True)), count * 3)
    else:
        profile = np.stack([r, y], 1)
    profile = np.concatenate([[(0, profile[0, 1])], profile, [(0, profile[-1, 1] + scene.pick(0.0, 0.1))]])
    part = scene.rounded(pp.revolve(profile, segments))
    lying = kind == "spindle" and scene.chance(0.3)
    scene.add(part, 1.0, (0.0, 0.0, 0.0), scene.dress(paint, other), scene.pick((90.0, 0.0, 0.0), (0.0, 0.0, 90.0)) if lying else None)
    if kind == "pawn":
        scene.ball(scene.uniform(0.35, 0.6), (0.0, float(profile[-1, 1]) + 0.1, 0.0), paint)
    return article(f"{paint.name} {'spindle' if kind == 'top' else kind}")


def _outline(scene: Scene) -> tuple[str, np.ndarray]:
    """A star-shaped outline [K, 2] of size about 1, and its word."""
    kind = scene.pick("disc", "polygon", "star", "gear", "flower", "heart", "blob", "drop", "shield", "arrow", "cross", "leaf", "cloud")
    n = scene.whole(5, 8)
    if kind in ("disc", "polygon"):
        k = 20 if kind == "disc" else scene.whole(3, 6)
        angle = np.pi / 2 + np.arange(k) * 2 * np.pi / k
        return ("disc" if kind == "disc" else "tile"), np.stack([np.cos(angle), np.sin(angle)], 1) / 2
    if kind in ("star", "gear"):
        teeth = n if kind == "star" else n + 3
        per = 2 if kind == "star" else 4
        angle = np.pi / 2 + np.arange(teeth * per) * 2 * np.pi / (teeth * per)
        inner = scene.uniform(0.4, 0.65) if kind == "star" else scene.uniform(0.72, 0.82)
        radius = np.tile([1, inner] if per == 2 else [1, 1, inner, inner], teeth) / 2
        return kind, np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    angle = np.arange(36) * 2 * np.pi / 36 + np.pi / 2
    if kind in ("flower", "cloud"):
        radius = 0.38 + 0.12 * np.abs(np.sin(angle * n / 2)) if kind == "flower" else 0.4 + 0.1 * np.abs(np.sin(angle * 2.5 + 0.4))
        return kind, np.stack([radius * np.cos(angle), radius * np.sin(angle) * (1.0 if kind == "flower" else 0.6)], 1)
    if kind == "heart":
        t = angle - np.pi / 2
        return kind, np.stack(
            [-0.5 * np.sin(t) ** 3, (13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 32 + 0.05], 1
        )
    if kind == "blob":
        waves = sum(scene.uniform(0, 0.1) * np.cos(k * angle + scene.uniform(0, 6.3)) for k in range(2, 5))
        return "plate", np.stack([(0.42 + waves) * np.cos(angle), (0.42 + waves) * np.sin(angle)], 1)
    if kind in ("drop", "leaf"):
        narrow = 0.5 * np.sin((angle - np.pi / 2) / 2) ** (1.5 if kind == "drop" else 0.8)
        return kind, np.stack([narrow * 0.8 * np.cos(angle), 0.5 * np.sin(angle)], 1)
    points = {
        "shield": [(0, 0.5), (-0.4, 0.42), (-0.42, 0.0), (-0.25, -0.3), (0, -0.5), (0.25, -0.3), (0.42, 0.0), (0.4, 0.42)],
        "arrow": [(0.5, 0), (0.1, 0.4), (0.12, 0.15), (-0.5, 0.15), (-0.5, -0.15), (0.12, -0.15), (0.1, -0.4)],
        "cross": [(0.15, 0.15), (0.15, 0.5), (-0.15, 0.5), (-0.15, 0.15), (-0.4, 0.15), (-0.4, -0.15), (-0.15, -0.15), (-0.15, -0.5),
                  (0.15, -0.5), (0.15, -0.15), (0.4, -0.15), (0.4, 0.15)],
    }  # fmt: skip
    return kind, np.array(points[kind])


def plate(scene: Scene) -> str:
    """An extruded outline: upright sign or shield, thick block, coin, gear, sometimes on a post or lying flat."""
    word, outline = _outline(scene)
    thickness = scene.pick(0.04, 0.08, 0.15, 0.3, 0.6)
    part = pp.extrude(outline, bevel=scene.uniform(0.1, 0.3) if scene.chance(0.4) else 0.0)
    paint, other = scene.paint(), scene.paint()
    stretch = (scene.uniform(0.8, 1.3), scene.uniform(0.8, 1.3))
    scene.add(part, (*stretch, thickness), (0.0, 0.0, 0.0), scene.dress(paint, other))
    caption = f"{paint.name} {word}"
    if scene.chance(0.6):
        inset = scene.uniform(0.5, 0.8)
        front_only = scene.chance(0.5)
        depth = thickness * (0.6 if front_only else 1.25)
        scene.add(part, (stretch[0] * inset, stretch[1] * inset, depth), (0.0, 0.0, thickness * 0.32 if front_only else 0.0), other)
        caption = f"{paint.name} and {other.name} {word}"
    roll = scene.rng.random()
    if roll < 0.25:
        pole = scene.paint("brown", "gray", "white")
        scene.rod(0.05, 1.1, (0.0, -0.95, -thickness * 0.3), pole)
        scene.rod(0.3, 0.06, (0.0, -1.5, 0.0), pole)
        return article(f"{paint.name} {word} sign on {article(pole.name)} post")
    if roll < 0.5:
        scene.shift(0, (0.0, 0.0, 0.0), (-90.0, 0.0, 0.0))
        return article(f"flat {caption}")
    return article(caption)


def _strokes(scene: Scene) -> tuple[str, list[np.ndarray]]:
    """Centre lines [P, 2] of a letter-like, arch-like or spiral form, and its word."""
    bow = np.linspace(0, np.pi, 11)
    circle = np.linspace(0, 2 * np.pi, 25)
    kind = scene.pick("arch", "arch", "frame", "hoop", "letter", "letter", "letter", "spiral", "wave", "hook")
    arch = np.stack([0.4 * np.cos(bow), 0.1 + 0.4 * np.sin(bow)], 1)
    forms = {
        "arch": [np.concatenate([[(0.4, -0.6)], arch, [(-0.4, -0.6)]])],
        "frame": [np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])],
        "hoop": [np.stack([np.cos(circle), np.sin(circle)], 1)[:-1] * 0.5],
        "spiral": [np.stack([np.cos(circle * 2), np.sin(circle * 2)], 1) * np.linspace(0.12, 0.6, 25)[:, None]],
        "wave": [np.stack([circle / 5 - 0.6, 0.25 * np.sin(circle * scene.pick(1, 2))], 1)],
        "hook": [np.concatenate([[(-0.4, 0.8)], arch[::-1] * (1, -1)])],
    }
    if kind == "letter":
        line = np.array
        letter = scene.pick("c", "s", "t", "l", "u", "e", "h", "z", "j")
        half = np.stack([0.3 * np.sin(bow), 0.3 * np.cos(bow)], 1)
        letters = {
            "c": [np.stack([0.4 * np.cos(bow * 1.5 + 0.8), 0.5 * np.sin(bow * 1.5 + 0.8)], 1)],
            "s": [np.concatenate([half[::-1] * (-1, -1) + (0, 0.3), (half * (1, 1) + (0, -0.3))[1:]])],
            "t": [line([(0, -0.5), (0, 0.5)]), line([(-0.45, 0.5), (0.45, 0.5)])],
            "l": [line([(-0.3, 0.6), (-0.3, -0.5), (0.35, -0.5)])],
            "u": [np.concatenate([[(-0.4, 0.6)], arch[::-1] * (1, -1), [(0.4, 0.6)]])],
            "e": [line([(0.35, 0.5), (-0.3, 0.5), (-0.3, -0.5), (0.35, -0.5)]), line([(-0.3, 0), (0.25, 0)])],
            "h": [line([(-0.35, -0.55), (-0.35, 0.55)]), line([(0.35, -0.55), (0.35, 0.55)]), line([(-0.35, 0), (0.35, 0)])],
            "z": [line([(-0.35, 0.5), (0.35, 0.5), (-0.35, -0.5), (0.35, -0.5)])],
            "j": [np.concatenate([half[::-1] * (-1, 1) * (1, 1) + (0, -0.3), [(0.0, 0.0), (0.0, 0.6)]])[5:]],
        }
        return f"letter {letter}", letters[letter]
    return kind, forms[kind]


def stroke(scene: Scene) -> str:
    """Arches, frames, hoops, letters, spirals and hooks: a square or round section swept along a line in the xy plane."""
    word, lines = _strokes(scene)
    paint, other = scene.paint(), scene.paint()
    width, depth = scene.uniform(0.06, 0.16), scene.pick(0.06, 0.12, 0.25, 0.5)
    square = scene.chance(0.6) or word in ("frame", "arch")
    section = np.array([(-width, -depth), (width, -depth), (width, depth), (-width, depth)]) * 1.0
    for line in lines:
        path = np.concatenate([line, np.zeros((len(line), 1))], 1)
        closed = word in ("frame", "hoop")
        part = pp.sweep(path, 1.0, section=section, closed=closed) if square else pp.sweep(path, width, segments=8, closed=closed)
        scene.add(part, 1.0, (0.0, 0.0, 0.0), scene.dress(paint, other))
    if word in ("arch", "hoop", "hook") and scene.chance(0.5):
        scene.block((1.2, 0.15, max(0.5, 2.6 * depth)), (0.0, -0.62, 0.0), other)
        return f"{article(paint.name)} {word} on {article(other.name)} base"
    if word == "frame":
        if scene.chance(0.6):
            scene.block((1.0, 1.0, depth * 0.6), (0.0, 0.0, -depth * 0.3), scene.dress(other))
            return f"{article(paint.name)} picture frame"
        return f"{article(paint.name)} frame"
    return article(f"{paint.name} {word}")


def terrain(scene: Scene) -> str:
    """A square tile with hills, a mountain, a pond or dunes; colours follow height."""
    n = scene.whole(9, 15)
    grid = np.linspace(-1, 1, n)
    z, x = np.meshgrid(grid, grid, indexing="ij")
    kind = scene.pick("hill", "mountain", "mountain", "valley", "dunes", "crater")
    waves = sum(
        scene.uniform(0.02, 0.09) * np.sin(x * scene.uniform(1, 4) + z * scene.uniform(-4, 4) + scene.uniform(0, 6.3)) for _ in range(4)
    )
    radius = np.hypot(x - scene.uniform(-0.3, 0.3), z - scene.uniform(-0.3, 0.3))
    heights = 0.25 + waves
    if kind == "hill":
        heights = heights + 0.4 * np.exp(-3 * radius**2)
    elif kind == "mountain":
        heights = heights + scene.uniform(0.6, 1.1) * np.maximum(0, 1 - radius * 1.1) + 0.08 * scene.rng.random((n, n)) * (radius < 0.9)
    elif kind == "valley":
        heights = heights + 0.45 * np.abs(scene.pick(x, z)) ** 1.5
    elif kind == "crater":
        heights = heights + 0.35 * np.exp(-12 * (radius - 0.5) ** 2)
    part = pp.height_field(np.maximum(heights, 0.08))
    if scene.chance(0.6):
        part = pp.flat(part)
    low, high = {
        "hill": ("green", "yellow"),
        "mountain": ("gray", "white"),
        "valley": ("green", "brown"),
        "dunes": ("beige", "orange"),
        "crater": ("gray", "black"),
    }[kind]
    ground = scene.paint(low)
    scene.add(
        part,
        1.0,
        (0.0, 0.0, 0.0),
        scene.dress(ground, scene.paint(high), "gradient") if scene.chance(0.7) else scene.dress(ground, None, "facets"),
    )
    if scene.chance(0.5):
        for _ in range(scene.whole(1, 4)):
            at_x, at_z = scene.uniform(-0.4, 0.4), scene.uniform(-0.4, 0.4)
            floor = float(heights[int((at_z + 0.5) * (n - 1)), int((at_x + 0.5) * (n - 1))])
            size = scene.uniform(0.08, 0.2)
            if scene.chance(0.5):
                scene.add(pp.rock(scene.rng, level=0), size, (at_x, floor + size * 0.3, at_z), scene.paint("gray"))
            else:
                scene.add(pp.prism(6, 0.0), (size, 2 * size, size), (at_x, floor + size, at_z), scene.paint("green"))
    return f"{article(ground.name)} {'dune' if kind == 'dunes' else kind} tile"


def wall(scene: Scene) -> str:
    """A wall of bricks or planks, long in x and thin in z, sometimes with a gap for a door or with battlements."""
    rows, columns = scene.whole(3, 6), scene.whole(3, 6)
    paint = scene.paint("red", "gray", "brown", "beige", "orange")
    wood = scene.chance(0.3)
    gap = scene.chance(0.3)
    width, height, depth = 2.0 / columns, 1.2 / rows, scene.uniform(0.12, 0.4)
    if not gap:
        scene.block((1.94, 1.16, depth * 0.8), (0.0, 0.6, 0.0), shade(paint, 0.7))
    for row in range(rows):
        shift = 0.5 * (row % 2) if not wood else 0.0
        for column in range(columns + (1 if shift else 0)):
            left = max(0.0, (column - shift) * width)
            right = min(2.0, (column + 1 - shift) * width)
            if gap and row < rows - 1 and right > 0.65 and left < 1.35:
                continue
            thick = depth * scene.uniform(0.9, 1.15)
            at = ((left + right) / 2 - 1, (row + 0.5) * height, 0.0)
            scene.block((right - left - 0.03, height - 0.03, thick), at, shade(paint, scene.uniform(0.8, 1.15)))
    if scene.chance(0.4):
        top = scene.paint()
        if scene.chance(0.5):
            scene.block((2.1, 0.1, depth * 1.3), (0.0, 1.25, 0.0), top)
        else:
            for k in range(4):
                scene.block((0.3, 0.25, depth), (-0.84 + 0.56 * k, 1.3, 0.0), paint)
    word = "wooden" if wood and paint.name == "brown" else f"{paint.name} {'plank' if wood else 'brick'}"
    return f"{article(word)} wall" + (" with a doorway" if gap else "")


def stairs(scene: Scene) -> str:
    """Steps that rise toward the back or to one side, closed or floating, sometimes with rails."""
    count = scene.whole(3, 8)
    rise, run, width = 1.0 / count, scene.uniform(0.9, 1.5) / count, scene.uniform(0.5, 1.3)
    paint, other = scene.paint(), scene.paint()
    closed = scene.chance(0.6)
    for i in range(count):
        height = rise * (i + 1) if closed else rise * 0.4
        color = scene.dress(paint) if i % 2 == 0 else paint
        scene.block((width, height, run * (1 if closed else 1.2)), (0.0, rise * (i + 1) - height / 2, -run * i), color)
    rails = scene.chance(0.4)
    if rails or not closed:
        length = float(np.hypot(1.0, run * count))
        tilt = float(np.degrees(np.arctan2(1.0, run * count)))
        lift = 0.45 if rails and closed else -0.05
        scene.block((0.07, 0.08, length), (width / 2, 0.5 + lift, -run * (count - 1) / 2), other, (tilt, 0.0, 0.0), pair=True)
    if rails:
        for i in (0, count - 1):
            scene.block((0.06, 0.5, 0.06), (width / 2, rise * (i + 1) + 0.2, -run * i), other, pair=True)
    if scene.chance(0.3):
        scene.shift(0, (0.0, 0.0, 0.0), (0.0, scene.pick(-90.0, 90.0), 0.0))
    return f"{paint.name} stairs" + (f" with {other.name} rails" if rails else "")
