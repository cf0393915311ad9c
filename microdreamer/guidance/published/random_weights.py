"""The published networks with random weights, in memory or as a checkpoint in the published layout: for speed, memory and trials.

What comes out of them is noise.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from microdreamer.core.files import atomic_write
from microdreamer.guidance.published.configs import class_of, configurations
from microdreamer.guidance.published.presets import PRESETS, weights_name
from microdreamer.guidance.published.pretrained import build

START, END = "<|startoftext|>", "<|endoftext|>"


def fill(module: nn.Module, generator: torch.Generator) -> None:
    """Random weights that keep the size of what passes through: matrices by fan-in, norms 1, biases 0."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
            else:
                parameter.fill_(float(name.endswith("weight")))


def random_module(config: dict, device: torch.device | str, seed: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The module that a config.json describes, on `device` in `dtype`, with random weights; for inference."""
    module = build(config, class_of(config), Path("config.json")).to_empty(device=device)
    fill(module, torch.Generator(device).manual_seed(seed))
    return module.to(dtype).eval().requires_grad_(False)


def write_part(folder: Path, config: dict, dtype: torch.dtype, device: torch.device | str, seed: int) -> None:
    """config.json and weights of one part."""
    module = random_module(config, device, seed)
    state = {key: tensor.to(dtype).cpu().contiguous() for key, tensor in module.state_dict().items()}
    with atomic_write(folder / "config.json") as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n")
    with atomic_write(folder / weights_name(config)) as temporary:
        save_file(state, temporary, metadata={"format": "pt"})


def write_tokenizer(folder: Path) -> None:
    """A byte-pair vocabulary without pairs in CLIP's layout: every byte, every byte that ends a word, start and end."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in printable] + [chr(256 + n) for n in range(256 - len(printable))]
    words = [*letters, *(letter + "</w>" for letter in letters), START, END]
    with atomic_write(folder / "vocab.json") as temporary:
        temporary.write_text(json.dumps({word: index for index, word in enumerate(words)}), encoding="utf-8")
    with atomic_write(folder / "merges.txt") as temporary:
        temporary.write_text("#version: 0.2\n", encoding="utf-8")
    with atomic_write(folder / "special_tokens_map.json") as temporary:
        temporary.write_text(json.dumps({"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": "!"}))


def write_checkpoint(
    name: str, folder: Path, tiny: bool = False, dtype: torch.dtype = torch.float16, device: torch.device | str = "cpu", seed: int = 0
) -> None:
    """All parts of the prior `name` in `folder`."""
    for number, (part, config) in enumerate(configurations(name, tiny).items()):
        write_part(folder / part, config, dtype, device, seed + number)
    if PRESETS[name].tokenizer:
        write_tokenizer(folder / "tokenizer")
