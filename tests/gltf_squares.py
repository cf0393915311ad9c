"""Squares in glTF files, and what they show."""

import numpy as np

from microdreamer.images.colour import linear_to_srgb
from scripts.make_mesh_files import GltfFile

QUARTERS = {"red": (220, 30, 30), "green": (30, 180, 30), "blue": (30, 60, 220), "yellow": (230, 210, 30)}
SQUARE = np.float32([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]])
SQUARE_FACES = [[0, 1, 2], [0, 2, 3]]
SQUARE_UVS = np.float32([[0, 1], [1, 1], [1, 0], [0, 0]])


def square(material=None, uvs=SQUARE_UVS, suffix="glb", path=None, file=None, **more):
    """A file with a square in the plane z = 0 that faces +Z."""
    file = file or GltfFile()
    more = {"TEXCOORD_0": uvs, **more} if uvs is not None else more
    file.node([file.primitive(SQUARE, SQUARE_FACES, material(file) if callable(material) else material, **more)])
    return file.write(path / f"square.{suffix}")


def seen(surface, points):
    """sRGB bytes [N,3] that a surface shows at points (x, y) of its front, looked at along -Z."""
    found = []
    for x, y in points:
        best = None
        for number, face in enumerate(surface.faces):
            a, b, c = surface.vertices[face][:, :2]
            total = np.linalg.det([b - a, c - a])
            if total <= 1e-12:
                continue
            weights = [
                np.linalg.det([b - (x, y), c - (x, y)]),
                np.linalg.det([c - (x, y), a - (x, y)]),
                np.linalg.det([a - (x, y), b - (x, y)]),
            ]
            weights = np.array(weights) / total
            if weights.min() >= -1e-9:
                depth = weights @ surface.vertices[face][:, 2]
                if best is None or depth > best[0]:
                    best = depth, number, weights
        color = surface.shade(np.array([best[1]]), best[2][None])[0, :3]
        found.append(linear_to_srgb(color.astype(float)) * 255)
    return np.array(found)


CENTERS = [(-0.25, 0.25), (0.25, 0.25), (-0.25, -0.25), (0.25, -0.25)]  # of the quarters of a square, as `quarters` has them
