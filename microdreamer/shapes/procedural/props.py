"""Grammars of assorted props: screens, machines, street furniture, toys, clothing, musical things."""

from __future__ import annotations

import numpy as np

from microdreamer.shapes.colouring import Paint, shade
from microdreamer.shapes.procedural import parts as pp
from microdreamer.shapes.procedural.scene import Scene, article


def prop(scene: Scene) -> str:
    """One of the props, its face toward +z."""
    return scene.pick(*_PROPS)(scene, scene.paint(), scene.paint())


def _screen(scene: Scene, body: Paint, accent: Paint) -> str:
    word = scene.pick("phone", "computer", "television", "laptop")
    case, glass = scene.paint("black", "gray", "white", "brown", "red"), scene.paint("blue", "turquoise", "black", "green")
    if word == "phone":
        scene.block((0.6, 1.1, 0.08), (0.0, 0.0, 0.0), case)
        scene.block((0.52, 0.85, 0.02), (0.0, 0.03, 0.045), glass)
        scene.rod(0.05, 0.02, (0.0, -0.47, 0.045), accent, axis="z")
        scene.rod(0.06, 0.03, (0.16, 0.4, -0.05), shade(case, 0.6), axis="z")
        return article(f"{case.name} phone")
    if word == "laptop":
        scene.block((1.1, 0.06, 0.75), (0.0, 0.0, 0.0), case)
        scene.block((0.95, 0.02, 0.35), (0.0, 0.035, -0.1), shade(case, 0.6))
        lean = scene.uniform(5, 35)
        height, back = 0.37 * float(np.cos(np.radians(lean))), 0.37 * float(np.sin(np.radians(lean)))
        scene.block((1.1, 0.75, 0.05), (0.0, height, -0.37 - back), case, (-lean, 0.0, 0.0))
        scene.block((1.0, 0.63, 0.02), (0.0, height + 0.01, -0.34 - back), glass, (-lean, 0.0, 0.0))
        return article(f"{case.name} laptop")
    depth = scene.pick(0.08, 0.5)
    width, height = scene.uniform(1.0, 1.6), scene.uniform(0.7, 0.9)
    scene.block((width, height, 0.1), (0.0, height / 2 + 0.2, 0.0), case)
    scene.block((width * 0.9, height * 0.85, 0.02), (0.0, height / 2 + 0.2, 0.055), glass)
    if depth > 0.1:
        scene.add(
            pp.place(pp.taper(pp.box(), 0.4), turn_deg=(-90.0, 0.0, 0.0)),
            (width * 0.95, height * 0.95, depth),
            (0.0, height / 2 + 0.2, -depth / 2),
            case,
        )
    scene.block((0.12, 0.3, 0.08), (0.0, 0.12, -0.05), shade(case, 0.8))
    scene.block((0.5, 0.04, 0.3), (0.0, 0.0, -0.03), case)
    if word == "computer":
        scene.block((0.9, 0.04, 0.28), (0.0, 0.0, 0.4), case)
        scene.block((0.82, 0.02, 0.2), (0.0, 0.025, 0.4), shade(case, 0.6))
    return article(f"{case.name} {word}")


def _traffic_light(scene: Scene, body: Paint, accent: Paint) -> str:
    case = scene.paint("black", "yellow", "gray")
    scene.rod(0.05, 1.3, (0.0, 0.65, -0.06), scene.paint("gray", "black"))
    scene.block((0.34, 0.95, 0.26), (0.0, 1.5, 0.0), case)
    for k, name in enumerate(("green", "yellow", "red")):
        scene.rod(0.11, 0.06, (0.0, 1.2 + 0.3 * k, 0.14), scene.paint(name), axis="z")
        scene.block((0.28, 0.03, 0.14), (0.0, 1.33 + 0.3 * k, 0.18), shade(case, 0.7))
    return "a traffic light"


def _clock(scene: Scene, body: Paint, accent: Paint) -> str:
    face, dark = scene.paint("white", "beige"), scene.paint("black")
    scene.rod(0.5, 0.2, (0.0, 0.0, 0.0), body, axis="z")
    scene.rod(0.42, 0.03, (0.0, 0.0, 0.1), face, axis="z")
    for angle, length in ((scene.uniform(0, 360), 0.32), (scene.uniform(0, 360), 0.22)):
        start = len(scene.parts)
        scene.block((0.05, length, 0.02), (0.0, length / 2, 0.13), dark)
        scene.shift(start, (0.0, 0.0, 0.0), (0.0, 0.0, angle))
    if scene.chance(0.5):
        scene.ball((0.28, 0.22, 0.2), (0.26, 0.48, 0.0), accent, (0.0, 0.0, -35.0), pair=True)
        scene.block((0.08, 0.2, 0.1), (0.28, -0.5, 0.0), accent, (0.0, 0.0, 25.0), pair=True)
    return article(f"{body.name} clock")


def _bath(scene: Scene, body: Paint, accent: Paint) -> str:
    white = scene.paint("white", "white", "pink", "turquoise", "beige")
    word = scene.pick("bathtub", "sink", "toilet")
    metal = scene.paint("gray", "golden")
    if word == "toilet":
        bowl = pp.revolve(
            np.array([(0, 0), (0.28, 0), (0.24, 0.2), (0.42, 0.5), (0.36, 0.5), (0.2, 0.3), (0, 0.28)]), max(scene.segments, 10)
        )
        scene.add(scene.rounded(bowl), (0.85, 1.0, 1.1), (0.0, 0.0, 0.1), white)
        scene.block((0.75, 0.5, 0.25), (0.0, 0.7, -0.4), white)
        scene.block((0.8, 0.06, 0.3), (0.0, 0.97, -0.4), shade(white, 0.9))
        scene.add(pp.cylinder(14), (0.75, 0.05, 0.75), (0.0, 0.85, -0.22), body, (80.0, 0.0, 0.0))
        return article(f"{white.name} toilet")
    long = 1.7 if word == "bathtub" else 0.8
    tub = pp.revolve(np.array([(0, 0), (0.36, 0), (0.5, 0.5), (0.44, 0.5), (0.34, 0.1), (0, 0.1)]), max(scene.segments, 12))
    lift = 0.1 if word == "bathtub" else 0.7
    scene.add(scene.rounded(tub), (long, 1.0, 0.8), (0.0, lift, 0.0), white)
    scene.add(pp.cylinder(14), (long * 0.86, 0.04, 0.69), (0.0, lift + 0.35, 0.0), scene.paint("blue", "turquoise"))
    if word == "sink":
        scene.rod(0.14, 0.75, (0.0, 0.37, -0.05), white)
    else:
        for z in (-0.2, 0.2):
            scene.ball(0.16, (long * 0.3, 0.07, z), metal, pair=True)
    bow = np.linspace(0, np.pi, 7)
    tap = np.stack([0 * bow, lift + 0.62 + 0.12 * np.sin(bow), -0.3 - 0.1 * np.cos(bow)], 1)
    scene.add(pp.sweep(np.concatenate([[(0.0, lift + 0.4, -0.4)], tap]), 0.035), 1.0, (0.0, 0.0, 0.0), metal)
    return article(f"{white.name} {word}")


def _cannon(scene: Scene, body: Paint, accent: Paint) -> str:
    iron, wood = scene.paint("black", "gray", "golden"), scene.paint("brown", "orange")
    profile = np.array(
        [(0, -0.1), (0.14, -0.06), (0.22, 0.0), (0.24, 0.3), (0.18, 1.1), (0.22, 1.15), (0.22, 1.25), (0.12, 1.25), (0.12, 1.0), (0, 1.0)]
    )
    scene.add(
        scene.rounded(pp.revolve(profile, max(scene.segments, 8))), 1.0, (0.0, 0.4, -0.5), iron, (90.0 - scene.uniform(5, 25), 0.0, 0.0)
    )
    scene.block((0.08, 0.3, 0.9), (0.24, 0.32, -0.15), wood, (8.0, 0.0, 0.0), pair=True)
    scene.block((0.45, 0.08, 0.5), (0.0, 0.22, -0.2), wood)
    scene.wheels(0.34, (-0.35, 0.15) if scene.chance(0.5) else (0.05,), scene.uniform(0.16, 0.28), 0.1, wood, iron)
    return article(f"{iron.name} cannon on wheels")


def _trophy(scene: Scene, body: Paint, accent: Paint) -> str:
    gold = scene.paint("golden", "golden", "gray", "orange")
    scene.block((0.45, 0.18, 0.45), (0.0, 0.09, 0.0), scene.paint("brown", "black"))
    profile = np.array([(0, 0.18), (0.2, 0.18), (0.06, 0.3), (0.06, 0.45), (0.3, 0.65), (0.36, 1.05), (0.3, 1.05), (0.24, 0.7), (0, 0.6)])
    scene.add(scene.rounded(pp.revolve(profile, max(scene.segments, 8))), 1.0, (0.0, 0.0, 0.0), gold)
    angle = np.linspace(-1.4, 1.6, 8)
    handle = np.stack([0.3 + 0.2 * np.cos(angle), 0.82 + 0.16 * np.sin(angle), 0 * angle], 1)
    scene.add(pp.sweep(handle, 0.03), 1.0, (0.0, 0.0, 0.0), gold, pair=True)
    return article(f"{gold.name} trophy")


def _gift(scene: Scene, body: Paint, accent: Paint) -> str:
    size = scene.rng.uniform(0.6, 1.1, 3)
    scene.block(tuple(size), (0.0, 0.0, 0.0), scene.dress(body))
    scene.block((size[0] * 1.06, 0.2, size[2] * 1.06), (0.0, size[1] / 2 - 0.08, 0.0), shade(body, 1.15))
    for stretch in ((0.18, 1.08), (1.08, 0.18)):
        scene.block((size[0] * stretch[0], size[1] * 1.04, size[2] * stretch[1]), (0.0, 0.02, 0.0), accent)
    bow = pp.torus(0.35, 12, 6)
    scene.add(bow, (0.35, 0.1, 0.22), (0.16, size[1] / 2 + 0.12, 0.0), accent, (90.0, 0.0, 35.0), pair=True)
    return f"{article(body.name)} gift box with {article(accent.name)} bow"


def _hat(scene: Scene, body: Paint, accent: Paint) -> str:
    word = scene.pick("hat", "helmet", "crown")
    n = max(scene.segments, 10)
    if word == "crown":
        gold = scene.paint("golden", "yellow", "gray")
        scene.add(pp.tube(0.9, n), (1.0, 0.3, 1.0), (0.0, 0.0, 0.0), gold)
        for k in range(n // 2):
            angle = 4 * np.pi * k / n
            at = (0.47 * np.sin(angle), 0.28, 0.47 * np.cos(angle))
            scene.add(pp.prism(4, 0.0), (0.26, 0.35, 0.07), at, gold, (0.0, float(np.degrees(angle)), 0.0))
            scene.add(pp.sphere(6, 4), 0.1, (at[0] * 1.07, 0.0, at[2] * 1.07), accent)
        return f"{article(gold.name)} crown with {accent.name} gems"
    if word == "helmet":
        scene.add(scene.rounded(pp.dome(n, 6)), (0.9, 0.75, 1.05), (0.0, 0.37, 0.0), scene.dress(body))
        scene.add(pp.cylinder(n), (0.95, 0.1, 1.1), (0.0, 0.04, 0.0), accent)
        if scene.chance(0.5):
            scene.rod(0.08, 0.5, (0.5, 0.5, 0.0), scene.paint("white", "beige"), top=0.1, turn_deg=(0.0, 0.0, -40.0), pair=True)
        else:
            scene.block((0.1, 0.25, 0.9), (0.0, 0.75, -0.05), accent)
        return article(f"{body.name} helmet")
    tall, narrow = scene.uniform(0.3, 0.9), scene.pick(0.05, 0.8, 0.95, 1.1)
    scene.rod(0.62, 0.06, (0.0, 0.0, 0.0), body)
    scene.rod(0.36, tall, (0.0, tall / 2, 0.0), scene.dress(body), top=narrow)
    scene.rod(0.375, 0.1, (0.0, 0.1, 0.0), accent, top=0.98)
    return f"{article(body.name)} hat with {article(accent.name)} band"


def _umbrella(scene: Scene, body: Paint, accent: Paint) -> str:
    n = scene.pick(6, 8, 10)
    shade_part = pp.flat(pp.revolve(np.array([(0, -0.1), (0.9, -0.25), (0.92, -0.22), (0.5, 0.05), (0, 0.2)]), n))
    scene.add(shade_part, 1.0, (0.0, 1.2, 0.0), body if scene.chance(0.5) else scene.dress(body, accent, "facets"))
    scene.rod(0.035, 1.3, (0.0, 0.6, 0.0), accent)
    if scene.chance(0.5):
        scene.rod(0.3, 0.08, (0.0, 0.0, 0.0), scene.paint("gray", "brown"))
    return f"{article(body.name)} umbrella"


def _camera(scene: Scene, body: Paint, accent: Paint) -> str:
    dark = scene.paint("black", "gray", "brown")
    scene.block((0.9, 0.55, 0.35), (0.0, 0.0, 0.0), dark)
    scene.block((0.92, 0.25, 0.36), (0.0, -0.03, 0.0), body)
    scene.rod(0.22, 0.35, (0.0, 0.0, 0.3), dark, axis="z")
    scene.rod(0.16, 0.03, (0.0, 0.0, 0.48), scene.paint("blue", "turquoise"), axis="z")
    scene.block((0.3, 0.12, 0.2), (0.0, 0.33, 0.0), dark)
    scene.rod(0.06, 0.08, (0.33, 0.3, 0.0), accent)
    return article(f"{body.name} camera")


def _machine(scene: Scene, body: Paint, accent: Paint) -> str:
    width, height, depth = scene.uniform(0.6, 1.1), scene.uniform(0.8, 1.5), scene.uniform(0.4, 0.8)
    scene.block((width, height, depth), (0.0, height / 2, 0.0), scene.dress(body))
    front = depth / 2
    scene.block((width * 0.8, height * 0.3, 0.05), (0.0, height * 0.72, front), scene.paint("black", "blue", "turquoise", "green"))
    for k in range(scene.whole(1, 3)):
        y = height * (0.15 + 0.13 * k)
        scene.block((width * 0.5, 0.06, 0.06), (-width * 0.15, y, front), shade(body, 0.7))
        scene.rod(0.05, 0.06, (width * 0.32, y, front + 0.02), scene.paint("red", "yellow", "green"), axis="z")
    if scene.chance(0.6):
        scene.rod(0.12, 0.5, (-width * 0.25, height + 0.2, -depth * 0.15), accent)
    if scene.chance(0.6):
        scene.rod(0.08, depth * 0.9, (width / 2 + 0.06, height * 0.4, 0.0), accent, axis="z", pair=scene.chance(0.5))
    scene.block((width * 1.1, 0.1, depth * 1.1), (0.0, 0.05, 0.0), shade(accent, 0.8))
    return f"{article(body.name)} and {accent.name} machine"


def _guitar(scene: Scene, body: Paint, accent: Paint) -> str:
    angle = np.arange(28) * 2 * np.pi / 28
    radius = 0.36 + 0.09 * np.cos(2 * angle) - 0.05 * np.sin(angle)
    outline = np.stack([radius * np.sin(angle + np.pi / 2), radius * np.cos(angle + np.pi / 2)], 1)[::-1]
    scene.add(pp.extrude(outline, bevel=0.05), (1.0, 1.0, 0.2), (0.0, 0.0, 0.0), body)
    scene.rod(0.1, 0.03, (0.1, 0.0, 0.1), scene.paint("black"), axis="z")
    scene.block((0.9, 0.1, 0.06), (0.75, 0.0, 0.08), accent)
    scene.block((0.2, 0.16, 0.06), (1.28, 0.0, 0.07), shade(accent, 0.7))
    if scene.chance(0.6):
        scene.shift(0, (0.0, 0.0, 0.0), (0.0, 0.0, 90.0))
    return article(f"{body.name} guitar")


def _sack(scene: Scene, body: Paint, accent: Paint) -> str:
    cloth, rope = scene.paint("beige", "brown", "gray", "green"), scene.paint("brown", "golden")
    word = scene.pick("sack", "backpack", "pillow")
    if word == "pillow":
        part = pp.subdivide(pp.subdivide(pp.box()))
        x, y, z = part.vertices.T
        puff = 0.25 + 0.75 * np.cos(np.pi * x * 0.92) * np.cos(np.pi * y * 0.92)
        part = pp.Part(np.stack([x, y, z * puff], 1), part.faces, part.groups, part.cells)
        scene.add(part, (1.2, 0.9, 0.45), (0.0, 0.0, 0.0), scene.dress(body))
        return article(f"{body.name} pillow")
    if word == "backpack":
        scene.bevel = 0.08
        scene.block((0.7, 0.9, 0.35), (0.0, 0.0, 0.0), body)
        scene.block((0.5, 0.4, 0.2), (0.0, -0.18, 0.22), accent)
        scene.block((0.72, 0.25, 0.4), (0.0, 0.38, 0.02), shade(body, 0.8))
        scene.rod(0.1, 0.8, (0.0, 0.58, -0.03), rope, axis="x")
        scene.block((0.1, 0.75, 0.06), (0.2, 0.0, -0.2), accent, pair=True)
        return article(f"{body.name} backpack")
    profile = np.array([(0, 0), (0.4, 0.02), (0.5, 0.25), (0.42, 0.55), (0.15, 0.75), (0.14, 0.8), (0.26, 0.95), (0, 0.9)])
    scene.add(
        scene.rounded(pp.revolve(profile, max(scene.segments, 7))),
        (1.0, 1.0, scene.uniform(0.75, 1.0)),
        (0.0, 0.0, 0.0),
        scene.dress(cloth),
    )
    scene.add(pp.torus(0.4, 10, 6), (0.38, 0.08, 0.35), (0.0, 0.77, 0.0), rope)
    return article(f"{cloth.name} sack")


_PROPS = (
    _screen, _screen, _traffic_light, _clock, _bath, _bath, _cannon, _trophy, _gift, _hat, _hat, _umbrella, _camera, _machine, _machine,
    _guitar, _sack, _sack,
)  # fmt: skip
