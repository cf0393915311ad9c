"""3D Gaussians: the model, its density control, files, captures of other programs, surface and mesh.

What a configuration must know of them stands here, so that reading one needs no PyTorch.
"""

FIELD_BLOCKS = 16  # blocks a side of a density field, of whose points a side it must be a divisor
OTHER_FORMATS = ("splat", "spz", "glb")  # of files to write beside the PLY
UPS = ("auto", "x", "-x", "y", "-y", "z", "-z")  # axes of a capture that may be up
