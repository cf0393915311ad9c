"""Fits a mesh's colours, and if wanted its vertices, to pictures of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from cam_utils import Cameras
from microdreamer.core.cuda_graphs import GraphedStep
from microdreamer.kernels.adam import Adam
from microdreamer.meshes.model import Fragments, MeshModel

QUIET_ERROR = 0.3  # of colours in [0,1]: below, texels move in proportion; Adam's full steps would turn rounding into speckle
MIN_FACING = 0.5  # cosine below which a pixel sees its surface too obliquely to tell its colour


def well_seen(model: MeshModel, camera: Cameras, mask: Tensor) -> Tensor:
    """Pixels [1,1,S,S] (bool) within a picture's mask [1,1,S,S] in which the surface faces its camera well enough to take their colour."""
    with torch.no_grad():
        _, _, cosine = model.geometry(camera, model.rasterize(camera))
    return (cosine > MIN_FACING) & (mask > 0.99)


class Target:
    """Pictures [V,3,S,S] that renders from `cameras` should look like, with weights [V,1,S,S] or 1."""

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
    # The gradient of a texel's logit at mid grey, where one pixel of one view shows the texel and errs by QUIET_ERROR.
    quiet_gradient = 0.5 * QUIET_ERROR / targets[0].images.numel()
    groups = [{"params": [model.color_logits], "lr": texture_lr, "eps": quiet_gradient}]
    if moves:
        groups.append({"params": [model.offsets], "lr": geom_lr, "eps": 1e-15})
    optimizer = Adam(groups)
    still: list[Fragments] = []
    if not moves:
        with torch.no_grad():
            still = [model.rasterize(target.cameras) for target in targets]

    def step() -> Tensor:
        seen = [model.rasterize(target.cameras) for target in targets] if moves else still
        loss = torch.stack([target.loss(*model.shade(f, background)) for target, f in zip(targets, seen, strict=True)]).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    graphed = GraphedStep(step, model.device)
    for _ in range(steps):
        yield graphed()
