"""Controls: anchors that are trained as the best trial is, so that they differ from it in dropout alone.

An anchor is trained in the middle of the ranges of the learning rate and the other settings of training, while those of
the best trial are tuned. Late in a study, the anchor without dropout and the best anchor with dropout are therefore
tried once more, with the best trial's settings of training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from dropopt.config import RunConfig
from dropopt.study.define.parameter import Choice
from dropopt.study.define.space import Space
from dropopt.study.search.anchors import anchors_of
from dropopt.study.store.anchor_names import TRAINED_AS, is_control, without_dropout
from dropopt.study.store.keys import ANCHOR, CONFIG
from dropopt.study.store.queries import leader, ranked
from dropopt.study.store.trial_budget import budget_used

#: A study of fewer trials has no controls, because few of its trials tune the settings of training.
MIN_TRIALS = 20

#: The share of the trials of a study after which the controls come.
DUE = 0.75


def enqueue_due_controls(
    study: optuna.Study, before: int, target: int, *, space: Space, base: RunConfig, classes: int
) -> None:
    """Enqueue the controls if they are due, those that the study does not have or has from its first half only.

    Args:
        study: The study.
        before: How much of the budget was used before the trial that has just started.
        target: The number of trials of the study.
        space: Its search space.
        base: The configuration that all trials share.
        classes: The number of classes of the data.
    """
    if target < MIN_TRIALS or not math.ceil(DUE * target) <= before < target - 2:
        return
    trials = study.get_trials(deepcopy=False)
    controls = [trial for trial in trials if is_control(trial.user_attrs.get(ANCHOR, ""))]
    recent = [trial for trial in controls if budget_used(trials[: trial.number]) >= target // 2]
    known = {without_dropout(trial.user_attrs[ANCHOR]) for trial in recent}
    if len(known) == 2:
        return
    for name, parameters in controls_of(study, trials, space, base, classes).items():
        if without_dropout(name) not in known:  # a process that was killed may have enqueued the first one only
            study.enqueue_trial(parameters, user_attrs={ANCHOR: name}, skip_if_exists=True)


def controls_of(
    study: optuna.Study, trials: Sequence[FrozenTrial], space: Space, base: RunConfig, classes: int
) -> dict[str, dict[str, Choice]]:
    """Return the parameters of each control by its name: no dropout, and the best anchor with dropout.

    There are none without a best trial, or if the study has no anchors. One that cannot have the best trial's settings
    of training is left out: a value that was enqueued may be outside of its range, and a space may search a setting of
    training for some kinds of dropout only.
    """
    best = leader(study, trials)
    anchors = [trial.user_attrs[ANCHOR] for trial in ranked(trials) if ANCHOR in trial.user_attrs]
    if best is None or CONFIG not in best.user_attrs or not anchors:
        return {}
    train = best.user_attrs[CONFIG]["train"]
    tuned = {
        name: parameters
        for name, parameters in anchors_of(space, base, classes, train).items()
        if _has(space.resolve(parameters, base), train, space)
    }
    nothing = [name for name in tuned if without_dropout(name)]
    dropping = [name for name in anchors if name in tuned and not without_dropout(name)]
    return {f"{name}{TRAINED_AS}{best.number}": tuned[name] for name in nothing + dropping[:1]}


def _has(run: RunConfig, train: Mapping[str, Any], space: Space) -> bool:
    """Whether a configuration has the searched settings of ``train``."""
    searched = {one.setting for one in space.parameters if one.section == "train"}
    pairs = [(getattr(run.train, setting), train.get(setting)) for setting in searched]
    return all(
        math.isclose(own, given) if isinstance(own, float) and isinstance(given, float) else own == given
        for own, given in pairs
    )
