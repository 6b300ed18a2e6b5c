"""Names of trials: of anchors, with which the best trial of a study is compared, and of entries of a portfolio."""

from __future__ import annotations

from collections.abc import Iterable

from optuna.trial import FrozenTrial

from dropopt.numbers import short
from dropopt.study.store.keys import ANCHOR, PORTFOLIO

#: The name of the anchor without dropout.
NO_DROPOUT = "no dropout"

#: Between the name of an anchor and the number of the trial whose settings of training it has: such an anchor is a
#: control. Those of other anchors are not tuned.
TRAINED_AS = ", trained as trial "


def name_of(trial: FrozenTrial) -> str:
    """Return the name of an anchor, or that of an entry of a portfolio with its dropout; empty for other trials.

    Example:
        >>> from optuna.trial import create_trial
        >>> trial = create_trial(value=0.5, user_attrs={"portfolio": "portfolio 3"})
        >>> trial.params = {"pattern": "own", "r0": 0.2, "lr": 0.1}
        >>> name_of(trial)
        'portfolio 3: own patterns, r0 0.2'
    """
    known, values = trial.user_attrs, trial.params
    if ANCHOR in known or PORTFOLIO not in known:
        return str(known.get(ANCHOR, ""))
    kinds = [values[name] for name in ("pattern", "kind") if name in values]
    rates = [(name, values[name]) for name in ("r0", "p") if name in values]
    parts = ["own patterns" if kind == "own" else str(kind) for kind in kinds]
    parts += [f"{name} {short(rate) if isinstance(rate, float) else rate}" for name, rate in rates]
    return f"{known[PORTFOLIO]}: {', '.join(parts)}" if parts else str(known[PORTFOLIO])


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
