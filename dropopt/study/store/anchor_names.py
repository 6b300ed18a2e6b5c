"""Names of anchors, the configurations that the best trial of a study is compared with."""

from __future__ import annotations

#: The name of the anchor without dropout.
NO_DROPOUT = "no dropout"

#: Between the name of an anchor and the number of the trial whose settings of training it has: such an anchor is a
#: control. Those of other anchors are not tuned.
TRAINED_AS = ", trained as trial "


def is_control(name: str) -> bool:
    """Whether an anchor has the settings of training of another trial."""
    return TRAINED_AS in name


def without_dropout(name: str) -> bool:
    """Whether an anchor has no dropout."""
    return name.partition(TRAINED_AS)[0] == NO_DROPOUT
