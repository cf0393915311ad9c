"""The picture that a run starts from, as one more view of the object."""

from __future__ import annotations

import dataclasses

import torch.nn.functional as F
from torch import Tensor

from cam_utils import Cameras


@dataclasses.dataclass(frozen=True)
class Reference:
    """The picture as one more view: its camera (a batch of one), colours on the background [1,3,S,S] and mask [1,1,S,S], in [0,1]."""

    camera: Cameras
    image: Tensor
    mask: Tensor


def on_white(rgba: Tensor) -> Tensor:
    """Pictures [B,3,H,W] on white, from straight RGBA [B,4,H,W], both in [0,1]."""
    return rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:]


def reference_view(picture: Tensor, camera: Cameras) -> Reference:
    """The RGBA picture [4,S,S] on white and its mask, at the size of `camera` (one view) and on its device."""
    rgba = picture[None].to(camera.device)
    white = on_white(rgba)
    size = (camera.height, camera.width)
    image, mask = (F.interpolate(layer, size, mode="bilinear", antialias=True).clamp(0, 1) for layer in (white, rgba[:, 3:]))
    return Reference(camera, image, mask)
