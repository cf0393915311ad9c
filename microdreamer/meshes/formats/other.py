"""Formats that trimesh reads and that hold little but triangles: STL, OFF, 3MF, COLLADA and so on."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from microdreamer.images.colour import srgb_to_linear
from microdreamer.meshes.formats import pictures
from microdreamer.meshes.surface import Material, Surface, Texture


def read_other(path: Path) -> Surface:
    """Raises ValueError for what trimesh cannot read or where it finds no triangles."""
    import trimesh

    try:
        scene = trimesh.load_scene(path, process=False)
        parts = [_part(scene.geometry[scene.graph[node][1]], scene.graph[node][0]) for node in scene.graph.nodes_geometry]
    except Exception as error:  # trimesh's readers raise whatever their parsing trips over
        what = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"not a mesh that can be read ({what[:200]}); save it as GLB, OBJ or PLY") from error
    parts = [part for part in parts if part is not None and len(part.faces)]
    if not parts:
        raise ValueError("expected a mesh, found no triangles")
    return Surface.joined(parts)


def _part(mesh, transform: np.ndarray) -> Surface | None:
    import trimesh

    if not isinstance(mesh, trimesh.Trimesh):
        return None
    faces = mesh.faces[:, ::-1] if np.linalg.det(transform[:3, :3]) < 0 else mesh.faces
    vertices, visual = trimesh.transform_points(mesh.vertices, transform), mesh.visual
    if visual.kind == "vertex":
        return Surface.plain(vertices, faces, colors=srgb_to_linear(visual.vertex_colors[faces][..., :3] / 255.0))
    if visual.kind == "face":
        return Surface.plain(vertices, faces, colors=srgb_to_linear(visual.face_colors[:, None, :3] / 255.0).repeat(3, axis=1))
    if visual.kind != "texture":
        return Surface.plain(vertices, faces)
    material = visual.material
    image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    if image is None or visual.uv is None:
        color = np.ones(4)
        color[:3] = srgb_to_linear(np.asarray(material.main_color, np.float64)[:3] / 255)
        return Surface.plain(vertices, faces, Material(color))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    texture = Texture(*pictures.decoded(buffer.getvalue()))
    return Surface.plain(vertices, faces, Material(texture=texture), uvs=np.asarray(visual.uv, np.float64)[faces])
