"""Networks made for weights that are in a file: their parameters get no memory and no first values, only the file's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_DRAWN = (torch.rand, torch.randn)
_DRAWN_IN_PLACE = (Tensor.normal_, Tensor.uniform_)


class _WithoutFirstValues(TorchFunctionMode):
    """Functions of torch.nn.init do nothing, in this thread alone; `draws`: and what is drawn by hand is memory as it is found.

    On the meta device too they would cost time: the first one, as all arithmetic there, imports PyTorch's compiler, which takes a second.
    """

    def __init__(self, draws: bool = False) -> None:
        super().__init__()
        self.draws = draws

    def __torch_function__(self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        if self.draws and func in _DRAWN_IN_PLACE:
            return args[0]
        if self.draws and func in _DRAWN:
            return torch.empty(*args, **{name: value for name, value in kwargs.items() if name != "generator"})
        return func(*args, **kwargs)


def without_first_values() -> AbstractContextManager[Any]:
    """Modules that are made in the block lack their random first values, which weights that follow would only write over.

    All that they draw there must be in those weights; the rest of them is as ever.
    """
    return _WithoutFirstValues(draws=True)


@contextlib.contextmanager
def unfilled() -> Iterator[None]:
    """Modules that are made in the block have their shapes and nothing else; `assign` completes them."""
    with torch.device("meta"), _WithoutFirstValues():
        yield


def assign(network: nn.Module, state: Mapping[str, Tensor], device: torch.device | str) -> nn.Module:
    """Give a network made within `unfilled` the tensors of `state`, on `device` in the types that it was made with.

    Every key must be there, as `guidance.checkpoints.check_shapes` makes sure. Raises ValueError where something stays without values.
    """
    made = network.state_dict()

    def moved(name: str, tensor: Tensor) -> Tensor:
        there = tensor.to(device).to(made[name].dtype)
        return there.clone() if there is tensor else there  # of its own, not pages of a file

    network.load_state_dict({name: moved(name, tensor) for name, tensor in state.items()}, assign=True)
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if tensor.is_meta:
            raise ValueError(f"{type(network).__name__}: {name} is in no file of weights")
    return network
