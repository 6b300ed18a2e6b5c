"""The examples in docstrings of the engine, the equations and the settings run as shown."""

import doctest
import pkgutil
from importlib import import_module

import pytest
import torch

import dropopt.engine

MODULES = ["dropopt.config", "dropopt.equations", "dropopt.randomness", "dropopt.seeds", "dropopt.engine"]
MODULES += [found.name for found in pkgutil.walk_packages(dropopt.engine.__path__, "dropopt.engine.")]


@pytest.mark.parametrize("module", MODULES)
def test_examples_run_as_shown(module):
    """Each example gives the output that its docstring shows."""
    with torch.random.fork_rng():
        found = doctest.testmod(import_module(module))
    assert found.failed == 0
