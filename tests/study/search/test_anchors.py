"""Anchors: which trials a study begins with, and how its best trial is compared with them."""

from __future__ import annotations

import fake_study
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from dropopt.config import Baseline, EngineConfig, RunConfig
from dropopt.study import Study
from dropopt.study.define.space import Space
from dropopt.study.search.anchors import anchors_of, compare
from dropopt.study.store.keys import ANCHOR
from dropopt.study.store.retries import enqueue_again
from dropopt.study.store.search_ledger import SearchLedger

NAMES = {
    "compact": ["no dropout", "element 0.1", "channel 0.2", "spatial 0.2", "engine's default"],
    "paper": ["no dropout", "element 0.1", "channel 0.2", "spatial 0.2", "engine's default"],
    "even_blend": ["no dropout", "engine's default"],
    "blend": ["no dropout", "element 0.1", "engine's default"],
    "dropout": ["no dropout", "dropout 0.1", "dropout2d 0.2", "dropblock 0.2", "stochastic_depth 0.2"],
    "no_dropout": [],
}


def runs(space: Space, base: RunConfig | None = None):
    """The configuration of each anchor, as a trial gets it."""
    base = space.base(base or RunConfig())
    found = {}
    for name, parameters in anchors_of(space, base, 10).items():
        trial = optuna.trial.FixedTrial(parameters)
        found[name] = space.suggest(trial, 10, base)
        assert trial.params == parameters, "every parameter that the space suggests is given, and no other"
    return found


def engines(tmp_path, text):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    return {name: run.engine for name, run in runs(Space.load(path)).items()}


@pytest.mark.parametrize("name", NAMES)
def test_shipped_spaces_have_anchors(name):
    """Every shipped space has those that it can express, all with the same settings of training."""
    found = runs(Space.load(name))
    assert list(found) == NAMES[name]
    assert all(run.train.lr == pytest.approx((0.01 * 0.5) ** 0.5) for run in found.values())
    assert len({run.train.model_dump_json() for run in found.values()}) <= 1


def test_adamw_has_its_own_middle():
    """The middle is that of the range for the study's optimizer."""
    study = Study(name="a", train={"optimizer": "adamw"})
    space = study.load_space()
    found = anchors_of(space, study.base(space), 10)
    assert [parameters["lr"] for parameters in found.values()] == [pytest.approx(1e-3)] * 5


@pytest.mark.parametrize(("name", "rate"), [("element", 0.1), ("channel", 0.2), ("spatial", 0.2)])
@pytest.mark.parametrize("space", ["compact", "paper"])
def test_plain_anchors_of_the_engine_are_constant(space, name, rate):
    """The adaptive rate alone, with alpha = 0, is r0 everywhere and always; the pattern is the anchor's."""
    engine = runs(Space.load(space))[f"{name} {rate}"].engine
    assert isinstance(engine, EngineConfig)
    assert (engine.pattern, engine.r0, engine.alpha, engine.allocation) == (name, rate, 0, "uniform")
    assert engine.weights() == (1, 0, 0, 0, 0)
    assert (engine.reading, engine.efficacy, engine.drop_updates) == ("sound", "fixed", False)


def test_the_anchors_of_baselines():
    """Each kind has a customary rate, and no dropout is a rate of 0."""
    found = {name: run.engine for name, run in runs(Space.load("dropout")).items()}
    assert found["no dropout"].p == 0
    assert found["dropblock 0.2"] == Baseline(kind="dropblock", p=0.2)


def test_an_anchor_that_the_space_cannot_express_is_left_out(tmp_path):
    """A fixed alpha, the printed reading and a range without 0 each rule out some anchors."""
    weights = "".join(f"  w_{name}: 0.0\n" for name in ("structured", "contextual", "pfid"))
    alone = "  pattern: [element, channel]\n" + weights
    found = engines(tmp_path, "engine:\n  r0: {low: 0.0, high: 0.5}\n  alpha: 0.0\n" + alone)
    assert list(found) == ["no dropout", "element 0.1", "channel 0.2", "engine's default"]
    found = engines(tmp_path, "engine:\n  r0: {low: 0.0, high: 0.5}\n" + alone)  # alpha is 0.5
    assert list(found) == ["no dropout", "engine's default"]
    found = engines(tmp_path, "engine:\n  r0: {low: 0.0, high: 0.5}\n  reading: printed\n" + alone)
    assert list(found) == ["engine's default"]
    found = engines(tmp_path, "engine:\n  r0: {low: 0.15, high: 0.5}\n  alpha: 0.0\n" + alone)
    assert list(found) == ["channel 0.2", "engine's default"]


def test_anchors_follow_the_study(tmp_path):
    """Settings of the study hold, and choices of training are those of the study."""
    path = tmp_path / "space.yaml"
    path.write_text(
        "engine:\n  r0: {low: 0.0, high: 0.5}\n  w_structured: 0.0\n  w_contextual: 0.0\n  w_pfid: 0.0\n"
        "  pattern: element\ntrain:\n  schedule: [cosine, constant, onecycle]\n"
    )
    found = runs(Space.load(path), RunConfig(engine=EngineConfig(alpha=0.0)))
    assert list(found) == ["no dropout", "element 0.1", "engine's default"]
    assert {run.train.schedule for run in found.values()} == {RunConfig().train.schedule} == {"onecycle"}
    found = engines(tmp_path, "engine:\n  kind: [dropout, none]\n  p: {low: 0.05, high: 0.5}\n")
    assert list(found) == ["no dropout", "dropout 0.1"]
    assert (found["no dropout"].kind, found["no dropout"].p > 0) == ("none", True)


def test_values_lie_on_the_grid(tmp_path):
    """A range with a step or of integers is met exactly, and a missing default is replaced by the middle."""
    text = "engine:\n  r0: {low: 0.3, high: 0.6, step: 0.1}\n  block_size: {low: 4, high: 9, step: 5}\n"
    (engine,) = engines(tmp_path, text).values()
    assert engine.r0 in (pytest.approx(0.4), pytest.approx(0.5))
    assert engine.block_size in (4, 9)


@pytest.fixture(name="storage")
def _storage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    return "study.log"


def names_in(storage):
    return [trial.user_attrs.get(ANCHOR) for trial in fake_study.trials(storage)]


def test_a_study_begins_with_its_anchors(storage, capsys):
    """They are its first trials and count among them; a resumed study does not repeat them."""
    assert fake_study.run(storage, n_jobs=1, n_trials=10, anchors=True) == 0
    assert names_in(storage) == [*NAMES["compact"], *[None] * 5]
    assert [trial.state for trial in fake_study.trials(storage)[:5]] == [TrialState.COMPLETE] * 5
    printed = capsys.readouterr().out
    assert "compared with" in printed
    assert "one seed each" in printed
    assert fake_study.run(storage, n_jobs=1, n_trials=11, anchors=True) == 0
    assert names_in(storage)[10:] == [None]


@pytest.mark.parametrize("options", [{"n_trials": 9}, {"n_trials": 10, "anchors": False}])
def test_short_studies_have_no_anchors(storage, options):
    """Nor have those that do not want them."""
    assert fake_study.run(storage, **{"anchors": True} | options) == 0
    assert set(names_in(storage)) == {None}


def test_an_anchor_is_never_pruned():
    """The comparison needs its result."""
    pruner = optuna.pruners.ThresholdPruner(upper=0.0)
    study = optuna.create_study(pruner=pruner)
    space = Space.load("no_dropout")
    ledger = SearchLedger(study, space, space.base(RunConfig()), seed=0, classes=10)
    pruned = []
    for attributes in ({ANCHOR: "no dropout"}, {}):
        study.enqueue_trial({"lr": 0.1, "weight_decay": 1e-3}, user_attrs=attributes)
        asked = ledger.ask()
        assert asked is not None
        pruned.append(ledger.report(asked[0], 1.0, epoch=1, epochs=5))
    assert pruned == [False, True]


def test_a_retry_of_an_anchor_is_an_anchor():
    """An anchor whose worker died keeps its name when it runs again."""
    study = optuna.create_study()
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={ANCHOR: "no dropout", "reason": "abandoned"}))
    enqueue_again(study, study.trials[0])
    assert study.trials[1].user_attrs[ANCHOR] == "no dropout"


def trial(value, anchor=None, state=TrialState.COMPLETE):
    attributes = {"val_accuracy": 0.9} | ({ANCHOR: anchor} if anchor else {})
    return create_trial(state=state, value=value, user_attrs=attributes)


@pytest.mark.parametrize(
    ("trials", "verdict"),
    [
        (
            [trial(0.5, "no dropout"), trial(0.6, "element 0.1"), trial(0.49)],
            "the best trial is not clearly better than no dropout: its loss is 0.4900, and 0.5000 without dropout (",
        ),
        (
            [trial(0.5, "no dropout"), trial(0.4, "element 0.1"), trial(0.45)],
            "no trial is better than the anchor element 0.1, with a loss of 0.4000 (smoothed",
        ),
        (
            [trial(0.5, "no dropout"), trial(0.4, "channel 0.2"), trial(0.36)],
            "the best trial's loss is 10.0% below that of the best anchor, channel 0.2 (smoothed",
        ),
        (
            [trial(0.5, "no dropout"), trial(0.4, "channel 0.2"), trial(0.39)],
            "the best trial's loss is 2.5% below that of the best anchor, channel 0.2, which may be chance (smoothed",
        ),
    ],
)
def test_the_verdict_in_words(trials, verdict):
    """The best trial within the noise of no dropout is no evidence; else the best anchor is compared."""
    study = optuna.create_study()
    for one in trials:
        study.add_trial(one)
    found = compare(study.trials)
    assert found.verdict.startswith(verdict)
    assert [row.loss for row in found.rows] == sorted(row.loss for row in found.rows)
    lowest = found.rows[0]
    assert lowest.difference == pytest.approx(study.best_value / lowest.loss - 1)


def test_anchors_without_a_result_are_not_compared():
    """Without a completed anchor there is no comparison."""
    study = optuna.create_study()
    study.add_trial(trial(0.5))
    study.add_trial(trial(None, "no dropout", TrialState.FAIL))
    study.add_trial(create_trial(state=TrialState.COMPLETE, value=float("inf"), user_attrs={ANCHOR: "no dropout"}))
    assert compare(study.trials) is None


def test_differences_of_values_below_0_are_in_their_units():
    """As ``1 - psnr`` may be: a fraction would have the wrong sign, and the size of the noise is not known."""

    def compared(*trials):
        study = optuna.create_study()  # which numbers the trials
        study.add_trials(trials)
        return compare(study.trials, "1 - psnr")

    found = compared(trial(-28.0, "no dropout"), trial(-29.0, "channel 0.2"), trial(-29.5))
    assert [row.difference for row in found.rows] == [-0.5, -1.5]
    assert found.verdict.startswith("the best trial's 1 - psnr is 0.5000 below that of the best anchor, channel 0.2 (")
    best = compared(trial(-28.0, "no dropout"), trial(-29.0, "channel 0.2"))
    assert "anchor channel 0.2, with 1 - psnr -29.0000 (smoothed" in best.verdict
