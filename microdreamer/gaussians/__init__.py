"""3D Gaussians: the model, its density control, files, surface and mesh."""

FIELD_BLOCKS = (
    16  # blocks a side of a density field, of whose points a side it must be a divisor; here so that a configuration needs no PyTorch
)
