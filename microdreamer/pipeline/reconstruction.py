"""A picture and/or a sentence -> 3D Gaussians -> a coarse coloured mesh, by score-based iterative reconstruction.

python main.py --config configs/micro.yaml input=photo_rgba.png save_path=name
python main.py --config configs/micro.yaml prompt="a red apple"
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from microdreamer.core import profiler
from microdreamer.core.files import one_line
from microdreamer.distillation import sir
from microdreamer.distillation.schedules import Round, density_steps, plan_rounds
from microdreamer.gaussians.model import GaussianModel
from microdreamer.guidance import PRIORS, Prior, load_prior
from microdreamer.pipeline.config import Config, UserError, parse_command_line
from microdreamer.pipeline.pictures import caption_beside, load_picture, reference_view
from microdreamer.pipeline.progress import Interrupt, Phases, Progress, Stopped
from microdreamer.pipeline.results import (
    check_switches,
    check_writable,
    choose_device,
    input_view_psnr,
    print_config,
    result_stem,
    write_record,
    write_results,
)

TEXTURE_VIEW = 512  # px of the picture where it colours the mesh
INTERRUPTED = 130  # exit code of a command that Ctrl-C ended
PLAN_KEYS = ("total_steps", "denoise_steps", "t_start", "t_end", "inv_r", "init_steps", "steps_min", "steps_max", "steps_schedule")
LEARNING_KEYS = ("position_lr_init", "position_lr_final", "position_lr_max_steps", "feature_lr", "opacity_lr", "scaling_lr", "rotation_lr")


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Whatever is found wrong with what the user gave becomes a UserError of one line."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, OSError) as error:
        raise UserError(one_line(error)) from error


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
    reference: sir.Reference | None  # the picture as one more view
    rounds: list[Round]
    generator: torch.Generator


def own_caption(config: Config) -> str | None:
    """The sentence beside the picture, for a prior that reads."""
    return caption_beside(config.input) if config.input and "prompt" in PRIORS[config.prior] else None


@profiler.function
def condition_prior(config: Config, prior: Prior, picture: Tensor | None) -> object:
    """What the prior makes of the RGBA `picture` [4,S,S] and the prompt. Raises ValueError for what it cannot take."""
    prompt = config.prompt and config.prompt + (config.prompt_suffix or "")
    return prior.condition(picture, prompt, config.negative_prompt, config.elevation)


def prepare(config: Config, prior: Prior, picture: Tensor | None) -> Job:
    """Condition the prior on the RGBA `picture` [4,S,S] and the prompt, plan the rounds, make the first Gaussians.

    Raises ValueError for what does not fit together.
    """
    generator = torch.Generator().manual_seed(config.seed)
    condition = condition_prior(config, prior, picture)
    size = config.ref_size or prior.resolution
    spread = select(config, ("min_ver", "max_ver", "radius", "even_view"))
    views = sir.ViewRange(
        config.elevation, size=size, fov_y=config.fovy, fewest=config.batch_size_min, most=config.batch_size_max, **spread
    )
    views.check(prior)
    reference = None if picture is None else reference_view(picture, views.cameras(config.elevation, 0.0, prior.device))
    rounds = plan_rounds(prior.schedule, **select(config, PLAN_KEYS))
    if config.load:
        model = GaussianModel.load(config.load, prior.device)
    else:
        model = GaussianModel.initial_ball(config.num_pts, sh_degree=config.sh_degree, generator=generator, device=prior.device)
    return Job(config, prior, condition, model, views, reference, rounds, generator)


def reconstruct(job: Job, progress: Progress) -> None:
    """All rounds of SIR on `job.model`, which is whole whenever `progress` raises `Stopped`."""
    config, prior, model, generator = job.config, job.prior, job.model, job.generator
    background = torch.ones(3, device=prior.device)
    grow_at = density_steps(job.rounds, config.density_start_iter, config.density_end_iter, config.densification_interval)
    optimizer = model.make_optimizer(**select(config, LEARNING_KEYS))

    def learn(rendering: sir.Rendering) -> None:
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
        with progress.phases("prior", announce=False):
            with torch.no_grad():
                renders = model.render(cameras, background).image
            targets = sir.repair(prior, renders, cameras, job.condition, turn, config.cfg, config.eta, generator, progress.after_prior_step)
        with progress.phases("fit", announce=False):
            loss = fitter.fit(
                cameras, targets, turn, before_step=model.update_learning_rate, after_step=grow, on_step=progress.after_fit_step
            )
        progress.end_round(loss)


@profiler.function
def clean(job: Job) -> None:
    """Drop what is faint, oversized or floats before the background. Raises UserError if nothing is left."""
    job.model.prune()
    job.model.filter_floaters(radius=job.config.radius, fov_y=job.config.fovy)
    if len(job.model) == 0:
        raise UserError("nothing is left of the object: the prior drew next to nothing; try another seed, prompt or picture")


def texture_view(job: Job, picture: Tensor | None) -> sir.Reference | None:
    """The picture as a view of the size that textures are made from."""
    if picture is None:
        return None
    camera = job.views.cameras(job.config.elevation, 0.0, job.prior.device)
    return reference_view(picture, camera.resized(TEXTURE_VIEW, TEXTURE_VIEW))


def run(config: Config, quiet: bool, prior: Prior | None = None) -> int:
    """One picture and/or sentence to files, by `prior` or, without one, by that of the configuration; returns the exit code."""
    with user_errors():
        device = choose_device(config.device)
        phases = Phases(device, quiet)
        with phases("load"):
            if not config.input and not config.prompt:
                raise UserError('nothing to make: pass input=picture.png, prompt="a sentence", or both')
            picture = load_picture(config.input) if config.input else None
            config.prompt = config.prompt or own_caption(config)
            stem = result_stem(config)
            check_switches(config, device)
            prior = prior or load_prior(config.prior, config.prior_path, device, config.precision, config.prior_memory)
            job = prepare(config, prior, picture)
            check_writable(stem)
            profiler.write_to(Path(f"{stem}_trace"))
    if not quiet:
        print_config(config)

    with Interrupt() as interrupt:
        with Progress(job.prior, job.rounds, config.cfg, phases, interrupt, quiet) as progress:
            try:
                reconstruct(job, progress)
                complete = True
            except Stopped:
                complete = False
        if not progress.fit_steps:
            print("main.py: stopped before the first fit; nothing was written", file=sys.stderr)
            return INTERRUPTED
        for name in ("prior", "fit"):
            phases.announce(name)
        clean(job)
        with user_errors():
            no_mesh = write_results(config, stem, job.model, texture_view(job, picture), phases)
            write_record(
                config,
                stem,
                device,
                phases,
                complete=complete,
                rounds=progress.rounds_done,
                optimiser_steps=progress.fit_steps,
                prior_evaluations=progress.evaluations,
                prior_precision=str(job.prior.dtype).removeprefix("torch."),
                gaussians=len(job.model),
                input_view_psnr_db=input_view_psnr(job.model, job.reference),
                no_mesh=no_mesh,
            )
    if no_mesh:
        raise UserError(f"everything was written but the mesh: {no_mesh}")
    if not quiet:
        print(f"{'wrote' if complete else 'stopped early, wrote'} {stem}_model.* and {stem}.json", file=sys.stderr)
    return 0 if complete else INTERRUPTED


def exit_code(program: str, work: Callable[[], int]) -> int:
    """What `work` returns; 2 for anything the user can mend (one line says what), 130 after Ctrl-C."""
    try:
        return work()
    except (UserError, profiler.TraceError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: stopped", file=sys.stderr)
        return INTERRUPTED


def profiled(run: Callable[[Config, bool], int], config: Config, quiet: bool) -> int:
    """What `run` returns, with the ranges or the trace that `config.profiling` asks for. Raises profiler.TraceError."""
    wanted = config.profiling
    with profiler.session(wanted.mode, wanted.scope, wanted.rounds, quiet):
        return run(config, quiet)


def main(arguments: Sequence[str] | None = None) -> int:
    """See `exit_code`."""
    words = sys.argv[1:] if arguments is None else arguments
    return exit_code("main.py", lambda: profiled(run, *parse_command_line(words, __doc__)))


if __name__ == "__main__":
    sys.exit(main())
