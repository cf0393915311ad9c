"""Checkpoints of a training run: everything that its next step depends on, and what it was made with."""

from __future__ import annotations

import dataclasses
import io
import pickle
import zipfile
from pathlib import Path

import torch

from microdreamer.core.files import atomic_write
from microdreamer.voxel_diffusion.denoiser import Denoiser
from microdreamer.voxel_diffusion.network import NetworkConfig, VoxelUNet
from microdreamer.voxel_diffusion.schedule import VoxelSchedule
from microdreamer.voxel_diffusion.training import Trainer

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """The arguments of `VoxelSchedule.make`."""

    kind: str = "linear"
    timesteps: int = 1000
    log_snr_shift: float = 0.0

    def make(self) -> VoxelSchedule:
        return VoxelSchedule.make(self.kind, self.timesteps, self.log_snr_shift)


def as_dict(schedule: ScheduleConfig) -> dict:
    """The schedule as files hold it."""
    return dataclasses.asdict(schedule)


def describe(trainer: Trainer, schedule: ScheduleConfig) -> dict[str, dict]:
    """What a run that resumes must have in common with this one: anything else would not be the same run."""
    network, config = dataclasses.asdict(trainer.denoiser.network.config), trainer.config
    training = {
        name: getattr(config, name) for name in ("batch", "rate", "warmup", "decay", "weight_decay", "clip", "ema", "augment", "seed")
    }
    return {
        "network": network | {"multipliers": list(network["multipliers"])},
        "schedule": as_dict(schedule),
        "training": training | {"timesteps": trainer.sampler.name, "grids": len(trainer.grids)},
    }


def save_checkpoint(path: str | Path, trainer: Trainer, schedule: ScheduleConfig) -> None:
    """Write the whole state of a run."""
    state = {"format": FORMAT, "config": describe(trainer, schedule), **trainer.state_dict()}
    stored = io.BytesIO()  # writing it ourselves, a full disk is an OSError that names the file; torch.save raises another thing
    torch.save(state, stored)
    with atomic_write(path) as temporary:
        temporary.write_bytes(stored.getbuffer())


def read_checkpoint(path: str | Path) -> dict:
    """The stored state, on the CPU. Raises FileNotFoundError, or ValueError for a file that is no checkpoint of this package."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such checkpoint; expected the checkpoint.pt of a run (python -m microdreamer.voxel_diffusion train)"
        )
    try:
        with zipfile.ZipFile(path) as archive:  # its parts have sums to check them by, which torch.load does not look at
            damaged = archive.testzip()
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: not a checkpoint that can be read; it is damaged or of another program") from error
    if damaged is not None:
        raise ValueError(f"{path}: damaged: a byte of {damaged} changed on the disk or on its way; take a copy of it, or train anew")
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{path}: not a checkpoint of this program's voxel diffusion")
    return state


def resume(path: str | Path, trainer: Trainer, schedule: ScheduleConfig) -> None:
    """Take up a run where the checkpoint left it. Raises ValueError, naming the options, for one of another configuration."""
    state = read_checkpoint(path)
    _check_same(path, state, describe(trainer, schedule))
    trainer.load_state_dict(state)


def resume_weights(path: str | Path, trainer: Trainer, schedule: ScheduleConfig) -> None:
    """Take only the averaged weights; the network and the schedule must be the same. Raises ValueError where they are not."""
    state = read_checkpoint(path)
    wanted = describe(trainer, schedule)
    _check_same(path, state, {name: wanted[name] for name in ("network", "schedule")})
    trainer.denoiser.network.load_state_dict(state["average"])


def _check_same(path: str | Path, state: dict, wanted: dict[str, dict]) -> None:
    wrong = []
    for section, values in wanted.items():
        stored = state["config"].get(section, {})
        wrong += [f"{name}={stored.get(name)!r} there, {value!r} here" for name, value in values.items() if stored.get(name) != value]
    if wrong:
        raise ValueError(f"{path}: a checkpoint of another configuration ({'; '.join(wrong)}); pass the same options or another --out")


def load_denoiser(path: str | Path, device: torch.device | str = "cpu", bf16: bool = False) -> tuple[Denoiser, dict]:
    """The averaged network of a checkpoint on `device`, and the stored state's `config`, `steps` and `trained` timesteps."""
    state = read_checkpoint(path)
    try:
        network = VoxelUNet(NetworkConfig(**state["config"]["network"])).to(device)
        network.load_state_dict(state["average"])
        schedule = ScheduleConfig(**state["config"]["schedule"]).make()
        trained = torch.nonzero(state["sampler"]["probabilities"] > 0)[:, 0].tolist()
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path}: a checkpoint whose weights do not fit its configuration; it is damaged") from error
    network.eval()
    return Denoiser(network, schedule, bf16), {"config": state["config"], "steps": state["steps"], "trained": trained}
