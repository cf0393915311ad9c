"""The configuration of a run: a typed schema with its defaults, filled from a YAML file and `key=value` words.

Keys that MicroDreamer's YAML files have keep their names and meaning. A key that nothing would read is refused. Defaults that functions
of the library have too stand in their rooms.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microdreamer.core.errors import UserError
from microdreamer.core.paths import shipped_configurations
from microdreamer.core.profiler_settings import MODES, ROUNDS, SCOPES
from microdreamer.core.usual_view import FOV_Y, RADIUS
from microdreamer.distillation import EVEN_VIEW, REF_LOSS, REF_MASK_LOSS, VIEWS, VIEWS_WEIGHT
from microdreamer.distillation.schedules import STEPS_SCHEDULES
from microdreamer.gaussians import COUNT, GRAD_THRESHOLD, MESH_RESOLUTION, OTHER_FORMATS, PERCENT_DENSE, UPS, LearningRates
from microdreamer.guidance import PRECISIONS, PRIORS
from microdreamer.guidance.names import FULL_NOISE, WHOLE
from microdreamer.kernels import FIELD_BLOCKS
from microdreamer.meshes import MESH_FACES, TEXTURE_SIZE, VERTEX_STEPS
from microdreamer.meshes.unwrap import METHODS as UNWRAP_METHODS
from microdreamer.pipeline.schema import Schema, choice, flag, number, numbers, pair, text

if TYPE_CHECKING:
    from microdreamer.guidance.shortcuts import Shortcuts

RATES = LearningRates()
MESH_METHODS = ("density", "field")
STARTS = ("ball", "prior", "auto")
MATERIALS = ("shaded", "albedo")


@dataclasses.dataclass
class Profiling:
    """Where the time of a run goes (docs/profiling.md)."""

    mode: str = choice(MODES[0], MODES, "nvtx: ranges for Nsight Systems (run_main -profile); torch: a trace of torch.profiler")
    scope: str = choice(SCOPES[0], SCOPES, "broad: ranges around phases and rounds; function: around functions too")
    rounds: int = number(ROUNDS, 1, 10_000, "torch: rounds that the trace records")


@dataclasses.dataclass
class Config:
    """Every key of both stages. Lengths are in the object's units (it fills about the unit sphere), angles in degrees."""

    input: str | None = text(
        "picture of the object, or several with commas between; without alpha its background is cut out; "
        "main.py: a folder, list (.txt) or pattern is a batch"
    )
    prompt: str | None = text("what the object is; foo_rgba.png takes foo_caption.txt where there is one")
    prompt_suffix: str | None = text("added to the prompt for the prior: what the sentences of its training data ended with")
    negative_prompt: str | None = text("what it is not")
    elevation: Any = numbers(0.0, -85, 85, "camera elevation of the picture, or of each; negative looks from above")
    azimuth: Any = numbers(
        None, -360, 360, "where each picture's camera stands: 0 front, 90 right, 180 back, 270 left; default: 0, the others' are found"
    )
    recenter: bool = flag(True, "centre and scale an object that is not framed in its picture")
    outdir: str = text("folder of the results", "logs")
    save_path: str | None = text("name of the results; default: that of the mesh, PLY or picture given, or the prompt")
    resume: bool = flag(False, "main.py: skip pictures of a batch whose results are whole and made with these keys")
    preview: bool = flag(False, "main.py: before the rounds, write as NAME_preview.* what the prior tells at a glance (also --preview)")
    load: str | None = text("Gaussians (.ply, .splat, .spz, .glb) to start from; main2.py: to make the mesh of")
    up: str = choice(UPS[0], UPS, "main2.py: axis of these Gaussians that is up; auto: what the file says, else their floor, else y")
    clean: bool = flag(True, "main2.py: drop faint, huge and floating ones of these Gaussians")
    seed: int = number(0, 0, 2**63 - 1, "makes a run repeatable")
    device: str = text("cpu, cuda, cuda:1, ...; auto takes CUDA where there is one", "auto")

    prior: str = choice("micro", tuple(PRIORS), f"diffusion prior: {', '.join(PRIORS)}")
    prior_path: str | None = text("weights of the prior: a folder or owner/name@revision; default: those that ship or were downloaded")
    precision: str = choice(PRECISIONS[0], PRECISIONS, "of the prior; auto: what is fast and good enough on this device")
    prior_memory: float | None = dataclasses.field(
        default=None,
        metadata={"about": "GiB that one call of a published prior may take; default: a quarter of what is free", "range": (0.01, 1e4)},
    )
    cfg: float = number(3.0, 0, 100, "guidance scale; 1 evaluates the conditional branch only")
    denoise_steps: int = number(20, 1, 999, "levels of the full sampling grid")
    total_steps: int = number(21, 1, 10_000, "rounds, the first of which starts from pure noise")
    t_start: float = number(0.9, 0, 1, "fraction of the schedule where denoising starts in the second round")
    t_end: float = number(0.2, 0, 1, "fraction towards which the start moves")
    inv_r: float = number(0.6, 1e-3, 1, "level reached by noise as a fraction of the top level; DDIM inversion does the rest")
    eta: float = number(0.5, 0, 1, "fresh noise while denoising: 0 none (DDIM), 1 ancestral")
    temperature: float = number(FULL_NOISE, 0, 1, "noise of the rounds, as a share of the schedule's: less draws what is likelier")
    cfg_interval: Any = pair(WHOLE, 0, 1, "fractions of the schedule between which cfg guides; elsewhere the conditional branch alone")
    feature_interval: int = number(1, 1, 999, "levels that share one evaluation of the prior's deep features; more is faster and worse")

    batch_size_min: int = number(VIEWS, 1, 64, "fewest views of a round")
    batch_size_max: int = number(VIEWS, 1, 64, "most views of a round")
    even_view: bool = flag(EVEN_VIEW, "spread the views of a round evenly around the object")
    min_ver: float = number(-30.0, -90, 90, "lowest elevation of the views, relative to the picture's")
    max_ver: float = number(30.0, -90, 90, "highest elevation of the views, relative to the picture's")
    radius: float = number(RADIUS, 0.1, 100, "distance of the cameras")
    fovy: float = number(FOV_Y, 1, 150, "vertical field of view")
    ref_size: int | None = dataclasses.field(
        default=None, metadata={"about": "pixels a side of renders and picture while fitting; default: the prior's", "range": (8, 4096)}
    )

    init_steps: int = number(15, 1, 100_000, "optimiser steps of the first round")
    steps_min: int = number(15, 1, 100_000, "optimiser steps of a later round at one end of steps_schedule")
    steps_max: int = number(15, 1, 100_000, "the same at its other end")
    steps_schedule: str = choice(
        STEPS_SCHEDULES[0],
        STEPS_SCHEDULES,
        "optimiser steps over the rounds, from steps_min to steps_max or back; fixed takes steps_max",
    )
    coarse_rounds: int = number(0, 0, 10_000, "rounds, from the first, that are fitted at half of ref_size")
    lambda_sd: float = number(VIEWS_WEIGHT, 0, 1e6, "weight of the prior's views")
    ref_loss: float = number(REF_LOSS, 0, 1e6, "weight of the picture's colours")
    ref_mask_loss: float = number(REF_MASK_LOSS, 0, 1e6, "weight of the picture's mask")

    start: str = choice(
        "ball",
        STARTS,
        "what the rounds start from: a ball of Gaussians, or those that the prior tells at a glance, which needs weights that tell "
        "surfaces; auto: prior where it can",
    )
    num_pts: int = number(COUNT, 1, 10_000_000, "Gaussians to start from")
    sh_degree: int = number(0, 0, 3, "degree of the spherical harmonics of colour")
    position_lr_init: float = number(RATES.position_lr_init, 0, 1, "learning rate of positions, times ten")
    position_lr_final: float = number(RATES.position_lr_final, 0, 1, "the same at position_lr_max_steps")
    position_lr_max_steps: int = number(RATES.position_lr_max_steps, 1, 1_000_000, "steps from the first to the last of these")
    feature_lr: float = number(RATES.feature_lr, 0, 1, "learning rate of colours")
    opacity_lr: float = number(RATES.opacity_lr, 0, 1, "learning rate of opacities")
    scaling_lr: float = number(RATES.scaling_lr, 0, 1, "learning rate of scales")
    rotation_lr: float = number(RATES.rotation_lr, 0, 1, "learning rate of rotations")
    percent_dense: float = number(PERCENT_DENSE, 0, 1, "largest scale, as a share of the scene, of one that is cloned rather than split")
    densify_grad_threshold: float = number(GRAD_THRESHOLD, 0, 1e6, "screen-space gradient from which a Gaussian is cloned or split")
    density_start_iter: int = number(0, 0, 1_000_000, "step before which none is")
    density_end_iter: int = number(300, 0, 1_000_000, "step after which none is")
    densification_interval: int = number(100, 1, 1_000_000, "steps between two such")

    density_thresh: float | None = dataclasses.field(
        default=None, metadata={"about": "density of the mesh's surface; default: where renders see it", "range": (1e-6, 1e6)}
    )
    mesh_method: str = choice(
        MESH_METHODS[0], MESH_METHODS, "where the mesh comes from: the Gaussians' density, or a neural field fitted to renders"
    )
    mesh_resolution: int = dataclasses.field(
        default=MESH_RESOLUTION, metadata={"about": "nodes a side of the density field", "range": (16, 1024), "multiple": FIELD_BLOCKS}
    )
    mesh_faces: int = number(MESH_FACES, 4, 10_000_000, "most faces of the mesh")
    material: str = choice(
        MATERIALS[0], MATERIALS, "the mesh's colours: as seen in their light, or without it, as the prior tells them (docs/usage.md)"
    )
    texture_size: int = number(TEXTURE_SIZE, 16, 8192, "texels a side of the mesh's texture")
    unwrap: str = choice(UNWRAP_METHODS[0], UNWRAP_METHODS, "how texture coordinates are made; xatlas takes the package of that name")
    mesh_format: str = choice("all", ("all", "obj", "glb"), "mesh files to write")
    splat_format: str = choice("ply", ("ply", *OTHER_FORMATS, "all"), "main.py: files of Gaussians to write beside the PLY")
    video_frames: int = number(72, 0, 10_000, "frames of the turntable; 0 writes none")
    video_size: int = number(256, 16, 4096, "pixels a side of turntable and sheet of views")

    mesh: str | None = text("main2.py: mesh to refine; default: the one that main.py wrote under that name")
    iters_refine: int = number(1, 0, 1000, "main2.py: rounds of retouching by the prior")
    refine_views: int = number(8, 1, 64, "main2.py: views of a round")
    refine_steps: int = number(30, 1, 10_000, "main2.py: optimiser steps of a round")
    refine_size: int = number(512, 16, 4096, "main2.py: pixels a side of its renders")
    refine_denoise_steps: int = number(50, 1, 999, "main2.py: levels of the full sampling grid")
    refine_strength: float = number(0.8, 0, 1, "main2.py: share of them that is left out; more changes less")
    refine_cfg: float = number(2.0, 0, 100, "main2.py: guidance scale")
    texture_lr: float = number(0.2, 0, 10, "main2.py: learning rate of the texture's logits")
    train_geo: bool = flag(False, "main2.py: move vertices too")
    geometry_steps: int = number(VERTEX_STEPS, 0, 10_000, "main2.py: with train_geo, steps that move vertices to what the Gaussians show")
    geom_lr: float = number(0.0001, 0, 1, "main2.py: with train_geo, learning rate of vertices in a round")

    profiling: Profiling = dataclasses.field(default_factory=Profiling)

    @property
    def eye_level(self) -> float:
        """The elevation of the first picture's camera, around which views are drawn and from which the object is shown."""
        return self.elevation[0] if isinstance(self.elevation, list) else self.elevation

    @property
    def shortcuts(self) -> Shortcuts:
        """What the prior's sampler leaves out."""
        from microdreamer.guidance.shortcuts import Shortcuts

        return Shortcuts(tuple(self.cfg_interval), self.feature_interval)


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

SCHEMA = Schema(Config, RETIRED)
ORDERED = (("batch_size_min", "batch_size_max"), ("min_ver", "max_ver"), ("t_end", "t_start"))


def load_config(path: str | Path | None, overrides: Sequence[str]) -> Config:
    """Defaults, then the YAML file (`Schema.file_of`), then `key=value` words. Raises UserError for whatever is not understood."""
    config = SCHEMA.load(path, overrides)
    assert isinstance(config, Config)
    for low, high in ORDERED:
        if getattr(config, low) > getattr(config, high):
            raise UserError(f"{low}={getattr(config, low)} is above {high}={getattr(config, high)}; raise {high} or lower {low}")
    return config


def as_config(source: Config | str | Path | Mapping[str, Any] | None) -> Config:
    """A configuration from whatever callers have: one, the path of a YAML file or the name of one that ships, or keys and values on
    top of `configs/micro.yaml`."""
    if isinstance(source, Config):
        return source
    if isinstance(source, (str, Path)):
        return load_config(source, [])
    return load_config(shipped_configurations()["micro"], [f"{key}={value}" for key, value in (source or {}).items()])
