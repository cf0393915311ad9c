"""Reading and writing weights: safetensors in files of bounded size, never pickles."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from microdreamer.core import tensor_files
from microdreamer.core.unfilled import assign

INDEX = "model.safetensors.index.json"
SHARD_BYTES = 15 * 2**20


def save_sharded(state: dict[str, Tensor], folder: Path, shard_bytes: int = SHARD_BYTES) -> list[Path]:
    """Write `state` as model-0000i-of-0000n.safetensors and their index; each file replaces its predecessor at once."""
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, Tensor]] = [{}]
    filled = 0
    for key, tensor in state.items():
        size = tensor.numel() * tensor.element_size()
        if filled + size > shard_bytes and shards[-1]:
            shards.append({})
            filled = 0
        shards[-1][key] = tensor.detach().cpu().contiguous()
        filled += size
    names = [f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors" for number in range(len(shards))]
    index = {"weight_map": {key: name for name, shard in zip(names, shards, strict=True) for key in shard}}
    for name, shard in zip(names, shards, strict=True):
        (folder / (name + ".part")).write_bytes(tensor_files.encoded(shard, {"format": "pt"}))
        os.replace(folder / (name + ".part"), folder / name)
    (folder / (INDEX + ".part")).write_text(json.dumps(index, indent=0) + "\n")
    os.replace(folder / (INDEX + ".part"), folder / INDEX)
    return [folder / name for name in names]


def load_sharded(folder: Path) -> dict[str, Tensor]:
    """The state dict that `save_sharded` (or a hub's sharded safetensors) wrote.

    Raises FileNotFoundError for a missing index or shard, ValueError for a truncated, damaged or foreign file; both name the file.
    """
    index_path = folder / INDEX
    if not index_path.is_file():
        raise FileNotFoundError(f"{index_path}: no such weights; they are part of the repository (git checkout {folder.name})")
    try:
        weight_map = json.loads(index_path.read_text())["weight_map"]
    except (json.JSONDecodeError, KeyError, UnicodeDecodeError) as error:
        raise ValueError(f"{index_path}: not an index of weights ({error!r}); restore the file") from error
    state: dict[str, Tensor] = {}
    for name in sorted(set(weight_map.values())):
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{path}: this part of the weights is missing; restore the folder")
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - a safe_open is no dict
                tensor_files.check(path, tensors, file.metadata() or {}, "restore the file")
        except SafetensorError as error:
            raise ValueError(f"{path}: truncated or not a safetensors file ({error}); restore the file") from error
        state.update(tensors)
    missing = sorted(set(weight_map) - set(state))
    if missing:
        raise ValueError(f"{folder}: {missing[0]} is in the index but in no file; restore the folder")
    return state


def check_shapes(expected: Mapping[str, Sequence[int]], found: Mapping[str, Sequence[int]], origin: Path | str, kind: str) -> None:
    """Raises ValueError naming the first key that is missing, left over or of another shape; `kind` is the network's name."""
    for key in sorted(set(expected) | set(found)):
        if key not in found:
            raise ValueError(f"{origin}: {key} is missing; these are not weights of {kind}")
        if key not in expected:
            raise ValueError(f"{origin}: unexpected {key}; these are not weights of {kind}")
        if tuple(expected[key]) != tuple(found[key]):
            raise ValueError(f"{origin}: {key} has shape {tuple(found[key])}, expected {tuple(expected[key])}")


def complete(network: nn.Module, state: dict[str, Tensor], origin: Path | str, device: torch.device | str) -> nn.Module:
    """Give a network made within `unfilled` the weights `state`, on `device` in the types that it was made with.

    Raises ValueError naming the first key that is missing, left over or of another shape.
    """
    shapes = ({key: tensor.shape for key, tensor in tensors.items()} for tensors in (network.state_dict(), state))
    check_shapes(*shapes, origin, type(network).__name__)
    return assign(network, state, device)


def load_into(network: nn.Module, state: dict[str, Tensor], origin: Path | str) -> None:
    """Copy `state` into `network` (converting the data type); every key and shape must match.

    Raises ValueError naming the first key that is missing, left over or of another shape.
    """
    shapes = ({key: tensor.shape for key, tensor in tensors.items()} for tensors in (network.state_dict(), state))
    check_shapes(*shapes, origin, type(network).__name__)
    with torch.no_grad():
        network.load_state_dict(state)
