"""The U-Net of MVDream and ImageDream: Stable Diffusion 2.1's, with attention over all views of an object and a camera embedding.

Shi et al. 2023, MVDream (arXiv 2308.16512), section 3; Wang and Shi 2023, ImageDream (arXiv 2312.02201), section 3, with the
pixel controller. Modules are named as in the published checkpoints, which load without conversion.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from microdreamer.guidance.published.layers import Attention, FeedForward, KeysValues, Upsample, downsampling, timestep_embedding
from microdreamer.guidance.published.resampler import IMAGE_WIDTH, Resampler

GROUPS = 32  # of every group normalisation
DEFAULT_HEAD_CHANNELS = 64


@dataclasses.dataclass(frozen=True)
class MultiViewUNetConfig:
    """The fields of unet/config.json; ip_dim counts image tokens (0: MVDream, 16: ImageDream).

    A layer's heads follow from `num_head_channels`, the width of one, or from `num_heads`, how many there are at any width; where
    both are given the width counts, as in the latent diffusion code. -1 stands for not given; without either a head is 64 wide.
    Raises ValueError where the heads do not divide a width.
    """

    image_size: int = 32
    in_channels: int = 4
    out_channels: int = 4
    model_channels: int = 320
    attention_resolutions: Sequence[int] = (4, 2, 1)
    num_res_blocks: int = 2
    channel_mult: Sequence[int] = (1, 2, 4, 4)
    num_head_channels: int = -1
    num_heads: int = -1
    transformer_depth: int = 1
    context_dim: int = 1024
    camera_dim: int = 16
    ip_dim: int = 0
    ip_weight: float = 1.0

    def heads_of(self, width: int) -> int:
        """Attention heads of a layer of this width."""
        by_count = self.num_head_channels == -1 and self.num_heads != -1
        name, divisor = ("num_heads", self.num_heads) if by_count else ("num_head_channels", self.num_head_channels)
        divisor = DEFAULT_HEAD_CHANNELS if divisor == -1 else divisor
        if divisor < 1 or width % divisor:
            raise ValueError(f"{name}={divisor}: expected a divisor of {width}, the width of a layer with attention")
        return divisor if by_count else width // divisor


Context = tuple[KeysValues, ...]  # one entry per transformer block, in the order in which they run


class ResBlock(nn.Module):
    """Two convolutions with the time and camera embedding added between them, and a skip connection."""

    def __init__(self, width_in: int, width_out: int, embedding: int):
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(GROUPS, width_in), nn.SiLU(), nn.Conv2d(width_in, width_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, width_out))
        convolution = nn.Conv2d(width_out, width_out, 3, padding=1)
        self.out_layers = nn.Sequential(nn.GroupNorm(GROUPS, width_out), nn.SiLU(), nn.Identity(), convolution)
        self.skip_connection = nn.Identity() if width_in == width_out else nn.Conv2d(width_in, width_out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.in_layers(x) + self.emb_layers(embedding)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(hidden)


class ViewBlock(nn.Module):
    """Attention over all pixels of all views of an object, attention to text and image tokens, feed-forward."""

    def __init__(self, width: int, heads: int, config: MultiViewUNetConfig):
        super().__init__()
        self.attn1 = Attention(width, width, heads)
        self.ff = FeedForward(width)
        self.attn2 = Attention(width, config.context_dim, heads, config.ip_dim > 0, config.ip_weight)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, tokens: Tensor, to: KeysValues, num_frames: int) -> Tensor:
        """tokens [N,T,C] of N = objects * num_frames latents; text knows nothing of views, so a row of it serves all its queries."""
        shape = tokens.shape
        tokens = tokens.reshape(-1, num_frames * shape[1], shape[2])
        tokens = tokens + self.attn1(self.norm1(tokens))
        tokens = tokens.reshape(len(to.keys), -1, shape[2])
        tokens = tokens + self.attn2(self.norm2(tokens), to)
        tokens = tokens + self.ff(self.norm3(tokens))
        return tokens.reshape(shape)


class ViewTransformer(nn.Module):
    def __init__(self, width: int, config: MultiViewUNetConfig):
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width, eps=1e-6)
        self.proj_in = nn.Linear(width, width)
        heads = config.heads_of(width)
        self.transformer_blocks = nn.ModuleList(ViewBlock(width, heads, config) for _ in range(config.transformer_depth))
        self.proj_out = nn.Linear(width, width)

    def forward(self, x: Tensor, to: Sequence[KeysValues], num_frames: int) -> Tensor:
        tokens = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))
        for block, keys_values in zip(self.transformer_blocks, to, strict=True):
            tokens = block(tokens, keys_values, num_frames)
        return x + self.proj_out(tokens).transpose(1, 2).reshape(x.shape)


class MultiViewUNet(nn.Module):
    """Predicts the noise in the latents of all views of an object at once.

    Text and image tokens are projected once per condition (`embed_context`), cameras once per set of views (`camera_embed`).
    """

    def __init__(self, config: MultiViewUNetConfig):
        super().__init__()
        self.config = config
        base, embedding = config.model_channels, 4 * config.model_channels
        if config.ip_dim:
            self.image_embed = Resampler(config.context_dim, config.ip_dim)
        self.time_embed = nn.Sequential(nn.Linear(base, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.camera_embed = nn.Sequential(nn.Linear(config.camera_dim, embedding), nn.SiLU(), nn.Linear(embedding, embedding))

        width, scale, skips = base, 1, [base]
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(config.in_channels, base, 3, padding=1)])])
        for level, factor in enumerate(config.channel_mult):
            for _ in range(config.num_res_blocks):
                layers: list[nn.Module] = [ResBlock(width, factor * base, embedding)]
                width = factor * base
                if scale in config.attention_resolutions:
                    layers.append(ViewTransformer(width, config))
                self.input_blocks.append(nn.ModuleList(layers))
                skips.append(width)
            if level + 1 < len(config.channel_mult):
                self.input_blocks.append(nn.ModuleList([downsampling(width, "op")]))
                skips.append(width)
                scale *= 2
        middle = [ResBlock(width, width, embedding), ViewTransformer(width, config), ResBlock(width, width, embedding)]
        self.middle_block = nn.ModuleList(middle)
        self.output_blocks = nn.ModuleList()
        for level, factor in reversed(list(enumerate(config.channel_mult))):
            for index in range(config.num_res_blocks + 1):
                layers = [ResBlock(width + skips.pop(), factor * base, embedding)]
                width = factor * base
                if scale in config.attention_resolutions:
                    layers.append(ViewTransformer(width, config))
                if level and index == config.num_res_blocks:
                    layers.append(Upsample(width))
                    scale //= 2
                self.output_blocks.append(nn.ModuleList(layers))
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, base), nn.SiLU(), nn.Conv2d(base, config.out_channels, 3, padding=1))

    @property
    def blocks(self) -> list[ViewBlock]:
        """Transformer blocks in the order in which they run."""
        return [
            module
            for part in (self.input_blocks, self.middle_block, self.output_blocks)
            for module in part.modules()
            if isinstance(module, ViewBlock)
        ]

    def embed_context(self, text: Tensor, image: Tensor | None = None) -> Context:
        """Keys and values of all blocks for text [R,L,context_dim] and, for ImageDream, CLIP image tokens [R,I,1280].

        Raises ValueError where image tokens are missing or not wanted.
        """
        if (image is None) != (self.config.ip_dim == 0):
            wanted = f"image tokens [R,I,{IMAGE_WIDTH}]" if self.config.ip_dim else "no image tokens"
            raise ValueError(f"image tokens {None if image is None else tuple(image.shape)}: this network takes {wanted}")
        resampled = None if image is None else self.image_embed(image)
        return tuple(block.attn2.project(text, resampled) for block in self.blocks)

    def forward(
        self, x: Tensor, t: Tensor, context: Context, camera_embedding: Tensor | None, num_frames: int, pixel_latents: Tensor | None = None
    ) -> Tensor:
        """Noise [N,4,h,w] in latents x [N,4,h,w] at levels t [N], N = objects * num_frames.

        camera_embedding [N,E] is what `camera_embed` makes of camera matrices [N,16]; without one the network ignores
        cameras. pixel_latents [objects,4,h,w]: clean latents of a picture that replace each object's last view (the pixel
        controller); the noise of that view means nothing.
        """
        return self.with_features(x, t, context, camera_embedding, num_frames, pixel_latents)[0]

    def with_features(
        self,
        x: Tensor,
        t: Tensor,
        context: Context,
        camera_embedding: Tensor | None,
        num_frames: int,
        pixel_latents: Tensor | None = None,
        features: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The noise, and what the levels below the first hand to the last: `features` of an earlier call stand in for their evaluation."""
        if pixel_latents is not None:
            views = x.unflatten(0, (-1, num_frames))
            x = torch.cat([views[:, :-1], pixel_latents[:, None]], dim=1).flatten(0, 1)
        embedding = self.time_embed(timestep_embedding(t, self.config.model_channels).to(x.dtype))
        if camera_embedding is not None:
            embedding = embedding + camera_embedding
        remaining = list(context)

        def run(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
            for layer in layers:
                if isinstance(layer, ResBlock):
                    x = layer(x, embedding)
                elif isinstance(layer, ViewTransformer):
                    depth = len(layer.transformer_blocks)
                    x = layer(x, remaining[:depth], num_frames)
                    del remaining[:depth]
                else:
                    x = layer(x)
            return x

        def up(blocks: Sequence[Iterable[nn.Module]], x: Tensor, stack: list[Tensor]) -> Tensor:
            for layers in blocks:
                x = run(layers, torch.cat([x, stack.pop()], dim=1))
            return x

        count = 1 + self.config.num_res_blocks  # blocks of the first level, on the way down and up
        down, upwards, stack = list(self.input_blocks), list(self.output_blocks), []
        for layers in down[:count]:
            x = run(layers, x)
            stack.append(x)
        if features is None:
            whole = list(stack)
            for layers in down[count:]:
                x = run(layers, x)
                whole.append(x)
            features = up(upwards[:-count], run(self.middle_block, x), whole)
        else:
            last = [module for layers in upwards[-count:] for module in layers.modules() if isinstance(module, ViewBlock)]
            del remaining[: len(remaining) - len(last)]
        return self.out(up(upwards[-count:], features, stack)), features
