"""What may be asked for over the web, within what bounds, and how it is checked before it waits: the same for the page and the HTTP API."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microdreamer.core.errors import UserError, user_errors
from microdreamer.core.files import clean_name
from microdreamer.gaussians.splat_files import MAGIC as SPLAT_MAGIC
from microdreamer.images.reading import read_image
from microdreamer.meshes.formats.gltf_document import MAGIC, Document
from microdreamer.meshes.printing import check_size
from microdreamer.pipeline.config import SCHEMA, Config
from microdreamer.pipeline.inputs import MOST_PICTURES, places_of
from microdreamer.pipeline.pictures import MIN_SIDE

if TYPE_CHECKING:
    from microdreamer.guidance.base import Prior

MIB = 1 << 20
MAX_UPLOAD = 20 * MIB  # bytes of a picture or a mesh
MAX_MEGAPIXELS = 40
MAX_PROMPT = 500  # characters
MAX_FACES, MAX_TEXTURE = 200_000, 2048

# The file that stands for a result, by the type that is asked for; zip holds all.
TYPES = {
    "glb": "_model.glb",
    "obj": "_model.obj",
    "ply": "_model.ply",
    "splat": "_model.splat",
    "spz": "_model.spz",
    "stl": "_model.stl",
    "zip": "",
}

# Files of a job's folder that it starts from.
PICTURE, CUT_OUT, MESH, SPLATS, STAGE_1_MESH, STAGE_1_SPLATS = "picture", "cutout.png", "mesh.glb", "splats", "stage_1.glb", "stage_1.ply"
PICTURES = (PICTURE, *(f"picture_{number}" for number in range(2, MOST_PICTURES + 1)))
CUT_OUTS = (CUT_OUT, *(f"cutout_{number}.png" for number in range(2, MOST_PICTURES + 1)))
INPUTS = frozenset({*PICTURES, *CUT_OUTS, MESH, SPLATS, STAGE_1_MESH, STAGE_1_SPLATS})

PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "fast": ("half the rounds, no film", {"total_steps": 0.5, "video_frames": 0}),
    "normal": ("the server's configuration", {}),
    "best": ("the same, then refined (stage 2)", {}),
}
# A mesh that came without colours wants to be painted, not retouched (main2.py --help).
PAINTING = {
    "refine_views": 4,
    "refine_denoise_steps": 20,
    "refine_strength": 0.3,
    "refine_cfg": 3.0,
    "iters_refine": 4,
    "texture_lr": 0.2,
    "train_geo": False,
}
decoding = threading.Lock()  # one picture at a time, whose pixels may take half a gigabyte


@dataclasses.dataclass(frozen=True)
class Order:
    """What is to be made: of a picture and/or a sentence an object, or, of a mesh, Gaussians or an earlier result, a refined mesh.

    name: what the files are called. elevation: of the picture's camera in degrees, or of each picture's, negative from above.
    azimuth: of each picture's, None where they are to be found. recenter: whether several cut-outs are framed, equally high.
    faces, texture_size: None takes the server's. textured: also write the bare shape where false. size_mm: also write STL of that
    size. refine: stage 2 after stage 1. type: the file that stands for the result.
    """

    prompt: str | None = None
    negative_prompt: str | None = None
    preset: str = "normal"
    seed: int = 0
    elevation: float | tuple[float, ...] = 0.0
    azimuth: tuple[float, ...] | None = None
    recenter: bool = True
    faces: int | None = None
    texture_size: int | None = None
    textured: bool = True
    size_mm: float | None = None
    refine: bool = False
    name: str = "object"
    type: str = "glb"

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise UserError(f"preset={self.preset}: expected one of {', '.join(PRESETS)}")
        for key in ("prompt", "negative_prompt"):
            text = " ".join((getattr(self, key) or "").split()) or None
            if text and len(text) > MAX_PROMPT:
                raise UserError(f"{key}: expected at most {MAX_PROMPT} characters, got {len(text)}; say it in fewer words")
            object.__setattr__(self, key, text)
        for key, most in (("faces", MAX_FACES), ("texture_size", MAX_TEXTURE)):
            value = getattr(self, key)
            if value is not None and value > most:
                raise UserError(f"{key}={value}: expected at most {most} here")
        if self.size_mm is not None:
            with user_errors():
                check_size(self.size_mm)
        object.__setattr__(self, "name", clean_name(self.name)[:60])

    @property
    def is_refined(self) -> bool:
        return self.refine or self.preset == "best"

    def config(self, base: Config, paints: bool = False) -> Config:
        """The configuration of a run. Raises UserError in the words of the command line for a value that is out of range."""
        values = {
            "seed": self.seed,
            "elevation": _words(self.elevation),
            "azimuth": _words(self.azimuth),
            "mesh_faces": self.faces,
            "texture_size": self.texture_size,
        }
        base = dataclasses.replace(base, elevation=0.0, azimuth=None)
        words = [f"{key}={value}" for key, value in values.items() if value is not None]
        try:
            config = SCHEMA.load(None, words, stored=dataclasses.asdict(base))
        except UserError as error:
            raise UserError(str(error).removeprefix("command line: ").replace("mesh_faces", "faces")) from None
        changes = dict(PRESETS[self.preset][1])
        if "total_steps" in changes:
            changes["total_steps"] = max(2, round(base.total_steps * changes["total_steps"]))
        changes |= PAINTING if paints else {}
        own = {"input": None, "prompt": self.prompt, "negative_prompt": self.negative_prompt, "load": None, "mesh": None}
        own |= {"save_path": self.name, "outdir": ".", "resume": False, "mesh_format": "all", "splat_format": "all"}
        return dataclasses.replace(config, **changes, **own)


def _words(numbers: float | tuple[float, ...] | None) -> str | None:
    """As a key of the configuration takes them."""
    if numbers is None:
        return None
    return str(list(numbers)) if isinstance(numbers, tuple) else str(numbers)


def check(order: Order, files: Mapping[str, bytes], base: Config, prior: Prior) -> None:
    """Raise UserError, in one line, for what could be known to fail before its turn comes.

    files: what is uploaded, by the names above. prior: what it is to be made with.
    """
    config, accepts = order.config(base), prior.accepts
    with user_errors():
        places_of(config, sum(name in files for name in (*PICTURES, *CUT_OUTS)))
        for sentence in filter(None, (config.prompt, config.negative_prompt) if SPLATS not in files and "prompt" in accepts else ()):
            prior.check_sentence(sentence)
    if not (files or order.prompt):
        raise UserError("nothing to make: send a picture, a sentence, or both")
    if MESH in files and not (order.prompt or PICTURE in files or CUT_OUT in files):
        raise UserError("nothing to refine the mesh by: send a picture, a sentence, or both")
    seen = PICTURE in files or CUT_OUT in files
    if SPLATS not in files:
        if not seen and "prompt" not in accepts:
            raise UserError("this server's prior starts from pictures; send one")
        if not order.prompt and "image" not in accepts:
            raise UserError("this server's prior starts from sentences; send one")
    for name, data in files.items():
        if len(data) > MAX_UPLOAD:
            raise UserError(f"{name}: expected at most {MAX_UPLOAD // MIB} MiB, got {len(data) / MIB:.1f}; make it smaller first")


def check_files(folder: Path, names: list[str]) -> None:
    """Raise UserError for uploads in a folder that are not what they should be: pictures are decoded, and meshes may name no files."""
    with user_errors():
        for name in names:
            path = folder / name
            if name in PICTURES or name in CUT_OUTS:
                check_picture(path)
            elif name == MESH:
                check_mesh(path)
            elif name == SPLATS:
                check_splats(path)


def check_picture(path: Path) -> None:
    """Raises ValueError in one line for what is no picture, or has too few or too many pixels."""
    with decoding:
        image = read_image(path)
    if min(image.size) < MIN_SIDE:
        raise ValueError(f"{path}: expected at least {MIN_SIDE}x{MIN_SIDE} pixels, got {image.width}x{image.height}; take a larger picture")
    if image.width * image.height > MAX_MEGAPIXELS * 1_000_000:
        raise ValueError(
            f"{path}: expected at most {MAX_MEGAPIXELS} megapixels, got {image.width * image.height / 1e6:.0f}; scale it down first"
        )


def check_mesh(path: Path) -> None:
    """Raises ValueError in one line for what is no GLB, or names files beside it: those would be read from this machine."""
    if _first_bytes(path) != MAGIC:
        raise ValueError(f"{path}: expected a mesh as binary glTF (.glb)")
    if re.search(r'"uri"\s*:\s*"(?!data:)', json.dumps(Document(path).json)):
        raise ValueError(f"{path}: expected a file that holds all its parts, got one that names files beside it; embed them")


def check_splats(path: Path) -> None:
    """The same for what is no PLY, SPZ or GLB of Gaussians by its first bytes."""
    first = _first_bytes(path)
    if not any(first.startswith(magic) for magic in SPLAT_MAGIC):
        raise ValueError(f"{path}: expected Gaussians as PLY, .spz or .glb")
    if first == MAGIC:
        check_mesh(path)


def _first_bytes(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(4)
