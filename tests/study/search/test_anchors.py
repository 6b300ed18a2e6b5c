"""Anchors: which trials a study begins with, and how its best trial is compared with them."""

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from spaces import space_of, suggested

from dropopt.config import METHODS, Baseline, EngineConfig, RunConfig
from dropopt.study import Study
from dropopt.study.define.space import Space
from dropopt.study.search.anchors import anchors_of, compare, enqueue_anchors, is_plain
from dropopt.study.store.keys import ANCHOR, APPLIED
from dropopt.study.store.retries import enqueue_again
from dropopt.study.store.scale import Scale
from dropopt.study.store.search_ledger import SearchLedger

NAMES = {
    "compact": ["no dropout", "element 0.1", "channel 0.2", "spatial 0.2", "own patterns", "engine's default"],
    "paper": ["no dropout", "element 0.1", "channel 0.2", "spatial 0.2", "own patterns", "engine's default"],
    "even_blend": ["no dropout", "own patterns"],
    "blend": ["no dropout", "element 0.1", "own patterns", "engine's default"],
    "dropout": ["no dropout", "dropout 0.1", "dropout2d 0.2", "dropblock 0.2", "stochastic_depth 0.2"],
    "no_dropout": [],
}


def runs(space: Space, base: RunConfig | None = None):
    """The configuration of each anchor, as a trial gets it."""
    base = space.base(base or RunConfig())
    return suggested(space, base, anchors_of(space, base, 10))


def engines(tmp_path, text, base=None):
    return {name: run.engine for name, run in runs(space_of(tmp_path, text), base).items()}


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
    assert [parameters["lr"] for parameters in found.values()] == [pytest.approx(1e-3)] * 6


def test_an_anchor_has_its_settings_whatever_the_study_has(tmp_path):
    """Of a baseline and of the engine: where the space searches a setting, the anchor's value is chosen."""
    text = (
        "engine:\n  kind: [none, stochastic_depth, dropout2d, dropblock, dropout]\n  p: {low: 0.0, high: 0.5}\n"
        "  schedule: [linear, constant]\n  sites: {choices: [norm, auto]}\n"
    )
    base = RunConfig.parse({"engine": {"kind": "dropout", "p": 0.3, "schedule": "linear", "sites": "norm"}})
    found = engines(tmp_path, text, base)
    assert found.pop("no dropout").kind == "none"
    kinds = {"dropout": 0.1, "dropout2d": 0.2, "dropblock": 0.2, "stochastic_depth": 0.2}
    assert found == {f"{kind} {rate}": Baseline(kind=kind, p=rate) for kind, rate in kinds.items()}
    searched = "".join(f"  w_{method}: {{low: 0.0, high: 1.0}}\n" for method in METHODS)
    text = (
        f"engine:\n{searched}  r0: {{low: 0.0, high: 0.7}}\n  alpha: {{low: -1.0, high: 1.0}}\n"
        "  pattern: [spatial, own, channel, element]\n  allocation: [importance, uniform]\n"
        "  reading: [printed, sound]\n  efficacy: [adaptive, fixed]\n  drop_updates: [true, false]\n"
        "  sites: {choices: [norm, auto]}\n"
    )
    base = RunConfig.parse({"engine": {"reading": "printed", "drop_updates": True, "sites": "norm", "alpha": 1.0}})
    found = engines(tmp_path, text, base)
    assert found.pop("engine's default") == base.engine
    alone = {f"w_{method}": float(method == "adaptive") for method in METHODS} | {"alpha": 0.0}
    rates = {"element": 0.1, "channel": 0.2, "spatial": 0.2}
    even = {f"w_{method}": 0.2 for method in METHODS}
    assert found.pop("own patterns") == base.engine.model_copy(update={"pattern": "own", **even})
    assert found == {
        "no dropout": EngineConfig(r0=0.0, pattern="element", **alone),
        **{f"{name} {rate}": EngineConfig(r0=rate, pattern=name, **alone) for name, rate in rates.items()},
    }


ALONE = "  pattern: [element, channel]\n  w_structured: 0.0\n  w_contextual: 0.0\n  w_pfid: 0.0\n"
RATE, KINDS = "  r0: {low: 0.0, high: 0.5}\n", "  kind: [none, dropout, dropout2d]\n  p: {low: 0.0, high: 0.5}\n"


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        (f"{RATE}  alpha: 0.0\n{ALONE}", ["no dropout", "element 0.1", "channel 0.2", "engine's default"]),
        (RATE + ALONE, ["no dropout", "engine's default"]),  # alpha is 0.5
        (f"{RATE}  reading: printed\n{ALONE}", ["engine's default"]),
        (f"  r0: {{low: 0.15, high: 0.5}}\n  alpha: 0.0\n{ALONE}", ["channel 0.2", "engine's default"]),
        (f"{KINDS}  schedule: constant\n", ["no dropout", "dropout 0.1", "dropout2d 0.2"]),
        (f"{KINDS}  schedule: linear\n", []),
    ],
)
def test_an_anchor_that_the_space_cannot_express_is_left_out(tmp_path, engine, expected):
    """A fixed alpha, the printed reading, a range without 0 and a schedule each rule out some anchors or all."""
    assert list(engines(tmp_path, f"engine:\n{engine}")) == expected


def test_an_anchor_that_is_not_valid_in_the_space_hides_no_other(tmp_path):
    """The study names a library, which only one kind has. Anchors that it has already are not enqueued again."""
    space = space_of(tmp_path, "engine:\n  kind: [dropblock, dropout]\n  p: {low: 0.0, high: 0.5}\n")
    study = optuna.create_study()
    base = space.base(RunConfig.parse({"engine": {"kind": "dropblock", "library": "timm"}}))
    for _ in range(2):
        enqueue_anchors(study, space, base, 10)
        assert [trial.user_attrs[ANCHOR] for trial in study.trials] == ["no dropout", "dropblock 0.2"]


def test_anchors_follow_the_study(tmp_path):
    """Settings of the study hold, and choices of training are those of the study."""
    text = (
        "engine:\n  r0: {low: 0.0, high: 0.5}\n  w_structured: 0.0\n  w_contextual: 0.0\n  w_pfid: 0.0\n"
        "  pattern: element\ntrain:\n  schedule: [cosine, constant, onecycle]\n"
    )
    found = runs(space_of(tmp_path, text), RunConfig(engine=EngineConfig(alpha=0.0)))
    assert list(found) == ["no dropout", "element 0.1", "engine's default"]
    assert {run.train.schedule for run in found.values()} == {RunConfig().train.schedule} == {"onecycle"}
    found = engines(tmp_path, "engine:\n  kind: [dropout, none]\n  p: {low: 0.05, high: 0.5}\n")
    assert list(found) == ["no dropout", "dropout 0.1"]
    assert (found["no dropout"].kind, found["no dropout"].p > 0) == ("none", True)
    assert runs(Space.load("dropout"))["no dropout"].engine.p == 0, "its kinds are all dropout"


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


def compared(trials, scale):
    """The comparison of trials, which get their numbers in a study."""
    study = optuna.create_study()
    study.add_trials(trials)
    return compare(study.trials, scale)


def trial(value, anchor=None, state=TrialState.COMPLETE, applied=None):
    attributes = {"val_accuracy": 0.9} | ({ANCHOR: anchor} if anchor else {})
    attributes |= {} if applied is None else {APPLIED: applied}
    return create_trial(state=state, value=value, user_attrs=attributes)


NOTES = {
    "loss": "smoothed validation loss, one seed each; single seeds often differ by 5%, and by far more near 0",
    "error": "smoothed validation error, one seed each",
}
NONE, ELEMENT, CHANNEL = trial(0.5, "no dropout"), trial(0.6, "element 0.1"), trial(0.4, "channel 0.2")
CONTROL = trial(0.4, "no dropout, trained as trial 2")
UNCLEAR = "the best trial is not clearly better than no dropout: its"
NO_HELP = "dropout does not help here: the best trial has no dropout, with"
VERDICTS = {
    f"{UNCLEAR} loss is 0.4900, and 0.5000 without dropout": [NONE, ELEMENT, trial(0.49)],
    f"{UNCLEAR} loss is 0.3900, and 0.4000 without dropout": [NONE, CONTROL, trial(0.39)],
    f"{UNCLEAR} error is 0.3900, and 0.4000 without dropout": [NONE, trial(0.4, applied=0.0), trial(0.39, applied=0.1)],
    f"{NO_HELP} an error of 0.5000; with dropout, the best is 0.5100 (trial 2), and the difference may be chance": [
        NONE,
        ELEMENT,
        trial(0.51),
    ],
    f"{NO_HELP} an error of 0.4000; with dropout, the best is 0.4500 (trial 2)": [
        NONE,
        trial(0.4, applied=0.0),
        trial(0.45, applied=0.1),
    ],
    "the best trial has no dropout, with a loss of 0.4000": [NONE, trial(0.4, applied=0.0)],
    "no trial is better than the anchor channel 0.2, with a loss of 0.4000": [NONE, CHANNEL, trial(0.45)],
    "no trial is better than the anchor channel 0.2, with an error of 0.4000": [CHANNEL, trial(0.45)],
    "the best trial's loss is 10.0% below that of the best anchor, channel 0.2": [NONE, CHANNEL, trial(0.36)],
    "the best trial's error is 2.5% below that of the best anchor, channel 0.2, which may be chance": [
        NONE,
        CHANNEL,
        trial(0.39),
    ],
}


@pytest.mark.parametrize("verdict", VERDICTS, ids=range(len(VERDICTS)))
def test_the_verdict_in_words(verdict):
    """The best trial within the noise of no dropout is no evidence; else the best anchor is compared.

    A trial whose rates are 0 has no dropout, anchor or not: a portfolio has such configurations. That dropout does not
    help is said only if a trial has dropout.
    """
    what, trials = "loss" if "loss" in verdict else "error", VERDICTS[verdict]
    found, best = compared(trials, Scale(what)), min(trials, key=lambda one: one.value)
    assert (found.verdict, found.leader) == (f"{verdict} ({NOTES[what]})", trials.index(best))
    anchors = [(row.value, number, row.user_attrs.get(ANCHOR)) for number, row in enumerate(trials)]
    rows = sorted(row for row in anchors if row[2])
    assert [(row.loss, row.trial, row.name, row.accuracy) for row in found.rows] == [(*row, 0.9) for row in rows]
    assert [row.difference for row in found.rows] == [pytest.approx(best.value / loss - 1) for loss, *_ in rows]


def test_equal_anchors_and_a_loss_of_zero():
    """The first of equal anchors comes first; a loss of 0 has no ratio."""
    other = create_trial(value=1.0, user_attrs={ANCHOR: "c"})
    found = compared([trial(0.5), trial(0.0, "b"), trial(0.0, "a"), other], Scale())
    rows = [(row.name, row.difference, row.accuracy) for row in found.rows]
    assert rows == [("b", 0, 0.9), ("a", 0, 0.9), ("c", -1, None)]
    assert found.verdict == f"no trial is better than the anchor b, with a loss of 0.0000 ({NOTES['loss']})"


PLAIN = {f"w_{method}": float(method == "adaptive") for method in METHODS}
PLAIN |= {"pattern": "channel", "r0": 0.2, "alpha": 0.0, "allocation": "uniform", "reading": "sound"}


@pytest.mark.parametrize(
    ("change", "plain"),
    [
        ({}, True),
        ({"w_adaptive": 0.5}, True),
        ({"w_adaptive": (1.0, 0.5, 0.1)}, True),
        ({"w_adaptive": 0.0}, False),
        ({"w_pfid": 0.1}, False),
        ({"w_spatial": (0.0, 0.0, 0.1)}, False),
        ({"alpha": 0.1}, False),
        ({"reading": "printed"}, False),
        ({"efficacy": "adaptive"}, False),
        ({"allocation": "feature"}, False),
        ({"pattern": "element"}, False),
        ({"pattern": "own"}, False),
        ({"drop_updates": True}, False),
        ({"r0": 0.21}, False),
        ({"kappa": 3.0, "lambda_loss": 2.0}, True),
    ],
)
def test_which_engines_are_plain_dropout(change, plain):
    """The adaptive method alone, at a constant rate, in the pattern itself."""
    if change.get("w_adaptive") == 0.0:
        change = change | {"w_pfid": 1.0}
    engine = EngineConfig.parse(PLAIN | change)
    assert is_plain("channel", 0.2, engine) is plain
    assert is_plain("element", 0.2, engine) is (engine.pattern in ("element", "own"))


def test_anchors_without_a_result_are_not_compared():
    """A comparison needs a complete anchor with a finite value."""
    failed = trial(None, "no dropout", TrialState.FAIL)
    for trials in ([], [failed], [failed, trial(0.5), trial(float("inf"), "no dropout")]):
        assert compared(trials, Scale()) is None


def test_a_metric_of_which_more_is_better_is_compared_in_its_units():
    """A fraction of ``1 - metric``, which is what is stored, would be no fraction of the metric."""
    found = compared([NONE, CHANNEL, trial(0.3)], Scale("dice", maximise=True, complement=True))
    assert found.verdict.startswith("the best trial's dice is 0.1000 above that of the best anchor, channel 0.2 (")


def test_differences_of_values_below_0_are_in_their_units():
    """As of ``1 - psnr``: a fraction would have the wrong sign, and the size of the noise is not known."""
    scale = Scale("psnr", maximise=True, complement=True)
    anchors = [trial(-28.0, "no dropout"), trial(-29.0, "channel 0.2")]
    found = compared([*anchors, trial(-29.5)], scale)
    assert [row.difference for row in found.rows] == [-0.5, -1.5]
    assert found.verdict.startswith("the best trial's psnr is 0.5000 above that of the best anchor, channel 0.2 (")
    assert "anchor channel 0.2, with psnr 30.0000 (smoothed" in compared(anchors, scale).verdict
    equal = compared([trial(-28.0), anchors[0]], scale).verdict
    assert equal.startswith("the best trial is not clearly better than no dropout: its psnr is 29.0000")
