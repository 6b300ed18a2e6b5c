"""A complete run from its configuration: data, network, engine, training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from dropopt.config import EngineConfig, RunConfig
from dropopt.engine import Engine, attach, named_places
from dropopt.facts import Facts
from dropopt.inputs import Inputs, parts, run_model
from dropopt.owncode import own_errors
from dropopt.training.data.dataset import Dataset
from dropopt.training.data.load_data import load_once
from dropopt.training.device import resolve_device
from dropopt.training.evaluate import in_layout
from dropopt.training.facts import facts_of
from dropopt.training.fit import OnEpoch, fit
from dropopt.training.networks.build_model import build_model
from dropopt.training.results import DivergedError, EpochReport, TrainResult
from dropopt.training.task import task_of

#: Number of images with which the engine traces the network, and on which a rehearsal trains.
EXAMPLES = 2


@dataclass(frozen=True, eq=False)
class Prepared:
    """What is known about a run before it trains."""

    data: Dataset
    #: The names of the modules that each named selector of ``sites`` chooses; an empty list if it cannot be used.
    sites: dict[str, list[str]]
    #: The sizes of the data and of the network.
    facts: Facts
    #: D_complexity of the training images; None for a baseline, which does not use it.
    complexity: float | None = None
    #: What a user should know about the data and the targets, one sentence each.
    notices: tuple[str, ...] = ()


def prepare(run: RunConfig) -> Prepared:
    """Load the data and rehearse the training on two images, so that errors show before the first trial.

    Args:
        run: The configuration of the run.

    Returns:
        The data set, and the places that the network offers for dropout.

    Raises:
        ConfigError: For anything that would make :func:`train_run` fail.

    Example:
        >>> from dropopt.config import RunConfig
        >>> prepared = prepare(RunConfig.parse({"data": {"subset": 100}}))
        >>> prepared.data.name, prepared.sites["linear"]
        ('digits', ['12'])
    """
    device = resolve_device(run.train.device)
    data = load_once(run.data)
    task = task_of(run.task)
    task.check(data)
    train, validation = (one.head(EXAMPLES) for one in (data.train, data.validation))
    few = replace(data, train=train, validation=validation)
    config = run.train.model_copy(update={"epochs": 1})
    model = _network(run, data, device)
    with (
        own_errors(f"model {run.model.name}: training it"),
        suppress(DivergedError),
        attach(model, run.engine, example=_example(run, data, device), complexity=0.5, inside="keep") as engine,
    ):
        facts = facts_of(data, model, engine.sites, engine.own)
        fit(model, engine, few, config, task=task)
    complexity = data.complexity if isinstance(run.engine, EngineConfig) else None
    example = _example(run, data, device)
    places = named_places(model, example)
    with torch.no_grad():
        outputs = run_model(model.eval(), example)
    notices = (*data.notices, *task.remarks(data), *task.remarks_on_outputs(outputs))
    return Prepared(data, places, facts, complexity, notices)


def train_run(
    run: RunConfig,
    on_epoch: OnEpoch | None = None,
    checkpoint: Path | None = None,
    on_resume: Callable[[list[EpochReport]], None] | None = None,
) -> tuple[TrainResult, nn.Module, Dataset]:
    """Load the data, build the network, attach the engine and train.

    The data set of the last run is kept in memory: further runs on it in the same process do not load it again.

    Args:
        run: The configuration of the run.
        on_epoch: See :func:`fit`.
        checkpoint: See :func:`fit`.
        on_resume: See :func:`fit`.

    Returns:
        The result; the model with the weights of its best epoch, without the engine; and the data set.

    Raises:
        ConfigError: For data, a network or a device that cannot be used.
        DivergedError: If a loss is not finite.

    Example:
        >>> from dropopt.config import RunConfig
        >>> settings = {"data": {"subset": 100}, "train": {"epochs": 2}, "engine": {"kind": "dropout2d", "p": 0.2}}
        >>> result, model, data = train_run(RunConfig.parse(settings))
        >>> len(result.history), len(data.train)
        (2, 80)
    """
    with assembled(run) as (model, engine, data):
        task = task_of(run.task)
        result = fit(model, engine, data, run.train, on_epoch, checkpoint=checkpoint, on_resume=on_resume, task=task)
    return result, model, data


@contextmanager
def assembled(run: RunConfig) -> Iterator[tuple[nn.Module, Engine, Dataset]]:
    """What :func:`fit` needs for ``run``: the network, the engine, which is attached inside the block, and the data."""
    device = resolve_device(run.train.device)
    data = load_once(run.data)
    model = _network(run, data, device)
    # Baselines do not use the complexity, which takes a second to compute if it is not cached.
    complexity = data.complexity if isinstance(run.engine, EngineConfig) else 0.5
    example = _example(run, data, device)
    with attach(model, run.engine, example=example, complexity=complexity, inside="keep") as engine:
        yield model, engine, data


def _network(run: RunConfig, data: Dataset, device: torch.device) -> nn.Module:
    task = task_of(run.task)
    model = build_model(
        run.model,
        channels=data.channels,
        classes=task.outputs(data),
        image_size=data.image_size,
        seed=run.train.seed,
        logits=task.needs_logits(data),
        example=data.train.head(EXAMPLES).images,
    ).to(device)
    images = parts(data.train.head(1).images).values()
    in_maps = run.train.channels_last and any(part.ndim == 4 for part in images)
    return model.to(memory_format=torch.channels_last) if in_maps else model


def _example(run: RunConfig, data: Dataset, device: torch.device) -> Inputs:
    return in_layout(data.train.head(EXAMPLES).to(device).images, run.train)
