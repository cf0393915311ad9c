"""Tiny runs of launch.py on an object that the prior knows, and what is seen of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import torch
from fake_priors import Call, OraclePrior, coloured_ellipsoid
from PIL import Image

from cam_utils import orbit_cameras
from microdreamer.pipeline.launch import run, views
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
SIR = "system.guidance.objective=sir"


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


def picture(path: Path, size: int = 48) -> Path:
    """The object's front as an RGBA file."""
    shown = coloured_ellipsoid().render(orbit_cameras(0, 0, width=size, height=size), torch.zeros(3))
    rgba = torch.cat([shown.image / shown.alpha.clamp_min(1e-3), shown.alpha], dim=1)[0].clamp(0, 1)
    Image.fromarray((rgba * 255).byte().permute(1, 2, 0).numpy()).save(path)
    return path


# ---- What is seen of a run ----


class Place:
    """A folder of the test's own, and what is done there."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.patch = folder, monkeypatch

    def words(self, *words):
        return (f"exp_root_dir={self.folder}", *words)

    def saved(self, *words):
        """A checkpoint of an untrained run, as the word that takes it."""
        trainer = trainer_of(*self.words(*words))
        return f"resume={run.save(trainer, run.run_folder(trainer.config), 1)}"

    def tested(self, *words):
        return run.test(config_of(*self.words(self.saved(), *words)))

    def exported(self, *words):
        return run.export(config_of(*self.words(self.saved(), *words)))

    def film_cameras(self, *words):
        """Those that a film is rendered from."""
        kept, made = [], views.film_cameras
        self.patch.setattr(views, "film_cameras", lambda *given: kept.append(made(*given)) or kept[-1])
        self.tested(*words)
        return kept[0]


def stepped(*words, steps=1, **attributes):
    """What a trainer found in each of its first steps, and the trainer."""
    trainer = trainer_of(*words, **attributes)
    return [trainer.step(step) for step in range(steps)], trainer


def loss(*words, name="loss_guidance"):
    return float(stepped(*words)[0][0][name])


def cameras(*words, steps=1, **attributes):
    """Those of the prior's first call in each step."""
    trainer = stepped(*words, steps=steps, **attributes)[1]
    return [call.cameras for call in trainer.prior.seen[:: len(trainer.prior.seen) // steps]]


def fov_y(batch):
    return torch.rad2deg(2 * torch.atan(batch.height / 2 / batch.intrinsics[:, 1]))


def rounds(*words, count=1):
    """The prior's calls in each of the first rounds of SIR, and the trainer."""
    trainer, found = trainer_of(*words), []
    for index in range(count):
        before = len(trainer.prior.seen)
        trainer.round(index)
        found.append(trainer.prior.seen[before:])
    return found, trainer


def parameters(trainer):
    return {name: value.detach().clone() for name, value in trainer.learner.model.named_parameters()}


def moved(*words, step=0):
    """Parts of the field that one step changes."""
    trainer = trainer_of(*words)
    before = parameters(trainer)
    trainer.step(step)
    after = parameters(trainer)
    return {name for name in before if not torch.equal(before[name], after[name])}


def shape(*words):
    return {name: tuple(value.shape) for name, value in trainer_of(*words).learner.model.state_dict().items() if hasattr(value, "shape")}


def density(*words, at=(0.0, 0.0, 0.0)):
    """Of an untrained field at a point."""
    with torch.no_grad():
        return float(trainer_of(*words).learner.model.geometry.density(torch.tensor([at])))


# ---- The table ----

TABLE: dict[str, Callable] = {}


def row(*keys):
    """Decorator: the function shows that each of `keys` reaches its piece."""

    def enter(function):
        for key in keys:
            assert key not in TABLE
            TABLE[key] = functools.partial(function, key=key) if len(keys) > 1 else function
        return function

    return enter
