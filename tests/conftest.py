"""What all tests share: one thread, so that figures and run time do not depend on the machine, and one option."""

import contextlib
import os

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
