"""Attention among the views of a pass: who sees whom, and how a pass's views are ordered."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from microdreamer.guidance.micro.relative import Poses, RelativeGates
from microdreamer.kernels.modulation import normed_heads


def linear(width_in: int, width_out: int, zero: bool = False, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(width_in, width_out, bias=bias)
    nn.init.zeros_(layer.weight) if zero else nn.init.normal_(layer.weight, std=1 / math.sqrt(width_in))
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


@dataclasses.dataclass(frozen=True)
class Layout:
    """How views [N,...] of a pass are ordered: `targets` views of each sample, then the references of all of them.

    `groups` are (samples, references of each) of neighbouring samples, and `running` says whether the references are among the
    views (else what was kept of them is used).
    """

    targets: int
    groups: tuple[tuple[int, int], ...]
    running: bool

    @property
    def target_views(self) -> int:
        return self.targets * sum(samples for samples, _ in self.groups)

    def samples(self, tensor: Tensor) -> list[Tensor]:
        """A tensor [B,...] of samples, group by group."""
        return list(tensor.split([samples for samples, _ in self.groups]))

    def references(self, tensor: Tensor) -> list[Tensor]:
        """Views' [N,n,...] references, group by group: [samples, references * n, ...]."""
        parts = tensor[self.target_views :].split([samples * count for samples, count in self.groups])
        return [part.unflatten(0, group).flatten(1, 2) for part, group in zip(parts, self.groups, strict=True)]


class Attention(nn.Module):
    """Multi-head attention with RMS-normalised queries and keys.

    `joint`: targets attend to all targets, the references and the caption; otherwise to their own view and the references.
    """

    def __init__(self, width: int, head_width: int, joint: bool, text_width: int, relative: bool):
        super().__init__()
        self.heads, self.head_width, self.joint = width // head_width, head_width, joint
        self.qkv = linear(width, 3 * width, bias=False)
        self.out = linear(width, width, zero=True, bias=False)
        self.query_scale = nn.Parameter(torch.ones(head_width))
        self.key_scale = nn.Parameter(torch.ones(head_width))
        self.text_kv = linear(text_width, 2 * width, bias=False) if joint else None
        self.relative = RelativeGates(self.heads) if relative else None

    def _split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        return x.unflatten(-1, (parts, self.heads, self.head_width)).unbind(-3)

    def text_keys(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, tokens, heads, d] of the caption's tokens [B, tokens, text_width]."""
        key, value = self._split(self.text_kv(text), 2)
        return F.rms_norm(key, (self.head_width,), self.key_scale), value

    def forward(self, x: Tensor, layout: Layout, references, text, poses: Poses | None):
        """x [N,n,C], views as `layout` has them.

        `references`: (keys, values) of the samples' references, group by group, used where they are not among the views; `text`:
        those of the captions. Returns (x', what to give for `references` another time).
        """
        query, key, value = normed_heads(self.qkv(x), self.heads, self.query_scale, self.key_scale)  # [N,n,heads,d]
        if self.relative:
            query, key, value = self.relative.into_frames(query, key, value, poses)
        if layout.running:
            references = list(zip(layout.references(key), layout.references(value), strict=True))
        results = []
        if layout.targets:
            own = [part[: layout.target_views].unflatten(0, (-1, layout.targets)) for part in (query, key, value)]
            groups = zip(*(layout.samples(part) for part in own), strict=True)
            texts = zip(*(layout.samples(part) for part in text), strict=True) if self.joint else [None] * len(layout.groups)
            for (queries, keys, values), seen_by_all, words in zip(groups, references, texts, strict=True):
                results.append(self._seen_by_targets(queries, keys, values, seen_by_all, words))
        if layout.running:
            results.append(attend(*(part[layout.target_views :] for part in (query, key, value))))
        seen = torch.cat(results) if len(results) > 1 else results[0]
        if self.relative:
            seen = self.relative.out_of_frames(seen, poses)
        return self.out(seen.flatten(-2)), references

    def _seen_by_targets(self, query: Tensor, key: Tensor, value: Tensor, references, text) -> Tensor:
        """What targets [B,V,n,heads,d] see, [B*V,n,heads,d]."""
        if self.joint:
            keys, values = (
                one_after_another([*own.unbind(1), *seen_by_all], dim=1)
                for own, seen_by_all in zip((key, value), zip(references, text, strict=True), strict=True)
            )
            return attend(one_after_another(query.unbind(1), dim=1), keys, values).reshape(-1, *query.shape[2:])
        keys, values = (
            one_after_another([own, seen_by_all[:, None].expand(-1, own.shape[1], -1, -1, -1)], dim=2).flatten(0, 1)
            for own, seen_by_all in zip((key, value), references, strict=True)
        )
        return attend(query.flatten(0, 1), keys, values)


def one_after_another(parts: Sequence[Tensor], dim: int) -> Tensor:
    """Tokens of all parts [...,tokens,heads,d], whose tokens are `dim`, in memory as [...,heads,tokens,d]: as `attend` multiplies them."""
    return torch.cat([part.transpose(dim, dim + 1) for part in parts], dim=dim + 1).transpose(dim, dim + 1)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention on [B, tokens, heads, d]."""
    if query.dtype == torch.bfloat16 and query.device.type == "cpu":
        # PyTorch's fused kernel is no faster in bfloat16 than in float32; plain products take two thirds of its time.
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        weights = (query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)).softmax(-1, dtype=torch.bfloat16)
        return (weights @ value).transpose(1, 2)
    return F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (query, key, value))).transpose(1, 2)
