"""Triplane-Transformer: learnt tokens of three planes look at the sentence and at each other, layer by layer.

The decoder of Hong et al., "LRM: Large Reconstruction Model for Single Image to 3D" (2023), reading text in place of a picture, as
ScaleDreamer (Ma et al., 2024) has it. The positions' embeddings are its only input but the text; there is no adaptive norm.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from microdreamer.fields.perceptron import Perceptron, undrawn
from microdreamer.generators.base import TEXT_SHAPES, GeneratorSpec, Head, ShapeGenerator
from microdreamer.kernels.grid_sampling import sample_grids

NORM_SMALL = 1e-6
PLANE_AXES = ((0, 1), (0, 2), (2, 1))  # which coordinates run along width and height of each plane


@dataclasses.dataclass(frozen=True)
class TriplaneTransformerSpec(GeneratorSpec):
    """The make of a Triplane-Transformer; the defaults are the published one's. Raises ValueError for a value out of range.

    `text`: local, the tokens look at those of the sentence (all of them: embeddings are taken as they come, padding included); global,
    the sentence is one more token.
    """

    text: str = "local"
    color_activation: str = "sigmoid_mipnerf"
    width: int = 768  # of tokens
    token_side: int = 32  # tokens along a plane's edge; twice as many texels
    layers: int = 12
    attention_heads: int = 16
    mlp_ratio: int = 4
    plane_channels: int = 32
    hidden: int = 64  # width of the heads' two hidden layers

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text not in TEXT_SHAPES:
            raise ValueError(f"text={self.text!r}: expected one of {', '.join(TEXT_SHAPES)}")
        if self.width % self.attention_heads:
            raise ValueError(f"width={self.width}: expected a multiple of attention_heads={self.attention_heads}")


class Attention(nn.Module):
    """Tokens x [B,T,width] look at tokens [B,S,context_width]."""

    def __init__(self, width: int, context_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = undrawn(nn.Linear, width, width, bias=False)
        self.to_k = undrawn(nn.Linear, context_width, width, bias=False)
        self.to_v = undrawn(nn.Linear, context_width, width, bias=False)
        self.to_out = nn.ModuleList([undrawn(nn.Linear, width, width)])

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        projected = self.to_q(x), self.to_k(context), self.to_v(context)
        q, k, v = (tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2) for tokens in projected)
        return self.to_out[0](scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class LocalLayer(nn.Module):
    """The tokens look at those of the text, then at each other, then each at itself."""

    def __init__(self, spec: TriplaneTransformerSpec) -> None:
        super().__init__()
        inner = spec.mlp_ratio * spec.width
        self.norm1 = nn.LayerNorm(spec.width, eps=NORM_SMALL)
        self.cross_attn = Attention(spec.width, spec.text_width, spec.attention_heads)
        self.norm2 = nn.LayerNorm(spec.width, eps=NORM_SMALL)
        self.self_attn = Attention(spec.width, spec.width, spec.attention_heads)
        self.norm3 = nn.LayerNorm(spec.width, eps=NORM_SMALL)
        # The identity, a dropout of nothing, keeps the published names of what follows.
        self.mlp = nn.Sequential(undrawn(nn.Linear, spec.width, inner), nn.GELU(), nn.Identity(), undrawn(nn.Linear, inner, spec.width))

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        x = x + self.cross_attn(self.norm1(x), text)
        normed = self.norm2(x)
        x = x + self.self_attn(normed, normed)
        return x + self.mlp(self.norm3(x))


class GlobalLayer(nn.Module):
    """The text's token [B,1,width] stands before the others while they look at each other, and leaves again."""

    def __init__(self, spec: TriplaneTransformerSpec) -> None:
        super().__init__()
        inner = spec.mlp_ratio * spec.width
        self.norm2 = nn.LayerNorm(spec.width, eps=NORM_SMALL)
        self.self_attn = Attention(spec.width, spec.width, spec.attention_heads)
        self.norm3 = nn.LayerNorm(spec.width, eps=NORM_SMALL)
        # Published networks have a nonlinearity before the first layer too.
        self.mlp = nn.Sequential(nn.GELU(), undrawn(nn.Linear, spec.width, inner), nn.GELU(), undrawn(nn.Linear, inner, spec.width))

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        x = torch.cat([text, x], dim=1)
        normed = self.norm2(x)
        x = x + self.self_attn(normed, normed)
        return (x + self.mlp(self.norm3(x)))[:, 1:]


class SpaceGenerator(nn.Module):
    """Text [B,T,text_width], or [B,text_width], -> planes [B,3,plane_channels,2 token_side,2 token_side]."""

    def __init__(self, spec: TriplaneTransformerSpec, generator: torch.Generator | None) -> None:
        super().__init__()
        self.side = spec.token_side
        self.pos_embed = nn.Parameter(torch.empty(1, 3 * spec.token_side**2, spec.width))
        is_local = spec.text == "local"
        self.proj = None if is_local else undrawn(nn.Linear, spec.text_width, spec.width)
        self.layers = nn.ModuleList((LocalLayer if is_local else GlobalLayer)(spec) for _ in range(spec.layers))
        self.norm = nn.LayerNorm(spec.width, eps=NORM_SMALL)
        self.deconv = undrawn(nn.ConvTranspose2d, spec.width, spec.plane_channels, kernel_size=2, stride=2, bias=False)
        self._draw(generator)

    @torch.no_grad()
    def _draw(self, generator: torch.Generator | None) -> None:
        """Initial values: positions normal with deviation 1/sqrt(width); layers as PyTorch has them, even in +-1/sqrt(inputs)."""
        self.pos_embed.normal_(std=1 / math.sqrt(self.pos_embed.shape[-1]), generator=generator)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.ConvTranspose2d):
                bound = 1 / math.sqrt(module.weight[0].numel())
                for parameter in module.parameters():
                    parameter.uniform_(-bound, bound, generator=generator)

    def tokens(self, text: Tensor, layers: int | None = None) -> Tensor:
        """[B,3 token_side^2,width] after the first `layers`, of all without."""
        if self.proj is not None:
            text = self.proj(text)[:, None]
        x = self.pos_embed.expand(len(text), -1, -1)
        for layer in self.layers[:layers]:
            x = layer(x, text)
        return x

    def forward(self, text: Tensor) -> Tensor:
        x = self.norm(self.tokens(text))
        x = x.reshape(-1, self.side, self.side, x.shape[-1]).permute(0, 3, 1, 2)
        return self.deconv(x).unflatten(0, (-1, 3))


class TriplaneTransformer(ShapeGenerator[Tensor]):
    """The generator of `spec`; its caches are planes [B,3,H,W,plane_channels]. Initial values are drawn from `generator` (on the CPU)."""

    spec: TriplaneTransformerSpec

    def __init__(self, spec: TriplaneTransformerSpec = TriplaneTransformerSpec(), generator: torch.Generator | None = None) -> None:
        super().__init__(spec)
        self.text = spec.text
        self.space_generator = SpaceGenerator(spec, generator)
        widths = (3 * spec.plane_channels, spec.hidden, spec.hidden)
        self.sdf_network = Perceptron((*widths, 1), generator)
        self.feature_network = Perceptron((*widths, 3), generator)

    def _condition(self, text: Tensor, draws: tuple[Tensor, ...]) -> Tensor:
        return self.space_generator(text).movedim(2, -1).contiguous()  # channels together, as points read them

    def encode(self, points: Tensor, cache: Tensor) -> Tensor:
        return sample_grids(points, cache, PLANE_AXES)

    def heads(self, cache: Tensor) -> tuple[Head, Head]:
        return self.sdf_network, self.feature_network
