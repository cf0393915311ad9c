"""A 3D U-Net that predicts the clean grid, the noise, or the velocity of a noisy one.

Convolutions are nearly all of its time. At the first level a 64^3 grid has 262 144 voxels, so a 3x3x3 convolution of 32 to 32
channels costs 14.5 GFLOP a sample; `patch` = 2 folds blocks of 2^3 voxels into channels and works at half the resolution.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

PREDICTIONS = ("x0", "v", "eps")
GROUP = 8  # channels of a normalisation group
HEAD = 32  # channels of an attention head, at most


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """size: voxels a side; patch: side of the blocks that become channels; channels: of the first level, times `multipliers` a level
    (each level halves the side); blocks: residual blocks a level, on the way down and up; attention: at the coarsest level;
    predict: what the output means (`denoiser`), "x0", "v" or "eps"; timesteps: T, which scales the time embedding."""

    size: int = 64
    patch: int = 1
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 1
    attention: bool = False
    predict: str = "x0"
    timesteps: int = 1000

    def __post_init__(self) -> None:
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        if self.predict not in PREDICTIONS:
            raise ValueError(f"predict={self.predict}: expected one of {', '.join(PREDICTIONS)}")
        if self.patch < 1 or self.blocks < 1 or not self.multipliers or min(self.multipliers) < 1:
            raise ValueError("patch, blocks and multipliers: expected positive numbers, and at least one multiplier")
        if self.channels < GROUP or self.channels % GROUP:
            raise ValueError(f"channels={self.channels}: expected a multiple of {GROUP}")
        step = self.patch * 2 ** (len(self.multipliers) - 1)
        if self.size < step or self.size % step:
            raise ValueError(f"size={self.size}: expected a multiple of {step} (patch {self.patch}, {len(self.multipliers)} levels)")


def timestep_embedding(t: Tensor, timesteps: int, channels: int) -> Tensor:
    """Sines and cosines [B,channels] of t [B] on a scale of 1000 steps (Vaswani et al. 2017), so that T = 10 spreads as T = 1000 does."""
    half = channels // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device) / half)
    angles = t.float()[:, None] * (1000 / timesteps) * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class Norm(nn.GroupNorm):
    """Group normalisation in the type of its input. Autocast would run it in float32, at twice the memory, for nothing: its sums are
    float32 anyway."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels // GROUP, channels)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return functional.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class ResidualBlock(nn.Module):
    """norm, SiLU, convolution, plus the time embedding; norm, SiLU, convolution; added to the input."""

    def __init__(self, inside: int, outside: int, embedding: int) -> None:
        super().__init__()
        self.first_norm, self.first = Norm(inside), nn.Conv3d(inside, outside, 3, padding=1)
        self.time = nn.Linear(embedding, outside)
        self.second_norm, self.second = Norm(outside), nn.Conv3d(outside, outside, 3, padding=1)
        self.skip = nn.Conv3d(inside, outside, 1) if inside != outside else nn.Identity()
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.first(functional.silu(self.first_norm(x))) + self.time(embedding)[:, :, None, None, None]
        return self.skip(x) + self.second(functional.silu(self.second_norm(h)))


class Attention(nn.Module):
    """Self-attention over all voxels of a level, added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // HEAD)
        self.norm, self.inward, self.outward = Norm(channels), nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        nn.init.zeros_(self.outward.weight)
        nn.init.zeros_(self.outward.bias)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # [B,voxels,channels]
        q, k, v = self.inward(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.outward(mixed).transpose(1, 2).unflatten(2, x.shape[2:])


class Upsample(nn.Module):
    """Twice the side, by repetition and a convolution."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(inside, outside, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(functional.interpolate(x, scale_factor=2, mode="nearest"))


class VoxelUNet(nn.Module):
    """x [B,1,n,n,n] noisy grids in the scale of -1..1, t [B] int64 -> the prediction [B,1,n,n,n]."""

    def __init__(self, config: NetworkConfig, checkpointing: bool = False) -> None:
        super().__init__()
        self.config, self.checkpointing = config, checkpointing
        widths = [config.channels * m for m in config.multipliers]
        embedding = 4 * config.channels
        self.embed = nn.Sequential(nn.Linear(config.channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU())
        self.inward = nn.Conv3d(config.patch**3, widths[0], 3, padding=1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            self.down.append(nn.ModuleList(ResidualBlock(width, width, embedding) for _ in range(config.blocks)))
            if level + 1 < len(widths):
                self.shrink.append(nn.Conv3d(width, widths[level + 1], 3, stride=2, padding=1))
        self.middle = Attention(widths[-1]) if config.attention else nn.Identity()
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(widths))):
            width = widths[level]
            self.up.append(
                nn.ModuleList(ResidualBlock(2 * width if block == 0 else width, width, embedding) for block in range(config.blocks))
            )
            if level:
                self.grow.append(Upsample(width, widths[level - 1]))
        self.outward_norm, self.outward = Norm(widths[0]), nn.Conv3d(widths[0], config.patch**3, 3, padding=1)
        nn.init.zeros_(self.outward.weight)
        nn.init.zeros_(self.outward.bias)

    def _run(self, block: ResidualBlock, x: Tensor, embedding: Tensor) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            # Nothing random runs inside, so there is no random state to restore.
            return checkpoint(block, x, embedding, use_reentrant=False, preserve_rng_state=False)
        return block(x, embedding)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        config = self.config
        embedding = self.embed(timestep_embedding(t, config.timesteps, config.channels))
        h = self.inward(_fold(x, config.patch))
        skips = []
        for level, blocks in enumerate(self.down):
            for block in blocks:
                h = self._run(block, h, embedding)
            skips.append(h)
            if level < len(self.shrink):
                h = self.shrink[level](h)
        h = self.middle(h)
        for level, blocks in enumerate(self.up):
            h = torch.cat([h, skips.pop()], dim=1)
            for block in blocks:
                h = self._run(block, h, embedding)
            if level < len(self.grow):
                h = self.grow[level](h)
        return _unfold(self.outward(functional.silu(self.outward_norm(h))), config.patch)


def _fold(x: Tensor, patch: int) -> Tensor:
    """[B,1,n,n,n] -> [B,p^3,n/p,n/p,n/p]."""
    if patch == 1:
        return x
    batch, side = len(x), x.shape[-1] // patch
    return x.view(batch, side, patch, side, patch, side, patch).permute(0, 2, 4, 6, 1, 3, 5).reshape(batch, patch**3, side, side, side)


def _unfold(x: Tensor, patch: int) -> Tensor:
    """[B,p^3,m,m,m] -> [B,1,pm,pm,pm]."""
    if patch == 1:
        return x
    batch, side = len(x), x.shape[-1]
    blocks = x.reshape(batch, patch, patch, patch, side, side, side).permute(0, 4, 1, 5, 2, 6, 3)
    return blocks.reshape(batch, 1, patch * side, patch * side, patch * side)
