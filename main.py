"""A picture and/or a sentence -> 3D Gaussians -> a coarse coloured mesh, by score-based iterative reconstruction.

python main.py --config configs/micro.yaml input=photo_rgba.png save_path=name
python main.py --config configs/micro.yaml prompt="a red apple"
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from cam_utils import turntable
from config import Config, UserError, parse_command_line
from distillation import sir
from distillation.schedules import Round, density_steps, plan_rounds
from gs_renderer import GaussianModel, extract_mesh
from guidance import Prior, load_prior
from image_input import caption_beside, load_picture, reference_view
from media import write_sheet, write_video
from progress import Interrupt, Phases, Progress, Stopped
from report import check_writable, choose_device, print_settings, render_views, result_stem, write_record

INTERRUPTED = 130  # exit code of a command that Ctrl-C ended
SHEET_VIEWS = 8
RESULTS = ("_model.ply", "_model.obj", "_model.mtl", "_model.glb", ".mp4", "_views.png", ".json")
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
        raise UserError(" ".join(str(error).split())) from error


def select(config: Config, keys: Sequence[str]) -> dict:
    return {key: getattr(config, key) for key in keys}


def start_model(config: Config, generator: torch.Generator, device: torch.device) -> GaussianModel:
    """The Gaussians of the PLY `load`, or a grey ball of them."""
    if config.load:
        return GaussianModel.load_ply(config.load, device)
    return GaussianModel.initial_ball(config.num_pts, sh_degree=config.sh_degree, generator=generator, device=device)


def view_range(config: Config, prior: Prior) -> sir.ViewRange:
    """Where the views of a round stand, at the size of the fit."""
    size = config.ref_size or prior.resolution
    spread = select(config, ("min_ver", "max_ver", "radius", "even_view"))
    return sir.ViewRange(config.elevation, size=size, fov_y=config.fovy, fewest=config.batch_size_min, most=config.batch_size_max, **spread)


def reconstruct(
    config: Config,
    prior: Prior,
    condition: object,
    model: GaussianModel,
    reference: sir.Reference | None,
    rounds: Sequence[Round],
    generator: torch.Generator,
    progress: Progress,
) -> None:
    """All rounds of SIR on `model`, with the picture as one more view. The model is whole whenever `progress` raises `Stopped`."""
    views, background = view_range(config, prior), torch.ones(3, device=prior.device)
    grow_at = density_steps(rounds, config.density_start_iter, config.density_end_iter, config.densification_interval)
    optimizer = model.make_optimizer(**select(config, LEARNING_KEYS))

    def update(step: int, rendering: sir.Rendering) -> None:
        model.record_statistics(rendering)
        model.update_learning_rate(step)
        optimizer.step()
        optimizer.zero_grad()
        if step in grow_at:
            model.densify_and_prune(grad_threshold=config.densify_grad_threshold, percent_dense=config.percent_dense, generator=generator)

    for turn in rounds:
        progress.start_round(turn)
        cameras = sir.draw_cameras(prior, views, generator, from_front=turn.starts_from_noise)
        with progress.phases("prior", announce=False):
            with torch.no_grad():
                renders = model.render(cameras, background).image
            targets = sir.repair(prior, renders, cameras, condition, turn, config.cfg, config.eta, generator, progress.after_prior_step)
        with progress.phases("fit", announce=False):
            loss = sir.fit(
                model,
                cameras,
                targets,
                reference,
                turn,
                background,
                update,
                weight=config.lambda_sd,
                ref_loss=config.ref_loss,
                ref_mask_loss=config.ref_mask_loss,
                on_step=progress.after_fit_step,
            )
        progress.end_round(loss)


def write_results(config: Config, stem: Path, model: GaussianModel, phases: Phases) -> str | None:
    """Gaussians, turntable, sheet of views and mesh, each written whole or not at all. Returns why there is no mesh, or None."""
    for suffix in RESULTS:  # what an earlier run of that name left would seem to belong to this one
        Path(f"{stem}{suffix}").unlink(missing_ok=True)
    background = torch.ones(3, device=model.device)
    looks = {"elevation": config.elevation, "radius": config.radius, "fov_y": config.fovy, "device": model.device}
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


def run(config: Config, quiet: bool) -> int:
    """One picture and/or sentence to files; returns the exit code."""
    with user_errors():
        device = choose_device(config.device)
        phases = Phases(device, quiet)
        with phases("load"):
            if not config.input and not config.prompt:
                raise UserError('nothing to make: pass input=picture.png, prompt="a sentence", or both')
            picture = load_picture(config.input) if config.input else None
            config.prompt = config.prompt or (caption_beside(config.input) if config.input else None)
            stem = result_stem(config)
            generator = torch.Generator().manual_seed(config.seed)
            prior = load_prior(config.prior, config.prior_path, device)
            condition = prior.condition(picture, config.prompt, config.negative_prompt, config.elevation)
            rounds = plan_rounds(prior.schedule, **select(config, PLAN_KEYS))
            views = view_range(config, prior)
            views.check(prior)
            reference = None if picture is None else reference_view(picture, views.cameras(config.elevation, 0.0, device))
            model = start_model(config, generator, device)
            check_writable(stem)
    settings = dataclasses.asdict(config)
    if not quiet:
        print_settings(settings)

    with Interrupt() as interrupt:
        with Progress(prior, rounds, config.cfg, phases, interrupt, quiet) as progress:
            try:
                reconstruct(config, prior, condition, model, reference, rounds, generator, progress)
                complete = True
            except Stopped:
                complete = False
        if not progress.fit_steps:
            print("main.py: stopped before the first fit; nothing was written", file=sys.stderr)
            return INTERRUPTED
        for name in ("prior", "fit"):
            phases.announce(name)
        model.prune()
        model.filter_floaters(radius=config.radius, fov_y=config.fovy)
        if len(model) == 0:
            raise UserError("nothing is left of the object: the prior drew next to nothing; try another seed, prompt or picture")
        with user_errors():
            no_mesh = write_results(config, stem, model, phases)
            write_record(stem, settings, model, prior, reference, progress, complete, no_mesh)
    if no_mesh:
        raise UserError(f"everything was written but the mesh: {no_mesh}")
    if not quiet:
        print(f"{'wrote' if complete else 'stopped early, wrote'} {stem}_model.* and {stem}.json", file=sys.stderr)
    return 0 if complete else INTERRUPTED


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, 2 for anything the user can mend (one line says what), 130 after Ctrl-C."""
    try:
        config, quiet = parse_command_line(sys.argv[1:] if arguments is None else arguments, __doc__)
        return run(config, quiet)
    except UserError as error:
        print(f"main.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("main.py: stopped", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
