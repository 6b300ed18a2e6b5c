"""Which shares were suggested with a value: known without reading all trials again."""

import random

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import create_trial

from dropopt.study.blend.suggested import FEWEST_ALIKE, Suggested

SHARES = ("w_a", "w_b", "w_c")
OTHERS = {"kind": CategoricalDistribution([None, True, "a"]), "n": IntDistribution(0, 2), "x": FloatDistribution(0, 2)}


def made(draw):
    """A trial that suggests some of the shares, depending on its kind."""
    kind = draw.choice([None, True, "a"])
    shares = [share for share in SHARES if draw.random() < 0.9 and (kind or share != "w_c")]
    params = dict.fromkeys(shares, 0.5) | {"kind": kind, "n": draw.randrange(3), "x": draw.choice([1.0, 0.3])}
    distributions = dict.fromkeys(shares, FloatDistribution(0, 1)) | OTHERS
    return create_trial(params=params, distributions=distributions, value=1.0)


def test_it_equals_what_all_trials_say():
    """Trials finish in any order; a list without one of the earlier trials is of another study."""
    draw, flat, absent = random.Random(0), frozenset(SHARES), object()
    trials = [made(draw) for _ in range(60)]
    finished = [False] * len(trials)
    suggested = Suggested(flat)
    for number in draw.sample(range(len(trials)), len(trials)):
        finished[number] = True
        found = [trial for trial, done in zip(trials, finished, strict=True) if done]
        assert suggested.add(found)
        assert suggested.missing == any(flat - trial.params.keys() for trial in found)
        for name, value in (("kind", None), ("kind", True), ("kind", "a"), ("n", 0), ("n", 2), ("x", 1), ("none", 1)):
            alike = [trial.params for trial in found if trial.params.get(name, absent) == value]
            never = flat.difference(*alike) if len(alike) >= FEWEST_ALIKE else frozenset()
            assert suggested.never_with(name, value) == never
    assert not suggested.add(trials[1:])
    assert not suggested.add([made(draw) for _ in range(61)])
