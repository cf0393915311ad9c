"""What a run runs on: devices, memory, versions, the state of the source."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import torch
import torch.nn.functional as F

from microdreamer.core.errors import UserError
from microdreamer.kernels import extension

PACKAGES = ("torch", "numpy", "scipy", "Pillow", "trimesh")  # that a result depends on


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


@torch.no_grad()
def load_libraries(device: torch.device | str, dtype: torch.dtype) -> None:
    """Have this project's kernels and CUDA's libraries for products, convolutions and attention loaded, by a call of each in `dtype`."""
    device = torch.device(device)
    if device.type != "cuda":
        return
    extension.load()
    with torch.cuda.device(device):
        x = torch.zeros(2, 64, 8, 8, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        tokens = x.flatten(2).transpose(1, 2)
        F.conv2d(x, x.new_zeros(64, 64, 3, 3).to(memory_format=torch.channels_last), padding=1)
        F.linear(tokens, x.new_zeros(64, 64), x.new_zeros(64))
        F.scaled_dot_product_attention(*(tokens[:, None] for _ in range(3)))


def device_name(device: torch.device) -> str:
    """What ran: the GPU's name, or the processor's with the number of threads used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()} (threads: {torch.get_num_threads()})"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return name or platform.processor() or platform.machine() or "CPU"


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


def version_of(package: str) -> str:
    """That of an installed package, or "not installed"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def versions() -> dict[str, str]:
    """Versions that a result depends on, and the commit of a clone."""
    found = {package: version_of(package) for package in ("microdreamer-optimized", *PACKAGES)}
    return {"python": platform.python_version(), **found, "commit": commit()}


def provenance(device: torch.device | str, *packages: str) -> dict[str, str]:
    """What a table must name: date (UTC), device, versions of PyTorch, CUDA and `packages`, commit, command."""
    device = torch.device(device)
    found = {"date": datetime.now(timezone.utc).strftime("%Y-%m-%d"), "device": device_name(device), "torch": torch.__version__}
    if device.type == "cuda":
        found["cuda"] = str(torch.version.cuda)
    return found | {name: version_of(name) for name in packages} | {"commit": commit(), "command": _command()}


def describe(found: dict[str, str]) -> str:
    """`provenance` in one line."""
    rest = ", ".join(f"{name} {value}" for name, value in found.items() if name not in ("date", "device", "command"))
    return f"{found['date']}, {found['device']}, {rest}: {found['command']}"


def _command() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = f"-m {spec.name.removesuffix('.__main__')}" if spec else sys.argv[0]
    return " ".join(["python", program, *sys.argv[1:]])


@functools.cache
def commit() -> str:
    """Commit of the clone that this package is imported from, as it is when first asked: see `commit_of`. For a copy without its
    `.git`, as on another machine, what the environment variable MICRODREAMER_COMMIT says."""
    return os.environ.get("MICRODREAMER_COMMIT") or commit_of(Path(__file__).resolve().parents[2])


def commit_of(root: Path) -> str:
    """Commit of the clone at `root`, with `-dirty` where a file that git tracks differs from it, other than pages and what is under
    docs/, on which no result depends; "not a clone" for another folder."""
    if not (root / ".git").exists():
        return "not a clone"

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        found = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)docs", ":(exclude)*.md")
    except (OSError, subprocess.SubprocessError):
        return "unknown: git does not tell"
    return f"{found}-dirty" if changed else found
