"""A chapter of docs/course, on this machine.

    python -m benchmarks.course profile     where the time of the plain-PyTorch program goes
    python -m benchmarks.course floor       what nothing can go below
    python -m benchmarks.course op          what makes a function an op, and which check finds which mistake
    python -m benchmarks.course kernels     the density grid, kernel by kernel
    python -m benchmarks.course step        a step of the fit
    python -m benchmarks.course program     what is left of it in the whole program

On the CPU all run on one thread and count the processor's time.
--device cpu or cuda (default: the GPU where there is one); --small for seconds and little to see; --out FILE.json keeps the figures.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from benchmarks.course.scene import Scene, one_thread
from benchmarks.timing import write_json
from microdreamer.core.errors import UserError
from microdreamer.core.machine import best_device, choose_device, describe, provenance
from microdreamer.kernels import extension

CHAPTERS = ("profile", "floor", "op", "kernels", "step", "program")


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.course", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("chapter", choices=CHAPTERS)
    parser.add_argument("--device", default=best_device().type, choices=["cpu", "cuda"])
    parser.add_argument("--small", action="store_true", help="a small case, in seconds; its times mean little")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args(words)
    try:
        choose_device(options.device, "--device ")
    except UserError as error:
        parser.error(str(error))
    if not extension.available(options.device):
        parser.error(f"the course compares compiled {options.device} kernels and there are none; {extension.BUILD_HINT}")
    chapter = importlib.import_module(f"benchmarks.course.{options.chapter}")
    with one_thread(options.device):
        header = provenance(options.device)
        print(describe(header), flush=True)
        found = header | {"chapter": options.chapter, "small": options.small} | chapter.run(Scene(options.device, options.small))
    print("\n".join(chapter.tell(found)))
    write_json(options.out, found)


if __name__ == "__main__":
    main()
