"""The table of evidence: which trials of a study count, and which of them are kept."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest
from blend_study import NAMES, UNIT, random_study
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from dropopt.study.blend.gather import evidence_of, finished_trials, gather, names_in
from dropopt.study.blend.learned import export_evidence, learned
from dropopt.study.blend.names import NoBlendError
from dropopt.study.blend.outcomes import counted_trials
from dropopt.study.blend.surrogate import Surrogate


def test_order_does_not_matter() -> None:
    """The same trials in another order and with other numbers give a bit-identical posterior."""
    first = random_study(150, pruned=0.3)
    second = optuna.create_study()
    rows = first.get_trials()
    for index in np.random.default_rng(3).permutation(len(rows)):
        second.add_trial(rows[index])
    assert learned(first).efficacy == learned(second).efficacy
    tables = [gather(s.get_trials(), NAMES, maximise=False, limit=100) for s in (first, second)]
    assert (tables[0].blend == tables[1].blend).all()
    assert (Surrogate(tables[0]).weights == Surrogate(tables[1]).weights).all()


def test_gathering_keeps_the_best() -> None:
    """With a limit, half of the rows are the best by score, and scores are those among all trials."""
    trials = random_study(50, pruned=0.3).trials
    everything = gather(trials, NAMES, maximise=False)
    some = gather(trials, NAMES, maximise=False, limit=11)
    assert (len(everything), len(some)) == (50, 11)
    assert (some.trials, some.unit) == (50, everything.unit)
    assert 0 < everything.unit < math.inf
    position = {number: i for i, number in enumerate(everything.number.tolist())}
    rows = [position[number] for number in some.number.tolist()]
    for part in ("score", "value", "blend"):
        assert (getattr(some, part) == getattr(everything, part)[rows]).all()
    best = sorted(everything.score.tolist())[-5:]
    assert sorted(some.score.tolist())[-5:] == best
    assert min(some.score) == min(everything.score)
    assert some.columns == ("kind='a'", "lr")
    assert some.covariates.tolist() == everything.covariates[rows].tolist()
    assert len(gather(trials, NAMES, maximise=False, limit=50)) == 50
    assert (everything.weight == 1).all()
    mirrored = [
        create_trial(
            state=trial.state,
            value=None if trial.value is None else -trial.value,
            params=trial.params,
            distributions=trial.distributions,
            intermediate_values={step: -value for step, value in trial.intermediate_values.items()},
        )
        for trial in trials
    ]
    for trial, source in zip(mirrored, trials, strict=True):
        trial.number = source.number
    opposite = gather(mirrored, NAMES, maximise=True)
    for part in ("score", "value", "blend", "covariates"):
        np.testing.assert_array_equal(getattr(opposite, part), getattr(everything, part))


def test_evidence_of_a_study() -> None:
    """The direction, the names and the finished trials are read from the study unless given."""
    study = random_study(20, pruned=0.4)
    study.add_trial(create_trial(state=TrialState.FAIL))
    study.ask()
    assert len(finished_trials(study)) == 20
    assert names_in(finished_trials(study)) == NAMES
    table, direct = evidence_of(study), gather(study.trials, NAMES, maximise=False)
    assert table.score.tolist() == direct.score.tolist()
    assert evidence_of(study, trials=study.trials[:7], limit=5).trials == 7
    assert len(evidence_of(study, trials=study.trials[:7], limit=5)) == 5
    pair = (("w_pfid", "w_adaptive"),)
    assert evidence_of(study, pair).names == pair
    assert evidence_of(study, prior=export_evidence(study)).number.min() == -1
    high = optuna.create_study(direction="maximize")
    high.add_trials(study.trials[:20])
    assert evidence_of(high).score.tolist() == gather(study.trials, NAMES, maximise=True).score.tolist()
    several = optuna.create_study(directions=["minimize"] * 2)
    for function in (evidence_of, learned, export_evidence):
        with pytest.raises(NoBlendError):
            function(several)
    with pytest.raises(NoBlendError, match=r"^efficacy is learned for one objective, got a study with several$"):
        evidence_of(several, NAMES)


def test_the_first_finished_trial_of_a_chain_counts() -> None:
    """Complete before pruned, then the lowest number; running and failed trials, and other names, do not count."""

    def trial(number: int, state: TrialState, root: int | None = None, name: str = "a") -> optuna.trial.FrozenTrial:
        attrs = {} if root is None else {"failed_trial": root}
        value = 1.0 if state == TrialState.COMPLETE else None
        made = create_trial(
            state=state, value=value, params={name: 0.5}, distributions={name: UNIT}, system_attrs=attrs
        )
        made.number = number
        return made

    complete, pruned = TrialState.COMPLETE, TrialState.PRUNED
    rows = [
        trial(9, complete, 0),
        trial(0, TrialState.FAIL),
        trial(4, pruned, 0),
        trial(8, complete, 0),
        trial(7, pruned, 5),
        trial(6, pruned, 5),
        trial(3, pruned),
        trial(2, complete, name="other"),
        trial(1, TrialState.RUNNING),
    ]
    assert [one.number for one in counted_trials(rows, ["a", "b"])] == [8, 3, 6]


def test_distributions_of_choices_are_covariates() -> None:
    """A categorical parameter of a trial enters the table as one column for each choice that occurs."""
    study = optuna.create_study()
    kinds = CategoricalDistribution(["p", "q", "r"])
    for index, kind in enumerate("pqp"):
        study.add_trial(
            create_trial(
                value=float(index),
                params={"w_a": 0.5, "w_b": 0.1 * (index + 1), "kind": kind, "x": 0.1 * index},
                distributions={"w_a": UNIT, "w_b": UNIT, "kind": kinds, "x": FloatDistribution(0, 1)},
            )
        )
    table = evidence_of(study)
    assert table.names == (("w_a", "w_b"),)
    assert table.columns == ("kind='p'", "kind='q'", "x")
    assert table.covariates[table.number.argsort()].tolist() == [[1, 0, 0], [0, 1, 0.1], [1, 0, 0.2]]


def test_words_are_no_weights() -> None:
    """A parameter that holds words is no weight; a trial with a word in place of a weight is no evidence."""
    share, word = FloatDistribution(0, 1), CategoricalDistribution(["low", "high"])
    numbers = create_trial(params={"w_a": 0.3, "w_b": 0.9}, distributions={"w_a": share, "w_b": share}, value=1.0)
    mixed = create_trial(params={"w_a": "low", "w_b": 0.9}, distributions={"w_a": word, "w_b": share}, value=1.0)
    assert gather([numbers, mixed], names_in([numbers, mixed]), maximise=False).blend.tolist() == [[[0.25, 0.75]]]
    with pytest.raises(NoBlendError):
        names_in([mixed])
