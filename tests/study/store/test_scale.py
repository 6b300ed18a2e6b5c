"""What people read of the values of a study."""

import optuna
import pytest

from dropopt.config import TaskConfig
from dropopt.study.store.experiment import name_metric
from dropopt.study.store.keys import BASE, CLASSES
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


@pytest.mark.parametrize(
    ("directions", "names", "attributes", "expected"),
    [
        (["minimize"], None, {}, Scale("value")),
        (["maximize"], None, {}, Scale("value", maximise=True)),
        (["maximize"], ["F1"], {}, Scale("F1", maximise=True)),
        (["minimize", "maximize"], None, {}, Scale("values")),
        (["minimize", "maximize"], ["loss", "F1"], {}, Scale("loss, F1")),
        (["minimize"], ["error (smoothed)"], {CLASSES: 3}, Scale("loss")),
        (["minimize"], None, {BASE: {"task": DICE | {"objective": "metric"}}}, Scale("dice", True, True)),
    ],
)
def test_values_of_a_study_are_named_as_it_names_them(directions, names, attributes, expected):
    """Or by its task, if it is one of dropopt."""
    study = optuna.create_study(directions=directions)
    if names:
        study._storage.set_study_system_attr(study._study_id, "study:metric_names", names)
    for key, value in attributes.items():
        study.set_user_attr(key, value)
    assert Scale.of(study) == expected


def test_how_a_scale_is_told():
    """What is stored of it, which values are better, and a column beside one of the same name."""
    loss, dice = Scale("loss"), Scale("dice", maximise=True, complement=True)
    assert [(one.stored, one.way) for one in (loss, dice)] == [
        ("loss", "lower is better"),
        ("1 - dice", "higher is better"),
    ]
    assert (loss.heading("accuracy"), loss.heading("loss"), dice.heading("dice")) == (
        "loss",
        "loss (smoothed)",
        "dice (smoothed)",
    )
    study = optuna.create_study()
    name_metric(study, "cost")
    assert (study.metric_names, Scale.of(study)) == (["cost"], Scale("cost"))
