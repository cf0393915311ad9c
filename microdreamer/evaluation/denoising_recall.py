"""Which sentence a diffusion prior takes renders to be of: recall that needs no network but the prior.

A conditional diffusion model predicts the noise in a picture best when it is told what the picture shows: "Your Diffusion Model is
Secretly a Zero-Shot Classifier" (Li et al., 2023). Renders are noised, and of several sentences the one under which the noise is
predicted with the smallest error is the prior's answer. All sentences see the same noise at the same levels.

A sentence that says little does well on any picture, and would be the answer to most of them. So a calibrated answer is given as well,
which asks for how much better a sentence does on these renders than on those of the other sentences.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cam_utils import Cameras
from microdreamer.guidance.base import Branch, Prior

SAME = 1e-6  # relative difference of two losses up to which it is the arithmetic's
TINY = 1e-30  # below any loss
LOWEST_LEVEL, HIGHEST_LEVEL = 0.2, 0.8  # shares of the schedule between which levels lie evenly


class Place(NamedTuple):
    """Of the right sentence among candidates: its rank, from 1, and recall, whether it is the first.

    Sentences that the prior reads alike have the same loss and share their places evenly: a rank may be 1.5, a recall 0.5.
    """

    rank: float
    recall: float


class Answer(NamedTuple):
    """What the prior says of one sentence's renders. loss, other_loss: means over levels of the right sentence's and the others' errors."""

    place: Place
    calibrated: Place
    loss: float
    other_loss: float


def answers_of(losses: Tensor, asked: int) -> list[Answer]:
    """Of the first `asked` of C sentences, by the losses [C,levels,C] of each one's renders under all of them.

    Logarithms are averaged over levels, so that all levels count alike. What is calibrated is the same less each candidate's mean over
    all renders.
    """
    scores = losses.clamp_min(TINY).log().mean(1)
    calibrated = scores - scores.mean(0)
    answers = []
    for index in range(asked):
        own = losses[index, :, index].mean()
        others = (losses[index].mean(0).sum() - own) / max(len(losses) - 1, 1)
        answers.append(Answer(_place(scores[index], index), _place(calibrated[index], index), float(own), float(others)))
    return answers


def _place(scores: Tensor, right: int) -> Place:
    """Of number `right` among scores [C], the lowest of which is first."""
    better = int((scores < scores[right] - SAME).sum())
    equal = int(((scores - scores[right]).abs() <= SAME).sum())
    return Place(1 + better + (equal - 1) / 2, 0.0 if better else 1 / equal)


def blocks_of(names: Sequence[str], candidates: int, seed: int) -> list[tuple[list[str], list[str]]]:
    """(who is asked about, these and further candidates) of blocks that together ask about each name once.

    Names are shuffled and cut, so that each is compared with `candidates` - 1 others by chance, and conditions are made once for each
    block. The last block is filled up with names from the first.
    """
    candidates = min(candidates, len(names))
    shuffled = sorted(names)
    random.Random(seed).shuffle(shuffled)
    blocks = []
    for first in range(0, len(shuffled), candidates):
        asked = shuffled[first : first + candidates]
        blocks.append((asked, asked + shuffled[: candidates - len(asked)]))
    return blocks


def levels_of(prior: Prior, count: int) -> list[int]:
    """`count` levels of the prior's schedule, evenly between two shares of it."""
    shares = torch.linspace(LOWEST_LEVEL, HIGHEST_LEVEL, count) if count > 1 else torch.tensor([(LOWEST_LEVEL + HIGHEST_LEVEL) / 2])
    return [round(share * (prior.schedule.timesteps - 1)) for share in shares.tolist()]


def conditions_of(prior: Prior, sentences: Sequence[str], batch: int) -> list[tuple[object, int]]:
    """Conditions of `batch` sentences each, and how many they hold. Raises ValueError for a sentence that the prior knows no word of."""
    chunks = [sentences[first : first + batch] for first in range(0, len(sentences), batch)]
    return [(prior.condition_each(chunk), len(chunk)) for chunk in chunks]


@torch.no_grad()
def candidate_losses(
    prior: Prior,
    pictures: Tensor,
    cameras: Cameras,
    conditions: Sequence[tuple[object, int]],
    levels: Sequence[int],
    draws: int,
    generator: torch.Generator,
) -> Tensor:
    """Mean squared errors of the predicted noise, [levels,C], of pictures [V,3,R,R] in [0,1] under each of C candidates.

    V is a multiple of `prior.views`; for each group of these, level and draw there is one noise, from `generator` (on the CPU). Raises
    ValueError for cameras that the prior was not made for.
    """
    prior.check_cameras(cameras)
    latents = prior.encode(pictures.to(prior.device), generator).float()
    rows = []
    for level in levels:
        total = torch.zeros(sum(count for _, count in conditions), dtype=torch.float64)
        for _ in range(draws):
            noise = torch.randn(latents.shape, generator=generator).to(latents)
            noisy = prior.schedule.add_noise(latents, noise, level)
            for first in range(0, len(latents), prior.views):
                group = slice(first, first + prior.views)
                total += torch.cat(list(_errors(prior, noisy[group], noise[group], cameras[group], conditions, level)))
        rows.append(total / (draws * len(latents) // prior.views))
    return torch.stack(rows)


def _errors(
    prior: Prior, noisy: Tensor, noise: Tensor, cameras: Cameras, conditions: Sequence[tuple[object, int]], level: int
) -> Iterator[Tensor]:
    for condition, count in conditions:
        repeated = cameras[torch.arange(len(noisy)).repeat(count).to(cameras.device)]
        (predicted,) = prior.predict_each([Branch(noisy.repeat(count, *[1] * (noisy.dim() - 1)), level)], repeated, condition)
        yield (predicted.unflatten(0, (count, -1)) - noise).square().flatten(1).mean(1).double().cpu()


def group_frames(frames: int, views: int, groups: int) -> list[list[int]]:
    """Numbers of frames of a film around an object, `groups` times `views` of them at even distances around it.

    Raises ValueError for a film whose frames do not divide among `views`.
    """
    if frames < views or frames % views:
        raise ValueError(f"{frames} frames around the object: expected a multiple of {views}, for views that stand evenly around it")
    apart = frames // views
    starts = [apart * group // groups for group in range(min(groups, apart))]
    return [[start + apart * view for view in range(views)] for start in starts]


def summary_of(answers: Mapping[str, Answer], candidates: int) -> dict[str, Any]:
    """Means over sentences, with what chance would give."""

    def mean(values: Iterable[float]) -> float:
        return sum(values) / len(answers)

    found: dict[str, Any] = {
        name: {
            "recall_at_1": mean(getattr(answer, field).recall for answer in answers.values()),
            "mean_rank": mean(getattr(answer, field).rank for answer in answers.values()),
        }
        for name, field in (("denoising", "place"), ("calibrated", "calibrated"))
    }
    found |= {
        "loss": mean(answer.loss for answer in answers.values()),
        "other_loss": mean(answer.other_loss for answer in answers.values()),
    }
    return found | {"candidates": candidates, "chance": 1 / candidates, "chance_rank": (candidates + 1) / 2}
