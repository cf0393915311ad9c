"""A perceptron with one hidden layer, in one kernel: x -> relu(x first^T) second^T.

On a GPU its products are of bfloat16 on tensor cores and its sums of float32, so it is for callers who want half precision; nothing of
the hidden layer goes through memory, and the backward pass computes it again. On the CPU it is float32. N rows, I inputs, H hidden
units, O outputs.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from microdreamer.kernels import extension
from microdreamer.kernels.extension import Gradient

INPUT_STEP, MOST_INPUTS, MOST_HIDDEN, MOST_OUTPUTS = 16, 48, 256, 8  # of the kernel
LEAST_CAPABILITY = (8, 0)  # of a GPU: the first that multiplies in bfloat16


@functools.cache
def _multiplies_halves(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY


def fits_kernel(device: torch.device, inputs: int, hidden: int, outputs: int) -> bool:
    """Whether there is a kernel for a perceptron of these widths on this device; on a GPU inputs come by sixteens, 48 at most, with at
    most 256 hidden units and 8 outputs."""
    if not extension.use_compiled(device):
        return False
    fits = 0 < inputs <= MOST_INPUTS and inputs % INPUT_STEP == 0 and 0 < hidden <= MOST_HIDDEN and 0 < outputs <= MOST_OUTPUTS
    return device.type != "cuda" or (fits and _multiplies_halves(device))


def perceptron(x: Tensor, first: Tensor, second: Tensor, *, compiled: bool | None = None) -> Tensor:
    """[N,O] float32 from x [N,I], float32 or bfloat16, and weights first [H,I] and second [O,H], float32, without biases.

    Differentiable with respect to all three, and the gradients repeat bit for bit; there is no second derivative: asking for one raises
    RuntimeError (`compiled=False` has it). `compiled` chooses between the op and `perceptron_reference`; None takes the op where
    `fits_kernel` says so. Raises ValueError for wrong shapes or types.
    """
    if x.dim() != 2 or first.dim() != 2 or second.dim() != 2 or first.shape[1] != x.shape[1] or second.shape[1] != len(first):
        shapes = ", ".join(str(list(tensor.shape)) for tensor in (x, first, second))
        raise ValueError(f"x, first, second: expected shapes [N,I], [H,I], [O,H], got {shapes}")
    if compiled is None:
        compiled = fits_kernel(x.device, x.shape[1], len(first), len(second))
    if not extension.use_compiled(x.device, asked=compiled):
        return perceptron_reference(x, first, second)
    return torch.ops.microdreamer.perceptron(x.contiguous(), first.contiguous(), second.contiguous())


# ---- The op: shapes for torch.compile, and autograd ----


def _fake(x, first, second):
    return first.new_empty(x.shape[0], second.shape[0])


def _fake_backward(v_out, x, first, second, for_x):
    return torch.empty_like(x) if for_x else x.new_empty(0), torch.empty_like(first), torch.empty_like(second)


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx, v_out):
    wanted = ctx.needs_input_grad
    found = torch.ops.microdreamer.perceptron_bwd(v_out.contiguous(), *ctx.saved_tensors, wanted[0])
    return tuple(gradient if needed else None for gradient, needed in zip(found, wanted, strict=True))


def _no_second_derivative(ctx, *_):
    raise RuntimeError("perceptron has no second derivative; pass compiled=False, whose plain PyTorch has it")


extension.register("perceptron", fake=_fake, gradient=Gradient(_backward, _save))
extension.register("perceptron_bwd", fake=_fake_backward, gradient=Gradient(_no_second_derivative))


# ---- The plain-PyTorch twin ----


def perceptron_reference(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """`perceptron` in plain PyTorch, for any floating dtype of the weights: the definition that the op is compared with."""
    return torch.relu(x.to(first.dtype) @ first.T) @ second.T
