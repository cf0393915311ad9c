"""CLIP's towers: sentences and pictures to states of a transformer (Radford et al. 2021, arXiv 2103.00020).

Modules are named as in the published folders, which load without conversion.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIGHEST_ENDS = 2  # an eos_token_id of the first published files, where the token with the highest number ends a sentence


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """The fields of config.json that both towers have; what a file does not say is as in the smallest CLIP that was published.

    Raises ValueError for what is not CLIP.
    """

    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.hidden_act not in ("gelu", "quick_gelu"):
            raise ValueError(f"hidden_act={self.hidden_act}: not supported, expected gelu or quick_gelu")
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads:
            raise ValueError(f"num_attention_heads={self.num_attention_heads}: expected a divisor of hidden_size={self.hidden_size}")

    def norm(self) -> nn.LayerNorm:
        return nn.LayerNorm(self.hidden_size, eps=self.layer_norm_eps)


@dataclasses.dataclass(frozen=True)
class ClipTextConfig(ClipConfig):
    vocab_size: int = 49408
    max_position_embeddings: int = 77
    eos_token_id: int = 49407


@dataclasses.dataclass(frozen=True)
class ClipVisionConfig(ClipConfig):
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    image_size: int = 224
    patch_size: int = 32
    num_channels: int = 3
    projection_dim: int = 512


class SelfAttention(nn.Module):
    def __init__(self, config: ClipConfig):
        super().__init__()
        self.heads, width = config.num_attention_heads, config.hidden_size
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        query, key, value = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj))
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class Perceptron(nn.Module):
    def __init__(self, config: ClipConfig):
        super().__init__()
        self.quick = config.hidden_act == "quick_gelu"
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x) if self.quick else F.gelu(x))


class Block(nn.Module):
    def __init__(self, config: ClipConfig):
        super().__init__()
        self.self_attn = SelfAttention(config)
        self.layer_norm1 = config.norm()
        self.mlp = Perceptron(config)
        self.layer_norm2 = config.norm()

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), causal)
        return x + self.mlp(self.layer_norm2(x))


class Blocks(nn.Module):
    def __init__(self, config: ClipConfig):
        super().__init__()
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: Tensor, causal: bool = False, leave_out: int = 0) -> Tensor:
        """States [B,L,C] after all blocks but the last `leave_out`; causal: a place sees those before it alone."""
        for layer in self.layers[: len(self.layers) - leave_out]:
            x = layer(x, causal)
        return x


class TextStates(NamedTuple):
    """States of all places [S,L,C] after the final norm, and of the token that ends each sentence, [S,C]."""

    places: Tensor
    pooled: Tensor


class TokenEmbeddings(nn.Module):
    def __init__(self, config: ClipTextConfig):
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, ids: Tensor) -> Tensor:
        return self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]


class ClipText(nn.Module):
    """The text tower, without CLIP's projection."""

    def __init__(self, config: ClipTextConfig):
        super().__init__()
        self.config = config
        self.embeddings = TokenEmbeddings(config)
        self.encoder = Blocks(config)
        self.final_layer_norm = config.norm()

    def forward(self, ids: Tensor) -> TextStates:
        """ids: tokens [S,L] with start and end."""
        places = self.final_layer_norm(self.encoder(self.embeddings(ids), causal=True))
        ends = ids if self.config.eos_token_id == HIGHEST_ENDS else (ids == self.config.eos_token_id).int()
        return TextStates(places, places[torch.arange(len(ids), device=ids.device), ends.argmax(dim=1)])


class PatchEmbeddings(nn.Module):
    def __init__(self, config: ClipVisionConfig):
        super().__init__()
        count = (config.image_size // config.patch_size) ** 2 + 1
        self.class_embedding = nn.Parameter(torch.empty(config.hidden_size))
        self.patch_embedding = nn.Conv2d(config.num_channels, config.hidden_size, config.patch_size, config.patch_size, bias=False)
        self.position_embedding = nn.Embedding(count, config.hidden_size)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        return torch.cat([self.class_embedding.expand(len(pixels), 1, -1), patches], dim=1) + self.position_embedding.weight


class ClipVision(nn.Module):
    """The picture tower: pixels [B,3,S,S] as `clip_pixels` makes them to tokens, of which the first stands for the whole picture."""

    def __init__(self, config: ClipVisionConfig):
        super().__init__()
        self.config = config
        self.embeddings = PatchEmbeddings(config)
        self.pre_layrnorm = config.norm()  # spelt as in the published files
        self.encoder = Blocks(config)
        self.post_layernorm = config.norm()

    def tokens(self, pixels: Tensor, leave_out: int = 0) -> Tensor:
        """All tokens [B,1+P,C] after all blocks but the last `leave_out`, before the last norm."""
        return self.encoder(self.pre_layrnorm(self.embeddings(pixels)), leave_out=leave_out)

    def forward(self, pixels: Tensor) -> Tensor:
        """The picture's state [B,C] after the last norm."""
        return self.post_layernorm(self.tokens(pixels)[:, 0])


class ClipVisionProjection(nn.Module):
    """The picture tower with CLIP's projection: [B,3,S,S] to [B,projection_dim]."""

    def __init__(self, config: ClipVisionConfig):
        super().__init__()
        self.config = config
        self.vision_model = ClipVision(config)
        self.visual_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.visual_projection(self.vision_model(pixels))


class Clip(nn.Module):
    """Both towers, and the projections of their states into one space [B,projection_dim]."""

    def __init__(self, text: ClipTextConfig, vision: ClipVisionConfig, projection_dim: int = 512):
        super().__init__()
        self.logit_scale = nn.Parameter(torch.empty(()))  # of the published files; cosines are not scaled here
        self.text_model, self.vision_model = ClipText(text), ClipVision(vision)
        self.visual_projection = nn.Linear(vision.hidden_size, projection_dim, bias=False)
        self.text_projection = nn.Linear(text.hidden_size, projection_dim, bias=False)

    def embed_pictures(self, pixels: Tensor) -> Tensor:
        """Of pixels [B,3,S,S] as `clip_pixels` makes them."""
        return self.visual_projection(self.vision_model(pixels))

    def embed_ids(self, ids: Tensor) -> Tensor:
        """Of tokens [S,L] with start and end."""
        return self.text_projection(self.text_model(ids).pooled)
