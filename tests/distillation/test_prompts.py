"""What priors without cameras are told: names of directions and mixtures of sentences."""

import pytest
import torch
from conftest import DEVICES
from toy_prior import golden_cases

from cam_utils import orbit_cameras
from microdreamer.distillation import prompts
from microdreamer.guidance.directions import BACK, DIRECTIONS, FRONT, OVERHEAD, SIDE, Thresholds, directions

CONFIGURED = Thresholds(30.0, 30.0, 60.0)


@pytest.fixture(params=DEVICES)
def golden(parity, request):
    return golden_cases(parity("generators/prompt_directions.npz"), request.param)[0]


@pytest.fixture
def cameras(golden):
    return orbit_cameras(-golden["elevation_deg"], golden["azimuth_deg"], device=golden["azimuth_deg"].device)


def test_directions_equal_the_reference(golden, cameras):
    order = torch.tensor([SIDE, FRONT, BACK, OVERHEAD], device=cameras.device)  # in which the golden counts
    assert torch.equal(directions(cameras.elevation, cameras.azimuth, CONFIGURED), order[golden["direction_index"]])


def test_mixtures_equal_the_reference(golden, cameras):
    side, front, back, overhead = golden["emb_vd"].unbind(1)
    null = golden["emb_unvd"][3].expand(len(cameras), -1, -1)  # of overhead views, where both negatives are the null sentence
    sentences = torch.stack([null, front, side, back, overhead], dim=1)

    def mixed(rows):
        return torch.einsum("vk,vklc->vlc", rows, sentences)

    perp = prompts.perp_neg(cameras, -1.0, CONFIGURED)
    torch.testing.assert_close(mixed(perp.positive), golden["perp_pos"])
    negatives = torch.stack([mixed(rows) for rows in perp.negatives], dim=1).flatten(0, 1)
    torch.testing.assert_close(negatives, golden["perp_neg_interleaved"])
    torch.testing.assert_close(perp.weights, golden["perp_weights"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(mixed(prompts.view_words(cameras, CONFIGURED)), golden["view_dependent"][: len(cameras)])


def test_every_direction_has_its_sentence():
    cameras = orbit_cameras([0.0, 0, 0, 0, -80, 80], [0.0, 90, 180, -60, 0, 44.9])
    rows = prompts.view_words(cameras)
    assert [DIRECTIONS[int(row.argmax()) - 1].split()[0] for row in rows] == ["front", "side", "back", "side", "overhead", "front"]
    assert torch.equal(rows.sum(1), torch.ones(6)) and not rows[:, prompts.NULL_SENTENCE].any()


def test_thresholds_are_strict():
    assert directions(torch.zeros(4), torch.tensor([30.0, -29.9, 150.0, 150.1]), CONFIGURED).tolist() == [SIDE, FRONT, SIDE, BACK]
    assert directions(torch.tensor([-60.0, -60.1]), torch.zeros(2), CONFIGURED).tolist() == [FRONT, OVERHEAD]


def test_left_and_right_are_alike_and_mixtures_flow():
    azimuth = torch.arange(0.0, 180.0, 0.5)
    right, left = (prompts.perp_neg(orbit_cameras(-10.0, sign * azimuth)) for sign in (1, -1))
    torch.testing.assert_close(right.positive, left.positive)
    torch.testing.assert_close(right.weights, left.weights)
    torch.testing.assert_close(right.positive.sum(1), torch.ones(len(azimuth)))
    assert float(right.positive.diff(dim=0).abs().max()) < 0.01  # 0.5 degrees of 90, no jump at the side
    assert float(right.weights.max()) <= 0 and float(right.weights.min()) > -1


def test_nothing_is_negative_from_overhead():
    perp = prompts.perp_neg(orbit_cameras(-75.0, 130.0))
    assert perp.positive[0, 1 + OVERHEAD] == 1 and not perp.weights.any()
    assert all(rows[0, prompts.NULL_SENTENCE] == 1 for rows in perp.negatives)
