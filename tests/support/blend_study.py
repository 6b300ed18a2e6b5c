"""A study whose blend has known effects."""

from collections.abc import Iterable

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

NAMES = (("w_adaptive", "w_structured", "w_pfid"),)
UNIT = FloatDistribution(0, 1)


def random_study(
    count: int, effect: float = 1.0, seed: int = 0, *, shuffle: bool = False, pruned: float = 0.0
) -> optuna.Study:
    """A study in which w_structured helps, w_pfid harms and lr matters."""
    rng = np.random.default_rng(seed)
    blends = rng.dirichlet(np.ones(3), size=count)
    lr = 10 ** rng.uniform(-4, 0, size=count)
    values = effect * (blends[:, 2] - blends[:, 1]) + 0.2 * np.log10(lr) ** 2 / 4 + rng.normal(size=count) * 0.2
    if shuffle:
        values = rng.permutation(values)
    study = optuna.create_study()
    kinds = CategoricalDistribution(["a", "b"])
    for index in range(count):
        params = dict(zip(NAMES[0], blends[index].tolist(), strict=True)) | {"lr": float(lr[index]), "kind": "a"}
        distributions = dict.fromkeys(NAMES[0], UNIT) | {"lr": FloatDistribution(1e-4, 1, log=True), "kind": kinds}
        cut = rng.uniform() < pruned
        study.add_trial(
            create_trial(
                params=params,
                distributions=distributions,
                value=None if cut else float(values[index]),
                state=TrialState.PRUNED if cut else TrialState.COMPLETE,
                intermediate_values={0: float(values[index]) + 1.0},
            )
        )
    return study


def mirrored(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The trials with the negatives of their values and reports."""
    found = []
    for trial in trials:
        found.append(
            create_trial(
                state=trial.state,
                value=None if trial.value is None else -trial.value,
                params=trial.params,
                distributions=trial.distributions,
                intermediate_values={step: -value for step, value in trial.intermediate_values.items()},
            )
        )
        found[-1].number = trial.number
    return found
