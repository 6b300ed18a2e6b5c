"""Exported tables and priors by hand, and the table that is gathered from trials."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest
from blend_study import NAMES, UNIT, random_study
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial
from random_evidence import table_of

from dropopt.config import ConfigError
from dropopt.study.blend import learned as module
from dropopt.study.blend.gather import evidence_of, finished_trials, gather, names_in
from dropopt.study.blend.learned import export_evidence, learned, preferred, top_configurations
from dropopt.study.blend.names import BLEND, NoBlendError, blend_names, suggested_blend
from dropopt.study.blend.outcomes import counted_trials
from dropopt.study.blend.surrogate import Surrogate
from dropopt.study.blend.transfer import exported, imported, with_prior

AB = (("a", "b"),)


def prior(count: int = 3, columns: tuple[str, ...] = ("q",), **changed: Any) -> dict[str, Any]:
    rows = [
        {"blend": [[(i + 1) / (count + 1), 1 - (i + 1) / (count + 1)]], "score": float(i), "covariates": [i * 10.0]}
        for i in range(count)
    ]
    return {"names": [["a", "b"]], "columns": list(columns), "rows": rows} | changed


def test_export_by_hand() -> None:
    """The study's own rows, rounded to 6 digits, with null for an absent covariate."""
    table = replace(
        table_of(2, methods=2),
        names=AB,
        blend=np.array([[[1 / 3, 2 / 3]], [[0.5, 0.5]]]),
        score=np.array([0.12345678, -1.0]),
        covariates=np.array([[1234567.8, math.nan], [1.0, 2.0]]),
        columns=("p", "q"),
    )
    row = {"blend": [[0.333333, 0.666667]], "score": 0.123457, "covariates": [1234570.0, None]}
    other = {"blend": [[0.5, 0.5]], "score": -1.0, "covariates": [1.0, 2.0]}
    assert exported(table) == {"names": [["a", "b"]], "columns": ["p", "q"], "rows": [row, other]}
    assert exported(replace(table, number=np.array([-1, 5])))["rows"] == [other]
    again = imported(json.loads(json.dumps(exported(table))), AB)
    assert again.blend == pytest.approx(table.blend, abs=1e-6)
    np.testing.assert_allclose(again.covariates, table.covariates, rtol=1e-5)
    assert again.score.tolist() == again.value.tolist() == [0.123457, -1.0]
    assert (again.weight.tolist(), again.number.tolist(), again.trials) == ([1, 1], [-1, -1], 0)
    assert (again.names, again.columns) == (AB, ("p", "q"))


def test_import_keeps_usable_rows() -> None:
    """Shares are those of the study's names; rows without any, or without a finite score, are left out."""
    given = prior(4)
    given["rows"][1]["blend"] = [[0.0, 1.0]]
    given["rows"][2]["score"] = math.inf
    given["rows"][3]["covariates"] = [None]
    found = imported(given, (("a", "c"),))
    assert found.blend.tolist() == [[[1.0, 0.0]], [[1.0, 0.0]]]
    assert found.score.tolist() == [0.0, 3.0]
    np.testing.assert_array_equal(found.covariates, [[0.0], [math.nan]])
    assert imported(prior(0), AB).covariates.shape == (0, 1)


@pytest.mark.parametrize(
    "changed",
    [
        {"rows": [{"blend": [[0.5]], "score": 0.0, "covariates": [0.0]}]},
        {"rows": [{"blend": [[0.5, 0.5], [1, 0]], "score": 0.0, "covariates": [0.0]}]},
        {"rows": [{"blend": [[0.5, 0.5]], "score": "high", "covariates": [0.0]}]},
        {"rows": [{"blend": [[0.5, 0.5]], "score": 0.0, "covariates": [0.0, 1.0]}]},
        {"rows": [{"blend": [[0.5, 0.5]], "score": 0.0}]},
        {"rows": 5},
        {"names": None},
    ],
)
def test_an_invalid_prior_is_refused(changed: dict[str, Any]) -> None:
    """Any table that does not have the shape of an export raises one error, which says what is expected."""
    with pytest.raises(
        ConfigError, match=r"^a prior must be a dictionary from export_evidence, got an invalid one: \w+Error\("
    ):
        imported(prior(**changed), AB)


def test_a_prior_about_other_names() -> None:
    """A prior that shares no name with the study is an error that names both."""
    with pytest.raises(ConfigError, match=r"^the prior is about a, b, but this study searches c, d$"):
        imported(prior(), (("c", "d"),))


@pytest.mark.parametrize(("trials", "rows", "weight"), [(0, 20, 0.5), (0, 3, 1.0), (90, 4, 0.25), (90, 100, 1 / 40)])
def test_a_prior_is_appended(trials: int, rows: int, weight: float) -> None:
    """Its rows follow the study's, with a total weight of 100 / (10 + t), at most 1 each and 40 rows.

    Columns are the union of both, NaN where one has none.
    """
    table = replace(table_of(5, methods=2), names=AB, trials=trials, unit=3.0, columns=("p", "r"))
    found = with_prior(table, prior(rows))
    used = min(rows, 40)
    assert len(found) == 5 + used
    assert found.weight[:5].tolist() == table.weight.tolist()
    assert found.weight[5:] == pytest.approx(weight)
    assert found.columns == ("p", "q", "r")
    assert found.covariates[:5, [0, 2]].tolist() == table.covariates.tolist()
    assert np.isnan(found.covariates[:5, 1]).all()
    assert np.isnan(found.covariates[5:, [0, 2]]).all()
    scores = found.score[5:]
    assert (found.covariates[5:, 1] == scores * 10).all()
    assert found.value[5:].tolist() == scores.tolist()
    expected = [99 - i for i in range(20)] + [int(x) for x in 79 - np.linspace(0, 79, 20).astype(int)]
    assert scores.tolist() == (expected if rows == 100 else list(range(rows)))
    assert found.blend[5:, 0, 0] == pytest.approx((scores + 1) / (rows + 1))
    assert found.number.tolist() == [*range(5), *[-1] * used]
    assert (found.names, found.trials, found.unit) == (AB, trials, 3.0)
    for part in ("blend", "score", "value"):
        assert (getattr(found, part)[:5] == getattr(table, part)).all()
    assert with_prior(table, prior(0)) is table
    ties = prior(100)
    for row in ties["rows"]:
        row["score"] %= 3
    order = sorted(range(100), key=lambda i: -ties["rows"][i]["score"])
    kept = order[:20] + [order[20 + i] for i in np.linspace(0, 79, 20).astype(int)]
    assert with_prior(table, ties).covariates[5:, 1].tolist() == [10.0 * i for i in kept]


def test_gathering_keeps_the_best() -> None:
    """With a limit, half of the rows are the best by score, and scores are those among all trials."""
    trials = random_study(50, pruned=0.3).trials
    everything = gather(trials, NAMES, maximise=False)
    some = gather(trials, NAMES, maximise=False, limit=11)
    assert (len(everything), len(some)) == (50, 11)
    assert (some.trials, some.unit) == (50, everything.unit)
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


def test_the_preferred_blend(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_what_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Effects are of all trials, the trajectory of at most eight prefixes with four rows each."""
    study = random_study(30)
    tables = []
    real = module.evidence_of
    monkeypatch.setattr(module, "evidence_of", lambda *a, **k: tables.append((a, k)) or real(*a, **k))
    found = learned(study)
    assert [trials for trials, _ in found.trajectory] == [7, 11, 15, 18, 22, 26, 30]
    assert found.trajectory[-1][1] == found.preferred == preferred(gather(study.trials, NAMES, maximise=False))
    assert found.trajectory[1][1] == preferred(gather(study.trials[:11], NAMES, maximise=False))
    assert found.efficacy.trials == 30
    assert [call[1].get("limit") for call in tables] == [None] + [100] * 8
    few = learned(random_study(3))
    assert (few.preferred, few.trajectory) == ({}, ())
    assert learned(random_study(4)).trajectory[-1][0] == 4
    with_other = learned(random_study(3), prior=export_evidence(study))
    assert with_other.preferred
    assert with_other.efficacy.trials == 3
    assert with_other.efficacy.matters != few.efficacy.matters == 0.5
    data = found.as_dict()
    assert set(data) == {
        "verdict", "thin", "trials", "matters", "unit", "methods", "synergies", "preferred", "trajectory",
    }  # fmt: skip
    effects = found.efficacy
    assert [data[key] for key in ("verdict", "thin", "trials", "matters", "unit")] == [
        getattr(effects, key) for key in ("verdict", "thin", "trials", "matters", "unit")
    ]
    first, pair = effects.methods[0][0], effects.pairs[0][0]
    assert data["methods"][0][0] == {k: getattr(first, k) for k in ("name", "mean", "low", "high", "best")}
    assert data["synergies"][0][0]["name"] == pair.name
    assert data["trajectory"][0] == {"trials": 7, "blend": found.trajectory[0][1]}
    assert learned(random_study(1)).as_dict()["unit"] is None


def test_exports_are_limited() -> None:
    """An export has at most 200 rows, and names may be given."""
    study = random_study(210)
    assert len(export_evidence(study)["rows"]) == 200
    assert export_evidence(study, (("w_pfid", "w_adaptive"),))["names"] == [["w_pfid", "w_adaptive"]]


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_top_configurations_by_hand(direction: str) -> None:
    """Feasible trials first, then by value, then by number; no duplicates and no infinite value."""
    sign = 1 if direction == "minimize" else -1
    study = optuna.create_study(direction=direction)
    rows: list[tuple[float, float, float | None]] = [
        (3.0, 0.3, None),
        (1.0, 0.1, 0.5),
        (2.0, 0.2, 0.0),
        (2.0, 0.25, -1.0),
        (0.0, 0.3, 2.0),
        (-math.inf, 0.9, None),
        (9.0, 0.2, None),
        (0.0, 0.05, None),
        (4.0, 0.6, None),
    ]
    for value, rate, constraint in rows:
        attrs = {} if constraint is None else {"constraints:c": constraint}
        study.add_trial(
            create_trial(value=sign * value, params={"r": rate}, distributions={"r": UNIT}, system_attrs=attrs)
        )
    study.add_trial(create_trial(state=TrialState.PRUNED, value=-9.0, params={"r": 1.0}, distributions={"r": UNIT}))
    order = [0.05, 0.2, 0.25, 0.3, 0.6, 0.1]
    assert [one["r"] for one in top_configurations(study, 9)] == order
    assert [one["r"] for one in top_configurations(study, 2)] == order[:2]
    assert len(top_configurations(study)) == 5
    several = optuna.create_study(directions=["minimize"] * 2)
    with pytest.raises(ConfigError, match=r"^top configurations need one objective, got a study with several$"):
        top_configurations(several)


def test_names_in_detail() -> None:
    """Suffixes are appended in order; errors show what was given; one shared weight does not hide the others."""
    assert blend_names(["a", "b"], ["x", "y"]) == (("a_x", "b_x"), ("a_y", "b_y"))
    for wrong in (["a"], ["a", "a"], [["a", "b"], ["c"]], [["a", "b"], ["b", "c"]], []):
        with pytest.raises(ConfigError) as error:
            blend_names(wrong)
        assert str(error.value) == (
            f"blend must be two or more different names, the same number in each stage, got {wrong!r}"
        )
    early = [f"{name}_{stage}" for stage in ("early", "middle", "late") for name in BLEND[:2]]
    assert suggested_blend([BLEND[0], *early]) == tuple(zip(early[::2], early[1::2], strict=True))
    assert suggested_blend([BLEND[1], "w_zz"]) == ((BLEND[1], "w_zz"),)
    with pytest.raises(NoBlendError) as missing:
        suggested_blend(["lr"])
    assert str(missing.value) == "no blend in this study: its trials suggest fewer than two of the weights w_*"


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
