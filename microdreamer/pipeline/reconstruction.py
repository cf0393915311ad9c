"""Stage 1: pictures and/or a sentence -> 3D Gaussians -> a coarse textured mesh, by score-based iterative reconstruction."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cam_utils import orbit_cameras
from microdreamer.core import profiler
from microdreamer.core.errors import Stopped, UserError, user_errors
from microdreamer.core.files import user_path
from microdreamer.core.machine import choose_device
from microdreamer.distillation import sir
from microdreamer.distillation.schedules import Round, density_steps, plan_rounds
from microdreamer.gaussians import LearningRates
from microdreamer.gaussians.model import GaussianModel
from microdreamer.guidance import PRIORS, load_prior
from microdreamer.guidance.base import Prior
from microdreamer.guidance.several import conditioned
from microdreamer.images.reference import PosedPicture, Reference, reference_views
from microdreamer.pipeline.asset import make_mesh
from microdreamer.pipeline.config import Config, as_config
from microdreamer.pipeline.first_guess import OnPreview, check_surfaces, first_guess, starts_from_prior
from microdreamer.pipeline.inputs import places_of
from microdreamer.pipeline.material import check_material, without_light
from microdreamer.pipeline.pictures import Picture, as_pictures, caption_beside
from microdreamer.pipeline.posing import names_of, posed, sources_of
from microdreamer.pipeline.progress import OnProgress, Progress, ShouldStop, Watch
from microdreamer.pipeline.results import Result, check_switches, input_view_psnr, make_record

log = logging.getLogger(__name__)

TEXTURE_VIEW = 512  # px of the picture where it colours the mesh
PREVIEW_VIEW = 256  # px
COARSE = 2  # times smaller a side are views in the fit of the first `coarse_rounds`
NOTHING_TO_MAKE = 'nothing to make: pass input=picture.png, prompt="a sentence", or both'
PLAN_KEYS = ("total_steps", "denoise_steps", "t_start", "t_end", "inv_r", "init_steps", "steps_min", "steps_max", "steps_schedule")
LEARNING_KEYS = tuple(field.name for field in dataclasses.fields(LearningRates))


def select(config: Config, keys: Sequence[str]) -> dict:
    return {key: getattr(config, key) for key in keys}


@dataclasses.dataclass(frozen=True)
class Job:
    """What the rounds need, checked before they start."""

    config: Config
    prior: Prior
    condition: object
    model: GaussianModel
    views: sir.ViewRange
    pictures: Sequence[PosedPicture]
    reference: Reference | None  # these as more views
    rounds: list[Round]
    generator: torch.Generator
    guess: GaussianModel | None = None  # what the prior tells at a glance, where that is wanted beside the rounds


def with_inputs(config: Config, picture: Picture | Sequence[Picture] | None, prompt: str | None) -> Config:
    """The configuration with what was given beside it, and with the sentence beside the picture for a prior that reads.

    The caller's own is never changed.
    """
    paths = [source for source in sources_of(config, picture) if isinstance(source, (str, Path))]
    prompt = config.prompt if prompt is None else prompt
    if not prompt and paths and "prompt" in PRIORS[config.prior]:
        prompt = next(filter(None, map(caption_beside, paths)), None)
    given = config.input if picture is None else ",".join(map(str, paths)) or None
    return dataclasses.replace(config, input=given, prompt=prompt)


def prior_for(config: Config, device: torch.device) -> Prior:
    """The prior that the configuration names."""
    return load_prior(config.prior, config.prior_path, device, config.precision, config.prior_memory)


@profiler.function
def condition_prior(config: Config, prior: Prior, pictures: Sequence[PosedPicture]) -> tuple[Prior, object]:
    """The prior to ask, and what it makes of the pictures and the prompt. Raises ValueError for what it cannot take."""
    prompt = config.prompt and config.prompt + (config.prompt_suffix or "")
    return conditioned(prior, pictures, prompt, config.negative_prompt, config.eye_level)


def read_pictures(config: Config, sources: Sequence[Picture]) -> tuple[list[Tensor], list[tuple[float, float | None]]]:
    """The pictures of one object, read and framed, [4,S,S] each, and the elevation and (if given) azimuth of each. Raises ValueError."""
    places = places_of(config, len(sources))
    return as_pictures(sources, [elevation for elevation, _ in places], config.recenter, log.info), places


def prepare(config: Config, prior: Prior, pictures: Sequence[PosedPicture], guess: bool = False) -> Job:
    """Condition the prior on the pictures and the prompt, plan the rounds, make the first Gaussians.

    guess: read off what the prior tells at a glance even where the rounds do not start from it. Raises ValueError for what does not fit
    together.
    """
    if guess:
        check_surfaces(prior, "preview")
    from_prior = starts_from_prior(config, prior)
    generator = torch.Generator().manual_seed(config.seed)
    prior, condition = condition_prior(config, prior, pictures)
    size = config.ref_size or prior.resolution
    spread = select(config, ("min_ver", "max_ver", "radius", "even_view"))
    views = sir.ViewRange(
        config.eye_level, size=size, fov_y=config.fovy, fewest=config.batch_size_min, most=config.batch_size_max, **spread
    )
    views.check(prior)
    reference = reference_views(pictures, views.cameras(*places, prior.device)) if (places := places_in(pictures)) else None
    rounds = plan_rounds(prior.schedule, **select(config, PLAN_KEYS))
    glance = first_guess(config, prior, condition) if guess or from_prior else None
    if config.load:
        model = GaussianModel.load(user_path(config.load), prior.device)
    elif from_prior and glance is not None:
        model = copy.deepcopy(glance)
    else:
        model = GaussianModel.initial_ball(config.num_pts, sh_degree=config.sh_degree, generator=generator, device=prior.device)
    return Job(config, prior, condition, model, views, pictures, reference, rounds, generator, glance if guess else None)


def places_in(pictures: Sequence[PosedPicture]) -> tuple[Tensor, Tensor] | None:
    """Elevations and azimuths [R] of the pictures' cameras; None without pictures."""
    if not pictures:
        return None
    elevation, azimuth = torch.tensor([[one.elevation, one.azimuth] for one in pictures], dtype=torch.float64).unbind(1)
    return elevation, azimuth


def run_rounds(job: Job, progress: Progress) -> None:
    """All rounds of SIR on `job.model`, which is whole whenever `progress` raises `Stopped`."""
    config, prior, model, generator = job.config, job.prior, job.model, job.generator
    background = torch.ones(3, device=prior.device)
    grow_at = density_steps(job.rounds, config.density_start_iter, config.density_end_iter, config.densification_interval)
    optimizer = model.make_optimizer(LearningRates(**select(config, LEARNING_KEYS)))

    def learn(rendering: Any) -> None:
        model.record_statistics(rendering)
        optimizer.step()
        optimizer.zero_grad()

    def grow(step: int) -> bool:
        if step in grow_at:
            model.densify_and_prune(grad_threshold=config.densify_grad_threshold, percent_dense=config.percent_dense, generator=generator)
        return step in grow_at

    weights = {"weight": config.lambda_sd, "ref_loss": config.ref_loss, "ref_mask_loss": config.ref_mask_loss}
    fitter = sir.Fitter(model, job.reference, background, learn, **weights)
    for turn in job.rounds:
        progress.start_round(turn)
        cameras = sir.draw_cameras(prior, job.views, generator, from_front=turn.starts_from_noise)
        with progress.watch.phase("prior", announce=False):
            with torch.no_grad():
                renders = model.render(cameras, background).image
            given = prior, renders, cameras, job.condition, turn, config.cfg, config.eta, generator
            targets = sir.repair(*given, progress.after_prior_step, config.temperature, config.shortcuts)
        with progress.watch.phase("fit", announce=False):
            shrink = COARSE if turn.index < config.coarse_rounds else 1
            watchers = {"before_step": model.update_learning_rate, "after_step": grow, "on_step": progress.after_fit_step}
            loss = fitter.fit(cameras, targets, turn, shrink=shrink, **watchers)
        progress.end_round(loss)


@profiler.function
def clean(job: Job) -> None:
    """Drop what is faint, oversized or floats before the background. Raises UserError if nothing is left."""
    job.model.prune()
    job.model.filter_floaters(radius=job.config.radius, fov_y=job.config.fovy)
    if len(job.model) == 0:
        raise UserError("nothing is left of the object: the prior drew next to nothing; try another seed, prompt or picture")


def texture_views(job: Job) -> Reference | None:
    """The pictures as views of the size that textures are made from."""
    if job.reference is None:
        return None
    return reference_views(job.pictures, job.reference.camera.resized(TEXTURE_VIEW, TEXTURE_VIEW))


def preview(job: Job) -> Tensor:
    """The object as it is now, from a little beside the picture: [1,3,S,S] in [0,1] on white."""
    config, size = job.config, {"width": PREVIEW_VIEW, "height": PREVIEW_VIEW}
    camera = orbit_cameras(config.eye_level, 30.0, config.radius, fov_y=config.fovy, **size, device=job.prior.device)
    with torch.no_grad():
        return job.model.render(camera, 1.0).image


def reconstruct(
    picture: Picture | Sequence[Picture] | None = None,
    prompt: str | None = None,
    config: Config | str | Path | Mapping[str, Any] | None = None,
    *,
    prior: Prior | None = None,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
    on_preview: OnPreview | None = None,
) -> Result:
    """A picture or several of one object, and/or a sentence -> Gaussians and a textured mesh.

    picture: a path, a PIL picture, an array [H,W,3 or 4] (uint8, or float in [0,1]) or a straight RGBA tensor [4,S,S]; without
    alpha its background is cut out. Or a list of them, whose cameras the keys `azimuth` and `elevation` tell. config:
    a `Config`, the path of a YAML file, or keys and values on top of `configs/micro.yaml`, which is also the default. prior: one that
    is loaded already (`load_prior`), on the device to use; several runs may share it. on_progress, should_stop: see
    `pipeline.progress`; a run that is stopped after its first fit returns what it has, with `complete` false. on_preview: is given,
    before the rounds, the Gaussians that the prior tells at a glance, which the result keeps as `guess`; UserError where it cannot.

    Changes none of its arguments, prints nothing, takes no signals, and may run in any thread, several at once. Raises UserError
    (a ValueError) in one line for what cannot be used, and Stopped where there is nothing to return yet.
    """
    with user_errors():
        config = with_inputs(as_config(config), picture, prompt)
        device = choose_device(config.device) if prior is None else prior.device
        watch = Watch(device, on_progress, should_stop)
        with watch.phase("load"):
            sources = sources_of(config, picture)
            if not sources and not config.prompt:
                raise UserError(NOTHING_TO_MAKE)
            pictures, places = read_pictures(config, sources)
            check_switches(config, device)
            prior = prior or prior_for(config, device)
            inputs = posed(config, prior, pictures, names_of(sources), places)
            check_material(config, prior)
            asked_before = prior.evaluations  # by earlier runs, and for the pictures' cameras
            job = prepare(config, prior, inputs, guess=config.preview or on_preview is not None)
    if on_preview is not None and job.guess is not None:
        with watch.phase("preview"):
            on_preview(copy.deepcopy(job.guess))
        watch.check()

    complete = True
    with Progress(job.prior, job.rounds, config.cfg, watch, lambda: preview(job), config.shortcuts) as progress:
        try:
            run_rounds(job, progress)
        except Stopped:
            if not progress.fit_steps:
                raise
            complete = False
    for name in ("prior", "fit"):
        watch.announce(name)
    clean(job)
    mesh = no_mesh = None
    with user_errors(), watch.phase("mesh"):
        try:
            mesh = make_mesh(config, job.model, texture_views(job))
            if config.material == "albedo":
                mesh = without_light(mesh, job.prior, job.condition, job.generator)
        except ValueError as error:  # no surface at this threshold: the Gaussians are still worth having
            no_mesh = str(error)
    record = make_record(
        config,
        device,
        watch.seconds,
        complete=complete,
        rounds=progress.rounds_done,
        optimiser_steps=progress.fit_steps,
        prior_evaluations=prior.evaluations - asked_before,
        prior_precision=str(job.prior.dtype).removeprefix("torch."),
        gaussians=len(job.model),
        cameras=[{"elevation": one.elevation, "azimuth": one.azimuth} for one in inputs],
        input_view_psnr_db=input_view_psnr(job.model, job.reference),
        no_mesh=no_mesh,
    )
    points = job.model.means.detach()
    return Result(config, job.model, mesh, record, job.model, points, complete, no_mesh, inputs=inputs, guess=job.guess)
