"""Stage 2: a mesh -> a refined, textured mesh, guided by the Gaussians it came from, the picture and the prior.

python main2.py --config configs/micro.yaml input=photo_rgba.png save_path=name     refines what main.py wrote under that name
python main2.py --from-splats gaussians.ply save_path=name                          a textured mesh of any Gaussians (docs/splats.md)
python main2.py --from-mesh chair.glb --config configs/micro.yaml prompt="a chair"  refines a mesh of your own

A mesh without colours wants to be painted, not retouched: add refine_views=4 refine_denoise_steps=20 refine_strength=0.3 refine_cfg=3
iters_refine=4 texture_lr=0.2. What the prior draws beyond the mesh's outline is lost, and where its drawing is smaller there is white.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from cam_utils import orbit_cameras
from microdreamer.core import profiler
from microdreamer.distillation import sir
from microdreamer.distillation.refinement import check_view_count, circle_of_views, retouched, retouching_levels
from microdreamer.gaussians.model import GaussianModel
from microdreamer.guidance import Prior, load_prior
from microdreamer.meshes.baking import bake
from microdreamer.meshes.mesh import Mesh
from microdreamer.meshes.model import MeshModel
from microdreamer.meshes.texture_fit import Target, fit_surface, well_seen
from microdreamer.meshes.vertex_fit import RefineSettings, random_views, refine_to_model
from microdreamer.pipeline.config import Config, UserError, parse_command_line
from microdreamer.pipeline.pictures import load_picture, reference_view
from microdreamer.pipeline.progress import Interrupt, Phases, Stopped
from microdreamer.pipeline.reconstruction import INTERRUPTED, condition_prior, exit_code, own_caption, profiled, user_errors
from microdreamer.pipeline.results import (
    MESH_FILES,
    check_switches,
    check_writable,
    choose_device,
    input_view_psnr,
    print_config,
    remove_results,
    result_stem,
    write_mesh,
    write_pictures,
    write_record,
)
from microdreamer.pipeline.subject import Subject, load_subject

RESULTS = (*MESH_FILES, ".mp4", "_views.png", ".json")
GEOMETRY_VIEWS, GEOMETRY_SIZE, GEOMETRY_ELEVATION = 24, 256, 30.0  # renders that vertices move to: how many, px, degrees at most
NOTHING_TO_GO_BY = 'nothing to refine the mesh by: pass input=picture.png, prompt="a sentence", or both'
ALIASES = {"--from-splats": "load", "--from-ply": "load", "--from-mesh": "mesh"}


@dataclasses.dataclass(frozen=True)
class Guides:
    """What the surface is fitted to; whatever is not there is None."""

    gaussians: GaussianModel | None
    picture: sir.Reference | None
    prior: Prior | None
    condition: object

    @property
    def device(self) -> torch.device:
        return self.prior.device if self.gaussians is None else self.gaussians.device


def picture_target(model: MeshModel, picture: sir.Reference) -> Target:
    """The picture, where the surface faces it."""
    return Target(picture.camera, picture.image, well_seen(model, picture.camera, picture.mask).float())


def refine(config: Config, mesh: Mesh, guides: Guides, generator: torch.Generator, on_step: Callable[[], None] = lambda: None) -> MeshModel:
    """Move the vertices to where renders of the Gaussians show the surface and paint it anew; then, round by round, fit the texture
    to the prior's retouched views of it. The picture counts throughout."""
    device = guides.device
    if config.train_geo and guides.gaussians is not None:
        cameras = random_views(guides.gaussians, GEOMETRY_VIEWS, GEOMETRY_SIZE, GEOMETRY_ELEVATION, 1.0, generator)
        settings = RefineSettings(steps=config.geometry_steps)
        moved = refine_to_model(mesh, guides.gaussians, cameras, settings, generator, lambda *_: on_step(), guides.picture)
        mesh = bake(moved, config.texture_size, guides.gaussians, guides.picture, device)
    model = MeshModel(mesh, device)
    always = [picture_target(model, guides.picture)] if guides.picture else []
    if guides.prior is None:
        return model
    prior, geom_lr = guides.prior, config.geom_lr if config.train_geo else 0.0
    levels = retouching_levels(prior, config.refine_denoise_steps, config.refine_strength)
    for _ in range(config.iters_refine):
        cameras = circle_of_views(prior, config.refine_views, config.elevation, config.radius, config.fovy, config.refine_size, generator)
        with torch.no_grad():
            renders, _ = model.shade(model.rasterize(cameras), 1.0)
        targets = retouched(prior, renders, cameras, guides.condition, levels, config.refine_cfg, generator, lambda *_: on_step())
        views = [Target(cameras, targets), *always]
        for _ in fit_surface(model, views, config.refine_steps, texture_lr=config.texture_lr, geom_lr=geom_lr):
            on_step()
    return model


def run(config: Config, quiet: bool, prior: Prior | None = None) -> int:
    """One mesh to files, by `prior` or, without one, by that of the configuration; returns the exit code."""
    with user_errors():
        device = choose_device(config.device)
        phases = Phases(device, quiet)
        with phases("load"):
            if config.mesh and config.load:
                raise UserError("--from-mesh and --from-splats: pass one of them (as keys: mesh and load)")
            if config.mesh and not config.input and not config.prompt:
                raise UserError(NOTHING_TO_GO_BY)
            if (own := config.mesh or config.load) and config.save_path is None:
                config.save_path = Path(own).stem
            stem = result_stem(config)
            check_switches(config, device)
            check_writable(stem)
            profiler.write_to(Path(f"{stem}_refined_trace"))
            rgba = load_picture(config.input) if config.input else None
            config.prompt = config.prompt or own_caption(config)
            picture = None if rgba is None else picture_view(config, rgba, device)
            condition = None
            if rgba is None and not config.prompt:
                prior = None
            else:
                prior = prior or load_prior(config.prior, config.prior_path, device, config.precision, config.prior_memory)
                condition = condition_prior(config, prior, rgba)
                check_view_count(prior, config.refine_views)
                retouching_levels(prior, config.refine_denoise_steps, config.refine_strength)
        with phases("mesh"):
            subject = load_subject(config, stem, picture, device)
        if subject.gaussians is None and prior is None:
            raise UserError(NOTHING_TO_GO_BY)
    if not quiet:
        print_config(config)

    guides = Guides(subject.gaussians, picture, prior, condition)
    with Interrupt() as interrupt, tqdm(total=steps_of(config, guides), disable=quiet or None, unit="step", desc="refine") as bar:

        def on_step() -> None:
            bar.update()
            interrupt.check()

        try:
            with user_errors(), phases("refine"):
                model = refine(config, subject.mesh, guides, torch.Generator().manual_seed(config.seed), on_step)
        except Stopped:
            print("main2.py: stopped before the end; nothing was written", file=sys.stderr)
            return INTERRUPTED
        with user_errors():
            write_results(config, f"{stem}_refined", model, subject, guides, phases)
    if not quiet:
        print(f"wrote {stem}_refined.*", file=sys.stderr)
    return 0


def picture_view(config: Config, rgba: Tensor, device: torch.device) -> sir.Reference:
    """The picture as a view of the size of the refinement's renders."""
    size = {"width": config.refine_size, "height": config.refine_size}
    return reference_view(rgba, orbit_cameras(config.elevation, 0.0, config.radius, fov_y=config.fovy, **size, device=device))


def steps_of(config: Config, guides: Guides) -> int:
    """Steps of a run: of optimisers and of the prior's sampler."""
    moves = config.train_geo and guides.gaussians is not None
    steps = config.geometry_steps if moves else 0
    if guides.prior:
        levels = retouching_levels(guides.prior, config.refine_denoise_steps, config.refine_strength)
        steps += config.iters_refine * (len(levels) + config.refine_steps)
    return steps


def write_results(config: Config, stem: str, model: MeshModel, subject: Subject, guides: Guides, phases: Phases) -> None:
    """Mesh, turntable, sheet of views and record, each written whole or not at all."""
    remove_results(Path(stem), RESULTS)
    mesh = subject.placed_back(model.to_mesh())
    with phases("write"):
        write_mesh(config, stem, mesh)
    with phases("video"):
        write_pictures(config, stem, model, model.vertices)
    write_record(
        config,
        stem,
        model.device,
        phases,
        complete=True,
        faces=len(mesh.faces),
        vertices=len(mesh.vertices),
        texture_size=len(mesh.texture),
        prior_evaluations=guides.prior.evaluations if guides.prior else 0,
        input_view_psnr_db=input_view_psnr(model, guides.picture),
    )


def with_aliases(arguments: Sequence[str]) -> list[str]:
    """The ALIASES, as `--from-mesh FILE` or `--from-mesh=FILE`, as key=value words. Raises UserError for a missing FILE."""
    words, rest = [], iter(arguments)
    for word in rest:
        name, equals, value = word.partition("=")
        if name in ALIASES:
            value = value if equals else next(rest, "")
            if not value:
                raise UserError(f"command line: {name}: expected a file")
            word = f"{ALIASES[name]}={value}"
        words.append(word)
    return words


def main(arguments: Sequence[str] | None = None) -> int:
    """See `main.exit_code`."""
    words = sys.argv[1:] if arguments is None else arguments
    return exit_code("main2.py", lambda: profiled(run, *parse_command_line(with_aliases(words), __doc__)))


if __name__ == "__main__":
    sys.exit(main())
