"""The pictures that a run starts from, as more views of the object."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cam_utils import Cameras, concatenate


class PosedPicture(NamedTuple):
    """A picture of the object, straight RGBA [4,S,S] in [0,1], and where its camera stands, in degrees as of `cam_utils`."""

    picture: Tensor
    elevation: float = 0.0
    azimuth: float = 0.0


@dataclasses.dataclass(frozen=True)
class Reference:
    """R pictures as more views: their cameras (a batch of R), colours on the background [R,3,S,S] and masks [R,1,S,S], in [0,1]."""

    camera: Cameras
    image: Tensor
    mask: Tensor

    def each(self) -> list[Reference]:
        """One view at a time."""
        return [Reference(self.camera[index], self.image[index, None], self.mask[index, None]) for index in range(len(self.camera))]

    def resized(self, size: int) -> Reference:
        """The same views with fewer pixels, `size` a side, each the mean of those that it covers."""
        image, mask = (F.interpolate(layer, (size, size), mode="area") for layer in (self.image, self.mask))
        return Reference(self.camera.resized(size, size), image, mask)


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


def reference_views(pictures: Sequence[PosedPicture], cameras: Cameras) -> Reference | None:
    """The pictures as views from `cameras`, one for each; None without any."""
    if not pictures:
        return None
    views = [reference_view(one.picture, cameras[index]) for index, one in enumerate(pictures)]
    layers = ([getattr(view, name) for view in views] for name in ("image", "mask"))
    return Reference(concatenate([view.camera for view in views]), *(torch.cat(layer) for layer in layers))
