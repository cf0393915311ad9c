"""Replaying a network call as a CUDA graph: a U-Net launches a thousand small kernels, which cost the CPU longer than the GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

WARM_UPS = 2  # calls before capture, in which libraries pick algorithms and allocate workspaces


@dataclasses.dataclass
class _Captured:
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    given: list[tuple[Tensor, int]]  # the tensors last copied to `inputs`, with their versions
    output: Tensor


class GraphedFunction:
    """Calls `function(*tensors) -> tensor`, on a GPU by replaying what was captured at the first call with these shapes.

    The function must be free of host synchronisation and side effects. Inputs that are the same tensors as in the last call
    are not copied again. Without gradients only; on the CPU, or with `enabled` false, it is the function itself.
    """

    def __init__(self, function: Callable[..., Tensor]):
        self.function = function
        self.enabled = True
        self._captured: dict[tuple, _Captured] = {}
        self._pool = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        if not self.enabled or not inputs[0].is_cuda or torch.cuda.is_current_stream_capturing():
            return self.function(*inputs)
        key = tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        if key not in self._captured:
            with torch.cuda.device(inputs[0].device):
                self._captured[key] = self._capture(inputs)
        captured = self._captured[key]
        for index, (static, tensor) in enumerate(zip(captured.inputs, inputs, strict=True)):
            last, version = captured.given[index]
            if last is not tensor or version != tensor._version:
                static.copy_(tensor)
                captured.given[index] = tensor, tensor._version
        captured.graph.replay()
        return captured.output.clone()

    def _capture(self, inputs: tuple[Tensor, ...]) -> _Captured:
        static = [tensor.clone() for tensor in inputs]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self.function(*static)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        with torch.cuda.graph(graph, pool=self._pool):
            output = self.function(*static)
        return _Captured(graph, static, [(tensor, tensor._version) for tensor in inputs], output)
