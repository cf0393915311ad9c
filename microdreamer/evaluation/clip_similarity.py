"""CLIP similarity of a mesh to the picture or sentence it was made from: mean cosine over eight views at eye level.

The measure of MicroDreamer's paper (arXiv 2404.19525, section 5), which took ViT-bigG-14 of OpenCLIP; any CLIP will do, but
numbers of different ones do not compare.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cam_utils import turntable
from microdreamer.guidance.published.clip import HIGHEST_ENDS
from microdreamer.guidance.published.latent import clip_pixels
from microdreamer.guidance.published.ldm_keys import map_tower_keys
from microdreamer.guidance.published.pretrained import build, load_part, load_state, read_tensors
from microdreamer.guidance.published.text import Tokenizer
from microdreamer.meshes.files import read_mesh
from microdreamer.meshes.model import MeshModel

VIEWS, SIZE = 8, 512
SENTENCES_PER_CALL = 128
RADIUS, FOV_Y, HALF_EXTENT = 3.0, 49.0, 0.9
OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")


class Clip:
    """A CLIP from a folder in the layout of transformers (config.json) or of OpenCLIP (open_clip_config.json)."""

    def __init__(self, folder: Path | str, device: torch.device | str = "cpu"):
        """Raises FileNotFoundError or ValueError in one line for a folder that holds neither."""
        self.folder, self.device = Path(folder), torch.device(device)
        if (self.folder / "open_clip_config.json").is_file():
            self.model = _load_open_clip(self.folder, device)
        elif (self.folder / "config.json").is_file():
            self.model = load_part(self.folder, "CLIPModel", device)
        else:
            raise FileNotFoundError(f"{folder}: no CLIP there (config.json or open_clip_config.json)")

    @property
    def picture_size(self) -> int:
        """Pixels a side of the pictures that it looks at; others are resized."""
        return self.model.vision_model.config.image_size

    @torch.no_grad()
    def embed_pictures(self, pictures: Tensor) -> Tensor:
        """Unit vectors [B,E] of square pictures [B,3,S,S] in [0,1]."""
        pixels = clip_pixels(pictures.to(self.device), self.picture_size)
        return F.normalize(self.model.embed_pictures(pixels), dim=-1)

    @torch.no_grad()
    def embed_sentences(self, sentences: Sequence[str]) -> Tensor:
        """Unit vectors [S,E]; reads the tokenizer's files beside the weights. Of a longer sentence the end is cut, not its end token."""
        tokenizer, length = Tokenizer(self.folder), self.model.text_model.config.max_position_embeddings
        parts = []
        for first in range(0, len(sentences), SENTENCES_PER_CALL):
            ids = [tokenizer(sentence, length) for sentence in sentences[first : first + SENTENCES_PER_CALL]]
            parts.append(F.normalize(self.model.embed_ids(torch.tensor(ids, device=self.device)), dim=-1))
        return torch.cat(parts)

    def embed_sentence(self, sentence: str) -> Tensor:
        """Unit vector [1,E]."""
        return self.embed_sentences([sentence])


def _open_clip_config(config: dict) -> dict:
    """The settings of open_clip_config.json as a config.json has them."""
    model = config["model_cfg"]
    vision, text = model["vision_cfg"], model["text_cfg"]
    activation = "quick_gelu" if model.get("quick_gelu") else "gelu"

    def tower(part: dict, heads: int) -> dict:
        width = part["width"]
        return {
            "hidden_size": width,
            "intermediate_size": int(width * part.get("mlp_ratio", 4.0)),
            "num_hidden_layers": part["layers"],
            "num_attention_heads": heads,
            "hidden_act": activation,
            "projection_dim": model["embed_dim"],
        }

    return {
        "architectures": ["CLIPModel"],
        "projection_dim": model["embed_dim"],
        "vision_config": {
            **tower(vision, vision["width"] // vision.get("head_width", 64)),
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
        },
        "text_config": {
            **tower(text, text["heads"]),
            "vocab_size": text["vocab_size"],
            "max_position_embeddings": text["context_length"],
            "eos_token_id": HIGHEST_ENDS,
        },
    }


def _load_open_clip(folder: Path, device: torch.device | str) -> nn.Module:
    path = next((folder / name for name in OPEN_CLIP_WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{folder}: no weights there ({', '.join(OPEN_CLIP_WEIGHTS)})")
    try:
        config = _open_clip_config(json.loads((folder / "open_clip_config.json").read_text()))
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'open_clip_config.json'}: not OpenCLIP's settings of a vision transformer ({error!r})") from error
    return load_state(
        build(config, "CLIPModel", folder / "open_clip_config.json"),
        map_tower_keys({key: read() for key, read, _ in read_tensors(path)}),
        path,
        device,
    )


def load_mesh(path: Path | str, device: torch.device | str = "cpu") -> MeshModel:
    """A mesh file with its texture or colours, centred, the longest side of its box from -0.9 to 0.9."""
    mesh = read_mesh(path)
    low, high = mesh.vertices.min(0), mesh.vertices.max(0)
    mesh.vertices = (mesh.vertices - (low + high) / 2) * np.float32(2 * HALF_EXTENT / (high - low).max())
    return MeshModel(mesh, device)


@torch.no_grad()
def views_of(mesh: MeshModel) -> Tensor:
    """[8,3,512,512]: the mesh's own colours without light, on white, from all around at eye level."""
    cameras = turntable(VIEWS, radius=RADIUS, fov_y=FOV_Y, width=SIZE, height=SIZE, device=mesh.device)
    return mesh.render(cameras, 1.0).image


def similarity(clip: Clip, views: Tensor, reference: Tensor | str) -> float:
    """Mean cosine between views [V,3,S,S] in [0,1] and a picture [1,3,S,S] or a sentence, in CLIP's space."""
    target = clip.embed_sentence(reference) if isinstance(reference, str) else clip.embed_pictures(reference)
    return float((clip.embed_pictures(views) @ target.T).mean())
