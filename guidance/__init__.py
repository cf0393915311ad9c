"""Diffusion priors behind one small interface, the noise schedule and the samplers."""

import torch

from guidance.base import PRIORS, Prior


def load_prior(name: str, path: str | None = None, device: torch.device | str = "cpu") -> Prior:
    """The prior called `name`, with the weights at `path` (None: the ones that ship or its public checkpoint).

    Raises ValueError for a name that is not in PRIORS, FileNotFoundError or ValueError for weights that do not load.
    """
    if name == "micro":
        from guidance.micro import MicroPrior

        return MicroPrior.load(path, device)
    raise ValueError(f"prior={name}: expected one of {', '.join(PRIORS)}")
