"""A generator of your own: a network that turns sentences into shapes in one pass, trained a little with the shipped prior.

python examples/own_generator.py [--steps 48] [--out logs/own_generator.png]
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from microdreamer.distillation.objective import X0SDS, X0SDSSettings
from microdreamer.distillation.view_sampling import MICRO_VIEW, draw_views
from microdreamer.fields.backgrounds import SolidBackground
from microdreamer.generators.base import GeneratorSpec, Head, ShapeGenerator
from microdreamer.generators.library import load_library, sentences_of_step
from microdreamer.generators.sentence_store import SentenceStore
from microdreamer.generators.text_to_shape import TextToShape, VolsdfSettings
from microdreamer.guidance import load_prior
from microdreamer.images.writing import write_sheet


class Waves(ShapeGenerator[Tensor]):
    """Waves through space, which the sentence makes stronger, weaker and shifted. The cache is what it says of them, [B,2F]."""

    def __init__(self, spec: GeneratorSpec, waves: int = 64) -> None:
        super().__init__(spec)
        self.frequencies = nn.Parameter(2 * torch.randn(3, waves))
        self.say = nn.Linear(spec.text_width, 4 * waves)
        self.distance, self.features = nn.Linear(2 * waves, 1), nn.Linear(2 * waves, 3)
        nn.init.zeros_(self.distance.weight)  # every shape starts as a ball

    def _condition(self, text: Tensor, draws: tuple[Tensor, ...]) -> Tensor:
        return self.say(text)

    def encode(self, points: Tensor, cache: Tensor) -> Tensor:
        angles = points @ self.frequencies
        gain, shift = cache[:, None].chunk(2, dim=-1)
        return torch.cat([angles.sin(), angles.cos()], dim=-1) * gain + shift

    def heads(self, cache: Tensor) -> tuple[Head, Head]:
        return self.distance, self.features


def main() -> None:
    torch.manual_seed(0)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--size", type=int, default=24, help="pixels a side of what is rendered")
    parser.add_argument("--shown", type=int, default=64, help="pixels a side of a view on the sheet")
    parser.add_argument("--out", default="logs/own_generator.png")
    options = parser.parse_args()

    draws = torch.Generator().manual_seed(0)
    prior, library = load_prior("micro"), load_library("micro_8")
    store = SentenceStore.open(library.train, prior, None, Path(options.out).parent / "embeddings")
    generator = Waves(GeneratorSpec(text_width=store.width, radius=1.0, sphere_bias=0.5))
    model = TextToShape(generator, SolidBackground(1.0), VolsdfSettings(proposals=32, samples=16, random_background=0.0, gradients=False))
    settings = X0SDSSettings(guidance_scale=3.0, min_step_percent=0.3)
    optimizer = torch.optim.Adam(model.geometry.parameters(), lr=3e-3)
    for step in range(options.steps):
        chosen = sentences_of_step(len(store), 2, step, seed=0)
        cameras = draw_views(MICRO_VIEW, 4 * len(chosen), options.size, draws)
        images = model.render(cameras, model.condition(store.text(chosen, "global", "cpu"))).image
        loss = X0SDS(prior, store.condition(chosen), settings, draws)(images, cameras, step).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        text = prior.sentence_encoder().encode(library.train + library.test).text("global")
        cameras = draw_views(MICRO_VIEW, 4 * len(text), options.shown, draws)
        write_sheet(options.out, model.render(cameras, model.condition(text)).image, columns=8)
    print(f"loss {float(loss.detach()):.0f}; {len(text)} sentences, the last {len(library.test)} of them new; wrote {options.out}")


if __name__ == "__main__":
    main()
