"""Checkpoints of launch.py: everything a run needs to go on as if it had not stopped, written whole, read without pickle."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from microdreamer.core import tensor_files
from microdreamer.core.errors import UserError, user_errors
from microdreamer.core.files import atomic_write
from microdreamer.core.paths import shipped_folder

FORMAT = "microdreamer.launch.1"
REMEDY = "take an earlier checkpoint, or copy it anew"  # where one is damaged
_TENSOR = "tensor:"  # how a tensor's place is marked among the values


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write nested dicts and lists of tensors, numbers, texts and None. What stood at `path` stays until the new file is whole."""
    tensors: dict[str, Tensor] = {}
    plain = _split(state, "", tensors)
    with atomic_write(path) as temporary:
        # Not save_file, which makes files that no one else may read.
        temporary.write_bytes(tensor_files.encoded(tensors, {"format": FORMAT, "state": json.dumps(plain)}))


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What `save` wrote, its tensors on `device`. Raises UserError for a file that is missing, cut, damaged, or of another program."""
    with _opened(path) as (file, plain):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a safe_open is no dict
        with user_errors():
            tensor_files.check(path, tensors, file.metadata(), REMEDY)
    return _join(plain, {name: tensor.to(device) for name, tensor in tensors.items()})


def load_numbers(path: Path) -> dict[str, Any]:
    """The same with marks in the tensors' places: what a file says of itself, without reading the rest of it."""
    with _opened(path) as (_, plain):
        return plain


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The file, and everything of it but its tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise UserError(f"{path}: not a checkpoint of launch.py; its own are the files of a run's folder ckpt/")
            try:
                plain = json.loads(metadata["state"])
            except (KeyError, ValueError):
                raise UserError(f"{path}: damaged: what it says of itself cannot be read; {REMEDY}") from None
            yield file, plain
    except SafetensorError as error:
        raise UserError(f"{path}: cut off, or no checkpoint of launch.py ({' '.join(str(error).split())}); take an earlier one") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; resume= takes a file of a run's folder ckpt/, or that run's folder") from None


def to_use(state: Mapping[str, Any]) -> dict[str, Any]:
    """What `--test`, `--export` and `--generate` need of a checkpoint's state: the model alone, in float16, a sixth of the size."""
    learner = state["learner"]
    return {**state, "learner": {**learner, "model": _in_half(learner["model"]), "optimizer": {}}}


def _in_half(value: Any) -> Any:
    """`value` with all tensors of floating point, however deep, in float16."""
    if isinstance(value, Mapping):
        return {key: _in_half(inner) for key, inner in value.items()}
    return value.half() if isinstance(value, Tensor) and value.is_floating_point() else value


def _split(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """`value` with a mark in the place of each tensor, which goes to `tensors`."""
    if isinstance(value, Tensor):
        tensors[place] = torch.empty(value.shape, dtype=value.dtype).copy_(value.detach())
        return _TENSOR + place
    if isinstance(value, Mapping):
        return {str(key): _split(inner, f"{place}.{key}".lstrip("."), tensors) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_split(inner, f"{place}.{index}".lstrip("."), tensors) for index, inner in enumerate(value)]
    return value


def _join(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, str) and value.startswith(_TENSOR):
        return tensors[value.removeprefix(_TENSOR)]
    if isinstance(value, dict):
        return {key: _join(inner, tensors) for key, inner in value.items()}
    return [_join(inner, tensors) for inner in value] if isinstance(value, list) else value


def path_of(folder: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lies in a run's folder."""
    return folder / "ckpt" / f"step_{step}.ckpt"


def written(folder: Path) -> list[tuple[int, Path]]:
    """(steps, file) of a run's checkpoints, the latest last."""
    return sorted(_numbered(folder / "ckpt")) if (folder / "ckpt").is_dir() else []


def _numbered(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in folder.iterdir():
        if found := re.fullmatch(r"step_(\d+)\.ckpt", path.name):
            yield int(found[1]), path


def find(resume: Path) -> Path:
    """The file that `resume` names: itself, the latest of a run's folder, or one that ships, by the name of its folder in weights/.

    Raises UserError where there is none.
    """
    if not resume.exists() and (shipped := sorted((shipped_folder("weights") / resume.name).glob("step_*.ckpt"))):
        return shipped[-1]
    if resume.is_dir():
        run = resume.parent if resume.name == "ckpt" else resume
        files = written(run)
        if not files:
            raise UserError(
                f"resume={resume}: no checkpoint in {run / 'ckpt'}; resume= takes a file, or the folder of a run that wrote one"
            )
        return files[-1][1]
    if not resume.is_file():
        raise UserError(f"resume={resume}: no such file; a run writes its checkpoints to its folder ckpt/")
    return resume


def check_place(folder: Path, start: int) -> None:
    """Raises UserError where a run that goes on after `start` steps would mix with the later checkpoints of another in its folder."""
    later = [path for step, path in written(folder) if step > start]
    if later:
        raise UserError(f"{folder}: holds an earlier run's {later[-1].name}; go on with resume={later[-1]}, or choose another tag=NAME")


def drop_old(folder: Path, keep: set[int]) -> None:
    """Remove a run's checkpoints except for the last two and those after the steps `keep`, and what a killed run was about to write."""
    for step, path in written(folder)[:-2]:
        if step not in keep:
            path.unlink(missing_ok=True)
    for path in (folder / "ckpt").glob(".*.ckpt"):
        if re.fullmatch(r"\.[0-9a-f]{32}\.ckpt", path.name):  # as atomic_write names them
            path.unlink(missing_ok=True)
