"""What a run leaves behind besides the object: turntable, sheet of views, and a JSON that says how it came about."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import sys
from pathlib import Path

import torch
from torch import Tensor

from cam_utils import Cameras
from config import Config, UserError
from distillation.sir import Reference, Rendering, Representation
from files import atomic_write
from guidance import Prior
from progress import Progress

VIEWS_PER_CALL = 12  # bounds the memory of a turntable
MAX_NAME = 200  # bytes; file systems allow 255, and suffixes follow
PACKAGES = ("torch", "numpy", "scipy", "Pillow", "trimesh")


def result_stem(config: Config) -> Path:
    """`outdir/NAME`: save_path, else the picture's name, else the prompt's words. Raises UserError for a name that is a path."""
    name = config.save_path
    if name is None and config.input:
        name = Path(config.input).stem.removesuffix("_rgba")
    elif name is None:
        name = re.sub(r"\W+", "_", config.prompt or "").strip("_")[:60] or "object"
    if Path(name).name != name or not name.isprintable() or name.startswith(".") or len(name.encode()) > MAX_NAME:
        raise UserError(f"save_path={name}: expected a plain name of at most {MAX_NAME} bytes; outdir=FOLDER sets where it goes")
    return Path(config.outdir) / name


def check_writable(stem: Path) -> None:
    """Make the output folder and try it, before the long part. Raises UserError if it cannot be written to."""
    probe = stem.with_name(f".{stem.name}.probe")
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"outdir={stem.parent}: cannot be written to ({error.strerror}); choose another outdir") from None


def psnr(image: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of values in [0,1]."""
    return float(-10 * torch.log10((image - truth).square().mean().clamp_min(1e-12)))


@torch.no_grad()
def render_views(representation: Representation, cameras: Cameras, background: Tensor) -> Tensor:
    """Pictures [V,3,H,W] of many cameras, a few at a time."""
    parts: list[Rendering] = [
        representation.render(cameras[i : i + VIEWS_PER_CALL], background) for i in range(0, len(cameras), VIEWS_PER_CALL)
    ]
    return torch.cat([part.image for part in parts])


def choose_device(name: str) -> torch.device:
    """The device called `name`; `auto` is CUDA where there is one. Raises UserError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"device={name}: not on this machine; pass device=cpu or device=auto") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device={name}: expected cpu or cuda")
    return device


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    found = {"python": platform.python_version()}
    for package in ("microdreamer-optimized", *PACKAGES):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    return found


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


def print_settings(settings: dict) -> None:
    """The resolved configuration, as one line of JSON that the next run could read."""
    print(f"config: {json.dumps(settings, ensure_ascii=False)}", file=sys.stderr)


def write_record(
    stem: Path,
    settings: dict,
    model: Representation,
    prior: Prior,
    reference: Reference | None,
    progress: Progress,
    complete: bool,
    no_mesh: str | None,
) -> None:
    """`NAME.json`, the last file of a run: whether it is complete, what it took, on what, and how to repeat it."""
    record = {
        "complete": complete,
        "rounds": progress.rounds_done,
        "optimiser_steps": progress.fit_steps,
        "prior_evaluations": progress.evaluations,
        "gaussians": len(model),
        "input_view_psnr_db": None,
        "no_mesh": no_mesh,
        "seconds": {name: round(seconds, 3) for name, seconds in progress.phases.seconds.items()},
        "peak_memory_mib": peak_memory_mib(prior.device),
        "device": device_name(prior.device),
        "versions": versions(),
        "seed": settings["seed"],
        "config": settings,
    }
    if reference is not None:
        seen = render_views(model, reference.camera, torch.ones(3, device=prior.device))
        record["input_view_psnr_db"] = round(psnr(seen, reference.image), 3)
    with atomic_write(f"{stem}.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
