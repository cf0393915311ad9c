"""Files of tensors that notice when a byte of them has changed: safetensors, with a digest of the content among their metadata.

A disk, a copy or a download may change a bit of a file without any program seeing it; weights would still load and mean something else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

DIGEST = "sha256"  # the name of the digest among the metadata


def encoded(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file of contiguous tensors and texts, with their digest."""
    ours = {name: tensor.cpu() for name, tensor in tensors.items()}
    return save(ours, {**metadata, DIGEST: digest_of(ours, metadata)})


def digest_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256, as 64 hex digits, of tensors on the CPU, with their names, types and shapes, and of all metadata but the digest itself."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous()
        found.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    for name in sorted(set(metadata) - {DIGEST}):
        found.update(f"{name}\0{metadata[name]}\0".encode())
    return found.hexdigest()


def check(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], remedy: str) -> None:
    """Raises ValueError, which ends with `remedy`, where what was read of `path` is not what was written; files without a digest pass."""
    wanted = metadata.get(DIGEST)
    if wanted is not None and wanted != digest_of(tensors, metadata):
        raise ValueError(f"{path}: damaged: its content is not what was written (a byte changed on the disk or on its way); {remedy}")
