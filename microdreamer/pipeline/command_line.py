"""The words of a command line: `--config FILE`, `key=value`, and what is said about them. Needs no PyTorch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from microdreamer.core.command import Parser
from microdreamer.core.errors import UserError
from microdreamer.pipeline.config import SCHEMA, Config, load_config

FLAGS = {"--preview": "preview=true"}
ALIASES = {"--from-splats": "load", "--from-ply": "load", "--from-mesh": "mesh"}


def parse_command_line(arguments: Sequence[str], description: str, program: str | None = None) -> tuple[Config, bool]:
    """The configuration and whether to be quiet. Words other than the options are `key=value` (leading dashes are dropped)."""
    parser = Parser(
        prog=program,
        description=description,
        epilog=f"keys and their defaults:\n{SCHEMA.describe()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [--config FILE] [--quiet] [key=value ...]",
        allow_abbrev=False,
    )
    names = ", ".join(SCHEMA.shipped())
    parser.add_argument("--config", metavar="FILE", help=f"YAML file of key: value, or the name of one that ships: {names}")
    parser.add_argument("--quiet", action="store_true", help="no progress, only warnings and errors")
    options, words = parser.parse_known_args(with_aliases(arguments))
    return load_config(options.config, words), options.quiet


def with_aliases(arguments: Sequence[str]) -> list[str]:
    """The FLAGS and ALIASES (`--from-mesh FILE` or `--from-mesh=FILE`) as the key=value words that they stand for.

    Raises UserError for a missing FILE.
    """
    words, rest = [], iter(arguments)
    for word in rest:
        name, equals, value = word.partition("=")
        if name in ALIASES:
            value = value if equals else next(rest, "")
            if not value:
                raise UserError(f"command line: {name}: expected a file")
            word = f"{ALIASES[name]}={value}"
        words.append(FLAGS.get(word, word))
    return words
