"""What a study optimises, in words."""

import optuna
import pytest

from dropopt.config import RunConfig
from dropopt.study.effects.objective import Objective, objective_of
from dropopt.study.store.experiment import name_metric
from dropopt.study.store.keys import BASE


@pytest.mark.parametrize(
    ("task", "direction", "names", "expected"),
    [
        ({}, "minimize", "val", Objective("loss")),
        ({"objective": "metric"}, "minimize", None, Objective("error")),
        ({"objective": "metric", "metric": "mine:dice"}, "minimize", None, Objective("1 - dice", metric="dice")),
        ({"objective": "metric", "metric": "mine:far", "direction": "minimize"}, "minimize", None, Objective("far")),
        # Studies of other programs.
        (None, "minimize", "rmse", Objective("rmse")),
        (None, "maximize", "dice", Objective("dice", maximise=True)),
        (None, "maximize", None, Objective("objective value", maximise=True)),
        ({}, "maximize", "dice", Objective("dice", maximise=True)),
    ],
)
def test_the_objective_of_a_study_has_the_name_of_what_it_stores(task, direction, names, expected):
    """By its task if dropopt made it; dropopt minimises. Otherwise by the name that its program gave, if any."""
    study = optuna.create_study(direction=direction)
    if names is not None:
        name_metric(study, names)
    if task is not None:
        study.set_user_attr(BASE, RunConfig.parse({"task": task}).model_dump(mode="json"))
    assert objective_of(study) == expected


@pytest.mark.parametrize(
    ("objective", "better", "in_units", "as_a_share"),
    [
        (Objective("loss"), True, "the loss is 12 lower", "the loss is 12 lower"),
        (Objective("score", maximise=True), True, "score is 12 higher", "score is 12 nearer to 0"),
        (Objective("score", maximise=True), False, "score is 12 lower", "score is 12 further below 0"),
        (Objective("1 - dice", metric="dice"), True, "dice is 12 higher", "the gap between dice and 1 is 12 smaller"),
    ],
)
def test_a_change_is_told_in_the_direction_of_the_objective(objective, better, in_units, as_a_share):
    """Values that are maximised have shares only if all are below 0."""
    assert objective.change("12", better=better, ratio=False) == in_units
    assert objective.change("12", better=better, ratio=True) == as_a_share
