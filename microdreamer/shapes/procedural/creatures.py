"""Grammars of animals, fish, birds and figures."""

from __future__ import annotations

import numpy as np

from microdreamer.shapes.colouring import Paint, shade
from microdreamer.shapes.procedural import parts as pp
from microdreamer.shapes.procedural.scene import Scene, Triple, article


def _eyes(scene: Scene, at: Triple, size: float, *, whites: bool) -> None:
    if whites:
        scene.add(pp.sphere(8, 6), size * 1.6, at, scene.paint("white"), pair=True)
        at = (at[0], at[1], at[2] + size * 0.5)
    scene.add(pp.sphere(8, 6), size, at, scene.paint("black"), pair=True)


def animal(scene: Scene) -> str:
    """A four-legged animal that looks to +z: body along z, head, snout, ears or horns, legs, tail."""
    word, names, build = scene.pick(
        ("dog", ("brown", "beige", "white", "black"), "slim"), ("cat", ("orange", "gray", "black", "white"), "slim"),
        ("pig", ("pink",), "fat"),
        ("cow", ("white", "brown"), "fat"), ("sheep", ("white", "beige"), "fat"), ("horse", ("brown", "beige", "black"), "tall"),
        ("bear", ("brown", "white", "black"), "fat"), ("elephant", ("gray",), "fat"), ("dinosaur", ("green", "orange", "purple"), "slim"),
        ("monster", ("green", "purple", "blue", "red"), "fat"), ("turtle", ("green",), "flat"), ("giraffe", ("yellow", "orange"), "tall"),
    )  # fmt: skip
    coat, accent = scene.paint(*names), scene.paint()
    boxy = scene.chance(0.4)
    girth, length, leg = {
        "slim": (scene.uniform(0.3, 0.42), scene.uniform(0.8, 1.1), scene.uniform(0.25, 0.4)),
        "fat": (scene.uniform(0.5, 0.65), scene.uniform(0.8, 1.05), scene.uniform(0.18, 0.32)),
        "tall": (scene.uniform(0.35, 0.45), scene.uniform(0.8, 1.0), scene.uniform(0.5, 0.7)),
        "flat": (0.6, 0.8, 0.15),
    }[build]

    def lump(size: Triple, at: Triple, paint: Paint, turn: Triple | None = None, *, pair: bool = False) -> None:
        if boxy:
            scene.block(size, at, paint, turn, pair=pair)
        else:
            scene.ball((size[0] * 1.12, size[1] * 1.12, size[2] * 1.12), at, paint, turn, pair=pair)

    y = leg + girth * 0.42
    body_paint = scene.dress(coat, None, "spots") if word in ("cow", "giraffe") else scene.dress(coat)
    lump(
        (girth, girth * (0.6 if build == "flat" else 0.9), length),
        (0.0, y, 0.0),
        body_paint if word != "turtle" else scene.dress(scene.paint("brown", "green"), None, "facets"),
    )
    thickness = girth * scene.uniform(0.2, 0.32)
    for z in (-length * 0.36, length * 0.36):
        scene.rod(thickness / 2, leg + girth * 0.3, (girth * 0.33, (leg + girth * 0.3) / 2, z), coat, top=1.2, pair=True)
        scene.rod(thickness * 0.56, 0.07, (girth * 0.33, 0.035, z + 0.01), shade(coat, 0.55), pair=True)
    head = scene.uniform(0.26, 0.4)
    neck = {"tall": 0.55, "slim": 0.2, "fat": 0.08, "flat": 0.05}[build] * (1.7 if word == "giraffe" else 1.0)
    front = length / 2 + (0.18 if build != "fat" else 0.1)
    at = np.array([0.0, y + girth * 0.3 + neck, front])
    scene.add(pp.sweep(np.array([[0.0, y, length * 0.36], tuple(at)]), np.array([girth * 0.32, head * 0.32])), 1.0, (0.0, 0.0, 0.0), coat)
    lump((head, head * 0.9, head), tuple(at), coat)
    snout = scene.uniform(0.35, 0.7) * head
    lump(
        (head * 0.5, head * 0.4, snout),
        (0.0, float(at[1]) - head * 0.15, front + head * 0.45 + snout * 0.3),
        shade(coat, scene.pick(0.8, 1.2)),
    )
    scene.add(
        pp.sphere(6, 5), head * 0.16, (0.0, float(at[1]) - head * 0.08, front + head * 0.45 + snout * 0.82), scene.paint("black", "brown")
    )
    _eyes(scene, (head * 0.3, float(at[1]) + head * 0.18, front + head * 0.4), head * 0.14, whites=scene.chance(0.3))
    ear = scene.pick("point", "round", "flap", "horn")
    ear = {"cat": "point", "bear": "round", "dog": scene.pick("flap", "point"), "cow": "horn", "elephant": "flap", "turtle": "none"}.get(
        word, ear
    )
    ear_at = (head * 0.36, float(at[1]) + head * 0.5, front - head * 0.1)
    if ear == "point":
        scene.add(pp.prism(4, 0.0), (head * 0.3, head * 0.45, head * 0.16), ear_at, coat, (0.0, 0.0, -12.0), pair=True)
    elif ear == "round":
        scene.ball((head * 0.36, head * 0.36, head * 0.14), ear_at, coat, pair=True)
    elif ear == "horn":
        scene.rod(
            head * 0.09,
            head * 0.5,
            (ear_at[0], ear_at[1] + 0.03, ear_at[2]),
            scene.paint("white", "beige"),
            top=0.0,
            turn_deg=(0.0, 0.0, -35.0),
            pair=True,
        )
    elif ear == "flap":
        big = 1.9 if word == "elephant" else 1.0
        scene.block(
            (head * 0.1 * big, head * 0.5 * big, head * 0.35 * big),
            (head * 0.55, float(at[1]), front - 0.03),
            shade(coat, 0.75),
            (0.0, 0.0, 10.0),
            pair=True,
        )
    if word == "elephant":
        t = np.linspace(0, 1, 6)
        trunk = np.stack([0 * t, at[1] - 0.45 * t, front + head * 0.5 + 0.2 * np.sin(t * 3)], 1)
        scene.add(pp.sweep(trunk, 0.1 - 0.05 * t), 1.0, (0.0, 0.0, 0.0), coat)
    _tail(scene, word, y, girth, length, coat)
    if word in ("dinosaur", "monster") or scene.chance(0.06):
        count = scene.whole(3, 6)
        for k in range(count):
            z = length * (0.4 - 0.8 * k / (count - 1))
            scene.add(pp.prism(4, 0.0), (0.05, 0.2, 0.16), (0.0, y + girth * 0.48, z), accent)
    elif scene.chance(0.15):
        scene.add(pp.torus(0.3, 12, 6), (head * 0.8, 0.08, head * 0.8), (0.0, y + girth * 0.4, length * 0.42), accent, (50.0, 0.0, 0.0))
    return article(f"{coat.name} {word}") if scene.chance(0.75) else article(word)


def _tail(scene: Scene, word: str, y: float, girth: float, length: float, coat: Paint) -> None:
    t = np.linspace(0, 1, 6)
    reach = {"dinosaur": 0.8, "pig": 0.15, "bear": 0.1, "sheep": 0.1, "turtle": 0.15}.get(word, scene.uniform(0.3, 0.6))
    rise = scene.uniform(-0.3, 0.4)
    path = np.stack([0 * t, y + girth * 0.15 + rise * t**2 - (0.2 * t if word == "dinosaur" else 0), -length * 0.45 - reach * t], 1)
    thick = girth * 0.3 if word == "dinosaur" else 0.05
    scene.add(pp.sweep(path, thick * (1 - 0.85 * t) + 0.012), 1.0, (0.0, 0.0, 0.0), coat)


def fish(scene: Scene) -> str:
    """A fish, whale, bird, duck or snail that looks to +z."""
    kind = scene.pick("fish", "fish", "fish", "whale", "bird", "duck", "snail", "bee")
    coat, accent = scene.paint(), scene.paint()
    if kind in ("fish", "whale"):
        return _fish(scene, kind, coat, accent)
    if kind == "snail":
        shell = scene.dress(accent)
        turns = np.linspace(0, 2 * np.pi * 1.6, 22)
        radius = np.linspace(0.32, 0.06, 22)
        path = np.stack([0 * turns, 0.5 + radius * np.sin(turns), radius * np.cos(turns) - 0.1], 1)
        scene.add(pp.sweep(path, np.linspace(0.2, 0.05, 22), segments=8), 1.0, (0.0, 0.0, 0.0), shell)
        scene.ball((0.34, 0.22, 1.2), (0.0, 0.1, 0.05), coat)
        scene.ball((0.3, 0.36, 0.3), (0.0, 0.25, 0.55), coat)
        scene.rod(0.025, 0.3, (0.09, 0.5, 0.6), coat, turn_deg=(15.0, 0.0, -15.0), pair=True)
        scene.add(pp.sphere(8, 5), 0.09, (0.13, 0.65, 0.64), scene.paint("black"), pair=True)
        return article(f"{coat.name} snail")
    if kind == "bee":
        coat = scene.paint("yellow", "orange", "red")
        dark = scene.paint("black")
        scene.ball((0.7, 0.65, 1.0), (0.0, 0.0, 0.0), coat)
        for z in (-0.28, 0.02):
            reach = 0.36 * float(np.sqrt(1 - (z / 0.52) ** 2)) * 2.03
            scene.rod(reach / 2, 0.13, (0.0, 0.0, z), dark, axis="z")
        scene.add(pp.sphere(8, 5), (0.6, 0.05, 0.35), (0.42, 0.38, -0.05), scene.paint("white"), (0.0, 20.0, 25.0), pair=True)
        _eyes(scene, (0.17, 0.1, 0.42), 0.13, whites=False)
        return article("bee" if coat.name == "yellow" else f"{coat.name} bug")
    scene.ball((0.6, 0.6, 0.95), (0.0, 0.35, 0.0), scene.dress(coat), (-12.0, 0.0, 0.0))
    scene.ball(0.42, (0.0, 0.85, 0.36), coat)
    beak = scene.paint("orange", "yellow")
    scene.rod(0.11, 0.25, (0.0, 0.82, 0.64), beak, top=0.0 if kind == "bird" else 0.8, axis="z")
    _eyes(scene, (0.14, 0.93, 0.5), 0.09, whites=False)
    scene.ball((0.12, 0.4, 0.65), (0.31, 0.38, -0.08), accent if scene.chance(0.5) else shade(coat, 0.8), (-20.0, 0.0, 0.0), pair=True)
    scene.add(pp.wedge(), (0.3, 0.25, 0.35), (0.0, 0.48, -0.5), shade(coat, 0.85), (20.0, 180.0, 0.0))
    if scene.chance(0.7):
        scene.rod(0.035, 0.3, (0.14, 0.0, 0.0), beak, pair=True)
        scene.block((0.13, 0.04, 0.24), (0.14, -0.15, 0.06), beak, pair=True)
    return article(f"{coat.name} {kind}")


def _fish(scene: Scene, kind: str, coat: Paint, accent: Paint) -> str:
    length, tall, wide = scene.uniform(1.0, 1.5), scene.uniform(0.4, 0.9), scene.uniform(0.22, 0.5)
    if kind == "whale":
        tall, wide, coat = scene.uniform(0.5, 0.7), scene.uniform(0.55, 0.75), scene.paint("blue", "gray", "black")
    profile = np.array([(0, -0.5), (0.1, -0.46), (0.28, -0.2), (0.46, 0.08), (0.48, 0.22), (0.36, 0.4), (0, 0.5)])
    body = pp.place(scene.rounded(pp.revolve(profile, max(8, scene.segments))), turn_deg=(90.0, 0.0, 0.0))
    scene.add(body, (wide / 0.96, tall / 0.96, length), (0.0, 0.0, 0.0), scene.dress(coat, accent))
    fin = accent if scene.chance(0.6) else shade(coat, 0.75)
    tail = pp.extrude(np.array([(0.45, -0.1), (0.45, 0.1), (-0.5, 0.5), (-0.28, 0.0), (-0.5, -0.5)]))
    turn = (0.0, -90.0, 0.0) if kind == "fish" else (90.0, -90.0, 0.0)
    size = (0.4, tall * scene.uniform(0.6, 1.0), 0.05) if kind == "fish" else (0.4, 0.8, 0.06)
    tail = pp.place(tail, size)
    tail = pp.place(tail, turn_deg=(90.0, 0.0, 0.0)) if kind == "whale" else tail
    scene.add(tail, 1.0, (0.0, 0.0, -length / 2 - 0.08), fin, (0.0, -90.0, 0.0))
    dorsal = pp.extrude(np.array([(-0.5, -0.4), (0.5, -0.4), (-0.3, 0.5)]))
    scene.add(dorsal, (0.5 * length, 0.3, 0.04), (0.0, tall / 2, 0.0), fin, (0.0, -90.0, 0.0))
    scene.add(pp.sphere(6, 5), (0.35, 0.05, 0.22), (wide * 0.6, -tall * 0.15, 0.1), fin, (0.0, 25.0, -30.0), pair=True)
    _eyes(scene, (wide * 0.42, tall * 0.12, length * 0.28), 0.11, whites=scene.chance(0.5))
    if turn[0] and scene.chance(0.5):
        scene.ball((wide * 0.9, tall * 0.5, length * 0.7), (0.0, -tall * 0.26, 0.08), scene.paint("white"))
    return article(f"{coat.name} {kind}") if fin is not accent else f"{article(coat.name)} {kind} with {accent.name} fins"


def figure(scene: Scene) -> str:
    """A person, robot, knight, snowman or doll that faces +z, arms at the sides or stretched out."""
    kind = scene.pick("man", "woman", "robot", "robot", "knight", "snowman", "alien")
    if kind == "snowman":
        return _snowman(scene)
    skin = {"robot": ("gray", "white", "blue"), "alien": ("green", "purple", "turquoise"), "knight": ("gray",)}.get(
        kind, ("beige", "brown")
    )
    skin, shirt, trousers = scene.paint(*skin), scene.paint(), scene.paint()
    shoes, hair = scene.paint("black", "brown"), scene.paint("brown", "black", "yellow", "orange")
    boxy = kind == "robot" or scene.chance(0.4)
    if kind in ("robot", "knight"):
        shirt = shade(skin, 0.9) if scene.chance(0.5) else shirt
    leg, body, head = scene.uniform(0.35, 0.6), scene.uniform(0.45, 0.6), scene.uniform(0.26, 0.5)
    width = scene.uniform(0.4, 0.6)
    scene.block((width * 0.36, leg, 0.2), (width * 0.25, leg / 2, 0.0), trousers, pair=True)
    scene.block((width * 0.38, 0.1, 0.32), (width * 0.25, 0.05, 0.05), shoes, pair=True)
    middle, top = leg + body / 2, leg + body
    if kind == "woman":
        scene.rod(width * 0.7, body, (0.0, middle - 0.08, 0.0), shirt, top=0.5)
    elif boxy:
        scene.block((width, body, 0.28), (0.0, middle, 0.0), scene.dress(shirt))
    else:
        scene.add(scene.rounded(pp.capsule(1.4, scene.segments)), (width, body * 1.1, 0.34), (0.0, middle, 0.0), scene.dress(shirt))
    out = scene.uniform(5, 90)
    reach, angle = body * 0.95, np.radians(out)
    shoulder = (width / 2 + 0.03, top - 0.1)
    elbow = (shoulder[0] + reach / 2 * np.sin(angle), shoulder[1] - reach / 2 * np.cos(angle), 0.0)
    hand = (shoulder[0] + reach * np.sin(angle), shoulder[1] - reach * np.cos(angle), 0.0)
    scene.block((0.13, reach, 0.15), elbow, shirt, (0.0, 0.0, out), pair=True)
    scene.ball(0.17, hand, skin, pair=True)
    head_y = top + head * 0.5 + 0.02
    if boxy:
        scene.block((head, head, head * 0.9), (0.0, head_y, 0.0), skin)
    else:
        scene.ball((head, head * 1.1, head), (0.0, head_y, 0.0), skin)
    if kind == "robot":
        scene.block((head * 0.8, head * 0.25, 0.06), (0.0, head_y + head * 0.1, head * 0.45), scene.paint("black", "blue", "turquoise"))
        scene.rod(0.02, 0.2, (0.0, head_y + head * 0.6, 0.0), shoes)
        scene.ball(0.09, (0.0, head_y + head * 0.5 + 0.15, 0.0), scene.paint("red", "yellow"))
        scene.block((width * 0.5, body * 0.3, 0.06), (0.0, middle + 0.05, 0.14), trousers)
    elif kind == "knight":
        scene.block((head * 0.7, head * 0.1, 0.06), (0.0, head_y + head * 0.1, head * 0.48), scene.paint("black"))
        scene.block((0.06, head * 0.4, head), (0.0, head_y + head * 0.6, -0.02), trousers)
        scene.add(
            pp.extrude(np.array([(0, -0.5), (0.4, -0.1), (0.4, 0.5), (-0.4, 0.5), (-0.4, -0.1)])),
            (0.5, 0.6, 0.06),
            (hand[0], hand[1], 0.14),
            trousers,
        )
    else:
        _eyes(scene, (head * 0.2, head_y + 0.02, head * 0.46), head * (0.14 if kind != "alien" else 0.26), whites=False)
        if kind != "alien":
            scene.ball((head * 1.08, head * 0.7, head * 1.08), (0.0, head_y + head * 0.28, -head * 0.12), hair)
        if kind == "woman":
            scene.block((head * 0.9, head * 0.9, head * 0.3), (0.0, head_y - head * 0.2, -head * 0.42), hair)
        elif kind == "alien":
            scene.rod(0.02, 0.25, (head * 0.2, head_y + head * 0.6, 0.0), skin, turn_deg=(0.0, 0.0, -15.0), pair=True)
            scene.add(pp.sphere(8, 5), 0.09, (head * 0.2 + 0.04, head_y + head * 0.6 + 0.13, 0.0), trousers, pair=True)
    if scene.chance(0.3):
        scene.block((width * 0.8, body * 0.7, 0.2), (0.0, middle + 0.05, -0.24), scene.paint())
        return f"{article(kind)} with a backpack"
    return (
        article(f"{skin.name} {kind}")
        if kind in ("robot", "alien")
        else (f"a knight in {shirt.name} armor" if kind == "knight" else f"{article(kind)} in {article(shirt.name)} suit")
    )


def _snowman(scene: Scene) -> str:
    white, scarf = scene.paint("white"), scene.paint("red", "blue", "green")
    y = 0.0
    for size in (0.9, 0.65, 0.45):
        scene.ball(size, (0.0, y + size * 0.45, 0.0), white)
        y += size * 0.8
    y -= 0.36
    scene.rod(0.06, 0.3, (0.0, y + 0.18, 0.32), scene.paint("orange"), top=0.0, axis="z")
    _eyes(scene, (0.09, y + 0.27, 0.17), 0.07, whites=False)
    scene.add(pp.torus(0.45, 14, 6), (0.5, 0.14, 0.5), (0.0, y - 0.03, 0.0), scarf)
    scene.rod(0.02, 0.6, (0.5, 1.0, 0.0), scene.paint("brown"), turn_deg=(0.0, 0.0, -60.0), pair=True)
    if scene.chance(0.6):
        hat = scene.paint("black", "red", "blue")
        scene.rod(0.28, 0.04, (0.0, y + 0.4, 0.0), hat)
        scene.rod(0.18, 0.3, (0.0, y + 0.55, 0.0), hat)
    return f"a snowman with {article(scarf.name)} scarf"
