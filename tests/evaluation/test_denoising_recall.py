"""Recall by a prior: exact where the prior's errors are known, ties shared, everybody asked about once."""

import pytest
import torch
from toy_prior import ToyPrior, toy_noise

from cam_utils import orbit_cameras
from microdreamer.evaluation.denoising_recall import (
    answers_of,
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
    losses = torch.tensor([[[1.0, 2.0, 3.0], [1010.0, 1000.0, 1020.0]]], dtype=torch.float64).repeat(3, 1, 1)
    (answer,) = answers_of(losses, 1)
    assert answer.place == (1, 1) and answer.loss == pytest.approx(505.5) and answer.other_loss == pytest.approx(506.25)
    assert [found.place.rank for found in answers_of(losses, 3)] == [1, 2, 3]
    assert all(found.calibrated == (2, pytest.approx(1 / 3)) for found in answers_of(losses, 3))  # all renders are alike


def test_a_sentence_that_suits_everything_is_not_the_calibrated_answer():
    """Each sentence is best on its own renders, except the last, which is a tenth of the others' on all and no better on its own."""
    losses = torch.full((4, 2, 4), 1.0, dtype=torch.float64)
    for index in range(3):
        losses[index, :, index] = 0.5
    losses[:, :, 3] = 0.1
    answers = answers_of(losses, 4)
    assert [answer.place.recall for answer in answers] == [0, 0, 0, 1]
    assert [answer.calibrated.recall for answer in answers] == [1, 1, 1, 1]


def test_sentences_that_are_read_alike_share_their_places():
    losses = torch.tensor([2.0, 1.0, 1.0, 1.0 + 1e-9, 5.0], dtype=torch.float64).expand(5, 1, 5)
    answers = answers_of(losses, 5)
    assert [answer.place.rank for answer in answers] == [4, 2, 2, 2, 5]
    assert [answer.place.recall for answer in answers] == [0, pytest.approx(1 / 3), pytest.approx(1 / 3), pytest.approx(1 / 3), 0]


def test_a_prior_that_knows_nothing_is_at_chance():
    draw, answers = torch.Generator().manual_seed(1), {}
    for turn in range(250):
        found = answers_of(torch.rand(8, 3, 8, generator=draw, dtype=torch.float64), 8)
        answers |= {f"{turn} {index}": answer for index, answer in enumerate(found)}
    found = summary_of(answers, 8)
    for name in ("denoising", "calibrated"):
        assert found[name]["recall_at_1"] == pytest.approx(found["chance"], abs=0.025)
        assert found[name]["mean_rank"] == pytest.approx(found["chance_rank"], abs=0.2)
    alike = summary_of(dict(enumerate(answers_of(torch.ones(8, 3, 8, dtype=torch.float64), 8))), 8)
    assert alike["denoising"] == alike["calibrated"] == {"recall_at_1": 1 / 8, "mean_rank": 4.5}
    assert alike["chance"] == 1 / 8 and alike["chance_rank"] == 4.5


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
    assert levels_of(ToldPrior(), 4) == [200, 400, 599, 799] and levels_of(ToldPrior(), 1) == [500]
