"""A diffusion prior of your own in the place of the shipped one: the interface, and a reconstruction with it.

python examples/own_prior.py [--out logs]

A prior says what it sees in noisy views. This one "knows" a single object, a two-coloured egg: whatever it is shown, it answers
with the noise that leads to its true views. With a network of yours, `predict_noise` is where it is called.
"""

import argparse

import torch
from torch import Tensor

import microdreamer
from cam_utils import Cameras
from microdreamer import GaussianModel
from microdreamer.guidance.base import Prior
from microdreamer.guidance.schedule import NoiseSchedule


def egg() -> GaussianModel:
    """2 000 Gaussians on an egg, red above and white below."""
    directions = torch.nn.functional.normalize(torch.randn(2000, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    points = directions * torch.tensor([0.4, 0.6, 0.4])
    colors = torch.where(points[:, 1:2] > 0, torch.tensor([0.8, 0.1, 0.1]), torch.tensor([0.9, 0.9, 0.85]))
    model = GaussianModel.from_points(points, colors)
    with torch.no_grad():
        model.opacity_logits.fill_(4.0)
    return model


class EggPrior(Prior):
    """Latents are pictures in [-1,1]; takes a sentence, and ignores it."""

    name, resolution, views, azimuth_spacing, shared_elevation = "micro", 64, 4, 90.0, True
    accepts = frozenset({"prompt"})
    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.truth, self.schedule = egg(), NoiseSchedule.shifted_cosine()

    def condition(self, image=None, prompt=None, negative_prompt=None, elevation=0.0) -> None:
        self.check_condition(image, prompt)

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return images * 2 - 1

    def decode(self, latents: Tensor) -> Tensor:
        return latents / 2 + 0.5

    def latent_shape(self, views: int) -> tuple[int, ...]:
        return views, 3, self.resolution, self.resolution

    @torch.no_grad()
    def predict_noise(self, latents: Tensor, t: int, cameras: Cameras, condition: object, guidance_scale: float | None) -> Tensor:
        self.check_cameras(cameras)
        self.evaluations += 1
        clean = self.encode(self.truth.render(cameras, 1.0).image)
        alpha = self.schedule.alpha(t)
        return (latents - alpha**0.5 * clean) / (1 - alpha) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="logs")
    parser.add_argument("keys", nargs="*", metavar="key=value", help="of the configuration, for instance total_steps=4")
    options = parser.parse_args()

    config = {"video_frames": 24, "texture_size": 512, **dict(word.split("=", 1) for word in options.keys)}
    result = microdreamer.reconstruct(prompt="an egg", config=config, prior=EggPrior())
    print(f"{len(result.gaussians)} Gaussians, {len(result.mesh.faces)} faces; wrote {result.save(options.out, 'egg')}*")


if __name__ == "__main__":
    main()
