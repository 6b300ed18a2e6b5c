"""The tasks of the benchmarks about evidence: on which data, with which network, how they are trained and searched."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dropopt.config import Optimise
from dropopt.study import Study
from dropopt.study.session import session
from dropopt.study.session.request import Request
from dropopt.study.store.opening import Opened
from dropopt.study.store.queries import count, find_study, study_names
from dropopt.study.store.url import file_of, resolve

if TYPE_CHECKING:
    from rich.console import Console

    from dropopt.study.define.definition import Definition

#: Data sets that are read from a file of arrays, which ``tests.benchmarks.arrays`` makes, and how many of their images
#: are used for training and validation.
ARRAYS = {"mnist": 1000, "cifar10": 2000, "letters": 1000, "emoji": 1000}
#: Data sets that are read from a path that the command line names, and what lies there.
FILES = {**{name: f"the file of arrays of {name}" for name in ARRAYS}, "photos": "a folder of images, by class"}
#: The data sets by name.
DATA = ("digits", "fashion", *FILES)
#: The network of the tasks that do not name another.
NETWORK = "small"
#: What the searches may optimise, first by default.
LOSS: Optimise = "loss"
ACCURACY: Optimise = "accuracy"
#: What stands before the number of a draw in the name of a task.
DRAW = ".draw"
#: Epochs of each training.
EPOCHS = 25


def add_file_options(parser: ArgumentParser) -> None:
    """Add an option for the path of each data set in :data:`FILES`."""
    for name, meaning in FILES.items():
        parser.add_argument(f"--{name}", metavar="PATH", help=meaning)


def given_files(options: Namespace) -> dict[str, str]:
    """Return the paths that were given with the options of :func:`add_file_options`."""
    return {name: path for name in FILES if (path := getattr(options, name)) is not None}


def task(name: str, network: str, draw: int = 0, optimise: Optimise = LOSS) -> str:
    """Return what a task is called in names of studies: ``digits.vgg``, ``digits.accuracy.draw1``."""
    parts = [name]
    if network != NETWORK:
        parts.append(network.rpartition(":")[2])
    if optimise != LOSS:
        parts.append(optimise)
    found = ".".join(parts)
    return found if draw == 0 else f"{found}{DRAW}{draw}"


def definition(
    name: str, files: Mapping[str, str], *, network: str = NETWORK, draw: int = 0, optimise: Optimise = LOSS
) -> Study:
    """Return the study that says on which data, with which network and how configurations are trained.

    Args:
        name: One of :data:`DATA`.
        files: The paths of the data sets in :data:`FILES`.
        network: The network, as in ``model.name``.
        draw: Seed of the search, of the images that are used and of their split, from 0.
        optimise: What the searches optimise and winners are chosen by, ``loss`` or ``accuracy``.

    Raises:
        SystemExit: The path of the data set is missing.
    """
    train: dict[str, Any] = {"epochs": EPOCHS, "amp": "auto", "channels_last": True}
    if name in FILES and name not in files:
        raise SystemExit(f"{name} needs --{name} PATH: {FILES[name]}")
    if name == "digits":
        data: dict[str, Any] = {"name": "digits"}
        train = {"epochs": EPOCHS, "batch_size": 128, "channels_last": True}
    elif name == "fashion":
        data = {"name": "fashion-mnist", "subset": 2000}
    elif name in ARRAYS:
        data = {"name": f"numpy:{_absolute(files[name])}", "subset": ARRAYS[name]}
    else:
        data = {"name": f"folder:{_absolute(files[name])}", "image_size": 32, "subset": 2000}
    data["split_seed"] = draw
    return Study(
        name=task(name, network, draw, optimise),
        data=data,
        model={"name": network},
        train=train,
        n_trials=24,
        seed=draw,
        optimise=optimise,
    )


def search(study: Definition, storage: str, jobs: int, console: Console) -> None:
    """Run the study, or what is left of it."""
    file = file_of(resolve(storage))
    if file is None or file.exists():
        with closing(Opened(resolve(storage))) as opened:
            known = study.name in study_names(opened.storage)
            trials = find_study(opened.storage, study.name).get_trials(deepcopy=False) if known else []
        if count(trials).counted >= study.n_trials:
            return
    if code := session.run(Request(study, Path(__file__), storage, jobs, "type the same command again"), console):
        raise SystemExit(code)


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve())
