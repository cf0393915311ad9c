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

from microdreamer.core.rows import map_tensors
from microdreamer.kernels import extension

Output = TypeVar("Output")
_one_at_a_time = threading.Lock()  # PyTorch keeps what belongs to a capture for the whole process
_plain = False  # within `uncaptured`
WARM_UPS = 2  # plain calls before capture, in which libraries pick algorithms and optimisers make their state


@contextlib.contextmanager
def uncaptured() -> Iterator[None]:
    """While the block runs everything here is the plain function, on any device: to see what memory it takes, which graphs hide.

    It holds for the whole process. Steps that began within the block must end within it.
    """
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before


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


def capture(
    function: Callable[[], Output], device: torch.device | str, pool: Any = None, side: torch.cuda.Stream | None = None
) -> tuple[torch.cuda.CUDAGraph, Output]:
    """What `function` does on the device, recorded and not run: the graph, and its output, which each replay writes anew.

    Whoever keeps the graph must keep the tensors that it reads. pool: a handle of memory that several graphs share, which then must not
    be replayed at the same time. side: the stream to record on, which a forward and its backward pass must share. Other threads may use
    the device meanwhile. Unlike `torch.cuda.graph` it leaves cached memory alone. Raises RuntimeError where `function` waits for
    the device.
    """
    graph, side = torch.cuda.CUDAGraph(), side or torch.cuda.Stream(device)
    torch.cuda.synchronize(device)
    with _one_at_a_time, torch.cuda.stream(side), _no_garbage_collection():
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            output = function()
        finally:
            graph.capture_end()
    torch.cuda.current_stream(device).wait_stream(side)
    return graph, output


def _wait_for_replays(device: torch.device, captured: dict) -> None:
    """Before graphs go: their memory may be unmapped (with expandable segments at once), while a replay on another stream still works."""
    if captured:
        torch.cuda.synchronize(device)


@dataclasses.dataclass
class _Captured:
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    given: list[tuple[Tensor, int]]  # the tensors last copied to `inputs`, with their versions
    output: Any  # of the function: a tensor or a tuple of them

    def replay(self, inputs: Sequence[Tensor]) -> Any:
        for index, (static, tensor) in enumerate(zip(self.inputs, inputs, strict=True)):
            last, version = self.given[index]
            if last is not tensor or version != tensor._version:
                static.copy_(tensor)
                self.given[index] = tensor, tensor._version
        self.graph.replay()
        return map_tensors(Tensor.clone, self.output)


class _Graphs:
    """The graphs of one function, by the shapes of its inputs, which share their memory: one is replayed at a time."""

    def __init__(self, function: Callable[..., Any], lock: threading.Lock | None = None) -> None:
        self.function = function
        self.enabled = True
        self._captured: dict[tuple, _Captured] = {}
        self._calls: dict[tuple, int] = {}  # before there was a graph
        self._pool = None
        self._lock = lock or threading.Lock()  # threads that share the function take turns from the copy of inputs to that of the output

    def _takes_graphs(self, device: torch.device) -> bool:
        return self.enabled and not _plain and device.type == "cuda" and not torch.cuda.is_current_stream_capturing()

    def _is_warm(self, key: tuple) -> bool:
        """Whether there were as many calls with these shapes as a capture needs before it; counts this one if not."""
        self._calls[key] = self._calls.get(key, 0) + 1
        return self._calls[key] > WARM_UPS

    @staticmethod
    def _key(inputs: Sequence[Tensor]) -> tuple:
        return tuple((tensor.shape, tensor.dtype) for tensor in inputs)

    def _capture(self, device: torch.device, inputs: Sequence[Tensor], static: list[Tensor]) -> _Captured:
        """What the function does on `static`."""
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph, output = capture(lambda: self.function(*static), device, self._pool)
        return _Captured(graph, static, [(tensor, tensor._version) for tensor in inputs], output)


class GraphedFunction(_Graphs):
    """Calls `function(*tensors)`, which gives a tensor or a tuple of them, on a GPU by replaying what was captured.

    The first WARM_UPS calls with inputs of their shapes run as they are, so that what happens once or twice costs no capture. The
    function must be free of host synchronisation and side effects. Inputs that are the same tensors as in the last call
    are not copied again. On the CPU, with `enabled` false, or where gradients are wanted, it is the function itself. lock: one that
    functions of the same modules share.
    """

    def __call__(self, *inputs: Tensor) -> Any:
        device = inputs[0].device
        differentiated = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
        if differentiated or not self._takes_graphs(device):
            return self.function(*inputs)
        key = self._key(inputs)
        with self._lock:
            if key not in self._captured:
                if not self._is_warm(key):
                    return warm_up(lambda: self.function(*inputs), device, 1)
                self._captured[key] = self._capture(device, inputs, [tensor.clone() for tensor in inputs])
            return self._captured[key].replay(inputs)


@dataclasses.dataclass
class _CapturedPair:
    forward: torch.cuda.CUDAGraph
    backward: torch.cuda.CUDAGraph
    x: Tensor
    out: Tensor
    v_out: Tensor
    v_x: Tensor


class GraphedGradient:
    """`function(x) -> out` and its gradient in x, on a GPU by two graphs: the first leaves in their memory what the second needs.

    `forward` gives the output and a token, by which `backward` knows whether the activations are still there; it makes them again where
    another call has taken their place. The function must be free of host synchronisation and side effects. On the CPU, and within a
    capture, `backward` calls the function again.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self._captured: dict[tuple, _CapturedPair] = {}
        self._pool: Any = None  # of all graphs
        self._side: torch.cuda.Stream | None = None
        self._lives: object = None  # the token of the call whose activations lie in that memory
        self._lock = threading.Lock()

    def forward(self, x: Tensor) -> tuple[Tensor, object]:
        """The output for x, detached, and the token."""
        if _plain or x.device.type != "cuda" or torch.cuda.is_current_stream_capturing():
            with torch.no_grad():
                return self.function(x), None
        with self._lock, torch.no_grad():
            key = (x.shape, x.dtype)
            if key not in self._captured:
                self._captured[key] = self._capture(x)
            token = object()
            return self._replay(self._captured[key], x, token).out.clone(), token

    def backward(self, x: Tensor, v_out: Tensor, token: object) -> Tensor:
        """The gradient in x of the output whose gradient is v_out, with the token of `forward` for that x."""
        if token is None:
            return _gradient(self.function, x, v_out)
        with self._lock, torch.no_grad():
            pair = self._captured[x.shape, x.dtype]
            if self._lives is not token:
                self._replay(pair, x, token)
            pair.v_out.copy_(v_out)
            pair.backward.replay()
            self._lives = None  # the way back has written over them
            return pair.v_x.clone()

    def _replay(self, pair: _CapturedPair, x: Tensor, token: object) -> _CapturedPair:
        pair.x.copy_(x)
        pair.forward.replay()
        self._lives = token
        return pair

    @torch.enable_grad()
    def _capture(self, x: Tensor) -> _CapturedPair:
        device = x.device
        self._pool, self._side = self._pool or torch.cuda.graph_pool_handle(), self._side or torch.cuda.Stream(device)
        x = x.detach().clone().requires_grad_()
        warm_up(lambda: _gradient(self.function, x, None), device)
        forward, out = capture(lambda: self.function(x), device, self._pool, self._side)
        v_out = torch.zeros_like(out)
        backward, (v_x,) = capture(lambda: torch.autograd.grad(out, x, v_out), device, self._pool, self._side)
        return _CapturedPair(forward, backward, x.detach(), out.detach(), v_out, v_x)


@torch.enable_grad()
def _gradient(function: Callable[[Tensor], Tensor], x: Tensor, v_out: Tensor | None) -> Tensor:
    x = x.detach().requires_grad_()
    out = function(x)
    return torch.autograd.grad(out, x, torch.ones_like(out) if v_out is None else v_out)[0]


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

    def __call__(self, *inputs: Tensor) -> Tensor:
        if not self._takes_graphs(self.device):
            return self.function(*inputs)
        key = self._key(inputs)
        if key not in self._captured:
            if not self._is_warm(key):
                return warm_up(lambda: self.function(*inputs), self.device, 1)
            self._captured[key] = self._capture(self.device, inputs, [tensor.clone() for tensor in inputs])
        with self._lock:
            return self._captured[key].replay(inputs)

    def reset(self) -> None:
        """Capture anew: something that the step works on has moved."""
        _wait_for_replays(self.device, self._captured)
        self._captured.clear()
        self._pool = None  # a pool ends with the last of its graphs


@dataclasses.dataclass
class _CapturedHalves:
    first: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    held: Any
    out: Tensor
    second: torch.cuda.CUDAGraph | None = None
    more: list[Tensor] = dataclasses.field(default_factory=list)
    result: Tensor | None = None


class GraphedHalves:
    """A step of an optimiser with something in its middle that is not captured: two graphs, and what the first computes is there for the
    second.

    `begin(*inputs)` gives the output of `first(*inputs) -> held, output`, and `end(*more)` what `second(held, *more) -> tensor` gives;
    `held` may carry autograd's graph of the output. They are called in turn. The rest is as with `GraphedStep`.
    """

    def __init__(self, first: Callable[..., tuple[Any, Tensor]], second: Callable[..., Tensor], device: torch.device) -> None:
        self.first, self.second, self.device = first, second, device
        self.enabled = device.type == "cuda" and extension.available(device)
        self._side = torch.cuda.Stream(device) if self.enabled else None  # a backward pass runs where its forward pass ran
        self._pool: Any = None
        self._captured: dict[tuple, _CapturedHalves] = {}
        self._calls: dict[tuple, int] = {}
        self._begun: _CapturedHalves | None = None
        self._held: Any = None  # by a step that is not replayed

    @torch.enable_grad()
    def begin(self, *inputs: Tensor) -> Tensor:
        self._begun = None
        if _plain or not self.enabled:
            self._held, out = self.first(*inputs)
            return out.detach()
        key = tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        if key not in self._captured:
            self._calls[key] = self._calls.get(key, 0) + 1
            if self._calls[key] <= WARM_UPS:
                with self._beside():
                    self._held, out = self.first(*inputs)
                return out.detach()
            self._pool, static = self._pool or torch.cuda.graph_pool_handle(), [tensor.clone() for tensor in inputs]
            graph, (held, out) = capture(lambda: self.first(*static), self.device, self._pool, self._side)
            self._begun = self._captured[key] = _CapturedHalves(graph, static, held, out.detach())
        else:
            self._begun = self._captured[key]
            for given, tensor in zip(self._begun.inputs, inputs, strict=True):
                given.copy_(tensor)
        self._begun.first.replay()
        return self._begun.out.clone()

    @torch.enable_grad()
    def end(self, *more: Tensor) -> Tensor:
        begun, held = self._begun, self._held
        self._begun = self._held = None
        if begun is None:
            if _plain or not self.enabled:
                return self.second(held, *more)
            with self._beside():
                return self.second(held, *more)
        if begun.second is None:
            begun.more = [tensor.clone() for tensor in more]
            begun.second, begun.result = capture(lambda: self.second(begun.held, *begun.more), self.device, self._pool, self._side)
        for static, tensor in zip(begun.more, more, strict=True):
            static.copy_(tensor)
        begun.second.replay()
        assert begun.result is not None  # captured with the second half
        return begun.result.clone()

    @contextlib.contextmanager
    def _beside(self) -> Iterator[None]:
        assert self._side is not None  # where steps are captured
        current = torch.cuda.current_stream(self.device)
        self._side.wait_stream(current)
        with torch.cuda.stream(self._side):
            yield
        current.wait_stream(self._side)

    def reset(self) -> None:
        """Capture anew: something that the step works on has moved. Between steps alone."""
        _wait_for_replays(self.device, self._captured)
        self._captured.clear()
        self._begun = self._held = self._pool = None
