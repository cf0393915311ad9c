"""Guidance of your own: a loss of renders by what a prior says of them. Here classifier score distillation, on Gaussians.

python examples/own_guidance.py [--prompt "a red mushroom"] [--steps 60] [--out logs/own_guidance.png]

Yu et al. 2023, "Text-to-3D with Classifier Score Distillation" (arXiv 2310.19415): only what the sentence adds, no noise to subtract.
A prior of your own is another half: examples/own_prior.py.
"""

import argparse

import torch
from torch import Tensor

from cam_utils import Cameras
from microdreamer import GaussianModel
from microdreamer.distillation.objective import Distillation, GradientSettings
from microdreamer.distillation.sds import WEIGHTINGS, Loss, add_noise, along
from microdreamer.distillation.view_sampling import MICRO_VIEW, draw_views
from microdreamer.guidance import load_prior
from microdreamer.images.writing import write_sheet


class CSD(Distillation):
    """Gradient w(t) (conditional noise - null noise) / V. Levels, noise and latents are drawn as for all objectives."""

    settings: GradientSettings

    def _loss(self, x: Tensor, cameras: Cameras, t: Tensor, low: int, noise: Tensor, step: int, epoch: int) -> Loss:
        alpha = self.prior.view_alphas(t.tolist(), x)
        noisy = add_noise(x.detach(), noise, alpha)
        null, conditional = self.prior.predict_branches(noisy, t.tolist(), cameras, self.condition, self._told(cameras))
        weight = WEIGHTINGS[self.settings.weighting_strategy]
        loss, norm = along(x, weight(alpha) * (conditional - null))
        return Loss(loss, {"grad_norm": norm})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", default="a red mushroom")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--size", type=int, default=64, help="pixels a side of what is rendered")
    parser.add_argument("--out", default="logs/own_guidance.png")
    options = parser.parse_args()

    draws, prior = torch.Generator().manual_seed(0), load_prior("micro")
    guidance = CSD(prior, prior.condition(prompt=options.prompt), GradientSettings(min_step_percent=0.3), draws)
    model = GaussianModel.initial_ball(2000, generator=draws)
    optimizer = model.make_optimizer()
    for step in range(1, options.steps + 1):
        model.update_learning_rate(step)
        cameras = draw_views(MICRO_VIEW, 4, options.size, draws)
        guidance(model.render(cameras, background=1.0).image, cameras, step).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        write_sheet(options.out, model.render(draw_views(MICRO_VIEW, 4, 128, draws), background=1.0).image, columns=4)
    print(f"{prior.evaluations} evaluations of the prior, colour {model.base_colors.mean(0).tolist()}; wrote {options.out}")


if __name__ == "__main__":
    main()
