"""Triangle meshes with a colour at each vertex or with a texture. `mesh_io` reads and writes them, `mesh_renderer` shows them."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass
class Mesh:
    """vertices [V,3] float32, +Y up, front toward +Z; faces [F,3] int32, counter-clockwise seen from outside.

    Colour is sRGB in [0,1]: vertex_colors [V,3] float32, or texture [H,W,3] float32 (first row at the top, v = 1) with uvs
    [T,2] float32 (u to the right, v up) and uv_faces [F,3] int32, the row of `uvs` of each corner. Both may be there; the
    texture is then what counts. `shaded`: the colours hold the light in which they were seen, and are to be shown as they are. Raises
    ValueError for arrays that do not fit together.
    """

    vertices: np.ndarray
    faces: np.ndarray
    vertex_colors: np.ndarray | None = None
    uvs: np.ndarray | None = None
    uv_faces: np.ndarray | None = None
    texture: np.ndarray | None = None
    shaded: bool = True

    def __post_init__(self) -> None:
        self.vertices = np.ascontiguousarray(self.vertices, np.float32).reshape(-1, 3)
        self.faces = np.ascontiguousarray(self.faces, np.int32).reshape(-1, 3)
        if self.vertex_colors is not None:
            self.vertex_colors = np.ascontiguousarray(self.vertex_colors, np.float32).reshape(-1, 3)
            if len(self.vertex_colors) != len(self.vertices):
                raise ValueError(f"vertex_colors: expected {len(self.vertices)} rows, one a vertex, got {len(self.vertex_colors)}")
        if (self.uvs is None) != (self.uv_faces is None) or (self.texture is not None and self.uvs is None):
            raise ValueError("uvs, uv_faces, texture: expected uvs together with uv_faces, and a texture only with both")
        if self.uvs is not None:
            self.uvs = np.ascontiguousarray(self.uvs, np.float32).reshape(-1, 2)
            self.uv_faces = np.ascontiguousarray(self.uv_faces, np.int32).reshape(-1, 3)
            if len(self.uv_faces) != len(self.faces):
                raise ValueError(f"uv_faces: expected {len(self.faces)} rows, one a face, got {len(self.uv_faces)}")
        if self.texture is not None:
            self.texture = np.ascontiguousarray(self.texture, np.float32)
            if self.texture.ndim != 3 or self.texture.shape[2] != 3 or self.texture.size == 0:
                raise ValueError(f"texture: expected shape [H,W,3], got {list(self.texture.shape)}")

    @property
    def has_texture(self) -> bool:
        return self.texture is not None

    @property
    def normals(self) -> np.ndarray:
        """Unit vertex normals [V,3]: those of the faces around, weighted by area; zero where there is no face."""
        columns = self.vertices.T.astype(np.float64)
        a, b, c = columns[:, self.faces.T].swapaxes(0, 1)  # [3,F] each
        doubled_areas = np.cross(b - a, c - a, axis=0)
        sums = np.stack([np.bincount(self.faces.reshape(-1), np.repeat(area, 3), len(self.vertices)) for area in doubled_areas], axis=1)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        return (sums / np.where(lengths > 0, lengths, 1)).astype(np.float32)

    def check(self) -> None:
        """Raise ValueError for what cannot be shown: no faces, numbers that are not finite, corners that do not exist."""
        if len(self.faces) == 0:
            raise ValueError("expected a mesh with faces, got none")
        for name in ("vertices", "vertex_colors", "uvs", "texture"):
            values = getattr(self, name)
            if values is not None and not np.isfinite(values).all():
                raise ValueError(f"{name}: {int((~np.isfinite(values)).sum())} values are not finite; mend the mesh")
        for name, rows, corners in (("faces", self.vertices, self.faces), ("uv_faces", self.uvs, self.uv_faces)):
            if rows is not None and not (corners.min() >= 0 and corners.max() < len(rows)):
                raise ValueError(f"{name}: expected numbers from 0 to {len(rows) - 1}, got {corners.min()} to {corners.max()}")
