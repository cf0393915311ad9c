"""The parts of a checkpoint folder in the published layout as modules: configuration and weights, checked, never executed."""

from __future__ import annotations

import functools
import json
import pickle
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from microdreamer.core.file_to_device import read_tensors_to
from microdreamer.core.unfilled import unfilled
from microdreamer.guidance.checkpoints import check_shapes
from microdreamer.guidance.published import autoencoder, unet
from microdreamer.guidance.published.autoencoder import Autoencoder, AutoencoderConfig
from microdreamer.guidance.published.clip import Clip, ClipText, ClipTextConfig, ClipVision, ClipVisionConfig, ClipVisionProjection
from microdreamer.guidance.published.multiview_unet import MultiViewUNet, MultiViewUNetConfig
from microdreamer.guidance.published.presets import part_weights, weight_files
from microdreamer.guidance.published.settings import settings_from
from microdreamer.guidance.published.unet import UNet, UNetConfig

# What files that other versions of the libraries wrote have in their keys and the modules do not, or the other way round.
PREFIXES = ("text_model.", "vision_model.")
RENAMED = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}  # VAE attention before 2023
LEFT_OVER = "position_ids"  # a buffer of some versions that is only counted up


class CameraProjection(nn.Module):
    """Zero123's projection of [picture embedding, 4 numbers of the relative camera] to one token."""

    def __init__(self, embedding_dim: int, additional_embeddings: int = 4):
        super().__init__()
        self.proj = nn.Linear(embedding_dim + additional_embeddings, embedding_dim)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.proj(embedding)


def _clip(config: dict) -> nn.Module:
    towers = settings_from(ClipTextConfig, config["text_config"]), settings_from(ClipVisionConfig, config["vision_config"])
    return Clip(*towers, config.get("projection_dim", 512))


# How to make the module of the class that a part's config.json names. The two whose weights do not tell all of their settings are
# given them without the keys that only say what wrote the file, so that one that they do not know is an error.
BUILDERS: dict[str, Callable[[dict], nn.Module]] = {
    "MultiViewUNetModel": lambda config: MultiViewUNet(MultiViewUNetConfig(**_described(config))),
    "UNet2DConditionModel": lambda config: UNet(settings_from(UNetConfig, config, unet.ONLY)),
    "AutoencoderKL": lambda config: Autoencoder(settings_from(AutoencoderConfig, config, autoencoder.ONLY)),
    "CLIPModel": _clip,
    "CLIPTextModel": lambda config: ClipText(settings_from(ClipTextConfig, config)),
    "CLIPVisionModel": lambda config: ClipVision(settings_from(ClipVisionConfig, config)),
    "CLIPVisionModelWithProjection": lambda config: ClipVisionProjection(settings_from(ClipVisionConfig, config)),
    "CLIPCameraProjection": lambda config: CameraProjection(**_described(config)),
}


def _described(config: dict) -> dict:
    return {key: value for key, value in config.items() if not key.startswith("_")}


def read_config(folder: Path) -> dict:
    """config.json of a part. Raises FileNotFoundError or ValueError naming the file."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a configuration ({error}); fetch the file again") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: expected an object of settings, got {type(config).__name__}; fetch the file again")
    return config


def build(config: dict, expected: str, origin: Path) -> nn.Module:
    """The module that `config` describes, without memory for its weights. Raises ValueError unless its class is `expected`."""
    found = config.get("_class_name") or next(iter(config.get("architectures") or []), None)
    if found != expected:
        raise ValueError(f"{origin}: describes a {found}, expected a {expected}; name a checkpoint of this prior")
    try:
        with unfilled():
            return BUILDERS[found](config)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{origin}: not a configuration of {found} ({error})") from error


def read_tensors(path: Path) -> Iterator[tuple[str, Callable[[], Tensor], tuple[int, ...]]]:
    """(key, how to read the tensor, shape) of everything in a file of weights; a pickle is read as tensors, never run.

    Raises ValueError for a file that is truncated or something else.
    """
    if path.suffix == ".safetensors":
        try:
            file = safe_open(path, framework="pt")  # stays open for as long as a reader is around
        except SafetensorError as error:
            raise ValueError(f"{path}: truncated or not a safetensors file ({error}); fetch it again") from error
        for key in file.keys():  # noqa: SIM118 - a safe_open is no dict
            yield key, functools.partial(file.get_tensor, key), tuple(file.get_slice(key).get_shape())
        return
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))  # files before 2020 are no archives
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"{path}: truncated, or more than tensors: not read ({' '.join(str(error).split())[:120]})") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"{path}: expected a dictionary of tensors")
    for key, tensor in state.items():
        yield key, lambda tensor=tensor: tensor, tuple(tensor.shape)


def name_in(expected: Iterable[str], key: str) -> str:
    """The module's name for a stored key."""
    candidates = [key, *(key.removeprefix(prefix) for prefix in PREFIXES), *(prefix + key for prefix in PREFIXES)]
    for old, new in RENAMED.items():
        candidates.append(key.replace(old, new))
    return next((name for name in candidates if name in expected), key)


def load_part(folder: Path, expected: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> nn.Module:
    """The module of class `expected` in `folder` (config.json and weights), for inference, on `device` in `dtype`.

    Every key and shape is compared before any tensor is read. Raises FileNotFoundError or ValueError in one line that names
    the file and the first wrong key.
    """
    module = build(read_config(folder), expected, folder / "config.json")
    return load_weights(module, folder, device, dtype)


def load_weights(module: nn.Module, folder: Path, device: torch.device | str, dtype: torch.dtype) -> nn.Module:
    """Give a module that `build` made the weights in `folder`."""
    path = part_weights(folder)
    if path is None:
        raise FileNotFoundError(f"{folder}: no weights there (*.safetensors)")
    wanted = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    files = weight_files(path)
    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        found.update({name_in(wanted, key): shape for key, _, shape in read_tensors(file) if not key.endswith(LEFT_OVER)})
    check_shapes(wanted, found, path, type(module).__name__)
    state = {}
    for file in files:
        state.update({name_in(wanted, key): tensor for key, tensor in _tensors_on(file, device, dtype) if not key.endswith(LEFT_OVER)})
    return _assign(module, state)


def _tensors_on(file: Path, device: torch.device | str, dtype: torch.dtype) -> Iterable[tuple[str, Tensor]]:
    """Everything in a file that `read_tensors` accepts. For the CPU pages of the file are good enough."""
    if torch.device(device).type == "cuda" and file.suffix == ".safetensors":
        return read_tensors_to(file, device, dtype).items()
    return ((key, read().to(device=device, dtype=dtype)) for key, read, _ in read_tensors(file))


def load_state(module: nn.Module, state: dict[str, Tensor], origin: Path, device: torch.device | str) -> nn.Module:
    """Give a module on the meta device the tensors of `state`, in float32; `origin` names them in errors."""
    wanted = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    named = {name_in(wanted, key): tensor for key, tensor in state.items() if not key.endswith(LEFT_OVER)}
    check_shapes(wanted, {key: tuple(tensor.shape) for key, tensor in named.items()}, origin, type(module).__name__)
    return _assign(module, {key: tensor.to(device, torch.float32) for key, tensor in named.items()})


def _assign(module: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    module.load_state_dict(state, assign=True)
    return module.eval().requires_grad_(False)
