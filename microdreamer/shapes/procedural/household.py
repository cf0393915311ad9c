"""Grammars of furniture, lamps and containers."""

from __future__ import annotations

import numpy as np

from microdreamer.shapes.colouring import Paint, shade
from microdreamer.shapes.procedural import parts as pp
from microdreamer.shapes.procedural.scene import Scene, article


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
