"""Repeated GPU work as CUDA graphs: many small kernels cost the CPU longer to launch than the GPU to run.

A graph is captured once per set of shapes and replayed from then on. Everything here is the plain function on the CPU.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from microdreamer.kernels import extension

Output = TypeVar("Output")
_one_at_a_time = threading.Lock()  # PyTorch keeps what belongs to a capture for the whole process
WARM_UPS = 2  # plain calls before capture, in which libraries pick algorithms and optimisers make their state


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """An earlier graph that is destroyed while another is captured would spoil that."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def warm_up(function: Callable[[], Output], device: torch.device | str, times: int = WARM_UPS) -> Output:
    """Call `function` on a stream of its own, as what is to be captured afterwards must run before; what its last call gave."""
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(times - 1):
            function()
        output = function()
    torch.cuda.current_stream(device).wait_stream(side)
    return output


def capture(function: Callable[[], Output], device: torch.device | str, pool: Any = None) -> tuple[torch.cuda.CUDAGraph, Output]:
    """What `function` does on the device, recorded and not run: the graph, and its output, which each replay writes anew.

    Whoever keeps the graph must keep the tensors that it reads. pool: a handle of memory that several graphs share, which then must not
    be replayed at the same time. Other threads may use the device meanwhile. Unlike `torch.cuda.graph` it leaves cached memory alone.
    Raises RuntimeError where `function` waits for the device.
    """
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
    torch.cuda.synchronize(device)
    with _one_at_a_time, torch.cuda.stream(side), _no_garbage_collection():
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            output = function()
        finally:
            graph.capture_end()
    torch.cuda.current_stream(device).wait_stream(side)
    return graph, output


@dataclasses.dataclass
class _Captured:
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    given: list[tuple[Tensor, int]]  # the tensors last copied to `inputs`, with their versions
    output: Tensor

    def replay(self, inputs: Sequence[Tensor]) -> Tensor:
        for index, (static, tensor) in enumerate(zip(self.inputs, inputs, strict=True)):
            last, version = self.given[index]
            if last is not tensor or version != tensor._version:
                static.copy_(tensor)
                self.given[index] = tensor, tensor._version
        self.graph.replay()
        return self.output.clone()


class _Graphs:
    """The graphs of one function, by the shapes of its inputs, which share their memory: one is replayed at a time."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self.enabled = True
        self._captured: dict[tuple, _Captured] = {}
        self._pool = None

    def _takes_graphs(self, device: torch.device) -> bool:
        return self.enabled and device.type == "cuda" and not torch.cuda.is_current_stream_capturing()

    @staticmethod
    def _key(inputs: Sequence[Tensor]) -> tuple:
        return tuple((tensor.shape, tensor.dtype) for tensor in inputs)

    def _capture(self, device: torch.device, inputs: Sequence[Tensor], static: list[Tensor]) -> _Captured:
        """What the function does on `static`."""
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph, output = capture(lambda: self.function(*static), device, self._pool)
        return _Captured(graph, static, [(tensor, tensor._version) for tensor in inputs], output)


class GraphedFunction(_Graphs):
    """Calls `function(*tensors) -> tensor`, on a GPU by replaying what was captured at the first call with these shapes.

    The function must be free of host synchronisation and side effects. Inputs that are the same tensors as in the last call
    are not copied again. On the CPU, with `enabled` false, or where gradients are wanted, it is the function itself.
    """

    def __call__(self, *inputs: Tensor) -> Tensor:
        device = inputs[0].device
        differentiated = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
        if differentiated or not self._takes_graphs(device):
            return self.function(*inputs)
        key = self._key(inputs)
        if key not in self._captured:
            static = [tensor.clone() for tensor in inputs]
            warm_up(lambda: self.function(*static), device)
            self._captured[key] = self._capture(device, inputs, static)
        return self._captured[key].replay(inputs)


class GraphedStep(_Graphs):
    """Repeats `function(*tensors) -> tensor`, a whole step of an optimiser: loss, gradients, update of parameters in place.

    Every call does one step. On a GPU the first ones with inputs of their shapes run as they are and the rest are replayed, so the
    step must not wait for the device, and whatever it changes must stay at its place in memory: call `reset` when it does not.
    Gradients must be None before the step and be dropped in it. Without this project's CUDA kernels nothing is captured, since
    their plain-PyTorch twins wait for the device.
    """

    def __init__(self, function: Callable[..., Tensor], device: torch.device) -> None:
        super().__init__(function)
        self.device = device
        self.enabled = extension.available(device)
        self._calls: dict[tuple, int] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        if not self._takes_graphs(self.device):
            return self.function(*inputs)
        key = self._key(inputs)
        if key not in self._captured:
            self._calls[key] = self._calls.get(key, 0) + 1
            if self._calls[key] <= WARM_UPS:
                return warm_up(lambda: self.function(*inputs), self.device, 1)
            self._captured[key] = self._capture(self.device, inputs, [tensor.clone() for tensor in inputs])
        return self._captured[key].replay(inputs)

    def reset(self) -> None:
        """Capture anew: something that the step works on has moved."""
        self._captured.clear()
        self._pool = None  # a pool ends with the last of its graphs
