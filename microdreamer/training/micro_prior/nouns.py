"""Which objects a noun means, and how often to draw each so that all nouns of a list are heard equally often."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from microdreamer.guidance.micro.vocabulary import words_of

# A caption names its object before the first of these: "a wooden castle with walls" is a castle, "a crate of buns" a crate.
AFTER_NOUN = {"at", "behind", "beside", "by", "for", "from", "full", "in", "inside", "like", "made", "near", "of", "on", "under"}
AFTER_NOUN |= {"holding", "wearing", "with", "without"}


def noun_phrase(caption: str) -> list[str]:
    """The words of a caption that end with what the object is."""
    words = words_of(caption)
    return words[: next((place for place, word in enumerate(words) if word in AFTER_NOUN), len(words))]


def objects_of(nouns: Sequence[str], captions: Sequence[Sequence[str]]) -> dict[str, list[int]]:
    """The objects [numbers] that have a caption whose noun phrase ends with each of `nouns`.

    A noun may be of several words, and the longest that fits counts: with "hot dog" in the list, such an object is not a "dog".
    """
    longest = sorted({tuple(words_of(noun)) for noun in nouns} - {()}, key=len, reverse=True)
    found: dict[str, list[int]] = {" ".join(noun): [] for noun in longest}
    for number, own in enumerate(captions):
        phrases = [tuple(noun_phrase(caption)) for caption in own]
        meant = {next((noun for noun in longest if phrase[-len(noun) :] == noun), ()) for phrase in phrases}
        for noun in meant - {()}:
            found[" ".join(noun)].append(number)
    return found


def noun_weights(owners: dict[str, list[int]], weights: Tensor) -> Tensor:
    """[M] summing to 1: every noun of `owners` (see `objects_of`) in equal shares, its objects by their `weights` [M].

    Nouns all of whose objects have weight 0 are left out. Raises ValueError where none remains.
    """
    weights = weights.double()
    shares = torch.zeros_like(weights)
    for own in owners.values():
        index = torch.tensor(own, dtype=torch.long)
        total = weights[index].sum()
        if total > 0:
            shares[index] += weights[index] / total
    if not shares.sum() > 0:
        raise ValueError("none of the nouns is what a caption of these objects names; give others")
    return shares / shares.sum()
