"""Checkpoints of ScaleDreamer's networks, as `resume=` takes them: which network a file holds, with what configuration, and the model.

They are files of torch.save with a system's state_dict, and say nothing of their configuration: it is the published one of the network,
unless the caller names another.
"""

from __future__ import annotations

import dataclasses
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from microdreamer.core.errors import UserError, memory_error, one_line
from microdreamer.core.paths import shipped_folder
from microdreamer.core.unfilled import without_first_values
from microdreamer.fields import published
from microdreamer.generators.backgrounds import PromptBackground, SharedBackground
from microdreamer.generators.published import GEOMETRY, load_system
from microdreamer.generators.text_to_shape import TextToShape
from microdreamer.pipeline.launch.config import LaunchConfig, load_launch_config
from microdreamer.pipeline.launch.generator_learner import make_generator, make_model

# system.geometry.type: tensors that only this network has, and its published configurations of different sizes.
NETWORKS = {
    "hyper_ingp": (f"{GEOMETRY}hypernet.", ("asd_sd_hyper_iNGP_MG15",)),
    "conv3d": (f"{GEOMETRY}space_generator.synthesis.", ("asd_sd_3dconv_net_DF415", "asd_sd_3dconv_net_CP100k")),
    "triplane": (f"{GEOMETRY}space_generator.pos_embed", ("asd_mv_triplane_transformer_DL17k",)),
}
SPACE = f"{GEOMETRY}space_generator."


class System(NamedTuple):
    """What such a file holds: the network's kind, as system.geometry.type names it; its tensors; the steps that made it."""

    kind: str
    state: dict[str, Tensor]
    step: int


def is_published(path: Path) -> bool:
    """Whether `path` is a file of torch.save; launch.py's own checkpoints are not."""
    return path.is_file() and zipfile.is_zipfile(path)


def read(path: Path) -> System:
    """The file's system; tensors stay on disk until they are used, and nothing else of a pickle is run. Raises UserError in a line."""
    expected = "resume= takes checkpoints of launch.py and the published ones of ScaleDreamer's three networks"
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        if memory_error(error):
            raise
        reason = one_line(error).split(" WeightsUnpickler")[0][:120]
        raise UserError(f"{path}: damaged, or holds more than tensors and is not read ({reason}); {expected}") from None
    state = found.get("state_dict") if isinstance(found, dict) else None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise UserError(f"{path}: holds no state_dict of a system; {expected}")
    kind = next((kind for kind, (prefix, _) in NETWORKS.items() if any(name.startswith(prefix) for name in state)), None)
    if kind is None:
        some = ", ".join(sorted(state)[:2]) or "nothing"
        raise UserError(f"{path}: holds no network of sentences ({some}, ...); {expected}")
    step = found.get("global_step", 0)
    return System(kind, state, step if isinstance(step, int) else 0)


def stored_config(path: Path) -> dict[str, Any]:
    """The published configuration of the network in the file: of several sizes the one that fits, of none that fits the first."""
    system = read(path)
    found = [load_launch_config(shipped_folder("configs") / "multi-prompt" / f"{name}.yaml", []) for name in NETWORKS[system.kind][1]]
    return dataclasses.asdict(next((config for config in found if _fits(config, system)), found[0]))


def load_model(config: LaunchConfig, path: Path, device: torch.device) -> tuple[TextToShape, int]:
    """The file's model, to use on `device`, and its steps. Raises UserError where it is not what the configuration asks for."""
    system, wanted = read(path), config.system
    if wanted.geometry.type != system.kind:
        raise UserError(f"{path}: holds a network {system.kind}, not system.geometry.type={wanted.geometry.type}; leave --config out")
    try:
        with without_first_values():
            model = make_model(config, text_width(system), torch.Generator().manual_seed(config.seed), axes="threestudio")
        background = model.background
        if not isinstance(background, (PromptBackground, SharedBackground)):
            raise ValueError(f"system.background.type={wanted.background.type}: published networks have environment or prompt")
        sharpness = load_system(system.state, model.geometry, background)
    except (ValueError, KeyError, IndexError) as error:
        raise UserError(f"{path}: does not fit this configuration ({one_line(error)[:300]})") from None
    model.settings = dataclasses.replace(model.settings, sharpness=float(sharpness))
    return model.to(device).eval(), system.step


def text_width(system: System) -> int:
    """Numbers of a sentence's embedding that the network reads. Raises KeyError where the tensor that tells is missing."""
    state: Mapping[str, Tensor] = system.state
    if system.kind == "hyper_ingp":
        return state[f"{GEOMETRY}hypernet.layers.0.weight"].shape[1]
    if system.kind == "conv3d":
        style, both = state[f"{SPACE}mapping.embed.weight"].shape
        return both - style
    projection = f"{SPACE}proj.weight"
    return state[projection if projection in state else f"{SPACE}layers.0.cross_attn.to_k.weight"].shape[1]


def _fits(config: LaunchConfig, system: System) -> bool:
    """Whether the network that the configuration describes has the file's names and shapes."""
    try:
        with torch.device("meta"):
            generator = make_generator(config, text_width(system), None, axes="threestudio")
    except (ValueError, KeyError, IndexError):
        return False
    ours = generator.state_dict()
    wanted = {GEOMETRY + theirs: ours[own].shape for theirs, own in published.names_of(generator).items()}
    found = {name: tensor.shape for name, tensor in system.state.items() if name.startswith(GEOMETRY)}
    found.pop(GEOMETRY + published.BOX, None)
    return wanted == found
