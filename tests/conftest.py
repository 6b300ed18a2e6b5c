"""Set-up shared by all tests.

Tests run on one thread, so that results and run time depend less on the machine.
"""

import contextlib
import os
import signal
import sys

import optuna
import pytest
import torch
from hypothesis import settings

# torch.compile imports setuptools, which warns unless it is imported before the standard library's distutils.
with contextlib.suppress(ImportError):
    import setuptools  # noqa: F401

torch.set_num_threads(1)
# Optuna logs the names of studies. A worker of pytest-xdist cannot send a log in which a name is not valid UTF-8.
optuna.logging.set_verbosity(optuna.logging.ERROR)
# A shell starts a command in the background without Ctrl-C, which the processes of tests would inherit.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# The storages of tests are their own.
os.environ.pop("OPTUNA_STORAGE", None)
# A slow example on a busy machine is not a failure. In CI the examples are the same in every run, so that a change is
# never rejected because of a random example that it has nothing to do with.
settings.register_profile("dropopt", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("dropopt")

# These folders hold no tests; without this line, collecting doctests would import them.
collect_ignore = ["benchmarks", "mutants", "support"]


def pytest_addoption(parser):
    parser.addoption(
        "--all-architectures",
        action="store_true",
        help="attach to every network of torchvision and of timm's convolutional families (about 15 minutes)",
    )
    parser.addoption(
        "--all-samplers",
        action="store_true",
        help="run Optuna's tests of samplers with every base and blend (about 6 minutes)",
    )


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The test's own folder is the working folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A folder of the test's own for what is kept about data sets."""
    monkeypatch.setenv("DROPOPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A function ``write(name, text)`` that writes a module into a temporary working directory.

    Settings such as ``module:function`` find the module there. It is removed from ``sys.modules`` after the test.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    written = []

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        written.append(name)

    yield write
    for name in written:
        sys.modules.pop(name, None)
