"""Names of tensors in the original single-file checkpoints of MVDream and ImageDream and in the published folders, both ways."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

COPY, SQUEEZE = "copy", "squeeze_1x1"
THIRDS = ("third_0", "third_1", "third_2")

NETWORK = "model.diffusion_model."
AUTOENCODERS = ("first_stage_model.", "vae_model.")  # MVDream, ImageDream
TEXT_TOWERS = ("cond_stage_model.model.", "clip_model.model.")
PICTURE_TOWER = "visual."  # within the text tower's model, in ImageDream

# Names of modules; {a}, {b} stand for numbers, {r} for a level counted from the other end.
AUTOENCODER_RULES = (
    ("quant_conv", "quant_conv"),
    ("post_quant_conv", "post_quant_conv"),
    *((f"{half}.{name}", f"{half}.{name}") for half in ("encoder", "decoder") for name in ("conv_in", "conv_out")),
    *((f"{half}.norm_out", f"{half}.conv_norm_out") for half in ("encoder", "decoder")),
    ("encoder.down.{a}.downsample.conv", "encoder.down_blocks.{a}.downsamplers.0.conv"),
    ("decoder.up.{r}.upsample.conv", "decoder.up_blocks.{r}.upsamplers.0.conv"),
    *(
        (f"{ldm}.{old}", f"{published}.{new}")
        for ldm, published in (
            ("encoder.down.{a}.block.{b}", "encoder.down_blocks.{a}.resnets.{b}"),
            ("decoder.up.{r}.block.{b}", "decoder.up_blocks.{r}.resnets.{b}"),
            *((f"{half}.mid.block_{n + 1}", f"{half}.mid_block.resnets.{n}") for half in ("encoder", "decoder") for n in (0, 1)),
        )
        for old, new in (*((name, name) for name in ("norm1", "norm2", "conv1", "conv2")), ("nin_shortcut", "conv_shortcut"))
    ),
    *(
        (f"{half}.mid.attn_1.{old}", f"{half}.mid_block.attentions.0.{new}")
        for half in ("encoder", "decoder")
        for old, new in (("norm", "group_norm"), ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0"))
    ),
)
TOWER_RULES = (
    ("transformer.resblocks.{a}.ln_1", "encoder.layers.{a}.layer_norm1"),
    ("transformer.resblocks.{a}.ln_2", "encoder.layers.{a}.layer_norm2"),
    ("transformer.resblocks.{a}.mlp.c_fc", "encoder.layers.{a}.mlp.fc1"),
    ("transformer.resblocks.{a}.mlp.c_proj", "encoder.layers.{a}.mlp.fc2"),
    ("transformer.resblocks.{a}.attn.out_proj", "encoder.layers.{a}.self_attn.out_proj"),
)
TEXT_RULES = (*TOWER_RULES, ("token_embedding", "embeddings.token_embedding"), ("ln_final", "final_layer_norm"))
PICTURE_RULES = (
    *TOWER_RULES,
    ("conv1", "embeddings.patch_embedding"),
    ("ln_pre", "pre_layrnorm"),  # the published name is misspelt
    ("ln_post", "post_layernorm"),
)
FUSED = re.compile(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)")
BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.")


class Row(NamedTuple):
    """One tensor: its name in the single file, the part and name it has in the folder, and what is done to it on the way."""

    source: str
    part: str
    target: str
    operation: str


def _matcher(pattern: str) -> re.Pattern:
    return re.compile(re.sub(r"\\{(\w)\\}", r"(?P<\1>\\d+)", re.escape(pattern)))


_COMPILED = {id(rules): [(_matcher(old), new) for old, new in rules] for rules in (AUTOENCODER_RULES, TEXT_RULES, PICTURE_RULES)}


def _translate(name: str, rules: tuple, levels: int = 0) -> str | None:
    module, dot, leaf = name.rpartition(".")
    for pattern, template in _COMPILED[id(rules)]:
        match = pattern.fullmatch(module)
        if match:
            numbers = match.groupdict()
            if "r" in numbers:
                numbers["r"] = str(levels - 1 - int(numbers["r"]))
            return template.format(**numbers) + dot + leaf
    return None


def _tower(key: str, name: str, part: str, root: str, rules: tuple) -> list[Row]:
    """Rows of a tensor of one of CLIP's towers."""
    fused = FUSED.fullmatch(name)
    if fused:
        block, leaf = fused.groups()
        names = (f"{root}.encoder.layers.{block}.self_attn.{letter}_proj.{leaf}" for letter in "qkv")
        return [Row(key, part, target, third) for target, third in zip(names, THIRDS, strict=True)]
    whole = {"positional_embedding": "embeddings.position_embedding.weight", "class_embedding": "embeddings.class_embedding"}
    target = whole.get(name) or _translate(name, rules)
    return [Row(key, part, f"{root}.{target}", COPY)] if target else []


def map_keys(keys: Iterable[str]) -> tuple[list[Row], list[str]]:
    """Rows for the tensors of a single file, and the keys that the folder does not need.

    Not needed are the schedule's buffers, which are computed, the last text block, whose output the networks do not use, and
    CLIP's projection heads.
    """
    keys = list(keys)
    prefix = next((p for p in TEXT_TOWERS if any(key.startswith(p) for key in keys)), TEXT_TOWERS[0])
    text = [key.removeprefix(prefix) for key in keys if key.startswith(prefix) and not key.startswith(prefix + PICTURE_TOWER)]
    last = max((int(match[1]) for name in text if (match := BLOCK.match(name))), default=-1)
    levels = len({match[1] for key in keys if (match := re.search(r"decoder\.up\.(\d+)\.", key))})
    rows: list[Row] = []
    unneeded: list[str] = []
    for key in keys:
        found: list[Row] = []
        autoencoder = next((p for p in AUTOENCODERS if key.startswith(p)), None)
        if key.startswith(NETWORK):
            found = [Row(key, "unet", key.removeprefix(NETWORK), COPY)]
        elif autoencoder:
            name = key.removeprefix(autoencoder)
            target = _translate(name, AUTOENCODER_RULES, levels)
            squeezed = ".mid.attn_1." in name and name.endswith(".weight") and ".norm." not in name
            found = [Row(key, "vae", target, SQUEEZE if squeezed else COPY)] if target else []
        elif key.startswith(prefix + PICTURE_TOWER):
            found = _tower(key, key.removeprefix(prefix + PICTURE_TOWER), "image_encoder", "vision_model", PICTURE_RULES)
        elif key.startswith(prefix):
            name = key.removeprefix(prefix)
            block = BLOCK.match(name)
            if not (block and int(block[1]) == last):
                found = _tower(key, name, "text_encoder", "text_model", TEXT_RULES)
        rows += found
        if not found:
            unneeded.append(key)
    return rows, unneeded


def map_tower_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Both towers of an OpenCLIP checkpoint under transformers' names, every block and the projections included."""
    mapped = {}
    for key, tensor in state.items():
        if key in ("text_projection", "visual.proj"):  # stored for multiplication from the right
            mapped["text_projection.weight" if key == "text_projection" else "visual_projection.weight"] = tensor.T.contiguous()
        elif key == "logit_scale":
            mapped[key] = tensor
        elif key.startswith(PICTURE_TOWER):
            rows = _tower(key, key.removeprefix(PICTURE_TOWER), "image_encoder", "vision_model", PICTURE_RULES)
            mapped.update({row.target: apply(row.operation, tensor) for row in rows})
        else:
            mapped.update({row.target: apply(row.operation, tensor) for row in _tower(key, key, "text_encoder", "text_model", TEXT_RULES)})
    return mapped


def apply(operation: str, tensor: Tensor) -> Tensor:
    """A tensor of the single file as the folder has it."""
    if operation == SQUEEZE:
        return tensor[:, :, 0, 0] if tensor.ndim == 4 else tensor
    if operation in THIRDS:
        return tensor.chunk(3)[THIRDS.index(operation)]
    return tensor


def undo(rows: list[Row], tensors: list[Tensor]) -> Tensor:
    """The tensor of the single file that `rows` (of one source, in order) were made of."""
    if rows[0].operation == SQUEEZE:
        return tensors[0][:, :, None, None]
    return torch.cat(tensors) if len(tensors) > 1 else tensors[0]
