"""What belongs to each row of a batch, such as a sentence: taken apart, put together, and worked on row by row.

A batch is a tensor whose leading dimension counts rows, None, or a list or tuple (also a named one) of batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


def count_rows(batch: Any) -> int:
    """How many rows a batch has."""
    return len(next(_tensors(batch)))


def take_row(batch: Any, index: int) -> Any:
    """One row, a batch of one; a view."""
    return map_tensors(lambda tensor: tensor[index : index + 1], batch)


def join_rows(batches: Sequence[Any]) -> Any:
    """One batch of all rows, in their order."""
    return map_tensors(lambda *tensors: torch.cat(tensors), *batches)


def per_row(function: Callable[..., Any], *batched: Any) -> Any:
    """function(*batched), where what goes in and what comes out are batches whose rows have nothing to do with each other.

    On the CPU one row goes after the other: sums of matrix products are ordered differently in batches of different sizes, and
    what comes of a row should not depend on its company, to the last bit. Raises ValueError for batches of different numbers of rows.
    """
    sizes = [len(tensor) for argument in batched for tensor in _tensors(argument)]
    if len(set(sizes)) > 1:
        raise ValueError(f"expected as many rows of each, got {sorted(set(sizes))}")
    count, device = sizes[0], next(_tensors(batched[0])).device
    if device.type != "cpu" or count < 2:
        return function(*batched)
    return join_rows([function(*(take_row(argument, index) for argument in batched)) for index in range(count)])


def map_tensors(function: Callable[..., Tensor], *batches: Any) -> Any:
    """`function` of the tensors in each place of batches that are built alike."""
    first = batches[0]
    if first is None or isinstance(first, Tensor):
        return None if first is None else function(*batches)
    parts = [map_tensors(function, *parts) for parts in zip(*batches, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif batch is not None:
        for part in batch:
            yield from _tensors(part)
