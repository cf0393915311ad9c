"""The autoencoder of Stable Diffusion: pictures to the mean and variance of latents an eighth as large a side, and back.

Rombach et al. 2022, High-Resolution Image Synthesis with Latent Diffusion Models (arXiv 2112.10752), section 3.1. Modules are named as in
the published folders, which load without conversion.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from microdreamer.guidance.published.multiview_unet import Upsample
from microdreamer.guidance.published.unet import ResidualBlock

EPS = 1e-6  # of every norm
ONLY = {  # of config.json; see `settings_from`
    "act_fn": "silu",
    "down_block_types": "DownEncoderBlock2D",
    "latents_mean": None,
    "latents_std": None,
    "mid_block_add_attention": True,
    "shift_factor": None,
    "up_block_types": "UpDecoderBlock2D",
    "use_post_quant_conv": True,
    "use_quant_conv": True,
}


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """The fields of vae/config.json that describe the network. Latents are multiplied by `scaling_factor` outside of it."""

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: Sequence[int] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215

    def norm(self, width: int) -> nn.GroupNorm:
        return nn.GroupNorm(self.norm_num_groups, width, eps=EPS)

    def blocks(self, width_in: int, width_out: int, count: int) -> nn.ModuleList:
        """Residual blocks one after the other, of which the first changes the width."""
        widths = [width_in] + [width_out] * (count - 1)
        return nn.ModuleList(ResidualBlock(width, width_out, self.norm_num_groups, EPS) for width in widths)


class PixelAttention(nn.Module):
    """Attention of all pixels to each other, in one head, with a skip connection."""

    def __init__(self, width: int, config: AutoencoderConfig):
        super().__init__()
        self.group_norm = config.norm(width)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)
        query, key, value = (layer(tokens)[:, None] for layer in (self.to_q, self.to_k, self.to_v))
        mixed = F.scaled_dot_product_attention(query, key, value)[:, 0]
        return self.to_out(mixed).transpose(1, 2).reshape(x.shape) + x


class Middle(nn.Module):
    """Two residual blocks with attention between them, where pictures are smallest."""

    def __init__(self, width: int, config: AutoencoderConfig):
        super().__init__()
        self.attentions = nn.ModuleList([PixelAttention(width, config)])
        self.resnets = config.blocks(width, width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class HalvePicture(nn.Module):
    """A convolution at every other pixel, for which the picture is padded on the right and at the bottom alone."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Encoder(nn.Module):
    """Pictures [B,3,H,W] to what `quant_conv` makes means and log-variances of."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        width, last = config.block_out_channels[0], len(config.block_out_channels) - 1
        self.conv_in = nn.Conv2d(config.in_channels, width, 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for index, wider in enumerate(config.block_out_channels):
            level, width = nn.Module(), wider
            level.resnets = config.blocks(config.block_out_channels[max(index - 1, 0)], wider, config.layers_per_block)
            if index < last:
                level.downsamplers = nn.ModuleList([HalvePicture(wider)])
            self.down_blocks.append(level)
        self.mid_block = Middle(width, config)
        self.conv_norm_out = config.norm(width)
        self.conv_act = nn.SiLU()
        self.conv_out = nn.Conv2d(width, 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down_blocks:
            for layer in (*level.resnets, *getattr(level, "downsamplers", ())):
                x = layer(x)
        return self.conv_out(self.conv_act(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """What `post_quant_conv` makes of latents to pictures [B,3,H,W]."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        widths = list(config.block_out_channels)[::-1]
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.up_blocks = nn.ModuleList()
        for index, narrower in enumerate(widths):
            level = nn.Module()
            level.resnets = config.blocks(widths[max(index - 1, 0)], narrower, config.layers_per_block + 1)
            if index < len(widths) - 1:
                level.upsamplers = nn.ModuleList([Upsample(narrower)])
            self.up_blocks.append(level)
        self.mid_block = Middle(widths[0], config)
        self.conv_norm_out = config.norm(widths[-1])
        self.conv_act = nn.SiLU()
        self.conv_out = nn.Conv2d(widths[-1], config.out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(x))
        for level in self.up_blocks:
            for layer in (*level.resnets, *getattr(level, "upsamplers", ())):
                x = layer(x)
        return self.conv_out(self.conv_act(self.conv_norm_out(x)))


class Autoencoder(nn.Module):
    """Pictures in [-1,1] to latents before any scaling, and back."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quant_conv = nn.Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)

    def encode(self, pictures: Tensor) -> Tensor:
        """Means and log-variances [B,2C,h,w] of the latents of pictures [B,3,H,W]."""
        return self.quant_conv(self.encoder(pictures))

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures [B,3,H,W] of latents [B,C,h,w]."""
        return self.decoder(self.post_quant_conv(latents))
