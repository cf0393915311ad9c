"""A CLIP of a few thousand random weights in transformers' layout."""

import json

import torch
from safetensors.torch import save_file

from microdreamer.guidance.published.random_weights import random_module, write_tokenizer

WIDTH, EMBEDDING = 32, 24
_TOWER = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2}
VISION = {**_TOWER, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
TEXT = {**_TOWER, "num_attention_heads": 4, "vocab_size": 514}


def write_tiny_clip(folder):
    config = {
        "architectures": ["CLIPModel"],
        "projection_dim": EMBEDDING,
        "vision_config": {**VISION, "hidden_act": "gelu", "projection_dim": EMBEDDING},
        "text_config": {**TEXT, "hidden_act": "gelu", "projection_dim": EMBEDDING, "max_position_embeddings": 77, "eos_token_id": 2},
    }
    model, draw = random_module(config, "cpu", 0), torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder)
