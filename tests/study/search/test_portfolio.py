"""Portfolios: which configurations a study begins with after its anchors, and what a file may hold."""

import math
from pathlib import Path

import fake_study
import optuna
import pytest
from optuna.trial import TrialState
from portfolio_choice import WORST, choose, normalised, regret
from spaces import space_of, suggested

from dropopt.config import METHODS, Baseline, ConfigError, EngineConfig, RunConfig, TrainConfig
from dropopt.study import Study
from dropopt.study.define import shipped
from dropopt.study.define.space import Space
from dropopt.study.search.portfolio import Entry, Portfolio, _same, enqueue_portfolio, entries_of, load_portfolio
from dropopt.study.session.beginning import enqueue_first_trials
from dropopt.study.session.request import Request
from dropopt.study.store.keys import ANCHOR, PORTFOLIO, QUEUE
from dropopt.study.store.retries import enqueue_again, parameters

ALONE = {f"w_{method}": float(method == "adaptive") for method in METHODS}
EVEN = {f"w_{method}": 0.2 for method in METHODS}
TRAIN = {"optimizer": "sgd", "lr": 0.03, "weight_decay": 2e-3}
PORTFOLIO_OF_FOUR = Portfolio(
    name="four",
    entries=(
        Entry(engine={"pattern": "own", "r0": 0.33, "alpha": -0.7, "lambda_loss": 0.0, **EVEN}, train=TRAIN),
        Entry(engine={"pattern": "own", "r0": 0.15, "alpha": 0.0, "lambda_loss": 0.0, **ALONE}, train=TRAIN),
        Entry(engine={"pattern": "channel", "allocation": "uniform", "r0": 0.2, "alpha": 0.0, **ALONE}, train=TRAIN),
        Entry(engine={"pattern": "own", "r0": 0.0, "alpha": 0.0, **ALONE}, train=TRAIN),
    ),
)


def runs(space: Space, portfolio=PORTFOLIO_OF_FOUR, **train) -> dict[str, RunConfig]:
    """The configuration of each entry that the space can express, as a trial gets it."""
    study = Study(name="a", space=str(space.path), train=train)
    space = study.load_space()
    base = study.base(space)
    return suggested(space, base, entries_of(portfolio, space, base, 10))


EXPRESSED = {
    "compact": [1, 2, 3, 4],
    "paper": [1, 2, 3, 4],
    "blend": [1, 2, 4],
    "even_blend": [1],
    "dropout": [2, 3, 4],
    "no_dropout": [4],
}


@pytest.mark.parametrize("name", EXPRESSED)
def test_spaces_get_the_entries_that_they_can_express(name):
    """An entry is named by its place in the file. A space of baselines gets those that are plain dropout."""
    found = runs(Space.load(name))
    assert list(found) == [f"portfolio {number}" for number in EXPRESSED[name]]
    assert {(run.train.lr, run.train.weight_decay) for run in found.values()} == {(0.03, 2e-3)}
    for entry, run in found.items():
        if isinstance(run.engine, EngineConfig):
            wanted = dict(PORTFOLIO_OF_FOUR.entries[int(entry[-1]) - 1].engine)
            wanted.pop("lambda_loss", None)
            assert {key: getattr(run.engine, key) for key in wanted} == wanted


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            "  p: {low: 0.0, high: 0.5}\n  schedule: [linear, constant]\n  sites: {choices: [auto, conv, norm]}\n",
            {1: ("dropout", 0.15, "conv"), 2: ("dropout2d", 0.2, "norm"), 3: ("dropout2d", 0.0, "norm")},
        ),
        ("  p: {low: 0.1, high: 0.5}\n  schedule: linear\n", {}),
        ("  p: 0.15\n  schedule: constant\n  sites: conv\n", {1: ("dropout", 0.15, "conv")}),
        ("  p: {low: 0.1, high: 0.15}\n  schedule: constant\n  sites: last:1\n", {2: ("dropout2d", 0.15, "last:1")}),
    ],
)
def test_plain_entries_in_a_space_of_baselines(tmp_path, settings, expected):
    """Constant rates of the adaptive method alone are torch's Dropout and Dropout2d.

    A setting that the entry does not name is that of the study, also if the space searches it.
    """
    constant = {"allocation": "uniform", "alpha": 0.0, **ALONE}
    entries = (
        Entry(engine={"pattern": "element", "r0": 0.15, "sites": "conv", **constant}),
        Entry(engine={"pattern": "channel", "r0": 0.2, **constant}),
        Entry(engine={"pattern": "channel", "r0": 0.0, **constant}),
    )
    space = space_of(tmp_path, f"engine:\n  kind: [dropout2d, dropout]\n{settings}")
    base = space.base(RunConfig.parse({"engine": {"kind": "dropout", "sites": "norm"}}))
    chosen = entries_of(Portfolio(name="some", entries=entries), space, base, 10)
    found = {int(name[-1]): space.resolve(parameters, base).engine for name, parameters in chosen.items()}
    assert found == {number: Baseline(kind=kind, p=p, sites=sites) for number, (kind, p, sites) in expected.items()}


def test_an_entry_that_is_not_valid_in_the_space_hides_no_other(tmp_path):
    """The study names a library, which only one kind has; the last entry is a rate of 0 of that kind."""
    space = space_of(tmp_path, "engine:\n  kind: [dropblock, dropout2d, dropout]\n  p: {low: 0.0, high: 0.5}\n")
    base = space.base(RunConfig.parse({"engine": {"kind": "dropblock", "library": "timm"}}))
    assert list(entries_of(PORTFOLIO_OF_FOUR, space, base, 10)) == ["portfolio 4"]


SEARCHED = "".join(f"  w_{method}: {{low: 0.0, high: 1.0}}\n" for method in METHODS)
FIXED = "".join(f"  w_{method}: 0.25\n" for method in METHODS)
ADAPTIVE = "".join(f"  w_{method}: {float(method == 'adaptive')}\n" for method in METHODS)
RATES = "  r0: {low: 0.0, high: 0.7}\n  alpha: {low: -1.0, high: 1.0}\n"


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        (f"  pattern: own\n  lambda_loss: 0.0\n{RATES}{SEARCHED}", [1, 2, 4]),
        (f"  pattern: own\n  lambda_loss: 0.0\n  r0: {{low: 0.0, high: 0.7}}\n  alpha: 0.0\n{SEARCHED}", [2, 4]),
        (f"  pattern: own\n  lambda_loss: 0.0\n{RATES}{FIXED}", [1]),
        (f"  pattern: own\n  lambda_loss: 2.0\n{RATES}{SEARCHED}", [2, 4]),
        (f"  pattern: [own, channel]\n  r0: 0.2\n  alpha: 0.0\n{ADAPTIVE}", [3]),
        (f"  pattern: [element, spatial]\n{RATES}{SEARCHED}", []),
    ],
)
def test_fixed_settings_and_missing_choices_leave_entries_out(tmp_path, settings, left):
    """A fixed value or a missing choice each rule out some entries; what has no effect beside the others does not."""
    assert list(runs(space_of(tmp_path, f"engine:\n{settings}"))) == [f"portfolio {number}" for number in left]


def test_numbers_move_into_the_ranges(tmp_path):
    """A rate or a learning rate outside of its range becomes the nearest end of it."""
    text = (
        f"engine:\n  pattern: own\n  lambda_loss: 0.0\n  r0: {{low: 0.1, high: 0.2}}\n"
        f"  alpha: {{low: -0.5, high: 1.0}}\n{SEARCHED}train:\n  lr: {{low: 0.1, high: 0.4, log: true}}\n"
    )
    found = [(run.engine.r0, run.engine.alpha, run.train.lr) for run in runs(space_of(tmp_path, text)).values()]
    assert found == [(0.2, -0.5, 0.1), (0.15, 0.0, 0.1), (0.1, 0.0, 0.1)]


def names_of(trials):
    """The names of anchors and entries, in the order of the trials."""
    return [trial.user_attrs.get(ANCHOR) or trial.user_attrs.get(PORTFOLIO) for trial in trials]


def test_entries_that_the_study_has_already_are_left_out():
    """Neither a second time, nor what is an anchor in other words, nor beyond the number of trials."""
    space = Space.load("compact").bound(RunConfig())
    base, study = space.base(RunConfig()), optuna.create_study()
    chosen = entries_of(PORTFOLIO_OF_FOUR, space, base, 10)
    same = {**chosen["portfolio 2"], "pattern": "element", "allocation": "uniform", "w_adaptive": 0.5}
    study.enqueue_trial(same, user_attrs={ANCHOR: "element 0.15"})
    enqueue_portfolio(study, PORTFOLIO_OF_FOUR, space, base, 10, 3)
    assert names_of(study.get_trials()) == ["element 0.15", "portfolio 1", "portfolio 3"]
    for _ in range(2):
        enqueue_portfolio(study, PORTFOLIO_OF_FOUR, space, base, 10, 20)
    assert names_of(study.get_trials()) == ["element 0.15", "portfolio 1", "portfolio 3", "portfolio 4"]
    assert parameters(study.get_trials()[1]) == chosen["portfolio 1"]


@pytest.fixture(name="storage")
def _storage(here):
    return "s.db"


def test_a_study_begins_with_its_anchors_and_its_portfolio(storage, tmp_path, capsys):
    """They are its first trials, count among them and are named; when the study goes on, nothing is enqueued again."""
    file = tmp_path / "mine.yaml"
    entry = "{engine: {pattern: own, r0: %s, alpha: 0.0, lambda_loss: 0.0}, train: {lr: 0.02}}"
    file.write_text(f"entries:\n  - {entry % 0.3}\n  - {entry % 0.4}\n")
    assert fake_study.run(storage, n_jobs=1, n_trials=10, anchors=True, portfolio=str(file)) == 0
    anchors = ["no dropout", "element 0.1", "channel 0.2", "spatial 0.2", "own patterns", "engine's default"]
    names = [*anchors, "portfolio 1", "portfolio 2", None, None]
    found = fake_study.trials(storage)
    assert names_of(found) == names
    assert [trial.state for trial in found[:6]] == [TrialState.COMPLETE] * 6
    assert [found[number].params["r0"] for number in (6, 7)] == [0.3, 0.4]
    printed = capsys.readouterr().out
    for words in ("6 anchors and 2 of the 2 configurations of portfolio mine", "compared with", "one seed each"):
        assert words in printed
    file.unlink()
    assert fake_study.run(storage, n_jobs=1, n_trials=11, anchors=True, portfolio=str(file)) == 0
    assert names_of(fake_study.trials(storage)) == [*names, None]


def begin(study, **options):
    """Enqueue the first trials of a study as a process does that begins it; returns the portfolio that it reads."""
    request = Request(fake_study.make(**options), Path(), None, 1, "dropopt run fake")
    enqueue_first_trials(study, request, None, 10)
    return request.portfolio


def test_a_short_study_has_no_anchors_and_no_portfolio():
    study = optuna.create_study()
    assert begin(study, n_trials=9, anchors=True, portfolio="small_images") is None
    assert study.get_trials() == []


def test_a_lost_queue_is_filled_from_the_storage():
    """If a process died while it enqueued, the next one goes on with the entries that the storage keeps."""
    study = optuna.create_study()
    first, second = ({"engine": {"pattern": "own", "r0": r0, "lambda_loss": 0.0}} for r0 in (0.3, 0.4))
    for entries in ([first], [first, second]):
        study.set_user_attr(PORTFOLIO, {"name": "mine", "entries": entries})
        begin(study, n_trials=12)
    assert names_of(study.get_trials()) == ["portfolio 1", "portfolio 2"]
    assert [parameters(trial)["r0"] for trial in study.get_trials()] == [0.3, 0.4]
    assert study.user_attrs[QUEUE] == "done"


def test_retries_keep_the_name():
    """A trial of the portfolio that is interrupted runs again under its name."""
    space = Space.load("compact").bound(RunConfig())
    study = optuna.create_study()
    enqueue_portfolio(study, PORTFOLIO_OF_FOUR, space, space.base(RunConfig()), 10, 1)
    study.tell(study.ask(), state=TrialState.FAIL)
    enqueue_again(study, study.trials[0])
    assert names_of(study.get_trials()) == ["portfolio 1", "portfolio 1"]


TRAINED = ", ".join(TrainConfig.model_fields)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *[
            (text, "portfolio {} must hold a mapping with a list of entries that is not empty")
            for text in ("entries: []", "entries: {a: 1}", "- 1")
        ],
        ("schema: 2\nentries: [{engine: {}}]", "portfolio {} has the schema 2; this version of dropopt reads 1"),
        ("entries:\n- engine: {}\n- engine: {r0: 3}", "{}:3: entry 2: r0 must be in [0, 1], got 3"),
        (
            "entries:\n- engine: {}\n  train: {lrr: 3}",
            f"{{}}:2: entry 1: unknown setting 'lrr'; did you mean 'lr'? known: {TRAINED}",
        ),
        ("entries:\n- train: {lr: 3}", "{}:2: entry 1: engine is required"),
        ("entries: [3]", "{}:1: entry 1: Entry must be a mapping of settings, got 3"),
        (
            "entries: [{engine: {}}]\nentry: 3",
            "portfolio {}: unknown setting 'entry'; did you mean 'entries'? known: name, entries, provenance",
        ),
        ("entries: [", "{}:1: not valid here: expected the node content, but found '<stream end>'"),
    ],
)
def test_mistakes_in_a_file(tmp_path, text, message):
    """One line with the file, the line, what was given and what is allowed."""
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_portfolio(str(path))
    assert str(raised.value) == message.format(path)


def test_a_file_is_read_as_it_is_written(tmp_path):
    """With its entries in their order; a study keeps the name and the entries, without where they come from."""
    text = "{}provenance: {{a: 1}}\nentries: [{{engine: {{r0: 0.2}}, source: x}}, {{engine: {{}}, train: {{lr: 0.5}}}}]"
    entries = ({"engine": {"r0": 0.2}, "source": "x", "train": {}}, {"engine": {}, "source": "", "train": {"lr": 0.5}})
    for schema in ("", "schema: 1\n"):
        (tmp_path / "mine.yaml").write_text(text.format(schema))
        found = load_portfolio("mine.yaml", tmp_path)
        assert found.provenance == {"a": 1}
        assert found.plain() == {"name": "mine", "entries": entries}
    assert load_portfolio("none") is None


ENGINE = {"pattern": "spatial", "alpha": 0.5, "w_pfid": 1.0}
CONSTANT = ENGINE | {"alpha": 0.0}
PLAIN = {**ALONE, "alpha": 0.0, "pattern": "element", "allocation": "uniform", "r0": 0.3}
DROPOUT = {"kind": "dropout", "p": 0.1}


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ({"lr": 0.1, "seed": 1}, {"lr": 0.1005, "seed": 2}, True),
        ({"lr": 0.1}, {"lr": 0.102}, False),
        ({"weight_decay": 0.0}, {"weight_decay": 9e-7}, True),
        ({"weight_decay": 0.0}, {"weight_decay": 1e-5}, False),
        ({"schedule": "cosine"}, {"schedule": "constant"}, False),
        ({"channels_last": True}, {"channels_last": False}, False),
    ],
)
def test_which_trainings_are_the_same(one, two, same):
    """Numbers within one percent, whichever comes first; the seed does not count."""
    first, other = RunConfig.parse({"train": one}), RunConfig.parse({"train": two})
    assert _same(first, other) is _same(other, first) is same


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        (ENGINE | {"lambda_loss": 0.1}, ENGINE | {"lambda_loss": 0.2}, False),
        (ENGINE | {"r0": 0.3}, ENGINE | {"r0": 0.302}, True),
        (ENGINE | {"r0": 0.3}, ENGINE | {"r0": 0.31}, False),
        *[
            (CONSTANT | {name: 0.1}, CONSTANT | {name: 0.2}, True)
            for name in ("lambda_loss", "theta_depth", "theta_epoch", "delta")
        ],
        (CONSTANT | {"kappa": 1.0}, CONSTANT | {"kappa": 2.0}, False),
        (
            ENGINE | {"pattern": "own", "allocation": "uniform"},
            ENGINE | {"pattern": "own", "allocation": "feature"},
            True,
        ),
        (ENGINE | {"allocation": "uniform"}, ENGINE | {"allocation": "feature"}, False),
        (ENGINE | {"pattern": "own"}, ENGINE | {"allocation": "uniform"}, False),
        (PLAIN, {**ALONE, "alpha": 0.0, "pattern": "own", "w_adaptive": 0.2, "kappa": 9.0, "r0": 0.3}, True),
        (PLAIN, PLAIN | {"pattern": "channel"}, False),
        (EVEN, {f"w_{name}": 0.8 for name in METHODS}, True),
        (EVEN, EVEN | {"w_pfid": (0.2, 0.2, 0.2)}, True),
        (EVEN, EVEN | {"w_pfid": (0.2, 0.2, 0.3)}, False),
        (EVEN, EVEN | {"w_pfid": 0.205}, True),
        (DROPOUT, DROPOUT, True),
        (DROPOUT, DROPOUT | {"p": 0.2}, False),
        (DROPOUT, DROPOUT | {"kind": "dropout2d"}, False),
        (DROPOUT | {"p": 0.5}, {}, False),
    ],
)
def test_which_engines_are_the_same(one, two, same):
    """Those that drop in the same way, numbers within one percent, whichever comes first."""
    first, other = RunConfig.parse({"engine": one}), RunConfig.parse({"engine": two})
    assert _same(first, other) is _same(other, first) is same
    assert _same(first, first)


def test_trials_that_another_program_enqueued_are_no_obstacle():
    """Their parameters may be those of no configuration."""
    space = Space.load("compact").bound(RunConfig())
    study = optuna.create_study()
    study.enqueue_trial({"r0": 9.0})
    study.enqueue_trial({"r0": "much"})
    enqueue_portfolio(study, PORTFOLIO_OF_FOUR, space, space.base(RunConfig()), 10, 4)
    assert names_of(study.get_trials()) == [None, None, "portfolio 1", "portfolio 2"]


def test_an_unknown_name(tmp_path, capsys):
    """It is reported before the data are loaded, with the shipped names."""
    with pytest.raises(ConfigError, match=r"no portfolio 'small'; known: small_images"):
        load_portfolio("small")
    with pytest.raises(ConfigError, match=r"portfolio lost.yaml does not exist; give a .yaml file or one of"):
        fake_study.run(str(tmp_path / "s.db"), n_trials=10, portfolio="lost.yaml")


def test_the_choice_of_a_portfolio():
    """Greedy: first the best on average, then what adds most to the others and to the anchors, then good ones."""
    losses = {
        "first": {"anchor": 4.0, "all-round": 2.0, "first": 1.0, "second": 9.0, "bad": 9.0},
        "second": {"anchor": 4.0, "all-round": 3.0, "first": 9.0, "second": 2.0, "bad": 9.0},
    }
    scores = normalised(losses)
    assert scores["first"]["anchor"] == 1.0
    assert (scores["first"]["first"], scores["first"]["all-round"]) == (0.0, pytest.approx(1 / 3))
    names = ["first", "second", "all-round", "bad"]
    assert choose(scores, names, 4, ["anchor"]) == ["all-round", "second", "first", "bad"]
    assert choose(scores, names[:2], 8) == ["second", "first"]
    assert regret(scores, ["anchor"]) == 1.0
    assert regret(scores, ["not trained"]) == WORST
    assert normalised({"t": {"a": 1.0, "b": 2.0, "pruned": math.inf}})["t"] == {"a": 0.0, "b": 2.0, "pruned": WORST}


def test_the_shipped_portfolio():
    """It has eight entries with their sources, and says how it was made; `compact` and `blend` can express most."""
    assert shipped.names("portfolios") == ["small_images"]
    portfolio = load_portfolio("small_images")
    assert len(portfolio.entries) == 8
    assert all(entry.source and entry.train["optimizer"] == "sgd" for entry in portfolio.entries)
    assert {"command", "tasks", "seeds", "versions", "processor"} <= portfolio.provenance.keys()
    assert len(runs(Space.load("compact"), portfolio)) == 8
    assert len(runs(Space.load("blend"), portfolio)) >= 3
