"""Adam (Kingma and Ba 2015, arXiv 1412.6980) that updates all tensors in one launch; its plain-PyTorch twin is PyTorch's own."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

import torch
from torch import Tensor

from microdreamer.kernels import extension

MAX_TENSORS = 16  # with a gradient in a step: their pointers are the kernel's arguments
OPTIONS = {"params", "name", "lr", "eps"}

_add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
_zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)


class Uncompiled:
    """In front of an optimiser among the bases of a class: it is made and its gradients are dropped without PyTorch's compiler.

    PyTorch tells its compiler to leave these two methods alone by wrappers that import it when they are first called, which takes a second
    and more of a program that compiles nothing.
    """

    def add_param_group(self, param_group: dict) -> None:
        _add_param_group(self, param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, or set them to zero."""
        _zero_grad(self, set_to_none)


class Adam(Uncompiled, torch.optim.Adam):
    """torch.optim.Adam for up to 16 float32 tensors on one device, with its state, and to rounding its numbers.

    Groups may have a rate `lr` and an `eps` of their own. Rates become float32 tensors on the parameters' device, and steps are
    counted there, so that a captured step follows both: change a rate in place. PyTorch's fused kernel gives 65,536 values to
    one block, so that a tensor of 20,000 Gaussians occupies one of a GPU's hundred processors.
    Raises ValueError for other options and, at a step, for tensors that do not fit.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, lr, betas, eps, fused=True)

    def add_param_group(self, param_group: dict) -> None:
        if unknown := param_group.keys() - OPTIONS:
            raise ValueError(f"{', '.join(sorted(unknown))}: expected no options of a group but {', '.join(sorted(OPTIONS))}")
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        device = group["params"][0].device
        group["capturable"] = device.type == "cuda"
        group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=device)

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient. Does not wait for the device."""
        moving = [(parameter, group) for group in self.param_groups for parameter in group["params"] if parameter.grad is not None]
        if not moving:
            return
        if not extension.use_compiled(moving[0][0].device):
            super().step()
            return
        parameters = [parameter for parameter, _ in moving]
        states = [self._state_of(parameter) for parameter in parameters]
        torch.ops.microdreamer.adam_step(
            parameters,
            [parameter.grad for parameter in parameters],
            *([state[key] for state in states] for key in ("exp_avg", "exp_avg_sq", "step")),
            [group["lr"] for _, group in moving],
            [group["eps"] for _, group in moving],
            *self.defaults["betas"],
        )
        torch.autograd.graph.increment_version(parameters)  # a graph that needs their old values notices

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        return state


extension.register("adam_step", fake=lambda *_: None)
