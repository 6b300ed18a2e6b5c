"""What people and later studies get: effects, reports, exports and the best configurations."""

from __future__ import annotations

import json
import math

import numpy as np
import optuna
import pytest
from blend_study import NAMES, UNIT, random_study
from optuna.trial import TrialState, create_trial
from printed import printed
from random_evidence import table_of

from dropopt.config import METHODS, STAGES, ConfigError
from dropopt.study.blend import learned as module
from dropopt.study.blend.gather import gather
from dropopt.study.blend.learned import export_evidence, learned, preferred, top_configurations
from dropopt.study.blend.names import NoBlendError
from dropopt.study.blend.surrogate import Surrogate
from dropopt.study.show.efficacy import efficacy_report


def test_true_effects_are_found() -> None:
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


def test_report_and_data() -> None:
    """The report shows the verdict, all methods and the trajectory; the data are valid JSON without NaN."""
    study = random_study(40)
    text = printed(lambda console: console.print(efficacy_report(study)), 120)
    assert all(name in text for name in NAMES[0])
    assert "Preferred blend" in text
    data = json.loads(json.dumps(learned(study).as_dict(), allow_nan=False))
    assert [point["trials"] for point in data["trajectory"]] == [5, 10, 15, 20, 25, 30, 35, 40]
    with pytest.raises(NoBlendError, match="no blend in this study"):
        learned(optuna.create_study())


def test_a_report_by_stage_fits_the_terminal() -> None:
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
