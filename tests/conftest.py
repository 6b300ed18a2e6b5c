"""What all tests share: one thread, so that figures and run time do not depend on the machine; an option; modules."""

import contextlib
import os
import sys

import pytest
import torch
from hypothesis import settings

# torch.compile imports setuptools, which must come before anything that imports the standard library's distutils.
with contextlib.suppress(ImportError):
    import setuptools  # noqa: F401

torch.set_num_threads(1)
# A busy machine is no fault; and a gate that refuses a change because of another example would be a lottery.
settings.register_profile("dropopt", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("dropopt")


def pytest_addoption(parser):
    parser.addoption(
        "--all-architectures",
        action="store_true",
        help="attach to every network of torchvision and of timm's convolutional families (some 15 minutes)",
    )


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """Writes modules into a working folder of its own, where names in settings find them; forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    written = []

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        written.append(name)

    yield write
    for name in written:
        sys.modules.pop(name, None)
