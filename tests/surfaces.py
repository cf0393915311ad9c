"""Surfaces of all kinds to unwrap."""

import numpy as np
import trimesh

SIZE = 512


def grid_surface(columns, rows, position, wrap_u=False, wrap_v=False):
    """Vertices and faces of a surface position(u, v) with u, v in [0, 1]."""
    nu, nv = columns + (not wrap_u), rows + (not wrap_v)
    u, v = np.meshgrid(np.arange(nu) / columns, np.arange(nv) / rows, indexing="ij")
    vertices = np.stack(position(u, v), axis=-1).reshape(-1, 3)
    i, j = (index.reshape(-1) for index in np.meshgrid(np.arange(columns), np.arange(rows), indexing="ij"))
    a, b = i * nv + j, (i + 1) % nu * nv + j
    c, d = (i + 1) % nu * nv + (j + 1) % nv, i * nv + (j + 1) % nv
    return vertices, np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])


def plane():
    return grid_surface(12, 9, lambda u, v: (u, 0.7 * v, 0 * u))


def sphere(subdivisions=4):
    mesh = trimesh.creation.icosphere(subdivisions)
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def torus():
    mesh = trimesh.creation.torus(1.0, 0.35)
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def open_cylinder():
    return grid_surface(40, 10, lambda u, v: (np.cos(2 * np.pi * u), np.sin(2 * np.pi * u), 3 * v), wrap_u=True)


def moebius():
    vertices, faces = grid_surface(
        60,
        6,
        lambda u, v: (
            (1 + 0.6 * (v - 0.5) * np.cos(np.pi * u)) * np.cos(2 * np.pi * u),
            (1 + 0.6 * (v - 0.5) * np.cos(np.pi * u)) * np.sin(2 * np.pi * u),
            0.6 * (v - 0.5) * np.sin(np.pi * u),
        ),
    )
    last, first = 60 * 7 + np.arange(7), np.arange(7)
    target = np.arange(len(vertices))
    target[last] = first[::-1]
    return vertices, target[faces]


def spiral():
    """A ramp that winds three times around an axis: one connected sheet above itself, all of it seen from above."""
    return grid_surface(90, 6, lambda u, v: ((1 + v) * np.cos(6 * np.pi * u), (1 + v) * np.sin(6 * np.pi * u), 0.5 * u))


def rough_sphere():
    vertices, faces = sphere(4)
    return vertices * (1 + 0.03 * np.random.default_rng(0).standard_normal((len(vertices), 1))), faces


def box():
    mesh = trimesh.creation.box((1, 2, 0.3))
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def soup():
    random = np.random.default_rng(0)
    return random.standard_normal((600, 3)), np.arange(600).reshape(-1, 3)


def crowded_edges():
    vertices, faces = sphere(2)
    fins = np.array([[a, b, len(vertices)] for a, b in faces[::20, :2]])
    return np.concatenate([vertices, [[3.0, 0, 0]]]), np.concatenate([faces, fins, faces[:10], faces[5:15, ::-1]])


def several():
    parts = [(v + 3 * k, f) for k, (v, f) in enumerate((sphere(2), torus(), plane(), moebius()))]
    starts = np.cumsum([0, *(len(v) for v, _ in parts)])
    return np.concatenate([v for v, _ in parts]), np.concatenate([f + s for (_, f), s in zip(parts, starts[:-1], strict=True)])


def one_triangle():
    return np.array([[0, 0, 0], [4, 0, 0], [0, 3, 0.0]]), np.array([[0, 1, 2]])


def needles():
    """Faces hundreds of times as long as high, among others."""
    return grid_surface(3, 200, lambda u, v: (u, 0.2 * v + 0.1 * np.sin(7 * u), 0.05 * np.cos(9 * v)))


def signed_areas(layout, resolution=1.0):
    a, b, c = (layout.uvs[layout.uv_faces[:, k]].astype(np.float64) * resolution for k in range(3))
    return ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) / 2
