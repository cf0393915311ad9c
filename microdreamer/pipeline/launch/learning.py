"""What all learners share: their face, optimisers, regularisers, and gradients that several processes share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cam_utils import Cameras
from microdreamer.core.transfer import send
from microdreamer.distillation import annealing
from microdreamer.generators.adan import Adan
from microdreamer.kernels.adam import Uncompiled
from microdreamer.kernels.hash_grid import HashGridSpec
from microdreamer.pipeline.launch.config import REGULARISERS, Geometry, LaunchConfig
from microdreamer.pipeline.launch.config import Optimizer as OptimizerConfig


class Learner(Protocol):
    """A representation and how it learns.

    `prepare` comes before a step and says whether something has moved in memory; `draw` gives the random numbers of a training render,
    which `render` takes; `update` follows the backward pass.
    """

    model: Any
    regularised: tuple[str, ...]  # the regularisers that ever count
    is_captured: bool  # whether its step should be a CUDA graph

    def prepare(self, step: int) -> bool: ...
    def draw(self, views: int, size: int) -> tuple[Tensor, ...]: ...
    def render(self, cameras: Cameras, background: Tensor | float | None, draws: Sequence[Tensor]) -> Any: ...
    def regularise(self, rendering: Any, weights: Tensor) -> Tensor: ...
    def update(self, rendering: Any) -> None: ...
    def state(self) -> dict[str, Any]: ...
    def load(self, state: Mapping[str, Any]) -> None: ...
    def load_model(self, state: Mapping[str, Any]) -> None: ...  # what is needed to use it, without what learns


def share_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace gradients by their means over all processes; nothing where there is one."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def counted_regularisers(config: LaunchConfig) -> tuple[str, ...]:
    """Those whose weight is ever above zero."""
    return tuple(name for name in REGULARISERS if getattr(config.system.loss, f"lambda_{name}") != 0)


def regularisation(names: Sequence[str], weights: Tensor, terms: Mapping[str, Callable[[], Tensor]]) -> Tensor:
    """The sum of the terms that `names` names, by `weights`, one for each of REGULARISERS."""
    return torch.stack([weights[REGULARISERS.index(name)] * terms[name]() for name in names]).sum()


class _Adam(Uncompiled, torch.optim.Adam):
    """PyTorch's; what only generates makes one and takes no step."""


class _AdamW(Uncompiled, torch.optim.AdamW):
    """PyTorch's."""


def make_optimizer(groups: Sequence[dict[str, Any]], settings: OptimizerConfig, device: torch.device) -> torch.optim.Optimizer:
    """The optimiser that the configuration names, of groups of parameters each with a learning rate; it can be captured."""
    betas = settings.beta1, settings.beta2
    if settings.type == "adan":
        return Adan(groups, betas=(*betas, settings.beta3), eps=settings.eps, weight_decay=settings.weight_decay)
    captured = device.type == "cuda"
    if settings.type == "adam":
        return _Adam(groups, betas=betas, eps=settings.eps, fused=True, capturable=captured)
    return _AdamW(groups, betas=betas, eps=settings.eps, weight_decay=settings.weight_decay, fused=True, capturable=captured)


class ModuleLearner:
    """What learners of a module share: its optimiser, and the state of both."""

    model: Any
    optimizer: torch.optim.Optimizer

    def learn(self, groups: list[dict[str, Any]], settings: OptimizerConfig, device: torch.device) -> None:
        """Make the optimiser of these groups of parameters, each with a learning rate."""
        self.optimizer = make_optimizer(groups, settings, device)
        self._parameters = [parameter for group in groups for parameter in group["params"]]

    def update(self, rendering: Any) -> None:
        share_gradients(self._parameters)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_model(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])

    def load(self, state: Mapping[str, Any]) -> None:
        self.load_model(state)
        self.optimizer.load_state_dict(with_numbers(state["optimizer"]))


def grid_of(geometry: Geometry) -> HashGridSpec:
    return HashGridSpec(
        levels=geometry.n_levels,
        features=geometry.n_features_per_level,
        log2_table_size=geometry.log2_hashmap_size,
        base_resolution=geometry.base_resolution,
        growth=geometry.per_level_scale,
    )


def with_numbers(state: Mapping[str, Any]) -> dict[str, Any]:
    """An optimiser's state whose parameters are numbered, as JSON knows only texts for keys."""
    groups = [group | {"betas": tuple(group["betas"])} for group in state["param_groups"]]
    return {"state": {int(index): dict(values) for index, values in state["state"].items()}, "param_groups": groups}


def weights_at(config: LaunchConfig, step: int, device: torch.device) -> Tensor:
    """The weights of REGULARISERS at a step."""
    loss = config.system.loss
    values = [annealing.value(getattr(loss, f"lambda_{name}"), step) for name in REGULARISERS]
    return send(torch.tensor(values, dtype=torch.float32), device)
