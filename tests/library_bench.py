"""Tiny runs of launch.py that learn a library of sentences, with embeddings that are drawn rather than encoded."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import torch
from fake_priors import OraclePrior, coloured_ellipsoid
from launch_bench import config_of

from microdreamer.guidance.base import Branch
from microdreamer.pipeline.launch import run
from microdreamer.pipeline.launch.config import LaunchConfig
from microdreamer.pipeline.launch.trainer import ALONE, Shard, Trainer

WIDTH, TOKENS = 12, 5
SENTENCES = ["a red car", "a blue car", "a red boat", "a blue boat", "a green tree"]
SMALL = (
    "data.size=8",
    "system.geometry.radius=1",
    "system.geometry.n_levels=3",
    "system.geometry.log2_hashmap_size=8",
    "system.geometry.base_resolution=4",
    "system.geometry.n_neurons=8",
    "system.generator.hyper_hidden=8",
    "system.generator.noise_width=4",
    "system.generator.style_width=8",
    "system.generator.channels=[8,8,6]",
    "system.generator.width=12",
    "system.generator.token_side=2",
    "system.generator.layers=2",
    "system.generator.attention_heads=2",
    "system.generator.plane_channels=6",
    "system.renderer.num_proposals=12",
    "system.renderer.num_fine_samples=6",
    "system.guidance.objective=asd",
    "system.guidance.guidance_scale=3",
    "system.optimizer.lr_geometry=0.01",
)


class DrawnStore:
    """Embeddings drawn for each sentence; its conditions are the sentences' numbers."""

    width = WIDTH

    def __init__(self, sentences: tuple[str, ...]) -> None:
        self.sentences = sentences
        draws = torch.Generator().manual_seed(8)
        self.pooled = torch.randn(len(sentences), WIDTH, generator=draws)
        self.tokens = torch.randn(len(sentences), TOKENS, WIDTH, generator=draws)

    def text(self, indices, kind, device):
        return (self.pooled if kind == "global" else self.tokens)[list(indices)].to(device)

    def condition(self, indices):
        return [self.sentences[index] for index in indices]


class Listener(OraclePrior):
    """A prior that knows one object and remembers of which sentences it was asked; some noise depends on the sentence."""

    def __init__(self, resolution: int = 8, device: str = "cpu") -> None:
        super().__init__(coloured_ellipsoid().to(device), resolution)
        self.device = torch.device(device)
        self.asked: list[list[str]] = []

    def predict_each(self, branches: list[Branch], cameras, condition):
        self.asked.append(condition)
        noise = super().predict_each(branches, cameras, None)
        return [one + 0.05 * index * branch.latents for index, (one, branch) in enumerate(zip(noise, branches, strict=True))]


def library_file(folder: Path, train: list[str] | None = None) -> Path:
    path = folder / "words.json"
    path.write_text(json.dumps({"train": train or SENTENCES, "val": ["a green car"], "test": ["a red tree", "a red car"]}))
    return path


def config_with(folder: Path, kind: str, *words: str) -> LaunchConfig:
    return config_of(
        *SMALL, "system.prompt_processor.prompt=null", f"system.geometry.type={kind}", f"exp_root_dir={folder}",
        f"system.prompt_processor.library={library_file(folder)}", *words
    )  # fmt: skip


class DrawnStores:
    @staticmethod
    def open(sentences, prior, negative_prompt, folder, on_progress=None, *, kinds=()):
        return DrawnStore(sentences)


def trainer_of(config: LaunchConfig, monkeypatch, shard: Shard = ALONE) -> Trainer:
    monkeypatch.setattr(run, "SentenceStore", DrawnStores)
    return run.make_trainer(config, Listener(device=config.device), shard)


@functools.cache
def kinds() -> tuple[str, ...]:
    from microdreamer.pipeline.launch.config import GENERATORS

    return GENERATORS
