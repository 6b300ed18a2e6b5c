"""The tasks of the benchmarks about evidence: on which data, with which network, and how configurations are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dropopt.study import Study

#: The data sets by name. ``mnist`` and ``photos`` are read from what the command line names.
DATA = ("digits", "mnist", "fashion", "photos")
#: Epochs of each training.
EPOCHS = 25


def definition(name: str, *, mnist: str | None = None, photos: str | None = None, network: str = "small") -> Study:
    """Return the study that says on which data, with which network and how configurations are trained.

    Args:
        name: One of :data:`DATA`.
        mnist: A file with the arrays ``x``, ``y``, ``x_test`` and ``y_test`` of MNIST.
        photos: A folder with one folder of images for each class.
        network: The network.
    """
    train: dict[str, Any] = {"epochs": EPOCHS, "amp": "auto", "channels_last": True}
    if name == "digits":
        data: dict[str, Any] = {"name": "digits"}
        train = {"epochs": EPOCHS, "batch_size": 128, "channels_last": True}
    elif name == "mnist":
        data = {"name": f"numpy:{_absolute(mnist)}", "subset": 1000}
    elif name == "fashion":
        data = {"name": "fashion-mnist", "subset": 2000}
    else:
        data = {"name": f"folder:{_absolute(photos)}", "image_size": 32, "subset": 2000}
    return Study(name=name, data=data, model={"name": network}, train=train, n_trials=24)


def _absolute(path: str | None) -> str:
    return str(Path(path or "missing").expanduser().resolve())
