"""The textured mesh's face: read it, render it with gradients, write it.

    from mesh_renderer import MeshModel, read_mesh, write_glb

    model = MeshModel(read_mesh("chair.glb"))
    image = model.render(cameras).image           # [V,3,H,W], differentiable in vertices and texture

The code is in microdreamer/meshes/ (model, files) and microdreamer/kernels/ (mesh_raster, texture).
"""

from microdreamer.meshes.files import read_mesh, write_glb, write_obj
from microdreamer.meshes.mesh import Mesh
from microdreamer.meshes.model import MeshModel, MeshRender

__all__ = ["Mesh", "MeshModel", "MeshRender", "read_mesh", "write_glb", "write_obj"]
