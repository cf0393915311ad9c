"""Priors of a few lines for tests."""

import dataclasses

import torch
from torch import Tensor

from cam_utils import Cameras
from microdreamer.gaussians.model import GaussianModel
from microdreamer.guidance.base import Prior
from microdreamer.guidance.micro.network import MultiViewNetwork, NetworkConfig, Surfaces
from microdreamer.guidance.micro.prior import MicroPrior
from microdreamer.guidance.micro.vocabulary import Vocabulary
from microdreamer.guidance.schedule import NoiseSchedule


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of the prior."""

    t: int
    scale: float | None
    cameras: Cameras
    latents: Tensor
    noise: Tensor


class StubPrior(Prior):
    """Noise is `function(latents, t, guidance_scale)`; latents are pictures; every call is recorded."""

    name, resolution, views, azimuth_spacing, shared_elevation = "micro", 8, 4, 90.0, True
    accepts = frozenset({"image"})
    device = torch.device("cpu")

    def __init__(self, function, schedule=None):
        super().__init__()
        self.function, self.calls = function, []
        self.schedule = schedule or NoiseSchedule.scaled_linear()

    def condition(self, image=None, prompt=None, negative_prompt=None, elevation=0.0):
        self.check_condition(image, prompt)

    def encode(self, images, generator=None):
        return images

    def decode(self, latents):
        return latents

    def latent_shape(self, views):
        return (views, 3, 8, 8)

    def predict_noise(self, latents, t, cameras, condition, guidance_scale):
        self.calls.append((t, guidance_scale))
        self.evaluations += 1 if guidance_scale in (None, 1.0) else 2
        return self.function(latents, t, guidance_scale)


DIM = 0.5  # colours of an OraclePrior's object without light, as a share of those in it


class OraclePrior(StubPrior):
    """Knows the object: its noise leads to the true views, which it renders where the cameras stand. Tells surfaces if it is told to."""

    accepts = frozenset({"image", "prompt"})

    def __init__(self, truth, resolution=32):
        super().__init__(None, NoiseSchedule.shifted_cosine())
        self.truth, self.resolution = truth, resolution

    def encode(self, images, generator=None):
        return images * 2 - 1

    def decode(self, latents):
        return latents / 2 + 0.5

    def latent_shape(self, views):
        return (views, 3, self.resolution, self.resolution)

    @torch.no_grad()
    def predict_noise(self, latents, t, cameras, condition, guidance_scale):
        self.check_cameras(cameras)
        self.evaluations += 1 if guidance_scale in (None, 1.0) else 2
        clean = self.encode(self.truth.render(cameras.resized(self.resolution, self.resolution), torch.ones(3, device=self.device)).image)
        alpha = self.schedule.alpha(t)
        return (latents - alpha**0.5 * clean) / (1 - alpha) ** 0.5

    @torch.no_grad()
    def predict_surfaces(self, latents, t, cameras, condition):
        if not self.tells_surfaces:
            return super().predict_surfaces(latents, t, cameras, condition)
        self.check_cameras(cameras)
        self.evaluations += 1
        seen = self.truth.render(cameras.resized(self.resolution, self.resolution), 1.0)
        albedo = DIM * (seen.image - (1 - seen.alpha)) + 1 - seen.alpha
        return seen.image, Surfaces(seen.depth / seen.alpha.clamp_min(1e-3), seen.alpha, albedo)


def coloured_ellipsoid(count=300):
    """A synthetic object of opaque Gaussians whose colours tell every side apart."""
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=torch.Generator().manual_seed(7)), dim=1)
    points = directions * torch.tensor([0.35, 0.25, 0.55])
    model = GaussianModel.from_points(points, (points * 1.3 + 0.5).clamp(0, 1))
    model.opacity_logits.data.fill_(3.0)
    return model.requires_grad_(False)


def tiny_micro_prior(**more):
    """The micro prior's network in small with random weights, none of them zero, so that every path matters; 32x32 pixels.

    more: of the NetworkConfig.
    """
    shape = {"channels": (16, 32, 64), "depth": (1, 1, 1, 1, 1), "head_width": 16, "condition_width": 32, "text_width": 32}
    network = MultiViewNetwork(NetworkConfig(resolution=32, **shape, **more)).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return MicroPrior(network, Vocabulary(["a", "blue", "car", "red"]))
