"""The steps of the course (docs/course) from the obvious kernel to the library's or beyond it, and mistakes: of the density grid, and of a
Gaussian's weight.

Nothing of the library imports this module; the benchmarks and the course do. The twins of all steps are the library's own,
`gaussian_field.extract_fields_reference` and `gaussian_field.gaussian_3d_coeff_reference`.
"""

import torch
from torch import Tensor

from microdreamer.kernels import FIELD_BLOCKS, FIELD_RELAX_RATIO, extension
from microdreamer.kernels.extension import gradient_by_twin
from microdreamer.kernels.gaussian_field import extract_fields_reference as extract_fields_reference
from microdreamer.kernels.gaussian_field import gaussian_3d_coeff_reference

# In the order of the course; csrc/course/field_steps.h says what each does.
STEPS = ("brute_force", "prepared", "shared", "culled")
# Right to opcheck, or to the twin, or to both; each is caught by another of the checks.
MISTAKES = ("wrong_grid", "wrong_input", "wrong_barrier", "wrong_bound")
# Of gaussian_3d_coeff; csrc/course/weight_steps.h says what each does.
WEIGHT_STEPS = ("naive", "fused", "shared", "vectorised")
WEIGHT_MISTAKES = ("wrong_launch",)


@torch.no_grad()
def extract_fields(
    means: Tensor,
    covs: Tensor,
    opacities: Tensor,
    resolution: int,
    num_blocks: int = FIELD_BLOCKS,
    relax_ratio: float = FIELD_RELAX_RATIO,
    variant: str = STEPS[0],
) -> Tensor:
    """`gaussian_field.extract_fields` by one of STEPS or MISTAKES; compiled, on the tensors' device. Forward only.

    The steps differ from it by rounding, where covariances are not nearly singular (brute_force inverts them in float32). Of the
    mistakes, wrong_bound raises IndexError on the CPU; on a GPU it takes only resolutions whose last write beyond the field harms
    nobody, such as 9. RuntimeError where the kernels are not built; ValueError for wrong arguments.
    """
    _demand_kernel(means)
    return torch.ops.microdreamer.course_extract_fields(
        means.contiguous(), covs.contiguous(), opacities.contiguous(), resolution, num_blocks, relax_ratio, variant
    )


def gaussian_3d_coeff(xyzs: Tensor, covs: Tensor, variant: str = WEIGHT_STEPS[0]) -> Tensor:
    """`gaussian_field.gaussian_3d_coeff` by one of WEIGHT_STEPS or WEIGHT_MISTAKES; compiled, on the tensors' device.

    naive computes in double. The other steps compute in the tensors' type, float32 or float64: in float32 they lose digits as the
    determinant of a flat Gaussian cancels, and no NaN is looked for. Gradients are those of the twin. RuntimeError where the kernels
    are not built; ValueError for wrong arguments.
    """
    _demand_kernel(xyzs)
    return torch.ops.microdreamer.course_gaussian_3d_coeff(xyzs.contiguous(), covs.contiguous(), variant)


def _demand_kernel(tensor: Tensor) -> None:
    if not extension.available(tensor.device):
        raise RuntimeError(f"the course's steps are compiled ones and there is no {tensor.device.type} kernel; {extension.BUILD_HINT}")


def _weights_by_twin(xyzs: Tensor, covs: Tensor, variant: str) -> Tensor:
    return gaussian_3d_coeff_reference(xyzs, covs)


extension.register("course_extract_fields", fake=lambda means, covs, opacities, resolution, *_: means.new_empty([resolution] * 3))
extension.register(
    "course_gaussian_3d_coeff",
    fake=lambda xyzs, covs, variant: xyzs.new_empty(len(xyzs)),
    gradient=gradient_by_twin(_weights_by_twin),
)
