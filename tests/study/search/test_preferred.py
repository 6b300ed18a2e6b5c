"""What stands in for a trial: the preferred value of each parameter, else a legal one near it or in the middle."""

import itertools
import math

import pytest

from dropopt.config import RunConfig
from dropopt.study.define.space import Space
from dropopt.study.search.preferred import PreferringTrial, preferred_values

PREFERRED = [None, True, "text", -9, 0.0, 1, 1.4, 2, 3.2, 3.9, 5, 7.5, 8.0, 90]
#: low, high, step, log; the length of a range is a multiple of its step, except for integers.
FLOATS = [(1.0, 8.0, None, False), (1.0, 8.0, None, True), (-2.0, 1.0, None, False), (1.0, 8.0, 3.5, False)]
FLOATS += [(0.0, 9.0, 4.5, False)]
INTEGERS = [(1, 8, 1, False), (1, 8, 1, True), (1, 8, 3, False), (2, 9, 5, False), (1, 7, 4, False)]


def target(preferred, low, high, clip, log):
    """The number that is wanted, written out."""
    if not isinstance(preferred, bool | str | None):
        if low <= preferred <= high:
            return preferred
        if clip:
            return low if preferred < low else high
    return math.sqrt(low * high) if log else (low + high) / 2


@pytest.mark.parametrize("clip", [False, True])
def test_numbers_are_the_nearest_legal_ones(clip):
    """Of a grid, the nearest point; without one, the number itself. They are clipped on request only."""
    options = {"clip": True} if clip else {}
    for preferred, (low, high, step, log) in itertools.product(PREFERRED, FLOATS + INTEGERS):
        trial, case, kind = PreferringTrial({"a": preferred, "b": 5.0}, **options), (preferred, low, high), type(low)
        suggest = trial.suggest_float if kind is float else trial.suggest_int
        value = suggest("a", low, high, step=step, log=log)
        assert (trial.chosen, type(value)) == ({"a": value}, kind), case
        wanted = target(preferred, low, high, clip, log)
        grid = [wanted] if step is None else [low + step * n for n in range(round((high - low) // step) + 1)]
        assert value in grid, case
        assert abs(value - wanted) == min(abs(point - wanted) for point in grid), case


def test_a_choice_has_the_type_of_the_preferred_value():
    """1, 1.0 and true are different choices; without the preferred one, the first is taken."""
    for preferred, expected in ((1, 1), (True, True), (1.0, 1.0), ("b", "b"), (None, "b"), ("c", "b")):
        trial = PreferringTrial({"a": preferred})
        found = trial.suggest_categorical("a", ("b", 1, True, 1.0))
        assert (found, type(found), trial.chosen) == (expected, type(expected), {"a": expected})
    assert PreferringTrial({}).suggest_categorical("a", (None, 1)) is None


def test_which_values_are_preferred(tmp_path):
    """Settings that are given, else the study's; a range of training only for the optimizer it was chosen for."""
    path = tmp_path / "space.yaml"
    engine = "engine:\n  r0: {low: 0, high: 1}\n  kappa: {low: 0, high: 1}\n  pattern: [own, element]\n"
    engine += "  w_pfid: {low: 0, high: 1, stages: 3}\n"
    train = "train:\n  lr: {low: 0.1, high: 1}\n  schedule: [cosine, constant]\n  momentum: {low: 0, high: 0.5}\n"
    path.write_text(engine + train)
    base = RunConfig.parse({"engine": {"kappa": 2.0, "pattern": "channel"}, "train": {"schedule": "constant"}})
    shares = dict.fromkeys(["w_pfid_early", "w_pfid_middle", "w_pfid_late"], 0.25)
    ours = {"r0": 0.5, "kappa": 2.0, "pattern": "channel", **shares}
    space, given = Space.load(path), {"r0": 0.5, "w_pfid": 0.25}
    assert preferred_values(space, base, given) == ours | {"schedule": "constant"}
    tuned = {"lr": 0.3, "schedule": "cosine"}
    assert preferred_values(space, base, given, tuned) == ours | tuned
    assert preferred_values(space, base, given, tuned | {"optimizer": "sgd"}) == ours | tuned
    assert preferred_values(space, base, given, tuned | {"optimizer": "adamw"}) == ours | {"schedule": "cosine"}
    adamw = RunConfig.parse({"engine": base.engine.model_dump(), "train": {"optimizer": "adamw"}})
    assert preferred_values(space, adamw, given, tuned) == ours | tuned  # without an optimizer: for the study's
    assert preferred_values(space, adamw, given, tuned | {"optimizer": "sgd"}) == ours | {"schedule": "cosine"}
    path.write_text(engine + train + "  optimizer: adamw\n")
    assert preferred_values(Space.load(path), base, given, tuned | {"optimizer": "adamw"}) == ours | tuned
    assert preferred_values(Space.load(path), base, given, tuned) == ours | {"schedule": "cosine"}
    path.write_text(engine + train + "  optimizer: [adamw, sgd]\n")
    both = ours | tuned | {"optimizer": "sgd"}
    for study in (base, adamw):  # the optimizer of the study has no effect if the space searches it
        assert preferred_values(Space.load(path), study, given, tuned | {"optimizer": "sgd"}) == both
    by = "  lr: {by: {optimizer: {adamw: {low: 0.1, high: 1}, sgd: {low: 0.1, high: 1}}}}\n  optimizer: [adamw, sgd]\n"
    path.write_text(engine + "train:\n" + by)
    found = preferred_values(Space.load(path), base, given, {"lr_sgd": 3, "lr": 0.3, "optimizer": "sgd"})
    assert found == ours | {"optimizer": "sgd", "lr_sgd": 0.3}
    baselines = Space.load("dropout")
    assert preferred_values(baselines, base, {"p": 0.2})["kind"] is None, "the study's engine is none of its kinds"
