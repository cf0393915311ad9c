"""Muon and Adam on one flat parameter vector: a step is a few dozen kernels, none of which waits for the host."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Quintic Newton-Schulz coefficients that drive singular values to about 1 in five steps (Jordan et al. 2024, Muon).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Roughly the nearest semi-orthogonal matrix to each of `matrices` [k, m, n]; computed in bfloat16 on a GPU."""
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon takes this parameter: weights inside the network, not embeddings, modulation or the two ends."""
    outside = ("text.words", "text.places", "places_", "modulate_", "noise_in", "camera_in", "stem", "head", "geometry_head")
    return parameter.ndim >= 2 and not name.startswith(outside)


def matrix_shape(name: str, parameter: Tensor) -> tuple[int, int, int]:
    """(count, rows, columns) of the matrices in a weight: fused query, key and value maps count apart, a convolution is one."""
    rows, columns = parameter.shape[0], parameter[0].numel()
    parts = 3 if "qkv" in name else 2 if "text_kv" in name else 1
    return parts, rows // parts, columns


class FlatOptimiser:
    """Moves a network's parameters and gradients into flat buffers and steps them: Muon for matrices, Adam for the rest.

    `rates` is a device tensor (Muon's learning rate, Adam's, EMA's weight of the new parameters, Adam's bias corrections
    1/(1-b1^t), 1/(1-b2^t)) that the host refills before each step, so that a captured step follows the schedule. Muon's
    update is scaled to Adam's root mean square (0.2 sqrt(max(m, n)), Liu et al. 2025), so both take rates of one size.
    """

    MOMENTUM = 0.95
    BETAS = (0.9, 0.98)

    def __init__(self, network: nn.Module, weight_decay: float, clip_norm: float):
        self.weight_decay, self.clip_norm = weight_decay, clip_norm
        named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        shapes = {name: matrix_shape(name, p)[1:] for name, p in named if is_matrix(name, p)}
        named.sort(key=lambda item: (item[0] not in shapes, shapes.get(item[0], ()), item[0]))
        self.names = [name for name, _ in named]
        self.shapes = [p.shape for _, p in named]
        total = sum(p.numel() for _, p in named)
        device = named[0][1].device
        self.flat = torch.empty(total, device=device)
        self.gradient = torch.zeros(total, device=device)
        self.groups: list[tuple[slice, tuple[int, int]]] = []  # neighbours of one matrix shape, as a slice of the flat vector
        offset = 0
        for name, p in named:
            part = slice(offset, offset + p.numel())
            self.flat[part] = p.detach().reshape(-1)
            p.data = self.flat[part].view(p.shape)
            p.grad = self.gradient[part].view(p.shape)
            if name in shapes:
                if self.groups and self.groups[-1][1] == shapes[name]:
                    self.groups[-1] = slice(self.groups[-1][0].start, part.stop), shapes[name]
                else:
                    self.groups.append((part, shapes[name]))
            offset = part.stop
        self.rest = slice(self.groups[-1][0].stop if self.groups else 0, total)
        self.momentum = torch.zeros(self.rest.start, device=device)
        self.first = torch.zeros(total - self.rest.start, device=device)
        self.second = torch.zeros_like(self.first)
        self.average = self.flat.clone()
        self.rates = torch.zeros(5, device=device)
        self.gradient_norm = torch.zeros((), device=device)

    def set_rates(self, muon: float, adam: float, step: int, ema: float) -> None:
        """Rates of step `step` (from 1): queued to the device, without waiting."""
        corrections = [1 / (1 - beta**step) for beta in self.BETAS]
        host = torch.tensor([muon, adam, 1 - min(ema, (1 + step) / (10 + step)), *corrections])
        self.rates.copy_(host.pin_memory() if self.rates.is_cuda else host, non_blocking=True)

    @torch.no_grad()
    def step(self) -> None:
        """One update from `gradient`, which is cleared; then the moving average."""
        muon_rate, adam_rate, fresh, correct1, correct2 = self.rates.unbind()
        self.gradient_norm.copy_(self.gradient.norm())
        self.gradient.mul_((self.clip_norm / (self.gradient_norm + 1e-6)).clamp(max=1.0))

        head = self.gradient[: self.rest.start]
        self.momentum.lerp_(head, 1 - self.MOMENTUM)
        nesterov = torch.lerp(head, self.momentum, self.MOMENTUM)
        for part, (rows, columns) in self.groups:
            update = orthogonalise(nesterov[part].view(-1, rows, columns)) * (0.2 * max(rows, columns) ** 0.5)
            weight = self.flat[part].view(-1, rows, columns)
            weight.mul_(1 - muon_rate * self.weight_decay).sub_(update * muon_rate)

        tail, weight = self.gradient[self.rest], self.flat[self.rest]
        self.first.lerp_(tail, 1 - self.BETAS[0])
        self.second.lerp_(tail.square(), 1 - self.BETAS[1])
        weight.sub_(adam_rate * (self.first * correct1) / ((self.second * correct2).sqrt() + 1e-8))

        self.average.lerp_(self.flat, fresh)
        self.gradient.zero_()

    STATE = ("flat", "average", "momentum", "first", "second")

    def state(self) -> dict[str, Tensor]:
        """All that steps carry over (the buffers themselves); rates are the caller's."""
        return {name: getattr(self, name) for name in self.STATE}

    @torch.no_grad()
    def set_state(self, state: dict[str, Tensor]) -> None:
        """Copy what `state` returned into the buffers. Raises ValueError where it is of another network."""
        for name, buffer in self.state().items():
            if name not in state or state[name].shape != buffer.shape:
                found = list(state[name].shape) if name in state else "nothing"
                raise ValueError(f"optimiser state: {name} should be {list(buffer.shape)}, found {found}; it is another network's")
        for name, buffer in self.state().items():
            buffer.copy_(state[name])

    def averaged_state(self) -> dict[str, Tensor]:
        """The moving average, by parameter name (copies)."""
        offset, state = 0, {}
        for name, shape in zip(self.names, self.shapes, strict=True):
            count = shape.numel()
            state[name] = self.average[offset : offset + count].view(shape).clone()
            offset += count
        return state
