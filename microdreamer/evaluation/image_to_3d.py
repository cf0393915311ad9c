"""How well pictures become 3D: known objects are generated from one picture, or a few, and measured from sides that no one has seen.

python -m microdreamer.evaluation.image_to_3d --config configs/micro.yaml --objects val.npz --limit 32 --out results.json [key=value ...]

The protocol is in docs/evaluation.md. The table goes to the standard output, everything else to --out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from cam_utils import Cameras, orbit_cameras
from microdreamer.core.command import Interrupt, Parser, exit_code
from microdreamer.core.errors import Stopped, UserError, user_errors
from microdreamer.core.files import atomic_write
from microdreamer.core.machine import choose_device, describe, peak_memory_mib, provenance, versions
from microdreamer.evaluation import summary
from microdreamer.evaluation.oracle import TruePrior
from microdreamer.evaluation.trivial import flat_card, visual_hull
from microdreamer.guidance import load_prior
from microdreamer.guidance.base import Prior
from microdreamer.guidance.samplers import ddim_sample
from microdreamer.images.reference import PosedPicture
from microdreamer.images.writing import write_sheet
from microdreamer.meshes.files import read_mesh, write_glb
from microdreamer.meshes.mesh import Mesh
from microdreamer.meshes.model import MeshModel
from microdreamer.metrics.meshes import asset_faults, mesh_quality
from microdreamer.metrics.pictures import mask_iou, point_scores, psnr, sharpness, ssim
from microdreamer.metrics.points import flat_light, outer_points, outer_points_of
from microdreamer.pipeline import reconstruction as generation
from microdreamer.pipeline import refinement
from microdreamer.pipeline.asset import make_mesh
from microdreamer.pipeline.commands import config_line
from microdreamer.pipeline.config import Config, load_config
from microdreamer.pipeline.progress import Progress, ShouldStop, Watch
from microdreamer.pipeline.results import check_writable
from microdreamer.shapes import render as shape_render
from microdreamer.shapes.packed import PackedMeshes, load_packed
from microdreamer.training.micro_prior.metrics import silhouette_iou

INPUT_ELEVATION = -15.0  # degrees: the picture is taken from 15 above, at azimuth 0
PICTURE_AZIMUTHS = (0.0, 90.0, 180.0, 270.0)  # of the first, second, ... picture
INPUT_SIZE = 512  # px
VIEW_SIZE = 256  # px of the pictures that are compared
AZIMUTHS = tuple(11.25 + 22.5 * view for view in range(16))
ELEVATIONS = (-30.0, 0.0, -15.0, 15.0) * 4  # each of them from four sides
PRIOR_SIDES = (0.0, 90.0, 180.0, 270.0)
PRIOR_STEPS = 10
SHEET_VIEWS, SHEET_SIZE = (1, 5, 9, 13), 128  # four sides at eye level; px
OWN_KEYS = (
    "input",
    "prompt",
    "load",
    "save_path",
    "elevation",
    "azimuth",
    "outdir",
    "video_frames",
    "video_size",
    "mesh_format",
    "material",
    "preview",
    "profiling",
)


@dataclasses.dataclass(frozen=True)
class Scene:
    """One true object as it is shown and measured; pictures are on white, in [0,1], on the device."""

    pictures: Sequence[PosedPicture]  # of INPUT_SIZE, the input
    input_camera: Cameras
    cameras: Cameras  # the unseen ones
    input_view: Tensor  # [1,3,H,W]
    views: Tensor  # [V,3,H,W]
    coverage: Tensor  # [V,1,H,W]
    points: Tensor  # [P,3] on the outside

    @property
    def picture(self) -> Tensor:
        """The first one, straight RGBA [4,S,S]."""
        return self.pictures[0].picture


def input_picture(meshes: PackedMeshes, index: int, config: Config, azimuth: float = 0.0) -> Tensor:
    """A straight RGBA picture [4,S,S] of an object that the evaluation starts from, in steps of 1/255 as a PNG would hold it."""
    camera = _cameras(config, [INPUT_ELEVATION], [azimuth], INPUT_SIZE, meshes.device)
    rgba = shape_render.render_views(meshes, index, camera)[0]
    straight = (rgba[:3] / rgba[3:].clamp_min(1e-6)).clamp(0, 1)
    return (torch.cat([straight, rgba[3:]]) * 255).round() / 255


def _cameras(config: Config, elevation: Sequence[float], azimuth: Sequence[float], size: int, device: torch.device) -> Cameras:
    return orbit_cameras(elevation, azimuth, config.radius, fov_y=config.fovy, width=size, height=size, device=device)


def make_scene(meshes: PackedMeshes, index: int, config: Config, generator: torch.Generator, pictures: int = 1) -> Scene:
    """What answers for object `index` start from, and the pictures and points that they are measured against."""
    input_camera = _cameras(config, [INPUT_ELEVATION], [0.0], VIEW_SIZE, meshes.device)
    cameras = _cameras(config, ELEVATIONS, AZIMUTHS, VIEW_SIZE, meshes.device)
    truth = shape_render.render_views(meshes, index, cameras)
    input_view = shape_render.over_white(shape_render.render_views(meshes, index, input_camera))
    points = outer_points_of(meshes, index, generator)
    azimuths = PICTURE_AZIMUTHS[:pictures]
    inputs = [PosedPicture(input_picture(meshes, index, config, azimuth), INPUT_ELEVATION, azimuth) for azimuth in azimuths]
    return Scene(inputs, input_camera, cameras, input_view, shape_render.over_white(truth), truth[:, 3:], points)


def picture_scores(scene: Scene, views: Tensor, coverage: Tensor, input_view: Tensor) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Means over the unseen views, and the values of each view, of an answer's pictures."""
    each = {"psnr_db": psnr(views, scene.views), "ssim": ssim(views, scene.views), "iou": mask_iou(coverage, scene.coverage)}
    means = {name: float(values.mean()) for name, values in each.items()}
    means["input_psnr_db"] = float(psnr(input_view, scene.input_view)[0])
    means["sharpness"] = sharpness(views, coverage, scene.views, scene.coverage)
    return means, {name: [round(value, 4) for value in values.tolist()] for name, values in each.items()}


def mesh_pictures(model: MeshModel, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Pictures [V,3,H,W] on white and coverage [V,1,H,W] of a mesh, of 2x2 samples a pixel, as the true views have them."""
    seen = model.render(cameras.resized(2 * cameras.width, 2 * cameras.height))
    return F.avg_pool2d(seen.image, 2), F.avg_pool2d(seen.alpha, 2)


@torch.no_grad()
def mesh_scores(scene: Scene, model: MeshModel, generator: torch.Generator) -> dict[str, float]:
    """Scores of a mesh: of its pictures, and of its shape."""
    unseen, coverage = mesh_pictures(model, scene.cameras)
    front, _ = mesh_pictures(model, scene.input_camera)
    scores, _ = picture_scores(scene, unseen, coverage, front)
    return scores | point_scores(outer_points(model.vertices + model.offsets, model.faces, generator), scene.points)


def mesh_record(mesh: Mesh) -> dict:
    """How sound a mesh is, and what it lacks once it has been written as GLB and read back (`faults`, empty for nothing)."""
    quality = mesh_quality(mesh.vertices, mesh.faces)
    with tempfile.TemporaryDirectory() as folder:
        write_glb(mesh, Path(folder) / "mesh.glb")
        again = read_mesh(Path(folder) / "mesh.glb")
    faults = asset_faults(again.vertices, again.faces, again.normals, again.uvs, again.uv_faces, again.texture)
    return dataclasses.asdict(quality) | {"edge_manifold": quality.is_edge_manifold, "watertight": quality.is_watertight, "faults": faults}


def trivial_answer(
    make: Callable[[Tensor, Cameras], PackedMeshes], scene: Scene, generator: torch.Generator
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Scores, and those of each view, of a mesh that `make` builds from the picture and its camera."""
    answer = make(scene.picture, scene.input_camera).to(scene.picture.device)

    def draw(cameras: Cameras) -> Tensor:
        return shape_render.render_views(answer, 0, cameras, flat_light(len(cameras), cameras.device))

    views = draw(scene.cameras)
    scores, by_view = picture_scores(scene, shape_render.over_white(views), views[:, 3:], shape_render.over_white(draw(scene.input_camera)))
    return scores | point_scores(outer_points_of(answer, 0, generator), scene.points), by_view


@torch.no_grad()
def prior_scores(prior: Prior, condition: object, meshes: PackedMeshes, index: int, config: Config, seed: int) -> dict[str, float]:
    """PSNR and IoU of the four views that the prior alone samples, against the truth from there, by side."""
    cameras = _cameras(config, [INPUT_ELEVATION] * len(PRIOR_SIDES), PRIOR_SIDES, prior.resolution, prior.device)
    truth = shape_render.over_white(shape_render.render_views(meshes, index, cameras))
    generator = torch.Generator().manual_seed(seed)
    levels = prior.schedule.levels(PRIOR_STEPS)[::-1]
    options = {"generator": generator, "temperature": config.temperature}
    latents = ddim_sample(prior, prior.latent_shape(len(cameras)), cameras, condition, levels, config.cfg, **options)
    views = prior.decode(latents).clamp(0, 1)
    rows = {"psnr_db": psnr(views, truth).tolist(), "iou": silhouette_iou(views, truth).tolist()}
    scores = {}
    for name, (front, right, back, left) in rows.items():
        scores |= {f"input_{name}": front, f"sides_{name}": (right + left) / 2, f"back_{name}": back}
    return scores


def object_seed(config: Config, name: str) -> int:
    """The seed of one object: its own, whatever others are evaluated with it."""
    return zlib.crc32(f"{config.seed}/{name}".encode())


def evaluate_object(
    prior: Prior, meshes: PackedMeshes, index: int, config: Config, should_stop: ShouldStop | None = None, pictures: int = 1
) -> tuple[dict, list[Tensor]]:
    """The record of one object, and its row of a sheet: input, true views, our Gaussians, our refined mesh.

    Raises Stopped where `should_stop` says so.
    """
    name = meshes.ids[index]
    seed = object_seed(config, name)
    generator = torch.Generator().manual_seed(seed)
    seconds, started = {}, time.perf_counter()

    def lap(phase: str) -> None:
        nonlocal started
        if prior.device.type == "cuda":
            torch.cuda.synchronize(prior.device)
        now = time.perf_counter()
        seconds[phase], started = round(now - started, 3), now

    scene = make_scene(meshes, index, config, generator, pictures)
    lap("truth")
    job = generation.prepare(dataclasses.replace(config, seed=seed), prior, scene.pictures)
    with Progress(job.prior, job.rounds, config.cfg, Watch(prior.device, should_stop=should_stop)) as progress:
        generation.run_rounds(job, progress)
    failure = None
    try:
        generation.clean(job)
    except UserError as error:
        failure = str(error)
    lap("reconstruct")
    mesh = refined = None
    views = generation.texture_views(job)
    if failure is None:
        try:
            mesh = make_mesh(config, job.model, views)
        except ValueError as error:
            failure = str(error)
    lap("mesh")
    if mesh is not None:
        guides = refinement.Guides(job.model, views, job.prior, job.condition)
        refined = refinement.refine_mesh(config, mesh, guides, generator)
    lap("refine")

    white = torch.ones(3, device=prior.device)
    with torch.no_grad():
        unseen = job.model.render(scene.cameras, white)
        front = job.model.render(scene.input_camera, white)
    ours, ours_by_view = picture_scores(scene, unseen.image, unseen.alpha, front.image)
    made = {}
    if mesh is not None:
        made = {summary.COARSE: MeshModel(mesh, prior.device), summary.REFINED: refined}
    of_meshes = {answer: mesh_scores(scene, model, generator) for answer, model in made.items()}
    if mesh is not None:
        ours |= {metric: of_meshes[summary.COARSE][metric] for metric in summary.DISTANCES}
    lap("measure")
    card, card_by_view = trivial_answer(flat_card, scene, generator)
    hull, hull_by_view = trivial_answer(visual_hull, scene, generator)
    lap("trivial answers")
    views_of_prior = prior_scores(job.prior, job.condition, meshes, index, config, seed)
    lap("prior views")

    record = {
        "id": name,
        "caption": next(iter(meshes.captions[index]), ""),
        "category": meshes.categories[index],
        "seed": seed,
        "gaussians": len(job.model),
        "mesh_faces": 0 if mesh is None else len(mesh.faces),
        "failure": failure,
        "seconds": seconds,
        "scores": {"ours": ours, **of_meshes, "flat card": card, "visual hull": hull},
        "meshes": {answer: mesh_record(model.to_mesh()) for answer, model in made.items()},
        "prior": views_of_prior,
        "by_view": {"ours": ours_by_view, "flat card": card_by_view, "visual hull": hull_by_view},
    }
    shown = list(SHEET_VIEWS)
    row = [*scene.input_view, *scene.views[shown], *unseen.image[shown]]
    with torch.no_grad():
        row += list(mesh_pictures(refined, scene.cameras[torch.tensor(shown)])[0]) if refined else [torch.ones_like(row[0])] * len(shown)
    return record, row


def parse(words: Sequence[str]) -> tuple[argparse.Namespace, Config]:
    """The options and the configuration of the runs. Raises UserError."""
    parser = Parser(
        prog="python -m microdreamer.evaluation.image_to_3d",
        description=__doc__,
        epilog="key=value words are those of main.py (see its --help), without the ones that make no sense here: " + ", ".join(OWN_KEYS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of key: value")
    parser.add_argument("--objects", metavar="FILE.npz", required=True, help="pack of true objects")
    parser.add_argument("--limit", type=int, metavar="N", help="only N of them, spread evenly over the pack")
    parser.add_argument("--only", action="append", metavar="ID", help="only the object of that name; may be repeated")
    parser.add_argument("--pictures", type=int, default=1, metavar="N", help="start from N, at azimuths 0, 90, 180, 270 (default: 1)")
    parser.add_argument("--out", metavar="FILE.json", default="results.json", help="everything that was measured (default: %(default)s)")
    parser.add_argument("--sheet", metavar="FILE.png", help="a strip for each object: input, truth, our Gaussians, our refined mesh")
    parser.add_argument(
        "--oracle", action="store_true", help="true views in the prior's place: what is lost even if the prior knew every side"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress, only the table, warnings and errors")
    options, rest = parser.parse_known_args(words)
    config = load_config(options.config, rest)
    for key in OWN_KEYS:
        if getattr(config, key) != getattr(Config(), key):
            raise UserError(f"{key}={getattr(config, key)}: an evaluation sets that itself; leave it out")
    if options.limit is not None and options.limit < 1:
        raise UserError(f"--limit {options.limit}: expected at least 1")
    if not 1 <= options.pictures <= len(PICTURE_AZIMUTHS):
        raise UserError(f"--pictures {options.pictures}: expected 1 to {len(PICTURE_AZIMUTHS)}")
    if options.limit is not None and options.only:
        raise UserError("--limit and --only exclude each other; pass one of them")
    for option, suffix in (("out", ".json"), ("sheet", ".png")):
        path = getattr(options, option)
        if path is not None and Path(path).suffix.lower() != suffix:
            raise UserError(f"--{option} {path}: expected a name ending in {suffix}")
    return options, dataclasses.replace(config, elevation=INPUT_ELEVATION)


def choose_objects(meshes: PackedMeshes, limit: int | None, only: Sequence[str] | None) -> list[int]:
    """Numbers of the objects to evaluate. Raises UserError for a pack without objects or an unknown name."""
    if len(meshes) == 0:
        raise UserError("--objects: there is no object in that pack")
    if only:
        for name in only:
            if name not in meshes.ids:
                raise UserError(f"--only {name}: no such object in the pack; its first ones are {', '.join(meshes.ids[:3])}")
        return [meshes.ids.index(name) for name in dict.fromkeys(only)]
    count = min(limit or len(meshes), len(meshes))
    return [number * len(meshes) // count for number in range(count)]


def _check_folder(option: str, path: Path) -> None:
    try:
        check_writable(path)
    except UserError:
        raise UserError(f"--{option} {path}: that folder cannot be written to; choose another") from None


def run(options: argparse.Namespace, config: Config) -> int:
    """Evaluate, print the table, write the files; returns the exit code."""
    with user_errors():
        device = choose_device(config.device)
        meshes = load_packed(options.objects)
        chosen = choose_objects(meshes, options.limit, options.only)
        meshes = meshes.subset(chosen).to(device)
        for option in ("out", "sheet"):
            if getattr(options, option):
                _check_folder(option, Path(getattr(options, option)))
        prior = load_prior(config.prior, config.prior_path, device, config.precision, config.prior_memory)
    made = provenance(device)  # before anything is written
    if not options.quiet:
        print(config_line(config), file=sys.stderr)

    def write(complete: bool) -> None:
        result = {
            "complete": complete,
            "objects_file": Path(options.objects).name,
            "oracle": options.oracle,
            "summary": summary.summarise(records),
            **made,
            "peak_memory_mib": peak_memory_mib(device),
            "versions": versions(),
            "config": dataclasses.asdict(config),
            "cameras": {
                "elevation": ELEVATIONS,
                "azimuth": AZIMUTHS,
                "size": VIEW_SIZE,
                "input_elevation": INPUT_ELEVATION,
                "pictures": options.pictures,
            },
            "objects": records,
        }
        with atomic_write(options.out) as temporary:
            temporary.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if options.sheet:
            write_sheet(options.sheet, pictures, columns=1 + 3 * len(SHEET_VIEWS))

    records: list[dict] = []
    pictures: list[Tensor] = []
    complete = True
    bar = tqdm(range(len(meshes)), disable=options.quiet or None, unit="object", desc="objects")
    with Interrupt() as interrupt, bar:
        for index in bar:
            bar.set_postfix_str(meshes.ids[index])
            try:
                with user_errors():
                    asked = TruePrior(prior, meshes, index) if options.oracle else prior
                    record, row = evaluate_object(asked, meshes, index, config, interrupt, options.pictures)
                if interrupt():
                    raise Stopped
            except Stopped:
                complete = False
                break
            records.append(record)
            small = torch.nn.functional.interpolate(torch.stack(row).cpu(), (SHEET_SIZE, SHEET_SIZE), mode="area")
            pictures.extend(small)
            with user_errors():
                write(complete=len(records) == len(meshes))
            if not options.quiet:
                tqdm.write(summary.object_line(record), file=sys.stderr)
    if not records:
        print("evaluation: stopped before the first object was done; nothing was written", file=sys.stderr)
        return interrupt.exit_code
    print(f"{describe(made)}\n\n{summary.table(records)}")
    return 0 if complete else interrupt.exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """See `core.command.exit_code`."""
    words = sys.argv[1:] if arguments is None else arguments
    return exit_code("evaluation.image_to_3d", lambda: run(*parse(words)))


if __name__ == "__main__":
    sys.exit(main())
