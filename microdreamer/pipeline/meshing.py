"""`microdreamer mesh splats.ply`: a file of Gaussians to textured meshes of several levels of detail, and to STL for a printer."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from microdreamer.core.command import Parser, exit_code
from microdreamer.core.errors import UserError, user_errors
from microdreamer.core.files import clean_name, user_path
from microdreamer.pipeline.config import Config, load_config

if TYPE_CHECKING:
    from microdreamer.gaussians.model import GaussianModel
    from microdreamer.meshes.mesh import Mesh

MESH = """A file of Gaussians (.ply, .splat, .spz, .glb, of any program: docs/splats.md) -> a textured, watertight mesh.

microdreamer mesh splats.ply                                  NAME_mesh.glb and .obj, of at most mesh_faces faces
microdreamer mesh splats.ply --lod 50000,10000,2000           NAME_mesh.glb, NAME_mesh_lod1.glb, NAME_mesh_lod2.glb
microdreamer mesh splats.ply --size-mm 80                     NAME_mesh.stl too, 80 mm along its longest side, on a flat base
"""
LEAST_FACES, MOST_LEVELS, LEAST_TEXTURE = 4, 8, 64
SMALLER = "lower texture_size or mesh_resolution, or end other programs"


def mesh_levels(source: GaussianModel | str | Path, faces: Sequence[int], config: Config | str | Path | dict | None = None) -> list[Mesh]:
    """The textured meshes of a set of Gaussians, or of a file of them, of at most `faces` faces each, where the Gaussians stand.

    Each is simplified from the one before, unwrapped anew and painted by the Gaussians; its texture has half as many texels a side for
    each quarter of the first one's faces. Keys that matter: as for `mesh_from_gaussians`. Raises UserError in one line for a file that
    is none, Gaussians without a surface, and numbers that do not fall.
    """
    from microdreamer.core.machine import choose_device
    from microdreamer.gaussians import captures
    from microdreamer.gaussians.model import GaussianModel
    from microdreamer.meshes.baking import bake, unwrapped
    from microdreamer.meshes.cleaning import simplify
    from microdreamer.meshes.mesh import Mesh
    from microdreamer.pipeline.config import as_config
    from microdreamer.pipeline.subject import load_subject, subject_of

    with user_errors():
        check_levels(faces)
        config = dataclasses.replace(as_config(config), mesh_faces=faces[0])
        device = choose_device(config.device)
        if isinstance(source, GaussianModel):
            subject, device = subject_of(source, config, None, source.device), source.device
        else:
            subject = load_subject(dataclasses.replace(config, load=str(source), mesh=None), Path(), None, device)
        assert subject.gaussians is not None  # made of them
        solid = GaussianModel.from_arrays(captures.thickened(subject.gaussians.arrays()), device)
        meshes = [subject.mesh]
        for count in faces[1:]:
            bare = Mesh(*simplify(meshes[-1].vertices, meshes[-1].faces, count))
            size = max(LEAST_TEXTURE, config.texture_size >> round(math.log(faces[0] / count, 4)))
            meshes.append(bake(unwrapped(bare, size, config.unwrap), size, solid, None, device))
        return [subject.placed_back(mesh) for mesh in meshes]


def check_levels(faces: Sequence[int]) -> None:
    """Raise ValueError for numbers of faces that are too few, or do not fall."""
    falls = all(more > fewer for more, fewer in itertools.pairwise(faces))
    if not 1 <= len(faces) <= MOST_LEVELS or min(faces) < LEAST_FACES or not falls:
        shown = ",".join(map(str, faces))
        raise ValueError(f"--lod {shown}: expected 1 to {MOST_LEVELS} numbers of faces that fall, {LEAST_FACES} or more each")


def parse(arguments: Sequence[str], program: str) -> tuple[argparse.Namespace, Config]:
    """The options and the configuration. Raises UserError."""
    parser = Parser(
        prog=program,
        description=MESH,
        epilog="keys (main.py --help): outdir, save_path, mesh_faces, texture_size, mesh_resolution, up, clean, device, ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s FILE [--lod FACES,FACES,...] [--size-mm SIZE] [--no-flat-base] [--config FILE] [--quiet] [key=value ...]",
        allow_abbrev=False,
    )
    parser.add_argument("splats", type=user_path, help="the file of Gaussians")
    parser.add_argument("--lod", help="numbers of faces of the levels, the most first (default: mesh_faces alone)")
    parser.add_argument("--size-mm", type=float, help="write STL, so many millimetres along its longest side")
    parser.add_argument("--flat-base", action=argparse.BooleanOptionalAction, default=True, help="of the STL (default: yes)")
    parser.add_argument("--config", help="YAML file, or the name of one that ships")
    parser.add_argument("--quiet", action="store_true", help="only warnings and errors")
    options, words = parser.parse_known_args(list(arguments))
    config = load_config(options.config, words)
    try:
        options.faces = [int(word) for word in options.lod.split(",")] if options.lod else [config.mesh_faces]
    except ValueError:
        raise UserError(f"--lod {options.lod}: expected numbers of faces with commas between, as 50000,10000,2000") from None
    return options, config


def run(options: argparse.Namespace, config: Config) -> int:
    """Make the files, which take their places together; returns the exit code. Raises UserError."""
    from microdreamer.core.machine import choose_device
    from microdreamer.core.staging import staged
    from microdreamer.meshes.files import write_glb, write_obj
    from microdreamer.meshes.printing import check_size, for_printing, write_stl
    from microdreamer.pipeline.material import check_material
    from microdreamer.pipeline.results import check_switches, check_writable, result_stem

    with user_errors():
        check_levels(options.faces)
        check_material(config, None)
        if options.size_mm is not None:
            check_size(options.size_mm)
        named = dataclasses.replace(config, save_path=config.save_path or clean_name(options.splats.stem), input=None)
        stem = result_stem(named)
        check_writable(stem)
        check_switches(config, choose_device(config.device))
        meshes = mesh_levels(options.splats, options.faces, config)
        print_shape = None if options.size_mm is None else for_printing(meshes[0], options.size_mm, options.flat_base)
        levels = [f"_mesh_lod{level}.glb" for level in range(1, MOST_LEVELS)]
        with staged(stem, ["_mesh.obj", "_mesh.mtl", "_mesh_albedo.png", "_mesh.stl", *levels, "_mesh.glb"]) as aside:
            write_obj(meshes[0], f"{aside}_mesh.obj")
            for level, mesh in enumerate(meshes):
                write_glb(mesh, f"{aside}_mesh{f'_lod{level}' if level else ''}.glb")
            if print_shape:
                write_stl(*print_shape, f"{aside}_mesh.stl")
    if not options.quiet:
        counts = ", ".join(str(len(mesh.faces)) for mesh in meshes)
        print(f"wrote {stem}_mesh.* ({counts} faces)", file=sys.stderr)
    return 0


def main(arguments: Sequence[str], program: str = "microdreamer mesh") -> int:
    """See `core.command.exit_code`."""
    return exit_code(program, lambda: run(*parse(arguments, program)), SMALLER)
