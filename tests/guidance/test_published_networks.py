"""The published networks equal those of the libraries that the checkpoints were written with (`pip install -e ".[reference]"`)."""

import json
import random

import pytest
import torch

from microdreamer.guidance.published.configs import class_of, configurations
from microdreamer.guidance.published.pretrained import build
from microdreamer.guidance.published.random_weights import random_module, write_tokenizer
from microdreamer.guidance.published.text import END, START, Tokenizer

TOLERANCE = 3e-6  # of the largest value: the same products, whose rounding depends on where their operands lie in memory


def assert_equal(actual, expected):
    assert float((actual - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())


def with_norms_that_matter(module):
    """Random weights have norms that do nothing and biases of zero."""
    draw = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        if parameter.ndim == 1:
            parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=draw))
    return module


def pair(config, reference):
    """Our module with random weights and the library's with the same."""
    ours = with_norms_that_matter(random_module(config, "cpu", 0))
    reference.load_state_dict(ours.state_dict())
    return ours, reference.eval().requires_grad_(False)


@pytest.mark.parametrize("changed", [{}, {"layers_per_block": 2, "attention_head_dim": [1, 2, 4, 8]}])
@pytest.mark.parametrize(("name", "tokens"), [("zero123_xl", 1), ("zero123_xl", 7), ("stable_diffusion", 7)])
def test_the_u_net(name, tokens, changed):
    diffusers = pytest.importorskip("diffusers")
    config = {**configurations(name, tiny=True)["unet"], **changed}
    ours, theirs = pair(config, diffusers.UNet2DConditionModel.from_config(config))
    x, t, told = torch.randn(3, config["in_channels"], 16, 16), torch.tensor([1.0, 400.0, 999.0]), torch.randn(3, tokens, 32)
    assert_equal(ours(x, t, told), theirs(x, t, encoder_hidden_states=told).sample)


def test_the_autoencoder():
    diffusers = pytest.importorskip("diffusers")
    config = {**configurations("mvdream", tiny=True)["vae"], "block_out_channels": [32, 64, 64, 96]}
    ours, theirs = pair(config, diffusers.AutoencoderKL.from_config(config))
    pictures, latents = torch.randn(2, 3, 64, 64), torch.randn(2, 4, 8, 8)
    assert_equal(ours.encode(pictures), theirs.encode(pictures).latent_dist.parameters)
    assert_equal(ours.decode(latents), theirs.decode(latents).sample)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("end", [2, 513], ids=["highest", "named"])
def test_the_text_tower(activation, end):
    transformers = pytest.importorskip("transformers")
    config = {**configurations("mvdream", tiny=True)["text_encoder"], "hidden_act": activation, "eos_token_id": end}
    ours, theirs = pair(config, transformers.CLIPTextModel(transformers.CLIPTextConfig.from_dict(config)))
    ids = torch.randint(0, 512, (3, 77))
    for row, last in enumerate((5, 20, 76)):
        ids[row, last], ids[row, last + 1 :] = 513, 0
    found, expected = ours(ids), theirs(input_ids=ids)
    assert_equal(found.places, expected.last_hidden_state)
    assert_equal(found.pooled, expected.pooler_output)


def test_the_picture_towers():
    transformers = pytest.importorskip("transformers")
    pixels, read = torch.randn(2, 3, 28, 28), transformers.CLIPVisionConfig.from_dict
    config = configurations("imagedream", tiny=True)["image_encoder"]
    ours, theirs = pair(config, transformers.CLIPVisionModel(read(config)))
    expected = theirs(pixel_values=pixels, output_hidden_states=True)
    assert_equal(ours.tokens(pixels, leave_out=1), expected.hidden_states[-2])
    assert_equal(ours(pixels), expected.pooler_output)
    config = configurations("zero123_xl", tiny=True)["image_encoder"]
    ours, theirs = pair(config, transformers.CLIPVisionModelWithProjection(read(config)))
    assert_equal(ours(pixels), theirs(pixel_values=pixels).image_embeds)


def test_the_tokenizer(tmp_path):
    """On sentences of odd pieces, with a vocabulary that joins some bytes."""
    transformers = pytest.importorskip("transformers")
    write_tokenizer(tmp_path)
    words = [word for word in json.loads((tmp_path / "vocab.json").read_text()) if word not in (START, END)]
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
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)))
    ours, theirs = Tokenizer(tmp_path), transformers.CLIPTokenizer(vocab=vocabulary, merges=merges)
    pieces = [
        "the",
        "The red car's",
        " ",
        "\t",
        "é",
        "e\u0301",
        "12 3",
        "!!",
        "!",
        END,
        START,
        "日本",
        "🚗",
        "it'll",
        "I'M",
        "_",
        "½",
        "\u00a0",
        "İ",
    ]
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
