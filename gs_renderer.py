"""The Gaussian model's face: render it, take its density field and its mesh, read and write it.

    from gs_renderer import GaussianModel, extract_fields, extract_mesh, switches

    model = GaussianModel.load_ply("logs/robot_model.ply")
    image = model.render(cameras).image           # [V,3,H,W], differentiable
    field = extract_fields(model)                 # the density on a grid: the hot spot that the kernels are about
    mesh = extract_mesh(model)

Two environment variables, read at every call, choose how the density is computed, so that the ways can be compared:

    USE_CUDA_EXTRACT   the whole field: unset or 1 takes the fused kernel (CUDA or CPU, by the tensors' device), 0 plain PyTorch
    USE_CUDA_GAUSS     the weight of a Gaussian at a point, which plain PyTorch's field calls block by block: the same choice

1 is an error where the kernel is not there; unset falls back to plain PyTorch. `with switches(extract=False): ...` sets them for a
block. The code is in microdreamer/gaussians/ (model, extraction) and microdreamer/kernels/gaussian_field.py.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from microdreamer.gaussians.extraction import DensityField, extract_fields, extract_mesh
from microdreamer.gaussians.model import GaussianModel, Render
from microdreamer.kernels.extension import switched
from microdreamer.kernels.gaussian_field import gaussian_3d_coeff

__all__ = ["DensityField", "GaussianModel", "Render", "extract_fields", "extract_mesh", "gaussian_3d_coeff", "switches"]


def switches(gauss: bool | None = None, extract: bool | None = None) -> AbstractContextManager[None]:
    """Set USE_CUDA_GAUSS and USE_CUDA_EXTRACT for a block: True compiled, False plain PyTorch, None as they are.

    They belong to the process: other threads see them too.
    """
    wanted = {"USE_CUDA_GAUSS": gauss, "USE_CUDA_EXTRACT": extract}
    return switched(**{name: str(int(value)) for name, value in wanted.items() if value is not None})
