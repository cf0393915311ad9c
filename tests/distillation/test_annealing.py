"""Schedules as data: the values of the references, and of the kinds that they lack."""

import json
import math

import pytest

from microdreamer.distillation import annealing
from microdreamer.distillation.objective import DistillationSettings


def test_schedules_equal_the_reference(parity):
    golden = json.loads(parity("generators/schedules.json").read_text())
    for entry in golden["specs"]:
        for step, expected in zip(golden["steps"], entry["value"], strict=True):
            assert annealing.value(entry["spec"], step) == pytest.approx(expected, rel=1e-12, abs=1e-12), (entry["spec"], step)
    for entry in golden["exp"]:
        for step, expected in zip(golden["steps"], entry["value"], strict=True):
            assert annealing.value({"anneal": "exp", "points": entry["spec"]}, step) == pytest.approx(expected, rel=1e-9)


def test_windows_of_levels_equal_the_reference_exactly(parity):
    golden = json.loads(parity("generators/schedules.json").read_text())
    assert len(golden["step_windows"]) > 20
    for entry in golden["step_windows"]:
        settings = DistillationSettings(min_step_percent=entry["min_spec"], max_step_percent=entry["max_spec"])
        assert settings.window(1000, entry["step"]) == (entry["min_step"], entry["max_step"]), entry


def test_a_number_is_constant_and_three_begin_at_once():
    assert annealing.value(0.25, 0) == annealing.value(0.25, 10**6) == 0.25
    assert annealing.value([1.0, 3.0, 10], 5) == annealing.value([0, 1.0, 3.0, 10], 5) == 2.0


@pytest.mark.parametrize(
    ("anneal", "expected"),
    [("linear", [1, 1, 0.75, 0.5, 0, 0]), ("sqrt", [1, 1, 0.5, 1 - math.sqrt(0.5), 0, 0]), ("step", [1, 1, 1, 1, 0, 0])],
)
def test_each_kind_runs_its_own_way(anneal, expected):
    schedule = {"anneal": anneal, "points": [100, 1.0, 0.0, 500]}
    assert [annealing.value(schedule, step) for step in (0, 100, 200, 300, 500, 900)] == pytest.approx(expected)


def test_steps_of_several_values():
    schedule = {"anneal": "step", "points": [0, 1, 2, 10, 3, 20]}
    assert [annealing.value(schedule, step) for step in (0, 9, 10, 19, 20)] == [1, 1, 2, 2, 3]


def test_a_float_end_counts_epochs():
    assert annealing.value([0, 0.0, 1.0, 4.0], step=10**6, epoch=1) == 0.25
    assert annealing.value([0, 0.0, 1.0, 4], step=1, epoch=10**6) == 0.25


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ([1, 2], "expected a number, or"),
        ([0, 1, 2, 3, 4], "expected a number, or"),
        ([5, 1, 2, 5], "steps that rise"),
        ([0, 1, 2, 10, 3, 5.0], "steps that rise"),
        ([0, 1, 2, 3, 3, 5.0], "all as floats"),
        ("0.5", "expected numbers"),
        ([0, True, 2, 3], "expected numbers"),
        ([0, math.nan, 2, 3], "expected numbers"),
        ({"anneal": "cubic", "points": [0, 1, 2, 3]}, "linear, sqrt, step, exp"),
        ({"points": [0, 1, 2, 3]}, "linear, sqrt, step, exp"),
        ({"anneal": "exp", "points": [0, 0.0, 2, 3]}, "positive values"),
    ],
)
def test_what_is_no_schedule_is_refused_by_name(schedule, message):
    with pytest.raises(ValueError, match=message) as error:
        annealing.bounds("lambda_orient", schedule)
    assert str(error.value).startswith(f"lambda_orient={schedule}: ")


def test_milestones():
    assert [annealing.milestone([64, 256], [5000], step) for step in (0, 4999, 5000, 9000)] == [64, 64, 256, 256]
    assert annealing.milestone(64, [], 10) == 64
    for values, milestones in (([64], [5]), ([64, 128, 256], [9, 3])):
        with pytest.raises(ValueError, match="one value more"):
            annealing.milestone(values, milestones, 0)


def test_bounds_hold_every_value():
    schedule = {"anneal": "sqrt", "points": [0, 0.5, 0.9, 10, 0.1, 30]}
    assert annealing.bounds("weight", schedule) == (0.1, 0.9) and annealing.bounds("weight", 3) == (3, 3)
    values = [annealing.value(schedule, step) for step in range(40)]
    assert (min(values), max(values)) == pytest.approx((0.1, 0.9))


@pytest.mark.parametrize(("low", "high"), [(-0.1, 0.5), (0.5, 1.0), ([0, 0.5, 0.02, 10], [0, 0.98, 1.5, 10])])
def test_windows_past_the_levels_are_refused_before_the_run(low, high):
    with pytest.raises(ValueError, match=r"_step_percent=.*: expected fractions of the levels"):
        DistillationSettings(min_step_percent=low, max_step_percent=high)


def test_an_empty_window_is_refused():
    settings = DistillationSettings(min_step_percent=[0, 0.1, 0.9, 10], max_step_percent=0.5)
    assert settings.window(1000, 5) == (500, 500)
    with pytest.raises(ValueError, match=r"min_step_percent=0.58 at step 6: expected at most max_step_percent=0.5"):
        settings.window(1000, 6)
