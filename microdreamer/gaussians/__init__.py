"""3D Gaussians: the model, its density control, files, captures of other programs, surface and mesh.

What a configuration must know of them, and the defaults that it shares with their functions, stand here, so that reading one needs no
PyTorch.
"""

import dataclasses

OTHER_FORMATS = ("splat", "spz", "glb")  # of files to write beside the PLY
UPS = ("auto", "x", "-x", "y", "-y", "z", "-z")  # axes of a capture that may be up

COUNT = 5000  # of a first ball
GRAD_THRESHOLD = 0.01  # screen-space gradient from which one is cloned or split
PERCENT_DENSE = 0.01  # largest scale, as a share of the scene, of one that is cloned rather than split
MESH_RESOLUTION = 128  # nodes a side of the density field that a mesh is made of


@dataclasses.dataclass(frozen=True)
class LearningRates:
    """Of Adam, a parameter each. Those of positions are multiplied by 10, log-linearly over
    `position_lr_max_steps`."""

    position_lr_init: float = 0.001
    position_lr_final: float = 0.00002
    position_lr_max_steps: int = 500
    feature_lr: float = 0.01
    opacity_lr: float = 0.05
    scaling_lr: float = 0.005
    rotation_lr: float = 0.0005
