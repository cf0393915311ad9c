"""Fills the texels of a texture that no surface covers with the colours nearest by, so that filtering at seams finds no gap.

Plain PyTorch on every device, without waiting for the GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_SIDE = 1 << 14  # texels, of fill_holes: squared distances and what stands for "none" fit into 32 bits
PAIRS_PER_CHUNK = 1 << 27  # texel pairs of a row that the exact distance transform looks at at a time: 0.5 GB


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
