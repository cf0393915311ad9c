"""Grammars of road vehicles, boats, aircraft and spaceships."""

from __future__ import annotations

import numpy as np

from microdreamer.shapes.colouring import Paint, shade
from microdreamer.shapes.procedural import parts as pp
from microdreamer.shapes.procedural.scene import Scene, article


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
    return pp.flat(pp.loft(rings, sharp=(1, 2), poles=(0, 3)))


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
