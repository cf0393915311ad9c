"""U^2-Net-p: a small network that sees which object a picture shows, and where it ends.

Qin et al., "U^2-Net: Going Deeper with Nested U-Structure for Salient Object Detection", Pattern Recognition 2020
(arXiv 2005.09007): a U-shaped network whose every block is a U-shaped network itself; the small version of table 5, with 16 inner
channels. Normalisation is folded into the convolutions, so that it is for inference alone.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from microdreamer.core.paths import shipped_folder
from microdreamer.core.unfilled import assign, unfilled

WEIGHTS = shipped_folder("weights") / "u2netp" / "u2netp.safetensors"
SIDE = 320  # pixels; what it was trained at
CHANNELS, INNER = 64, 16
IMAGE_MEAN, IMAGE_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of RGB in [0,1]


def _convolution(inward: int, outward: int, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inward, outward, 3, padding=dilation, dilation=dilation), nn.ReLU(inplace=True))


def _stretched(small: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(small, like.shape[2:], mode="bilinear", align_corners=False)


class ResidualUBlock(nn.Module):
    """RSU-L of figure 2(e): a U of `depth` levels within [B,inward,H,W] -> [B,64,H,W], plus what it began with.

    With `dilated` no level shrinks; the reach doubles by dilation instead (RSU-4F).
    """

    def __init__(self, depth: int, inward: int, dilated: bool = False) -> None:
        super().__init__()
        self.dilated = dilated
        reach = [2**level if dilated else 1 for level in range(depth - 1)]
        self.first = _convolution(inward, CHANNELS)
        self.down = nn.ModuleList(_convolution(INNER if level else CHANNELS, INNER, reach[level]) for level in range(depth - 1))
        self.bottom = _convolution(INNER, INNER, 2 * reach[-1] if dilated else 2)
        self.up = nn.ModuleList(_convolution(2 * INNER, INNER if level else CHANNELS, reach[level]) for level in range(depth - 1))

    def forward(self, features: Tensor) -> Tensor:
        start = self.first(features)
        levels = [self.down[0](start)]
        for down in self.down[1:]:
            levels.append(down(levels[-1] if self.dilated else _halved(levels[-1])))
        inner = self.bottom(levels[-1])
        for level, up in reversed(list(zip(levels, self.up, strict=True))):
            inner = up(torch.cat([_stretched(inner, level), level], dim=1))
        return inner + start


def _halved(features: Tensor) -> Tensor:
    return F.max_pool2d(features, 2, stride=2, ceil_mode=True)


class U2Net(nn.Module):
    """Pictures [B,3,H,W], normalised, to the probability [B,1,H,W] that a pixel belongs to the salient object."""

    def __init__(self) -> None:
        super().__init__()
        blocks = ((7, False), (6, False), (5, False), (4, False), (4, True), (4, True))  # depth and whether dilated, from fine to coarse
        self.encoder = nn.ModuleList(
            ResidualUBlock(depth, CHANNELS if level else 3, dilated) for level, (depth, dilated) in enumerate(blocks)
        )
        self.decoder = nn.ModuleList(ResidualUBlock(depth, 2 * CHANNELS, dilated) for depth, dilated in blocks[:-1])
        self.side = nn.ModuleList(nn.Conv2d(CHANNELS, 1, 3, padding=1) for _ in blocks)
        self.fuse = nn.Conv2d(len(blocks), 1, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        levels = [self.encoder[0](pictures)]
        for encoder in self.encoder[1:]:
            levels.append(encoder(_halved(levels[-1])))
        maps = [levels[-1]]
        for level, decoder in reversed(list(zip(levels[:-1], self.decoder, strict=True))):
            maps.insert(0, decoder(torch.cat([_stretched(maps[0], level), level], dim=1)))
        sides = [side(features) for side, features in zip(self.side, maps, strict=True)]
        sides = [sides[0], *(_stretched(side, sides[0]) for side in sides[1:])]
        return torch.sigmoid(self.fuse(torch.cat(sides, dim=1)))


@functools.cache
def load_u2net() -> U2Net:
    """The network with the weights that ship, in float32. Raises ValueError where they are missing or damaged, in one line."""
    with unfilled():
        network = U2Net()
    try:
        assign(network, load_file(WEIGHTS), "cpu")
    except Exception as error:  # safetensors, the file system and PyTorch each have their own
        reason = " ".join(str(error).split()[:12])
        raise ValueError(f"{WEIGHTS}: the weights of the cut-out cannot be read ({reason}); restore the file, or choose grabcut") from error
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # a third faster on the CPU


def saliency_map(rgb: np.ndarray) -> np.ndarray:
    """Probability [320,320] (float32) that a pixel of the picture, uint8 RGB [H,W,3] scaled to a square, belongs to its object."""
    scaled = Image.fromarray(rgb).resize((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=3)
    small = torch.from_numpy(np.array(scaled, dtype=np.float32)).permute(2, 0, 1)[None]
    small /= small.amax().clamp_min(1)  # dark pictures are brightened, as in training
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_DEVIATION))
    with torch.inference_mode():
        return load_u2net()(((small - mean) / deviation).contiguous(memory_format=torch.channels_last))[0, 0].numpy()
