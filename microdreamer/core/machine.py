"""What a run runs on: devices, memory, versions, the state of the source."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path

import torch

from microdreamer.core.errors import UserError

PACKAGES = ("torch", "numpy", "scipy", "Pillow", "trimesh", "diffusers", "transformers")  # that a result depends on


def best_device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_device(name: str, option: str = "device=") -> torch.device:
    """The device called `name`; `auto` is CUDA where there is one. Raises UserError, which calls the user's word `option`, for one
    that is not there."""
    if name == "auto":
        return best_device()
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):  # what PyTorch raises for names, builds and back ends that it lacks
        raise UserError(f"{option}{name}: not on this machine; pass {option}cpu or {option}auto") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"{option}{name}: expected cpu or cuda")
    return device


def device_name(device: torch.device) -> str:
    """What ran: the GPU's name, or the processor with the number of threads used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def peak_memory_mib(device: torch.device) -> dict[str, float]:
    """Largest memory so far in MiB: of the process, and of PyTorch's tensors on the GPU."""
    found = {}
    if sys.platform != "win32":
        import resource

        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found["process"] = round(largest / (2**20 if sys.platform == "darwin" else 2**10), 1)
    if device.type == "cuda":
        found["gpu"] = round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return found


def versions() -> dict[str, str]:
    """Versions that a result depends on, and the commit of a clone."""
    found = {"python": platform.python_version()}
    for package in ("microdreamer-optimized", *PACKAGES):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    revision = git_revision()
    return found | {"commit": revision} if revision else found


@functools.cache
def git_revision() -> str | None:
    """Commit of the clone that this package is imported from, with `-dirty` where files differ from it; None outside of a clone."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    words = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
