"""A training run on disk: all that it needs to go on as if it had never stopped, and older weights to start from."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import Tensor

from microdreamer.core import tensor_files
from microdreamer.core.files import atomic_write
from microdreamer.guidance.checkpoints import load_into, load_sharded
from microdreamer.guidance.micro.network import MultiViewNetwork
from microdreamer.guidance.micro.vocabulary import Vocabulary
from microdreamer.training.micro_prior.optimiser import FlatOptimiser

FILE = "training.safetensors"


@dataclasses.dataclass
class Progress:
    """How far a run is: steps `done` of `total`, and seconds of wall clock spent on them."""

    done: int = 0
    total: int = 0
    seconds: float = 0.0


def random_states(device: torch.device) -> Tensor:
    """[ranks, bytes] uint8 on the CPU: the state of every rank's default generator on `device`. All ranks have to call it."""
    own = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
    if not dist.is_initialized():
        return own[None]
    gathered = [torch.empty_like(own, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, own.to(device))
    return torch.stack(gathered).cpu()


def set_random_state(state: Tensor, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state.clone(), device)
    else:
        torch.set_rng_state(state.clone())


def save_run(path: Path, optimiser: FlatOptimiser, progress: Progress, states: Tensor, run: dict) -> None:
    """Write the whole state of a run. `run` describes what must be the same when it goes on: settings, data, words."""
    tensors = {name: tensor.cpu() for name, tensor in optimiser.state().items()}
    stored = {"progress": json.dumps(dataclasses.asdict(progress)), "run": json.dumps(run)}
    with atomic_write(path) as temporary:
        temporary.write_bytes(tensor_files.encoded({**tensors, "random": states}, stored))


def load_run(path: Path, optimiser: FlatOptimiser, device: torch.device, run: dict) -> Progress:
    """Put a saved run's state into `optimiser` and this rank's generator on `device`; returns how far it is.

    Raises FileNotFoundError for a missing file, ValueError for one that is not whole, that is damaged, or that is of another run:
    other settings, objects, words or number of GPUs.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no run to resume there; leave out --resume to start one")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a safe_open is no dict
            stored = file.metadata()
    except SafetensorError as error:
        raise ValueError(f"{path}: truncated or not a safetensors file ({error})") from error
    if not stored or "run" not in stored or "random" not in tensors:
        raise ValueError(f"{path}: not a training run's state")
    tensor_files.check(path, tensors, stored, "take a copy of it, or start the run anew without --resume")
    before = json.loads(stored["run"])
    for name in sorted(set(before) | set(run)):
        if before.get(name) != run.get(name):
            raise ValueError(
                f"{path}: cannot resume: {name} was {before.get(name)}, now {run.get(name)}; give the same settings and objects"
            )
    world, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    states = tensors.pop("random")
    if len(states) != world:
        raise ValueError(f"{path}: cannot resume: it ran in {len(states)} processes, now {world}; start as many")
    optimiser.set_state(tensors)
    set_random_state(states[rank], device)
    return Progress(**json.loads(stored["progress"]))


# The decoder of surfaces starts as a copy of that of colours, except for its head.
GEOMETRY_FROM = {
    "geometry_from_middle.": "from_middle.",
    "geometry_join.": "join_fine.",
    "geometry_up.": "up_fine.0.",
    "modulate_geometry.shared.": "modulate_fine.shared.",
}


def fill_new_parts(network: MultiViewNetwork, state: dict[str, Tensor]) -> None:
    """Add to an older network's `state` what `network` has beyond it: gates and heads of 0, copies of the colours' decoder."""
    for name, value in network.state_dict().items():
        if name in state:
            continue
        source = next((old + name.removeprefix(new) for new, old in GEOMETRY_FROM.items() if name.startswith(new)), None)
        if name == "modulate_geometry.offset":
            state[name] = state["modulate_fine.offset"][-1:].clone()
        elif source in state:
            state[name] = state[source].clone()
        elif ".attention.relative." in name or name.startswith("geometry_head."):
            state[name] = torch.zeros_like(value, device="cpu")


def start_from(network: MultiViewNetwork, vocabulary: Vocabulary, folder: Path) -> int:
    """Copy the weights of a prior's folder into `network`; words are matched by spelling. Returns how many words it knew.

    New words keep their random start. Parts that the older network lacks begin without effect (`fill_new_parts`).
    Raises FileNotFoundError or ValueError for a folder that does not fit the network.
    """
    config = folder / "config.json"
    try:
        old = Vocabulary(json.loads(config.read_text())["words"])
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder}: no micro prior there (config.json is missing)") from None
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"{config}: not a micro prior's configuration ({error!r})") from error
    state = {name: tensor.float() for name, tensor in load_sharded(folder).items()}
    place = {word: index + 1 for index, word in enumerate(old.words)}
    known = [(index + 1, place[word]) for index, word in enumerate(vocabulary.words) if word in place]
    words = network.text.words.detach().cpu().clone()
    words[0] = state["text.words"][0]
    if known:
        here, there = (list(side) for side in zip(*known, strict=True))
        words[here] = state["text.words"][there]
    state["text.words"] = words
    fill_new_parts(network, state)
    load_into(network, state, folder)
    return len(known)
