"""The note on a study's page in optuna-dashboard: the effects of its blend and its anchors."""

import optuna
import pytest
from blend_study import random_study

from dropopt.study.blend.learned import learned
from dropopt.study.show import page
from dropopt.study.show.figures import figures


def refreshed_note(study):
    """Refresh the page of ``study`` and return its note."""
    page.refresh(study)
    attributes = study._storage.get_study_system_attrs(study._study_id)
    return "".join(value for key, value in sorted(attributes.items()) if key.startswith("dashboard:note_str"))


def test_the_note_ranks_methods():
    """The note ranks methods by effect, and the figure shows all intervals."""
    study = random_study(60)
    rows = [line.split("|")[1].strip() for line in refreshed_note(study).splitlines() if line.startswith("| w_")]
    assert rows[:3] == ["w_structured", "w_adaptive", "w_pfid"]
    assert "w_structured + w_pfid" in rows
    found = learned(study)
    (trace,) = figures(found)["dropopt-effects"].data
    shown = [*found.efficacy.methods[0], *found.efficacy.pairs[0]]
    assert list(trace.y) == [effect.name for effect in shown]
    drawn = zip(trace.x, trace.error_x.arrayminus, trace.error_x.array, strict=True)
    ends = [(mean, mean - below, mean + above) for mean, below, above in drawn]
    assert ends == [pytest.approx((effect.mean, effect.low, effect.high)) for effect in shown]


def test_the_note_compares_with_the_anchors():
    """The note of a study without a blend says whether dropout helps, if the study has anchors."""
    study = optuna.create_study()
    study.set_user_attr("classes", 2)
    study.add_trial(optuna.trial.create_trial(value=0.5, user_attrs={"anchor": "no dropout"}))
    study.add_trial(optuna.trial.create_trial(value=0.3))
    text = refreshed_note(study)
    assert "**the best trial's loss is 40.0% below that of the best anchor, no dropout" in text
    assert "| no dropout | 0 | 0.5000 | - | -40.0% |" in text


def test_a_blend_without_evidence_has_no_table():
    """A table of effects that are all 0, with intervals of no width, would look like a finding."""
    text = refreshed_note(random_study(2))
    assert "Too few trials" in text.partition("## Which method works")[2]
    assert "| w_" not in text
