"""Tables of numbers as text, a line a row: what mesh files are made of."""

from __future__ import annotations

import functools
import re

import torch
from torch import Tensor

from kernels import extension

_FIELD = re.compile(r"%(?:\.(\d+)g|d)")


def number_lines(template: str, table: Tensor, *, compiled: bool | None = None) -> bytes:
    """`template % row` for every row of table [R,C] on the CPU, one after the other.

    The template holds C fields, "%d" for a table of integers, "%.Ng" (1 <= N <= 17) for one of floats, and no other percent signs.
    Both ways of writing give the same bytes; `compiled` picks one, None the compiled one where it was built. Raises ValueError
    for a template that does not fit, RuntimeError for a compiled version that is not there.
    """
    texts, digits = _FIELD.split(template)[::2], _FIELD.findall(template)
    fits = table.dim() == 2 and len(digits) == table.shape[1] and all(bool(number) == table.is_floating_point() for number in digits)
    if not fits or "%" in "".join(texts):
        raise ValueError(f"template: {template!r} does not fit a {table.dtype} table of shape {list(table.shape)}")
    if not extension.takes_op("cpu", compiled, "writer of number lines"):
        return number_lines_python(template, table)
    _register()
    wide = table.double() if table.is_floating_point() else table.long()
    return torch.ops.microdreamer.number_lines(wide.contiguous(), texts, [int(number or 1) for number in digits]).numpy().tobytes()


def number_lines_python(template: str, table: Tensor) -> bytes:
    """The plain version."""
    return (template * len(table) % tuple(table.reshape(-1).tolist())).encode()


@functools.cache
def _register() -> None:
    """Give the compiled op its fake kernel, once."""

    def fake(table: Tensor, texts: list[str], digits: list[int]) -> Tensor:
        return table.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.uint8)

    torch.library.register_fake("microdreamer::number_lines", fake)
