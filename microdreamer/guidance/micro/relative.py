"""Where views stand to each other, told to attention itself: queries and keys meet in the frame of the key's camera.

A view's token at camera i looks at one at camera j through T_i T_j^-1, the pose of one camera seen from the other, applied to half of a
head's channels, four by four (GTA, Miyato et al. 2024, arXiv 2310.10375; PRoPE, Li et al. 2025, arXiv 2507.10496, where intrinsics join in,
which are the same for all of our views). It has no weights but a gate for each head, from the channels as they are to the channels as
turned: gates begin at 0, so that a network that was trained without it starts as what it was. With all gates at 1, turning all cameras
together changes nothing that views see of each other.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn


def view_poses(camera: Tensor) -> Tensor:
    """World-to-camera matrices [...,4,4] (OpenCV axes, lengths in distances of the camera) of `network.camera_features` [...,F].

    A reference of unknown elevation is taken to stand level, as its rays are.
    """
    sin_a, cos_a, sin_e = camera[..., 0], camera[..., 1], 0.5 * camera[..., 2]
    cos_e = (1 - sin_e.square()).clamp_min(0).sqrt()
    zero, one = torch.zeros_like(sin_a), torch.ones_like(sin_a)
    rows = (
        (cos_a, zero, -sin_a, zero),
        (sin_e * sin_a, -cos_e, sin_e * cos_a, zero),
        (-cos_e * sin_a, -sin_e, -cos_e * cos_a, one),
        (zero, zero, zero, one),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


@dataclasses.dataclass(frozen=True)
class Poses:
    """Poses of N views as attention applies them to c channels four by four: matrices [N,c,c] with the same block c/4 times.

    (One product with a block matrix is faster than many with its blocks.) Rows of channels are multiplied from the left.
    """

    of_queries: Tensor  # by the pose's transpose, as rows: x P
    of_keys: Tensor  # by the inverse
    of_results: Tensor  # by the pose

    @classmethod
    def of(cls, camera: Tensor, channels: int, dtype: torch.dtype) -> Poses:
        """Of `network.camera_features` [N,F]."""
        pose = view_poses(camera.float())
        rotation = pose[:, :3, :3].mT
        inverse = torch.cat([torch.cat([rotation, -rotation @ pose[:, :3, 3:]], dim=-1), pose[:, 3:]], dim=-2)
        return cls(*(_repeated(matrix, channels // 4).to(dtype) for matrix in (pose, inverse.mT, pose.mT)))


def _repeated(matrices: Tensor, times: int) -> Tensor:
    """Matrices [N,4,4] `times` times on a diagonal, [N,4t,4t]."""
    eye = torch.eye(times, device=matrices.device, dtype=matrices.dtype)
    return (eye[:, None, :, None] * matrices[:, None, :, None, :]).reshape(-1, 4 * times, 4 * times)


def turned(x: Tensor, matrices: Tensor) -> Tensor:
    """x [N,n,heads,c] times each view's matrix [N,c,c]."""
    return (x.flatten(1, 2) @ matrices.to(x.dtype)).view(x.shape)


class RelativeGates(nn.Module):
    """How much each head heeds relative poses, in what it looks for (`scores`) and in what it takes (`values`)."""

    def __init__(self, heads: int):
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(heads))
        self.values = nn.Parameter(torch.zeros(heads))

    def into_frames(self, query: Tensor, key: Tensor, value: Tensor, poses: Poses) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [N,n,heads,d], half of whose channels are turned so that views' frames meet."""
        gates = self.scores, self.scores, self.values
        matrices = poses.of_queries, poses.of_keys, poses.of_keys
        return tuple(map(_gated, (query, key, value), matrices, gates))

    def out_of_frames(self, seen: Tensor, poses: Poses) -> Tensor:
        """What attention brought to views [N,n,heads,d], in each view's own frame."""
        return _gated(seen, poses.of_results, self.values)


def _gated(x: Tensor, matrices: Tensor, gates: Tensor) -> Tensor:
    """x [N,n,heads,d] with the first c of its channels a part `gates` [heads] of the way to what matrices [N,c,c] make of them."""
    part, rest = x.split((matrices.shape[-1], x.shape[-1] - matrices.shape[-1]), dim=-1)
    return torch.cat([torch.lerp(part, turned(part, matrices), gates[:, None].to(x.dtype).expand_as(part)), rest], dim=-1)
