"""Make a checkpoint of launch.py small, to pass it on: the model in float16, without what training would go on from.

    python scripts/slim_checkpoint.py outputs/NAME/TAG/ckpt/step_N.ckpt weights/NAME/step_N.ckpt

The configuration that it was trained with stays in it, except for where its run wrote.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from microdreamer.core.command import Parser, exit_code
from microdreamer.core.errors import user_errors
from microdreamer.core.files import user_path
from microdreamer.pipeline.launch import checkpoint
from microdreamer.pipeline.launch.config import LaunchConfig


def main(arguments: list[str] | None = None) -> int:
    return exit_code("slim_checkpoint.py", lambda: _slim(sys.argv[1:] if arguments is None else arguments))


def _slim(arguments: list[str]) -> int:
    parser = Parser(prog="slim_checkpoint.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="checkpoint of a run")
    parser.add_argument("out", help="file to write")
    options = parser.parse_args(arguments)
    source, out = user_path(options.source), user_path(options.out)
    state = checkpoint.to_use(checkpoint.load(source))
    state["config"]["exp_root_dir"] = LaunchConfig.exp_root_dir
    state["config"]["resume"] = None
    with user_errors():
        checkpoint.save(out, state)
    print(f"wrote {out}: {_megabytes(out)} of {_megabytes(source)}", file=sys.stderr)
    return 0


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"


if __name__ == "__main__":
    sys.exit(main())
