"""Fits a mesh's colours, and if wanted its vertices, to pictures of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from cam_utils import Cameras
from mesh_renderer import Fragments, MeshModel

MIN_FACING = 0.5  # cosine below which a pixel sees its surface too obliquely to tell its colour


def well_seen(model: MeshModel, camera: Cameras, mask: Tensor) -> Tensor:
    """Pixels [1,1,S,S] (bool) within a picture's mask [1,1,S,S] in which the surface faces its camera well enough to take their colour."""
    with torch.no_grad():
        _, _, cosine = model.geometry(camera, model.rasterize(camera))
    return (cosine > MIN_FACING) & (mask > 0.99)


class Target:
    """Pictures [V,3,S,S] that renders from `cameras` shall look like, with weights [V,1,S,S] or 1."""

    def __init__(self, cameras: Cameras, images: Tensor, weight: Tensor | float = 1.0, alpha: Tensor | None = None) -> None:
        self.cameras, self.images, self.weight, self.alpha = cameras, images, weight, alpha

    def loss(self, image: Tensor, alpha: Tensor) -> Tensor:
        """Mean squared difference of colours and, where known, coverage."""
        error = (self.weight * (image - self.images).square()).mean()
        return error if self.alpha is None else error + (alpha - self.alpha).square().mean()


def fit_surface(
    model: MeshModel, targets: Sequence[Target], steps: int, *, texture_lr: float, geom_lr: float = 0.0, background: float = 1.0
) -> Iterator[Tensor]:
    """Fit colours, and with a `geom_lr` above 0 vertices too, for `steps` steps of Adam; yields each step's loss, not read back.

    With vertices held still, what each pixel sees is found once for all steps.
    """
    moves = geom_lr > 0
    groups = [{"params": [model.color_logits], "lr": texture_lr}]
    if moves:
        groups.append({"params": [model.offsets], "lr": geom_lr})
    optimizer = torch.optim.Adam(groups, eps=1e-15, fused=True)
    still: list[Fragments] = []
    if not moves:
        with torch.no_grad():
            still = [model.rasterize(target.cameras) for target in targets]
    for _ in range(steps):
        seen = [model.rasterize(target.cameras) for target in targets] if moves else still
        loss = torch.stack([target.loss(*model.shade(f, background)) for target, f in zip(targets, seen, strict=True)]).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield loss.detach()
