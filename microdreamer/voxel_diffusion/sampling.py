"""New grids from noise: ancestral sampling (DDPM) and DDIM, over any of the schedule's levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from microdreamer.voxel_diffusion.denoiser import Denoiser, to_unit

METHODS = ("ddpm", "ddim")
BATCH = 16  # grids at a time


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    count: int,
    steps: int | None = None,
    method: str = METHODS[0],
    eta: float = 0.0,
    levels: Sequence[int] | None = None,
    batch: int = BATCH,
    generator: torch.Generator | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """`count` grids [count,n,n,n] float32 of 0..1 on the CPU.

    steps: how many levels are visited, evenly from T-1 down (None: all T); `levels` names them instead, for a network that was
    trained on some only. `ddpm` draws from the posterior of the predicted clean grid (Ho et al. 2020, equation 7), `ddim` is Song et
    al. (2021) with `eta`. The clean grid is clamped to -1..1 at every step. `on_step(done, total)` is called after each step.
    Raises ValueError for an unknown method, eta outside [0, 1], or steps and levels that the schedule does not have.
    """
    schedule, size = denoiser.schedule, denoiser.network.config.size
    if method not in METHODS:
        raise ValueError(f"method={method}: expected one of {', '.join(METHODS)}")
    if not 0 <= eta <= 1:
        raise ValueError(f"eta={eta}: expected 0 (deterministic) to 1 (ancestral)")
    if count < 1 or batch < 1:
        raise ValueError(f"count={count}, batch={batch}: expected at least 1")
    chosen = sorted(set(schedule.levels(schedule.timesteps if steps is None else steps) if levels is None else levels))
    if not chosen or chosen[0] < 0 or chosen[-1] >= schedule.timesteps:
        raise ValueError(f"levels: expected at least one of 0 to {schedule.timesteps - 1}")
    total, done, grids = -(-count // batch) * len(chosen), 0, []
    for start in range(0, count, batch):
        shape = (min(batch, count - start), 1, size, size, size)

        def noise(shape=shape) -> Tensor:
            return torch.randn(shape, generator=generator, device=denoiser.device)

        x = noise()
        for t, t_next in zip(reversed(chosen), [*reversed(chosen[:-1]), -1], strict=True):
            x0 = denoiser.predict_x0(x, t)
            if t_next < 0:
                x = x0
            elif method == "ddpm":
                mean, variance = schedule.posterior(x, x0, t, t_next)
                x = mean + variance**0.5 * noise()
            else:
                x = schedule.step(x, schedule.predict_noise(x, x0, t), t, t_next, eta, noise() if eta else None)
            done += 1
            if on_step:
                on_step(done, total)
        grids.append(to_unit(x).cpu())
    return torch.cat(grids)
