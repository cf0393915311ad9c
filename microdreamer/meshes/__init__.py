"""Triangle meshes: files, cleaning, unwrapping, baking, and their refinement by rendering.

The defaults that a configuration shares with their functions stand here, so that reading one needs no PyTorch.
"""

MESH_FACES = 50_000  # most faces of a mesh made of Gaussians
TEXTURE_SIZE = 1024  # texels a side
VERTEX_STEPS = 120  # optimiser steps that move vertices to what Gaussians show
