"""Names of anchors, the configurations that the best trial of a study is compared with."""

from __future__ import annotations

from collections.abc import Iterable

from optuna.trial import FrozenTrial

from dropopt.study.store.keys import ANCHOR

#: The name of the anchor without dropout.
NO_DROPOUT = "no dropout"

#: Between the name of an anchor and the number of the trial whose settings of training it has: such an anchor is a
#: control. Those of other anchors are not tuned.
TRAINED_AS = ", trained as trial "


def first_anchors(trials: Iterable[FrozenTrial]) -> set[str]:
    """Return the names of the anchors with which a study begins; one that was run again has several trials."""
    names = {trial.user_attrs[ANCHOR] for trial in trials if ANCHOR in trial.user_attrs}
    return {name for name in names if not is_control(name)}


def is_control(name: str) -> bool:
    """Whether an anchor has the settings of training of another trial."""
    return TRAINED_AS in name


def without_dropout(name: str) -> bool:
    """Whether an anchor has no dropout."""
    return name.partition(TRAINED_AS)[0] == NO_DROPOUT
