"""Search spaces: the grammar of files, the errors for mistakes, and the configurations of trials."""

import math
from dataclasses import replace

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from spaces import space_of

from dropopt.config import Baseline, ConfigError, EngineConfig, RunConfig, TrainConfig
from dropopt.study import Study
from dropopt.study.define import shipped
from dropopt.study.define.space import Space, _Draw

SHIPPED = ["blend", "compact", "dropout", "even_blend", "no_dropout", "paper"]

#: ``1e-4`` is a number, although YAML 1.1 reads it as text.
BY_OPTIMIZER = """train:
  lr: {by: {optimizer: {sgd: {low: 0.1, high: 0.5}, adamw: {low: 1e-4, high: 1E-2, log: true}}}}
"""


def drawn(space, count=1, base=None):
    """The configurations of trials at random, with their parameters."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trials = [study.ask() for _ in range(count)]
    return [(space.suggest(trial, 10, base), trial.params) for trial in trials]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_spaces_suggest_valid_configurations(name):
    """Every shipped space loads by name and suggests valid configurations."""
    assert shipped.names("search_spaces") == SHIPPED
    found = Space.load(name)
    for run, params in drawn(found, 20):
        assert isinstance(run.engine, found.engine)
        assert params.keys() <= {parameter.name for parameter in found.parameters}


def test_paper_space_searches_every_symbol():
    """The paper's space searches all symbols, the five weights and the categorical settings."""
    names = {parameter.name for parameter in Space.load("paper").parameters}
    symbols = set(EngineConfig.model_fields) - {"efficacy_floor", "importance_decay", "update_every"}
    assert names == symbols | {"lr", "weight_decay"}


def test_compact_space_searches_ten_settings_of_the_engine():
    """With an alpha below 0, the rate increases with depth and time. All arms search the same settings of training."""
    found = Space.load("compact").parameters
    engine = {parameter.name: parameter for parameter in found if parameter.section == "engine"}
    assert (len(engine), engine["alpha"].low, engine["alpha"].high) == (10, -1, 1)
    for arm in ("no_dropout", "dropout", "blend", "even_blend"):
        train = [p for p in Space.load(arm).parameters if p.section == "train"]
        assert train == [parameter for parameter in found if parameter.section == "train"]


def test_plain_values_are_fixed(tmp_path):
    """A plain value, or the list of a setting that can be one, is the same in every trial.

    Settings that the file omits come from the base.
    """
    text = "engine:\n  r0: {low: 0, high: 0.5}\n  reading: printed\ntrain:\n  augment: [shift, flip]\n"
    base = RunConfig(engine=EngineConfig(kappa=2.0, reading="sound"), train=TrainConfig(epochs=7))
    ((run, _),) = drawn(space_of(tmp_path, text), base=base)
    assert (run.engine.reading, run.engine.kappa, run.train.epochs) == ("printed", 2.0, 7)
    assert run.train.augment == ("shift", "flip")


@pytest.mark.parametrize(
    ("text", "name", "holds"),
    [
        (
            "block_size: {low: 1, high: 5, when: {pattern: spatial, reading: sound}}\n"
            "  pattern: [channel, spatial]\n  reading: sound",
            "block_size",
            lambda params: params["pattern"] == "spatial",
        ),
        (
            "pattern: [channel, spatial]\n  allocation: {choices: [uniform, feature], when: {pattern: spatial}}\n"
            "  kappa: {low: 0, high: 3, when: {allocation: feature}}",
            "kappa",
            lambda params: params.get("allocation") == "feature",
        ),
        (
            "lambda_init: [1, 2.5]\n  kappa: {low: 0, high: 1, when: {lambda_init: 1}}",
            "kappa",
            lambda params: params["lambda_init"] == 1,
        ),
    ],
    ids=["wherever it is in the file", "not if the condition is on an inactive parameter", "1 is the number 1.0"],
)
def test_a_parameter_is_suggested_if_its_conditions_hold(tmp_path, text, name, holds):
    """Otherwise its setting has the default."""
    found = drawn(space_of(tmp_path, f"engine:\n  {text}\n"), 30)
    for run, params in found:
        assert (name in params) == holds(params)
        assert getattr(run.engine, name) == params.get(name, getattr(EngineConfig(), name))
    assert {name in params for _, params in found} == {True, False}


@pytest.mark.parametrize("name", ["compact", "paper"])
def test_whole_methods_have_no_allocation(name):
    """In pattern ``own`` each method allocates its rate itself, and one of the methods has blocks."""
    found = drawn(Space.load(name), 40)
    for run, params in found:
        assert ("allocation" in params) == (run.engine.pattern != "own")
        assert ("block_size" in params) == (name == "paper" and run.engine.pattern in ("spatial", "own"))
    assert {run.engine.pattern for run, _ in found} == {"element", "channel", "structured", "spatial", "own"}


def test_a_range_may_depend_on_a_setting_of_the_study(tmp_path):
    """The study's optimizer decides which range of the learning rate is searched, under the same name."""
    found = space_of(tmp_path, BY_OPTIMIZER)
    for optimizer, low, high in (("sgd", 0.1, 0.5), ("adamw", 1e-4, 1e-2)):
        base = RunConfig(train=TrainConfig(optimizer=optimizer))
        (parameter,) = found.bound(base).parameters
        assert (parameter.name, parameter.low, parameter.high, parameter.log) == ("lr", low, high, optimizer == "adamw")
        ((run, params),) = drawn(found, base=base)
        assert low <= run.train.lr == params["lr"] <= high
    assert len({found.bound(RunConfig(train=TrainConfig(optimizer=o))).fingerprint for o in ("sgd", "adamw")}) == 2
    only = space_of(tmp_path, "train:\n  lr: {by: {optimizer: {adamw: {low: 1e-4, high: 1e-2}}}}\n  optimizer: adamw\n")
    assert only.parameters[0].high == 1e-2


def test_a_range_may_depend_on_a_setting_of_the_studys_engine(tmp_path):
    """The default and a baseline are ``uniform``; a value that the space fixes comes before the study's."""
    ranges = "{feature: {low: 0.1, high: 0.2}, uniform: {low: 0.3, high: 0.4}}"
    text = f"engine:\n  r0: {{by: {{allocation: {ranges}}}}}\n"
    found = space_of(tmp_path, text)
    for engine, lowest in (({}, 0.3), ({"kind": "dropout"}, 0.3), ({"allocation": "feature"}, 0.1)):
        base = RunConfig.parse({"engine": engine})
        assert found.bound(base).parameters[0].low == lowest
    fixed = space_of(tmp_path, f"{text}  allocation: uniform\n")
    assert fixed.bound(RunConfig.parse({"engine": {"allocation": "feature"}})).parameters[0].low == 0.3


def test_a_range_may_depend_on_a_searched_setting(tmp_path):
    """Each range is then a parameter of its own, because the range of an Optuna parameter should not change."""
    found = space_of(tmp_path, BY_OPTIMIZER + "  optimizer: [sgd, adamw]\n")
    assert [parameter.name for parameter in found.parameters] == ["optimizer", "lr_sgd", "lr_adamw"]
    trials = drawn(found, 10)
    for run, params in trials:
        assert params == {"optimizer": run.train.optimizer, f"lr_{run.train.optimizer}": run.train.lr}
        assert (run.train.lr >= 0.1) == (run.train.optimizer == "sgd")
    assert {run.train.optimizer for run, _ in trials} == {"sgd", "adamw"}


def test_a_study_may_search_a_range_for_its_own_settings_only(tmp_path):
    """A file with ranges for other values than the defaults serves the studies that set these values, and no other."""
    path = tmp_path / "space.yaml"
    path.write_text(
        "engine:\n  r0: {by: {pattern: {spatial: {low: 0.1, high: 0.2}, own: {low: 0.3, high: 0.4}}}}\n"
        "train:\n  lr: {by: {optimizer: {adamw: {low: 1e-4, high: 1e-2}}}}\n"
    )
    for pattern, low in (("spatial", 0.1), ("own", 0.3)):
        settings = {"engine": {"pattern": pattern}, "train": {"optimizer": "adamw"}}
        study = Study(name="a", space=str(path), **settings)
        found = study.load_space()
        assert [parameter.low for parameter in found.parameters] == [low, 1e-4]
        assert found == found.bound(study.base(found))  # the range of the workers that join the study
    with pytest.raises(ConfigError, match=r"space.yaml: r0 has no range for pattern = element; it has: spatial, own"):
        Study(name="a", space=str(path), engine={"pattern": "element"}).load_space()
    baselines = "  kind: [dropout, dropblock]\n  p: {by: {schedule: {linear: {low: 0.1, high: 0.2}}}}\n"
    linear = RunConfig.parse({"engine": {"kind": "dropout", "schedule": "linear"}})
    assert space_of(tmp_path, f"engine:\n{baselines}").bound(linear).parameters[1].high == 0.2


def test_fingerprints_of_files_that_exist_stay_the_same(tmp_path):
    """A study is resumed only if the fingerprint of its space is the same; new keys of the grammar do not change it."""
    text = """
engine:
  r0: {low: 0.0, high: 0.5}
  pattern: [element, spatial]
  block_size: {low: 1, high: 5, step: 2, when: {pattern: spatial}}
  w_pfid: {low: 0, high: 1, stages: 3}
  reading: sound
train:
  lr: {low: 0.01, high: 0.5, log: true}
"""
    assert space_of(tmp_path, text).fingerprint == "3e3070a84915dd89"
    assert Study(name="a", space="no_dropout").load_space().fingerprint == "eca6695031e9f7da"
    by = space_of(tmp_path, BY_OPTIMIZER)
    assert (by.fingerprint, by.bound(RunConfig()).fingerprint) == ("a1042aedcae800d6", "7e6ec43db78331b5")
    assert space_of(tmp_path, BY_OPTIMIZER + "  optimizer: [sgd, adamw]\n").fingerprint == "d2c60633d5d61e66"


PLACES = {
    "auto": ["norm1", "norm2", "hidden"],
    "norm": ["norm1", "norm2"],
    "conv": ["conv1", "conv2"],
    "linear": ["hidden"],
    "block": [],
}


def sites(tmp_path, *choices):
    return space_of(tmp_path, f"engine:\n  sites: {{choices: [{', '.join(choices)}]}}\n")


def test_choices_of_sites_are_those_that_the_network_offers(tmp_path):
    """A choice that selects nothing, or what an earlier one selects, is left out; patterns are kept."""
    found = sites(tmp_path, "auto", "norm", "conv", "block", "'last:1'", "linear", "'last:2'", "'last:9'", "layer*")
    reasons = found.offered_sites(PLACES)
    assert [choice for choice, reason in reasons.items() if not reason] == [
        *("auto", "norm", "conv", "last:1", "last:2", "layer*")
    ]
    assert reasons["block"] == "block matches no module before the output layer"
    assert reasons["linear"] == "linear chooses the same modules as last:1"
    assert reasons["last:9"] == "last:9 chooses the same modules as auto"
    assert found.with_sites(["auto", "conv"]).sites == ("auto", "conv")
    assert found.offered(PLACES).sites == ("auto", "norm", "conv", "last:1", "last:2", "layer*")
    none = "last:0 matches no module before the output layer"
    found = sites(tmp_path, "'last:0'", "auto", "last:x").offered_sites(PLACES)
    assert found == {"last:0": none, "auto": "", "last:x": ""}


def test_unknown_places_leave_the_choices_as_they_are(tmp_path):
    """Without a report of the network nothing is left out, and a space that searches no sites has no choices."""
    assert set(sites(tmp_path, "auto", "'last:2'", "block").offered_sites({}).values()) == {""}
    plain = Space.load("no_dropout")
    assert plain.offered_sites(PLACES) == {}
    assert plain.offered(PLACES) is plain
    assert (plain.conditional, Space.load("paper").conditional) == (False, True)


def test_a_network_without_any_of_the_sites_is_refused(tmp_path):
    """The error names the choices and what the network has."""
    said = "space.yaml: no choice of sites matches a module of this network"
    with pytest.raises(ConfigError, match=f"{said}: block; it has: auto, norm"):
        sites(tmp_path, "block").offered_sites(PLACES)
    with pytest.raises(ConfigError, match=f"{said}: block, last:0; it has: none$"):
        sites(tmp_path, "block", "'last:0'").offered_sites({"auto": [], "block": []})


def test_the_fingerprint_depends_on_content_only(tmp_path):
    """Comments, order and layout do not change the fingerprint of a space; a bound does."""
    one = space_of(tmp_path, "# a\nengine:\n  r0: {low: 0, high: 0.5}\n  kappa: {low: 0, high: 1}\n").fingerprint
    two = space_of(tmp_path, "engine:\n  kappa: {high: 1, low: 0}\n  r0:\n    low: 0\n    high: 0.5\n").fingerprint
    other = space_of(tmp_path, "engine:\n  r0: {low: 0, high: 0.6}\n  kappa: {low: 0, high: 1}\n").fingerprint
    assert one == two != other


def test_distributions_are_those_of_the_file(tmp_path):
    """Each range becomes one distribution of Optuna, which the trial gets under the same name."""
    text = """
engine:
  r0: {low: 0.1, high: 0.5, step: 0.2}
  alpha: {low: 0.01, high: 1.0, log: true}
  block_size: {low: 3, high: 9, step: 2}
  update_every: {low: 1, high: 8, log: true}
  lambda_loss: {low: 0.5, high: 1.0, unit: ln_classes}
  pattern: [element, spatial]
"""
    expected = {
        "r0": FloatDistribution(0.1, 0.5, step=0.2),
        "alpha": FloatDistribution(0.01, 1.0, log=True),
        "block_size": IntDistribution(3, 9, step=2),
        "update_every": IntDistribution(1, 8, log=True),
        "lambda_loss": FloatDistribution(0.5 * math.log(7), math.log(7)),
        "pattern": CategoricalDistribution(("element", "spatial")),
    }
    found = space_of(tmp_path, text)
    assert {parameter.name: parameter.distribution(7) for parameter in found.parameters} == expected
    trial = optuna.create_study().ask()
    found.suggest(trial, 7)
    assert trial.distributions == expected


PATTERNS = "element, channel, structured, spatial, own"
ENGINE = ", ".join(EngineConfig.model_fields)
OTHERS = ", ".join(name for name in TrainConfig.model_fields if name != "lr")
BY_STUDY = "is set by the study and must be the same for all trials; remove it"


def test_a_condition_is_kept_by_each_range_of_a_setting(tmp_path):
    """Beside the condition on the setting that decides the range."""
    ranges = "{sgd: {low: 0.1, high: 0.5, log: true}, adamw: {choices: [0.1, 0.2]}}"
    text = (
        f"train:\n  lr: {{by: {{optimizer: {ranges}}}, when: {{schedule: cosine}}}}\n  schedule: [cosine, onecycle]\n"
    )
    (fixed,) = [p for p in space_of(tmp_path, text).bound(RunConfig()).parameters if p.setting == "lr"]
    assert (fixed.name, fixed.when) == ("lr", {"schedule": ("cosine",)})
    found = {p.name: p for p in space_of(tmp_path, text + "  optimizer: [sgd, adamw]\n").parameters}
    assert found["lr_sgd"].when == {"schedule": ("cosine",), "optimizer": ("sgd",)}
    assert found["lr_adamw"].when == {"schedule": ("cosine",), "optimizer": ("adamw",)}
    assert (found["lr_sgd"].log, found["lr_adamw"].choices) == (True, (0.1, 0.2))
    assert not found["lr_sgd"].active({"schedule": "cosine"})
    assert found["lr_sgd"].active({"schedule": "cosine", "optimizer": "sgd"})


def test_a_file_is_checked_with_configurations_of_its_whole_range(tmp_path):
    """Those at the border are valid, no other is drawn, and one invalid configuration in 20 is found."""
    for setting in (
        "r0: {low: 0.6, high: 1.0, step: 0.2}",
        "r0: {low: 0.9, high: 1.0}",
        "block_size: {low: 1, high: 2, log: true}",
        "kind: dropblock\n  block_size: {low: 1, high: 9, step: 4}",
    ):
        space_of(tmp_path, f"engine:\n  {setting}\n")
    many = ", ".join(map(str, [*range(1, 39, 2), 2]))
    for setting in ("{low: 1, high: 2}", f"[{many}]"):
        with pytest.raises(ConfigError, match=r"space.yaml:1: some .* block_size must be odd for dropblock, got 2$"):
            space_of(tmp_path, f"engine:\n  kind: dropblock\n  block_size: {setting}\n")
    # The two ends of a range with steps are drawn.
    draws = [_Draw(seed) for seed in range(50)]
    assert {one.suggest_float("a", 0.5, 1.0, step=0.25) for one in draws} == {0.5, 0.75, 1.0}
    assert {one.suggest_int("a", 3, 7, step=2) for one in draws} == {3, 5, 7}
    assert {one.suggest_int("a", 3, 4) for one in draws} == {3, 4}
    assert {one.suggest_categorical("a", "xy") for one in draws} == {"x", "y"}
    values = [one.suggest_float("a", 0.5, 1.0) for one in draws]
    assert 0.5 <= min(values) < 0.55
    assert 0.95 < max(values) < 1.0


def test_a_configuration_has_everything_of_its_base(tmp_path):
    """Data, network, task and training; settings of another kind of engine do not apply."""
    given = {"data": {"subset": 9}, "model": {"name": "vgg"}, "task": {"metric": "loss"}, "train": {"epochs": 7}}
    base = RunConfig.parse(given | {"engine": {"r0": 0.25, "kappa": 2.0}})
    text = "engine:\n  kappa: {low: 0, high: 1}\n  w_pfid: {low: 0, high: 1, stages: 3}\ntrain:\n  lr: [0.1, 0.2]\n"
    found = space_of(tmp_path, text)
    values = {"kappa": 0.5, "lr": 0.2, "w_pfid_early": 0.1, "w_pfid_middle": 0.2, "w_pfid_late": 0.3}
    wanted = {"train": {"epochs": 7, "lr": 0.2}, "engine": {"r0": 0.25, "kappa": 0.5, "w_pfid": (0.1, 0.2, 0.3)}}
    assert found.resolve(values, base) == RunConfig.parse(given | wanted)
    assert found.resolve({}, base) == base
    trial = optuna.trial.FixedTrial(values)
    assert found.suggest(trial, 10, base) == RunConfig.parse(given | wanted)
    assert found.suggest(trial, 10).engine.r0 == EngineConfig().r0
    drop = Space.load("dropout")
    run = drop.base(base)
    assert (run.data, run.model, run.task, run.train.epochs) == (base.data, base.model, base.task, 7)
    assert run.engine == Baseline(kind=drop.parameters[0].choices[0])
    fixed = space_of(tmp_path, "engine:\n  kind: dropblock\n  block_size: 3\n  p: {low: 0, high: 0.5}\n")
    assert fixed.base(RunConfig()).engine == Baseline(kind="dropblock", block_size=3)
    with pytest.raises(ConfigError, match=r"space.yaml: block_size must be odd"):
        replace(fixed, fixed={"engine": {"kind": "dropblock", "block_size": 2}}).base(RunConfig())


def test_the_loss_threshold_scales_with_the_number_of_classes(tmp_path):
    """``unit: ln_classes`` multiplies a range by the loss of guessing, ln(classes); without classes, as with two."""
    (parameter,) = space_of(tmp_path, "engine:\n  lambda_loss: {low: 0.5, high: 1.0, unit: ln_classes}\n").parameters
    assert [parameter.range(n) for n in (0, 1, 2)] == [(0.5 * math.log(2), math.log(2))] * 3
    assert parameter.range(3) == (0.5 * math.log(3), math.log(3))


MISTAKES = {
    "engine:\n  alfa: {low: 0, high: 1}\n":
        f"2: unknown name 'alfa' in engine; did you mean 'alpha'? known: {ENGINE}",
    "engin:\n  r0: 1\n": "1: unknown name 'engin' in a search space; did you mean 'engine'? known: engine, train",
    "engine:\n  r0: {low: 0.5, high: 0.5}\n": "2: r0: low must be below high, got 0.5 and 0.5",
    f"engine:\n  r0: {'x' * 60}\n": f"2: r0 must be in [0, 1], got {'x' * 60}",
    f"engine:\n  r0: {'x' * 61}\n": f"2: r0 must be in [0, 1], got {'x' * 57}...",
    "train:\n  lr: {low: 0, high: 1, log: true}\n": "2: lr: low is 0; lr must be a number > 0",
    "engine:\n  kappa: {low: 0, high: 1, log: true}\n": "2: kappa: a log range must start above 0, got low 0",
    "engine:\n\n  r0:\n    low: 0\n    high: 1.3\n": "5: r0: high is 1.3; r0 must be in [0, 1]",
    "engine:\n  r0: 1.3\n": "2: r0 must be in [0, 1], got 1.3",
    "engine:\n  r0: true\n": "2: r0 must be in [0, 1], got true",
    "engine:\n  r0: .nan\n": "2: r0 must be in [0, 1], got nan",
    "engine:\n  r0: {low: 0}\n": "2: r0 needs high: {low: ..., high: ...}",
    "engine:\n  r0: {low: a, high: 1}\n": "2: r0: low must be a number, got a",
    "engine:\n  r0: {lo: 0, high: 1}\n":
        "2: unknown name 'lo' in r0; did you mean 'low'? known: low, high, log, step, unit, stages, when",
    "engine:\n  r0: {low: 0, high: 1, log: 1}\n": "2: r0: log must be true or false, got 1",
    "engine:\n  r0: {low: 0, high: 1, unit: nats}\n": "2: r0: unit must be ln_classes (not for integers), got nats",
    "engine:\n  r0: {low: 0, high: 1, step: 0.3}\n": "2: r0: high - low must be a multiple of step 0.3, got 0 to 1",
    "engine:\n  r0: {low: 0, high: 1, step: 2}\n": "2: r0: step must be a number in (0, high - low], got 2",
    "engine:\n  block_size: {low: 1.5, high: 3}\n": "2: block_size: low is 1.5; block_size must be an integer >= 1",
    "engine:\n  pattern: {low: 0, high: 1}\n":
        f"2: pattern is not a number; give choices: one of {PATTERNS}",
    "engine:\n  pattern: [element, chanel]\n": f"2: pattern must be one of {PATTERNS}, got chanel",
    "engine:\n  pattern: [element, element]\n": "2: pattern: element is given twice",
    "engine:\n  pattern: {choices: channel}\n": "2: pattern: choices must be a list of values, got channel",
    "engine:\n  pattern: [[element], channel]\n": "2: pattern: a choice must be one value, got [\"element\"]",
    "engine:\n  r0: {low: 0, high: 1, when: {pattern: spatial}}\n":
        "2: r0: the condition on 'pattern' refers to a setting that this file neither fixes nor searches",
    "engine:\n  pattern: channel\n  r0: {low: 0, high: 1, when: {pattern: spatial}}\n":
        "3: r0: the condition on 'pattern' names spatial; its values in this file are channel",
    "engine:\n  r0: {low: 0, high: 1}\n  kappa: {low: 0, high: 1, when: {r0: 0.5}}\n":
        "3: kappa: the condition on 'r0' must refer to a parameter with choices; r0 is a range",
    "train:\n  lr: {by: optimizer}\n": "2: lr: by must be a mapping (name: value), got optimizer",
    "train:\n  lr: {by: {sgd: {low: 0.1, high: 1}}}\n": f"2: unknown name 'sgd' in lr: by; known: {OTHERS}",
    "train:\n  lr: {by: {optimizer: {}}}\n": "2: lr: by optimizer must be a mapping (name: value), got {}",
    "train:\n  lr: {by: {}}\n": "2: lr: by must name one other setting, got 0",
    "train:\n  lr: {by: {optimizer: {sgdd: {low: 0.1, high: 1}}}}\n":
        "2: optimizer must be one of sgd, adamw, got sgdd",
    "train:\n  lr: {by: {optimizer: {sgd: {low: 2, high: 1}}}}\n": "2: lr: low must be below high, got 2 and 1",
    "train:\n  lr: {by: {optimizer: {sgd: {low: 1, high: 2, stages: 3}}}}\n":
        "2: unknown name 'stages' in lr by optimizer; did you mean 'step'? known: low, high, log, step, unit",
    "train:\n  lr: {low: 1, high: 2, by: {optimizer: {sgd: {low: 1, high: 2}}}}\n":
        "2: unknown name 'low' in lr; known: by, when",
    "train:\n  lr: {by: {optimizer: {sgd: {low: 1, high: 2}}}}\n  optimizer: [sgd, adamw]\n":
        "2: lr has no range for optimizer = adamw; it has: sgd",
    "train:\n  lr: {by: {momentum: {x: {low: 1, high: 2}}}}\n": "2: momentum must be in [0, 1), got x",
    "engine:\n  r0: {low: 0, high: 1, when: spatial}\n": "2: when must be a mapping (name: value), got spatial",
    "engine:\n  r0: {low: 0, high: 1}\n  r0: 0.5\n": "3: 'r0' is given twice, first in line 2",
    "engine:\n  r0: &a {low: 0, high: 1}\n  alpha: *a\n": "2: not valid here: anchors and aliases are not allowed",
    "engine:\n  r0: !!python/object/apply:os.system ['true']\n": (
        "2: 'python/object/apply:os.system' is not allowed here; "
        "allowed: mappings, lists, numbers, text, true, false, null"
    ),
    "engine:\n  r0: 2020-01-01\n": "2: r0 must be in [0, 1], got 2020-01-01",
    "engine: [r0]\n": "1: engine must be a mapping (name: value), got [\"r0\"]",
    "- r0\n": "1: a search space must be a mapping (name: value), got [\"r0\"]",
    "engine:\n  1: 2\n": "2: a key must be text, got 1",
    "engine:\n  r0: 0.5\n": "1: nothing is searched; give at least one setting a range or choices",
    "engine:\n  r0: {low: 0, high\n": "3: not valid here: expected ',' or '}', but got '<stream end>'",
    "train:\n  epochs: {low: 1, high: 9}\n": f"2: epochs {BY_STUDY}",
    "train:\n  smooth: 1\n": f"2: smooth {BY_STUDY}",
    "train:\n  seed: 1\n": f"2: seed {BY_STUDY}",
    "train:\n  device: cpu\n": f"2: device {BY_STUDY}",
    "train:\n  lr_scale: {a: 1}\n": f"2: lr_scale {BY_STUDY}",
    "train:\n  lr: 0.1\n  bad: 2\n": f"3: unknown name 'bad' in train; known: {', '.join(TrainConfig.model_fields)}",
    "engine:\n  r0: {high: 1}\n": "2: r0 needs low: {low: ..., high: ...}",
    "engine:\n  r0:\n    log: true\n": "2: r0 needs low and high: {low: ..., high: ...}",
    "train:\n  augment: [shfit]\n":
        '2: augment must be a list, each one of shift, flip, cutout, got ["shfit"], or {choices: ["shfit"]}',
    "engine:\n  block_size:\n    low: a\n    high: 3\n": "3: block_size: low must be an integer, got a",
    "engine:\n  block_size:\n    low: 1\n    high: true\n": "4: block_size: high must be an integer, got true",
    "engine:\n  block_size:\n    low: 1\n    high: 3\n    step: 0.5\n":
        "5: block_size: step must be an integer in (0, high - low], got 0.5",
    "engine:\n  r0:\n    low: 0\n    high: 1\n    step: true\n":
        "5: r0: step must be a number in (0, high - low], got true",
    "engine:\n  r0:\n    low: 0\n    high: 1\n    step: 0\n": "5: r0: step must be a number in (0, high - low], got 0",
    "engine:\n  kappa:\n    low: 1\n    high: 2\n    log: true\n    step: 0.5\n":
        "6: kappa: a log range cannot have a step",
    "engine:\n  block_size:\n    low: 1\n    high: 3\n    unit: ln_classes\n":
        "5: block_size: unit must be ln_classes (not for integers), got ln_classes",
    "engine:\n  pattern: [element, spatial]\n  r0:\n    low: 0\n    high: 1\n    when:\n      pattern: []\n":
        "7: a condition must give a value or a list of values, got []",
    "engine:\n  pattern: [element, spatial]\n  r0: {low: 0, high: 1, when: {pattern: {a: 1}}}\n":
        '3: a condition must give a value or a list of values, got {"a": 1}',
    "engine:\n  pattern: [element, spatial]\n  r0: {low: 0, high: 1, when: {pattern: [spatial, own]}}\n":
        "3: r0: the condition on 'pattern' names own; its values in this file are element, spatial",
    "train:\n  channels_last: [true, false]\n  lr: {low: 1, high: 2, when: {channels_last: 1}}\n":
        "3: lr: the condition on 'channels_last' names 1; its values in this file are true, false",
    "engine:\n  update_every: {low: 1, high: 3}\n  r0: {by: {update_every: {epoch: {low: 0, high: 1}}}}\n":
        "3: r0: by must name a setting with choices; update_every is a range",
    "train:\n  lr: {by: {optimizer: {sgd: {low: 1, high: 2}}, schedule: {cosine: {low: 1, high: 2}}}}\n":
        "2: lr: by must name one other setting, got 2",
    "train:\n  optimizer: adamw\n  lr: {by: {optimizer: {sgd: {low: 1, high: 2}}}}\n":
        "3: lr has no range for optimizer = adamw; it has: sgd",
    "train:\n  lr: {by: {lr: {sgd: {low: 1, high: 2}}}}\n": f"2: unknown name 'lr' in lr: by; known: {OTHERS}",
    "train:\n  lr: {by: {optimizer: {sgd: {choices: [1], when: {a: b}}}}}\n":
        "2: unknown name 'when' in lr by optimizer; known: choices",
    "train:\n  lr: {by: {optimizer: {sgd: {low: 1, high: 2}}}, when: {}}\n":
        "2: when must be a mapping (name: value), got {}",
    "engine:\n  reading: {choices: [printed, sound], when: {pattern: channel}}\n  r0: {low: 0, high: 1}\n"
    "  pattern: {choices: [channel, element], when: {reading: sound}}\n":
        "2: the conditions of these parameters form a circle: reading, pattern",
    "engine:\n  r0:\n    choices: []\n": "3: r0: choices must be a list of values, got []",
    "engine:\n  r0:\n    low: 0\n    high: 1\n    stages: 3\n": "5: r0 has no stages",
    "engine:\n  w_pfid:\n    choices: [0.5, 0.6]\n    stages: 2\n": "4: stages must be 3",
    "\n# c\nengine:\n  kind: dropblock\n  block_size: {low: 1, high: 2}\n":
        "3: some of its configurations are not valid: block_size must be odd for dropblock, got 2",
    "engine:\n  r0: .inf\n": "2: r0 must be in [0, 1], got inf",
    "engine:\n  r0: ''\n": '2: r0 must be in [0, 1], got ""',
    "engine:\n  kind: dropout\n  p: {low: 0, high: 0.5}\n"
    "  schedule: constant\ntrain:\n  schedule: [cosine, onecycle]\n":
        "6: schedule is given in both engine and train; keep one",
    "engine:\n  kind: dropout\n  schedule: [constant, linear]\ntrain:\n  schedule: [cosine, onecycle]\n":
        "5: schedule is given in both engine and train; keep one",
    "engine:\n  kind: dropout\n  r0: {low: 0, high: 0.5}\n":
        f"3: unknown name 'r0' in engine; known: {', '.join(Baseline.model_fields)}",
    "": " the file is empty",
}  # fmt: skip


@pytest.mark.parametrize("text", MISTAKES, ids=range(len(MISTAKES)))
def test_errors_name_file_and_line(tmp_path, text):
    """Each error is one line: the file, the line number, what was given and what is allowed."""
    with pytest.raises(ConfigError) as caught:
        space_of(tmp_path, text)
    message = str(caught.value)
    assert message == f"{tmp_path / 'space.yaml'}:{MISTAKES[text]}"


@pytest.mark.parametrize("model", [EngineConfig, TrainConfig])
def test_every_numeric_setting_can_be_searched(tmp_path, model):
    """Every numeric setting of the configuration models accepts a range within its bounds."""
    section = "train" if model is TrainConfig else "engine"
    for name, field in model.model_fields.items():
        if field.annotation not in (int, float) or name in ("epochs", "seed", "smooth"):
            continue
        legal = model.model_json_schema()["properties"][name]
        low = legal.get("minimum", legal.get("exclusiveMinimum", -math.inf))
        high = legal.get("maximum", legal.get("exclusiveMaximum", math.inf))
        low = max(low, 0) + (1 if field.annotation is int else 0.01)
        high = low + (2 if field.annotation is int else min(high, 1) * 0.1)
        found = space_of(tmp_path, f"{section}:\n  {name}: {{low: {low}, high: {high}}}\n")
        ((run, params),) = drawn(found)
        assert low <= getattr(getattr(run, section), name) == params[name] <= high
