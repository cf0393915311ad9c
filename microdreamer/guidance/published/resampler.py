"""ImageDream's resampler: a few learned queries gather what matters from all tokens of a CLIP image encoder.

The perceiver of Alayrac et al. 2022, Flamingo (arXiv 2204.14198), section 3.1.1, as IP-Adapter uses it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DEPTH, HEADS, HEAD_WIDTH, EXPANSION = 4, 12, 64, 4  # fixed in the published network
IMAGE_WIDTH = 1280  # of CLIP ViT-H/14


class QueryAttention(nn.Module):
    """Attention of the queries to the image tokens and themselves."""

    def __init__(self, width: int):
        super().__init__()
        inner = HEADS * HEAD_WIDTH
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, tokens: Tensor, queries: Tensor) -> Tensor:
        tokens, queries = self.norm1(tokens), self.norm2(queries)
        pair = self.to_kv(torch.cat([tokens, queries], dim=1)).chunk(2, dim=-1)
        q, k, v = (part.unflatten(-1, (HEADS, HEAD_WIDTH)).transpose(1, 2) for part in (self.to_q(queries), *pair))
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Resampler(nn.Module):
    """CLIP tokens [R,I,1280] -> [R,count,width]; any number of tokens will do."""

    def __init__(self, width: int, count: int):
        super().__init__()
        self.latents = nn.Parameter(nn.init.normal_(torch.empty(1, count, width), std=width**-0.5))
        self.proj_in = nn.Linear(IMAGE_WIDTH, width)
        self.proj_out = nn.Linear(width, width)
        self.norm_out = nn.LayerNorm(width)

        def feed_forward() -> nn.Sequential:
            inner = EXPANSION * width
            return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner, bias=False), nn.GELU(), nn.Linear(inner, width, bias=False))

        self.layers = nn.ModuleList(nn.ModuleList([QueryAttention(width), feed_forward()]) for _ in range(DEPTH))

    def forward(self, tokens: Tensor) -> Tensor:
        queries = self.latents.expand(len(tokens), -1, -1)
        tokens = self.proj_in(tokens)
        for attention, feed_forward in self.layers:
            queries = queries + attention(tokens, queries)
            queries = queries + feed_forward(queries)
        return self.norm_out(self.proj_out(queries))
