"""Grammars of things built outdoors: houses, castles, vehicles, boats, aircraft, fences, wells."""

from __future__ import annotations

import numpy as np

from shapes import procedural_parts as pp
from shapes.colouring import Paint, shade
from shapes.procedural_abstract import article
from shapes.procedural_scene import Scene


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


def vehicle(scene: Scene) -> str:
    """A car, van, bus, truck, tractor, tank, train or cart: long in z, front toward +z, with wheels or tracks."""
    kind = scene.pick("car", "car", "car", "van", "bus", "truck", "truck", "tractor", "tank", "train", "cart")
    body, accent = scene.paint(), scene.paint()
    tyre, hub = scene.paint("black", "black", "gray"), scene.paint("gray", "white", "golden")
    glass = scene.paint("blue", "turquoise", "black", "gray")
    if kind in ("car", "van", "bus"):
        return _car(scene, kind, body, accent, (tyre, hub, glass))
    if kind == "truck":
        return _truck(scene, body, accent, (tyre, hub, glass))
    return {"tractor": _tractor, "tank": _tank, "train": _train, "cart": _cart}[kind](scene, body, accent, (tyre, hub, glass))


def _lights(scene: Scene, width: float, front: float, rear: float, y: float) -> None:
    size = scene.uniform(0.08, 0.14)
    if scene.chance(0.5):
        scene.rod(size / 2, 0.05, (width * 0.34, y, front), scene.paint("yellow", "white"), axis="z", pair=True)
    else:
        scene.block((size * 1.4, size * 0.7, 0.05), (width * 0.34, y, front), scene.paint("yellow", "white"), pair=True)
    scene.block((size, size * 0.6, 0.05), (width * 0.36, y, rear), scene.paint("red"), pair=True)


def _car(scene: Scene, kind: str, body: Paint, accent: Paint, fittings: tuple[Paint, Paint, Paint]) -> str:
    tyre, hub, glass = fittings
    length = {"car": scene.uniform(1.3, 1.8), "van": 1.6, "bus": scene.uniform(2.0, 2.6)}[kind]
    width, radius = scene.uniform(0.65, 0.85), scene.uniform(0.13, 0.22)
    scene.bevel = max(scene.bevel, 0.03) if scene.chance(0.7) else 0.0
    low = scene.uniform(0.22, 0.34) if kind == "car" else scene.uniform(0.35, 0.45)
    floor = radius * 0.7
    scene.block((width, low, length), (0.0, floor + low / 2, 0.0), body)
    scene.wheels(width / 2, (-length * 0.3, length * 0.31), radius, 0.13, tyre, hub)
    if kind == "car":
        cabin, cabin_height, at = length * scene.uniform(0.4, 0.62), scene.uniform(0.2, 0.32), -length * scene.uniform(0.0, 0.12)
    else:
        cabin, cabin_height, at = length * 0.94, scene.uniform(0.3, 0.42), -length * 0.02
    top = floor + low
    shape = pp.taper(pp.box(), scene.uniform(0.1, 0.3) if kind == "car" else 0.06)
    if kind == "car" and scene.chance(0.15):
        scene.block((width * 0.7, 0.14, 0.14), (0.0, top + 0.05, at), scene.paint("black", "brown"))
    else:
        scene.add(shape, (width * 0.92, cabin_height, cabin), (0.0, top + cabin_height / 2, at), glass)
        roof = pp.taper(pp.box(), 0.1)
        scale = 0.8 if kind == "car" else 0.93
        scene.add(roof, (width * scale, 0.06, cabin * scale), (0.0, top + cabin_height, at), accent if scene.chance(0.3) else body)
        for z in (-0.5, 0.0, 0.5) if kind != "car" else (0.0,):
            pillar = 0.06 if kind == "car" else 0.1
            scene.block((width * 0.94, cabin_height, pillar), (0.0, top + cabin_height / 2, at + z * cabin * 0.93), body)
    _lights(scene, width, length / 2, -length / 2, floor + low * 0.6)
    scene.block((width * 1.02, 0.08, 0.08), (0.0, floor + 0.05, length / 2), shade(hub, 0.8))
    scene.block((width * 1.02, 0.08, 0.08), (0.0, floor + 0.05, -length / 2), shade(hub, 0.8))
    if scene.chance(0.3):
        scene.block((width * 0.25, 0.02, length * 0.99), (0.0, top + 0.005, 0.0), accent)
    if kind == "car" and scene.chance(0.2):
        scene.block((width * 0.9, 0.03, 0.16), (0.0, top + 0.2, -length * 0.46), accent)
        scene.block((0.04, 0.2, 0.08), (width * 0.3, top + 0.1, -length * 0.46), accent, pair=True)
        kind = "racing car"
    elif kind == "car" and scene.chance(0.15):
        scene.block((width * 0.5, 0.08, 0.1), (0.0, top + cabin_height + 0.06, at), scene.paint("blue", "red", "yellow"))
        kind = scene.pick("police car", "taxi")
    return article(f"{body.name} {kind}")


def _truck(scene: Scene, body: Paint, cargo: Paint, fittings: tuple[Paint, Paint, Paint]) -> str:
    tyre, hub, glass = fittings
    length, width, radius = scene.uniform(1.6, 2.3), scene.uniform(0.65, 0.85), scene.uniform(0.16, 0.24)
    floor = radius
    cab = scene.uniform(0.4, 0.6)
    scene.block((width * 0.8, 0.12, length), (0.0, floor + 0.06, 0.0), scene.paint("black", "gray"))
    cab_height, z = scene.uniform(0.55, 0.75), length / 2 - cab / 2
    scene.block((width, cab_height, cab), (0.0, floor + cab_height / 2, z), body)
    scene.block((width * 0.85, cab_height * 0.35, 0.05), (0.0, floor + cab_height * 0.68, z + cab / 2), glass)
    scene.block((width * 1.02, cab_height * 0.32, cab * 0.5), (0.0, floor + cab_height * 0.68, z + 0.05), glass)
    bed, rear = length - cab - 0.08, -length / 2
    load = scene.pick("box", "box", "flatbed", "tank", "dump")
    centre = rear + bed / 2
    if load == "box":
        scene.block((width * 1.05, 0.85, bed), (0.0, floor + 0.55, centre), scene.dress(cargo))
    elif load == "tank":
        scene.rod(0.36, bed, (0.0, floor + 0.5, centre), cargo, axis="z")
        for side in (-0.3, 0.3):
            scene.rod(0.37, 0.06, (0.0, floor + 0.5, centre + side * bed), shade(cargo, 0.7), axis="z")
    else:
        scene.block((width, 0.08, bed), (0.0, floor + 0.16, centre), cargo)
        wall = 0.18 if load == "flatbed" else 0.4
        scene.block((0.05, wall, bed), (width / 2, floor + 0.15 + wall / 2, centre), cargo, pair=True)
        for side in (rear, rear + bed):
            scene.block((width, wall, 0.05), (0.0, floor + 0.15 + wall / 2, side), shade(cargo, 0.9))
        if scene.chance(0.5):
            scene.add(
                pp.rock(scene.rng, level=1),
                (width * 0.85, 0.5, bed * 0.8),
                (0.0, floor + 0.3, centre),
                scene.paint("brown", "gray", "green"),
            )
    axles = (-length * 0.36, -length * 0.18, length * 0.36) if length > 1.9 else (-length * 0.3, length * 0.34)
    scene.wheels(width / 2, axles, radius, 0.15, tyre, hub)
    _lights(scene, width, length / 2, rear, floor + 0.16)
    return article(f"{body.name} truck") if scene.chance(0.5) else f"{article(body.name)} and {cargo.name} truck"


def _tractor(scene: Scene, body: Paint, accent: Paint, fittings: tuple[Paint, Paint, Paint]) -> str:
    tyre, hub, glass = fittings
    big, small = scene.uniform(0.32, 0.42), scene.uniform(0.18, 0.24)
    scene.block((0.36, 0.34, 0.8), (0.0, 0.5, 0.4), body)
    scene.block((0.6, 0.25, 0.6), (0.0, 0.45, -0.25), body)
    scene.add(pp.taper(pp.box(), 0.12), (0.58, 0.55, 0.52), (0.0, 0.85, -0.25), glass)
    scene.block((0.64, 0.06, 0.6), (0.0, 1.14, -0.25), body)
    scene.rod(0.04, 0.35, (0.1, 0.8, 0.55), scene.paint("gray", "black"))
    for z, radius, width in ((-0.35, big, 0.2), (0.55, small, 0.14)):
        scene.wheels(0.42, (z,), radius, width, tyre, hub)
    _lights(scene, 0.36, 0.81, -0.56, 0.52)
    return article(f"{body.name} tractor")


def _tank(scene: Scene, body: Paint, accent: Paint, fittings: tuple[Paint, Paint, Paint]) -> str:
    length = scene.uniform(1.3, 1.7)
    track = scene.paint("black", "gray")
    scene.bevel = max(scene.bevel, 0.08)
    scene.block((0.22, 0.3, length), (0.38, 0.15, 0.0), track, pair=True)
    for k in range(4):
        scene.rod(0.11, 0.24, (0.38, 0.14, (k - 1.5) * length * 0.22), shade(body, 0.7), axis="x", pair=True)
    scene.block((0.7, 0.26, length * 0.95), (0.0, 0.33, 0.0), body)
    if scene.chance(0.5):
        scene.rod(0.32, 0.24, (0.0, 0.56, -0.1), body, top=0.8)
    else:
        scene.block((0.5, 0.24, 0.6), (0.0, 0.56, -0.1), body)
    scene.rod(0.06, 0.9, (0.0, 0.58, 0.55), shade(body, 0.8), axis="z")
    scene.rod(0.12, 0.08, (0.1, 0.7, -0.15), accent)
    return article(f"{body.name} tank")


def _train(scene: Scene, body: Paint, accent: Paint, fittings: tuple[Paint, Paint, Paint]) -> str:
    _, hub, glass = fittings
    scene.block((0.6, 0.14, 1.7), (0.0, 0.27, 0.0), scene.paint("black", "gray"))
    scene.rod(0.27, 1.05, (0.0, 0.6, 0.3), body, axis="z")
    scene.rod(0.29, 0.1, (0.0, 0.6, 0.8), accent, axis="z")
    scene.block((0.62, 0.75, 0.55), (0.0, 0.7, -0.52), body)
    scene.block((0.64, 0.25, 0.3), (0.0, 0.85, -0.52), glass)
    scene.block((0.76, 0.07, 0.7), (0.0, 1.1, -0.52), accent)
    scene.rod(0.08, 0.35, (0.0, 0.98, 0.6), scene.paint("black"), top=1.4)
    scene.wheels(0.3, (-0.55, -0.1, 0.25, 0.6), 0.2, 0.08, accent, hub)
    scene.add(pp.wedge(), (0.6, 0.2, 0.25), (0.0, 0.17, 0.95), accent)
    return f"{article(body.name)} and {accent.name} train"


def _cart(scene: Scene, body: Paint, accent: Paint, fittings: tuple[Paint, Paint, Paint]) -> str:
    wood = scene.paint("brown", "beige", "orange")
    radius, length = scene.uniform(0.25, 0.4), scene.uniform(0.9, 1.4)
    scene.block((0.7, 0.07, length), (0.0, radius + 0.05, 0.0), wood)
    scene.block((0.06, 0.3, length), (0.35, radius + 0.2, 0.0), shade(wood, 0.85), pair=True)
    scene.block((0.7, 0.3, 0.06), (0.0, radius + 0.2, -length / 2), shade(wood, 0.85))
    scene.block((0.06, 0.06, 0.7), (0.25, radius + 0.03, length / 2 + 0.3), wood, pair=True)
    axles = (0.0,) if scene.chance(0.5) else (-length * 0.32, length * 0.32)
    scene.wheels(0.45, axles, radius, 0.08, shade(wood, 0.7), scene.paint("gray", "black"))
    if scene.chance(0.6):
        for k in range(scene.whole(2, 5)):
            at = (scene.uniform(-0.2, 0.2), radius + 0.25 + 0.06 * k, scene.uniform(-0.35, 0.35) * length)
            scene.block((0.25, 0.22, 0.25), at, scene.paint(), (0.0, scene.uniform(0, 90), 0.0))
    return "a wooden cart" if wood.name == "brown" else article(f"{wood.name} cart")


def craft(scene: Scene) -> str:
    """A boat, sailing ship, aeroplane, helicopter, rocket or spaceship, its bow toward +z (a rocket points up)."""
    kind = scene.pick("boat", "ship", "plane", "helicopter", "rocket", "spaceship", "spaceship")
    return {"boat": _boat, "ship": _boat, "plane": _plane, "helicopter": _helicopter, "rocket": _rocket, "spaceship": _spaceship}[kind](
        scene, kind, scene.paint(), scene.paint()
    )


def _hull(scene: Scene, length: float, width: float, height: float, paint: Paint, rim: Paint) -> None:
    z = np.linspace(-0.5, 0.5, 9)
    beam = np.sqrt(np.maximum(0.03, 1 - np.maximum(0, (z + 0.1) / 0.62) ** 2.2)) * np.where(z < -0.35, 0.85, 1.0)
    section = np.array([(0.5, 0.5), (-0.5, 0.5), (-0.42, -0.1), (-0.16, -0.5), (0.16, -0.5), (0.42, -0.1)])
    rings = np.zeros((11, 6, 3))
    lift = 0.25 * height * np.maximum(0, z) ** 2 * 4
    rings[1:-1, :, 0] = section[:, 0] * beam[:, None] * width
    rings[1:-1, :, 1] = section[:, 1] * height + lift[:, None]
    rings[1:-1, :, 2] = z[:, None] * length
    rings[0], rings[-1] = rings[1].mean(0), rings[-2].mean(0)
    hull = pp.loft(rings, sharp=(1, 9), sharp_columns=(0, 1), poles=(0, 10))
    scene.add(hull, 1.0, (0.0, 0.0, 0.0), scene.dress(paint))
    scene.add(hull, (1.06, 0.14, 1.03), (0.0, height * 0.47, 0.0), rim)


def _boat(scene: Scene, kind: str, body: Paint, accent: Paint) -> str:
    length, width, height = scene.uniform(1.4, 2.0), scene.uniform(0.5, 0.75), scene.uniform(0.3, 0.45)
    wood = scene.paint("brown", "beige", "orange") if scene.chance(0.5) else body
    _hull(scene, length, width, height, wood, accent)
    deck = height / 2
    if kind == "ship" or scene.chance(0.3):
        sail = scene.paint("white", "beige", "red", "blue")
        for z in (0.1,) if scene.chance(0.5) else (-0.25, 0.3):
            tall = scene.uniform(0.9, 1.4)
            scene.rod(0.035, tall, (0.0, deck + tall / 2, z * length), scene.paint("brown"), top=0.7)
            if scene.chance(0.5):
                sheet = pp.bend(pp.subdivide(pp.subdivide(pp.box((1, 2, 1)))), 40)
                scene.add(sheet, (0.85, 0.65 * tall, 0.3), (0.0, deck + 0.55 * tall, z * length), sail, (0.0, 180.0, 0.0))
            else:
                triangle = pp.extrude(np.array([(-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5)]) + 1 / 6)
                scene.add(triangle, (0.6, 0.8 * tall, 0.03), (0.0, deck + 0.4 * tall, z * length - 0.15), sail, (0.0, 90.0, 0.0))
        return f"{article(wood.name)} ship with {sail.name} sails"
    if scene.chance(0.5):
        scene.block((width * 0.6, 0.3, length * 0.3), (0.0, deck + 0.15, -length * 0.12), scene.paint("white", "beige"))
        scene.block((width * 0.62, 0.12, length * 0.31), (0.0, deck + 0.2, -length * 0.12), scene.paint("blue", "black"))
        scene.block((width * 0.7, 0.05, length * 0.34), (0.0, deck + 0.32, -length * 0.12), accent)
        return article(f"{wood.name} boat with a cabin")
    for z in (-0.25, 0.1):
        scene.block((width * 0.95, 0.05, 0.16), (0.0, deck + 0.04, z * length), shade(wood, 0.7))
    return article(f"small {wood.name} boat")


def _wing(span: float, root: float, tip: float, sweep: float) -> pp.Part:
    """A tapering wing from x = 0 to span, chord along z, its tip swept back."""
    rings = np.zeros((4, 4, 3))
    for k, (x, chord, back) in enumerate(((0.0, root, 0.0), (span, tip, sweep)), start=1):
        rings[k, :, 0] = x
        rings[k, :, 1] = np.array([1, 1, -1, -1]) * 0.035
        rings[k, :, 2] = np.array([-1, 1, 1, -1]) * chord / 2 - back
    rings[0], rings[-1] = rings[1].mean(0), rings[2].mean(0)
    return pp.flat(pp.loft(rings[:, ::-1], sharp=(1, 2), poles=(0, 3)))


def _fuselage(scene: Scene, length: float, radius: float) -> pp.Part:
    profile = np.array([(0, -0.5), (0.25, -0.48), (0.7, -0.2), (1.0, 0.05), (0.95, 0.28), (0.6, 0.44), (0, 0.5)]) * (radius, length)
    return pp.place(scene.rounded(pp.revolve(profile, max(scene.segments, 8))), turn_deg=(90.0, 0.0, 0.0))


def _plane(scene: Scene, kind: str, body: Paint, accent: Paint) -> str:
    length, radius = scene.uniform(1.4, 1.9), scene.uniform(0.14, 0.22)
    scene.add(_fuselage(scene, length, radius), 1.0, (0.0, 0.0, 0.0), scene.dress(body))
    span = scene.uniform(0.6, 1.1)
    wing = _wing(span, 0.42, scene.uniform(0.15, 0.4), scene.uniform(0.0, 0.4))
    for y in (-0.06, 0.32) if scene.chance(0.25) else (scene.uniform(-0.08, 0.1),):
        scene.add(wing, 1.0, (0.03, y, 0.12), accent, pair=True)
    scene.add(_wing(0.36, 0.2, 0.12, 0.08), 1.0, (0.0, 0.04, -length * 0.43), accent, pair=True)
    scene.add(_wing(0.34, 0.24, 0.14, 0.12), 1.0, (0.0, 0.02, -length * 0.42), accent, (0.0, 0.0, 90.0))
    scene.ball((radius * 1.2, radius * 1.3, 0.4), (0.0, radius * 0.75, length * 0.16), scene.paint("blue", "black", "turquoise"))
    if scene.chance(0.6):
        scene.rod(0.05, 0.12, (0.0, 0.0, length / 2), scene.paint("gray", "black"), axis="z")
        scene.block((0.6, 0.06, 0.03), (0.0, 0.0, length / 2 + 0.04), scene.paint("black", "brown"), (0.0, 0.0, scene.uniform(0, 90)))
    else:
        scene.rod(0.08, 0.32, (span * 0.45, -0.1, 0.2), scene.paint("gray", "white"), axis="z", pair=True)
    return f"{article(body.name)} plane with {accent.name} wings"


def _helicopter(scene: Scene, kind: str, body: Paint, accent: Paint) -> str:
    scene.ball((0.6, 0.6, 0.95), (0.0, 0.0, 0.2), scene.dress(body))
    scene.ball((0.5, 0.42, 0.5), (0.0, 0.05, 0.48), scene.paint("blue", "black"))
    scene.rod(0.1, 0.9, (0.0, 0.05, -0.6), body, axis="z", top=2.0)
    scene.block((0.05, 0.34, 0.2), (0.0, 0.17, -1.0), accent)
    scene.rod(0.05, 0.25, (0.0, 0.37, 0.15), scene.paint("gray"))
    for angle in (0.0, 90.0):
        scene.block((1.9, 0.03, 0.12), (0.0, 0.48, 0.15), accent, (0.0, angle + 25.0, 0.0))
    scene.rod(0.03, 1.0, (0.24, -0.42, 0.15), scene.paint("gray", "black"), axis="z", pair=True)
    for z in (-0.05, 0.35):
        scene.rod(0.025, 0.25, (0.2, -0.3, z), scene.paint("gray", "black"), pair=True)
    return article(f"{body.name} helicopter")


def _rocket(scene: Scene, kind: str, body: Paint, accent: Paint) -> str:
    height, radius = scene.uniform(1.0, 1.6), scene.uniform(0.2, 0.3)
    y = np.linspace(0, 1, 8)
    profile = np.concatenate([[(0, 0)], np.stack([radius * (0.7 + 0.3 * np.sin(y * 2.2)), y * height], 1)])
    scene.add(
        scene.rounded(pp.revolve(np.concatenate([profile, [(0, height)]]), max(scene.segments, 8))), 1.0, (0.0, 0.0, 0.0), scene.dress(body)
    )
    scene.rod(float(profile[-1, 0]), 0.4, (0.0, height + 0.2, 0.0), accent, top=0.0)
    fin = pp.extrude(np.array([(-0.3, -0.5), (0.5, -0.6), (0.4, -0.1), (-0.3, 0.5)]))
    count = scene.pick(3, 4)
    for k in range(count):
        start = len(scene.parts)
        scene.add(fin, (0.4, 0.5, 0.05), (radius, 0.15, 0.0), accent)
        scene.shift(start, (0.0, 0.0, 0.0), (0.0, 90.0 + 360.0 * k / count, 0.0))
    scene.rod(0.1, 0.08, (0.0, height * 0.65, radius * 0.93), scene.paint("blue", "turquoise"), axis="z")
    scene.rod(radius * 0.6, 0.15, (0.0, -0.07, 0.0), scene.paint("gray", "black"), top=0.7)
    return f"{article(body.name)} and {accent.name} rocket"


def _spaceship(scene: Scene, kind: str, body: Paint, accent: Paint) -> str:
    if scene.chance(0.25):
        scene.ball((1.6, 0.4, 1.6), (0.0, 0.0, 0.0), scene.dress(body))
        scene.ball((0.7, 0.6, 0.7), (0.0, 0.15, 0.0), scene.paint("turquoise", "blue", "green"))
        for k in range(8):
            at = (0.68 * np.sin(k * np.pi / 4), -0.02, 0.68 * np.cos(k * np.pi / 4))
            scene.add(pp.sphere(6, 4), 0.12, at, scene.paint("yellow", "red") if k == 0 else accent)
        return article(f"{body.name} flying saucer")
    length = scene.uniform(1.2, 1.8)
    nose = pp.place(pp.taper(pp.box(), scene.uniform(0.3, 0.8)), turn_deg=(90.0, 0.0, 0.0))
    scene.add(nose, (scene.uniform(0.35, 0.6), scene.uniform(0.2, 0.35), length), (0.0, 0.0, 0.0), scene.dress(body))
    wing = _wing(scene.uniform(0.5, 0.9), scene.uniform(0.5, 0.9), 0.2, scene.uniform(-0.2, 0.4))
    scene.add(wing, 1.0, (0.1, 0.0, -0.25), accent, (0.0, 0.0, scene.pick(0.0, 0.0, -15.0, 20.0)), pair=True)
    engine = scene.uniform(0.1, 0.18)
    scene.rod(engine, 0.5, (scene.uniform(0.22, 0.5), 0.0, -length * 0.4), scene.paint("gray", "black"), axis="z", pair=True)
    scene.rod(engine * 0.7, 0.53, (0.0, 0.08, -length * 0.4), scene.paint("orange", "blue", "yellow"), axis="z")
    scene.ball((0.24, 0.24, 0.5), (0.0, 0.14, length * 0.05), scene.paint("blue", "turquoise", "black"))
    if scene.chance(0.5):
        scene.add(_wing(0.35, 0.4, 0.15, 0.2), 1.0, (0.0, 0.1, -length * 0.32), accent, (0.0, 0.0, 90.0))
    if scene.chance(0.5):
        scene.rod(0.035, 0.6, (0.55, -0.03, 0.1), scene.paint("gray", "black"), axis="z", pair=True)
    return f"{article(body.name)} and {accent.name} spaceship"


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
