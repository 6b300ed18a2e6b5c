"""Controls: when a study tries its anchors with the best trial's settings of training, and with which settings."""

from functools import partial

import fake_study
import optuna
import pytest
from optuna.trial import TrialState
from spaces import space_of

from dropopt.config import RunConfig
from dropopt.study.define.space import Space
from dropopt.study.search.anchors import enqueue_anchors
from dropopt.study.search.controls import controls_of, enqueue_due_controls
from dropopt.study.store.keys import ANCHOR, CONFIG
from dropopt.study.store.lease import WorkerIdentity
from dropopt.study.store.search_ledger import SearchLedger

TARGET = 20
SPACE = Space.load("compact")
BASE = SPACE.base(RunConfig())
CONTROLS = partial(enqueue_due_controls, space=SPACE, base=BASE, classes=10)
#: The loss of each anchor. Of those that drop, ``spatial 0.2`` is the best.
LOSSES = {"no dropout": 0.6, "element 0.1": 0.9, "channel 0.2": 0.7, "spatial 0.2": 0.5}


def searched(lowest=0.3, *, anchors=True, target=TARGET, study=None):
    """A study that has run to its target. Trial 8 has the value ``lowest``, and any other that is no anchor 0.8."""
    new = study is None
    study = study or optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    if anchors and new:
        enqueue_anchors(study, SPACE, BASE, 10)

    ledger = ledger_of(study, on_start=CONTROLS)
    while (asked := ledger.ask(target)) is not None:
        trial, _ = asked
        name = trial.user_attrs.get(ANCHOR, "")
        complete(ledger, trial, lowest if trial.number == 8 else LOSSES.get(name, 0.8))
    return study


def ledger_of(study, **options):
    return SearchLedger(study, SPACE, BASE, seed=0, classes=10, **options)


def complete(ledger, trial, value=0.8):
    ledger.complete(trial, value, accuracy=0.9, best_loss=value, best_epoch=1, seconds=1.0)


def controls_in(study):
    """The names of the controls by the number of their trial."""
    names = {trial.number: trial.user_attrs.get(ANCHOR, "") for trial in study.trials}
    return {number: name for number, name in names.items() if " as trial " in name}


def test_controls_come_after_three_quarters_of_a_study():
    """No dropout, and the best anchor with dropout. The study has as many trials as without them, and none waits."""
    study = searched()
    assert controls_in(study) == {16: "no dropout, trained as trial 8", 17: "spatial 0.2, trained as trial 8"}
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * TARGET


def test_a_control_differs_from_the_best_trial_in_dropout_alone():
    """It has the engine of its anchor, and the best trial's settings of training but for the seed."""
    study = searched()
    runs = [RunConfig.parse(trial.user_attrs[CONFIG]) for trial in study.trials]
    best = runs[8].train.model_dump(exclude={"seed"})
    names = {trial.user_attrs[ANCHOR]: trial.number for trial in study.trials if ANCHOR in trial.user_attrs}
    for number, name in controls_in(study).items():
        assert runs[number].train.model_dump(exclude={"seed"}) == best
        assert runs[number].engine == runs[names[name.partition(",")[0]]].engine
    assert best["lr"] != runs[0].train.lr, "an anchor has the middle of the range"


@pytest.mark.parametrize(("lowest", "options"), [(0.3, {"anchors": False}), (0.3, {"target": 19}), (0.55, {})])
def test_studies_without_controls(lowest, options):
    """One without anchors, a short one, and one whose best trial is an anchor, with which the others are compared."""
    assert controls_in(searched(lowest, **options)) == {}


@pytest.mark.parametrize(("target", "again"), [(30, False), (60, True)])
def test_a_study_that_goes_on_has_new_controls_if_its_are_from_its_first_half(target, again):
    """The best trial may have other settings of training by then; here it is the same, so nothing is tried twice."""
    study = searched(target=target, study=searched())
    assert set(controls_in(study)) == {16, 17}
    study = searched()
    study.add_trial(optuna.trial.create_trial(value=0.1, user_attrs={CONFIG: fast(study.trials[8])}))
    searched(target=target, study=study)
    new = [name for number, name in controls_in(study).items() if number >= TARGET]
    assert new == (["no dropout, trained as trial 20", "spatial 0.2, trained as trial 20"] if again else [])


def fast(trial):
    """The configuration of a trial, with a higher learning rate."""
    config = trial.user_attrs[CONFIG]
    return config | {"train": config["train"] | {"lr": 0.4}}


def test_the_controls_of_a_study_that_was_stopped_when_they_were_due():
    """The process ended between the start of the trial and the controls: the next trial enqueues them."""
    study = searched(target=15)
    ledger = ledger_of(study)
    trial, _ = ledger.ask(TARGET)
    assert trial.number == 15
    complete(ledger, trial)
    assert list(controls_in(searched(study=study))) == [17, 18]


def test_a_study_with_few_trials_left_has_no_controls():
    """They would wait for a run that may never come."""
    study = searched(study=searched(target=18))
    assert (len(study.trials), controls_in(study)) == (TARGET, {})


@pytest.mark.parametrize("train", [{"lr": 0.9}, {"lr": "fast"}, {}], ids=["out of range", "not a number", "missing"])
def test_no_control_says_that_it_is_trained_as_a_trial_whose_settings_it_cannot_have(train):
    """A trial that was enqueued may have a rate outside of the range, and one of another program anything."""
    study = searched(target=15)
    config = study.trials[8].user_attrs[CONFIG]
    train = {"weight_decay": config["train"]["weight_decay"], **train}
    study.add_trial(optuna.trial.create_trial(value=0.1, user_attrs={CONFIG: config | {"train": train}}))
    assert controls_in(searched(study=study)) == {}


def test_a_setting_of_training_that_is_searched_with_some_dropout_only(tmp_path):
    """The control without dropout has the pattern ``element``, with which this space searches label smoothing."""
    space = space_of(
        tmp_path,
        "engine: {r0: {low: 0.0, high: 0.7}, pattern: [element, channel]}\n"
        "train: {label_smoothing: {low: 0.1, high: 0.3, when: {pattern: element}}}\n",
    )
    base = space.base(RunConfig())
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    enqueue_anchors(study, space, base, 10)
    study.enqueue_trial({"r0": 0.3, "pattern": "channel"})
    ledger = SearchLedger(study, space, base, seed=0, classes=10)
    for value in [0.5] * (len(study.trials) - 1) + [0.1]:
        complete(ledger, ledger.ask(TARGET)[0], value)
    assert not [name for name in controls_of(study, study.trials, space, base, 10) if "no dropout" in name]


def test_a_process_that_was_killed_between_the_two_controls():
    """The other one follows, and the first is not tried twice."""
    study = searched(target=15)
    CONTROLS(study, 15, TARGET)
    first, second = study.trials[15:]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for trial in [*searched(target=15).trials, first]:
        study.add_trial(trial)
    found = controls_in(searched(study=study))
    assert [name for _, name in sorted(found.items())] == [first.user_attrs[ANCHOR], second.user_attrs[ANCHOR]]


def test_interrupted_trials_do_not_bring_the_controls_forward():
    """They have numbers, but do not use the budget."""
    study = searched(target=10)
    ledger = ledger_of(study)
    for _ in range(10):
        ledger.interrupt(ledger.ask(TARGET)[0], "Ctrl-C")
    study = searched(study=study)
    first = min(controls_in(study))
    assert sum(trial.state == TrialState.COMPLETE for trial in study.trials[:first]) == 16


def test_controls_that_two_workers_enqueued_at_once_run_once():
    """Each worker saw a study without controls. Its trials share the budget, so each is given back once."""
    study = searched(target=15)
    copies = [*study.trials]
    CONTROLS(study, 15, TARGET)
    for trial in study.trials[len(copies) :]:
        study.enqueue_trial(trial.system_attrs["fixed_params"], user_attrs=trial.user_attrs)
    ledger = ledger_of(study, worker=WorkerIdentity(exclusive=False))
    assert [ledger.ask(TARGET) is not None for _ in range(4)] == [True, True, False, False]


def test_a_study_that_goes_on_without_anchors_has_no_controls(here):
    """``--no-anchors`` may be given late, and only once."""
    fake_study.run("study.db", n_jobs=1, n_trials=10, anchors=True)
    known = optuna.load_study(study_name="fake", storage="sqlite:///study.db")
    known.enqueue_trial({"lr": 0.1, "r0": 0.0, "alpha": 0.5})  # the best trial, which is no anchor
    for anchors, target, controls in ((False, 20, 0), (True, 24, 2)):
        fake_study.run("study.db", n_jobs=1, n_trials=target, anchors=anchors)
        names = [trial.user_attrs.get(ANCHOR, "") for trial in fake_study.trials("study.db")]
        assert sum("trained as" in name for name in names) == controls
