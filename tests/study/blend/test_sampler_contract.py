"""Optuna's own tests of samplers, over the efficacy sampler with many bases and blends."""

import warnings

import optuna
import pytest
from optuna.samplers import TPESampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, RelativeSamplerTestCase

from dropopt.study.blend.names import BLEND
from dropopt.study.blend.sampler import EfficacySampler

BASES = {
    "tpe": lambda: TPESampler(multivariate=True, constant_liar=True, seed=1),
    "tpe, independent": lambda: TPESampler(seed=1),
    "tpe, grouped": lambda: TPESampler(multivariate=True, group=True, seed=1),
    "random": lambda: optuna.samplers.RandomSampler(seed=1),
    "qmc": lambda: optuna.samplers.QMCSampler(seed=1, warn_independent_sampling=False),
    "cmaes": lambda: optuna.samplers.CmaEsSampler(seed=1, n_startup_trials=0, warn_independent_sampling=False),
    "gp": lambda: optuna.samplers.GPSampler(seed=1, n_startup_trials=0, warn_independent_sampling=False),
    "gp, deterministic": lambda: optuna.samplers.GPSampler(
        seed=1, n_startup_trials=0, deterministic_objective=True, warn_independent_sampling=False
    ),
    "cmaes, separable": lambda: optuna.samplers.CmaEsSampler(
        seed=1, n_startup_trials=0, use_separable_cma=True, warn_independent_sampling=False
    ),
    "nsga2": lambda: optuna.samplers.NSGAIISampler(seed=1, population_size=4),
    "nsga3": lambda: optuna.samplers.NSGAIIISampler(seed=1, population_size=4),
    "partly fixed": lambda: optuna.samplers.PartialFixedSampler({"fixed": 2}, TPESampler(seed=1)),
    "efficacy": lambda: EfficacySampler(blend=("u", "v"), seed=1),
}
#: The parameters of Optuna's tests are x, y, z, a, b, ...: no part of the blend, some of it, or the blend itself.
BLENDS = {"absent": BLEND, "whole": ("x", "y"), "partly": ("x", "share"), "by stage": (("x", "y"), ("a", "b"))}
CASES = [(base, blend) for base in BASES for blend in BLENDS]
QUICK = [("tpe", "whole"), ("tpe", "by stage"), ("random", "partly"), ("cmaes", "whole"), ("efficacy", "absent")]
#: Bases that sample jointly from the second trial on, which the tests of joint sampling take for granted. The shares of
#: a blend are drawn later, when the other parameters are known, so that the blend has to be absent.
JOINT = {
    "tpe": lambda: TPESampler(multivariate=True, n_startup_trials=0, seed=1),
    "gp": BASES["gp"],
    "cmaes": BASES["cmaes"],
}


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def pytest_generate_tests(metafunc):
    """Make samplers of a few cases, or of all with the option --all-samplers."""
    everything = metafunc.config.getoption("all_samplers")
    if metafunc.cls is TestJoint:
        cases = [(JOINT[base], base, "absent") for base in (JOINT if everything else ["tpe"])]
    else:
        cases = [(BASES[base], base, blend) for base, blend in (CASES if everything else QUICK)]
    samplers = [
        lambda make=make, blend=blend: EfficacySampler(make(), BLENDS[blend], seed=1) for make, _, blend in cases
    ]
    metafunc.parametrize("sampler", samplers, ids=[f"{base}-{blend}" for _, base, blend in cases])


class TestBasic(BasicSamplerTestCase):
    """Independent sampling, conditional spaces, dynamic ranges, fixed parameters, objectives that are not finite."""


class TestJoint(RelativeSamplerTestCase):
    """Joint sampling."""
