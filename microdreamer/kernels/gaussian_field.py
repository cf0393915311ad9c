"""Densities of 3D Gaussians: the weight of a Gaussian at an offset, and the sum of many on a cubic grid.

Packed covariances are (xx, xy, xz, yy, yz, zz). USE_CUDA_GAUSS and USE_CUDA_EXTRACT choose between the compiled kernels and the
plain-PyTorch versions of this file (see `kernels.extension.use_compiled`).
"""

import torch
from torch import Tensor

from microdreamer.kernels import FIELD_BLOCKS, FIELD_RELAX_RATIO, extension
from microdreamer.kernels.extension import Gradient

DETERMINANT_FLOOR = 1e-24  # added to the determinant of a covariance before dividing by it
# Offsets that the plain extract_fields evaluates at a time: 4 M pairs of 9 floats are 150 MB.
PAIRS_PER_CHUNK = 1 << 22


def gaussian_3d_coeff(xyzs: Tensor, covs: Tensor) -> Tensor:
    """Weight exp(-d^T C^-1 d / 2) of a 3D Gaussian at an offset from its mean, with C^-1 = adj(C) / (det C + 1e-24).

    xyzs [N,3] offsets; covs [N,6] packed covariances, one for each offset; both float32 or both float64. Returns weights [N] in [0, 1];
    where an indefinite covariance makes the exponent positive the weight is 0. Gradients flow to both arguments.
    The compiled kernels work in double inside, because the determinant of a flat Gaussian cancels; the plain version works in the
    given precision. A wrong shape, dtype or device is a ValueError; so is NaN or infinity in the compiled kernel on the CPU.
    """
    if extension.use_compiled(xyzs.device, "USE_CUDA_GAUSS"):
        return torch.ops.microdreamer.gaussian_3d_coeff(xyzs.contiguous(), covs.contiguous())
    return gaussian_3d_coeff_reference(xyzs, covs)


def gaussian_3d_coeff_reference(xyzs: Tensor, covs: Tensor) -> Tensor:
    """`gaussian_3d_coeff` in plain PyTorch."""
    if xyzs.dim() != 2 or xyzs.shape[1] != 3 or covs.shape != (xyzs.shape[0], 6):
        raise ValueError(f"expected xyzs [N,3] and covs [N,6], got {list(xyzs.shape)} and {list(covs.shape)}")
    if xyzs.dtype != covs.dtype or xyzs.device != covs.device:
        raise ValueError(f"expected one dtype and device, got xyzs {xyzs.dtype} {xyzs.device} and covs {covs.dtype} {covs.device}")
    x, y, z = xyzs.unbind(-1)
    xx, xy, xz, yy, yz, zz = covs.unbind(-1)
    determinant = xx * yy * zz + 2 * xy * yz * xz - xx * yz**2 - yy * xz**2 - zz * xy**2
    inverse = 1 / (determinant + DETERMINANT_FLOOR)
    q_xx, q_xy, q_xz = (yy * zz - yz**2) * inverse, (xz * yz - xy * zz) * inverse, (xy * yz - xz * yy) * inverse
    q_yy, q_yz, q_zz = (xx * zz - xz**2) * inverse, (xy * xz - xx * yz) * inverse, (xx * yy - xy**2) * inverse
    exponent = -0.5 * (q_xx * x**2 + q_yy * y**2 + q_zz * z**2) - q_xy * x * y - q_xz * x * z - q_yz * y * z
    return torch.exp(exponent.masked_fill(exponent > 0, -torch.inf))


@torch.no_grad()
def extract_fields(
    means: Tensor, covs: Tensor, opacities: Tensor, resolution: int, num_blocks: int = FIELD_BLOCKS, relax_ratio: float = FIELD_RELAX_RATIO
) -> Tensor:
    """Sum of opacity times weight of the Gaussians on the grid linspace(-1, 1, R)^3.

    means [N,3] normalised to [-1, 1]; covs [N,6]; opacities [N]. The grid is cut into num_blocks^3 blocks of R / num_blocks points a
    side; a Gaussian counts for a block only if its mean lies strictly inside the block's first and last coordinate, widened on every
    side by relax_ratio * 2 / num_blocks. Returns [R,R,R], index order x, y, z. Forward only: no gradient flows.

    The compiled kernels leave out single terms below 1e-7; else both ways agree to rounding. Repeated calls give the same bits.
    float32; num_blocks must divide the resolution. ValueError otherwise, and for NaN or infinity on the CPU (on a GPU they show in the
    result, as finding them would make the host wait).
    """
    if extension.use_compiled(means.device, "USE_CUDA_EXTRACT"):
        return torch.ops.microdreamer.extract_fields(
            means.contiguous(), covs.contiguous(), opacities.contiguous(), resolution, num_blocks, relax_ratio
        )
    return extract_fields_reference(means, covs, opacities, resolution, num_blocks, relax_ratio)


@torch.no_grad()
def extract_fields_reference(
    means: Tensor, covs: Tensor, opacities: Tensor, resolution: int, num_blocks: int = FIELD_BLOCKS, relax_ratio: float = FIELD_RELAX_RATIO
) -> Tensor:
    """`extract_fields` in plain PyTorch: block by block through `gaussian_3d_coeff`, in float32 or float64."""
    _check_field_arguments(means, covs, opacities, resolution, num_blocks, relax_ratio)
    edge = resolution // num_blocks
    margin = relax_ratio * 2 / num_blocks
    axis = torch.linspace(-1, 1, resolution, device=means.device).to(means.dtype)
    first, last = axis[::edge] - margin, axis[edge - 1 :: edge] + margin
    inside = (means[None] > first[:, None, None]) & (means[None] < last[:, None, None])  # [num_blocks, N, 3]
    field = means.new_zeros(resolution, resolution, resolution)
    for bx in range(num_blocks):
        for by in range(num_blocks):
            for bz in range(num_blocks):
                members = torch.nonzero(inside[bx, :, 0] & inside[by, :, 1] & inside[bz, :, 2]).squeeze(1)
                if len(members) == 0:
                    continue
                span = [slice(b * edge, (b + 1) * edge) for b in (bx, by, bz)]
                points = torch.cartesian_prod(*(axis[s] for s in span)).reshape(-1, 3)
                block = _sum_at_points(points, means[members], covs[members], opacities[members])
                field[span[0], span[1], span[2]] = block.reshape(edge, edge, edge)
    return field


def _sum_at_points(points: Tensor, means: Tensor, covs: Tensor, opacities: Tensor) -> Tensor:
    """Sum over the Gaussians [M] at each of the points [P,3], in chunks of bounded memory."""
    total = points.new_zeros(len(points))
    step = max(1, PAIRS_PER_CHUNK // len(points))
    for start in range(0, len(means), step):
        some = slice(start, start + step)
        offsets = points[:, None] - means[None, some]
        pair_covs = covs[some].expand(len(points), -1, -1)
        weights = gaussian_3d_coeff(offsets.reshape(-1, 3), pair_covs.reshape(-1, 6))
        total += weights.reshape(offsets.shape[:2]) @ opacities[some]
    return total


def _check_field_arguments(means: Tensor, covs: Tensor, opacities: Tensor, resolution: int, num_blocks: int, relax_ratio: float) -> None:
    count = means.shape[0] if means.dim() else 0
    for name, tensor, shape in (("means", means, (count, 3)), ("covs", covs, (count, 6)), ("opacities", opacities, (count,))):
        if tensor.shape != shape:
            raise ValueError(f"{name}: expected shape {list(shape)}, got {list(tensor.shape)}")
        if tensor.dtype != means.dtype or tensor.device != means.device:
            raise ValueError(f"{name}: expected {means.dtype} on {means.device}, got {tensor.dtype} on {tensor.device}")
        if tensor.device.type == "cpu" and not tensor.isfinite().all():
            raise ValueError(f"{name}: expected finite values, got NaN or infinity")
    if not 2 <= resolution <= 1024:
        raise ValueError(f"resolution: expected 2 to 1024, got {resolution}")
    if num_blocks < 1 or resolution % num_blocks:
        raise ValueError(f"num_blocks: expected a divisor of the resolution {resolution}, got {num_blocks}")
    if not relax_ratio >= 0:
        raise ValueError(f"relax_ratio: expected 0 or more, got {relax_ratio}")


# ---- The ops: shapes for torch.compile, and autograd ----


def _fake_fields(means, covs, opacities, resolution, *_):
    return means.new_empty(resolution, resolution, resolution)


def _save_coeff_inputs(ctx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _coeff_backward(ctx, v_weights: Tensor) -> tuple[Tensor, Tensor]:
    xyzs, covs = ctx.saved_tensors
    return torch.ops.microdreamer.gaussian_3d_coeff_bwd(xyzs, covs, v_weights.contiguous())


extension.register(
    "gaussian_3d_coeff", fake=lambda xyzs, covs: xyzs.new_empty(xyzs.shape[0]), gradient=Gradient(_coeff_backward, _save_coeff_inputs)
)
extension.register("gaussian_3d_coeff_bwd", fake=lambda xyzs, covs, v_weights: (torch.empty_like(xyzs), torch.empty_like(covs)))
extension.register("extract_fields", fake=_fake_fields)
