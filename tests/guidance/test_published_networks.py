"""The published networks equal those of the libraries that the checkpoints were written with, diffusers and transformers.

Some of what the libraries give for random weights lies beside this file; with the extra `reference` installed the tests compare with
them whole, and with what lies there. `python tests/guidance/test_published_networks.py` writes it anew, by the libraries alone.
"""

import dataclasses
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from microdreamer.guidance.published.configs import class_of, configurations
from microdreamer.guidance.published.pretrained import build
from microdreamer.guidance.published.random_weights import random_module, write_tokenizer
from microdreamer.guidance.published.text import END, START, Tokenizer

GOLDENS = Path(__file__).with_suffix(".json")
KEPT = 12  # values of each output, from its whole length
TOLERANCE = 3e-6  # of the largest value: the same products, whose rounding depends on where their operands lie in memory
ELSEWHERE = 1e-4  # of the goldens: random numbers and products of other processors


@dataclasses.dataclass(frozen=True)
class Case:
    """A module, and what it makes of its inputs: by our class, and by the library's, which `library` makes of the configuration."""

    config: dict
    inputs: Callable[[], tuple[Tensor, ...]]
    ours: Callable[..., list[Tensor]]
    library: Callable[[dict], nn.Module]
    theirs: Callable[..., list[Tensor]]

    def module(self) -> nn.Module:
        """Ours with random weights: norms that do something, biases that are not zero."""
        module, draw = random_module(self.config, "cpu", 0), torch.Generator().manual_seed(1)
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=draw))
        return module

    def reference(self) -> nn.Module:
        module = self.library(self.config)
        module.load_state_dict(self.module().state_dict())
        return module.eval().requires_grad_(False)


def drawn(*shapes: tuple[int, ...]) -> list[Tensor]:
    draw = torch.Generator().manual_seed(2)
    return [torch.randn(shape, generator=draw) for shape in shapes]


def u_net(name: str, tokens: int, **changed: object) -> Case:
    config = {**configurations(name, tiny=True)["unet"], **changed}
    x, told = drawn((3, config["in_channels"], 16, 16), (3, tokens, 32))
    return Case(
        config,
        lambda: (x, torch.tensor([1.0, 400.0, 999.0]), told),
        lambda module, *inputs: [module(*inputs)],
        lambda config: pytest.importorskip("diffusers").UNet2DConditionModel.from_config(config),
        lambda module, *inputs: [module(*inputs).sample],
    )


def autoencoder() -> Case:
    return Case(
        {**configurations("mvdream", tiny=True)["vae"], "block_out_channels": [32, 64, 64, 96]},
        lambda: drawn((2, 3, 64, 64), (2, 4, 8, 8)),
        lambda module, pictures, latents: [module.encode(pictures), module.decode(latents)],
        lambda config: pytest.importorskip("diffusers").AutoencoderKL.from_config(config),
        lambda module, pictures, latents: [module.encode(pictures).latent_dist.parameters, module.decode(latents).sample],
    )


def text_tower(activation: str, end: int) -> Case:
    ids = torch.arange(3 * 77).view(3, 77) * 7919 % 512
    for row, last in enumerate((5, 20, 76)):
        ids[row, last], ids[row, last + 1 :] = 513, 0

    def library(config: dict) -> nn.Module:
        transformers = pytest.importorskip("transformers")
        return transformers.CLIPTextModel(transformers.CLIPTextConfig.from_dict(config))

    def theirs(module: nn.Module, ids: Tensor) -> list[Tensor]:
        found = module(input_ids=ids)
        return [found.last_hidden_state, found.pooler_output]

    config = {**configurations("mvdream", tiny=True)["text_encoder"], "hidden_act": activation, "eos_token_id": end}
    return Case(config, lambda: (ids,), lambda module, ids: list(module(ids)), library, theirs)


def picture_tower(name: str) -> Case:
    projected = name == "zero123_xl"

    def library(config: dict) -> nn.Module:
        transformers = pytest.importorskip("transformers")
        kind = transformers.CLIPVisionModelWithProjection if projected else transformers.CLIPVisionModel
        return kind(transformers.CLIPVisionConfig.from_dict(config))

    def ours(module: nn.Module, pixels: Tensor) -> list[Tensor]:
        return [module(pixels)] if projected else [module.tokens(pixels, leave_out=1), module(pixels)]

    def theirs(module: nn.Module, pixels: Tensor) -> list[Tensor]:
        found = module(pixel_values=pixels, output_hidden_states=True)
        return [found.image_embeds] if projected else [found.hidden_states[-2], found.pooler_output]

    return Case(configurations(name, tiny=True)["image_encoder"], lambda: drawn((2, 3, 28, 28)), ours, library, theirs)


CASES = {
    "zero123": u_net("zero123_xl", 1),
    "zero123, several tokens": u_net("zero123_xl", 7),
    "stable diffusion": u_net("stable_diffusion", 7),
    "stable diffusion, heads by level": u_net("stable_diffusion", 7, layers_per_block=2, attention_head_dim=[1, 2, 4, 8]),
    "autoencoder": autoencoder(),
    "text, highest token ends": text_tower("gelu", 2),
    "text, named token ends": text_tower("quick_gelu", 513),
    "picture": picture_tower("imagedream"),
    "picture, projected": picture_tower("zero123_xl"),
}
SENTENCES = ("", "The  red car's wheel!!", "it'll\tbe 12 cafés", "e\u0301 日本 🚗 I'M", f"a {END} b {START}", "½ İ\u00a0_x")


def kept(tensor: Tensor) -> list[float]:
    flat = tensor.flatten()
    return flat[torch.linspace(0, len(flat) - 1, KEPT).long()].tolist()


def assert_equal(actual: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    assert float((actual - expected).abs().max()) <= tolerance * float(expected.abs().max())


@pytest.mark.parametrize("name", CASES)
def test_networks_give_what_the_libraries_gave(name):
    case, goldens = CASES[name], json.loads(GOLDENS.read_text())["networks"][name]
    for actual, expected in zip(case.ours(case.module(), *case.inputs()), goldens, strict=True):
        assert_equal(torch.tensor(kept(actual)), torch.tensor(expected), ELSEWHERE)


@pytest.mark.parametrize("name", CASES)
def test_networks_equal_the_libraries(name):
    case, goldens = CASES[name], json.loads(GOLDENS.read_text())["networks"][name]
    found, expected = case.ours(case.module(), *case.inputs()), case.theirs(case.reference(), *case.inputs())
    for ours, theirs, golden in zip(found, expected, goldens, strict=True):
        assert_equal(ours, theirs)
        assert_equal(torch.tensor(golden), torch.tensor(kept(theirs)), ELSEWHERE)


def write_vocabulary(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A tokenizer that joins some bytes."""
    write_tokenizer(folder)
    words = [word for word in json.loads((folder / "vocab.json").read_text()) if word not in (START, END)]
    merges = [
        ("t", "h"),
        ("th", "e</w>"),
        ("e", "d</w>"),
        ("r", "ed</w>"),
        ("'", "s</w>"),
        ("Ã", "©"),
        ("c", "a"),
        ("ca", "r</w>"),
        ("!", "!"),
    ]
    vocabulary = {word: index for index, word in enumerate([*words, *map("".join, merges), START, END])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)))
    return vocabulary, merges


def test_the_tokenizer_gives_what_the_library_gave(tmp_path):
    write_vocabulary(tmp_path)
    tokenizer = Tokenizer(tmp_path)
    for sentence, ids in zip(SENTENCES, json.loads(GOLDENS.read_text())["tokens"], strict=True):
        assert tokenizer(sentence, len(ids)) == ids, sentence


def test_the_tokenizer_equals_the_library(tmp_path):
    """On sentences of odd pieces."""
    transformers = pytest.importorskip("transformers")
    vocabulary, merges = write_vocabulary(tmp_path)
    ours, theirs = Tokenizer(tmp_path), transformers.CLIPTokenizer(vocab=vocabulary, merges=merges)
    assert [theirs(sentence).input_ids for sentence in SENTENCES] == json.loads(GOLDENS.read_text())["tokens"]
    pieces = [piece for sentence in SENTENCES for piece in sentence.split(" ")] + [" ", "\t", "!!", "'S"]
    draw = random.Random(0)
    for _ in range(500):
        sentence = "".join(draw.choice(pieces) + draw.choice(["", " "]) for _ in range(draw.randrange(8)))
        ids = theirs(sentence).input_ids
        assert ours(sentence, len(ids)) == ids, sentence


@pytest.mark.parametrize(
    ("name", "part", "changed", "match"),
    [
        ("stable_diffusion", "unet", {"act_fn": "gelu"}, "act_fn=gelu: not supported, expected silu"),
        ("stable_diffusion", "unet", {"down_block_types": ["DownBlock2D"]}, "expected 4 levels of each"),
        ("stable_diffusion", "unet", {"attention_head_dim": 7}, "attention_head_dim=7: expected a divisor of"),
        ("stable_diffusion", "unet", {"up_block_types": ["SimpleUpBlock"] * 4}, "SimpleUpBlock: not supported"),
        ("mvdream", "vae", {"shift_factor": 0.1}, "shift_factor=0.1: not supported"),
        ("mvdream", "text_encoder", {"hidden_act": "relu"}, "hidden_act=relu: not supported, expected gelu or quick_gelu"),
        ("zero123_xl", "image_encoder", {"num_attention_heads": 5}, "num_attention_heads=5: expected a divisor of"),
        ("mvdream", "unet", {"unknown": 1}, "unknown"),
    ],
)
def test_what_a_module_does_not_do_is_refused(tmp_path, name, part, changed, match):
    config = {**configurations(name, tiny=True)[part], **changed}
    with pytest.raises(ValueError, match=match) as caught:
        build(config, class_of(config), tmp_path / "config.json")
    assert str(tmp_path / "config.json") in str(caught.value) and "\n" not in str(caught.value)


def main() -> None:
    from transformers import CLIPTokenizer

    networks = {name: [kept(tensor) for tensor in case.theirs(case.reference(), *case.inputs())] for name, case in CASES.items()}
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, merges = write_vocabulary(Path(folder))
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges)
    tokens = [tokenizer(sentence).input_ids for sentence in SENTENCES]
    GOLDENS.write_text(json.dumps({"networks": networks, "tokens": tokens}, indent=1) + "\n")


if __name__ == "__main__":
    main()
