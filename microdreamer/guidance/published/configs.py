"""config.json of every part of the published checkpoints, and of miniatures of the same make for tests."""

from __future__ import annotations

from typing import Any

MULTIVIEW_UNET = {
    "_class_name": "MultiViewUNetModel",
    "_diffusers_version": "0.25.0",
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "attention_resolutions": [4, 2, 1],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 4, 4],
    "num_head_channels": 64,
    "transformer_depth": 1,
    "context_dim": 1024,
    "camera_dim": 16,
}
_UNET = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "norm_num_groups": 32,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "out_channels": 4,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
# attention_head_dim is the number of heads in these two, whatever its name says.
ZERO123_UNET = {
    **_UNET,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
    "in_channels": 8,
    "sample_size": 32,
    "use_linear_projection": False,
}
STABLE_DIFFUSION_UNET = {
    **_UNET,
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "in_channels": 4,
    "sample_size": 64,
    "use_linear_projection": True,
}
AUTOENCODER = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 256,
    "scaling_factor": 0.18215,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
TEXT_ENCODER = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "max_position_embeddings": 77,
    "vocab_size": 49408,
    "layer_norm_eps": 1e-5,
    "projection_dim": 512,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
IMAGE_ENCODER_H = {
    "architectures": ["CLIPVisionModel"],
    "model_type": "clip_vision_model",
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 224,
    "hidden_act": "gelu",
    "projection_dim": 1024,
    "layer_norm_eps": 1e-5,
}
IMAGE_ENCODER_L = {
    **IMAGE_ENCODER_H,
    "architectures": ["CLIPVisionModelWithProjection"],
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
}
CAMERA_PROJECTION = {"_class_name": "CLIPCameraProjection", "additional_embeddings": 4, "embedding_dim": 768}

_ZERO123 = {"unet": ZERO123_UNET, "vae": AUTOENCODER, "image_encoder": IMAGE_ENCODER_L, "clip_camera_projection": CAMERA_PROJECTION}
PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {
    "zero123_xl": _ZERO123,
    "stable_zero123": _ZERO123,
    "mvdream": {"unet": MULTIVIEW_UNET, "vae": AUTOENCODER, "text_encoder": TEXT_ENCODER},
    "imagedream": {
        "unet": {**MULTIVIEW_UNET, "ip_dim": 16},
        "vae": AUTOENCODER,
        "text_encoder": TEXT_ENCODER,
        "image_encoder": IMAGE_ENCODER_H,
    },
    "stable_diffusion": {"unet": STABLE_DIFFUSION_UNET, "vae": AUTOENCODER, "text_encoder": TEXT_ENCODER},
}

# Pictures of 64x64 pixels as latents of 8x8; the image encoder of ImageDream keeps its width, which the resampler fixes.
_TINY_CHANNELS = {"block_out_channels": [32, 64, 64, 64], "layers_per_block": 1, "sample_size": 8}
_TINY = {
    "MultiViewUNetModel": {"image_size": 8, "model_channels": 32, "num_res_blocks": 1, "num_head_channels": 16, "context_dim": 32},
    "UNet2DConditionModel": {**_TINY_CHANNELS, "attention_head_dim": 4, "cross_attention_dim": 32},
    "AutoencoderKL": {**_TINY_CHANNELS, "block_out_channels": [32, 32, 32, 32], "sample_size": 64},
    "CLIPTextModel": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 514},
    "CLIPVisionModel": {"intermediate_size": 64, "num_hidden_layers": 2, "image_size": 28},
    "CLIPVisionModelWithProjection": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "projection_dim": 32,
    },
    "CLIPCameraProjection": {"embedding_dim": 32},
}


def class_of(config: dict[str, Any]) -> str:
    """The class that a config.json names."""
    return config.get("_class_name") or config["architectures"][0]


def configurations(name: str, tiny: bool = False) -> dict[str, dict[str, Any]]:
    """config.json by part of the prior `name`; tiny: the same make in miniature."""
    return {part: {**config, **(_TINY[class_of(config)] if tiny else {})} for part, config in PUBLISHED[name].items()}
