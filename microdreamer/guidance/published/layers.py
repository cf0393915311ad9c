"""Layers that the published U-Nets and the autoencoder share; modules are named as in the published files."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """[cos(t w_i), sin(t w_i)] with w_i = 10000^(-2i / width): [N] -> [N,width] in float32."""
    frequencies = torch.exp(-math.log(10000) * torch.arange(width // 2, dtype=torch.float32, device=t.device) / (width // 2))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def downsampling(width: int, name: str) -> nn.Sequential:
    """A convolution [N,C,H,W] -> [N,C,H/2,W/2], under the `name` that the published files have for it."""
    return nn.Sequential(OrderedDict([(name, nn.Conv2d(width, width, 3, stride=2, padding=1))]))


class Upsample(nn.Module):
    """Each pixel four times, and a convolution: [N,C,H,W] -> [N,C,2H,2W]."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class KeysValues(NamedTuple):
    """What one transformer block attends to besides the views: projected text and, for ImageDream, projected image tokens.

    Each tensor is [R,heads,tokens,width]; row r serves N / R consecutive latents of a batch of N.
    """

    keys: Tensor
    values: Tensor
    image_keys: Tensor | None
    image_values: Tensor | None


class Attention(nn.Module):
    """Multi-head attention; `image_tokens` adds a second set of keys and values for an image prompt."""

    def __init__(self, width: int, context: int, heads: int, image_tokens: bool = False, image_weight: float = 1.0):
        super().__init__()
        self.heads, self.image_weight = heads, image_weight
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))
        if image_tokens:
            self.to_k_ip = nn.Linear(context, width, bias=False)
            self.to_v_ip = nn.Linear(context, width, bias=False)

    def split(self, tokens: Tensor) -> Tensor:
        """[B,T,C] -> [B,heads,T,C / heads]."""
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def project(self, text: Tensor, image: Tensor | None) -> KeysValues:
        """Keys and values of text tokens [R,L,C] and image tokens [R,I,C]."""
        pair = self.split(self.to_k(text)), self.split(self.to_v(text))
        if image is None:
            return KeysValues(*pair, None, None)
        return KeysValues(*pair, self.split(self.to_k_ip(image)), self.split(self.to_v_ip(image)))

    def forward(self, tokens: Tensor, to: KeysValues | None = None) -> Tensor:
        """Attention of `tokens` [B,T,C] to themselves, or to projected tokens."""
        queries = self.split(self.to_q(tokens))
        to = to or KeysValues(self.split(self.to_k(tokens)), self.split(self.to_v(tokens)), None, None)
        mixed = F.scaled_dot_product_attention(queries, to.keys, to.values)
        if to.image_keys is not None:
            mixed = mixed + self.image_weight * F.scaled_dot_product_attention(queries, to.image_keys, to.image_values)
        return self.to_out(mixed.transpose(1, 2).flatten(2))


class GatedLinear(nn.Module):
    """GEGLU (Shazeer 2020): value times the GELU of the gate, both from one projection."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Sequential(GatedLinear(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)
