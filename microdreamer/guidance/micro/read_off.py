"""Points of an object read off what the prior tells of its views: what one pass knows of the shape."""

from __future__ import annotations

import torch
from torch import Tensor

from cam_utils import Cameras, unproject
from microdreamer.guidance.micro.network import Surfaces

COVERED = 0.5  # least coverage of a pixel that shows a surface


def points_of(colours: Tensor, surfaces: Surfaces, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Where covered pixels lie in the world [P,3], and their colours [P,3] in [0,1].

    colours [V,3,R,R], of the views or of their albedo, and `surfaces`, as `MicroPrior.predict_surfaces` tells them of `cameras`.
    """
    size = colours.shape[-1]
    view, row, column = (surfaces.coverage[:, 0] > COVERED).nonzero(as_tuple=True)
    centres = torch.stack([column, row], dim=1) + 0.5
    seen_by = cameras.resized(size, size)
    points = unproject(
        seen_by, view, centres.to(seen_by.intrinsics.dtype), surfaces.depth[view, 0, row, column].to(seen_by.intrinsics.dtype)
    )
    return points, colours[view, :, row, column].clamp(0, 1)
