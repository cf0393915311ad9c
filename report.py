"""What a run leaves behind: Gaussians, mesh, turntable, sheet of views, and a JSON that says how they came about."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import platform
import re
import sys
from pathlib import Path

import torch
from torch import Tensor

from cam_utils import FOV_Y, Cameras, turntable
from config import Config, UserError
from distillation.sir import Reference
from evaluation.metrics import psnr
from files import atomic_write
from gaussian_mesh import extract_mesh
from gs_renderer import GaussianModel
from kernels.extension import use_compiled
from media import write_sheet, write_video
from progress import Phases, Progress

VIEWS_PER_CALL = 12  # bounds the memory of a turntable
SHEET_VIEWS = 8
RESULTS = ("_model.ply", "_model.obj", "_model.mtl", "_model.glb", ".mp4", "_views.png", ".json")
MAX_NAME = 200  # bytes; file systems allow 255, and suffixes follow
PACKAGES = ("torch", "numpy", "scipy", "Pillow", "trimesh", "diffusers", "transformers")


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


@torch.no_grad()
def render_views(model: GaussianModel, cameras: Cameras, background: Tensor) -> Tensor:
    """Pictures [V,3,H,W] of many cameras, a few at a time."""
    parts = (cameras[start : start + VIEWS_PER_CALL] for start in range(0, len(cameras), VIEWS_PER_CALL))
    return torch.cat([model.render(part, background).image for part in parts])


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


def check_switches(device: torch.device) -> None:
    """Raise UserError for a switch that cannot be followed, before the long part rather than at the mesh."""
    for switch in ("USE_CUDA_GAUSS", "USE_CUDA_EXTRACT"):
        try:
            use_compiled(device, switch)
        except (ValueError, RuntimeError) as error:
            raise UserError(str(error)) from None


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


def print_config(config: Config) -> None:
    """The resolved configuration, as one line of JSON that the next run could read."""
    print(f"config: {json.dumps(dataclasses.asdict(config), ensure_ascii=False)}", file=sys.stderr)


def fitting_distance(model: GaussianModel, fov_y: float = FOV_Y) -> float:
    """Camera distance from which the ball around the Gaussians, but for the farthest in a thousand, fits into the picture with a margin."""
    reach = float(torch.quantile(model.means.detach().norm(dim=-1), 0.999))
    return 1.05 * reach / math.sin(math.radians(fov_y / 2))


def write_results(config: Config, stem: Path, model: GaussianModel, phases: Phases) -> str | None:
    """Gaussians, turntable, sheet of views and mesh, each written whole or not at all. Returns why there is no mesh, or None."""
    for suffix in RESULTS:  # what an earlier run of that name left would seem to belong to this one
        Path(f"{stem}{suffix}").unlink(missing_ok=True)
    background = torch.ones(3, device=model.device)
    looks = {
        "elevation": config.elevation,
        "radius": max(config.radius, fitting_distance(model, config.fovy)),
        "fov_y": config.fovy,
        "device": model.device,
    }
    size = {"width": config.video_size, "height": config.video_size}
    model.save_ply(f"{stem}_model.ply")
    with phases("video"):
        write_sheet(f"{stem}_views.png", render_views(model, turntable(SHEET_VIEWS, **looks, **size), background), columns=SHEET_VIEWS // 2)
        if config.video_frames:
            write_video(f"{stem}.mp4", render_views(model, turntable(config.video_frames, **looks, **size), background))
    with phases("mesh"):
        try:
            mesh = extract_mesh(model, config.density_thresh, config.mesh_resolution, config.mesh_faces)
        except ValueError as error:  # no surface at this threshold: the Gaussians are still worth having
            return str(error)
        if config.mesh_format in ("obj", "all"):
            mesh.write_obj(f"{stem}_model.obj")
        if config.mesh_format in ("glb", "all"):
            mesh.write_glb(f"{stem}_model.glb")
    return None


def write_record(
    config: Config, stem: Path, model: GaussianModel, reference: Reference | None, progress: Progress, complete: bool, no_mesh: str | None
) -> None:
    """`NAME.json`, the last file of a run: whether it is complete, what it took, on what, and how to repeat it."""
    device = model.device
    record = {
        "complete": complete,
        "rounds": progress.rounds_done,
        "optimiser_steps": progress.fit_steps,
        "prior_evaluations": progress.evaluations,
        "gaussians": len(model),
        "input_view_psnr_db": None,
        "no_mesh": no_mesh,
        "seconds": {name: round(seconds, 3) for name, seconds in progress.phases.seconds.items()},
        "peak_memory_mib": peak_memory_mib(device),
        "device": device_name(device),
        "versions": versions(),
        "seed": config.seed,
        "config": dataclasses.asdict(config),
    }
    if reference is not None:
        seen = render_views(model, reference.camera, torch.ones(3, device=device))
        record["input_view_psnr_db"] = round(float(psnr(seen, reference.image)), 3)
    with atomic_write(f"{stem}.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
