"""How sound a triangle mesh is: manifold edges, holes, degenerate faces, parts, winding, and what a file of it must hold.

Arrays: vertices [V,3], faces [F,3]. Vertices at the same place are taken as one (`mesh_cleaning.merge_vertices`), since files
repeat them along texture seams.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from microdreamer.meshes import cleaning as mesh_cleaning
from microdreamer.meshes.topology import edges_of, half_edges

NEEDLE = 1e-6  # faces of less height than this share of their longest edge are degenerate


@dataclasses.dataclass(frozen=True)
class MeshQuality:
    """Counts after welding. Shares are of all edges, and 1 for a mesh without edges.

    manifold_share: edges with one or two faces; closed_share: edges with exactly two. boundary_edges have one face, crowded_edges
    more than two. degenerate_faces use a vertex twice or have no height; repeated_faces have the same three vertices as another.
    consistent_share: of the edges with two faces, those whose faces wind them in opposite directions.
    """

    faces: int
    vertices: int
    manifold_share: float
    closed_share: float
    boundary_edges: int
    crowded_edges: int
    degenerate_faces: int
    repeated_faces: int
    components: int
    consistent_share: float

    @property
    def is_edge_manifold(self) -> bool:
        return self.crowded_edges == 0

    @property
    def is_watertight(self) -> bool:
        """Every edge has two faces, of agreeing winding, and there is a face at all."""
        return self.faces > 0 and self.closed_share == 1 and self.consistent_share == 1


def mesh_quality(vertices: np.ndarray, faces: np.ndarray) -> MeshQuality:
    """Measure a mesh. Faces that use a vertex twice count as degenerate and nowhere else."""
    vertices, faces = np.asarray(vertices, np.float64).reshape(-1, 3), np.asarray(faces, np.int64).reshape(-1, 3)
    count = len(faces)
    vertices, faces = mesh_cleaning.merge_vertices(vertices, faces)
    a, b, c = faces.T
    collapsed = (a == b) | (b == c) | (c == a)
    faces = faces[~collapsed]
    edges = half_edges(faces)
    lengths = np.linalg.norm(vertices[edges[:, 1]] - vertices[edges[:, 0]], axis=1).reshape(3, -1)
    areas = np.linalg.norm(mesh_cleaning.face_normals(vertices, faces), axis=1)
    needles = areas <= NEEDLE * lengths.max(0, initial=0) ** 2
    _, numbers, sharing = edges_of(faces)
    # Half-edges in the direction of rising vertex numbers; an edge of two faces that agree has one of them.
    rising = np.bincount(numbers, edges[:, 0] < edges[:, 1], len(sharing))
    pairs = sharing == 2
    return MeshQuality(
        faces=count,
        vertices=len(np.unique(faces)),
        manifold_share=float((sharing <= 2).mean()) if len(sharing) else 1.0,
        closed_share=float(pairs.mean()) if len(sharing) else 1.0,
        boundary_edges=int((sharing == 1).sum()),
        crowded_edges=int((sharing > 2).sum()),
        degenerate_faces=int(collapsed.sum() + needles.sum()),
        repeated_faces=len(faces) - len(np.unique(np.sort(faces, axis=1), axis=0)),
        components=len(np.unique(mesh_cleaning.face_parts(faces))) if len(faces) else 0,
        consistent_share=float((rising[pairs] == 1).mean()) if pairs.any() else 1.0,
    )


def asset_faults(
    vertices: np.ndarray,
    faces: np.ndarray,
    normals: np.ndarray | None = None,
    uvs: np.ndarray | None = None,
    uv_faces: np.ndarray | None = None,
    texture: np.ndarray | None = None,
) -> list[str]:
    """What an exported mesh lacks, one line each; empty for a complete one.

    Checked are vertices [V,3], faces [F,3], unit normals [V,3], uvs [T,2] in [0,1] with uv_faces [F,3] (`faces` where None),
    and a texture [H,W,3 or 4].
    """
    faults = []
    vertices, faces = np.asarray(vertices), np.asarray(faces)
    if len(faces) == 0:
        faults.append("no faces")
    if not np.isfinite(vertices).all():
        faults.append("vertices are not finite")
    if len(faces) and (faces.min() < 0 or faces.max() >= len(vertices)):
        faults.append("faces name missing vertices")
    if normals is None or len(normals) == 0:
        faults.append("no normals")
    elif len(normals) != len(vertices):
        faults.append(f"{len(normals)} normals for {len(vertices)} vertices")
    elif not np.isfinite(normals).all() or np.abs(np.linalg.norm(normals, axis=1) - 1).max() > 1e-3:
        faults.append("normals are not of unit length")
    corners = faces if uv_faces is None else np.asarray(uv_faces)
    if uvs is None or len(uvs) == 0:
        faults.append("no UVs")
    elif not np.isfinite(uvs).all() or np.min(uvs) < 0 or np.max(uvs) > 1:
        faults.append("UVs are not in [0, 1]")
    elif corners.shape != faces.shape or (len(corners) and (corners.min() < 0 or corners.max() >= len(uvs))):
        faults.append("faces name missing UVs")
    if texture is None or np.size(texture) == 0:
        faults.append("no texture")
    elif not np.isfinite(texture).all():
        faults.append("the texture is not finite")
    return faults


def meets_face_target(vertices: np.ndarray, faces: np.ndarray, target_faces: int, tolerance: float = mesh_cleaning.FACE_TOLERANCE) -> bool:
    """Whether the mesh, welded and without degenerate or repeated faces, has `target_faces` faces to within `tolerance`."""
    welded = mesh_cleaning.merge_vertices(np.asarray(vertices, np.float64), np.asarray(faces, np.int64))
    _, left = mesh_cleaning.drop_bad_faces(*welded)
    return abs(len(left) - target_faces) <= tolerance * target_faces
