"""What a prior without cameras is told of each view: sentences by direction, mixed and weighed against each other.

Such a condition holds K = 5 sentences: the negative prompt, then the prompt with each of `DIRECTIONS`. Everything here is rows of K weights
with which a view mixes their states, as tensors beside the cameras, so that nothing waits for a GPU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cam_utils import Cameras
from microdreamer.guidance.directions import BACK, FRONT, OVERHEAD, SIDE, THRESHOLDS, Thresholds, around, directions

# The negative prompt of MVDream's and ScaleDreamer's configurations.
NEGATIVE_PROMPT = (
    "ugly, bad anatomy, blurry, pixelated obscure, unnatural colors, poor lighting, dull, and unclear, cropped, lowres, low quality, "
    "artifacts, duplicate, morbid, mutilated, poorly drawn face, deformed, dehydrated, bad proportions"
)

SENTENCES = 5
NULL_SENTENCE = 0

# f(r) = a exp(-b r) + c, by which the weights of negative directions fall: Perp-Neg (arXiv 2304.04968), section 4.3, with the numbers
# of the published configurations. Rows: front against side, side against front; side against back; front against what is behind.
FRONT_SIDE = (4.0, 0.5, -2.426)
SIDE_BACK = (1.0, 0.5, -0.606)
FRONT_BACK = (1.0, 0.5, 0.967)


class PerpNeg(NamedTuple):
    """What views [V] are told for `asd.perp_neg`: rows [V,K] that mix sentences, and what the negative directions weigh."""

    positive: Tensor
    negatives: tuple[Tensor, Tensor]
    weights: Tensor  # [V,2]


def view_words(cameras: Cameras, thresholds: Thresholds = THRESHOLDS) -> Tensor:
    """Each view told the sentence of its direction: rows [V,K] with a single 1."""
    return _rows(directions(cameras.elevation, cameras.azimuth, thresholds))


def perp_neg(cameras: Cameras, guidance_perp_neg: float = -0.5, thresholds: Thresholds = THRESHOLDS) -> PerpNeg:
    """Sentences of neighbouring directions mixed by azimuth, and the directions that a view is not to look like.

    Between front and side, both of these are negative; behind the side, side and front. From overhead nothing is. The weights are those of
    the paper times -guidance_perp_neg (so not above 0 for a strength of -0.5).
    """
    away, overhead = around(cameras.azimuth), directions(cameras.elevation, cameras.azimuth, thresholds) == OVERHEAD
    ahead = away < 90
    r = torch.where(ahead, 1 - away / 90, 2 - away / 90)
    near, far = _rows(torch.where(ahead, FRONT, SIDE)), _rows(torch.where(ahead, SIDE, BACK))
    positive = torch.lerp(far, near, r[:, None])
    above, null = _rows(torch.full_like(away, OVERHEAD, dtype=torch.long)), torch.zeros_like(near)
    null[:, NULL_SENTENCE] = 1
    negatives = (near, _rows(torch.where(ahead, SIDE, FRONT)))
    weights = torch.where(
        ahead[:, None],
        torch.stack([_decay(FRONT_SIDE, r), _decay(FRONT_SIDE, 1 - r)], dim=1),
        torch.stack([_decay(SIDE_BACK, r), _decay(FRONT_BACK, r)], dim=1),
    )
    is_above = overhead[:, None]
    return PerpNeg(
        torch.where(is_above, above, positive),
        tuple(torch.where(is_above, null, negative) for negative in negatives),
        torch.where(is_above, 0.0, guidance_perp_neg * weights),
    )


def _rows(direction: Tensor) -> Tensor:
    """Directions [V] as rows of weights [V,K]."""
    return (torch.arange(SENTENCES, device=direction.device) == direction[:, None] + 1).float()


def _decay(numbers: tuple[float, float, float], r: Tensor) -> Tensor:
    a, b, c = numbers
    return a * torch.exp(-b * r) + c
