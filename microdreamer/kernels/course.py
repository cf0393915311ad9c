"""The steps of the course (docs/course) from the obvious kernel of the density grid to the library's, and four mistakes.

Nothing of the library imports this module; the benchmarks and the course do. The twin of all steps is the library's own,
`gaussian_field.extract_fields_reference`.
"""

import torch
from torch import Tensor

from microdreamer.kernels import FIELD_BLOCKS, FIELD_RELAX_RATIO, extension
from microdreamer.kernels.gaussian_field import extract_fields_reference as extract_fields_reference

# In the order of the course; csrc/course/field_steps.h says what each does.
STEPS = ("brute_force", "prepared", "shared", "culled")
# Right to opcheck, or to the twin, or to both; each is caught by another of the checks.
MISTAKES = ("wrong_grid", "wrong_input", "wrong_barrier", "wrong_bound")


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
    if not extension.available(means.device):
        raise RuntimeError(f"the course's steps are compiled ones and there is no {means.device.type} kernel; {extension.BUILD_HINT}")
    return torch.ops.microdreamer.course_extract_fields(
        means.contiguous(), covs.contiguous(), opacities.contiguous(), resolution, num_blocks, relax_ratio, variant
    )


extension.register("course_extract_fields", fake=lambda means, covs, opacities, resolution, *_: means.new_empty([resolution] * 3))
