"""Simplification of closed triangle meshes by edge collapse, compiled, on the CPU.

There is no plain-PyTorch version: `mesh_cleaning.simplify` goes through the package fast_simplification where nothing was built.
"""

from __future__ import annotations

import torch
from torch import Tensor

from microdreamer.kernels import extension


def is_closed_manifold(faces: Tensor, vertex_count: int) -> bool:
    """Whether every edge of faces [F,3] (int64, CPU) has two of them, of the same winding, and those at every vertex form one fan."""
    extension.load()
    return torch.ops.microdreamer.is_closed_manifold(faces.contiguous(), vertex_count)


def simplify_closed_mesh(vertices: Tensor, faces: Tensor, target_faces: int) -> tuple[Tensor, Tensor]:
    """Collapse edges by quadric error (Garland and Heckbert 1997) until at most `target_faces` faces are left.

    vertices [V,3] float64, faces [F,3] int64, a closed manifold (`is_closed_manifold`), both on the CPU; so is the result, with
    at least `target_faces - 1` faces if there were as many. More stay where no edge can go, as in tetrahedra and the narrowest
    of handles. The same input gives the same result, with any number of threads. ValueError for a mesh that is not closed or a
    target below 4.
    """
    extension.load()
    return torch.ops.microdreamer.simplify_closed_mesh(vertices.contiguous(), faces.contiguous(), target_faces)


# ---- The op: shapes for torch.compile ----


def _fake(vertices: Tensor, faces: Tensor, target_faces: int) -> tuple[Tensor, Tensor]:
    context = torch.library.get_ctx()
    return vertices.new_empty(context.new_dynamic_size(), 3), faces.new_empty(context.new_dynamic_size(), 3)


extension.register("simplify_closed_mesh", fake=_fake)
