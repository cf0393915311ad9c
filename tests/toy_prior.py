"""A prior whose network is one formula, for values that were made with it and for arithmetic that must come out right."""

import json

import numpy as np
import torch

from microdreamer.guidance.base import CONDITIONAL, NULL, Prior
from microdreamer.guidance.schedule import NoiseSchedule


def toy_noise(x, t, context, camera=0.0):
    """Of x [V,C,H,W] at levels t [V]; context [V,L,D] with D at least C; camera [V]."""
    told = context.mean(1)[:, : x.shape[1], None, None]
    level = torch.as_tensor(t, dtype=x.dtype, device=x.device).view(-1, 1, 1, 1)
    return torch.tanh(0.8 * x + 0.3 * torch.sin(0.01 * level) + 0.7 * told) + 0.05 * torch.as_tensor(camera, device=x.device).view(
        -1, 1, 1, 1
    )


class ToyPrior(Prior):
    """Latents are pictures. `condition` is {NULL: [V,L,D], CONDITIONAL: [V,L,D], "sentences": [V,5,L,D] where told by direction}."""

    name, resolution, azimuth_spacing, shared_elevation = "micro", 8, None, False
    accepts = frozenset({"image", "prompt"})
    device = torch.device("cpu")

    def __init__(self, views=4, camera=0.0, by_direction=False, alphas=None):
        super().__init__()
        self.views, self.camera, self.by_direction = views, camera, by_direction
        self.schedule = NoiseSchedule.scaled_linear() if alphas is None else NoiseSchedule(torch.as_tensor(alphas).cpu(), float(alphas[0]))
        self.asked = []

    def condition(self, image=None, prompt=None, negative_prompt=None, elevation=0.0):
        raise NotImplementedError

    def encode(self, images, generator=None):
        return images

    def decode(self, latents):
        return latents

    def latent_shape(self, views):
        return (views, 3, 8, 8)

    def predict_noise(self, latents, t, cameras, condition, guidance_scale):
        raise NotImplementedError

    def predict_each(self, branches, cameras, condition):
        self.evaluations += len(branches)
        self.asked.append(branches)
        noise = []
        for branch in branches:
            if isinstance(branch.told, torch.Tensor):
                context = torch.einsum("vk,vklc->vlc", branch.told, condition["sentences"])
            else:
                context = condition[branch.told]
            levels = torch.tensor(self.group_levels(branch.t, len(branch.latents))).repeat_interleave(self.views)
            noise.append(toy_noise(branch.latents, levels, context.expand(len(branch.latents), -1, -1), self.camera))
        return noise


def random_condition(views, width=4, generator=None):
    draw = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    return {NULL: draw(views, 5, width), CONDITIONAL: draw(views, 5, width), "sentences": draw(views, 5, 5, width)}


def golden_cases(path, device="cpu"):
    """All tensors of a golden file, and of each case its settings."""
    stored = np.load(path)
    tensors = {key: torch.from_numpy(stored[key]).to(device) for key in stored.files if stored[key].dtype.kind != "U"}
    settings = {key.removesuffix("_setting"): json.loads(str(stored[key])) for key in stored.files if key.endswith("_setting")}
    return tensors, settings
