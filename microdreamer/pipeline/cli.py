"""`microdreamer make|refine|mesh|launch|cutout|page ...`: the scripts' commands for an installed package."""

from __future__ import annotations

import sys
from collections.abc import Sequence

USAGE = """microdreamer COMMAND ...

  make     a picture and/or a sentence -> Gaussians and a textured mesh    (main.py)
  refine   a mesh, or a file of Gaussians -> a refined, textured mesh      (main2.py)
  mesh     a file of Gaussians -> textured meshes, levels of detail, STL
  launch   a sentence (or a picture) -> a neural field, film and mesh      (launch.py)
  cutout   photos -> centred cut-outs                                      (process.py)
  page     the page in the browser, and the HTTP API                       (app.py)

microdreamer COMMAND --help tells a command's words."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of the command that the first word names."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    name, rest = (words[0], words[1:]) if words else ("", [])
    if name in ("-h", "--help"):
        print(USAGE)
        return 0
    if name == "make":
        from microdreamer.batch.commands import make

        return make(rest, "microdreamer make")
    if name == "refine":
        from microdreamer.pipeline.commands import refine

        return refine(rest, "microdreamer refine")
    if name == "launch":
        from microdreamer.pipeline.launch.commands import launch

        return launch(rest, "microdreamer launch")
    if name == "cutout":
        from microdreamer.pipeline.cutouts import main as cutout

        return cutout(rest, "microdreamer cutout")
    if name == "mesh":
        from microdreamer.pipeline.meshing import main as mesh

        return mesh(rest, "microdreamer mesh")
    if name == "page":
        from microdreamer.web.server import main as serve

        return serve(rest, "microdreamer page")
    said = f"unknown command {name!r}" if name else "no command"
    print(f"microdreamer: {said}; expected make, refine, mesh, launch, cutout or page", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
