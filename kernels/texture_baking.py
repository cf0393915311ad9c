"""What baking a texture takes: colours scattered into its texels (`grid_put`), and the texels in between filled (`fill_holes`).

Plain PyTorch on every device, without waiting for the GPU. Texel (x, y) of a texture is centred at uv = ((x + 0.5) / W, (y + 0.5) / H),
as in `kernels.texture`, unless `align_corners` says otherwise.
"""

from __future__ import annotations

import torch
from torch import Tensor

METHODS = ("nearest", "linear", "mipmap")
MAX_SIDE = 1 << 14  # texels, of fill_holes: squared distances and what stands for "none" fit into 32 bits
PAIRS_PER_CHUNK = 1 << 27  # texel pairs of a row that the exact distance transform looks at at a time: 0.5 GB


def grid_put(
    uv: Tensor,
    values: Tensor,
    height: int,
    width: int,
    *,
    method: str = "mipmap",
    weights: Tensor | None = None,
    min_resolution: int = 256,
    align_corners: bool = False,
) -> tuple[Tensor, Tensor]:
    """Scatter N points into a texture: sums [height,width,C] of their values and counts [height,width,1] of their weights.

    The texture is `sums / counts` where the count is not 0. uv [N,2] = (s, t), 0..1 over the texture, points outside go to its border
    and those that are not finite nowhere; values [N,C]; weights [N] (None: 1).

    `method`: "nearest" gives a point to the texel that it lies in; "linear" shares it among the four texels around it, as bilinear
    interpolation would read them; "mipmap" does that and then, where the count is still exactly 0, takes sums and counts of the same at
    half the resolution, interpolated bilinearly, then a quarter, and so on while the shorter side is longer than `min_resolution`.

    With `align_corners` 0 and 1 are the centres of the outer texels, not the outer edges (but coarser levels are
    interpolated as areas all the same). Differentiable in values and weights. The
    same bits every time on the CPU, and on CUDA under `torch.use_deterministic_algorithms`.
    """
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    if height < 1 or width < 1:
        raise ValueError(f"texture of {height}x{width}: expected at least 1x1")
    if uv.dim() != 2 or uv.shape[1] != 2 or values.dim() != 2 or len(values) != len(uv):
        raise ValueError(f"uv, values: expected [N,2] and [N,C], got {list(uv.shape)} and {list(values.shape)}")
    if weights is not None and weights.shape != uv.shape[:1]:
        raise ValueError(f"weights: expected [{len(uv)}] like uv, got {list(weights.shape)}")
    weights = values.new_ones(len(values), 1) if weights is None else weights[:, None]
    placed = uv.isfinite().all(-1, keepdim=True)
    uv, points = torch.where(placed, uv, 0.0), torch.where(placed, torch.cat([weights * values, weights], 1), 0.0)
    if method == "nearest":
        sums = _put_nearest(uv, points, height, width, align_corners)
    else:
        sums = _put_linear(uv, points, height, width, align_corners)
    level_height, level_width = height // 2, width // 2
    while method == "mipmap" and min(level_height, level_width) > min_resolution:
        coarse = _put_linear(uv, points, level_height, level_width, align_corners)
        coarse = torch.nn.functional.interpolate(coarse.movedim(-1, 0)[None], (height, width), mode="bilinear", align_corners=False)
        sums = torch.where(sums[..., -1:] == 0, coarse[0].movedim(0, -1), sums)
        level_height, level_width = level_height // 2, level_width // 2
    return sums[..., :-1], sums[..., -1:]


def _places(uv: Tensor, height: int, width: int, align_corners: bool) -> tuple[Tensor, Tensor]:
    """Row and column of each point, whole numbers at texel centres, limited to the texture."""
    column, row = uv.clamp(0, 1).unbind(-1)
    if align_corners:
        return row * (height - 1), column * (width - 1)
    return (row * height - 0.5).clamp(0, height - 1), (column * width - 0.5).clamp(0, width - 1)


def _put_nearest(uv: Tensor, points: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    row, column = (place.round().long() for place in _places(uv, height, width, align_corners))
    return _scatter([(row * width + column, points.new_ones(()))], points, height, width)


def _put_linear(uv: Tensor, points: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    row, column = _places(uv, height, width, align_corners)
    top, left = row.floor(), column.floor()
    down, right = row - top, column - left
    top, left = top.long(), left.long()
    bottom, beside = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    shares = [
        (top * width + left, (1 - down) * (1 - right)),
        (top * width + beside, (1 - down) * right),
        (bottom * width + left, down * (1 - right)),
        (bottom * width + beside, down * right),
    ]
    return _scatter(shares, points, height, width)


def _scatter(shares: list[tuple[Tensor, Tensor]], points: Tensor, height: int, width: int) -> Tensor:
    """Sums [height,width,K] of points [N,K], each times its share at each of its texel numbers."""
    sums = []
    for channel in points.unbind(1):  # one at a time: index_add takes a third of the time on numbers that it takes on rows
        total = points.new_zeros(height * width)
        for index, share in shares:
            total = total.index_add(0, index, share * channel)
        sums.append(total)
    return torch.stack(sums, -1).reshape(height, width, -1)


def fill_holes(texture: Tensor, mask: Tensor, padding: float | None = None) -> Tensor:
    """texture [H,W,C] with the colour of the nearest filled texel in those that are not, so that no seam shows when it is sampled.

    mask [H,W] bool: the filled texels, which stay. `padding`: how far from a filled texel others are filled, in texels between
    centres; None fills all. Where several are nearest, any of them is taken. Differentiable. A texture without a filled texel comes
    back as it is. For many textures with one mask, call `nearest_filled` once.
    """
    if texture.dim() != 3 or texture.shape[:2] != mask.shape:
        raise ValueError(f"texture, mask: expected [H,W,C] and [H,W], got {list(texture.shape)} and {list(mask.shape)}")
    return texture.flatten(0, 1)[nearest_filled(mask, padding)]


def nearest_filled(mask: Tensor, padding: float | None = None) -> Tensor:
    """For every texel the number, row by row, of the nearest texel where mask [H,W] is True: int64 [H,W], Euclidean distance, exact.

    A texel farther than `padding` from all of them (None: no limit) keeps its own number.
    """
    if mask.dim() != 2 or mask.dtype != torch.bool:
        raise ValueError(f"mask: expected bool [H,W], got {mask.dtype} {list(mask.shape)}")
    if max(mask.shape) > MAX_SIDE:
        raise ValueError(f"mask: expected sides of up to {MAX_SIDE} texels, got {list(mask.shape)}")
    if padding is not None and not padding >= 0:
        raise ValueError(f"padding: expected 0 or more, or None for no limit, got {padding}")
    nearest, squared = _nearest_by_scipy(mask) if mask.device.type == "cpu" else _nearest_by_parts(mask, padding)
    itself = torch.arange(mask.numel(), device=mask.device).reshape(mask.shape)
    reach = float("inf") if padding is None else padding * padding
    return torch.where((squared <= reach) & (squared < _NONE), nearest, itself)


_NONE = 1 << 30  # a squared distance that stands for: no filled texel


def _nearest_by_scipy(mask: Tensor) -> tuple[Tensor, Tensor]:
    from scipy.ndimage import distance_transform_edt

    if mask.numel() == 0 or not mask.any():
        return torch.zeros_like(mask, dtype=torch.int64), torch.full(mask.shape, _NONE)
    rows, columns = torch.from_numpy(distance_transform_edt(~mask.numpy(), return_distances=False, return_indices=True)).long()
    own_rows, own_columns = torch.meshgrid(*(torch.arange(side) for side in mask.shape), indexing="ij")
    return rows * mask.shape[1] + columns, (rows - own_rows) ** 2 + (columns - own_columns) ** 2


def _nearest_by_parts(mask: Tensor, padding: float | None) -> tuple[Tensor, Tensor]:
    """Nearest filled texel and squared distance [H,W], axis by axis, as Saito and Toriwaki (1994) take the distance transform apart.

    Down a column the nearest is the last one above or the first one below. Along a row each texel then takes the best of its
    neighbours' finds, each farther away by the neighbour's distance; with a padding, no neighbour beyond it need be asked.
    """
    height, width = mask.shape
    row = torch.arange(height, device=mask.device, dtype=torch.int32)[:, None]
    far = 1 << 15
    above = torch.where(mask, row, -far).cummax(0).values
    below = torch.where(mask, row, height + far).flip(0).cummin(0).values.flip(0)
    source = torch.where(row - above <= below - row, above, below)
    down = (source - row).square().clamp(max=_NONE)
    reach = width if padding is None else min(width, int(padding))
    squared, column = torch.empty_like(down), torch.empty_like(down, dtype=torch.int64)
    across = torch.arange(width, device=mask.device, dtype=torch.int32)
    if 2 * reach + 1 < width:
        # Windows of 2 reach + 1 neighbours, with nothing to find beyond the borders.
        offsets = torch.arange(-reach, reach + 1, device=mask.device, dtype=torch.int32).square()
        down = torch.nn.functional.pad(down, (reach, reach), value=_NONE).unfold(1, 2 * reach + 1, 1)
    else:
        offsets = (across - across[:, None]).square()
        down = down[:, None, :]
    rows_at_once = max(1, PAIRS_PER_CHUNK // (width * offsets.shape[-1]))
    for start in range(0, height, rows_at_once):
        some = slice(start, start + rows_at_once)
        squared[some], column[some] = (down[some] + offsets).min(-1)
    if offsets.dim() == 1:
        column += across - reach
    row = source.gather(1, column.clamp(0, width - 1))
    return row.long().clamp(0, height - 1) * width + column.clamp(0, width - 1), squared
