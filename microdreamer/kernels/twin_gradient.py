"""Gradients of an op by its plain-PyTorch twin, for ops that are made for inference and seldom differentiated."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def differentiate_by_twin(op: str, twin: Callable[..., Tensor | tuple[Tensor, ...]]) -> None:
    """Let autograd differentiate `op` (namespace::name) by evaluating `twin`, which takes the same arguments in the same order, again."""

    def setup(ctx, inputs, output):
        ctx.rest = [None if isinstance(value, Tensor) else value for value in inputs]
        ctx.save_for_backward(*(value if isinstance(value, Tensor) else None for value in inputs))

    def backward(ctx, *v_outputs):
        given = len(ctx.needs_input_grad)  # the dispatcher leaves out arguments at the end that have their defaults
        needed = zip(ctx.saved_tensors[:given], ctx.rest[:given], ctx.needs_input_grad, strict=True)
        with torch.enable_grad():
            values = [rest if tensor is None else tensor.detach().requires_grad_(wanted) for tensor, rest, wanted in needed]
            outputs = twin(*values)
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        used = [(output, v_output) for output, v_output in zip(outputs, v_outputs, strict=True) if v_output is not None]
        wanted = [value for value in values if isinstance(value, Tensor) and value.requires_grad]
        differentiated, v_differentiated = zip(*used, strict=True)
        found = iter(torch.autograd.grad(differentiated, wanted, v_differentiated, allow_unused=True))
        return tuple(next(found) if isinstance(value, Tensor) and value.requires_grad else None for value in values)

    torch.library.register_autograd(op, backward, setup_context=setup)
