"""Meshes for 3D printers: a size in millimetres, Z up, a flat base to stand on, and STL."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from microdreamer.core.files import atomic_write
from microdreamer.meshes.mesh import Mesh

BASE_SHARE = 0.02  # of the height, that is pressed flat at the bottom
SIZES = (0.1, 10_000.0)  # mm that a print may measure


def for_printing(mesh: Mesh, size_mm: float, flat_base: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [V,3] in millimetres, Z up, and faces [F,3]: `size_mm` along the longest side, standing on z = 0, the middle at x = y = 0.

    With `flat_base`, what lies in the lowest `BASE_SHARE` of the height is pressed to its upper end, before sizes are taken. Corners are
    moved and none is added, so that a closed mesh stays one. Raises ValueError for a size out of range or a mesh without one.
    """
    check_size(size_mm)
    x, y, z = mesh.vertices.T.astype(np.float64)
    points = np.stack([x, -z, y], axis=1)  # +Y up, front +Z -> Z up, front -Y
    used = np.unique(mesh.faces)
    if not len(used) or np.ptp(points[used], axis=0).max() <= 0:
        raise ValueError("expected a mesh that has a size")
    low, high = points[used, 2].min(), points[used, 2].max()
    if flat_base:
        points[:, 2] = np.maximum(points[:, 2], low + BASE_SHARE * (high - low))
    low, high = points[used].min(0), points[used].max(0)
    points -= [*(low + high)[:2] / 2, low[2]]
    return points * (size_mm / (high - low).max()), mesh.faces


def check_size(size_mm: float) -> None:
    """Raise ValueError for a size that no printer has."""
    if not SIZES[0] <= size_mm <= SIZES[1]:
        raise ValueError(f"size_mm={size_mm:g}: expected {SIZES[0]:g} to {SIZES[1]:g} millimetres")


def write_stl(vertices: np.ndarray, faces: np.ndarray, path: str | Path) -> None:
    """Write triangles as binary STL: 80 bytes of header, their number, and of each its normal, corners and two bytes of nothing."""
    path = Path(path)
    corners = vertices[faces].astype("<f4")
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    records = np.zeros(len(faces), dtype=[("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("rest", "<u2")])
    records["normal"] = normals / np.where(lengths > 0, lengths, 1)
    records["corners"] = corners
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"binary STL, millimetres".ljust(80) + struct.pack("<I", len(faces)) + records.tobytes())
