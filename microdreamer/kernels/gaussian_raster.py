"""Differentiable splatting of 3D Gaussians: all views in one call, as a compiled op and as plain PyTorch.

Image formation of Kerbl et al., "3D Gaussian Splatting for Real-Time Radiance Field Rendering" (2023), with the EWA
projection of Zwicker et al. (2001). Of a Gaussian with mean m and covariance S in the world, a view sees a 2D Gaussian
with covariance J W S W^T J^T + 0.3 I (W: rotation of the view, J: Jacobian of the perspective at m). Splats are blended
front to back in order of view z:

    alpha_i = min(0.99, opacity_i exp(-d^T cov^-1 d / 2)),   weight_i = alpha_i prod_{j<i} (1 - alpha_j)

where d is the offset of the pixel's centre. Contributions with alpha below 1/255 are skipped, and a pixel is finished
before its transmittance would fall below 1e-4.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from microdreamer.kernels import extension
from microdreamer.kernels.spherical_harmonics import degree_from_coefficients, sh_to_color

NEAR = 0.2  # view z below which a mean is culled
LOW_PASS = 0.3  # px^2 added to the diagonal of the 2D covariance
MIN_ALPHA = 1 / 255  # less than this adds nothing to a picture of bytes, and is skipped
MAX_ALPHA = 0.99
MIN_TRANSMITTANCE = 1e-4  # a pixel is finished before it would fall below
TILE = 16  # px; a splat is seen by the tiles that its bounding square touches
VIEW_MARGIN = 0.3  # the Jacobian is taken no farther outside the picture than this part of half its extent
MIN_SPREAD = 0.1  # px^4; keeps the eigenvalue's square root away from zero

REFERENCE_CHUNK = 1 << 21  # pixel-splat pairs the reference holds at a time


class Rendering(NamedTuple):
    """image [V,3,H,W], not clamped; alpha [V,1,H,W]; depth [V,1,H,W] = sum of weight * view z; radii [V,N] int32.

    A radius is 3 standard deviations along the splat's longer axis in pixels, 0 where the splat is culled. All but
    `radii` are differentiable.
    """

    image: Tensor
    alpha: Tensor
    depth: Tensor
    radii: Tensor


def rasterize_gaussians(
    means: Tensor,
    scales: Tensor,
    rotations: Tensor,
    opacities: Tensor,
    *,
    colors: Tensor | None = None,
    sh: Tensor | None = None,
    world_to_camera: Tensor,
    intrinsics: Tensor,
    width: int,
    height: int,
    background: Tensor,
    scale_modifier: float = 1.0,
    means2d_offset: Tensor | None = None,
    deterministic: bool = False,
    normalize_rotations: bool = False,
    compiled: bool | None = None,
) -> Rendering:
    """Render N Gaussians from V views.

    means [N,3] in the world; scales [N,3] standard deviations along the Gaussian's axes (multiplied by
    `scale_modifier`); rotations [N,4] quaternions wxyz, used as they come: pass unit ones, or any with
    `normalize_rotations`; opacities [N] or [N,1] in [0,1]; either colors [N,3] or sh [N,K,3], whose K = 1, 4, 9, 16 tells
    the degree, seen along the ray from the eye. world_to_camera [V,4,4] rigid, OpenCV axes (x right, y down, z forward);
    intrinsics [V,4] = (fx, fy, cx, cy) in pixels with pixel centres at +0.5; background [3], or [V,3] for one a view. All
    float32 on one device.

    means2d_offset [V,N,2] is added to the splats' centres, in normalised device units (1 is half the picture); as zeros
    that require a gradient it measures the screen-space gradient that density control wants.

    Gradients reach means, scales, rotations, opacities, colors, sh, means2d_offset and background, not the cameras. The
    cap of alpha passes the gradient, the limit of the Jacobian does not.

    `deterministic` gives the same gradients bit for bit on CUDA, at about twice the backward time; the forward pass, and
    everything on the CPU whatever its number of threads, always repeats exactly. `compiled` chooses between the op and
    `rasterize_gaussians_reference`; None takes the op where there is one.

    Raises ValueError on tensors that do not fit together and on NaN or infinite values, naming the tensor. The op on CUDA does
    not look at values, for which it would have to wait: there, a Gaussian whose position, shape or opacity is not finite is culled.
    """
    views, count = world_to_camera.shape[0], means.shape[0]
    if (colors is None) == (sh is None):
        raise ValueError("colors, sh: expected one of the two")
    if opacities.dim() == 2 and opacities.shape[1] == 1:
        opacities = opacities[:, 0]
    if background.dim() == 1:
        background = background.expand(views, -1)
    _check_tensors(
        count,
        views,
        means=(means, (count, 3)),
        scales=(scales, (count, 3)),
        rotations=(rotations, (count, 4)),
        opacities=(opacities, (count,)),
        colors=(colors, (count, 3)),
        sh=(sh, (count, -1, 3)),
        world_to_camera=(world_to_camera, (views, 4, 4)),
        intrinsics=(intrinsics, (views, 4)),
        background=(background, (views, 3)),
        means2d_offset=(means2d_offset, (views, count, 2)),
    )
    if width < 1 or height < 1:
        raise ValueError(f"picture size {width}x{height}: expected at least 1x1")
    if sh is not None:
        degree_from_coefficients(sh.shape[1])
    if not extension.use_compiled(means.device, asked=compiled):
        named = {"means": means, "scales": scales, "rotations": rotations, "opacities": opacities, "colors": colors, "sh": sh}
        named |= {"world_to_camera": world_to_camera, "intrinsics": intrinsics, "background": background}
        check_finite(**named, means2d_offset=means2d_offset)
        return rasterize_gaussians_reference(
            means,
            scales,
            rotations,
            opacities,
            colors=colors,
            sh=sh,
            world_to_camera=world_to_camera,
            intrinsics=intrinsics,
            width=width,
            height=height,
            background=background,
            scale_modifier=scale_modifier,
            means2d_offset=means2d_offset,
            normalize_rotations=normalize_rotations,
        )
    tensors = (means, scales, rotations, opacities, colors, sh, means2d_offset, world_to_camera, intrinsics, background)
    contiguous = [None if tensor is None else tensor.contiguous() for tensor in tensors]
    settings = width, height, scale_modifier, deterministic, normalize_rotations
    image, alpha, depth, radii, *_ = torch.ops.microdreamer.rasterize_gaussians(*contiguous, *settings)
    return Rendering(image, alpha, depth, radii)


def check_finite(**tensors: Tensor | None) -> None:
    """Raise ValueError naming the first of `tensors` that holds a NaN or an infinity. Waits for the device."""
    for name, tensor in tensors.items():
        if tensor is not None and not bool(tensor.isfinite().all()):
            bad = int((~tensor.isfinite()).sum())
            raise ValueError(f"{name}: expected finite values, got {bad} NaN or infinite of {tensor.numel()}; remove or repair them")


def _check_tensors(count: int, views: int, **expected: tuple[Tensor | None, tuple[int, ...]]) -> None:
    """The shapes of the tensors that are there (-1: any length), and that all are of one kind. Called at every render: it must be quick."""
    means = expected["means"][0]
    assert means is not None
    dtype, device = means.dtype, means.device
    for name, (tensor, shape) in expected.items():
        if tensor is None:
            continue
        found = tensor.shape
        if found != shape and not (len(found) == len(shape) and all(want in (-1, got) for want, got in zip(shape, found, strict=True))):
            text = ",".join("K" if size == -1 else str(size) for size in shape)
            raise ValueError(f"{name}: expected shape [{text}] for {count} Gaussians and {views} views, got {list(found)}")
        if tensor.dtype != dtype or tensor.device != device:
            raise ValueError(f"{name}: expected {dtype} on {device} like means, got {tensor.dtype} on {tensor.device}")


# ---- The op: shapes for torch.compile ----


def _fake_forward(means, scales, rotations, opacities, colors, sh, offset, views, intrinsics, background, width, height, *_):
    count, num_views = means.shape[0], views.shape[0]
    splat_floats, cells, words = torch.ops.microdreamer.rasterize_gaussians_sizes(count, num_views, width, height, means.is_cuda)
    return (
        means.new_empty((num_views, 3, height, width)),
        means.new_empty((num_views, 1, height, width)),
        means.new_empty((num_views, 1, height, width)),
        means.new_empty((num_views, count), dtype=torch.int32),
        means.new_empty((num_views, count, splat_floats)),
        means.new_empty((num_views, count), dtype=torch.int32),
        means.new_empty((num_views, cells, words), dtype=torch.int32),
    )


def _fake_backward(
    v_image, v_alpha, v_depth, image, alpha, depth, radii, splats, order, marks, means, scales, rotations, opacities, colors, sh, offset, *_
):
    appearance = colors if sh is None else sh
    like = [torch.empty_like(tensor) for tensor in (means, scales, rotations, opacities, appearance)]
    return (*like, means.new_empty(0) if offset is None else torch.empty_like(offset))


extension.register("rasterize_gaussians", fake=_fake_forward)  # its gradient is csrc/gradient_gaussian_raster.cpp
extension.register("rasterize_gaussians_bwd", fake=_fake_backward)


# ---- The plain-PyTorch twin ----


class Splats(NamedTuple):
    """What one view sees of M visible Gaussians, nearest first."""

    centers: Tensor  # [M,2] px, pixel centres at whole numbers
    conics: Tensor  # [M,3] inverse covariance (xx, xy, yy)
    depths: Tensor  # [M] view z
    opacities: Tensor  # [M]
    colors: Tensor  # [M,3]
    tiles: Tensor  # [M,4] first and past-the-last tile (x0, y0, x1, y1) of the bounding square


def rasterize_gaussians_reference(
    means: Tensor,
    scales: Tensor,
    rotations: Tensor,
    opacities: Tensor,
    *,
    colors: Tensor | None = None,
    sh: Tensor | None = None,
    world_to_camera: Tensor,
    intrinsics: Tensor,
    width: int,
    height: int,
    background: Tensor,
    scale_modifier: float = 1.0,
    means2d_offset: Tensor | None = None,
    normalize_rotations: bool = False,
) -> Rendering:
    """`rasterize_gaussians` in plain PyTorch, for any floating dtype: the definition that the op is compared with.

    Every pixel looks at every splat, so the cost is V * N * W * H; memory is bounded (pixels are taken in chunks that
    the backward pass computes again).
    """
    opacities = opacities.reshape(-1)
    if normalize_rotations:
        rotations = torch.nn.functional.normalize(rotations, dim=-1)
    background = background.expand(world_to_camera.shape[0], 3)
    images, alphas, depths, all_radii = [], [], [], []
    for view, camera in enumerate(world_to_camera):
        offset = None if means2d_offset is None else means2d_offset[view]
        centers, covariances, depth = _project(means, scales * scale_modifier, rotations, camera, intrinsics[view], width, height, offset)
        if sh is None:
            seen_colors = colors
        else:
            eye = -(camera[:3, :3].T @ camera[:3, 3])
            seen_colors = sh_to_color(sh, torch.nn.functional.normalize(means - eye, dim=-1))
        radii, tiles, conics = _bounds(centers, covariances, depth, width, height)
        shown = radii.nonzero()[:, 0]
        shown = shown[depth[shown].argsort(stable=True)]
        splats = Splats(centers[shown], conics[shown], depth[shown], opacities[shown], seen_colors[shown], tiles[shown])
        channels = _blend(splats, width, height)
        transmittance = channels[:, 4:]
        images.append((channels[:, :3] + transmittance * background[view]).T.reshape(3, height, width))
        depths.append(channels[:, 3].reshape(1, height, width))
        alphas.append((1 - transmittance).reshape(1, height, width))
        all_radii.append(radii)
    return Rendering(torch.stack(images), torch.stack(alphas), torch.stack(depths), torch.stack(all_radii))


def rotation_matrices(rotations: Tensor) -> Tensor:
    """Rotation matrices [N,3,3] of unit quaternions [N,4] (w, x, y, z)."""
    w, x, y, z = rotations.unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _project(means, scales, rotations, camera, intrinsics, width, height, offset) -> tuple[Tensor, Tensor, Tensor]:
    """Centres [N,2] (px, pixel centres at whole numbers), 2D covariances [N,3] (xx, xy, yy) and view z [N]."""
    fx, fy, cx, cy = intrinsics.unbind()
    x, y, z = (means @ camera[:3, :3].T + camera[:3, 3]).unbind(-1)
    # Behind the near plane nothing is shown; a harmless depth there keeps infinities out of the gradients.
    z_safe = torch.where(z > NEAR, z, 1.0)
    centers = torch.stack([fx * x / z_safe + cx, fy * y / z_safe + cy], -1) - 0.5
    if offset is not None:
        centers = centers + offset * offset.new_tensor([width / 2, height / 2])

    def limited(coordinate, focal, center, size):
        margin = VIEW_MARGIN * size / (2 * focal)
        slope = (coordinate / z_safe).detach()
        limit = slope.clamp(-center / focal - margin, (size - center) / focal + margin)
        return torch.where(slope == limit, coordinate, (limit * z_safe).detach())

    x_limited, y_limited = limited(x, fx, cx, width), limited(y, fy, cy, height)
    zero = torch.zeros_like(z_safe)
    jacobian = torch.stack(
        [
            torch.stack([fx / z_safe, zero, -fx * x_limited / z_safe**2], -1),
            torch.stack([zero, fy / z_safe, -fy * y_limited / z_safe**2], -1),
        ],
        -2,
    )
    axes = jacobian @ camera[:3, :3] @ (rotation_matrices(rotations) * scales[:, None, :])  # [N,2,3]
    xx, xy, yy = (axes[:, 0] ** 2).sum(-1), (axes[:, 0] * axes[:, 1]).sum(-1), (axes[:, 1] ** 2).sum(-1)
    return centers, torch.stack([xx + LOW_PASS, xy, yy + LOW_PASS], -1), z


def _bounds(centers, covariances, depth, width, height) -> tuple[Tensor, Tensor, Tensor]:
    """Radii [N] int32 (0: culled), tiles [N,4] of the bounding squares, and inverse covariances [N,3]."""
    xx, xy, yy = covariances.unbind(-1)
    determinant = xx * yy - xy * xy
    conics = torch.stack([yy, -xy, xx], -1) / determinant[:, None]
    with torch.no_grad():
        middle = 0.5 * (xx + yy)
        longest = middle + (middle * middle - determinant).clamp_min(MIN_SPREAD).sqrt()
        radii = (3 * longest.sqrt()).ceil()[:, None]
        grid = torch.tensor([-(-width // TILE), -(-height // TILE)], device=centers.device)
        first = ((centers - radii) / TILE).trunc().nan_to_num(0).clamp(min=centers.new_zeros(2), max=grid)
        last = ((centers + radii + TILE - 1) / TILE).trunc().nan_to_num(0).clamp(min=centers.new_zeros(2), max=grid)
        shown = (depth > NEAR) & (determinant > 0) & conics.isfinite().all(-1) & (first < last).all(-1)
        radii = torch.where(shown, radii[:, 0], 0).clamp_max(2**30).to(torch.int32)
    return radii, torch.cat([first, last], -1), conics


def _blend(splats: Splats, width: int, height: int) -> Tensor:
    """Premultiplied colour, depth and what is left of the light behind: [H*W, 5]."""
    device = splats.centers.device
    rows, columns = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    pixels = torch.stack([columns, rows], -1).reshape(-1, 2)
    chunk = max(1, REFERENCE_CHUNK // max(1, len(splats.depths)))
    parts = [checkpoint(_blend_pixels, part, *splats, use_reentrant=False) for part in pixels.split(chunk)]
    return torch.cat(parts)


def _blend_pixels(pixels, centers, conics, depths, opacities, colors, tiles) -> Tensor:
    dx, dy = (centers[None] - pixels[:, None]).unbind(-1)  # [P,M]
    a, b, c = conics.unbind(-1)
    power = -0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy
    alpha = opacities * power.exp()
    alpha = alpha + (alpha.clamp_max(MAX_ALPHA) - alpha).detach()  # the cap passes the gradient
    tile = (pixels // TILE)[:, None]
    touched = ((tile >= tiles[:, :2]) & (tile < tiles[:, 2:])).all(-1)
    alpha = torch.where(touched & (power <= 0) & (alpha >= MIN_ALPHA), alpha, 0)
    after = (1 - alpha).cumprod(1)
    # Transmittance only falls, so everything behind the splat that finished the pixel is cut as well.
    alpha = torch.where(after < MIN_TRANSMITTANCE, 0, alpha)
    after = (1 - alpha).cumprod(1)
    before = torch.cat([after.new_ones(len(pixels), 1), after], 1)
    weights = alpha * before[:, :-1]
    return torch.cat([weights @ torch.cat([colors, depths[:, None]], 1), before[:, -1:]], 1)
