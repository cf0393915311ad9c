"""A checkpoint with random weights in the published layout: to measure speed and memory, and to try programs, without the real one.

python scripts/make_random_checkpoint.py stable_zero123 /tmp/random_zero123
python main.py --config configs/image_sai.yaml prior_path=/tmp/random_zero123 input=test_data/robot_rgba.png

What comes out of it is noise.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from safetensors.torch import save_file
from torch import nn

from microdreamer.core.files import atomic_write
from microdreamer.core.machine import best_device
from microdreamer.guidance.published.configs import class_of, configurations
from microdreamer.guidance.published.presets import PRESETS
from microdreamer.guidance.published.pretrained import build, count_positions

START, END = "<|startoftext|>", "<|endoftext|>"
TYPES = {"float16": torch.float16, "float32": torch.float32}


def weights_name(config: dict) -> str:
    return "diffusion_pytorch_model.safetensors" if "_class_name" in config else "model.safetensors"


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
    count_positions(module)
    nn.Module.to(module, dtype)  # diffusers' own `to` warns of data types
    return module.eval().requires_grad_(False)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prior", choices=tuple(PRESETS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true", help="a miniature for 64x64 pixels, a few MB")
    parser.add_argument("--dtype", choices=tuple(TYPES), default="float16")
    parser.add_argument("--device", default=best_device().type)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write_checkpoint(args.prior, args.folder, args.tiny, TYPES[args.dtype], args.device, args.seed)
    size = sum(file.stat().st_size for file in args.folder.rglob("*") if file.is_file())
    print(f"{args.folder}: {args.prior} with random weights, {size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
