"""What launch.py reads: nested as the configurations of threestudio are, whose keys keep their names where they mean the same.

Angles are in degrees, elevations are counted **upward** as in the published files (unlike main.py's `elevation`), lengths are in units
in which the field's box is [-radius, radius]^3 and an object fills about the ball of radius 0.8.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from microdreamer.core.errors import UserError
from microdreamer.distillation import annealing
from microdreamer.distillation.schedules import STEPS_SCHEDULES
from microdreamer.guidance import PRECISIONS, PRIORS
from microdreamer.meshes.unwrap import METHODS as UNWRAP_METHODS
from microdreamer.pipeline.schema import Schema, checked, choice, flag, number, pair, stages, text

OBJECTIVES = ("x0sds", "sds", "asd", "sir")
GENERATORS = ("hyper_ingp", "conv3d", "triplane")  # networks that turn any sentence into a shape
GEOMETRIES = ("field", "gaussians", *GENERATORS)
ACTIVATIONS = ("softplus", "trunc_exp", "exp")
COLOR_ACTIVATIONS = ("sigmoid", "sigmoid_mipnerf")
BIASES = ("blob_magic3d", "blob_dreamfusion", "none")
REGULARISERS = ("sparsity", "opaque", "orient", "z_variance", "eikonal")  # each with a weight, system.loss.lambda_...
# Those of each kind of geometry: of opacity, of samples along rays, of signed distances.
REGULARISERS_OF = {
    "gaussians": ("sparsity", "opaque"),
    "field": ("sparsity", "opaque", "orient", "z_variance"),
    **dict.fromkeys(GENERATORS, ("sparsity", "opaque", "z_variance", "eikonal")),
}
NORMALS = ("none", "analytic", "finite_difference")


def _turns(value: Any) -> list[int]:
    """The steps at which a schedule begins, turns and ends. Raises ValueError for ones that are not whole: nothing here counts epochs."""
    points = value["points"] if isinstance(value, dict) else value
    if not isinstance(points, list):
        return [0]
    steps = [points[0], *points[3::2]] if len(points) != 3 else [0, points[2]]
    if any(not isinstance(step, int) for step in steps):
        raise ValueError("expected whole steps")
    return steps


def schedule(default: float | Sequence[float], low: float, high: float, about: str) -> Any:
    """A number that may change with the steps (`distillation.annealing`), within [low, high] at all of them."""

    def is_allowed(value: Any) -> bool:
        try:
            return all(low <= annealing.value(value, step) <= high for step in _turns(value))
        except (ValueError, TypeError, KeyError):
            return False

    words = f"a number from {low:g} to {high:g}, or [start step, start, end, end step] and further pairs of value and step, a whole number"
    return checked(default, about, words, is_allowed)


@dataclasses.dataclass
class Data:
    """Cameras of training and of films."""

    n_view: int = number(4, 1, 16, "views of one object that stand evenly around it; 1 for priors that know single pictures")
    batch_size: Any = stages((8, 4), 1, 256, "views of a step, one number for each stage")
    size: Any = stages((64, 256), 8, 2048, "pixels a side of the renders of a step, one number for each stage")
    resolution_milestones: Any = stages((5000,), 0, 10_000_000, "steps at which the next stage begins; [] for a single stage")
    elevation_range: Any = pair((0.0, 30.0), -89, 89, "degrees above the horizon")
    fovy_range: Any = pair((15.0, 60.0), 1, 150, "vertical field of view")
    camera_distance_range: Any = pair((0.8, 1.0), 0.1, 100, "distance of the cameras")
    relative_radius: bool = flag(True, "whether that is times 1 / tan(fovy / 2), so that an object has one size in all pictures")
    eval_elevation: float = number(15.0, -89, 89, "degrees above the horizon, of films")
    eval_camera_distance: float = number(3.0, 0.1, 100, "distance of a film's cameras")
    eval_fovy: float = number(40.0, 1, 150, "vertical field of view of films")
    eval_size: int = number(512, 16, 4096, "pixels a side of films")
    n_test_views: int = number(120, 1, 10_000, "frames of the film of --test")


@dataclasses.dataclass
class PromptProcessor:
    """Priors of single pictures (stable_diffusion) are told the direction of each view beside the prompt: `, front view` and so on."""

    prompt: str | None = text("what the object is")
    negative_prompt: str | None = text("what it is not")
    library: str | None = text("generators: the sentences to learn, a name of configs/corpora or a JSON file")


@dataclasses.dataclass
class Geometry:
    type: str = choice(
        "field",
        GEOMETRIES,
        "what learns: a hash-grid field by volume rendering, Gaussians, or a network that turns any sentence into a shape",
    )
    radius: float = number(1.0, 0.1, 100, "half side of the field's box")
    n_levels: int = number(16, 1, 32, "resolutions of the hash grid")
    n_features_per_level: int = number(2, 1, 8, "features of each: 1, 2, 4 or 8")
    log2_hashmap_size: int = number(19, 3, 24, "logarithm of the most entries of one")
    base_resolution: int = number(16, 2, 512, "cells of the coarsest")
    per_level_scale: float = number(1.447269237440378, 1, 4, "growth from one to the next")
    n_neurons: int = number(64, 1, 1024, "width of the networks behind the grid")
    density_activation: str = choice("softplus", ACTIVATIONS, "of the density")
    density_bias: str = choice("blob_magic3d", BIASES, "density that is there at the start")
    blob_scale: float = number(10.0, 0, 1e4, "its strength in the middle")
    blob_std: float = number(0.5, 1e-3, 100, "its size")
    normal_type: str = choice("none", NORMALS, "how normals are computed, for shading, loss.lambda_orient and films")
    dir_encoding: str = choice("none", ("none", "sh4"), "whether colour depends on the direction of view")
    num_pts: int = number(5000, 4, 10_000_000, "gaussians: how many the first ball has")
    densify_grad_threshold: float = number(0.02, 0, 1e6, "gaussians: screen-space gradient from which one is cloned or split")


@dataclasses.dataclass
class Generator:
    """Of hyper_ingp, conv3d and triplane; their boxes, and the grid of hyper_ingp, are those of system.geometry."""

    sphere_bias: float = number(0.8, 1e-3, 100, "radius of the ball that all shapes start as")
    color_activation: str = choice("sigmoid", COLOR_ACTIVATIONS, "from features to colours")
    hyper_hidden: int = number(64, 1, 4096, "hyper_ingp: width of the network that predicts networks")
    noise_width: int = number(64, 1, 4096, "conv3d: numbers left to chance beside the sentence")
    style_width: int = number(256, 1, 4096, "conv3d: width of what sentence and chance become")
    channels: Any = stages((512, 512, 512, 256, 128, 64), 1, 4096, "conv3d: channels at 4, 8, 16, ... voxels a side")
    channel_multiplier: int = number(1, 1, 8, "conv3d: times those from 32 voxels a side on")
    width: int = number(768, 1, 8192, "triplane: width of its tokens")
    token_side: int = number(32, 1, 256, "triplane: tokens along a plane, which has twice as many texels")
    layers: int = number(12, 1, 100, "triplane: layers")
    attention_heads: int = number(16, 1, 256, "triplane: heads")
    text: str = choice("local", ("local", "global"), "triplane: whether it reads a sentence's words or one vector")
    plane_channels: int = number(32, 1, 512, "conv3d, triplane: features of a voxel or texel")


@dataclasses.dataclass
class Renderer:
    num_samples_per_ray: int = number(512, 8, 4096, "fields: samples across the box; those in empty space cost nothing")
    grid_resolution: int = number(32, 4, 256, "fields: cells a side of the grid that knows what is empty")
    num_proposals: int = number(128, 2, 4096, "generators: even samples across the box, which find the surface")
    num_fine_samples: int = number(64, 2, 4096, "generators: samples there")
    sharpness: float = number(30.0, 1e-3, 80, "generators: of surfaces; how fast density rises within them")


@dataclasses.dataclass
class Background:
    type: str = choice(
        "environment", ("environment", "prompt", "solid"), "a network of the direction, for generators also of the sentence, or one colour"
    )
    encoding: str = choice("sh3", ("sh3", "hash"), "of directions, for the network")
    color: float = number(1.0, 0, 1, "of a solid one: 0 black, 1 white")
    random_aug: bool = flag(True, "whether a random colour sometimes takes its place in training")
    random_aug_prob: float = number(0.5, 0, 1, "how often")
    share_aug_bg: bool = flag(True, "whether all views of a step have the same one")


@dataclasses.dataclass
class Material:
    type: str = choice("none", ("none", "point_light"), "colours as they are, or lit by a point light in training")
    ambient_only_steps: int = number(5000, 0, 10_000_000, "steps before which nothing is lit")
    diffuse_prob: float = number(0.75, 0, 1, "how often light falls afterwards")
    textureless_prob: float = number(0.5, 0, 1, "how often, then, on a white object")
    soft_shading: bool = flag(False, "whether the share of ambient light is drawn anew each step")


@dataclasses.dataclass
class Guidance:
    objective: str = choice(
        "x0sds", OBJECTIVES, "how the prior teaches: x0sds (MVDream), sds (DreamFusion), asd (ScaleDreamer), sir (MicroDreamer)"
    )
    prior: str = choice("mvdream", tuple(PRIORS), "diffusion prior")
    prior_path: str | None = text("its weights: a folder or owner/name@revision; default: those that ship or were downloaded")
    precision: str = choice("auto", PRECISIONS, "in which it computes")
    prior_memory: float | None = dataclasses.field(
        default=None, metadata={"about": "GiB that one call of a published prior may take", "range": (0.01, 1e4)}
    )
    guidance_scale: float = number(50.0, 0, 1000, "classifier-free guidance")
    min_step_percent: Any = schedule((0, 0.98, 0.02, 8000), 0, 1, "lowest level of noise, as a share of all")
    max_step_percent: Any = schedule((0, 0.98, 0.5, 8000), 0, 1, "highest level")
    recon_std_rescale: float = number(0.5, 0, 1, "x0sds: how far the guided picture's contrast is drawn back; lower it if floaters appear")
    weighting_strategy: str = choice("sds", ("sds", "uniform", "fantasia3d"), "sds, asd: weight of a level of noise")
    plus_ratio: float = number(0.1, 0, 1, "asd: how much noisier the second prediction is")
    plus_random: bool = flag(True, "asd: whether that is times a random share")
    guidance_perp_neg: float = number(
        0.0, -10, 0, "asd: strength of Perp-Neg among view-dependent prompts; 0 does without, the published one is -0.5"
    )
    grad_clip: float = number(0.0, 0, 1e6, "largest entry of the gradient of latents; 0 does not clip")


@dataclasses.dataclass
class Sir:
    """Rounds of iterative reconstruction, as of main.py."""

    total_steps: int = number(21, 1, 10_000, "rounds, the first of which starts from pure noise")
    denoise_steps: int = number(20, 1, 999, "levels of the full sampling grid")
    t_start: float = number(0.9, 0, 1, "fraction of the schedule where denoising starts in the second round")
    t_end: float = number(0.2, 0, 1, "fraction towards which the start moves")
    inv_r: float = number(0.6, 1e-3, 1, "level reached by noise as a fraction of the top level")
    eta: float = number(0.5, 0, 1, "fresh noise while denoising")
    init_steps: int = number(30, 1, 100_000, "optimiser steps of the first round")
    steps_min: int = number(15, 1, 100_000, "optimiser steps of a later round at one end of steps_schedule")
    steps_max: int = number(15, 1, 100_000, "the same at its other end")
    steps_schedule: str = choice("fixed", STEPS_SCHEDULES, "optimiser steps over the rounds")
    ref_loss: float = number(0.3, 0, 1e6, "weight of the picture's colours")
    ref_mask_loss: float = number(0.01, 0, 1e6, "weight of the picture's mask")


@dataclasses.dataclass
class Loss:
    lambda_guidance: float = number(1.0, 0, 1e6, "weight of what the prior teaches")
    lambda_sparsity: Any = schedule(0.0, 0, 1e6, "weight of opacity")
    lambda_opaque: Any = schedule(0.0, 0, 1e6, "weight of opacities that are neither 0 nor 1")
    lambda_orient: Any = schedule(0.0, 0, 1e6, "weight of normals that look away")
    lambda_z_variance: Any = schedule(0.0, 0, 1e6, "weight of density that is spread along rays")
    lambda_eikonal: Any = schedule(0.0, 0, 1e6, "generators: weight of distances that do not grow by one a unit")
    ref_loss: float = number(1000.0, 0, 1e9, "weight of the picture's colours, where there is one (of sir: system.sir.ref_loss)")
    ref_mask_loss: float = number(100.0, 0, 1e9, "weight of the picture's mask")


@dataclasses.dataclass
class Optimizer:
    type: str = choice("adamw", ("adamw", "adam", "adan"), "adan is for generators alone")
    lr_geometry: float = number(0.004, 0, 1, "generators: learning rate of the network")
    lr_encoding: float = number(0.01, 0, 1, "learning rate of the grid")
    lr_density: float = number(0.001, 0, 1, "of the density's network")
    lr_feature: float = number(0.001, 0, 1, "of the colours' network")
    lr_background: float = number(0.001, 0, 1, "of the background")
    beta1: float = number(0.9, 0, 1, "decay of its means")
    beta2: float = number(0.99, 0, 1, "the same")
    beta3: float = number(0.99, 0, 1, "the same, of adan")
    eps: float = number(1e-15, 0, 1, "what it adds to divisors")
    weight_decay: float = number(0.01, 0, 1, "of adamw and adan")


@dataclasses.dataclass
class System:
    prompt_processor: PromptProcessor = dataclasses.field(default_factory=PromptProcessor)
    geometry: Geometry = dataclasses.field(default_factory=Geometry)
    generator: Generator = dataclasses.field(default_factory=Generator)
    renderer: Renderer = dataclasses.field(default_factory=Renderer)
    background: Background = dataclasses.field(default_factory=Background)
    material: Material = dataclasses.field(default_factory=Material)
    guidance: Guidance = dataclasses.field(default_factory=Guidance)
    sir: Sir = dataclasses.field(default_factory=Sir)
    loss: Loss = dataclasses.field(default_factory=Loss)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    use_recompute: bool = flag(False, "whether the backward pass computes the field again, which takes less memory")


@dataclasses.dataclass
class Trainer:
    max_steps: int = number(10_000, 1, 10_000_000, "steps of the whole run; of sir, the rounds decide")
    accumulate_grad_batches: int = number(1, 1, 4096, "fields, generators: passes of data.batch_size views that make a step")
    precision: str = choice("16-mixed", ("32", "16-mixed"), "of the field's networks on a GPU; 16-mixed multiplies in bfloat16")
    checkpoint_every: int = number(1000, 1, 10_000_000, "steps between two checkpoints; the last two are kept, and each stage's last")
    preview_every: int = number(200, 1, 10_000_000, "steps between two previews")
    enable_tensorboard: bool = flag(False, "whether scalars are written for TensorBoard (pip install tensorboard)")


@dataclasses.dataclass
class Export:
    resolution: int = number(256, 16, 1024, "nodes a side of the field that the surface is taken from")
    threshold: str = text("density of the surface; auto: the mean of the field where there is something", "25")
    faces: int = number(50_000, 4, 10_000_000, "most faces of the mesh")
    texture_size: int = number(1024, 16, 8192, "texels a side of its texture")
    unwrap: str = choice("charts", UNWRAP_METHODS, "how texture coordinates are made")
    mesh_format: str = choice("all", ("obj", "glb", "all"), "files to write")


@dataclasses.dataclass
class LaunchConfig:
    name: str = text("folder of the runs of this configuration", "field")
    tag: str | None = text("folder of the run; default: the words of the prompt, or the picture's name")
    exp_root_dir: str = text("folder of all", "outputs")
    input: str | None = text("picture of the object, for a prior that takes one; without alpha its background is cut out")
    elevation: float = number(0.0, -85, 85, "degrees above the horizon at which the picture was taken")
    resume: str | None = text(
        "checkpoint to go on from: a file, a run's folder, of which the last is taken, or one that ships: hyper_ingp_micro"
    )
    seed: int = number(0, 0, 2**63 - 1, "makes a run repeatable")
    device: str = text("cpu, cuda, cuda:1, ...; auto takes CUDA where there is one", "auto")
    data: Data = dataclasses.field(default_factory=Data)
    system: System = dataclasses.field(default_factory=System)
    trainer: Trainer = dataclasses.field(default_factory=Trainer)
    export: Export = dataclasses.field(default_factory=Export)


SHORTCUTS = {"prompt": "system.prompt_processor.prompt", "prior": "system.guidance.prior", "max_steps": "trainer.max_steps"}
SCHEMA = Schema(LaunchConfig, shortcuts=SHORTCUTS)


def load_launch_config(path: str | Path | None, overrides: Sequence[str], stored: Mapping[str, Any] | None = None) -> LaunchConfig:
    """Defaults, then what is `stored` with a run, then the YAML file, then `key=value` words.

    Raises UserError for whatever is not understood or does not fit together.
    """
    config = SCHEMA.load(path, overrides, stored)
    assert isinstance(config, LaunchConfig)
    data, milestones = config.data, config.data.resolution_milestones
    if not isinstance(milestones, list):
        data.resolution_milestones = milestones = [milestones]
    if milestones != sorted(milestones):
        raise UserError(f"data.resolution_milestones={milestones}: expected rising steps")
    for key in ("size", "batch_size"):
        values = getattr(data, key)
        values = values if isinstance(values, list) else [values] * (len(milestones) + 1)
        setattr(data, key, values)
        if len(values) != len(milestones) + 1:
            raise UserError(
                f"data.{key}={values}: expected {len(milestones) + 1} numbers, one for each stage of data.resolution_milestones"
            )
    for count in data.batch_size:
        if count % data.n_view:
            raise UserError(f"data.batch_size={data.batch_size}: expected multiples of data.n_view={data.n_view}")
    guidance = config.system.guidance
    for step in sorted({*_turns(guidance.min_step_percent), *_turns(guidance.max_step_percent)}):
        low, high = (annealing.value(share, step) for share in (guidance.min_step_percent, guidance.max_step_percent))
        if low > high:
            raise UserError(
                f"system.guidance.min_step_percent={low:g} at step {step}: expected at most system.guidance.max_step_percent={high:g}"
            )
    counted = [name for name in REGULARISERS if getattr(config.system.loss, f"lambda_{name}") != 0]
    kind = config.system.geometry.type
    for name in counted:
        if guidance.objective == "sir":
            raise UserError(f"system.loss.lambda_{name}: sir fits to pictures and has no regularisers; leave it at 0")
        if name not in REGULARISERS_OF[kind]:
            able = " or ".join(other for other, names in REGULARISERS_OF.items() if name in names)
            raise UserError(f"system.loss.lambda_{name}: no term of {kind}; leave it at 0, or set system.geometry.type to {able}")
    _check_kind(config)
    if config.system.geometry.normal_type == "none" and "orient" in counted:
        raise UserError("system.loss.lambda_orient: needs normals; set system.geometry.normal_type=analytic or finite_difference")
    if config.export.threshold != "auto":
        try:
            positive = float(config.export.threshold) > 0
        except ValueError:
            positive = False
        if not positive:
            raise UserError(f"export.threshold={config.export.threshold}: expected a positive number or auto")
    return config


def _check_kind(config: LaunchConfig) -> None:
    """Raises UserError for keys that the kind of geometry cannot follow."""
    system, kind = config.system, config.system.geometry.type
    library, passes = system.prompt_processor.library, config.trainer.accumulate_grad_batches
    rounds = system.guidance.objective == "sir"
    if passes > 1 and (rounds or kind == "gaussians"):
        raise UserError(f"trainer.accumulate_grad_batches={passes}: sir and gaussians take 1")
    if kind in GENERATORS:
        if library is None:
            raise UserError(f"system.geometry.type={kind}: learns a library of sentences; set system.prompt_processor.library")
        if system.prompt_processor.prompt is not None:
            raise UserError(f"prompt={system.prompt_processor.prompt}: {kind} learns all sentences of its library; leave it out")
        if rounds:
            raise UserError(f"system.guidance.objective=sir: makes one object at a time; {kind} takes x0sds, sds or asd")
        if config.input is not None:
            raise UserError(f"input={config.input}: {kind} learns sentences, it takes no picture")
        if system.material.type != "none":
            raise UserError(f"system.material.type={system.material.type}: {kind} has no light; leave it at none")
        if config.data.resolution_milestones:
            raise UserError(f"data.resolution_milestones={config.data.resolution_milestones}: {kind} has one stage; leave it at []")
        return
    if library is not None:
        raise UserError(
            f"system.prompt_processor.library={library}: only networks learn one; set system.geometry.type to one of {GENERATORS}"
        )
    if system.optimizer.type == "adan":
        raise UserError(f"system.optimizer.type=adan: {kind} takes adamw or adam")
    if system.background.type == "prompt":
        raise UserError(f"system.background.type=prompt: {kind} knows one sentence; take environment or solid")
