"""What happens to a photograph before it reaches the prior: bad cut-outs, blur, noise, compression.

Only the reference picture is degraded; the views that the network has to answer with stay clean. A photograph's tint is no fault:
the answer has to have it too. All operations are tensor
operations without host synchronisation, with one draw per sample, so that they can run inside a CUDA graph.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 8  # JPEG's block
# Luminance quantisation of the JPEG standard (ITU-T T.81, table K.1), for quality 50.
QUANTISATION = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
BLUR_REACH = 4  # pixels


def _spread(value: Tensor) -> Tensor:
    return value[:, None, None, None]


def _some(count: int, share: float, device: torch.device) -> Tensor:
    return _spread((torch.rand(count, device=device) < share).float())


def blur(picture: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of pictures [B,C,H,W] by sigma [B] pixels; the border repeats."""
    offsets = torch.arange(-BLUR_REACH, BLUR_REACH + 1, device=picture.device)
    weights = torch.exp(-0.5 * (offsets / sigma.clamp_min(1e-3)[:, None]) ** 2)
    weights = weights / weights.sum(dim=1, keepdim=True)
    height, width = picture.shape[-2:]
    padded = F.pad(picture, (0, 0, BLUR_REACH, BLUR_REACH), mode="replicate")
    picture = sum(_spread(weights[:, k]) * padded[:, :, k : k + height] for k in range(len(offsets)))
    padded = F.pad(picture, (BLUR_REACH, BLUR_REACH, 0, 0), mode="replicate")
    return sum(_spread(weights[:, k]) * padded[:, :, :, k : k + width] for k in range(len(offsets)))


@functools.cache
def _jpeg(device: torch.device) -> tuple[Tensor, Tensor]:
    """The orthonormal DCT-II matrix of 8 samples (rows are frequencies) and QUANTISATION.

    Kept from the first call on: a copy from the host cannot be part of a CUDA graph.
    """
    k = torch.arange(BLOCK, dtype=torch.float32)
    matrix = torch.cos((2 * k[None] + 1) * k[:, None] * (math.pi / (2 * BLOCK))) * math.sqrt(2 / BLOCK)
    matrix[0] *= math.sqrt(0.5)
    return matrix.to(device), torch.tensor(QUANTISATION, dtype=torch.float32).to(device)


def compress(picture: Tensor, quality: Tensor) -> Tensor:
    """Rounded as a JPEG of `quality` [B] (1 to 100) would, every channel like luminance; pictures [B,3,H,W] in [0,1].

    H and W are multiples of 8. The table is scaled as libjpeg does: 5000 / q below 50, 200 - 2 q above.
    """
    batch, channels, height, width = picture.shape
    scale = torch.where(quality < 50, 5000 / quality.clamp_min(1), 200 - 2 * quality) / 100
    cosines, table = _jpeg(picture.device)
    step = (table * scale[:, None, None]).round().clamp_min(1)[:, None, None, None]
    blocks = picture.unflatten(2, (height // BLOCK, BLOCK)).unflatten(4, (width // BLOCK, BLOCK)).transpose(3, 4)
    spectrum = cosines @ (blocks * 255 - 128) @ cosines.mT
    spectrum = (spectrum / step).round() * step
    result = (cosines.mT @ spectrum @ cosines + 128) / 255
    return result.transpose(3, 4).reshape(batch, channels, height, width).clamp(0, 1)


def bad_cut_out(picture: Tensor, coverage: Tensor) -> Tensor:
    """Pictures [B,3,H,W] in [0,1] on white with coverage [B,1,H,W] as a cut-out with a fringe, holes or a lost border leaves them."""
    count, device = len(picture), picture.device
    height, width = picture.shape[-2:]
    y = torch.linspace(-1, 1, height, device=device)[None, None, :, None]
    x = torch.linspace(-1, 1, width, device=device)[None, None, None, :]

    wide = F.max_pool2d(coverage, 3, stride=1, padding=1)
    behind = torch.rand(count, 3, 1, 1, device=device)  # the background's colour, left around the object
    fringe = (wide - coverage).clamp_min(0) * _some(count, 0.4, device) * _spread(0.3 + 0.7 * torch.rand(count, device=device))
    picture = picture + fringe * (behind - 1)

    keep = torch.ones_like(coverage)
    for share in (0.3, 0.15):
        centre_x, centre_y = (_spread(1.2 * torch.rand(count, device=device) - 0.6) for _ in range(2))
        radius_x, radius_y = (_spread(0.04 + 0.12 * torch.rand(count, device=device)) for _ in range(2))
        inside = ((x - centre_x) / radius_x) ** 2 + ((y - centre_y) / radius_y) ** 2 < 1
        keep = keep * (1 - inside * _some(count, share, device))
    # The photograph's border cut off a strip at one side.
    side = torch.randint(0, 4, (count,), device=device)
    along = torch.where(_spread(side < 2), x.expand_as(coverage), y.expand_as(coverage)) * _spread((side % 2) * 2 - 1)
    edge = _spread(0.6 + 0.3 * torch.rand(count, device=device))
    keep = keep * (1 - (along > edge).float() * _some(count, 0.2, device))
    return 1 - keep * (1 - picture)


@torch.no_grad()
def degrade(picture: Tensor, coverage: Tensor) -> Tensor:
    """Random degradations of pictures [B,3,H,W] in [0,1] on white, whose objects cover `coverage` [B,1,H,W] in [0,1]."""
    count, device = len(picture), picture.device
    picture = bad_cut_out(picture, coverage)
    picture = blur(picture, torch.rand(count, device=device) * 1.4 * _some(count, 0.6, device)[:, 0, 0, 0])
    noise = torch.randn_like(picture) * _spread(0.05 * torch.rand(count, device=device)) * _some(count, 0.4, device)
    picture = (picture + noise * coverage).clamp(0, 1)
    compressed = compress(picture, 25 + 70 * torch.rand(count, device=device))
    return torch.where(_some(count, 0.6, device) > 0, compressed, picture)
