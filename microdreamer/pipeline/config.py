"""The configuration of a run: a typed schema with its defaults, filled from a YAML file and `key=value` words.

Keys that MicroDreamer's YAML files have keep their names and meaning. A key that nothing would read is refused. Defaults that functions
of the library have too stand in their rooms.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from microdreamer.core.errors import UserError
from microdreamer.core.paths import configuration_file, shipped_configurations
from microdreamer.core.profiler_settings import MODES, ROUNDS, SCOPES
from microdreamer.core.usual_view import FOV_Y, RADIUS
from microdreamer.distillation import EVEN_VIEW, REF_LOSS, REF_MASK_LOSS, VIEWS, VIEWS_WEIGHT
from microdreamer.distillation.schedules import STEPS_SCHEDULES
from microdreamer.gaussians import COUNT, GRAD_THRESHOLD, MESH_RESOLUTION, OTHER_FORMATS, PERCENT_DENSE, UPS, LearningRates
from microdreamer.guidance import PRECISIONS, PRIORS
from microdreamer.kernels import FIELD_BLOCKS
from microdreamer.meshes import MESH_FACES, TEXTURE_SIZE, VERTEX_STEPS
from microdreamer.meshes.unwrap import METHODS as UNWRAP_METHODS


def _number(default: float, low: float, high: float, about: str) -> Any:
    return dataclasses.field(default=default, metadata={"about": about, "range": (low, high)})


def _choice(choices: Sequence[str], about: str) -> Any:
    """One of `choices`, the first unless told otherwise."""
    return dataclasses.field(default=choices[0], metadata={"about": about, "choices": tuple(choices)})


def _text(about: str, default: str | None = None) -> Any:
    return dataclasses.field(default=default, metadata={"about": about})


RATES = LearningRates()
MESH_METHODS = ("density", "field")


@dataclasses.dataclass
class Profiling:
    """Where the time of a run goes (docs/profiling.md)."""

    mode: str = _choice(MODES, "nvtx: ranges for Nsight Systems (run_main -profile); torch: a trace of torch.profiler")
    scope: str = _choice(SCOPES, "broad: ranges around phases and rounds; function: around functions too")
    rounds: int = _number(ROUNDS, 1, 10_000, "torch: rounds that the trace records")


@dataclasses.dataclass
class Config:
    """Every key of both stages. Lengths are in the object's units (it fills about the unit sphere), angles in degrees."""

    input: str | None = _text("picture of the object; without alpha its background is cut out")
    prompt: str | None = _text("what the object is; foo_rgba.png takes foo_caption.txt where there is one")
    prompt_suffix: str | None = _text("added to the prompt for the prior: what the sentences of its training data ended with")
    negative_prompt: str | None = _text("what it is not")
    elevation: float = _number(0.0, -85, 85, "camera elevation of the picture; negative looks from above")
    recenter: bool = dataclasses.field(default=True, metadata={"about": "centre and scale an object that is not framed in its picture"})
    outdir: str = _text("folder of the results", "logs")
    save_path: str | None = _text("name of the results; default: that of the mesh, PLY or picture given, or the prompt")
    load: str | None = _text("Gaussians (.ply, .splat, .spz, .glb) to start from instead of a ball; main2.py: to make the mesh of")
    up: str = _choice(UPS, "main2.py: axis of these Gaussians that is up; auto: what the file says, else their floor, else y")
    clean: bool = dataclasses.field(default=True, metadata={"about": "main2.py: drop faint, huge and floating ones of these Gaussians"})
    seed: int = _number(0, 0, 2**63 - 1, "makes a run repeatable")
    device: str = _text("cpu, cuda, cuda:1, ...; auto takes CUDA where there is one", "auto")

    prior: str = _choice(tuple(PRIORS), f"diffusion prior: {', '.join(PRIORS)}")
    prior_path: str | None = _text("weights of the prior: a folder or owner/name@revision; default: those that ship or were downloaded")
    precision: str = _choice(PRECISIONS, "of the prior; auto: what is fast and good enough on this device")
    prior_memory: float | None = dataclasses.field(
        default=None,
        metadata={"about": "GiB that one call of a published prior may take; default: a quarter of what is free", "range": (0.01, 1e4)},
    )
    cfg: float = _number(3.0, 0, 100, "guidance scale; 1 evaluates the conditional branch only")
    denoise_steps: int = _number(20, 1, 999, "levels of the full sampling grid")
    total_steps: int = _number(21, 1, 10_000, "rounds, the first of which starts from pure noise")
    t_start: float = _number(0.9, 0, 1, "fraction of the schedule where denoising starts in the second round")
    t_end: float = _number(0.2, 0, 1, "fraction towards which the start moves")
    inv_r: float = _number(0.6, 1e-3, 1, "level reached by noise as a fraction of the top level; DDIM inversion does the rest")
    eta: float = _number(0.5, 0, 1, "fresh noise while denoising: 0 none (DDIM), 1 ancestral")

    batch_size_min: int = _number(VIEWS, 1, 64, "fewest views of a round")
    batch_size_max: int = _number(VIEWS, 1, 64, "most views of a round")
    even_view: bool = dataclasses.field(default=EVEN_VIEW, metadata={"about": "spread the views of a round evenly around the object"})
    min_ver: float = _number(-30.0, -90, 90, "lowest elevation of the views, relative to the picture's")
    max_ver: float = _number(30.0, -90, 90, "highest elevation of the views, relative to the picture's")
    radius: float = _number(RADIUS, 0.1, 100, "distance of the cameras")
    fovy: float = _number(FOV_Y, 1, 150, "vertical field of view")
    ref_size: int | None = dataclasses.field(
        default=None, metadata={"about": "pixels a side of renders and picture while fitting; default: the prior's", "range": (8, 4096)}
    )

    init_steps: int = _number(15, 1, 100_000, "optimiser steps of the first round")
    steps_min: int = _number(15, 1, 100_000, "optimiser steps of a later round at one end of steps_schedule")
    steps_max: int = _number(15, 1, 100_000, "the same at its other end")
    steps_schedule: str = _choice(
        STEPS_SCHEDULES, "optimiser steps over the rounds, from steps_min to steps_max or back; fixed takes steps_max"
    )
    lambda_sd: float = _number(VIEWS_WEIGHT, 0, 1e6, "weight of the prior's views")
    ref_loss: float = _number(REF_LOSS, 0, 1e6, "weight of the picture's colours")
    ref_mask_loss: float = _number(REF_MASK_LOSS, 0, 1e6, "weight of the picture's mask")

    num_pts: int = _number(COUNT, 1, 10_000_000, "Gaussians of the first ball")
    sh_degree: int = _number(0, 0, 3, "degree of the spherical harmonics of colour")
    position_lr_init: float = _number(RATES.position_lr_init, 0, 1, "learning rate of positions, times ten")
    position_lr_final: float = _number(RATES.position_lr_final, 0, 1, "the same at position_lr_max_steps")
    position_lr_max_steps: int = _number(RATES.position_lr_max_steps, 1, 1_000_000, "steps from the first to the last of these")
    feature_lr: float = _number(RATES.feature_lr, 0, 1, "learning rate of colours")
    opacity_lr: float = _number(RATES.opacity_lr, 0, 1, "learning rate of opacities")
    scaling_lr: float = _number(RATES.scaling_lr, 0, 1, "learning rate of scales")
    rotation_lr: float = _number(RATES.rotation_lr, 0, 1, "learning rate of rotations")
    percent_dense: float = _number(PERCENT_DENSE, 0, 1, "largest scale, as a share of the scene, of one that is cloned rather than split")
    densify_grad_threshold: float = _number(GRAD_THRESHOLD, 0, 1e6, "screen-space gradient from which a Gaussian is cloned or split")
    density_start_iter: int = _number(0, 0, 1_000_000, "step before which none is")
    density_end_iter: int = _number(300, 0, 1_000_000, "step after which none is")
    densification_interval: int = _number(100, 1, 1_000_000, "steps between two such")

    density_thresh: float | None = dataclasses.field(
        default=None, metadata={"about": "density of the mesh's surface; default: where renders see it", "range": (1e-6, 1e6)}
    )
    mesh_method: str = _choice(MESH_METHODS, "where the mesh comes from: the Gaussians' density, or a neural field fitted to renders")
    mesh_resolution: int = dataclasses.field(
        default=MESH_RESOLUTION, metadata={"about": "nodes a side of the density field", "range": (16, 1024), "multiple": FIELD_BLOCKS}
    )
    mesh_faces: int = _number(MESH_FACES, 4, 10_000_000, "most faces of the mesh")
    texture_size: int = _number(TEXTURE_SIZE, 16, 8192, "texels a side of the mesh's texture")
    unwrap: str = _choice(UNWRAP_METHODS, "how texture coordinates are made; xatlas takes the package of that name")
    mesh_format: str = _choice(("all", "obj", "glb"), "mesh files to write")
    splat_format: str = _choice(("ply", *OTHER_FORMATS, "all"), "main.py: files of Gaussians to write beside the PLY")
    video_frames: int = _number(72, 0, 10_000, "frames of the turntable; 0 writes none")
    video_size: int = _number(256, 16, 4096, "pixels a side of turntable and sheet of views")

    mesh: str | None = _text("main2.py: mesh to refine; default: the one that main.py wrote under that name")
    iters_refine: int = _number(1, 0, 1000, "main2.py: rounds of retouching by the prior")
    refine_views: int = _number(8, 1, 64, "main2.py: views of a round")
    refine_steps: int = _number(30, 1, 10_000, "main2.py: optimiser steps of a round")
    refine_size: int = _number(512, 16, 4096, "main2.py: pixels a side of its renders")
    refine_denoise_steps: int = _number(50, 1, 999, "main2.py: levels of the full sampling grid")
    refine_strength: float = _number(0.8, 0, 1, "main2.py: share of them that is left out; more changes less")
    refine_cfg: float = _number(2.0, 0, 100, "main2.py: guidance scale")
    texture_lr: float = _number(0.2, 0, 10, "main2.py: learning rate of the texture's logits")
    train_geo: bool = dataclasses.field(default=False, metadata={"about": "main2.py: move vertices too"})
    geometry_steps: int = _number(VERTEX_STEPS, 0, 10_000, "main2.py: with train_geo, steps that move vertices to what the Gaussians show")
    geom_lr: float = _number(0.0001, 0, 1, "main2.py: with train_geo, learning rate of vertices in a round")

    profiling: Profiling = dataclasses.field(default_factory=Profiling)


NO_EFFECT = "nothing reads it, in the original code neither; remove it"
NO_WINDOW = "there is no window here; remove it"
RETIRED = {
    "anneal_timestep": NO_EFFECT,
    "batch_size": f"{NO_EFFECT} (batch_size_min and batch_size_max set the views of a round)",
    "invert_bg_prob": NO_EFFECT,
    "iters": f"{NO_EFFECT} (total_steps sets the rounds)",
    "opacity_reset_interval": f"{NO_EFFECT} (opacities are never reset)",
    "position_lr_delay_mult": NO_EFFECT,
    "warmup_rgb_loss": NO_EFFECT,
    "force_cuda_rast": "the compiled rasteriser is taken wherever it is built; remove it",
    "gui": NO_WINDOW,
    "H": f"{NO_WINDOW} (video_size sets the size of the turntable)",
    "W": f"{NO_WINDOW} (video_size sets the size of the turntable)",
    "imagedream": "the prior is chosen with prior=NAME",
    "mvdream": "the prior is chosen with prior=NAME",
    "stable_zero123": "the prior is chosen with prior=NAME",
    "lambda_zero123": "lambda_sd is the weight of the views of every prior",
    "profiling.enabled": "profiling.mode=nvtx or torch turns it on; remove it",
    "profiling.output_dir": "a trace goes to outdir, and run_main -profile writes where it is called; remove it",
    "profiling.skip_postprocessing": "the mesh is part of the run; remove it",
}

GROUPS = {"profiling": Profiling}


def _keys(schema: type, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field]]:
    """(key, field) of everything that can be set; those of a group are written group.key."""
    for field in dataclasses.fields(schema):
        if field.name in GROUPS:
            yield from _keys(GROUPS[field.name], f"{field.name}.")
        else:
            yield prefix + field.name, field


FIELDS = dict(_keys(Config))


def _expected(key: str) -> str:
    """What a key takes, in words."""
    field = FIELDS[key]
    words = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}[str(field.type).split(" ")[0]]
    if "choices" in field.metadata:
        return f"one of {', '.join(field.metadata['choices'])}"
    if "range" in field.metadata:
        low, high = field.metadata["range"]
        step = f", a multiple of {field.metadata['multiple']}" if "multiple" in field.metadata else ""
        return f"{words} from {low:g} to {high:g}{step}"
    return words


def _is_allowed(key: str, value: Any) -> bool:
    """Whether a value of the right type is one of the key's choices or in its range."""
    metadata = FIELDS[key].metadata
    if value is None:
        return True
    if "choices" in metadata:
        return value in metadata["choices"]
    if "range" in metadata:
        low, high = metadata["range"]
        return math.isfinite(value) and low <= value <= high and ("multiple" not in metadata or value % metadata["multiple"] == 0)
    return True


def load_config(path: str | Path | None, overrides: Sequence[str]) -> Config:
    """Defaults, then the YAML file (`configuration_file`), then `key=value` words. Raises UserError for whatever is not understood."""
    merged = OmegaConf.structured(Config)
    marks: set[str] = set()  # keys whose text is "???", which OmegaConf takes for a missing value
    for source, key, value in _assignments(path, overrides):
        if key in RETIRED:
            raise UserError(f"{source}: {key}: {RETIRED[key]}")
        if key in GROUPS:
            inner = ", ".join(name for name in FIELDS if name.startswith(f"{key}."))
            raise UserError(f"{source}: {key}: expected one of {inner}")
        if key not in FIELDS:
            nearest = max(FIELDS, key=lambda known: difflib.SequenceMatcher(None, str(key).lower(), known).ratio())
            raise UserError(f"{source}: unknown key {key!r}; the nearest valid key is {nearest!r}")
        shown = f"{key}={value}".replace("\n", " ")
        optional = "None" in str(FIELDS[key].type)
        marks.discard(key)
        if value == "???" and str(FIELDS[key].type).startswith("str"):
            marks.add(key)
            value = "?"
        try:
            empty = isinstance(value, str) and value.strip() in ("", "null")
            OmegaConf.update(merged, key, None if optional and empty else value)
            value = OmegaConf.select(merged, key)
        except (OmegaConfBaseException, ValueError):
            raise UserError(f"{source}: {shown}: expected {_expected(key)}") from None
        if not _is_allowed(key, value):
            raise UserError(f"{source}: {shown}: expected {_expected(key)}")
    config = OmegaConf.to_object(merged)
    assert isinstance(config, Config)
    config = dataclasses.replace(config, **{key: "???" for key in marks})
    for low, high in (("batch_size_min", "batch_size_max"), ("min_ver", "max_ver"), ("t_end", "t_start")):
        if getattr(config, low) > getattr(config, high):
            raise UserError(f"{low}={getattr(config, low)} is above {high}={getattr(config, high)}; raise {high} or lower {low}")
    return config


def _assignments(path: str | Path | None, overrides: Sequence[str]) -> Iterator[tuple[str, str, Any]]:
    """(where it stands, key, value) of everything in the file, then of the words."""
    if path is not None:
        file = configuration_file(path)
        try:
            loaded = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
        except Exception as error:  # yaml, omegaconf and codecs each have their own
            raise UserError(f"{path}: not a YAML file that can be read: {' '.join(str(error).split())}") from None
        if not isinstance(loaded, dict):
            raise UserError(f"{path}: expected lines of `key: value`")
        for key, value in loaded.items():
            if key in GROUPS and isinstance(value, dict):
                yield from ((str(path), f"{key}.{inner}", below) for inner, below in value.items())
            else:
                yield str(path), str(key), value
    for word in overrides:
        key, equals, value = word.lstrip("-").partition("=")
        if not equals or not key:
            raise UserError(f"command line: {word!r} is not understood; options of a run are written key=value (see --help)")
        yield "command line", key, value.replace("${", r"\${")  # a prompt is text, not an interpolation


def as_config(source: Config | str | Path | Mapping[str, Any] | None) -> Config:
    """A configuration from whatever callers have: one, the path of a YAML file or the name of one that ships, or keys and values on
    top of `configs/micro.yaml`."""
    if isinstance(source, Config):
        return source
    if isinstance(source, (str, Path)):
        return load_config(source, [])
    return load_config(shipped_configurations()["micro"], [f"{key}={value}" for key, value in (source or {}).items()])
