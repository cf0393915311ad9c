"""Adan, the optimiser that ScaleDreamer trains its largest generators with.

Xie et al., "Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models" (2022), algorithm 1. The betas are decay
rates, as Adam's are: one minus the paper's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from microdreamer.kernels.adam import Uncompiled


class Adan(Uncompiled, torch.optim.Optimizer):
    """With gradients g and their changes d = g - last g (zero in the first step), means m of g, v of d and n of (g + b2 d)^2,

        parameter -= lr (m / (1 - b1^k) + b2 v / (1 - b2^k)) / (sqrt(n / (1 - b3^k)) + eps),

    then, with `weight_decay` w, is divided by 1 + lr w. Raises ValueError for a setting out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if len(betas) != 3 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas={betas}: expected three numbers from 0 to below 1")
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            if not value >= 0:
                raise ValueError(f"{name}={value}: expected a number of at least 0")
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step of all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_count: dict[int, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_count.setdefault(self._state_of(parameter)["step"], []).append(parameter)
            for count, parameters in by_count.items():
                self._update(group, parameters, count + 1)
        return loss

    def _state_of(self, parameter: Tensor) -> dict[str, Any]:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            for name in ("mean", "mean_change", "mean_square"):
                state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["last"] = parameter.grad.clone(memory_format=torch.preserve_format)
        return state

    def _update(self, group: dict[str, Any], parameters: list[Tensor], count: int) -> None:
        """Parameters that take their `count`-th step."""
        b1, b2, b3 = group["betas"]
        states = [self.state[parameter] for parameter in parameters]
        mean, mean_change, mean_square, last = (
            [state[name] for state in states] for name in ("mean", "mean_change", "mean_square", "last")
        )
        gradients = [parameter.grad for parameter in parameters]
        change = torch._foreach_sub(gradients, last)
        torch._foreach_lerp_(mean, gradients, 1 - b1)
        torch._foreach_lerp_(mean_change, change, 1 - b2)
        ahead = torch._foreach_add(gradients, change, alpha=b2)
        torch._foreach_mul_(mean_square, b3)
        torch._foreach_addcmul_(mean_square, ahead, ahead, value=1 - b3)
        torch._foreach_copy_(last, gradients)

        size = torch._foreach_sqrt(mean_square)
        torch._foreach_div_(size, (1 - b3**count) ** 0.5)
        torch._foreach_add_(size, group["eps"])
        torch._foreach_addcdiv_(parameters, mean, size, value=-group["lr"] / (1 - b1**count))
        torch._foreach_addcdiv_(parameters, mean_change, size, value=-group["lr"] * b2 / (1 - b2**count))
        if group["weight_decay"]:
            torch._foreach_div_(parameters, 1 + group["lr"] * group["weight_decay"])
        for state in states:
            state["step"] = count
