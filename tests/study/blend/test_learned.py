"""What people and later studies get: effects, reports, exports and the best configurations."""

from __future__ import annotations

import io
import json

import numpy as np
import optuna
import pytest
from blend_study import NAMES, UNIT, random_study
from optuna.trial import create_trial
from rich.console import Console

from dropopt.config import METHODS, STAGES
from dropopt.study.blend.gather import gather
from dropopt.study.blend.learned import export_evidence, learned, top_configurations
from dropopt.study.blend.names import NoBlendError
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
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(efficacy_report(study))
    text = console.export_text()
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
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(efficacy_report(study))
    text = console.export_text()
    assert all(f"Preferred blend, {stage} (too few trials to rely on)" in text for stage in STAGES)
    assert text.count("w_contextual ") >= 3
    assert "\u2026" not in text.partition("Preferred blend")[2]


def test_export_and_top() -> None:
    """Exported evidence is valid JSON and can be a prior; top configurations are sorted and have no duplicates."""
    study = random_study(30)
    best = study.best_trial
    study.add_trial(best)
    prior = json.loads(json.dumps(export_evidence(study)))
    table = gather([], NAMES, maximise=False, prior=prior)
    assert table.trials == 0
    assert table.weight.sum() == pytest.approx(10.0)
    more = gather(random_study(90).trials, NAMES, maximise=False, prior=prior)
    assert more.weight[more.number < 0].sum() == pytest.approx(1.0)
    top = top_configurations(study, 3)
    assert top[0] == best.params
    assert len({json.dumps(params) for params in top}) == 3
