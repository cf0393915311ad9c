"""What a run leaves behind: Gaussians, mesh, turntable, sheet of views, and a JSON that says how they came about."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import math
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from cam_utils import FOV_Y, Cameras, turntable
from microdreamer.core import profiler
from microdreamer.core.files import atomic_write, try_writing
from microdreamer.distillation.sir import Reference
from microdreamer.fields.conversion import convert
from microdreamer.gaussians.extraction import extract_mesh
from microdreamer.gaussians.model import GaussianModel
from microdreamer.images.writing import write_sheet, write_video
from microdreamer.kernels.extension import use_compiled
from microdreamer.meshes.baking import bake, unwrapped
from microdreamer.meshes.files import encoded_texture, write_glb, write_obj
from microdreamer.meshes.mesh import Mesh
from microdreamer.metrics.pictures import psnr
from microdreamer.pipeline.config import Config, UserError
from microdreamer.pipeline.progress import Phases

VIEWS_PER_CALL = 12  # bounds the memory of a turntable
SHEET_VIEWS = 8
QUANTILE_POINTS = 1 << 20  # torch.quantile takes no more than 16 million
MESH_FILES = (".obj", ".mtl", "_albedo.png", ".glb")
SPLAT_FILES = {"ply": "_model.ply", "splat": "_model.splat", "spz": "_model.spz", "glb": "_splats.glb"}  # _model.glb is the mesh
RESULTS = (*SPLAT_FILES.values(), *(f"_model{suffix}" for suffix in MESH_FILES), ".mp4", "_views.png", ".json")
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
    """Try whether the output folder can be made and written to, before the long part. Raises UserError if not; leaves nothing."""
    try:
        try_writing(stem)
    except OSError as error:
        raise UserError(f"outdir={stem.parent}: cannot be written to ({error.strerror}); choose another outdir") from None


class Shown(Protocol):
    def render(self, cameras: Cameras, background: Tensor) -> Any: ...


@torch.no_grad()
@profiler.function
def render_views(model: Shown, cameras: Cameras, background: Tensor) -> Tensor:
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


def check_switches(config: Config, device: torch.device) -> None:
    """Raise UserError for a switch or a method that cannot be followed, before the long part rather than at the mesh."""
    if config.unwrap == "xatlas" and importlib.util.find_spec("xatlas") is None:
        raise UserError("unwrap=xatlas: the package xatlas is not installed: pip install xatlas; or leave it out")
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


def fitting_distance(points: Tensor, fov_y: float = FOV_Y) -> float:
    """Camera distance from which the ball around points [P,3], but for the farthest in a thousand, fits into the picture with a margin."""
    reach = float(torch.quantile(points.detach().norm(dim=-1)[:: 1 + len(points) // QUANTILE_POINTS], 0.999))
    return 1.05 * reach / math.sin(math.radians(fov_y / 2))


def remove_results(stem: Path, suffixes: Sequence[str]) -> None:
    """Remove what an earlier run of that name left; it would seem to belong to this one."""
    for suffix in suffixes:
        Path(f"{stem}{suffix}").unlink(missing_ok=True)


def write_pictures(config: Config, stem: str | Path, model: Shown, points: Tensor) -> None:
    """The sheet of views and the turntable of an object with these points [P,3]."""
    background = torch.ones(3, device=points.device)
    looks = {
        "elevation": config.elevation,
        "radius": max(config.radius, fitting_distance(points, config.fovy)),
        "fov_y": config.fovy,
        "device": points.device,
        "width": config.video_size,
        "height": config.video_size,
    }
    write_sheet(f"{stem}_views.png", render_views(model, turntable(SHEET_VIEWS, **looks), background), columns=SHEET_VIEWS // 2)
    if config.video_frames:
        write_video(f"{stem}.mp4", render_views(model, turntable(config.video_frames, **looks), background))


@profiler.function
def write_mesh(config: Config, stem: str | Path, mesh: Mesh) -> None:
    """The mesh in the formats asked for."""
    png = encoded_texture(mesh) if mesh.has_texture else None
    if config.mesh_format in ("obj", "all"):
        write_obj(mesh, f"{stem}.obj", png)
    if config.mesh_format in ("glb", "all"):
        write_glb(mesh, f"{stem}.glb", png)


def write_gaussians(config: Config, stem: str | Path, model: GaussianModel) -> None:
    """The Gaussians as PLY, and in the other formats asked for."""
    for format in SPLAT_FILES:
        if format in ("ply", config.splat_format) or config.splat_format == "all":
            model.save(f"{stem}{SPLAT_FILES[format]}", format)


def make_mesh(config: Config, model: GaussianModel, picture: Reference | None) -> Mesh:
    """The textured mesh of the Gaussians. Raises ValueError where they have no surface."""
    if config.mesh_method == "field":
        mesh = convert(model, config.mesh_faces, generator=torch.Generator().manual_seed(config.seed))
    else:
        mesh = extract_mesh(model, config.density_thresh, config.mesh_resolution, config.mesh_faces, color_vertices=False)
    mesh = unwrapped(mesh, config.texture_size, config.unwrap)
    return bake(mesh, config.texture_size, model, picture, model.device)


def write_results(config: Config, stem: Path, model: GaussianModel, picture: Reference | None, phases: Phases) -> str | None:
    """Gaussians, turntable, sheet of views and mesh, each written whole or not at all. Returns why there is no mesh, or None."""
    remove_results(stem, RESULTS)
    write_gaussians(config, stem, model)
    with phases("video"):
        write_pictures(config, stem, model, model.means)
    with phases("mesh"):
        try:
            mesh = make_mesh(config, model, picture)
        except ValueError as error:  # no surface at this threshold: the Gaussians are still worth having
            return str(error)
        write_mesh(config, f"{stem}_model", mesh)
    return None


def write_record(config: Config, stem: str | Path, device: torch.device, phases: Phases, **found: object) -> None:
    """`NAME.json`, the last file of a run: what the run found, what it took, on what, and how to repeat it."""
    record = found | {
        "seconds": {name: round(seconds, 3) for name, seconds in phases.seconds.items()},
        "peak_memory_mib": peak_memory_mib(device),
        "device": device_name(device),
        "versions": versions(),
        "seed": config.seed,
        "config": dataclasses.asdict(config),
    }
    with atomic_write(f"{stem}.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def input_view_psnr(model: Shown, reference: Reference | None) -> float | None:
    """How well the object's render reproduces the picture, in dB; None without one."""
    if reference is None:
        return None
    seen = render_views(model, reference.camera, torch.ones(3, device=reference.image.device))
    return round(float(psnr(seen, reference.image)), 3)
