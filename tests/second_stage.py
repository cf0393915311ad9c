"""How the tests run the second stage, and what it leaves."""

import json

import numpy as np

from microdreamer.meshes.files import read_mesh
from microdreamer.meshes.mesh import Mesh
from microdreamer.metrics.meshes import asset_faults
from microdreamer.pipeline import commands

FIRST = [
    "total_steps=2",
    "denoise_steps=4",
    "init_steps=12",
    "steps_min=6",
    "steps_max=6",
    "num_pts=200",
    "cfg=1",
    "eta=1",
]
SMALL = [
    "video_frames=2",
    "video_size=32",
    "mesh_resolution=32",
    "mesh_faces=600",
    "texture_size=128",
    "refine_size=32",
    "refine_steps=2",
    "refine_denoise_steps=5",
    "refine_cfg=1",
    "geometry_steps=3",
]
MESH_FILES = {"a_refined.obj", "a_refined.mtl", "a_refined_albedo.png", "a_refined.glb"}
FILES = MESH_FILES | {"a_refined.mp4", "a_refined_views.png", "a_refined.json"}
EXACT = ("a_refined.obj", "a_refined.mtl", "a_refined_albedo.png", "a_refined.glb", "a_refined_views.png")


def run(folder, *words, name="a"):
    named = [f"save_path={name}"] if name else []
    return commands.refine(["--quiet", f"outdir={folder}", *named, *SMALL, *words])


def made(folder):
    return {path.name for path in folder.iterdir() if "_refined" in path.name}


def faults(path):
    """What is wrong with a written mesh, as the evaluation judges it."""
    mesh = read_mesh(path)
    return asset_faults(mesh.vertices, mesh.faces, mesh.normals, mesh.uvs, mesh.uv_faces, mesh.texture)


def record(folder, name="a"):
    return json.loads((folder / f"{name}_refined.json").read_text())


def quads(path, center=(0, 0, 0), half=0.5, extra=""):
    """An OBJ cube of six quads, without texture coordinates."""
    corners = [[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]
    faces = [(1, 2, 4, 3), (5, 7, 8, 6), (1, 5, 6, 2), (3, 4, 8, 7), (1, 3, 7, 5), (2, 6, 8, 4)]
    lines = ["v {} {} {}".format(*(np.array(corner) * half + center)) for corner in corners]
    path.write_text("\n".join([*lines, *("f {} {} {} {}".format(*face) for face in faces)]) + f"\n{extra}")
    return path


def striped(uvs, texture=None):
    """A square that faces +Z, with a texture whose columns go from black to red."""
    if texture is None:
        texture = np.zeros((32, 64, 3), np.float32)
        texture[..., 0] = np.linspace(0.1, 0.9, 64)
    vertices, faces = [[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]], [[0, 1, 2], [0, 2, 3]]
    return Mesh(vertices, faces, uvs=uvs, uv_faces=faces, texture=texture)
