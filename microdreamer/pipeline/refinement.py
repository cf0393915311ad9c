"""Stage 2: a mesh -> a refined, textured mesh, guided by the Gaussians it came from, the picture and the prior."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cam_utils import orbit_cameras
from microdreamer.core.errors import UserError, user_errors
from microdreamer.core.files import user_path
from microdreamer.core.machine import choose_device
from microdreamer.distillation.refinement import check_view_count, circle_of_views, retouched, retouching_levels
from microdreamer.gaussians.model import GaussianModel
from microdreamer.gaussians.splat_files import holds_gaussians
from microdreamer.guidance.base import Prior
from microdreamer.images.reference import PosedPicture, Reference, reference_views
from microdreamer.meshes.baking import bake
from microdreamer.meshes.mesh import Mesh
from microdreamer.meshes.model import MeshModel
from microdreamer.meshes.texture_fit import Target, fit_surface, well_seen
from microdreamer.meshes.vertex_fit import RefineSettings, random_views, refine_to_model
from microdreamer.pipeline.config import Config, as_config
from microdreamer.pipeline.material import check_material, without_light
from microdreamer.pipeline.pictures import Picture
from microdreamer.pipeline.posing import names_of, posed, sources_of
from microdreamer.pipeline.progress import OnProgress, ShouldStop, Update, Watch
from microdreamer.pipeline.reconstruction import condition_prior, places_in, prior_for, read_pictures, with_inputs
from microdreamer.pipeline.results import Result, check_switches, input_view_psnr, make_record, result_stem
from microdreamer.pipeline.subject import Subject, load_subject, subject_of

log = logging.getLogger(__name__)

GEOMETRY_VIEWS, GEOMETRY_SIZE, GEOMETRY_ELEVATION = 24, 256, 30.0  # renders that vertices move to: how many, px, degrees at most
TEXELS_PER_PIXEL, FINE_SIZE = 4, 512  # of a render of that many px at least, along a side: finer textures are fitted as coarser ones
NOTHING_TO_GO_BY = 'nothing to refine the mesh by: pass input=picture.png, prompt="a sentence", or both'


@dataclasses.dataclass(frozen=True)
class Guides:
    """What the surface is fitted to; whatever is not there is None."""

    gaussians: GaussianModel | None
    pictures: Reference | None
    prior: Prior | None
    condition: object

    @property
    def device(self) -> torch.device:
        guide = self.gaussians if self.gaussians is not None else self.prior
        assert guide is not None  # one of them is there, or nothing could be refined
        return guide.device


def picture_targets(model: MeshModel, pictures: Reference) -> list[Target]:
    """Each picture, where the surface faces it."""
    return [Target(one.camera, one.image, well_seen(model, one.camera, one.mask).float()) for one in pictures.each()]


def refine_mesh(
    config: Config, mesh: Mesh, guides: Guides, generator: torch.Generator, on_step: Callable[[], None] = lambda: None
) -> MeshModel:
    """Move the vertices to where renders of the Gaussians show the surface and paint it anew; then, round by round, fit the texture
    to the prior's retouched views of it. The pictures count throughout."""
    device = guides.device
    if config.train_geo and guides.gaussians is not None:
        cameras = random_views(guides.gaussians, GEOMETRY_VIEWS, GEOMETRY_SIZE, GEOMETRY_ELEVATION, 1.0, generator)
        settings = RefineSettings(steps=config.geometry_steps)
        moved = refine_to_model(mesh, guides.gaussians, cameras, settings, generator, lambda *_: on_step(), guides.pictures)
        mesh = bake(moved, config.texture_size, guides.gaussians, guides.pictures, device)
    elif config.material == "albedo" and guides.gaussians is not None:  # stage 1 has taken the light out, and what follows shows it
        mesh = bake(mesh, config.texture_size, guides.gaussians, guides.pictures, device)
    model = MeshModel(mesh, device, TEXELS_PER_PIXEL * max(config.refine_size, FINE_SIZE))
    always = picture_targets(model, guides.pictures) if guides.pictures else []
    if guides.prior is None:
        return model
    prior, geom_lr = guides.prior, config.geom_lr if config.train_geo else 0.0
    levels = retouching_levels(prior, config.refine_denoise_steps, config.refine_strength)
    for _ in range(config.iters_refine):
        cameras = circle_of_views(prior, config.refine_views, config.eye_level, config.radius, config.fovy, config.refine_size, generator)
        with torch.no_grad():
            renders, _ = model.shade(model.rasterize(cameras), 1.0)
        given = prior, renders, cameras, guides.condition, levels, config.refine_cfg, generator
        targets = retouched(*given, lambda *_: on_step(), config.shortcuts)
        views = [Target(cameras, targets), *always]
        for _ in fit_surface(model, views, config.refine_steps, texture_lr=config.texture_lr, geom_lr=geom_lr):
            on_step()
    return model


def picture_views(config: Config, pictures: Sequence[PosedPicture], device: torch.device) -> Reference | None:
    """The pictures as views of the size of the refinement's renders."""
    if (places := places_in(pictures)) is None:
        return None
    size = {"width": config.refine_size, "height": config.refine_size}
    return reference_views(pictures, orbit_cameras(*places, config.radius, fov_y=config.fovy, **size, device=device))


def steps_of(config: Config, guides: Guides) -> int:
    """Steps of a run: of optimisers and of the prior's sampler."""
    moves = config.train_geo and guides.gaussians is not None
    steps = config.geometry_steps if moves else 0
    if guides.prior:
        levels = retouching_levels(guides.prior, config.refine_denoise_steps, config.refine_strength)
        steps += config.iters_refine * (len(levels) + config.refine_steps)
    return steps


class Steps:
    """Tells the caller how far the refinement is, and asks whether to go on, after each of `total` steps."""

    def __init__(self, watch: Watch, total: int) -> None:
        self._watch, self._total, self._done = watch, max(total, 1), 0

    def __call__(self) -> None:
        self._done += 1
        self._watch.tell(Update("refine", 0.0, fraction=self._done / self._total, note=f"refine, step {self._done}/{self._total}"))
        self._watch.check()


def refine(
    source: Result | Mesh | GaussianModel | str | Path | None = None,
    picture: Picture | Sequence[Picture] | None = None,
    prompt: str | None = None,
    config: Config | str | Path | Mapping[str, Any] | None = None,
    *,
    prior: Prior | None = None,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> Result:
    """Refine a mesh: move its vertices to what the Gaussians show, paint it anew, let the prior retouch it.

    source: what `reconstruct` returned, a mesh or Gaussians, or the path of a file of either; None takes the configuration's
    `mesh` or `load`, or the files that stage 1 wrote under its name. Without a picture and a prompt (those of a Result are
    taken) Gaussians alone guide it, and no prior is loaded. The rest as for `reconstruct`; a run that is stopped raises Stopped.
    """
    with user_errors():
        given = as_config(source.config if config is None and isinstance(source, Result) else config)
        inputs: Sequence[PosedPicture] = ()
        if isinstance(source, Result) and picture is None:
            inputs = source.inputs
        if isinstance(source, Result) and prompt is None:
            prompt = source.config.prompt
        if isinstance(source, (str, Path)):
            path = {"load" if holds_gaussians(user_path(source)) else "mesh": str(source)}
            given, source = dataclasses.replace(given, **({"mesh": None, "load": None} | path)), None
        if given.mesh and given.load:
            raise UserError("--from-mesh and --from-splats: pass one of them (as keys: mesh and load)")
        config = with_inputs(given, picture, prompt)
        if isinstance(source, Result) and picture is None:
            config = dataclasses.replace(config, input=source.config.input)  # what the result is named after
        device = choose_device(config.device) if prior is None else prior.device
        watch = Watch(device, on_progress, should_stop)
        with watch.phase("load"):
            sources = [] if inputs else sources_of(config, picture)
            if (config.mesh or isinstance(source, Mesh)) and not (sources or inputs or config.prompt):
                raise UserError(NOTHING_TO_GO_BY)
            check_switches(config, device)
            pictures, places = ([], []) if inputs else read_pictures(config, sources)
            condition = None
            if not (sources or inputs or config.prompt):
                prior = None
            else:
                prior = prior or prior_for(config, device)
                inputs = inputs or posed(config, prior, pictures, names_of(sources), places)
                prior, condition = condition_prior(config, prior, inputs)
                check_view_count(prior, config.refine_views)
                retouching_levels(prior, config.refine_denoise_steps, config.refine_strength)
            check_material(config, prior)
            view = picture_views(config, inputs, device)
        with watch.phase("mesh"):
            subject = (
                load_subject(config, result_stem(config), view, device) if source is None else subject_of(source, config, view, device)
            )
        if subject.gaussians is None and prior is None:
            raise UserError(NOTHING_TO_GO_BY)
        guides = Guides(subject.gaussians, view, prior, condition)
        evaluations = prior.evaluations if prior else 0
        with watch.phase("refine"):
            generator = torch.Generator().manual_seed(config.seed)
            model = refine_mesh(config, subject.mesh, guides, generator, Steps(watch, steps_of(config, guides)))
        return refined_result(config, model, subject, guides, watch, evaluations, inputs)


def refined_result(
    config: Config,
    model: MeshModel,
    subject: Subject,
    guides: Guides,
    watch: Watch,
    evaluations_before: int,
    inputs: Sequence[PosedPicture],
) -> Result:
    """The refined mesh where its file had it, with its record."""
    mesh = model.to_mesh(reuse_texture=True)  # nobody else's: see Subject
    if config.material == "albedo" and guides.prior is not None:
        mesh = without_light(mesh, guides.prior, guides.condition, torch.Generator().manual_seed(config.seed))
    mesh = subject.placed_back(mesh)
    assert mesh.texture is not None  # a subject always has one
    record = make_record(
        config,
        model.device,
        watch.seconds,
        complete=True,
        faces=len(mesh.faces),
        vertices=len(mesh.vertices),
        texture_size=len(mesh.texture),
        prior_evaluations=guides.prior.evaluations - evaluations_before if guides.prior else 0,
        input_view_psnr_db=input_view_psnr(model, guides.pictures),
    )
    points = (model.vertices + model.offsets).detach()
    return Result(config, subject.gaussians, mesh, record, model, points, refined=True, inputs=inputs)
