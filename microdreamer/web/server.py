"""`python app.py`: the page and the HTTP API in one process, from the words of a command line."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from microdreamer.core.command import Parser, exit_code
from microdreamer.core.errors import UserError, one_line
from microdreamer.core.files import user_path
from microdreamer.pipeline.config import Config, load_config

SMALLER = "take a smaller --config, fewer --workers, or end other programs"
SHARED = "is public: whoever has the address can try the password, and Gradio's servers see all that passes. It ends with this program."
MISSING = "the packages of the extra are not installed: pip install 'microdreamer-optimized[web]'"


def parse(arguments: Sequence[str], program: str) -> tuple[argparse.Namespace, Config]:
    """The options and the configuration that jobs are made with. Raises UserError."""
    parser = Parser(
        prog=program,
        description="A page in the browser and an HTTP API: pictures and sentences to 3D objects.",
        epilog="key=value: keys of the configuration that jobs are made with (main.py --help)",
        allow_abbrev=False,
    )
    parser.add_argument("--config", default="micro", help="YAML file, or the name of one that ships (default: micro)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0: also for other machines (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8081, help="default: 8081")
    parser.add_argument("--no-page", action="store_true", help="the HTTP API alone, without Gradio")
    parser.add_argument("--auth", metavar="USER:PASSWORD", help="what the page asks for")
    parser.add_argument("--token", help="what the HTTP API asks for, as `Authorization: Bearer TOKEN`")
    parser.add_argument(
        "--share",
        action="store_true",
        help="a public address through Gradio's servers, which see all that passes; takes --auth and --token",
    )
    parser.add_argument("--workers", type=int, default=1, help="jobs at the same time (default: 1)")
    parser.add_argument("--queue", type=int, default=20, help="most jobs that wait (default: 20)")
    parser.add_argument("--results", type=user_path, help="folder of the jobs' files (default: one that is removed at the end)")
    parser.add_argument("--keep-hours", type=float, default=24.0, help="age at which results are swept (default: 24)")
    parser.add_argument("--keep-gib", type=float, default=4.0, help="size of all results above which the oldest go (default: 4)")
    parser.add_argument("--quiet", action="store_true", help="only warnings and errors")
    options, words = parser.parse_known_args(list(arguments))
    for name, low, high in (("port", 0, 65535), ("workers", 1, 64), ("queue", 1, 100_000)):
        if not low <= getattr(options, name) <= high:
            raise UserError(f"--{name}: expected {low} to {high}, got {getattr(options, name)}")
    for name in ("keep_hours", "keep_gib"):
        if not 0 <= getattr(options, name) < float("inf"):
            raise UserError(f"--{name.replace('_', '-')}: expected 0 or more, got {getattr(options, name)}")
    if options.auth is not None and not all(options.auth.partition(":")):
        raise UserError("--auth: expected USER:PASSWORD")
    if options.share and not (options.token and (options.auth or options.no_page)):
        raise UserError("--share: lets anybody on the internet in who has the address; pass --auth USER:PASSWORD and --token TOKEN with it")
    return options, load_config(options.config, words)


def main(arguments: Sequence[str], program: str = "app.py") -> int:
    """Serve until Ctrl-C or SIGTERM; returns the exit code."""
    return exit_code(program, lambda: serve(*parse(arguments, program)), SMALLER)


def serve(options: argparse.Namespace, config: Config) -> int:
    """Load the prior, then serve; what runs at the end is cancelled. Raises UserError for what is not there."""
    needed = ("fastapi", "uvicorn") if options.no_page and not options.share else ("fastapi", "uvicorn", "gradio")
    if any(importlib.util.find_spec(name) is None for name in needed):
        raise UserError(MISSING)
    import uvicorn

    from microdreamer.kernels.extension import keep_freed_memory
    from microdreamer.web.api import create_api
    from microdreamer.web.jobs import Jobs
    from microdreamer.web.making import Maker

    keep_freed_memory()
    logging.getLogger("microdreamer").setLevel(logging.INFO)
    for handler in logging.getLogger().handlers:  # what is said of a picture is for its user; the terminal shows warnings
        handler.setLevel(logging.WARNING)
    maker = Maker(config)
    with tempfile.TemporaryDirectory(prefix="microdreamer-") as temporary:
        jobs = Jobs(
            maker,
            options.results or Path(temporary) / "jobs",
            options.workers,
            options.queue,
            options.keep_hours * 3600,
            int(options.keep_gib * 2**30),
        )
        app = create_api(jobs, maker, options.token)
        if not options.no_page:
            from microdreamer.web.page import add_page

            app = add_page(app, jobs, maker, options.auth, Path(temporary) / "page")
        if not options.quiet:
            shown = "localhost" if options.host in ("127.0.0.1", "0.0.0.0", "::") else options.host
            what = "API: /docs" if options.no_page else "page: /   API: /docs"
            print(f"http://{shown}:{options.port}   {what}   (Ctrl-C ends)", file=sys.stderr, flush=True)
        if options.host not in ("127.0.0.1", "localhost", "::1") and not (options.token and (options.auth or options.no_page)):
            print("other machines can use this without a password: pass --auth and --token", file=sys.stderr, flush=True)
        signal.signal(signal.SIGTERM, _end)  # uvicorn sends the signal again once it has ended
        try:
            if options.share:
                print(f"{share(options.port)}   {SHARED}", file=sys.stderr, flush=True)
            uvicorn.run(app, host=options.host, port=options.port, log_level="warning", timeout_graceful_shutdown=5)
        finally:
            jobs.close()
    return 0


def share(port: int) -> str:
    """The public address of a tunnel to this machine's `port`. Raises UserError where there is none to be had."""
    import secrets

    from gradio.networking import setup_tunnel

    try:
        return setup_tunnel("127.0.0.1", port, secrets.token_urlsafe(32), None, None)
    except Exception as error:  # each of several clients has its own
        raise UserError(
            f"--share: no public address is to be had ({one_line(error)}); leave it out, or put a proxy of your own before"
        ) from None


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    """Let SIGTERM pass through what is to be tidied up."""
    raise SystemExit(128 + number)
