"""From trials to the table of evidence, and what people and later studies get from it."""

import json
import math
from dataclasses import asdict

import numpy as np
import optuna
import pytest
from blend_study import NAMES, UNIT, mirrored, random_study
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial
from printed import printed
from random_evidence import table_of

from dropopt.config import METHODS, STAGES, ConfigError
from dropopt.study.blend import learned as module
from dropopt.study.blend.effects import learn
from dropopt.study.blend.gather import evidence_of, finished_trials, gather, names_in
from dropopt.study.blend.learned import export_evidence, learned, preferred, top_configurations
from dropopt.study.blend.names import NoBlendError
from dropopt.study.blend.outcomes import counted_trials
from dropopt.study.blend.surrogate import Surrogate
from dropopt.study.show.efficacy import efficacy_report


def test_order_does_not_matter():
    """The same trials in another order and with other numbers give a bit-identical posterior."""
    trials, second = random_study(150, pruned=0.3).get_trials(), optuna.create_study()
    second.add_trials([trials[index] for index in np.random.default_rng(3).permutation(len(trials))])
    one, other = (gather(rows, NAMES, maximise=False, limit=100) for rows in (trials, second.get_trials()))
    assert (one.blend == other.blend).all()
    assert (Surrogate(one).weights == Surrogate(other).weights).all()
    assert learn(one) == learn(other)


def test_gathering_keeps_the_best():
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
    assert sorted(some.score.tolist())[-5:] == sorted(everything.score.tolist())[-5:]
    assert min(some.score) == min(everything.score)
    assert some.columns == ("kind='a'", "lr")
    assert some.covariates.tolist() == everything.covariates[rows].tolist()
    assert len(gather(trials, NAMES, maximise=False, limit=50)) == 50
    assert (everything.weight == 1).all()
    opposite = gather(mirrored(trials), NAMES, maximise=True)
    for part in ("score", "value", "blend", "covariates"):
        np.testing.assert_array_equal(getattr(opposite, part), getattr(everything, part))


def test_evidence_of_a_study():
    """The direction, the names and the finished trials are read from the study unless given."""
    study = random_study(20, pruned=0.4)
    study.add_trial(create_trial(state=TrialState.FAIL))
    study.ask()
    assert len(finished_trials(study)) == 20
    assert names_in(finished_trials(study)) == NAMES
    assert evidence_of(study).score.tolist() == gather(study.trials, NAMES, maximise=False).score.tolist()
    some = evidence_of(study, trials=study.trials[:7], limit=5)
    assert (some.trials, len(some)) == (7, 5)
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


def test_the_first_finished_trial_of_a_chain_counts():
    """Complete before pruned, then the lowest number; running and failed trials, and other names, do not count."""

    complete, pruned = TrialState.COMPLETE, TrialState.PRUNED

    def trial(number, state, root=None, name="a"):
        facts = {"params": {name: 0.5}, "distributions": {name: UNIT}}
        facts["system_attrs"] = {} if root is None else {"failed_trial": root}
        made = create_trial(state=state, value=1.0 if state == complete else None, **facts)
        made.number = number
        return made

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


def test_words_are_no_weights():
    """A parameter that holds words is no weight; a trial with a word in place of a weight is no evidence."""
    word = CategoricalDistribution(["low", "high"])
    numbers = create_trial(params={"w_a": 0.3, "w_b": 0.9}, distributions={"w_a": UNIT, "w_b": UNIT}, value=1.0)
    mixed = create_trial(params={"w_a": "low", "w_b": 0.9}, distributions={"w_a": word, "w_b": UNIT}, value=1.0)
    numbers.number, mixed.number = 0, 1  # of two trials with one number, only the first counts
    assert gather([numbers, mixed], names_in([numbers, mixed]), maximise=False).blend.tolist() == [[[0.25, 0.75]]]
    with pytest.raises(NoBlendError):
        names_in([mixed])


def test_true_effects_are_found():
    """The intervals of a helpful and of a harmful method exclude 0 on the correct sides."""
    found = learned(random_study(60))
    effects = {effect.name: effect for effect in found.efficacy.methods[0]}
    assert effects["w_structured"].sign == 1
    assert effects["w_pfid"].sign == -1
    assert effects["w_structured"].best > 0.95
    assert found.preferred["w_structured"] > 0.8
    assert "w_structured is best" in found.efficacy.verdict
    assert found.efficacy.matters > 0.99
    assert found.efficacy.caution == ""


def test_a_report_by_stage_fits_the_terminal():
    """Five methods in three stages give one table of blends for each stage; no heading is truncated at 80 columns."""
    study, rng = optuna.create_study(), np.random.default_rng(0)
    names = [f"w_{method}_{stage}" for stage in STAGES for method in METHODS]
    shares = dict.fromkeys(names, UNIT)
    for value in range(12):
        params = dict(zip(names, rng.uniform(size=len(names)).tolist(), strict=True))
        study.add_trial(create_trial(params=params, distributions=shares, value=float(value)))
    text = printed(lambda console: console.print(efficacy_report(study)), 80)
    assert all(f"Preferred blend, {stage} (too few trials to rely on)" in text for stage in STAGES)
    assert text.count("w_contextual ") >= 3
    assert "\u2026" not in text.partition("Preferred blend")[2]


def test_the_preferred_blend(monkeypatch):
    """The maximum of the posterior mean in each stage, rounded to 3 digits, beats a fine grid."""
    table = table_of(30, stages=2)
    found = preferred(table)
    mean = Surrogate(table).mean()
    grid = np.random.default_rng(5).dirichlet(np.ones(3), size=3000)
    for stage, names in enumerate(table.names):
        shares = np.array([found[name] for name in names])
        assert shares == pytest.approx(np.round(shares, 3), abs=0)
        assert shares.sum() == pytest.approx(1, abs=0.002)
        heights = mean(grid, stage)
        assert mean(shares[None], stage)[0] > heights.max() - 0.02 * np.ptp(heights)
    assert list(found) == [name for stage in table.names for name in stage]
    drawn = []
    monkeypatch.setattr(module, "climb", lambda *given: drawn.append(given) or np.zeros(3))
    preferred(table)
    for stage, (_, at, incumbents, legal, rng) in enumerate(drawn):  # one seed for all, so that it is reproducible
        assert (at, rng.random()) == (stage, np.random.default_rng(0).random())
        assert (incumbents == Surrogate(table).best(stage, 8)).all()
        assert legal(grid, stage) is grid


def test_what_is_learned(monkeypatch):
    """Effects are of all trials, the trajectory of at most eight prefixes with four rows each."""
    study, tables, real = random_study(30), [], module.evidence_of
    monkeypatch.setattr(module, "evidence_of", lambda *a, **k: tables.append(k.get("limit")) or real(*a, **k))
    found = learned(study)
    assert [trials for trials, _ in found.trajectory] == [7, 11, 15, 18, 22, 26, 30]
    assert found.trajectory[-1][1] == found.preferred == preferred(gather(study.trials, NAMES, maximise=False))
    assert found.trajectory[1][1] == preferred(gather(study.trials[:11], NAMES, maximise=False))
    assert found.efficacy.trials == 30
    assert tables == [None] + [100] * 8
    few = learned(random_study(3))
    assert (few.preferred, few.trajectory) == ({}, ())
    assert learned(random_study(4)).trajectory[-1][0] == 4
    with_other = learned(random_study(3), prior=export_evidence(study))
    assert with_other.preferred
    assert with_other.efficacy.trials == 3
    assert with_other.efficacy.matters != few.efficacy.matters == 0.5
    with pytest.raises(NoBlendError, match="no blend in this study"):
        learned(optuna.create_study())


def test_what_is_learned_as_data():
    """Valid JSON: no number in it is NaN."""
    found = learned(random_study(11))
    data, effects = json.loads(json.dumps(found.as_dict(), allow_nan=False)), found.efficacy
    assert data == {
        **{key: getattr(effects, key) for key in ("verdict", "thin", "trials", "matters", "unit")},
        "methods": [[asdict(effect) for effect in effects.methods[0]]],
        "synergies": [[asdict(effect) for effect in effects.pairs[0]]],
        "preferred": found.preferred,
        "trajectory": [{"trials": trials, "blend": blend} for trials, blend in found.trajectory],
    }
    assert effects.methods[0][0].name == "w_adaptive"
    assert learned(random_study(1)).as_dict()["unit"] is None


def test_exports_are_limited():
    """An export has at most 200 rows, and names may be given."""
    study = random_study(210)
    assert len(export_evidence(study)["rows"]) == 200
    assert export_evidence(study, (("w_pfid", "w_adaptive"),))["names"] == [["w_pfid", "w_adaptive"]]


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_top_configurations_by_hand(direction):
    """Feasible trials first, then by value, then by number; no duplicates and no infinite value."""
    study = optuna.create_study(direction=direction)

    def add(value, rate, constraint=None, state=TrialState.COMPLETE):
        facts = {"params": {"r": rate}, "distributions": {"r": UNIT}, "state": state}
        facts["system_attrs"] = {} if constraint is None else {"constraints:c": constraint}
        study.add_trial(create_trial(value=value if direction == "minimize" else -value, **facts))

    add(3.0, 0.3)
    add(1.0, 0.1, constraint=0.5)
    add(2.0, 0.2, constraint=0.0)
    add(2.0, 0.25, constraint=-1.0)
    add(0.0, 0.3, constraint=2.0)
    add(-math.inf, 0.9)
    add(9.0, 0.2)
    add(0.0, 0.05)
    add(4.0, 0.6)
    add(-9.0, 1.0, state=TrialState.PRUNED)
    order = [0.05, 0.2, 0.25, 0.3, 0.6, 0.1]
    assert [one["r"] for one in top_configurations(study, 9)] == order
    assert [one["r"] for one in top_configurations(study, 2)] == order[:2]
    assert len(top_configurations(study)) == 5
    with pytest.raises(ConfigError, match=r"^top configurations need one objective, got a study with several$"):
        top_configurations(optuna.create_study(directions=["minimize"] * 2))
