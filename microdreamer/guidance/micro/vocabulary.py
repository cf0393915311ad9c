"""Words of the micro prior: captions in, token numbers out."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

WORD = re.compile(r"[a-z]+")


def words_of(text: str) -> list[str]:
    """Lower-case words of a caption; digits and punctuation separate words."""
    return WORD.findall(text.lower())


class Vocabulary:
    """A fixed list of words; token 0 pads, word i of the list has token i + 1."""

    def __init__(self, words: Sequence[str]):
        self.words = list(words)
        self._token = {word: index + 1 for index, word in enumerate(self.words)}

    @classmethod
    def from_captions(cls, captions: Iterable[str], limit: int) -> Vocabulary:
        """The `limit` most frequent words (ties by alphabet), in alphabetical order."""
        counts: dict[str, int] = {}
        for caption in captions:
            for word in words_of(caption):
                counts[word] = counts.get(word, 0) + 1
        kept = sorted(counts, key=lambda word: (-counts[word], word))[:limit]
        return cls(sorted(kept))

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, caption: str, length: int) -> tuple[list[int], list[str]]:
        """(`length` tokens padded with 0, the words that are not known). Words past `length` known ones are dropped."""
        words = words_of(caption)
        known = [self._token[word] for word in words if word in self._token][:length]
        return known + [0] * (length - len(known)), [word for word in words if word not in self._token]

    def nearest(self, word: str, count: int = 3) -> list[str]:
        """Known words that are spelt like `word`."""
        return difflib.get_close_matches(word, self.words, count, 0.6)
