"""launch.py: reads the words, calls the library, says how it went."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from microdreamer.core.command import Interrupt, Parser, exit_code
from microdreamer.core.errors import Stopped, UserError
from microdreamer.core.paths import shipped_folder
from microdreamer.pipeline.launch.config import GENERATORS, SCHEMA, SHORTCUTS, LaunchConfig, load_launch_config

if TYPE_CHECKING:
    from microdreamer.pipeline.progress import OnProgress, ShouldStop

ABOUT = """A sentence (or a picture) -> a neural field, or Gaussians -> film and textured mesh, by score distillation.

python launch.py --config configs/x0sds_micro.yaml --train --test --export prompt="a red car"
python launch.py --train prompt="an astronaut riding a horse"                            the low resolution, with MVDream's weights
python launch.py --train --train_highres resume=outputs/mvdream_sd21/TAG/ckpt/step_5000.ckpt   goes on at the high one
python launch.py --test --export resume=outputs/mvdream_sd21/TAG                          film and mesh of its last checkpoint
python launch.py --config configs/multi-prompt/hyper_iNGP_micro.yaml --train --test       a network that learns a library of sentences
python launch.py --generate "a red car" --out assets resume=FILE                          asset of a network that was trained on a library
python launch.py --interpolate "a red car" "a blue boat" resume=FILE                      film between two of its shapes
torchrun --nproc_per_node 2 launch.py --train ...                                         views shared among GPUs
"""
DEFAULT = "mvdream_sd21.yaml"
SMALLER = (
    "lower data.batch_size, data.size or system.renderer.num_samples_per_ray, or set system.use_recompute=true"
    " (for --test data.eval_size or data.n_test_views, for --export export.resolution)"
)


def launch(words: Sequence[str], program: str = "launch.py") -> int:
    """From words to files; returns the exit code."""
    return exit_code(program, lambda: _launch(words, program), SMALLER)


def _launch(words: Sequence[str], program: str) -> int:
    parser = Parser(
        prog=program,
        description=ABOUT,
        epilog=f"keys and their defaults:\n{SCHEMA.describe()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [--config FILE] [--train] [--train_highres] [--test] [--export]"
        " [--generate SENTENCE] [--interpolate SENTENCE SENTENCE] [--out FOLDER] [--quiet] [key=value ...]",
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help=f"YAML file; default: that of the checkpoint, or configs/{DEFAULT}")
    parser.add_argument("--train", action="store_true", help="train the first stage, from resume= on if given")
    parser.add_argument("--train_highres", action="store_true", help="with --train: go on through all stages")
    parser.add_argument("--test", action="store_true", help="film, sheet of views and record; of a library those of its test")
    parser.add_argument("--export", action="store_true", help="textured mesh")
    parser.add_argument("--generate", metavar="SENTENCE", action="append", help="film and mesh of a sentence in one pass; may be repeated")
    parser.add_argument("--interpolate", metavar="SENTENCE", nargs=2, help="film from one sentence's shape to another's")
    parser.add_argument("--out", metavar="FOLDER", help="where these two write; default: the run's folder")
    parser.add_argument("--quiet", action="store_true", help="no progress, only warnings and errors")
    options, rest = parser.parse_known_args(list(words))
    if options.train_highres:
        options.train = True
    from_sentences = [*(options.generate or ()), *(options.interpolate or ())]
    for sentence in from_sentences:
        key = sentence.partition("=")[0].lstrip("-")
        if key != sentence and (key in SCHEMA.fields or key in SHORTCUTS):  # an option that took one word too many
            raise UserError(f"command line: {sentence!r} stands where a sentence was expected; --interpolate takes two, --generate one")
    if not (options.train or options.test or options.export or from_sentences):
        raise UserError("nothing to do: pass --train, --test or --export, or --generate or --interpolate, or several of them (see --help)")
    if options.out is not None and not from_sentences:
        raise UserError("command line: --out FOLDER goes with --generate or --interpolate; tag=NAME and exp_root_dir=FOLDER place the rest")
    config = config_of(options.config, rest)
    named = options.config or config.resume or any("geometry.type=" in word for word in rest)
    if from_sentences and not named:
        raise UserError("--generate and --interpolate ask a trained network: pass resume=FILE, or resume=hyper_ingp_micro, which ships")
    return _run(config, options)


def config_of(path: str | None, words: Sequence[str]) -> LaunchConfig:
    """Defaults, or what the checkpoint of resume= was trained with; then the file, if one is named; then the words."""
    resume = next((word.partition("=")[2] for word in reversed(words) if word.lstrip("-").partition("=")[0] == "resume"), "")
    if not resume:
        return load_launch_config(path or shipped_folder("configs") / DEFAULT, words)
    from microdreamer.core.files import user_path
    from microdreamer.pipeline.launch import checkpoint
    from microdreamer.pipeline.launch.run import stored_config

    return load_launch_config(path, words, stored_config(checkpoint.find(user_path(resume))))


def _run(config: LaunchConfig, options: argparse.Namespace) -> int:
    import dataclasses

    from microdreamer.core.files import try_writing
    from microdreamer.kernels.extension import keep_freed_memory
    from microdreamer.pipeline.launch import run
    from microdreamer.pipeline.terminal import Bar

    keep_freed_memory()
    logging.getLogger("microdreamer").setLevel(logging.WARNING if options.quiet else logging.INFO)
    folder = run.run_folder(config)
    try:
        try_writing(folder / "ckpt" / "x")
    except OSError as error:
        raise UserError(f"exp_root_dir={config.exp_root_dir}: cannot be written to ({error.strerror}); choose another") from None
    works = _works(config, options)
    first = os.environ.get("RANK", "0") == "0"  # of torchrun's processes: it says what was written
    quiet = options.quiet or not first
    with Bar(quiet) as bar, Interrupt() as interrupt:
        if options.train:
            try:
                last = run.train(config, highres=options.train_highres, on_progress=bar, should_stop=interrupt)
            except Stopped as stopped:
                print(f"stopped; go on with resume={stopped}", file=sys.stderr)
                return interrupt.exit_code
            if not quiet:
                print(f"wrote {last}{_next(config, last, options.train_highres)}", file=sys.stderr)
            config = dataclasses.replace(config, resume=str(last))
        for work, is_shared in works:
            if not (first or is_shared):
                continue
            try:
                made = work(config, bar, interrupt)
            except Stopped as stopped:
                print(f"stopped; {f'{stopped} has what is whole' if str(stopped) else 'nothing was written'}", file=sys.stderr)
                return interrupt.exit_code
            if not quiet:
                print(f"wrote {made if made.is_dir() else f'{made}.*'}", file=sys.stderr)
    return 0


def _works(config: LaunchConfig, options: argparse.Namespace) -> list[tuple[Callable[..., Path], bool]]:
    """What is to be done after training, in order, and whether all of torchrun's processes share it: each returns a folder, or a stem.

    Raises UserError for what this kind of geometry does not do.
    """
    from microdreamer.core.files import try_writing, user_path
    from microdreamer.pipeline.launch import generate, run

    learns_library = config.system.geometry.type in GENERATORS
    if learns_library and options.export:
        raise UserError(f'--export: {config.system.geometry.type} has a shape for every sentence; pass --generate "a sentence"')
    if options.generate or options.interpolate:
        generate.check_library(config)
    out = None if options.out is None else user_path(options.out)
    if out is not None:
        try:
            try_writing(out / "x")
        except OSError as error:
            raise UserError(f"--out {options.out}: cannot be written to ({error.strerror}); choose another") from None

    def library(config: LaunchConfig, on_progress: OnProgress, should_stop: ShouldStop) -> Path:
        return generate.render_library(config, "test", on_progress, should_stop)

    def assets(config: LaunchConfig, on_progress: OnProgress, should_stop: ShouldStop) -> Path:
        stems = generate.generate(config, options.generate, out, on_progress=on_progress, should_stop=should_stop)
        return stems[0] if len(stems) == 1 else stems[0].parent

    def film(config: LaunchConfig, on_progress: OnProgress, should_stop: ShouldStop) -> Path:
        first, second = options.interpolate
        return generate.interpolate(config, first, second, out, on_progress=on_progress, should_stop=should_stop)

    works = [
        (options.test, library if learns_library else run.test, learns_library),
        (options.export, run.export, False),
        (options.generate, assets, False),
        (options.interpolate, film, False),
    ]
    return [(work, is_shared) for wanted, work, is_shared in works if wanted]


def _next(config: LaunchConfig, last: Path, highres: bool) -> str:
    """What to say where a stage is left."""
    staged = config.data.resolution_milestones and config.system.guidance.objective != "sir"
    if highres or not staged or int(last.stem.removeprefix("step_")) >= config.trainer.max_steps:
        return ""
    return f"; for the next stage add --train_highres resume={last}"
