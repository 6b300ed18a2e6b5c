"""What people read of the values of a study."""

import pytest

from dropopt.config import TaskConfig
from dropopt.study.store.scale import Scale

DICE = {"metric": "mine:dice", "direction": "maximize"}
WORST = {"metric": "mine:worst", "direction": "minimize"}


@pytest.mark.parametrize(
    ("task", "by", "expected"),
    [
        ({}, None, Scale("loss")),
        ({"objective": "metric"}, None, Scale("error")),
        ({}, "accuracy", Scale("error")),
        (DICE, None, Scale("loss")),
        (DICE, "accuracy", Scale("dice", maximise=True, complement=True)),
        (DICE | {"objective": "metric"}, None, Scale("dice", maximise=True, complement=True)),
        (DICE | {"objective": "metric"}, "loss", Scale("loss")),
        (WORST, "accuracy", Scale("worst")),
        (WORST | {"objective": "metric"}, None, Scale("worst")),
    ],
)
def test_values_are_shown_as_the_task_judges_them(task, by, expected):
    """Only a metric of which more is better is shown in place of what is minimised."""
    assert Scale.of_task(TaskConfig.parse(task), by) == expected


@pytest.mark.parametrize(("complement", "sign"), [(False, 1), (True, -1)])
def test_differences_and_intervals_keep_their_order_and_their_sign(complement, sign):
    """The lower end comes first, and what is shown of a difference is the difference of what is shown."""
    scale = Scale("dice", maximise=complement, complement=complement)
    low, high = 0.25, 0.375
    assert scale.interval(low, high) == tuple(sorted(map(scale.read, (low, high))))
    assert scale.change(low - high) == scale.read(low) - scale.read(high) == sign * -0.125
    assert scale.changes(-0.125, 0.5) == tuple(sorted(map(scale.change, (-0.125, 0.5))))
