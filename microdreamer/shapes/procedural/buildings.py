"""Grammars of houses, castles, towers, tents, fences and bridges."""

from __future__ import annotations

import numpy as np

from microdreamer.shapes.colouring import Paint, shade
from microdreamer.shapes.procedural import parts as pp
from microdreamer.shapes.procedural.scene import Scene, article


def house(scene: Scene) -> str:
    """A house with its door toward +z: gable, hip, flat or shed roof, windows, chimney, perhaps a second storey, porch or annex."""
    wall = scene.paint("white", "beige", "brown", "gray", "red", "yellow", "blue", "orange", "green")
    roof = scene.paint("red", "brown", "gray", "blue", "orange", "green", "black", "turquoise")
    trim, glass = scene.paint("white", "brown", "beige", "gray"), scene.paint("blue", "turquoise", "yellow", "black")
    door = scene.paint("brown", "red", "green", "black", "blue")
    width, depth = scene.uniform(0.8, 1.6), scene.uniform(0.7, 1.6)
    storeys = scene.whole(1, 2) if scene.chance(0.8) else 3
    height = 0.55 * storeys * scene.uniform(0.9, 1.15)
    bevel, scene.bevel = scene.bevel, 0.0
    base = scene.chance(0.5)
    if base:
        scene.block((width * 1.06, 0.1, depth * 1.06), (0.0, 0.05, 0.0), scene.paint("gray", "brown"))
    scene.block((width, height, depth), (0.0, height / 2, 0.0), scene.dress(wall))
    if storeys > 1 and scene.chance(0.4):
        scene.block((width * 1.04, 0.06, depth * 1.04), (0.0, height / storeys, 0.0), trim)
    style = scene.pick("gable", "gable", "gable across", "hip", "flat", "shed")
    rise = scene.uniform(0.3, 0.7) * min(width, depth)
    _roof(scene, style, (width, height, depth), rise, roof, wall)
    _openings(scene, (width, height, depth), storeys, trim, glass, door)
    caption = f"{wall.name} house with {article(roof.name)} roof"
    if scene.chance(0.4) and style != "flat":
        brick = scene.paint("gray", "red", "brown")
        x, z = scene.pick(-1, 1) * width * 0.3, scene.uniform(-0.3, 0.3) * depth
        scene.block((0.14, rise * 1.2, 0.14), (x, height + rise * 0.6, z), brick)
        scene.block((0.18, 0.05, 0.18), (x, height + rise * 1.2, z), shade(brick, 0.7))
        if scene.chance(0.4):
            caption = f"{wall.name} house with a chimney"
    if scene.chance(0.25):
        _annex(scene, width, depth, wall, roof)
    if scene.chance(0.25):
        scene.block((0.6, 0.05, 0.35), (0.0, 0.48, depth / 2 + 0.17), roof, (12.0, 0.0, 0.0))
        scene.block((0.05, 0.45, 0.05), (0.26, 0.23, depth / 2 + 0.3), trim, pair=True)
    if scene.chance(0.2):
        scene.block((width * 1.5, 0.06, depth * 1.5), (0.0, -0.03, 0.0), scene.paint("green", "gray", "beige"))
    scene.bevel = bevel
    size = {1: "small ", 3: "tall "}.get(storeys, "") if scene.chance(0.4) else ""
    return article(size + caption) if scene.chance(0.85) else "a house"


def _roof(scene: Scene, style: str, size: tuple[float, float, float], rise: float, roof: Paint, wall: Paint) -> None:
    width, height, depth = size
    over = scene.uniform(1.08, 1.25)
    if style == "flat":
        scene.block((width * 1.06, 0.1, depth * 1.06), (0.0, height + 0.05, 0.0), roof)
        if scene.chance(0.5):
            scene.block((width * 0.3, 0.16, depth * 0.3), (width * 0.2, height + 0.18, -depth * 0.2), scene.paint("gray", "white"))
    elif style == "hip":
        scene.add(
            pp.prism(4, scene.pick(0.0, 0.0, 0.4)), (width * over, rise, depth * over), (0.0, height + rise / 2, 0.0), scene.dress(roof)
        )
    elif style == "shed":
        scene.add(pp.wedge(), (width, rise * 0.7, depth), (0.0, height + rise * 0.35, 0.0), wall)
        slope, angle = float(np.hypot(rise * 0.7, depth)), float(np.degrees(np.arctan2(rise * 0.7, depth)))
        scene.block((width * over, 0.07, slope * over), (0.0, height + rise * 0.35 + 0.03, 0.0), scene.dress(roof), (angle, 0.0, 0.0))
    else:
        start = len(scene.parts)
        across, along = (width, depth) if style == "gable" else (depth, width)
        slope, angle = float(np.hypot(rise, across / 2)), float(np.degrees(np.arctan2(rise, across / 2)))
        scene.add(pp.gable(), (across, rise, along), (0.0, rise / 2, 0.0), wall)
        length = slope * over
        x, y = length / 2 * np.cos(np.radians(angle)), rise - length / 2 * np.sin(np.radians(angle))
        scene.block((length, 0.08, along * over), (x, y + 0.03, 0.0), scene.dress(roof), (0.0, 0.0, -angle), pair=True)
        scene.shift(start, (0.0, height, 0.0), None if style == "gable" else (0.0, 90.0, 0.0))


def _openings(scene: Scene, size: tuple[float, float, float], storeys: int, trim: Paint, glass: Paint, door: Paint) -> None:
    width, height, depth = size
    floor, front, side = height / storeys, depth / 2, width / 2
    scene.block((0.26, floor * 0.72, 0.05), (0.0, floor * 0.36, front), trim)
    scene.block((0.2, floor * 0.66, 0.08), (0.0, floor * 0.33, front), door)
    pane = (0.18, floor * 0.36)
    columns = 1 if width < 1.0 else scene.whole(1, 2)
    side_windows = scene.whole(0, 2) if depth > 0.9 else scene.whole(0, 1)
    back = scene.chance(0.5)
    for storey in range(storeys):
        y = floor * (storey + 0.58)
        for k in range(columns):
            x = side * (0.62 if columns == 1 else 0.45 + 0.35 * k)
            for z in (front, -front) if back else (front,):
                scene.block((pane[0] + 0.06, pane[1] + 0.06, 0.04), (x, y, z), trim, pair=True)
                scene.block((*pane, 0.06), (x, y, z), glass, pair=True)
        for k in range(side_windows):
            z = depth * (k - (side_windows - 1) / 2) * 0.45
            scene.block((0.04, pane[1] + 0.06, pane[0] + 0.06), (side, y, z), trim, pair=True)
            scene.block((0.06, pane[1], pane[0]), (side, y, z), glass, pair=True)


def _annex(scene: Scene, width: float, depth: float, wall: Paint, roof: Paint) -> None:
    size, sign = (width * 0.5, 0.4, depth * 0.6), scene.pick(-1, 1)
    at = (sign * (width / 2 + size[0] / 2), 0.2, scene.uniform(-0.15, 0.15) * depth)
    scene.block(size, at, wall)
    scene.block((size[0] * 1.1, 0.07, size[2] * 1.15), (at[0], 0.43, at[2]), roof, (0.0, 0.0, -sign * 14.0))
    scene.block((0.2, 0.28, 0.05), (at[0], 0.16, at[2] + size[2] / 2), shade(roof, 0.6))


def castle(scene: Scene) -> str:
    """A castle, gate, skyscraper, windmill, well or tent."""
    kind = scene.pick("castle", "castle", "gate", "skyscraper", "windmill", "well", "tent")
    stone, roof = scene.paint("gray", "beige", "brown", "white"), scene.paint("red", "blue", "brown", "purple", "green")
    return _BUILT[kind](scene, stone, roof)


def _battlements(scene: Scene, width: float, y: float, z: float, paint: Paint) -> None:
    count = max(2, round(width / 0.3))
    for k in range(count):
        scene.block((0.55 * width / count, 0.1, 0.12), ((k - (count - 1) / 2) * width / count, y, z), paint)


def _castle(scene: Scene, stone: Paint, roof: Paint) -> str:
    width, depth, height = scene.uniform(1.0, 1.6), scene.uniform(0.8, 1.4), scene.uniform(0.5, 0.8)
    scene.block((width, height, depth), (0.0, height / 2, 0.0), scene.dress(stone))
    for side in (-1, 1):
        _battlements(scene, width, height + 0.05, side * (depth / 2 - 0.06), stone)
    radius, tall, pointed = scene.uniform(0.16, 0.26), height * scene.uniform(1.2, 1.7), scene.chance(0.7)
    for side in (1, -1) if scene.chance(0.7) else (1,):
        at_z = side * depth / 2
        scene.rod(radius, tall, (width / 2, tall / 2, at_z), stone, pair=True)
        if pointed:
            scene.rod(radius * 1.3, radius * 2.4, (width / 2, tall + radius * 1.2, at_z), roof, top=0.0, pair=True)
        else:
            scene.rod(radius * 1.2, 0.1, (width / 2, tall, at_z), shade(stone, 0.8), pair=True)
    scene.block((0.3, 0.4, 0.06), (0.0, 0.2, depth / 2), scene.paint("brown", "black"))
    if scene.chance(0.5):
        keep = height * scene.uniform(1.3, 2.0)
        scene.block((width * 0.45, keep, depth * 0.45), (0.0, keep / 2, -depth * 0.15), stone)
        scene.add(pp.prism(4, 0.0), (width * 0.55, 0.5, depth * 0.55), (0.0, keep + 0.25, -depth * 0.15), roof)
    return f"{article(stone.name)} castle" + (f" with {roof.name} roofs" if pointed else "")


def _gate(scene: Scene, stone: Paint, roof: Paint) -> str:
    gap, depth, height = scene.uniform(0.5, 0.9), scene.uniform(0.25, 0.5), scene.uniform(0.8, 1.3)
    scene.block((0.35, height, depth), (gap / 2 + 0.17, height / 2, 0.0), scene.dress(stone), pair=True)
    scene.block((gap + 0.9, 0.25, depth * 1.15), (0.0, height + 0.1, 0.0), roof if scene.chance(0.4) else stone)
    if scene.chance(0.5):
        _battlements(scene, gap + 0.7, height + 0.27, 0.0, stone)
    if scene.chance(0.5):
        scene.block((gap, height * 0.9, 0.08), (0.0, height * 0.45, -depth * 0.2), scene.paint("brown", "black", "gray"))
    return f"{article(stone.name)} gate"


def _skyscraper(scene: Scene, stone: Paint, roof: Paint) -> str:
    width, depth, floors = scene.uniform(0.5, 0.9), scene.uniform(0.5, 0.9), scene.whole(3, 6)
    body, glass = scene.paint(), scene.paint("blue", "turquoise", "yellow", "black", "white")
    height = floors * 0.32
    scene.block((width, height, depth), (0.0, height / 2, 0.0), body)
    ribbons = scene.chance(0.5)
    for floor in range(floors):
        y = 0.32 * floor + 0.19
        if ribbons:
            scene.block((width * 1.02, 0.14, depth * 1.02), (0.0, y, 0.0), glass)
        else:
            for k in (0.18, 0.38):
                for z in (-depth / 2, depth / 2):
                    scene.block((0.12 * width, 0.16, 0.03), (k * width, y, z), glass, pair=True)
                for side in (-1, 1):
                    scene.block((0.03, 0.16, 0.13 * depth), (width / 2, y, side * k * depth), glass, pair=True)
    scene.block((width * 1.08, 0.07, depth * 1.08), (0.0, height, 0.0), shade(body, 0.75))
    scene.block((0.2, 0.24, 0.05), (0.0, 0.12, depth / 2), scene.paint("brown", "black", "red"))
    if scene.chance(0.5):
        scene.block((width * 0.4, 0.18, depth * 0.3), (width * 0.15, height + 0.1, 0.0), scene.paint("gray"))
    return article(f"tall {body.name} building")


def _windmill(scene: Scene, stone: Paint, roof: Paint) -> str:
    scene.rod(0.4, 1.2, (0.0, 0.6, 0.0), scene.dress(stone), top=0.65)
    scene.rod(0.32, 0.35, (0.0, 1.37, 0.0), roof, top=0.1)
    scene.rod(0.04, 0.35, (0.0, 1.2, 0.35), scene.paint("brown"), axis="z")
    sail, angle = scene.paint("white", "beige", "red"), scene.uniform(0, 90)
    for k in range(4):
        start = len(scene.parts)
        scene.block((0.04, 0.75, 0.03), (0.0, 0.38, 0.0), scene.paint("brown"))
        scene.block((0.2, 0.55, 0.02), (0.08, 0.45, 0.0), sail)
        scene.shift(start, (0.0, 1.2, 0.5), (0.0, 0.0, angle + 90.0 * k))
    scene.block((0.2, 0.35, 0.08), (0.0, 0.17, 0.38), scene.paint("brown"))
    return f"{article(stone.name)} windmill with {article(roof.name)} roof"


def _well(scene: Scene, stone: Paint, roof: Paint) -> str:
    scene.add(scene.rounded(pp.tube(0.8, max(scene.segments, 8))), (0.9, 0.4, 0.9), (0.0, 0.2, 0.0), scene.dress(stone, None, "facets"))
    scene.rod(0.37, 0.05, (0.0, 0.2, 0.0), scene.paint("blue"))
    scene.block((0.07, 0.9, 0.07), (0.4, 0.6, 0.0), scene.paint("brown"), pair=True)
    scene.rod(0.04, 0.8, (0.0, 0.85, 0.0), scene.paint("brown"), axis="x")
    scene.block((1.1, 0.06, 0.5), (0.0, 1.1, 0.2), roof, (35.0, 0.0, 0.0))
    scene.block((1.1, 0.06, 0.5), (0.0, 1.1, -0.2), roof, (-35.0, 0.0, 0.0))
    return f"{article(stone.name)} well with {article(roof.name)} roof"


def _tent(scene: Scene, stone: Paint, roof: Paint) -> str:
    cloth = scene.paint()
    if scene.chance(0.5):
        scene.add(
            pp.gable(), (1.0, 0.8, scene.uniform(1.0, 1.6)), (0.0, 0.4, 0.0), scene.dress(cloth, roof, scene.pick("stripes", "gradient"))
        )
        front = max(float(part.vertices[:, 2].max()) for part in scene.parts)
        opening = pp.extrude(np.array([(-0.5, -0.5), (0.5, -0.5), (0.0, 0.5)]) + np.array((0, 1 / 6)))
        scene.add(opening, (0.45, 0.6, 0.04), (0.0, 0.2, front), scene.paint("black", "brown"))
        return f"{article(cloth.name)} tent"
    scene.rod(0.6, 0.5, (0.0, 0.25, 0.0), scene.dress(cloth, roof, "stripes"))
    scene.rod(0.7, 0.5, (0.0, 0.75, 0.0), roof, top=0.0)
    scene.block((0.28, 0.4, 0.06), (0.0, 0.2, 0.58), scene.paint("black", "brown"))
    return f"a round {cloth.name} tent with {article(roof.name)} roof"


_BUILT = {
    "castle": _castle, "gate": _gate, "skyscraper": _skyscraper, "windmill": _windmill, "well": _well, "tent": _tent,
}  # fmt: skip


def fence(scene: Scene) -> str:
    """A fence, sign post, gravestone, bridge or target: things long in x or shallow in z."""
    wood = scene.paint("brown", "white", "gray", "beige")
    kind = scene.pick("fence", "fence", "sign", "gravestone", "bridge", "target")
    name = "wooden" if wood.name == "brown" else wood.name
    if kind == "fence":
        count, height = scene.whole(3, 8), scene.uniform(0.5, 0.9)
        pointed = scene.chance(0.5)
        for k in range(count):
            x = (k - (count - 1) / 2) * 2.0 / count
            scene.block((1.1 / count, height, 0.07), (x, height / 2, 0.0), shade(wood, scene.uniform(0.9, 1.1)))
            if pointed:
                scene.add(pp.gable(), (1.1 / count, 0.12, 0.07), (x, height + 0.06, 0.0), wood)
        for y in (0.25, 0.75):
            scene.block((2.0, 0.09, 0.06), (0.0, y * height, -0.06), shade(wood, 0.8))
        return article(f"{name} fence")
    if kind == "sign":
        paint = scene.paint()
        scene.rod(0.05, 1.2, (0.0, 0.6, 0.0), wood)
        arrow = np.array([(-0.5, -0.2), (0.3, -0.2), (0.5, 0.0), (0.3, 0.2), (-0.5, 0.2)])
        for k in range(scene.whole(1, 3)):
            turn = (0.0, scene.pick(0.0, 180.0), 0.0)
            scene.add(pp.extrude(arrow), (0.9, 0.6, 0.07), (0.1 if turn[1] == 0 else -0.1, 1.1 - 0.32 * k, 0.06), paint, turn)
        return f"{article(name)} post with {article(paint.name)} sign"
    if kind == "gravestone":
        stone = scene.paint("gray")
        bow = np.linspace(0, np.pi, 9)
        outline = np.concatenate([[(-0.35, -0.5), (0.35, -0.5)], np.stack([0.35 * np.cos(bow), 0.2 + 0.35 * np.sin(bow)], 1)])
        scene.add(pp.extrude(outline, bevel=0.1), (1.0, 1.0, 0.2), (0.0, 0.5, 0.0), scene.dress(stone, None, "facets"))
        scene.block((0.9, 0.12, 0.4), (0.0, 0.0, 0.0), shade(stone, 0.8))
        scene.block((0.07, 0.35, 0.04), (0.0, 0.6, 0.1), shade(stone, 0.6))
        scene.block((0.25, 0.07, 0.04), (0.0, 0.66, 0.1), shade(stone, 0.6))
        return "a gravestone"
    if kind == "bridge":
        width, arch, planks = scene.uniform(0.5, 0.8), scene.uniform(0.0, 0.4), scene.whole(7, 10)
        along_z = scene.chance(0.5)
        for k in range(planks):
            t = (k + 0.5) / planks * 2 - 1
            y, tilt = arch * (1 - t * t), float(np.degrees(np.arctan(-2 * arch * t)))
            scene.block((2.0 / planks * 0.95, 0.08, width), (t, y, 0.0), shade(wood, scene.uniform(0.85, 1.1)), (0.0, 0.0, tilt))
            if k % 2 == 0:
                for side in (-0.5, 0.5):
                    scene.block((0.06, 0.35, 0.06), (t, y + 0.2, side * width), wood)
        t = np.linspace(-1, 1, 9)
        for side in (-0.5, 0.5):
            path = np.stack([t, arch * (1 - t * t) + 0.38, np.full(9, side * width)], 1)
            scene.add(pp.sweep(path, 0.035), 1.0, (0.0, 0.0, 0.0), wood)
        if along_z:
            scene.shift(0, (0.0, 0.0, 0.0), (0.0, 90.0, 0.0))
        return article(f"{name} bridge")
    red, white = scene.paint("red", "blue", "black"), scene.paint("white")
    for k, radius in enumerate((0.5, 0.38, 0.25, 0.12)):
        scene.rod(radius, 0.1 + 0.03 * k, (0.0, 0.7, 0.015 * k), red if k % 2 == 0 else white, axis="z")
    scene.block((0.07, 1.2, 0.07), (0.3, 0.55, -0.16), wood, (12.0, 0.0, 12.0), pair=True)
    return f"{article(red.name)} and white target"
