"""The Gaussian model: see microdreamer.gaussians.model."""

from microdreamer.gaussians.extraction import DensityField, extract_fields, extract_mesh
from microdreamer.gaussians.model import GaussianModel, Render

__all__ = ["DensityField", "GaussianModel", "Render", "extract_fields", "extract_mesh"]
