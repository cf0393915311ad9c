"""Grammars of trees, plants, rocks and wood."""

from __future__ import annotations

import numpy as np

from microdreamer.shapes.colouring import Paint, shade
from microdreamer.shapes.procedural import parts as pp
from microdreamer.shapes.procedural.scene import Scene, article


def tree(scene: Scene) -> str:
    """A leafy, pine, palm, bare or birch tree, sometimes on a patch of ground or in a group."""
    kind = scene.pick("tree", "tree", "pine tree", "pine tree", "palm tree", "dead tree")
    trunk = scene.paint("brown", "brown", "gray", "white")
    leaves = scene.paint("green", "green", "green", "orange", "yellow", "pink", "turquoise", "red")
    builders = {"tree": _leafy, "pine tree": _pine, "palm tree": _palm, "dead tree": _bare}
    builders[kind](scene, trunk, leaves)
    if scene.chance(0.2) and kind in ("tree", "pine tree"):
        for _ in range(scene.whole(1, 2)):
            start = len(scene.parts)
            builders[kind](scene, trunk, shade(leaves, scene.uniform(0.85, 1.15)))
            angle = scene.uniform(0, 6.28)
            size = scene.uniform(0.5, 0.9)
            scene.shift(start, (0.9 * np.sin(angle), 0.0, 0.9 * np.cos(angle)), None, size)
        return f"a group of {leaves.name} {kind}s"
    if scene.chance(0.2):
        pot = scene.paint("orange", "brown", "white", "gray")
        scene.rod(0.35, 0.35, (0.0, -0.15, 0.0), pot, top=1.3)
        return f"a small {kind} in {article(pot.name)} pot"
    return f"{article(leaves.name)} {kind}" if kind != "dead tree" else "a dead tree"


def _trunk(scene: Scene, height: float, radius: float, paint: Paint, lean: float) -> np.ndarray:
    """A leaning trunk with its foot at the origin; returns its path [5, 3]."""
    t = np.linspace(0, 1, 5)
    direction = scene.uniform(0, 6.28)
    path = np.stack([lean * np.sin(direction) * t**2, height * t, lean * np.cos(direction) * t**2], 1)
    scene.add(scene.rounded(pp.sweep(path, radius * (1 - 0.5 * t), segments=7)), 1.0, (0.0, 0.0, 0.0), paint)
    return path


def _leafy(scene: Scene, trunk: Paint, leaves: Paint) -> None:
    height = scene.uniform(0.6, 1.2)
    path = _trunk(scene, height, scene.uniform(0.07, 0.14), trunk, scene.uniform(0, 0.25))
    crown, style = scene.uniform(0.7, 1.1), scene.pick("one", "clumps", "layers", "cube")
    top = path[-1]
    if style == "one":
        ball = pp.rock(scene.rng, level=1 + int(not scene.facets), roughness=0.12, facets=scene.facets)
        scene.add(
            ball, (crown, crown * scene.uniform(0.8, 1.5), crown), tuple(top + np.array((0.0, crown * 0.3, 0.0))), scene.dress(leaves)
        )
    elif style == "cube":
        scene.block((crown, crown, crown), tuple(top + np.array((0.0, crown * 0.3, 0.0))), scene.dress(leaves))
    elif style == "layers":
        for k in range(3):
            size = crown * (1 - 0.25 * k)
            scene.add(
                pp.rock(scene.rng, level=1, roughness=0.1),
                (size, size * 0.4, size),
                tuple(top + np.array((0.0, 0.05 + 0.28 * k, 0.0))),
                shade(leaves, 1 + 0.08 * k),
            )
    else:
        for _ in range(scene.whole(3, 6)):
            offset = scene.rng.uniform(-0.4, 0.4, 3) * crown + (0, 0.25 * crown, 0)
            size = crown * scene.uniform(0.45, 0.75)
            scene.add(
                pp.rock(scene.rng, level=1, roughness=0.15, facets=scene.facets),
                size,
                tuple(top + offset),
                shade(leaves, scene.uniform(0.85, 1.12)),
            )
            scene.add(pp.sweep(np.stack([path[3], top + offset]), 0.04, segments=5), 1.0, (0.0, 0.0, 0.0), trunk)


def _pine(scene: Scene, trunk: Paint, leaves: Paint) -> None:
    levels, radius, y = scene.whole(2, 5), scene.uniform(0.4, 0.6), scene.uniform(0.2, 0.5)
    scene.rod(0.09, y + 0.3, (0.0, (y + 0.3) / 2, 0.0), trunk)
    snow = scene.paint("white") if scene.chance(0.15) else None
    for k in range(levels):
        height = scene.uniform(0.4, 0.55)
        paint = snow if snow is not None and k == levels - 1 else shade(leaves, 1 + 0.06 * k)
        cone = pp.cylinder(max(6, scene.segments), 0.0 if k == levels - 1 else 0.3)
        scene.add(scene.rounded(cone), (2 * radius, height, 2 * radius), (0.0, y + height / 2, 0.0), paint)
        y += height * 0.65
        radius *= 0.76


def _palm(scene: Scene, trunk: Paint, leaves: Paint) -> None:
    top = _trunk(scene, scene.uniform(1.1, 1.6), 0.1, trunk, scene.uniform(0, 0.5))[-1]
    count = scene.whole(5, 8)
    leaf_t = np.linspace(0, 1, 6)
    droop, length = scene.uniform(0.3, 0.7), scene.uniform(0.6, 0.9)
    path = np.stack([0 * leaf_t, 0.3 * np.sin(leaf_t * 2.2) - droop * leaf_t**2, length * leaf_t], 1)
    width = 0.14 * np.sin(np.pi * (0.12 + 0.85 * leaf_t))
    leaf = pp.sweep(path, width, section=np.array([(-0.14, -1.0), (0.14, -1.0), (0.14, 1.0), (-0.14, 1.0)]))
    for k in range(count):
        scene.add(leaf, 1.0, tuple(top), shade(leaves, scene.uniform(0.9, 1.1)), (0.0, 360.0 * k / count + scene.uniform(-10, 10), 0.0))
    if scene.chance(0.5):
        for k in range(3):
            scene.add(
                pp.sphere(8, 5),
                0.14,
                (float(top[0] + 0.09 * np.sin(k * 2.1)), float(top[1]) - 0.08, float(top[2] + 0.09 * np.cos(k * 2.1))),
                scene.paint("brown"),
            )


def _bare(scene: Scene, trunk: Paint, leaves: Paint) -> None:
    path = _trunk(scene, scene.uniform(1.0, 1.4), 0.13, trunk, scene.uniform(0, 0.3))
    for _ in range(scene.whole(4, 8)):
        start = path[scene.whole(2, 4)]
        angle, reach = scene.uniform(0, 6.28), scene.uniform(0.25, 0.55)
        bend = np.array([reach * np.sin(angle), scene.uniform(0.15, 0.5), reach * np.cos(angle)])
        branch = np.stack([start, start + bend * (0.6, 0.35, 0.6), start + bend])
        scene.add(pp.sweep(branch, np.array([0.055, 0.04, 0.015]), segments=5), 1.0, (0.0, 0.0, 0.0), trunk)


def plant(scene: Scene) -> str:
    """A bush, cactus, flower, mushroom, grass tuft or potted plant."""
    kind = scene.pick("bush", "cactus", "cactus", "flower", "flower", "mushroom", "mushroom", "grass", "potted plant")
    return {"bush": _bush, "cactus": _cactus, "flower": _flower, "mushroom": _mushroom, "grass": _grass, "potted plant": _grass}[kind](
        scene, kind
    )


def _bush(scene: Scene, kind: str) -> str:
    leaves, berry = scene.paint("green", "green", "turquoise", "orange"), scene.paint("red", "pink", "yellow", "blue")
    for _ in range(scene.whole(2, 5)):
        size = scene.uniform(0.5, 0.9)
        at = (scene.uniform(-0.4, 0.4), size * 0.35, scene.uniform(-0.4, 0.4))
        scene.add(pp.rock(scene.rng, level=1, roughness=0.15, facets=scene.facets), size, at, shade(leaves, scene.uniform(0.85, 1.1)))
    if scene.chance(0.4):
        for _ in range(8):
            part = scene.parts[scene.whole(0, len(scene.parts) - 1)]
            at = part.vertices[scene.whole(0, len(part.vertices) - 1)]
            if at[1] > 0.15:
                scene.add(pp.sphere(6, 4), 0.09, tuple(at), berry)
        return f"{article(leaves.name)} bush with {berry.name} berries"
    return article(f"{leaves.name} bush")


def _cactus(scene: Scene, kind: str) -> str:
    green = scene.paint("green", "green", "turquoise")
    height, radius = scene.uniform(0.8, 1.4), scene.uniform(0.14, 0.2)
    ribs = scene.segments
    scene.add(
        scene.rounded(pp.capsule(4.0, ribs)), (2 * radius, height, 2 * radius), (0.0, height / 2, 0.0), scene.dress(green, None, "facets")
    )
    arms = scene.whole(0, 2) if scene.chance(0.8) else 3
    for k in range(arms):
        y, reach, rise = height * scene.uniform(0.3, 0.6), scene.uniform(0.28, 0.4), scene.uniform(0.25, 0.5)
        bow = np.linspace(0, np.pi / 2, 5)
        path = np.concatenate([np.stack([reach * np.sin(bow), y + 0.12 * (1 - np.cos(bow)), 0 * bow], 1), [(reach, y + rise, 0.0)]])
        turn = (0.0, (0.0, 180.0, 90.0)[k], 0.0)
        scene.add(pp.sweep(path, radius * 0.6, segments=8), 1.0, (0.0, 0.0, 0.0), green, turn)
        end = pp.place(pp.dome(8), (radius * 1.2, radius * 0.7, radius * 1.2), (reach, y + rise + radius * 0.33, 0.0))
        scene.add(end, 1.0, (0.0, 0.0, 0.0), green, turn)
    if scene.chance(0.4):
        scene.add(pp.sphere(8, 5), 0.16, (0.0, height, 0.0), scene.paint("pink", "red", "yellow"))
    if scene.chance(0.4):
        pot = scene.paint("orange", "brown", "white", "blue")
        scene.rod(0.26, 0.36, (0.0, -0.1, 0.0), pot, top=1.3)
        return f"a cactus in {article(pot.name)} pot"
    return article(f"{green.name} cactus")


def _flower(scene: Scene, kind: str) -> str:
    petal, middle, green = (
        scene.paint("red", "pink", "yellow", "white", "blue", "purple", "orange"),
        scene.paint("yellow", "brown", "orange"),
        scene.paint("green"),
    )
    height, count = scene.uniform(0.7, 1.2), scene.whole(5, 9)
    scene.rod(0.035, height, (0.0, height / 2, 0.0), green)
    tilt = scene.pick(0.0, 25.0, 60.0, 85.0)
    start = len(scene.parts)
    width = 0.42 * scene.uniform(0.7, 1.2) * 6 / count
    for k in range(count):
        angle = 2 * np.pi * k / count
        reach = 0.25
        at = (reach * np.sin(angle), 0.03, reach * np.cos(angle))
        scene.add(pp.sphere(8, 5), (width, 0.07, 0.42), at, petal, (-12.0, float(np.degrees(angle)), 0.0))
    scene.ball((0.26, 0.14, 0.26), (0.0, 0.05, 0.0), middle)
    scene.shift(start, (0.0, height, 0.0), (tilt, 0.0, 0.0))
    leaf = pp.bend(pp.subdivide(pp.sphere(6, 4)), 50)
    for side in (-1, 1)[: scene.whole(1, 2)]:
        scene.add(leaf, (0.16, 0.45, 0.05), (side * 0.18, height * 0.35, 0.0), green, (0.0, 0.0, side * -50.0))
    return f"{article(petal.name)} flower" + (f" with {article(middle.name)} center" if scene.chance(0.3) else "")


def _mushroom(scene: Scene, kind: str) -> str:
    cap, stem = scene.paint("red", "brown", "orange", "purple", "blue", "beige"), scene.paint("white", "beige")
    for k in range(scene.whole(1, 3)):
        start = len(scene.parts)
        height, radius = scene.uniform(0.4, 0.8), scene.uniform(0.35, 0.55)
        scene.rod(0.13, height, (0.0, height / 2, 0.0), stem, top=0.75)
        dome = scene.rounded(pp.dome(max(scene.segments, 8)))
        scene.add(
            dome,
            (2 * radius, scene.uniform(0.3, 0.6), 2 * radius),
            (0.0, height + 0.15, 0.0),
            scene.dress(cap, stem, "spots" if cap.name == "red" else None),
        )
        if k:
            angle = scene.uniform(0, 6.28)
            scene.shift(start, (0.5 * np.sin(angle), 0.0, 0.5 * np.cos(angle)), (0.0, 0.0, scene.uniform(-12, 12)), 0.55)
    return article(f"{cap.name} mushroom")


def _grass(scene: Scene, kind: str) -> str:
    green = scene.paint("green", "green", "yellow", "turquoise")
    count = scene.whole(6, 14)
    t = np.linspace(0, 1, 4)
    for _ in range(count):
        height, lean, angle = scene.uniform(0.4, 1.0), scene.uniform(0.1, 0.5), scene.uniform(0, 6.28)
        out = np.array([np.sin(angle), 0.0, np.cos(angle)])
        path = np.outer(t**1.8 * lean + 0.08, out) + np.outer(t * height, (0, 1, 0))
        width = (0.08 if kind == "grass" else 0.14) * np.sin(np.pi * (0.25 + 0.72 * t))
        scene.add(pp.sweep(path, width, segments=3), 1.0, (0.0, 0.0, 0.0), shade(green, scene.uniform(0.8, 1.15)))
    if kind == "grass":
        return f"a patch of {green.name} grass"
    pot = scene.paint("orange", "brown", "white", "gray", "blue")
    scene.rod(0.24, 0.4, (0.0, -0.15, 0.0), scene.dress(pot), top=1.35)
    return f"a plant in {article(pot.name)} pot"


def rocks(scene: Scene) -> str:
    """A boulder, a cluster of rocks, crystals, a log or a campfire."""
    kind = scene.pick("rock", "rocks", "rocks", "crystal", "log", "campfire")
    stone = scene.paint("gray", "gray", "brown", "beige", "black")
    if kind in ("rock", "rocks"):
        scene.add(
            pp.rock(scene.rng, level=scene.whole(0, 2), roughness=0.3),
            tuple(scene.rng.uniform(0.6, 1.2, 3)),
            (0.0, 0.0, 0.0),
            scene.dress(stone),
        )
        for _ in range(scene.whole(1, 4) if kind == "rocks" else 0):
            size = scene.rng.uniform(0.25, 0.7, 3)
            angle = scene.uniform(0, 6.28)
            at = (0.6 * np.sin(angle), -0.3 + size[1] / 2, 0.6 * np.cos(angle))
            scene.add(pp.rock(scene.rng, level=1), tuple(size), at, shade(stone, scene.uniform(0.8, 1.15)))
        moss = scene.chance(0.2)
        if moss:
            scene.add(pp.rock(scene.rng, level=1, roughness=0.1), (0.8, 0.2, 0.8), (0.0, 0.42, 0.0), scene.paint("green", "white"))
        return f"{article(stone.name)} rock" if kind == "rock" else f"a pile of {stone.name} rocks"
    if kind == "crystal":
        paint = scene.paint("purple", "blue", "turquoise", "pink", "green")
        crystal = pp.flat(pp.revolve(np.array([(0, 0), (0.5, 0.05), (0.42, 0.7), (0, 1.0)]), scene.pick(5, 6)))
        for k in range(scene.whole(1, 6)):
            size, angle = scene.uniform(0.4, 1.0), scene.uniform(0, 6.28)
            tilt = (25 * np.cos(angle), 0.0, -25 * np.sin(angle)) if k else None
            scene.add(
                crystal,
                (size * 0.4, size, size * 0.4),
                (0.15 * np.sin(angle), 0.0, 0.15 * np.cos(angle)),
                shade(paint, scene.uniform(0.8, 1.3)),
                tilt,
            )
        if scene.chance(0.6):
            scene.add(pp.rock(scene.rng, level=1), (0.9, 0.3, 0.9), (0.0, 0.0, 0.0), stone)
        return article(f"{paint.name} crystal")
    bark, wood = scene.paint("brown"), scene.paint("beige", "orange")
    if kind == "log":
        count = scene.pick(1, 1, 3)
        axis = scene.pick("x", "x", "z")
        for k in range(count):
            across, y = (0.0, 0.0) if count == 1 else ((-0.27, 0.0), (0.27, 0.0), (0.0, 0.45))[k]
            at = (across, y, 0.0) if axis == "z" else (0.0, y, across)
            scene.rod(0.26, 1.5, at, scene.dress(bark), axis=axis)
            scene.rod(0.21, 1.53, at, wood, axis=axis)
        return "a pile of logs" if count == 3 else "a wooden log"
    for k in range(8):
        angle = k * np.pi / 4
        scene.add(pp.rock(scene.rng, level=0), 0.28, (0.6 * np.sin(angle), 0.05, 0.6 * np.cos(angle)), scene.paint("gray"))
    for k in range(4):
        scene.rod(0.07, 0.8, (0.0, 0.2, 0.0), bark, turn_deg=(55.0, 45.0 + 90.0 * k, 0.0))
    for k, name in enumerate(("red", "orange", "yellow")):
        scene.rod(0.26 - 0.06 * k, 0.75 - 0.1 * k, (0.0, 0.35, 0.02 + 0.05 * k), scene.paint(name), top=0.0)
    return "a campfire"
