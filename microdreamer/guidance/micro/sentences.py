"""The micro prior's reading of sentences: its words and its text tower, also without the rest of the network."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from microdreamer.core.paths import shipped_folder
from microdreamer.core.rows import per_row
from microdreamer.core.transfer import send
from microdreamer.core.unfilled import unfilled
from microdreamer.guidance.checkpoints import complete, load_sharded
from microdreamer.guidance.micro.neighbours import WordVectors
from microdreamer.guidance.micro.network import NetworkConfig, TextEncoder
from microdreamer.guidance.micro.vocabulary import Vocabulary, words_of
from microdreamer.guidance.sentences import REMEMBERED, SentenceEncoder, digest

log = logging.getLogger(__name__)

TOWER = "text."  # what its weights' names begin with in the whole network


def read_folder(path: Path | str | None) -> tuple[Path, NetworkConfig, Vocabulary]:
    """A micro prior's folder (None: the shipped one), and what its config.json says. Raises FileNotFoundError or ValueError in a line."""
    folder = Path(path) if path else shipped_folder("weights") / "micro_prior"
    try:
        stored = json.loads((folder / "config.json").read_text())
        fields = {key: tuple(value) if isinstance(value, list) else value for key, value in stored["network"].items()}
        return folder, NetworkConfig(**fields), Vocabulary(stored["words"])
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder}: no micro prior there (config.json is missing); restore it or set prior_path") from None
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"{folder / 'config.json'}: not a micro prior's configuration ({error!r})") from error


class MicroSentenceEncoder(SentenceEncoder):
    """Pooled is the mean of the words' states; padding is read as the network reads it."""

    def __init__(self, tower: TextEncoder, vocabulary: Vocabulary, dtype: torch.dtype):
        """dtype: what it multiplies in, float32 or bfloat16, to which its linear layers have been taken."""
        self.tower, self.vocabulary, self.dtype = tower, vocabulary, dtype
        self.length, self.width = tower.places.shape
        self.device = tower.places.device
        self.look_up = functools.lru_cache(REMEMBERED)(self._look_up)

    @classmethod
    def load(cls, path: Path | str | None, device: torch.device | str, dtype: torch.dtype) -> MicroSentenceEncoder:
        """The tower alone, from a whole prior's folder."""
        folder, config, vocabulary = read_folder(path)
        with unfilled():
            tower = TextEncoder(config)
        state = {key.removeprefix(TOWER): part for key, part in load_sharded(folder).items() if key.startswith(TOWER)}
        complete(tower, state, folder, device)
        for module in tower.modules():
            if isinstance(module, nn.Linear):
                module.to(dtype)
        return cls(tower.eval().requires_grad_(False), vocabulary, dtype)

    def _look_up(self, sentence: str) -> tuple[int, ...]:
        tokens, told = self._read(sentence)
        if told:
            log.warning("prompt: %s", told)
        return tokens

    def _read(self, sentence: str) -> tuple[tuple[int, ...], str]:
        """Its tokens, and what there is to say of words that are not known. Raises ValueError as `tokens`."""
        tokens, unknown = self.vocabulary.encode(sentence, self.length)
        over = len(words_of(sentence)) - len(unknown) - self.length
        cut = f"{over} words too many for the micro prior; the end is cut: {sentence[-60:]!r}" if over > 0 else ""
        if not unknown:
            return tuple(tokens), cut
        near = sorted({word for name in unknown for word in self.vocabulary.nearest(name)})
        hint = f"; near ones: {', '.join(near)}" if near else ""
        if not any(tokens):
            raise ValueError(f"prompt {sentence!r}: the micro prior knows none of these words ({len(self.vocabulary)} known){hint}")
        told = f"the micro prior does not know {', '.join(unknown)}{hint}"
        return tuple(tokens), f"{told}; {cut}" if cut else told

    def check(self, sentence: str) -> None:
        """Raises ValueError for a sentence of which no word is known, or near to one that is; says nothing."""
        self._read(self._with_near_words(sentence)[0])

    def understood(self, sentence: str | None) -> str | None:
        """The sentence with the nearest known words in place of unknown ones, where there are near ones; a line tells which."""
        if not sentence:
            return sentence
        sentence, read = self._with_near_words(sentence)
        if read:
            log.warning("prompt: the micro prior reads %s", ", ".join(f"{word} as {near}" for word, near in read.items()))
        return sentence

    def _with_near_words(self, sentence: str) -> tuple[str, dict[str, str]]:
        """The sentence so, and which words were read as which others."""
        known, read = set(self.vocabulary.words), {}
        for word in words_of(sentence):
            if word not in known and (near := WordVectors.shipped().nearest(word, self.vocabulary.words)):
                read[word] = near
        return " ".join(read.get(word, word) for word in words_of(sentence)) if read else sentence, read

    def tokens(self, sentences: Sequence[str | None]) -> Tensor:
        """Word tokens [S,L]. Raises ValueError for a sentence of which no word is known; unknown words among others are logged."""
        return send(torch.tensor([self.look_up(sentence or "") for sentence in sentences]), self.device)

    @torch.no_grad()
    def states(self, sentences: Sequence[str | None]) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            tokens, pooled = per_row(self.tower, self.tokens(sentences))
        return pooled, tokens

    def _identity(self) -> str:
        return digest(self.tower, "micro", self.vocabulary.words, str(self.dtype))
