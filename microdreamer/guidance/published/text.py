"""Sentences to what networks read: CLIP's tokenizer and its text tower."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from microdreamer.core.rows import per_row
from microdreamer.core.transfer import send
from microdreamer.guidance.published.clip import ClipText
from microdreamer.guidance.published.latent import Parts
from microdreamer.guidance.published.pretrained import load_part
from microdreamer.guidance.sentences import REMEMBERED, SentenceEncoder, digest

log = logging.getLogger(__name__)

TOWER = "text_encoder"  # the part of a checkpoint
ENDINGS = "'s|'t|'re|'ve|'m|'ll|'d"
START, END = "<|startoftext|>", "<|endoftext|>"
PAD_TOKEN = 0  # "!": OpenCLIP pads with it, whatever tokenizer_config.json says


def _byte_pairs(vocabulary: dict[str, int], merges: list[tuple[str, ...]]) -> Any:
    """CLIP's way from a sentence to ids, start and end included: white space and case do not count; words are runs of letters, single
    digits, runs of other signs, and English endings after an apostrophe; each word is bytes, which `merges` join."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    made = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token=END))
    made.add_special_tokens([START, END])
    made.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    words = Regex("|".join(map(re.escape, (START, END))) + rf"|{ENDINGS}|\p{{L}}+|\p{{N}}|[^\s\p{{L}}\p{{N}}]+")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, behavior="removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    made.post_processor = processors.TemplateProcessing(f"{START} $A {END}", special_tokens=[(t, vocabulary[t]) for t in (START, END)])
    return made


class Tokenizer:
    """CLIP's byte pairs. From vocab.json and merges.txt alone: where "!" is declared to be the padding, as in Stable Diffusion
    2.1's other files, it would no longer be read as in training."""

    def __init__(self, folder: Path):
        """Raises FileNotFoundError or ValueError in one line for a folder without a vocabulary."""
        names = [folder / name for name in ("vocab.json", "merges.txt")]
        for name in names:
            if not name.is_file():
                raise FileNotFoundError(f"{name}: not there; a CLIP tokenizer is vocab.json and merges.txt")
        try:
            vocabulary = json.loads(names[0].read_text(encoding="utf-8"))
            merges = [tuple(line.split()) for line in names[1].read_text(encoding="utf-8").splitlines()[1:] if line]
            self._tokenizer = _byte_pairs(vocabulary, merges)
        except Exception as error:  # the library has no error of its own for a damaged vocabulary
            raise ValueError(f"{folder}: not a CLIP tokenizer ({' '.join(str(error).split())[:120]})") from error
        self.identity = hashlib.sha256(b"".join(name.read_bytes() for name in names)).hexdigest()

    def __call__(self, sentence: str, length: int) -> list[int]:
        """Token ids with start and end, cut or padded to `length`. What is cut is logged."""
        ids = self._tokenizer.encode(sentence).ids
        if len(ids) > length:
            log.warning("the sentence has %d tokens too many; its end is cut: %r", len(ids) - length, sentence[-60:])
            ids = ids[: length - 1] + ids[-1:]
        return ids + [PAD_TOKEN] * (length - len(ids))


class TextEncoder(SentenceEncoder):
    """CLIP's text tower with its tokenizer: the states of the last block that the checkpoint holds, after the final norm.

    Pooled is the state of the end token, without CLIP's projection: what `CLIPTextModel` calls pooler_output.
    """

    def __init__(self, tokenizer: Callable[[str, int], list[int]], model: ClipText):
        self.tokenizer, self.model = tokenizer, model
        self.width, self.length = model.config.hidden_size, model.config.max_position_embeddings
        self.device = next(model.parameters()).device
        self.look_up = functools.lru_cache(REMEMBERED)(self._look_up)

    @classmethod
    def load(cls, folder: Path, parts: Parts) -> TextEncoder:
        """From a checkpoint's tokenizer/ and text_encoder/. Raises FileNotFoundError or ValueError for files that are not those."""
        model = load_part(folder / TOWER, "CLIPTextModel", parts.device, parts.dtype)
        return cls(Tokenizer(folder / "tokenizer"), model)

    def _look_up(self, sentence: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(sentence, self.length))

    @torch.no_grad()
    def states(self, sentences: Sequence[str | None]) -> tuple[Tensor, Tensor]:
        ids = send(torch.tensor([self.look_up(sentence or "") for sentence in sentences]), self.device)
        return per_row(self._run, ids)

    def _run(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        found = self.model(ids)
        return found.pooled, found.places

    def __call__(self, *sentences: str | None) -> Tensor:
        """[S,77,C]; None is the empty sentence."""
        return self.states(sentences)[1]

    def _identity(self) -> str:
        tokenizer = getattr(self.tokenizer, "identity", type(self.tokenizer).__qualname__)
        return digest(self.model, "clip", dataclasses.asdict(self.model.config), tokenizer)
