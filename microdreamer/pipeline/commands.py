"""The commands: what main.py, main2.py and `microdreamer make|refine` run. Each reads words, calls the library, says how it went."""

from __future__ import annotations

import dataclasses
import functools
import gc
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from microdreamer.core.ahead import in_background, open_gpu, read_files
from microdreamer.core.command import Interrupt, exit_code
from microdreamer.core.errors import Stopped, UserError
from microdreamer.core.files import clean_name
from microdreamer.pipeline.command_line import parse_command_line
from microdreamer.pipeline.config import Config

if TYPE_CHECKING:
    from microdreamer.gaussians.model import GaussianModel
    from microdreamer.guidance.base import Prior
    from microdreamer.pipeline.first_guess import OnPreview
    from microdreamer.pipeline.results import Result

MAKE = """A picture and/or a sentence -> 3D Gaussians -> a coarse textured mesh, by score-based iterative reconstruction.

python main.py --config configs/micro.yaml input=photo_rgba.png save_path=name
python main.py --config configs/micro.yaml prompt="a red apple"
python main.py --config configs/micro.yaml input=photo_rgba.png --preview               first NAME_preview.png and .ply, then the rest
python main.py --config configs/micro.yaml input=folder/ outdir=results resume=true     a batch: see docs/batch.md
"""
REFINE = """Stage 2: a mesh -> a refined, textured mesh, guided by the Gaussians it came from, the picture and the prior.

python main2.py --config configs/micro.yaml input=photo_rgba.png save_path=name     refines what main.py wrote under that name
python main2.py --from-splats gaussians.ply save_path=name                          a textured mesh of any Gaussians (docs/splats.md)
python main2.py --from-mesh chair.glb --config configs/micro.yaml prompt="a chair"  refines a mesh of your own

A mesh without colours wants to be painted, not retouched: add refine_views=4 refine_denoise_steps=20 refine_strength=0.3 refine_cfg=3
iters_refine=4 texture_lr=0.2. What the prior draws beyond the mesh's outline is lost, and where its drawing is smaller there is white.
"""

SMALLER = (
    "lower texture_size, mesh_resolution, num_pts, batch_size_max, ref_size, refine_size or video_size "
    "(prior_memory for a published prior), or end other programs"
)


def make(words: Sequence[str], program: str = "main.py", run: Callable[[Config, bool], int] | None = None) -> int:
    """Stage 1 from words to files, by `run` (default: `run_make`); returns the exit code."""
    return exit_code(program, lambda: profiled(run or run_make, *parse_command_line(words, MAKE, program)), SMALLER)


def refine(words: Sequence[str], program: str = "main2.py") -> int:
    """Stage 2 from words to files; returns the exit code."""
    return exit_code(program, lambda: profiled(run_refine, *parse_command_line(words, REFINE, program)), SMALLER)


def run_make(config: Config, quiet: bool, prior: Prior | None = None) -> int:
    """Stage 1 of a configuration to files, by `prior` or the one that it names; returns the exit code. Raises UserError."""
    from microdreamer.pipeline.reconstruction import NOTHING_TO_MAKE, reconstruct

    if not config.input and not config.prompt:
        raise UserError(NOTHING_TO_MAKE)
    work = functools.partial(reconstruct, on_preview=preview_writer(config, quiet))
    return to_files(work, config, quiet, prior, "{stem}_trace", "{stem}_model.* and {stem}.json")


def preview_writer(config: Config, quiet: bool) -> OnPreview | None:
    """What writes the run's first guess, where that is wanted, and says so."""

    def write(guess: GaussianModel) -> None:
        from microdreamer.pipeline.results import write_preview

        stem = write_preview(config, guess)
        if not quiet:
            print(f"wrote {stem}_preview.*", file=sys.stderr, flush=True)

    return write if config.preview else None


def run_refine(config: Config, quiet: bool, prior: Prior | None = None) -> int:
    """Stage 2 of a configuration to files, by `prior` or the one that it names; returns the exit code. Raises UserError."""
    from microdreamer.pipeline.refinement import refine

    if (own := config.mesh or config.load) and config.save_path is None:  # named after what is refined, not after the picture
        config = dataclasses.replace(config, save_path=clean_name(Path(own).stem))
    return to_files(refine, config, quiet, prior, "{stem}_refined_trace", "{stem}_refined.*")


def to_files(work: Callable[..., Result], config: Config, quiet: bool, prior: Prior | None, trace: str, written: str) -> int:
    """What `work` makes of the configuration, in files, with a bar on the way; Ctrl-C stops it early. Returns the exit code.

    trace, written: the folder of a profiler's trace and the files that the last line names, where `{stem}` is `outdir/NAME`.
    """
    from microdreamer.core import profiler
    from microdreamer.pipeline.results import check_writable, result_stem
    from microdreamer.pipeline.terminal import Bar

    gc.freeze()  # modules stay: collecting garbage between steps need not go through all that was imported
    stem = result_stem(config)
    check_writable(stem)
    profiler.write_to(Path(trace.format(stem=stem)))
    with Bar(quiet, config_line(config)) as bar, Interrupt() as interrupt:
        try:
            result = work(config=config, prior=prior, on_progress=bar, should_stop=interrupt)
        except Stopped:
            print(f"stopped before there was a result; {'only its preview' if config.preview else 'nothing'} was written", file=sys.stderr)
            return interrupt.exit_code
        result.save(on_progress=bar)
    if result.no_mesh:
        raise UserError(f"everything was written but the mesh: {result.no_mesh}")
    if not quiet:
        print(f"{'wrote' if result.complete else 'stopped early, wrote'} {written.format(stem=stem)}", file=sys.stderr)
    return 0 if result.complete else interrupt.exit_code


def config_line(config: Config) -> str:
    """The resolved configuration, as one line of JSON that the next run could read."""
    return f"config: {json.dumps(dataclasses.asdict(config), ensure_ascii=False)}"


def begin(config: Config) -> None:
    """Begin, in the background, what the run will wait for after it has imported PyTorch: the GPU's context and the weights."""
    from microdreamer.guidance.published.presets import PRESETS, weights_of

    in_background(lambda: open_gpu(config.device))
    if config.prior in PRESETS:
        in_background(lambda: read_files(weights_of(config.prior, config.prior_path)))


def profiled(run: Callable[[Config, bool], int], config: Config, quiet: bool) -> int:
    """What `run` returns, with the ranges or the trace that `config.profiling` asks for."""
    begin(config)
    from microdreamer.core import profiler
    from microdreamer.kernels.extension import keep_freed_memory

    keep_freed_memory()
    logging.getLogger("microdreamer").setLevel(logging.WARNING if quiet else logging.INFO)
    wanted = config.profiling
    try:
        with profiler.session(wanted.mode, wanted.scope, wanted.rounds, quiet):
            return run(config, quiet)
    except profiler.TraceError as error:
        raise UserError(str(error)) from error
