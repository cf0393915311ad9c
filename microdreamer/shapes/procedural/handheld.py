"""Grammars of food, tools, weapons and books."""

from __future__ import annotations

import numpy as np

from microdreamer.shapes.colouring import Paint, shade
from microdreamer.shapes.procedural import parts as pp
from microdreamer.shapes.procedural.scene import Scene, article


def food(scene: Scene) -> str:
    """Burger, cake, slice, fruit, ice cream, sausage, bread, cheese, pizza, sushi, doughnut, lollipop."""
    kind = scene.pick(
        "burger", "cake", "slice", "fruit", "fruit", "cone", "sausage", "bread", "cheese", "doughnut", "sushi", "carrot", "lollipop"
    )
    return _FOOD[kind](scene)


def _burger(scene: Scene) -> str:
    bun, y = scene.paint("orange", "beige", "brown"), 0.2
    scene.add(scene.rounded(pp.dome(scene.segments)), (1.0, 0.2, 1.0), (0.0, 0.1, 0.0), bun, (180.0, 0.0, 0.0))
    fillings = {"lettuce": "green", "tomato": "red", "cheese": "yellow", "patty": "brown"}
    names = [scene.pick(*fillings) for _ in range(scene.whole(2, 5))]
    for name in names:
        paint, thick = scene.paint(fillings[name]), {"patty": 0.15}.get(name, 0.06)
        if name == "cheese":
            scene.block((0.85, thick, 0.85), (0.0, y + thick / 2, 0.0), paint, (0.0, scene.uniform(0, 90), 0.0))
        elif name == "lettuce":
            wavy = pp.extrude(_flower_outline(9, 0.08))
            scene.add(wavy, (1.12, 1.12, thick), (0.0, y + thick / 2, 0.0), paint, (90.0, 0.0, 0.0))
        else:
            scene.rod(0.5, thick, (0.0, y + thick / 2, 0.0), paint)
        y += thick
    scene.add(scene.rounded(pp.dome(scene.segments)), (1.05, 0.4, 1.05), (0.0, y + 0.2, 0.0), scene.dress(bun))
    return "a burger" if scene.chance(0.4) or names[0] == "patty" else f"a burger with {names[0]}"


def _flower_outline(lobes: int, depth: float) -> np.ndarray:
    angle = np.arange(lobes * 4) * 2 * np.pi / (lobes * 4)
    radius = 0.5 - depth / 2 + depth / 2 * np.cos(angle * lobes)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


def _cake(scene: Scene) -> str:
    dough, cream = scene.paint("brown", "beige", "pink", "white"), scene.paint("white", "pink", "brown", "red", "turquoise")
    y, radius, tiers = 0.0, 0.6, scene.whole(1, 3)
    square = scene.chance(0.2)
    for _ in range(tiers):
        for paint, thick in ((dough, 0.22), (cream, 0.08)):
            if square:
                scene.block((2 * radius, thick, 1.6 * radius), (0.0, y + thick / 2, 0.0), paint)
            else:
                scene.rod(radius * (1.03 if paint is cream else 1), thick, (0.0, y + thick / 2, 0.0), paint)
            y += thick
        radius *= scene.uniform(0.6, 0.8)
    top = scene.paint("red", "yellow", "purple")
    count = scene.whole(1, 6)
    for k in range(count):
        angle, reach = 2 * np.pi * k / count, radius * 0.9 if count > 1 else 0.0
        at = (reach * np.sin(angle), y + 0.05, reach * np.cos(angle))
        if scene.chance(0.5):
            scene.add(pp.sphere(8, 5), 0.14, at, top)
        else:
            scene.add(pp.cylinder(6), (0.04, 0.2, 0.04), at, top)
    return f"{article(dough.name)} cake with {cream.name} cream"


def _slice(scene: Scene) -> str:
    word = scene.pick("cake", "pizza", "melon", "pie")
    inside, rim = {
        "cake": (("pink", "brown", "white", "yellow"), ("white", "brown")), "pizza": (("yellow",), ("brown",)),
        "melon": (("red", "orange", "green"), ("green",)), "pie": (("orange", "red", "purple"), ("beige",)),
    }[word]  # fmt: skip
    filling, crust = scene.paint(*inside), scene.paint(*rim)
    thick = {"cake": 0.5, "pizza": 0.1, "melon": 0.3, "pie": 0.3}[word]
    angle = np.radians(np.linspace(-24, 24, 7))
    sector = np.concatenate([[(0.0, 0.55)], np.stack([np.sin(angle), 0.55 - np.cos(angle)], 1)])
    middle = sector.mean(0)
    upright = word == "melon"
    turn = None if upright else (90.0, 0.0, 0.0)
    scene.add(pp.extrude(sector - middle), (1.0, 1.0, thick), (0.0, 0.0, 0.0), scene.dress(filling), turn)
    outer = (sector[1:] - middle) * (1.0, 1.0)
    path = np.concatenate([outer, np.zeros((len(outer), 1))], 1)
    section = np.array([(-0.06, -0.54), (0.06, -0.54), (0.06, 0.54), (-0.06, 0.54)]) * (1.0, thick)
    scene.add(pp.sweep(path, 1.0, section=section), 1.0, (0.0, 0.0, 0.0), crust, turn)
    if word == "cake":
        scene.add(pp.extrude(sector - middle), (1.0, 1.0, 0.1), (0.0, thick / 2, 0.0), crust, turn)
        scene.ball(0.2, (0.0, thick / 2 + 0.12, 0.1), scene.paint("red"))
    elif word == "pizza":
        for x, z in ((0.0, 0.12), (0.15, -0.2), (-0.16, -0.15)):
            scene.rod(0.09, 0.05, (x, thick / 2, -z), scene.paint("red"))
    return f"a slice of {word}"


def _fruit(scene: Scene) -> str:
    word, names, size = scene.pick(
        ("apple", ("red", "green"), (1.0, 0.92, 1.0)), ("orange", ("orange",), (1.0, 1.0, 1.0)),
        ("lemon", ("yellow",), (1.3, 0.85, 0.85)),
        ("melon", ("green",), (1.0, 1.2, 1.0)), ("pumpkin", ("orange",), (1.2, 0.85, 1.2)),
        ("pear", ("green", "yellow"), (0.85, 1.2, 0.85)),
        ("plum", ("purple",), (0.9, 1.0, 0.9)), ("tomato", ("red",), (1.1, 0.85, 1.1)), ("egg", ("beige", "white"), (0.8, 1.05, 0.8)),
    )  # fmt: skip
    paint = scene.paint(*names)
    if word == "pumpkin":
        for k in range(6):
            scene.add(
                pp.sphere(10, 7),
                (0.55, 0.8, 0.85),
                (0.3 * np.sin(k * np.pi / 3), 0.0, 0.3 * np.cos(k * np.pi / 3)),
                paint,
                (0.0, 60.0 * k, 0.0),
            )
    else:
        body = pp.sphere(scene.segments, scene.segments // 2 + 2)
        body = pp.taper(body, 0.45 if word == "pear" else 0.2 if word == "egg" else 0.0)
        scene.add(
            scene.rounded(body), size, (0.0, 0.0, 0.0), scene.dress(paint, None, "stripes") if word == "melon" else scene.dress(paint)
        )
    if word != "egg":
        scene.add(
            pp.bend(pp.subdivide(pp.cylinder(6, 0.7)), 40), (0.08, 0.3, 0.08), (0.0, size[1] / 2 + 0.03, 0.0), scene.paint("brown", "green")
        )
        if scene.chance(0.5):
            leaf = pp.bend(pp.subdivide(pp.box((1, 1, 1))), 40)
            scene.add(leaf, (0.16, 0.35, 0.03), (0.14, size[1] / 2 + 0.1, 0.0), scene.paint("green"), (20.0, 0.0, -60.0))
    return article(f"{paint.name} {word}") if word != "orange" else "an orange"


def _cone(scene: Scene) -> str:
    scene.rod(0.3, 0.9, (0.0, 0.0, 0.0), scene.dress(scene.paint("orange", "beige"), None, "checks"), top=0.05, turn_deg=(180.0, 0.0, 0.0))
    paint, y = scene.paint(), 0.5
    for _ in range(scene.whole(1, 3)):
        scene.ball((0.6, 0.5, 0.6), (0.0, y + 0.1, 0.0), paint)
        y, paint = y + 0.3, scene.paint()
    return "an ice cream cone"


def _sausage(scene: Scene) -> str:
    x = np.linspace(-0.7, 0.7, 9)
    bow = scene.uniform(-0.25, 0.25)
    radius = 0.15 * (1 - (np.abs(x) / 0.75) ** 6) ** 0.5
    path = np.stack([x, bow * (x**2 - 0.2), 0 * x], 1)
    if scene.chance(0.4):
        bun = scene.paint("beige", "orange")
        for side in (-1, 1):
            scene.add(pp.place(pp.capsule(4.0, scene.segments), turn_deg=(0.0, 0.0, 90.0)), (1.3, 0.3, 0.3), (0.0, -0.08, 0.14 * side), bun)
        path[:, 1] = 0.06
        scene.add(pp.sweep(path, radius * 0.9, segments=10), 1.0, (0.0, 0.0, 0.0), scene.paint("red", "brown"))
        return "a hot dog"
    word, names = scene.pick(("sausage", ("brown", "red")), ("banana", ("yellow",)), ("cucumber", ("green",)))
    paint = scene.paint(*names)
    scene.add(pp.sweep(path, radius, segments=10), 1.0, (0.0, 0.0, 0.0), scene.dress(paint))
    return article(f"{paint.name} {word}" if word == "sausage" else word)


def _bread(scene: Scene) -> str:
    crust = scene.paint("brown", "orange", "beige")
    loaf = pp.place(scene.rounded(pp.dome(scene.segments, 6)), 1.0)
    scene.add(loaf, (scene.uniform(1.2, 1.9), scene.uniform(0.4, 0.6), 0.6), (0.0, 0.0, 0.0), scene.dress(crust))
    for k in range(-1, 2):
        scene.block((0.06, 0.05, 0.35), (0.3 * k, 0.26, 0.0), shade(crust, 1.3), (0.0, 30.0, 0.0))
    return scene.pick("a loaf of bread", f"{article(crust.name)} bread")


def _cheese(scene: Scene) -> str:
    paint = scene.paint("yellow", "orange")
    wedge = pp.place(pp.wedge(), 1.0, turn_deg=(0.0, scene.pick(-90.0, 90.0), 0.0))
    wedge = pp.place(pp.gable(), 1.0, turn_deg=(-90.0, 0.0, 0.0)) if scene.chance(0.5) else wedge
    scene.add(
        wedge,
        (1.0, scene.uniform(0.3, 0.6), scene.uniform(0.6, 1.0)),
        (0.0, 0.0, 0.0),
        scene.dress(paint, None, scene.pick("spots", "facets")),
    )
    return article(f"{paint.name} cheese")


def _doughnut(scene: Scene) -> str:
    dough, icing = scene.paint("orange", "beige", "brown"), scene.paint("pink", "brown", "white", "turquoise")
    turn = (90.0, 0.0, 0.0) if scene.chance(0.4) else None
    scene.add(scene.rounded(pp.torus(0.7, 16, 8)), (1.0, 0.32, 1.0), (0.0, 0.0, 0.0), dough, turn)
    offset = (0.0, 0.0, 0.05) if turn else (0.0, 0.05, 0.0)
    scene.add(scene.rounded(pp.torus(0.66, 16, 8)), (0.99, 0.3, 0.99), offset, scene.dress(icing, None, "spots"), turn)
    return f"a donut with {icing.name} icing"


def _sushi(scene: Scene) -> str:
    fish = scene.paint("orange", "red", "pink", "yellow")
    if scene.chance(0.5):
        scene.rod(0.5, 0.6, (0.0, 0.0, 0.0), scene.paint("black", "green"))
        scene.rod(0.42, 0.62, (0.0, 0.0, 0.0), scene.paint("white"))
        scene.rod(0.18, 0.65, (0.0, 0.0, 0.0), fish)
        return f"a sushi roll with {fish.name} fish"
    scene.bevel = 0.1
    scene.block((1.2, 0.4, 0.6), (0.0, 0.0, 0.0), scene.paint("white"))
    scene.block((1.4, 0.16, 0.66), (0.0, 0.26, 0.0), scene.dress(fish, None, "stripes"))
    return f"a sushi with {fish.name} fish"


def _carrot(scene: Scene) -> str:
    word, names = scene.pick(("carrot", ("orange",)), ("radish", ("pink", "red", "white")), ("beet", ("purple", "red")))
    paint, leaves = scene.paint(*names), scene.paint("green")
    long = 0.5 if word != "carrot" else 1.0
    body = pp.revolve(
        np.array([(0, 0), (0.1, 0.3 * long), (0.24, 0.85 * long), (0.22, 1.0 * long), (0, 1.06 * long)]), max(scene.segments, 8)
    )
    scene.add(scene.rounded(body), 1.0, (0.0, 0.0, 0.0), paint)
    for k in range(scene.whole(2, 5)):
        turn = (25.0 * np.cos(k * 2.4), 0.0, 25.0 * np.sin(k * 2.4))
        scene.add(pp.sphere(6, 5), (0.12, 0.5, 0.08), (0.1 * -np.sin(k * 2.4), long + 0.28, 0.1 * np.cos(k * 2.4)), leaves, turn)
    return article(f"{paint.name} {word}") if word != "carrot" else "a carrot with green leaves"


def _lollipop(scene: Scene) -> str:
    paint, other = scene.paint(), scene.paint()
    thick = scene.uniform(0.1, 0.5)
    scene.add(scene.rounded(pp.sphere(14, 8)), (0.7, 0.7, thick), (0.0, 0.6, 0.0), scene.dress(paint, other, "stripes"))
    scene.rod(0.03, 1.0, (0.0, -0.1, 0.0), scene.paint("white", "beige"))
    return article(f"{paint.name} lollipop")


_FOOD = {
    "burger": _burger, "cake": _cake, "slice": _slice, "fruit": _fruit, "cone": _cone, "sausage": _sausage, "bread": _bread,
    "cheese": _cheese, "doughnut": _doughnut, "sushi": _sushi, "carrot": _carrot, "lollipop": _lollipop,
}  # fmt: skip


def tool(scene: Scene) -> str:
    """A sword, axe, hammer, pickaxe, gun, spear, wrench, shovel or key: long across x (some stand upright), thin in z."""
    grip, metal = scene.paint("brown", "black", "beige", "red"), scene.paint("gray", "gray", "white", "golden", "black", "blue")
    kind = scene.pick("sword", "sword", "axe", "hammer", "pickaxe", "gun", "gun", "rifle", "spear", "shovel", "key", "pan", "staff")
    {
        "sword": _sword, "axe": _axe, "hammer": _axe, "pickaxe": _axe, "gun": _gun, "rifle": _gun, "spear": _pole, "shovel": _pole,
        "key": _key, "pan": _pan, "staff": _pole,
    }[kind](scene, kind, grip, metal)  # fmt: skip
    if kind in ("axe", "hammer", "pickaxe", "spear", "shovel", "sword", "staff") and scene.chance(0.4):
        scene.shift(0, (0.0, 0.0, 0.0), (0.0, 0.0, 90.0))
    return f"{article(metal.name)} {kind}" + (
        f" with {article(grip.name)} handle" if kind not in ("key", "staff") and scene.chance(0.5) else ""
    )


def _sword(scene: Scene, kind: str, grip: Paint, metal: Paint) -> None:
    length, width = scene.uniform(0.5, 1.5), scene.uniform(0.1, 0.2)
    blade = np.array([(0.0, -width), (length, -width * 0.8), (length + 0.2, 0), (length, width * 0.8), (0.0, width)]) - (length / 2, 0)
    scene.add(pp.extrude(blade * (1, 0.5), bevel=0.25), (1.0, 1.0, 0.06), (length / 2, 0.0, 0.0), metal)
    scene.block((0.08, width * scene.uniform(2, 3.5), 0.1), (0.0, 0.0, 0.0), scene.paint("golden", "gray", "brown"))
    scene.rod(0.04, 0.35, (-0.2, 0.0, 0.0), grip, axis="x")
    scene.ball(0.11, (-0.4, 0.0, 0.0), scene.paint("golden", "red", "gray", "blue"))


def _axe(scene: Scene, kind: str, grip: Paint, metal: Paint) -> None:
    length = scene.uniform(1.0, 1.6)
    scene.rod(0.045, length, (0.0, 0.0, 0.0), grip, axis="x")
    x = length / 2 - 0.15
    if kind == "hammer":
        scene.block((0.26, 0.6, 0.26), (x, 0.0, 0.0), metal)
    elif kind == "pickaxe":
        y = np.linspace(-0.5, 0.5, 9)
        path = np.stack([x + 0.1 - 0.5 * y**2, y, 0 * y], 1)
        scene.add(pp.sweep(path, 0.09 * (1.15 - 1.8 * np.abs(y)) + 0.02, segments=4), 1.0, (0.0, 0.0, 0.0), metal)
    else:
        angle = np.linspace(-0.9, 0.9, 7)
        head = np.concatenate([np.stack([0.3 * np.sin(angle), 0.42 * np.cos(angle)], 1)[::-1], [(-0.1, 0.0), (0.1, 0.0)]])
        outline = head - (0, 0.2)
        for side in (1, -1) if scene.chance(0.3) else (1,):
            turn = None if side > 0 else (0.0, 0.0, 180.0)
            scene.add(pp.extrude(outline), (1.0, 1.0, 0.07), (x, 0.2 * side, 0.0), metal, turn)
        scene.block((0.2, 0.14, 0.14), (x, 0.0, 0.0), shade(metal, 0.7))


def _gun(scene: Scene, kind: str, grip: Paint, metal: Paint) -> None:
    length = scene.uniform(0.9, 1.4) if kind == "rifle" else scene.uniform(0.4, 0.7)
    accent = scene.paint()
    scene.block((0.7, 0.2, 0.14), (0.0, 0.0, 0.0), metal)
    barrels = scene.rod(0.06, length, (0.3 + length / 2, 0.04, 0.0), shade(metal, 0.75), axis="x")
    tip = float(barrels.vertices[:, 0].max())
    scene.rod(0.09, 0.12, (tip, 0.04, 0.0), accent, axis="x")
    scene.block((0.16, 0.42, 0.12), (-0.26, -0.25, 0.0), grip, (0.0, 0.0, -15.0))
    scene.add(pp.torus(0.2, 10, 6), (0.2, 0.04, 0.2), (-0.05, -0.14, 0.0), metal, (90.0, 0.0, 0.0))
    if kind == "rifle":
        scene.block((0.7, 0.24, 0.12), (-0.65, -0.06, 0.0), grip, (0.0, 0.0, 8.0))
        scene.block((0.14, 0.35, 0.1), (0.2, -0.22, 0.0), accent, (0.0, 0.0, 12.0))
    if scene.chance(0.5):
        scene.rod(0.06, 0.35, (0.0, 0.19, 0.0), accent, axis="x")


def _pole(scene: Scene, kind: str, grip: Paint, metal: Paint) -> None:
    scene.rod(0.04, 1.8, (0.0, 0.0, 0.0), grip, axis="x")
    if kind == "spear":
        scene.add(pp.prism(4, 0.0), (0.2, 0.4, 0.07), (1.05, 0.0, 0.0), metal, (0.0, 0.0, -90.0))
    elif kind == "staff":
        scene.add(pp.rock(scene.rng, level=1, roughness=0.1), 0.3, (1.0, 0.0, 0.0), metal)
        scene.add(pp.torus(0.25, 12, 6), (0.45, 0.08, 0.45), (1.0, 0.0, 0.0), scene.paint("golden", "gray"), (90.0, 0.0, 0.0))
    else:
        blade = np.array([(-0.25, -0.18), (0.1, -0.18), (0.3, 0.0), (0.1, 0.18), (-0.25, 0.18)])
        scene.add(pp.extrude(blade, bevel=0.1), (1.0, 1.0, 0.06), (1.05, 0.0, 0.0), metal)
        scene.rod(0.05, 0.35, (-0.9, 0.0, 0.0), grip)


def _key(scene: Scene, kind: str, grip: Paint, metal: Paint) -> None:
    scene.add(pp.torus(0.4, 14, 6), (0.5, 0.14, 0.5), (-0.7, 0.0, 0.0), metal, (90.0, 0.0, 0.0))
    scene.rod(0.06, 1.1, (0.0, 0.0, 0.0), metal, axis="x")
    for k in range(scene.whole(2, 3)):
        scene.block((0.1, scene.uniform(0.15, 0.35), 0.08), (0.5 - 0.18 * k, -0.15, 0.0), metal)


def _pan(scene: Scene, kind: str, grip: Paint, metal: Paint) -> None:
    profile = np.array([(0, 0), (0.42, 0), (0.5, 0.2), (0.46, 0.2), (0.4, 0.04), (0, 0.04)])
    scene.add(scene.rounded(pp.revolve(profile, 16)), 1.0, (-0.4, 0.0, 0.0), metal)
    scene.block((0.7, 0.06, 0.12), (0.4, 0.17, 0.0), grip, (0.0, 0.0, 6.0))


def book(scene: Scene) -> str:
    """A book, standing, lying, open or in a stack."""
    cover, pages = scene.paint(), scene.paint("white", "beige")
    style = scene.pick("lying", "standing", "open", "stack")
    if style == "open":
        for side in (-1, 1):
            scene.block((0.75, 0.05, 1.0), (0.36 * side, 0.05, 0.0), cover, (0.0, 0.0, side * 10.0))
            scene.block((0.7, 0.12, 0.94), (0.35 * side, 0.12, 0.0), shade(pages, scene.pick(1.0, 0.95)), (0.0, 0.0, side * 10.0))
        return f"an open {cover.name} book"
    y = 0.0
    for _ in range(scene.whole(2, 4) if style == "stack" else 1):
        thick, start = scene.uniform(0.15, 0.3), len(scene.parts)
        scene.block((0.68, thick * 0.75, 0.96), (0.01, thick / 2, 0.0), pages)
        for level in (0.0, thick):
            scene.block((0.74, 0.04, 1.0), (0.0, level, 0.0), cover)
        scene.block((0.05, thick, 1.0), (-0.36, thick / 2, 0.0), cover)
        scene.shift(start, (0.0, y, 0.0), (0.0, scene.uniform(-25, 25), 0.0) if style == "stack" else None)
        y, cover = y + thick + 0.04, scene.paint() if style == "stack" else cover
    if style == "stack":
        return "a stack of books"
    if style == "standing":
        scene.shift(0, (0.0, 0.0, 0.0), (90.0, 0.0, 0.0))
        return f"a closed {cover.name} book"
    return article(f"{cover.name} book")
