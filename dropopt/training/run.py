"""A whole run from its settings: data, network, engine, training."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from dropopt.config import EngineConfig, RunConfig
from dropopt.engine import attach
from dropopt.owncode import own_errors
from dropopt.training.data.dataset import Dataset
from dropopt.training.data.load import load_once
from dropopt.training.data.split import Split
from dropopt.training.device import resolve_device
from dropopt.training.evaluate import in_layout
from dropopt.training.fit import OnEpoch, fit
from dropopt.training.networks.models import build_model
from dropopt.training.results import DivergedError, TrainResult

#: Images that the engine is shown when it looks for its places, and that a rehearsal trains on.
EXAMPLES = 2


def prepare(run: RunConfig) -> Dataset:
    """Load the data of ``run`` and train its network on two of its images: what is wrong shows before a trial.

    Raises :class:`ConfigError`.
    """
    device = resolve_device(run.train.device)
    data = load_once(run.data)
    train, validation = (Split(one.images[:EXAMPLES], one.labels[:EXAMPLES]) for one in (data.train, data.validation))
    few = replace(data, train=train, validation=validation, fingerprint={}, duplicates={})
    config = run.train.model_copy(update={"epochs": 1})
    model = _network(run, data, device)
    with (
        own_errors(f"model {run.model.name}: training it"),
        suppress(DivergedError),
        attach(model, run.engine, example=_example(run, data, device), complexity=0.5) as engine,
    ):
        fit(model, engine, few, config)
    return data


def train_run(
    run: RunConfig, on_epoch: OnEpoch | None = None, checkpoint: Path | None = None
) -> tuple[TrainResult, nn.Module, Dataset]:
    """Load, build, attach and fit as ``run`` says; the model comes back without its engine.

    See :func:`dropopt.training.fit` for ``on_epoch`` and ``checkpoint``. The data set of the last run is kept in
    memory, so a process that trains one run after the other on it loads it once.
    """
    device = resolve_device(run.train.device)
    data = load_once(run.data)
    model = _network(run, data, device)
    # Baselines do not read it, and it costs a second where it is not in the cache.
    complexity = data.complexity if isinstance(run.engine, EngineConfig) else 0.5
    with attach(model, run.engine, example=_example(run, data, device), complexity=complexity) as engine:
        result = fit(model, engine, data, run.train, on_epoch, checkpoint=checkpoint)
    return result, model, data


def _network(run: RunConfig, data: Dataset, device: torch.device) -> nn.Module:
    model = build_model(
        run.model,
        channels=data.channels,
        classes=len(data.classes),
        image_size=data.image_size,
        seed=run.train.seed,
    ).to(device)
    return model.to(memory_format=torch.channels_last) if run.train.channels_last else model


def _example(run: RunConfig, data: Dataset, device: torch.device) -> Tensor:
    return in_layout(data.train.images[:EXAMPLES].to(device), run.train)
