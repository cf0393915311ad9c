"""Gaussian models of the tests' own making, and how the golden file calls their parameters."""

import math

import torch

from microdreamer.gaussians.model import PARAMETERS, GaussianModel

GOLDEN_NAMES = {"means": "xyz", "sh_dc": "features_dc", "sh_rest": "features_rest", "log_scales": "scaling", "quaternions": "rotation"}


def golden_parameters(golden, prefix, names=GOLDEN_NAMES, opacity="opacity"):
    parameters = {name: torch.from_numpy(golden[f"{prefix}.{theirs}"]) for name, theirs in names.items()}
    return parameters | {"opacity_logits": torch.from_numpy(golden[f"{prefix}.{opacity}"])[:, 0]}


def random_model(count=40, sh_degree=0, seed=0, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    model = GaussianModel.initial_ball(count, 0.5, sh_degree, generator)
    with torch.no_grad():
        for name in PARAMETERS:
            parameter = getattr(model, name)
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.to(device)


def solid_ball(radius=0.4, spacing=0.05):
    """Gaussians on a lattice inside a ball, so wide that their density is even; coloured by position."""
    axis = torch.arange(-12, 13) * spacing
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    points = points[points.norm(dim=1) <= radius]
    model = GaussianModel.from_points(points, points + 0.5)
    with torch.no_grad():
        model.log_scales.fill_(math.log(0.8 * spacing))
        model.opacity_logits.fill_(0.0)
    plateau = 0.5 * (2 * math.pi) ** 1.5 * 0.8**3  # opacity * integral of a Gaussian / volume of a lattice cell
    return model, plateau
