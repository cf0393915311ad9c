"""What a run leaves behind: Gaussians, mesh, turntable, sheet of views, and a JSON that says how they came about."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from cam_utils import Cameras, fitting_distance, orbit_cameras, turntable
from microdreamer.core import profiler
from microdreamer.core.errors import UserError, user_errors
from microdreamer.core.files import MAX_NAME, clean_name, sha256_of, try_writing, user_path
from microdreamer.core.machine import device_name, peak_memory_mib, versions
from microdreamer.core.staging import check_places, staged
from microdreamer.gaussians.model import GaussianModel
from microdreamer.images.plan import MIDDLE, draw_plan
from microdreamer.images.reference import PosedPicture, Reference
from microdreamer.images.writing import write_sheet, write_video
from microdreamer.kernels.extension import use_compiled
from microdreamer.meshes.files import write_mesh
from microdreamer.meshes.mesh import Mesh
from microdreamer.metrics.pictures import psnr
from microdreamer.pipeline.config import Config
from microdreamer.pipeline.inputs import split_input
from microdreamer.pipeline.progress import OnProgress, Watch

log = logging.getLogger(__name__)

VIEWS_PER_CALL = 12  # bounds the memory of a turntable
SHEET_VIEWS = 8
FROM_ABOVE = -90.0  # degrees
QUANTILE_POINTS = 1 << 20  # torch.quantile takes no more than 16 million
MESH_FILES = (".obj", ".mtl", "_albedo.png", ".glb")
# All that a result may consist of, after its stem; the record is put in place last.
SPLAT_FILES = {"ply": "_model.ply", "splat": "_model.splat", "spz": "_model.spz", "glb": "_splats.glb"}  # _model.glb is the mesh
CAMERAS = "_cameras.jpg"
PREVIEW = ("_preview.png", "_preview.ply")
STAGE_1 = (*PREVIEW, *SPLAT_FILES.values(), *(f"_model{suffix}" for suffix in MESH_FILES), ".mp4", "_views.png", CAMERAS, ".json")
STAGE_2 = (*MESH_FILES, ".mp4", "_views.png", ".json")


class Shown(Protocol):
    def render(self, cameras: Cameras, background: Tensor) -> Any: ...


@dataclasses.dataclass
class Result:
    """What `reconstruct` or `refine` made.

    gaussians: None where a mesh was refined that came without. mesh: textured, None where the Gaussians have no surface
    (`no_mesh` says why). record: what the JSON file will hold: configuration, seconds, scores, versions. complete: whether no
    round was left out because the caller stopped it. inputs: the pictures that it was made from, with their cameras. guess: what the
    preview showed, where there was one.
    """

    config: Config
    gaussians: GaussianModel | None
    mesh: Mesh | None
    record: dict[str, Any]
    shown: Shown  # what pictures are made of: the Gaussians, or the refined mesh within its frame
    points: Tensor  # [P,3], of that
    complete: bool = True
    no_mesh: str | None = None
    refined: bool = False
    inputs: Sequence[PosedPicture] = ()
    guess: GaussianModel | None = None

    def save(self, folder: str | Path | None = None, name: str | None = None, on_progress: OnProgress | None = None) -> Path:
        """Write everything as `folder/NAME...` (default: the configuration's); returns `folder/NAME`, `_refined` added to a refined one's.

        All files take their places together, at the end: until then an earlier result of that name stays as it was. A film that
        cannot be written is a warning, and the rest is written. Raises UserError where files cannot be.
        """
        config = dataclasses.replace(self.config, outdir=str(folder or self.config.outdir), save_path=name or self.config.save_path)
        stem = result_stem(config)
        if self.refined:
            stem = stem.with_name(f"{stem.name}_refined")
        watch = Watch(self.points.device, on_progress)
        with user_errors(), torch.no_grad(), staged(stem, STAGE_2 if self.refined else STAGE_1) as aside:
            with watch.phase("write"):
                if not self.refined and self.gaussians is not None:
                    write_gaussians(config, aside, self.gaussians)
                if self.guess is not None:
                    write_preview_files(config, aside, self.guess)
                if self.mesh is not None:
                    write_mesh(self.mesh, aside if self.refined else f"{aside}_model", config.mesh_format)
            with watch.phase("video"):
                write_pictures(config, aside, self.shown, self.points)
                if len(self.inputs) > 1 and not self.refined:
                    write_plan(config, aside, self.shown, self.points, self.inputs)
            files = {path.name: sha256_of(path) for path in sorted(aside.parent.iterdir())}
            seconds = self.record["seconds"] | {phase: round(spent, 3) for phase, spent in watch.seconds.items()}
            record = self.record | {"seconds": seconds, "config": dataclasses.asdict(self.config), "files": files}
            text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
            # A name of bytes that are no text stands as an escape, which JSON reads back.
            Path(f"{aside}.json").write_text(text, encoding="utf-8", errors="backslashreplace")
        return stem


def result_stem(config: Config) -> Path:
    """`outdir/NAME`: save_path, else the name of the (first) picture (or of what is refined), else the prompt's words, made fit for a name.

    Raises UserError for a save_path that is no plain name.
    """
    first = split_input(config.input)[0] if config.input else None
    name, source = config.save_path, first or config.mesh or config.load
    if name is None and source:
        name = clean_name(Path(source).stem.removesuffix("_rgba"))
    elif name is None:
        name = clean_name(re.sub(r"\W+", "_", config.prompt or "").strip("_")[:60])
    elif Path(name).name != name or not name.isprintable() or name.startswith(".") or len(name.encode()) > MAX_NAME:
        raise UserError(f"save_path={name}: expected a plain name of at most {MAX_NAME} bytes; outdir=FOLDER sets where it goes")
    return user_path(config.outdir) / name


def check_writable(stem: Path) -> None:
    """Try whether the output folder can be made and written to, before the long part. Raises UserError if not; leaves nothing."""
    with user_errors():
        check_places(stem, STAGE_1)
        check_places(f"{stem}_refined", STAGE_2)
    try:
        try_writing(stem)
    except OSError as error:
        raise UserError(f"outdir={stem.parent}: cannot be written to ({error.strerror}); choose another outdir") from None


def check_switches(config: Config, device: torch.device) -> None:
    """Raise UserError for a switch or a method that cannot be followed, before the long part rather than at the mesh."""
    if config.unwrap == "xatlas" and importlib.util.find_spec("xatlas") is None:
        raise UserError("unwrap=xatlas: the package xatlas is not installed: pip install xatlas; or leave it out")
    for switch in ("USE_CUDA_GAUSS", "USE_CUDA_EXTRACT"):
        try:
            use_compiled(device, switch)
        except (ValueError, RuntimeError) as error:
            raise UserError(str(error)) from None


@torch.no_grad()
@profiler.function
def render_views(model: Shown, cameras: Cameras, background: Tensor) -> Tensor:
    """Pictures [V,3,H,W] of many cameras, a few at a time."""
    parts = (cameras[start : start + VIEWS_PER_CALL] for start in range(0, len(cameras), VIEWS_PER_CALL))
    return torch.cat([model.render(part, background).image for part in parts])


def distance_for(points: Tensor, fov_y: float) -> float:
    """Camera distance from which the ball around points [P,3], without the farthest in a thousand, fits into the picture with a margin."""
    reach = float(torch.quantile(points.detach().norm(dim=-1)[:: 1 + len(points) // QUANTILE_POINTS], 0.999))
    return fitting_distance(reach, fov_y)


def circled(config: Config, model: Shown, points: Tensor, count: int) -> Tensor:
    """`count` pictures [V,3,S,S] on white from around an object with these points [P,3], at the height of the picture's camera."""
    radius = max(config.radius, distance_for(points, config.fovy))
    size = {"width": config.video_size, "height": config.video_size, "device": points.device}
    return render_views(model, turntable(count, config.eye_level, radius, fov_y=config.fovy, **size), torch.ones(3, device=points.device))


def write_pictures(config: Config, stem: str | Path, model: Shown, points: Tensor) -> None:
    """The sheet of views and the turntable of an object with these points [P,3]. A film that fails is a warning."""
    write_sheet(f"{stem}_views.png", circled(config, model, points, SHEET_VIEWS), columns=SHEET_VIEWS // 2)
    if config.video_frames:
        try:
            write_video(f"{stem}.mp4", circled(config, model, points, config.video_frames))
        except OSError as error:
            log.warning("no film was written, the rest was: %s", " ".join(str(error).split()))


def write_preview(config: Config, guess: GaussianModel) -> Path:
    """Write the first guess of a run beside where its result will be, both files or none; returns `outdir/NAME`. Raises UserError."""
    stem = result_stem(config)
    with user_errors(), staged(stem, PREVIEW) as aside:
        write_preview_files(config, aside, guess)
    return stem


def write_preview_files(config: Config, stem: str | Path, guess: GaussianModel) -> None:
    """The first guess as PLY and as a sheet of views."""
    write_sheet(f"{stem}{PREVIEW[0]}", circled(config, guess, guess.means.detach(), SHEET_VIEWS), columns=SHEET_VIEWS // 2)
    guess.save(f"{stem}{PREVIEW[1]}")


def write_plan(config: Config, stem: str | Path, model: Shown, points: Tensor, inputs: Sequence[PosedPicture]) -> None:
    """Where the cameras of the pictures stand around the object, from above."""
    distance = max(config.radius, distance_for(points, config.fovy))
    camera = orbit_cameras(FROM_ABOVE, 0.0, distance, fov_y=config.fovy, width=MIDDLE, height=MIDDLE, device=points.device)
    draw_plan(inputs, render_views(model, camera, torch.ones(3, device=points.device))).save(f"{stem}{CAMERAS}", quality=90)


def write_gaussians(config: Config, stem: str | Path, model: GaussianModel) -> None:
    """The Gaussians as PLY, and in the other formats asked for."""
    for format in SPLAT_FILES:
        if format in ("ply", config.splat_format) or config.splat_format == "all":
            model.save(f"{stem}{SPLAT_FILES[format]}", format)


def make_record(config: Config, device: torch.device, seconds: dict[str, float], **found: object) -> dict[str, Any]:
    """What `NAME.json` holds: what the run found, what it took, on what, and how to repeat it."""
    return found | {
        "seconds": {name: round(spent, 3) for name, spent in seconds.items()},
        "peak_memory_mib": peak_memory_mib(device),
        "device": device_name(device),
        "versions": versions(),
        "seed": config.seed,
        "config": dataclasses.asdict(config),
    }


def input_view_psnr(model: Shown, reference: Reference | None) -> float | None:
    """How well the object's renders reproduce the pictures, in dB (the mean); None without any."""
    if reference is None:
        return None
    seen = render_views(model, reference.camera, torch.ones(3, device=reference.image.device))
    return round(float(psnr(seen, reference.image).mean()), 3)
