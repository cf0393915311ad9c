"""Tiny runs of launch.py on an object that the prior knows, and what is seen of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from fake_priors import OraclePrior, coloured_ellipsoid
from PIL import Image
from torch import Tensor

from cam_utils import Cameras, orbit_cameras
from microdreamer.pipeline.launch import run
from microdreamer.pipeline.launch.config import LaunchConfig, load_launch_config
from microdreamer.pipeline.launch.trainer import Trainer

SMALL = (
    "name=field",
    "device=cpu",
    "prompt=thing",
    "data.size=16",
    "data.batch_size=4",
    "data.resolution_milestones=[]",
    "data.camera_distance_range=[2,2]",
    "data.fovy_range=[49.1,49.1]",
    "data.relative_radius=false",
    "data.eval_camera_distance=2",
    "data.eval_fovy=49.1",
    "data.eval_size=16",
    "data.n_test_views=2",
    "system.geometry.n_levels=4",
    "system.geometry.log2_hashmap_size=12",
    "system.geometry.base_resolution=8",
    "system.geometry.n_neurons=16",
    "system.geometry.num_pts=200",
    "system.renderer.num_samples_per_ray=48",
    "system.renderer.grid_resolution=16",
    "system.background.type=solid",
    "system.background.random_aug=false",
    "system.optimizer.lr_density=0.01",
    "system.optimizer.lr_feature=0.01",
    "system.guidance.guidance_scale=1",
    "system.guidance.min_step_percent=0.2",
    "system.guidance.max_step_percent=0.7",
    "system.sir.total_steps=3",
    "system.sir.denoise_steps=4",
    "system.sir.init_steps=3",
    "system.sir.steps_min=3",
    "system.sir.steps_max=3",
    "trainer.max_steps=6",
    "export.resolution=16",
    "export.threshold=3",
    "export.faces=300",
    "export.texture_size=64",
)


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of the prior."""

    t: int
    scale: float | None
    cameras: Cameras
    latents: Tensor
    noise: Tensor


class Witness(OraclePrior):
    """Remembers what it was conditioned on, and each of its calls; with a condition it sees a little more noise than without."""

    def __init__(self, resolution: int = 16) -> None:
        super().__init__(coloured_ellipsoid(), resolution)
        self.given: dict = {}
        self.seen: list[Call] = []

    def condition(self, image=None, prompt=None, negative_prompt=None, elevation=0.0):
        super().condition(image, prompt, negative_prompt, elevation)
        self.given = {"image": image, "prompt": prompt, "negative_prompt": negative_prompt, "elevation": elevation}

    def predict_noise(self, latents, t, cameras, condition, guidance_scale):
        noise = super().predict_noise(latents, t, cameras, condition, guidance_scale)
        noise = noise + 0.1 * (guidance_scale or 0.0) * latents
        self.seen.append(Call(t, guidance_scale, cameras, latents, noise))
        return noise


def config_of(*words: str) -> LaunchConfig:
    return load_launch_config(None, [*SMALL, *words])


def trainer_of(*words: str, **attributes) -> Trainer:
    """A trainer whose prior is a Witness with these attributes."""
    prior = Witness()
    for name, value in attributes.items():
        setattr(prior, name, value)
    return run.make_trainer(config_of(*words), prior)


def advance(trainer: Trainer, first: int, last: int) -> None:
    for index in range(first, last):
        trainer.round(index) if trainer.objective is None else trainer.step(index)


def picture(path: Path, size: int = 48) -> Path:
    """The object's front as an RGBA file."""
    shown = coloured_ellipsoid().render(orbit_cameras(0, 0, width=size, height=size), torch.zeros(3))
    rgba = torch.cat([shown.image / shown.alpha.clamp_min(1e-3), shown.alpha], dim=1)[0].clamp(0, 1)
    Image.fromarray((rgba * 255).byte().permute(1, 2, 0).numpy()).save(path)
    return path
