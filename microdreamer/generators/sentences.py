"""What belongs to each of a batch of sentences: caches taken apart and put together, and work that is done sentence by sentence.

A cache is a tensor whose leading dimension counts sentences, or a tuple (also a named one) of caches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


def count_of(cache: Any) -> int:
    """How many sentences a cache is of."""
    return len(next(_tensors(cache)))


def take_sentence(cache: Any, index: int) -> Any:
    """The cache of one sentence, a batch of one; a view."""
    return _map(lambda tensor: tensor[index : index + 1], cache)


def join_sentences(caches: Sequence[Any]) -> Any:
    """One cache of all sentences, in their order."""
    return _map(lambda *tensors: torch.cat(tensors), *caches)


def in_float32(cache: Any) -> Any:
    """The cache in float32, as those of networks that multiply in half precision are read."""
    return _map(lambda tensor: tensor.float(), cache)


def per_sentence(function: Callable[..., Any], *batched: Any) -> Any:
    """function(*batched), where what goes in and what comes out have a leading dimension B of sentences, as caches do.

    On the CPU one sentence goes after the other: sums of matrix products are ordered differently in batches of different sizes, and
    what a sentence gives should not depend on its company, to the last bit. Raises ValueError for arguments of different B.
    """
    sizes = [len(tensor) for argument in batched for tensor in _tensors(argument)]
    if len(set(sizes)) > 1:
        raise ValueError(f"expected as many sets of points or directions as sentences, got {sorted(set(sizes))}")
    count, device = sizes[0], next(_tensors(batched[0])).device
    if device.type != "cpu" or count < 2:
        return function(*batched)
    return join_sentences([function(*(take_sentence(argument, index) for argument in batched)) for index in range(count)])


def _map(function: Callable[..., Tensor], *caches: Any) -> Any:
    first = caches[0]
    if isinstance(first, Tensor):
        return function(*caches)
    parts = [_map(function, *parts) for parts in zip(*caches, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)


def _tensors(cache: Any) -> Iterator[Tensor]:
    if isinstance(cache, Tensor):
        yield cache
    else:
        for part in cache:
            yield from _tensors(part)
