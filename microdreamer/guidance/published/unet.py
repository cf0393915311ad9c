"""The U-Net of Stable Diffusion and of Zero123: noise in the latents of single pictures, told by tokens what they show.

Rombach et al. 2022, High-Resolution Image Synthesis with Latent Diffusion Models (arXiv 2112.10752), section 3.3. Modules are named as
in the published folders, which load without conversion.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from microdreamer.guidance.published.layers import Attention, FeedForward, Upsample, downsampling, timestep_embedding

WITH_ATTENTION = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")
WITHOUT_ATTENTION = ("DownBlock2D", "UpBlock2D")
ONLY = {  # of config.json; see `settings_from`
    "act_fn": "silu",
    "addition_embed_type": None,
    "attention_type": "default",
    "center_input_sample": False,
    "class_embed_type": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim_type": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "time_embedding_act_fn": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "transformer_layers_per_block": 1,
}


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """The fields of unet/config.json that describe the network. `attention_head_dim` counts heads, whatever its name says.

    Raises ValueError for levels that do not fit together.
    """

    in_channels: int = 4
    out_channels: int = 4
    sample_size: int = 64
    block_out_channels: Sequence[int] = (320, 640, 1280, 1280)
    down_block_types: Sequence[str] = (*WITH_ATTENTION[:1] * 3, "DownBlock2D")
    up_block_types: Sequence[str] = ("UpBlock2D", *WITH_ATTENTION[1:] * 3)
    layers_per_block: int = 2
    attention_head_dim: int | Sequence[int] = 8
    cross_attention_dim: int = 1280
    use_linear_projection: bool = False
    norm_num_groups: int = 32
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        levels = len(self.block_out_channels)
        if not len(self.down_block_types) == len(self.up_block_types) == len(self.heads) == levels:
            raise ValueError(
                f"block_out_channels, down_block_types, up_block_types and attention_head_dim: expected {levels} levels of each"
            )
        for name in (*self.down_block_types, *self.up_block_types):
            if name not in WITH_ATTENTION + WITHOUT_ATTENTION:
                raise ValueError(f"{name}: not supported, expected one of {', '.join(WITH_ATTENTION + WITHOUT_ATTENTION)}")
        for width, heads in zip(self.block_out_channels, self.heads, strict=True):
            if heads < 1 or width % heads:
                raise ValueError(f"attention_head_dim={heads}: expected a divisor of {width}, the width of its level")

    @property
    def heads(self) -> list[int]:
        """Attention heads of each level."""
        heads = self.attention_head_dim
        return [heads] * len(self.block_out_channels) if isinstance(heads, int) else list(heads)


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice, with a skip connection; `embedding`: width of the time embedding added between them, if any."""

    def __init__(self, width_in: int, width_out: int, groups: int, eps: float, embedding: int | None = None):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width_in, eps=eps)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.time_emb_proj = None if embedding is None else nn.Linear(embedding, width_out)
        self.norm2 = nn.GroupNorm(groups, width_out, eps=eps)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1)
        self.conv_shortcut = None if width_in == width_out else nn.Conv2d(width_in, width_out, 1)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        if self.time_emb_proj is not None:
            hidden = hidden + self.time_emb_proj(F.silu(embedding))[:, :, None, None]
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + hidden


class TransformerBlock(nn.Module):
    """Attention of the pixels to each other, attention to the told tokens, feed-forward."""

    def __init__(self, width: int, heads: int, context: int):
        super().__init__()
        self.norm1, self.attn1 = nn.LayerNorm(width), Attention(width, width, heads)
        self.norm2, self.attn2 = nn.LayerNorm(width), Attention(width, context, heads)
        self.norm3, self.ff = nn.LayerNorm(width), FeedForward(width)

    def forward(self, tokens: Tensor, told: Tensor) -> Tensor:
        """tokens [N,P,C] of pictures that are told [N,L,context]."""
        tokens = tokens + self.attn1(self.norm1(tokens))
        tokens = tokens + attend_to_told(self.attn2, self.norm2, tokens, told)
        return tokens + self.ff(self.norm3(tokens))


def attend_to_told(attention: Attention, norm: nn.LayerNorm, tokens: Tensor, told: Tensor) -> Tensor:
    """Attention of normed tokens [N,P,C] to [N,L,context]; a single token has the weight 1 whatever asks, and is given as [N,1,C]."""
    if told.shape[1] == 1:
        return attention.to_out(attention.to_v(told))
    return attention(norm(tokens), attention.project(told, None))


class Transformer(nn.Module):
    """A transformer block over the pixels of a picture, between two projections: linear layers or 1x1 convolutions."""

    def __init__(self, width: int, heads: int, config: UNetConfig):
        super().__init__()
        self.norm = nn.GroupNorm(config.norm_num_groups, width, eps=1e-6)
        self.linear = config.use_linear_projection
        self.proj_in = nn.Linear(width, width) if self.linear else nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, heads, config.cross_attention_dim)])
        self.proj_out = nn.Linear(width, width) if self.linear else nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        hidden = self.norm(x)
        tokens = self.proj_in(_as_tokens(hidden)) if self.linear else _as_tokens(self.proj_in(hidden))
        for block in self.transformer_blocks:
            tokens = block(tokens, told)
        hidden = _as_picture(self.proj_out(tokens), x) if self.linear else self.proj_out(_as_picture(tokens, x))
        return hidden + x


def _as_tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def _as_picture(tokens: Tensor, like: Tensor) -> Tensor:
    return tokens.transpose(1, 2).reshape(like.shape).contiguous()


class Level(nn.Module):
    """What happens at one size of the picture: residual blocks, each with a transformer after it where there are `attentions`."""

    def __init__(self, resnets: Sequence[ResidualBlock], attentions: Sequence[Transformer] = ()):
        super().__init__()
        if attentions:
            self.attentions = nn.ModuleList(attentions)
        self.resnets = nn.ModuleList(resnets)

    def step(self, index: int, x: Tensor, embedding: Tensor, told: Tensor) -> Tensor:
        """Residual block `index` and the transformer after it, if any."""
        x = self.resnets[index](x, embedding)
        attentions = getattr(self, "attentions", ())
        return attentions[index](x, told) if index < len(attentions) else x


class UNet(nn.Module):
    """Predicts noise; its parts are made in the order of the published files, by which random weights are drawn.

    forward: x [N,in,h,w] at levels t [N], told [N,L,cross_attention_dim]: [N,out,h,w].
    """

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        base, embedding = config.block_out_channels[0], 4 * config.block_out_channels[0]
        last, count = len(config.block_out_channels) - 1, config.layers_per_block

        def block(width_in: int, width_out: int) -> ResidualBlock:
            return ResidualBlock(width_in, width_out, config.norm_num_groups, config.norm_eps, embedding)

        def transformers(kind: str, width: int, heads: int, count: int) -> list[Transformer]:
            return [Transformer(width, heads, config) for _ in range(count if kind in WITH_ATTENTION else 0)]

        self.conv_in = nn.Conv2d(config.in_channels, base, 3, padding=1)
        self.time_embedding = TimeEmbedding(base, embedding)
        width, skips = base, [base]
        self.down_blocks = nn.ModuleList()
        for index, (kind, wider, heads) in enumerate(zip(config.down_block_types, config.block_out_channels, config.heads, strict=True)):
            blocks = [block(width if first == 0 else wider, wider) for first in range(count)]
            level, width = Level(blocks, transformers(kind, wider, heads, count)), wider
            skips += [width] * count
            if index < last:
                level.downsamplers = nn.ModuleList([downsampling(width, "conv")])
                skips.append(width)
            self.down_blocks.append(level)
        deepest = width
        self.up_blocks = nn.ModuleList()
        widths, all_heads = list(config.block_out_channels)[::-1], config.heads[::-1]
        for index, (kind, narrower, heads) in enumerate(zip(config.up_block_types, widths, all_heads, strict=True)):
            blocks = []
            for _ in range(count + 1):
                blocks.append(block(width + skips.pop(), narrower))
                width = narrower
            level = Level(blocks, transformers(kind, width, heads, count + 1))
            if index < last:
                level.upsamplers = nn.ModuleList([Upsample(width)])
            self.up_blocks.append(level)
        self.mid_block = Level([block(deepest, deepest) for _ in range(2)], [Transformer(deepest, config.heads[-1], config)])
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, base, eps=config.norm_eps)
        self.conv_act = nn.SiLU()
        self.conv_out = nn.Conv2d(base, config.out_channels, 3, padding=1)

    @property
    def blocks(self) -> list[TransformerBlock]:
        """Transformer blocks in the order in which they run."""
        parts = self.down_blocks, self.mid_block, self.up_blocks
        return [module for part in parts for module in part.modules() if isinstance(module, TransformerBlock)]

    def forward(self, x: Tensor, t: Tensor, told: Tensor) -> Tensor:
        return self.with_features(x, t, told)[0]

    def with_features(self, x: Tensor, t: Tensor, told: Tensor, features: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The noise, and what the levels below the first hand to the last: `features` of an earlier call stand in for their evaluation."""
        embedding = self.time_embedding(timestep_embedding(t, self.config.block_out_channels[0]).to(x.dtype))
        x = self.conv_in(x)
        stack = [x]
        first, *lower = self.down_blocks
        x = self._down(first, x, stack, embedding, told)
        if features is None:
            features = self._below(x, list(stack), lower, embedding, told)
        x = self._up(self.up_blocks[-1], features, stack, embedding, told)
        return self.conv_out(self.conv_act(self.conv_norm_out(x))), features

    def _below(self, x: Tensor, stack: list[Tensor], levels: Sequence[Level], embedding: Tensor, told: Tensor) -> Tensor:
        """All but the first level on the way down and the last on the way up, in that level's size."""
        x = self._downsample(self.down_blocks[0], x, stack)
        for level in levels:
            x = self._downsample(level, self._down(level, x, stack, embedding, told), stack)
        for index in range(len(self.mid_block.resnets)):
            x = self.mid_block.step(index, x, embedding, told)
        for level in list(self.up_blocks)[:-1]:
            x = self._up(level, x, stack, embedding, told)
        return x

    @staticmethod
    def _down(level: Level, x: Tensor, stack: list[Tensor], embedding: Tensor, told: Tensor) -> Tensor:
        for index in range(len(level.resnets)):
            x = level.step(index, x, embedding, told)
            stack.append(x)
        return x

    @staticmethod
    def _downsample(level: Level, x: Tensor, stack: list[Tensor]) -> Tensor:
        for downsample in getattr(level, "downsamplers", ()):
            x = downsample(x)
            stack.append(x)
        return x

    @staticmethod
    def _up(level: Level, x: Tensor, stack: list[Tensor], embedding: Tensor, told: Tensor) -> Tensor:
        for index in range(len(level.resnets)):
            x = level.step(index, torch.cat([x, stack.pop()], dim=1), embedding, told)
        for upsample in getattr(level, "upsamplers", ()):
            x = upsample(x)
        return x


class TimeEmbedding(nn.Module):
    def __init__(self, width_in: int, width_out: int):
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(width_in, width_out), nn.Linear(width_out, width_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))
