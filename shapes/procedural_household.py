"""Grammars of things found indoors: furniture, lamps, containers, food, tools and weapons."""

from __future__ import annotations

import numpy as np

from shapes import procedural_parts as pp
from shapes.colouring import Paint, shade
from shapes.procedural_abstract import article
from shapes.procedural_scene import Scene


def _wood_or(scene: Scene, chance: float = 0.55) -> Paint:
    return scene.paint("brown", "brown", "beige", "orange") if scene.chance(chance) else scene.paint()


def _material(paint: Paint) -> str:
    return "wooden" if paint.name == "brown" else paint.name


def table(scene: Scene) -> str:
    """A table or stool: square, long or round top on legs, one foot or panels."""
    wood, accent = _wood_or(scene), scene.paint()
    word = scene.pick("table", "table", "stool", "desk")
    height = scene.uniform(0.4, 0.8)
    width, depth = (scene.uniform(1.0, 1.9), scene.uniform(0.6, 1.0)) if word != "stool" else (0.5, 0.5)
    thick = scene.uniform(0.05, 0.12)
    is_round = scene.chance(0.3) and word != "desk"
    top = scene.dress(accent if scene.chance(0.4) else wood)
    if is_round:
        depth = width = min(width, 1.2)
        scene.rod(width / 2, thick, (0.0, height + thick / 2, 0.0), top)
    else:
        scene.block((width, thick, depth), (0.0, height + thick / 2, 0.0), top)
    base = scene.pick("legs", "legs", "foot", "panels") if not is_round else scene.pick("legs", "foot")
    if base == "foot":
        scene.rod(0.08, height, (0.0, height / 2, 0.0), wood)
        scene.rod(width * 0.28, 0.06, (0.0, 0.03, 0.0), wood, top=0.8)
    elif base == "panels":
        scene.block((thick, height, depth * 0.9), (width * 0.45, height / 2, 0.0), wood, pair=True)
        scene.block((width * 0.9, height * 0.5, thick * 0.5), (0.0, height * 0.7, -depth * 0.4), shade(wood, 0.8))
    else:
        inset = 0.72 if is_round else 1.0
        scene.legs(width * inset, depth * inset, height, scene.uniform(0.06, 0.14), wood, round_legs=is_round, splay=scene.pick(0, 0, 5))
    if word == "desk":
        side = scene.pick(-1, 1)
        scene.block((width * 0.3, height * 0.7, depth * 0.85), (side * width * 0.3, height * 0.62, 0.0), wood)
        for k in range(2):
            scene.block((width * 0.24, height * 0.26, 0.05), (side * width * 0.3, height * (0.45 + 0.32 * k), depth * 0.44), accent)
    elif scene.chance(0.4):
        _table_ware(scene, height + thick, width, depth)
    size = {True: "long ", False: ""}[width > 1.6 and not is_round]
    caption = f"{'round ' if is_round else size}{_material(wood)} {word}"
    return article(caption) if top.name == wood.name else f"{article(caption)} with {article(top.name)} top"


def _table_ware(scene: Scene, y: float, width: float, depth: float) -> None:
    for _ in range(scene.whole(1, 3)):
        x, z = scene.uniform(-0.35, 0.35) * width, scene.uniform(-0.3, 0.3) * depth
        paint, radius, height = scene.paint(), scene.uniform(0.06, 0.12), scene.uniform(0.05, 0.25)
        if scene.chance(0.5):
            scene.rod(radius, height, (x, y + height / 2, z), paint, top=scene.uniform(0.4, 1.0))
        else:
            scene.block((2 * radius, height * 0.5, 3 * radius), (x, y + height / 4, z), paint)


def chair(scene: Scene) -> str:
    """A chair, armchair, bench or throne that looks to +z: seat, back at -z, perhaps arms."""
    wood, cloth = _wood_or(scene), scene.paint()
    word = scene.pick("chair", "chair", "armchair", "bench", "throne")
    width = scene.uniform(1.2, 1.9) if word == "bench" else scene.uniform(0.5, 0.75)
    depth, seat = scene.uniform(0.45, 0.7), scene.uniform(0.35, 0.55)
    thick = scene.uniform(0.06, 0.2) if word != "armchair" else 0.25
    back = scene.uniform(0.4, 0.7) * (1.6 if word == "throne" else 1.0)
    soft = cloth if scene.chance(0.6) or word in ("armchair", "throne") else wood
    scene.legs(width, depth, seat, scene.uniform(0.06, 0.12), wood, round_legs=scene.chance(0.4))
    scene.block((width, thick, depth), (0.0, seat + thick / 2, 0.0), soft)
    lean, top = scene.uniform(0, 12), seat + thick
    style = scene.pick("panel", "panel", "slats", "bars")
    rear = -depth / 2 + 0.04
    if style == "panel" or word == "armchair":
        scene.block((width, back, 0.1 if word != "armchair" else 0.2), (0.0, top + back / 2, rear), scene.dress(soft), (-lean, 0.0, 0.0))
    elif style == "slats":
        for k in range(3):
            scene.block((width, back * 0.2, 0.06), (0.0, top + back * (0.2 + 0.35 * k), rear - 0.02 * k), soft)
        scene.block((0.07, back, 0.07), (width / 2 - 0.04, top + back / 2, rear - 0.03), wood, pair=True)
    else:
        for k in range(scene.whole(1, 2)):
            scene.rod(0.03, back, (0.1 + width * 0.25 * k, top + back / 2, rear), wood, pair=True)
        scene.block((width, 0.12, 0.08), (0.0, top + back, rear), soft)
    if word in ("armchair", "throne") or scene.chance(0.25):
        scene.block((0.12, 0.08, depth * 0.9), (width / 2, top + 0.22, 0.02), wood if word != "armchair" else shade(soft, 0.85), pair=True)
        filled = word == "armchair"
        arm = depth * 0.85 if filled else 0.08
        scene.block((0.1, 0.24, arm), (width / 2, top + 0.1, 0.0 if filled else depth * 0.38), wood if not filled else soft, pair=True)
    if word == "throne":
        scene.ball(0.14, (width * 0.45, top + back, rear - 0.05), scene.paint("golden", "yellow"), pair=True)
    if soft is wood:
        return article(f"{_material(wood)} {word}")
    return scene.pick(article(f"{cloth.name} {word}"), f"{article(_material(wood))} {word} with {article(cloth.name)} seat")


def sofa(scene: Scene) -> str:
    """A sofa, long in x and shallow in z, with arms, back and cushions."""
    cloth, other, feet = scene.paint(), scene.paint(), scene.paint("brown", "black", "gray")
    width, depth = scene.uniform(1.3, 2.2), scene.uniform(0.6, 0.85)
    base, back, arm = scene.uniform(0.25, 0.4), scene.uniform(0.35, 0.6), scene.uniform(0.12, 0.25)
    legs = scene.uniform(0.06, 0.16)
    scene.bevel = max(scene.bevel, 0.03)
    scene.legs(width, depth, legs, 0.1, feet, round_legs=scene.chance(0.5))
    scene.block((width, base - 0.1, depth), (0.0, legs + base / 2 - 0.05, 0.0), cloth)
    scene.block((width, base + back, 0.22), (0.0, legs + (base + back) / 2, -depth / 2 + 0.08), scene.dress(cloth), (-6.0, 0.0, 0.0))
    scene.block((arm, base + 0.22, depth), (width / 2, legs + (base + 0.22) / 2, 0.0), shade(cloth, 0.85), pair=True)
    seats = scene.whole(1, 3)
    inner = width - arm
    for k in range(seats):
        x = (k - (seats - 1) / 2) * inner / seats
        scene.block((inner / seats - 0.02, 0.14, depth * 0.75), (x, legs + base, 0.08), shade(cloth, 1.15))
    if scene.chance(0.5):
        scene.block((0.3, 0.28, 0.1), (inner * 0.32, legs + base + 0.2, -depth * 0.15), other, (-18.0, 0.0, 0.0), pair=True)
        return f"{article(cloth.name)} sofa with {other.name} pillows"
    return article(f"{'long ' if width > 1.9 else ''}{cloth.name} {scene.pick('sofa', 'couch')}")


def bed(scene: Scene) -> str:
    """A bed with its foot toward +z: frame, mattress, blanket, pillows at the back."""
    wood, blanket = _wood_or(scene, 0.75), scene.paint()
    sheet = scene.paint("white", "beige")
    double = scene.chance(0.4)
    width, length = (1.2, 1.6) if double else (scene.uniform(0.7, 0.9), 1.6)
    base = scene.uniform(0.2, 0.35)
    scene.block((width, 0.14, length), (0.0, base, 0.0), wood)
    scene.block((width * 0.94, 0.16, length * 0.95), (0.0, base + 0.14, 0.0), sheet)
    scene.block((width * 0.97, 0.2, length * 0.62), (0.0, base + 0.14, length * 0.17), scene.dress(blanket, sheet))
    head = scene.uniform(0.3, 0.7)
    scene.block((width * 1.04, base + head, 0.08), (0.0, (base + head) / 2, -length / 2), wood)
    if scene.chance(0.7):
        scene.block((width * 1.04, base + 0.2, 0.08), (0.0, (base + 0.2) / 2, length / 2), wood)
    scene.block((0.09, base, 0.09), (width / 2 - 0.05, base / 2, length / 2 - 0.08), wood, pair=True)
    scene.bevel = max(scene.bevel, 0.04)
    pillow = (width * (0.38 if double else 0.7), 0.12, 0.26)
    scene.block(pillow, (width * 0.23 if double else 0.0, base + 0.27, -length * 0.34), shade(sheet, 1.2), pair=double)
    return f"{article('double ' if double else '')}bed with {article(blanket.name)} blanket" if double else article(f"{blanket.name} bed")


def cabinet(scene: Scene) -> str:
    """A shelf, cupboard, drawers, fridge or stove: a case whose front differs from its sides."""
    case, inside = _wood_or(scene, 0.6), scene.paint()
    word = scene.pick("shelf", "bookshelf", "cabinet", "wardrobe", "drawers", "fridge", "stove")
    width, depth = scene.uniform(0.6, 1.5), scene.uniform(0.3, 0.6)
    height = {"drawers": 0.8, "stove": 0.9}.get(word, scene.uniform(0.9, 1.8))
    if word in ("fridge", "stove"):
        width, case = scene.uniform(0.6, 0.8), scene.paint("white", "gray", "red", "turquoise", "black")
        depth = 0.65
    front = depth / 2
    if word in ("shelf", "bookshelf"):
        thick, levels = 0.06, scene.whole(2, 4)
        scene.block((thick, height, depth), (width / 2, height / 2, 0.0), case, pair=True)
        if scene.chance(0.7):
            scene.block((width, height, 0.03), (0.0, height / 2, -front), shade(case, 0.75))
        for k in range(levels + 1):
            scene.block((width, thick, depth), (0.0, 0.04 + (height - 0.08) * k / levels, 0.0), case)
        for k in range(levels):
            _shelf_goods(scene, width - 0.2, 0.07 + (height - 0.08) * k / levels, (height - 0.2) / levels, depth, books=word == "bookshelf")
        return article(f"{_material(case)} {word}") if word == "shelf" else f"{article(_material(case))} shelf with books"
    scene.block((width, height, depth), (0.0, height / 2, 0.0), scene.dress(case))
    knob = scene.paint("golden", "black", "gray")
    panel = inside if scene.chance(0.4) else shade(case, scene.pick(0.8, 1.2))
    if word == "drawers":
        rows = scene.whole(2, 4)
        for k in range(rows):
            y = height * (k + 0.5) / rows
            scene.block((width * 0.9, height / rows * 0.82, 0.06), (0.0, y, front), panel)
            scene.block((width * 0.2, 0.04, 0.06), (0.0, y, front + 0.05), knob)
        return f"{article(_material(case))} cabinet with drawers"
    if word == "stove":
        scene.block((width * 0.8, height * 0.45, 0.05), (0.0, height * 0.4, front), scene.paint("black"))
        scene.rod(0.025, width * 0.7, (0.0, height * 0.68, front + 0.07), knob, axis="x")
        for z in (-0.14, 0.16):
            scene.rod(0.1, 0.03, (width * 0.24, height + 0.01, z), scene.paint("black"), pair=True)
        for k in range(2):
            scene.rod(0.035, 0.05, (width * (0.12 + 0.22 * k), height * 0.86, front + 0.02), knob, axis="z", pair=True)
        return article(f"{case.name} stove")
    doors = 1 if word == "fridge" else 2
    if doors == 1:
        split = scene.uniform(0.55, 0.7)
        scene.block((width * 0.96, height * split * 0.95, 0.06), (0.0, height * split / 2, front), panel)
        scene.block((width * 0.96, height * (1 - split) * 0.93, 0.06), (0.0, height * (1 + split) / 2, front), panel)
        scene.block((0.04, height * 0.25, 0.06), (width * 0.38, height * split * 0.7, front + 0.05), knob)
    else:
        scene.block((width * 0.44, height * 0.86, 0.05), (width * 0.235, height / 2, front), panel, pair=True)
        scene.ball(0.07, (0.06, height * 0.5, front + 0.05), knob, pair=True)
        if scene.chance(0.5):
            scene.block((width * 1.08, 0.08, depth * 1.1), (0.0, height, 0.0), shade(case, 0.7))
    return article(f"{_material(case) if word != 'fridge' else case.name} {word}")


def _shelf_goods(scene: Scene, width: float, floor: float, room: float, depth: float, *, books: bool) -> None:
    x = -width / 2
    while x < width / 2 - 0.05:
        size = scene.uniform(0.05, 0.1) if books else scene.uniform(0.1, 0.25)
        height = room * scene.uniform(0.5, 0.85)
        if scene.chance(0.8 if books else 0.5):
            if books:
                scene.add(pp.box(), (size * 0.9, height, depth * 0.7), (x + size / 2, floor + height / 2, 0.0), scene.paint())
            else:
                scene.add(
                    pp.cylinder(8, scene.pick(0.5, 1.0)),
                    (size * 0.8, height, size * 0.8),
                    (x + size / 2, floor + height / 2, 0.0),
                    scene.paint(),
                )
        x += size * (1.0 if books else 1.2)


def lamp(scene: Scene) -> str:
    """A table lamp, floor lamp, street lamp or lantern."""
    metal, glow = scene.paint("black", "gray", "brown", "golden", "blue"), scene.paint("yellow", "beige", "white", "orange")
    word = scene.pick("lamp", "floor lamp", "street lamp", "lantern")
    if word == "lantern":
        scene.rod(0.3, 0.08, (0.0, 0.04, 0.0), metal)
        scene.rod(0.22, 0.5, (0.0, 0.32, 0.0), glow)
        for side in (-1, 1):
            scene.rod(0.025, 0.5, (0.2, 0.32, 0.2 * side), metal, pair=True)
        scene.rod(0.32, 0.2, (0.0, 0.66, 0.0), metal, top=0.3)
        scene.add(pp.torus(0.2, 12, 6), (0.2, 0.04, 0.2), (0.0, 0.84, 0.0), metal, (90.0, 0.0, 0.0))
        return f"{article(metal.name)} lantern"
    if word == "street lamp":
        scene.rod(0.14, 0.1, (0.0, 0.05, 0.0), metal)
        scene.rod(0.05, 2.0, (0.0, 1.0, 0.0), metal, top=0.7)
        angle = np.linspace(0, np.pi / 2 + 0.3, 7)
        path = np.stack([0 * angle, 2.0 + 0.3 * np.sin(angle), 0.35 - 0.35 * np.cos(angle)], 1)
        scene.add(pp.sweep(path, 0.035), 1.0, (0.0, 0.0, 0.0), metal)
        scene.rod(0.16, 0.14, (0.0, 2.24, 0.5), metal, top=0.4)
        scene.ball((0.2, 0.16, 0.2), (0.0, 2.16, 0.5), glow)
        return f"{article(metal.name)} street lamp"
    height, radius = (scene.uniform(1.2, 1.7), 0.3) if word == "floor lamp" else (scene.uniform(0.4, 0.7), 0.32)
    scene.rod(radius * scene.uniform(0.5, 0.9), 0.06, (0.0, 0.03, 0.0), metal)
    if word == "lamp" and scene.chance(0.5):
        scene.ball((0.32, height * 0.8, 0.32), (0.0, height * 0.42, 0.0), scene.dress(metal))
    scene.rod(0.035, height, (0.0, height / 2, 0.0), metal)
    scene.rod(radius, 0.4, (0.0, height + 0.12, 0.0), scene.dress(glow), top=scene.uniform(0.35, 1.0))
    return f"{article(metal.name)} {word} with {article(glow.name)} shade"


def barrel(scene: Scene) -> str:
    """A barrel, drum or bucket, standing or lying along x or z."""
    wood, metal = _wood_or(scene, 0.7), scene.paint("gray", "black", "golden")
    word = scene.pick("barrel", "barrel", "drum", "bucket")
    bulge, y = scene.uniform(0.05, 0.14) if word == "barrel" else 0.0, np.linspace(0, 1, 7 if word == "barrel" else 2)
    narrow = scene.uniform(0.7, 0.85) if word == "bucket" else 1.0
    radius = (0.36 + bulge * np.sin(y * np.pi)) * (narrow + (1 - narrow) * y)
    rim = [(0.33, 1.0), (0.33, 0.95 if word != "bucket" else 0.5), (0.0, 0.95 if word != "bucket" else 0.5)]
    profile = np.concatenate([[(0, 0)], np.stack([radius, y], 1), rim])
    segments = max(scene.segments, 10)
    scene.add(
        scene.rounded(pp.revolve(profile, segments)),
        1.0,
        (0.0, 0.0, 0.0),
        scene.dress(wood, None, "facets" if wood.name == "brown" else None),
    )
    for height in (0.15, 0.85) if scene.chance(0.6) else (0.08, 0.35, 0.65, 0.92):
        hoop = float(np.interp(height, y, radius)) * 1.04
        scene.add(
            pp.cylinder(segments), (2 * hoop, 0.07, 2 * hoop), (0.0, height if height < 0.9 or word == "barrel" else 0.89, 0.0), metal
        )
    if word == "bucket":
        angle = np.linspace(0, np.pi, 9)
        path = np.stack([0.37 * np.cos(angle), 0.93 + 0.35 * np.sin(angle), 0 * angle], 1)
        scene.add(pp.sweep(path, 0.02), 1.0, (0.0, 0.0, 0.0), metal)
    elif scene.chance(0.3):
        scene.shift(0, (0.0, 0.0, 0.0), scene.pick((90.0, 0.0, 0.0), (0.0, 0.0, 90.0)))
        return f"{article(wood.name)} {word} on its side"
    return article(f"{_material(wood)} {word}") if scene.chance(0.5) else article(f"{wood.name} and {metal.name} {word}")


def crate(scene: Scene) -> str:
    """A crate, box or treasure chest; crates may be open and full."""
    wood, trim = _wood_or(scene, 0.75), scene.paint("gray", "golden", "black", "brown", "beige")
    width, height, depth = scene.uniform(0.7, 1.2), scene.uniform(0.5, 0.8), scene.uniform(0.6, 0.8)
    if scene.chance(0.35):
        scene.block((width, height * 0.6, depth), (0.0, height * 0.3, 0.0), scene.dress(wood))
        lid = pp.cylinder(12)
        scene.add(lid, (depth, width, depth), (0.0, height * 0.6, 0.0), shade(wood, 0.85), (0.0, 0.0, 90.0))
        for x in (0.32, 0.45):
            scene.add(lid, (depth * 1.06, 0.07, depth * 1.06), (width * x, height * 0.6, 0.0), trim, (0.0, 0.0, 90.0), pair=True)
            scene.block((0.07, height * 0.6, depth * 1.06), (width * x, height * 0.3, 0.0), trim, pair=True)
        scene.block((0.16, 0.18, 0.06), (0.0, height * 0.6, depth / 2 + 0.02), scene.paint("golden", "gray"))
        return f"{article(_material(wood))} treasure chest"
    full = scene.chance(0.4)
    if full:
        thick = 0.06
        scene.block((thick, height, depth), (width / 2, height / 2, 0.0), wood, pair=True)
        for side in (-1, 1):
            scene.block((width, height, thick), (0.0, height / 2, side * depth / 2), wood)
        scene.block((width, thick, depth), (0.0, thick / 2, 0.0), shade(wood, 0.8))
        word, fruit = scene.pick(("apples", ("red", "green")), ("oranges", ("orange",)), ("cabbages", ("green",)), ("potatoes", ("beige",)))
        paint = scene.paint(*fruit)
        for x in (-0.3, 0.0, 0.3):
            for z in (-0.25, 0.25):
                at = (x * width, height * scene.uniform(0.82, 0.95), z * depth)
                scene.add(pp.sphere(8, 6), 0.33 * depth + 0.05, at, shade(paint, scene.uniform(0.85, 1.1)))
        return f"{article(_material(wood))} crate of {word}"
    depth = width if scene.chance(0.5) else depth
    scene.block((width, height, depth), (0.0, height / 2, 0.0), shade(wood, 0.8))
    beam = 0.1
    for x in (width / 2 - 0.04,):
        for z in (-depth / 2 + 0.04, depth / 2 - 0.04):
            scene.block((beam, height * 1.04, beam), (x, height / 2, z), trim, pair=True)
    for y in (0.05, height - 0.05):
        for z in (-depth / 2 + 0.03, depth / 2 - 0.03):
            scene.block((width, beam, beam * 0.8), (0.0, y, z), trim)
        scene.block((beam * 0.8, beam, depth), (width / 2 - 0.03, y, 0.0), trim, pair=True)
    if scene.chance(0.5):
        length, angle = float(np.hypot(width, height)) * 0.85, float(np.degrees(np.arctan2(height, width)))
        for z in (-depth / 2, depth / 2):
            scene.block((length, beam, 0.05), (0.0, height / 2, z), trim, (0.0, 0.0, angle))
    if scene.chance(0.2):
        scene.copy(0, (width * 0.1, height, 0.0), (0.0, scene.uniform(-25, 25), 0.0))
        return f"a stack of two {wood.name} crates"
    return article(f"{_material(wood)} crate")


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
    return "a burger" if scene.chance(0.4) else f"a burger with {names[0]}"


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
        ("apple", ("red", "green"), (1.0, 0.92, 1.0)), ("orange", ("orange",), (1.0, 1.0, 1.0)), ("lemon", ("yellow",), (1.3, 0.85, 0.85)),
        ("melon", ("green",), (1.0, 1.2, 1.0)), ("pumpkin", ("orange",), (1.2, 0.85, 1.2)), ("pear", ("green", "yellow"), (0.85, 1.2, 0.85)),
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
    x = -length / 2 + 0.15
    if kind == "hammer":
        scene.block((0.26, 0.6, 0.26), (x, 0.0, 0.0), metal)
    elif kind == "pickaxe":
        y = np.linspace(-0.5, 0.5, 9)
        path = np.stack([x - 0.15 + 0.5 * y**2, y, 0 * y], 1)
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
