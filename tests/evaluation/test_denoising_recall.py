"""Recall by a prior: exact where the prior's errors are known, ties shared, everybody asked about once."""

import pytest
import torch
from toy_prior import ToyPrior, toy_noise

from cam_utils import orbit_cameras
from microdreamer.evaluation.denoising_recall import (
    answer_of,
    blocks_of,
    candidate_losses,
    conditions_of,
    group_frames,
    levels_of,
    summary_of,
)
from microdreamer.guidance.base import CONDITIONAL, NULL


class ToldPrior(ToyPrior):
    """ToyPrior whose sentence is a number, what its network is told."""

    def condition_each(self, prompts, negative_prompt=None):
        return torch.tensor([float(prompt) for prompt in prompts])[:, None, None].expand(-1, 2, 3)

    def predict_each(self, branches, cameras, condition):
        rows = condition.repeat_interleave(len(cameras) // len(condition), dim=0)
        return super().predict_each(branches, cameras, {NULL: rows, CONDITIONAL: rows})


CAMERAS = orbit_cameras(-15, [0.0, 90, 180, 270, 45, 135, 225, 315], 2.0, width=8, height=8)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_losses_are_the_errors_of_the_predicted_noise(batch):
    """By the formula itself, one view, level and sentence at a time; in whatever batches."""
    prior, told, levels = ToldPrior(), ["0.1", "-1", "0.7", "2", "0"], [100, 600]
    pictures = torch.rand(8, 3, 8, 8)
    found = candidate_losses(prior, pictures, CAMERAS, conditions_of(prior, told, batch), levels, 2, torch.Generator().manual_seed(5))
    draws = torch.Generator().manual_seed(5)
    for row, level in zip(found, levels, strict=True):
        noises = [torch.randn(pictures.shape, generator=draws) for _ in range(2)]
        for loss, word in zip(row, told, strict=True):
            errors = []
            for noise in noises:
                for view in range(8):
                    noisy = prior.schedule.alpha(level) ** 0.5 * pictures[view] + (1 - prior.schedule.alpha(level)) ** 0.5 * noise[view]
                    answer = toy_noise(noisy[None], torch.tensor([level]), torch.full((1, 2, 3), float(word)))[0]
                    errors.append((answer - noise[view]).square().mean())
            assert float(loss) == pytest.approx(float(torch.stack(errors).mean()), rel=1e-5)


def test_every_level_counts_alike():
    """The second level's losses are a thousand times larger, and the first decides all the same."""
    answer = answer_of(torch.tensor([[1.0, 2.0, 3.0], [1010.0, 1000.0, 1020.0]], dtype=torch.float64), 0)
    assert answer.rank == 1 and answer.recall == 1
    assert answer.loss == pytest.approx(505.5) and answer.other_loss == pytest.approx(506.25)


def test_sentences_that_are_read_alike_share_their_places():
    losses = torch.tensor([[2.0, 1.0, 1.0, 1.0 + 1e-9, 5.0]], dtype=torch.float64)
    assert [answer_of(losses, index).rank for index in range(5)] == [4, 2, 2, 2, 5]
    assert [answer_of(losses, index).recall for index in range(5)] == [
        0,
        pytest.approx(1 / 3),
        pytest.approx(1 / 3),
        pytest.approx(1 / 3),
        0,
    ]


def test_a_prior_that_knows_nothing_is_at_chance():
    draw = torch.Generator().manual_seed(1)
    answers = {str(k): answer_of(torch.rand(3, 8, generator=draw, dtype=torch.float64), k % 8) for k in range(2000)}
    found = summary_of(answers, 8)
    assert found["recall_at_1"] == pytest.approx(found["chance"], abs=0.025) and found["mean_rank"] == pytest.approx(4.5, abs=0.2)
    alike = summary_of({str(k): answer_of(torch.ones(3, 8, dtype=torch.float64), k) for k in range(8)}, 8)
    assert alike["recall_at_1"] == found["chance"] == 1 / 8 and alike["mean_rank"] == alike["chance_rank"] == 4.5


@pytest.mark.parametrize(("count", "candidates"), [(10, 4), (8, 4), (3, 4), (9, 8), (2, 2)])
def test_everybody_is_asked_about_once_among_as_many(count, candidates):
    names = [f"n{k}" for k in range(count)]
    blocks = blocks_of(names, candidates, 0)
    assert sorted(name for asked, _ in blocks for name in asked) == sorted(names)
    for asked, told in blocks:
        assert told[: len(asked)] == asked and len(set(told)) == len(told) == min(count, candidates)
    assert blocks_of(names[::-1], candidates, 0) == blocks  # whatever order they come in
    assert count < 9 or blocks_of(names, candidates, 1) != blocks


def test_groups_stand_evenly_around_the_object():
    assert group_frames(120, 4, 2) == [[0, 30, 60, 90], [15, 45, 75, 105]]
    assert group_frames(4, 4, 2) == [[0, 1, 2, 3]]
    assert group_frames(5, 1, 2) == [[0], [2]]
    for frames in (0, 2, 6):
        with pytest.raises(ValueError, match=f"{frames} frames .* expected a multiple of 4"):
            group_frames(frames, 4, 1)


def test_levels_lie_evenly_within_the_schedule():
    assert levels_of(ToldPrior(), 4) == [200, 433, 666, 899] and levels_of(ToldPrior(), 1) == [549]
